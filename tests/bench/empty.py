#!/usr/bin/env python3
"""Measure what is picked on micrographs with next to no particles, or few among broken ones.

Example: python tests/bench/empty.py --dir Bench --presets standard hard --seeds 1 2 3

Networks of accuracy.py pick 4 micrographs with one whole particle each, and 4 with 30 among 300
broken ones: how many picks at the default threshold are right, and false, on each. The micrographs
that were learnt from have as many whole particles as their preset: standard and hard 350.
"""

import itertools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
import numpy as np  # noqa: E402
import score  # noqa: E402

KINDS = {"one whole": (1, 0), "mostly broken": (30, 10)}  # whole ones, and broken ones for each
SEED = 1000  # added: other micrographs than those that were learnt from


def simulate(project, preset, seed, whole, broken):
    """Simulate four micrographs."""
    project.mkdir(exist_ok=True)
    accuracy.shell(
        project / "log.txt", sys.executable, accuracy.EXAMPLE / "simulate.py", project, "--preset",
        preset, "--seed", SEED + seed, "--micrographs", 4, "--particles", whole, "--broken", broken,
        cwd=accuracy.ROOT,
    )  # fmt: skip


def count(truth, diameter, picks):
    """Return how many picks of each micrograph are right, and how many are false."""
    wanted = score.read_truth(truth)
    found = dict.fromkeys(wanted, np.empty((0, 3))) | score.read_picks([picks])
    judged = score.judge_each(found, wanted, diameter / accuracy.APIX).values()
    right = [np.isfinite(one[:, 1]) for one in judged]
    return [one.sum() for one in right], [(~one).sum() for one in right]


def measure(preset, seed, ways, folder):
    """Yield (way, kind of micrographs, counts) of one preset and seed."""
    taught = folder / f"{preset}{seed}"
    accuracy.make_simulated(taught, preset, seed)
    data = accuracy.cut_simulated(taught, preset, seed)
    projects = {kind: taught / kind.replace(" ", "_") for kind in KINDS}
    for kind, project in projects.items():
        simulate(project, preset, seed, *KINDS[kind])
    for way in ways:
        accuracy.teach_and_pick(taught, data, way, seed, "test.star", data / way)
        for kind, project in projects.items():
            model, out = data / way / "model.h5", project / way
            picks, _ = accuracy.pick(project, model, "micrographs_ctf.star", out)
            yield way, kind, count(project / "truth", accuracy.DIAMETER[preset], picks)


def main():
    """Print a line for each set, way and kind of micrographs."""
    parser = accuracy.new_parser("empty.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    parser.add_argument("--presets", nargs="+", choices=accuracy.DIAMETER, default=["standard"])
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=["plain"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    for preset, seed in itertools.product(args.presets, args.seeds):
        for way, kind, (right, false) in measure(preset, seed, args.ways, args.dir.resolve()):
            print(f"{preset} {seed} {way}, {kind}: right", *right, "false", *false, flush=True)


if __name__ == "__main__":
    main()
