#!/usr/bin/env python3
"""Measure what is picked on micrographs with next to no particles, or few among broken ones.

Example: python tests/bench/empty.py --dir Bench --presets standard hard --seeds 1 2 3

Networks of accuracy.py pick 4 micrographs with one whole particle each, and 4 with 30 among 300
broken ones: how many picks at the default threshold are right, and false, on each. The micrographs
that were learnt from have as many whole particles as their preset: standard and hard 350.
"""

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
    wanted, found = score.read_truth(truth), score.read_picks([picks])
    reach = 0.3 * diameter / accuracy.APIX, score.IGNORED_REACH * diameter / accuracy.APIX
    right = [
        np.isfinite(score.judge(found.get(stem, np.empty((0, 3))), one, *reach)[:, 1])
        for stem, one in wanted.items()
    ]
    return [one.sum() for one in right], [(~one).sum() for one in right]


def main():
    """Print a line for each set, way and kind of micrographs."""
    parser = accuracy.new_parser("empty.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    parser.add_argument("--presets", nargs="+", choices=accuracy.DIAMETER, default=["standard"])
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=["plain"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    for preset in args.presets:
        diameter = accuracy.DIAMETER[preset]
        for seed in args.seeds:
            taught = args.dir.resolve() / f"{preset}{seed}"
            accuracy.make_simulated(taught, preset, seed)
            data = accuracy.cut_simulated(taught, preset, seed)
            for way in args.ways:
                accuracy.teach_and_pick(taught, data, way, seed, "test.star", data / way)
                for kind, counts in KINDS.items():
                    project = taught / kind.replace(" ", "_")
                    simulate(project, preset, seed, *counts)
                    model, out = data / way / "model.h5", project / way
                    picks, _ = accuracy.pick(project, model, "micrographs_ctf.star", out)
                    right, false = count(project / "truth", diameter, picks)
                    print(f"{preset} {seed} {way}, {kind}: right", *right, "false", *false)


if __name__ == "__main__":
    main()
