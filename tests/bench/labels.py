#!/usr/bin/env python3
"""Measure what wrong, shifted and one-sided labels do to the picks of `standard`.

Example: python tests/bench/labels.py --dir Bench --cases usual shifted --ways plain rounds

Sets of accuracy.py, learnt anew with labels that err on purpose: the case `usual` is theirs, 5 %
wrong, 5 A off. `shifted`: off by a normal error of 0.075 boxes along x and y; `oneway`: by a tenth
of a box along x, all; `wrong0` to `wrong30`: so many of 100 labels are turned round; `cone`: none
is, but particles seen along their z axis, give or take 30 degrees, are all in the bad list.

Columns: F1 at the default threshold; distance in A; recall of the views in that cone, of all
others, and of the micrographs nearer to focus and farther off than the median. Of ways with
members: the share of wrong labels in the good and in the bad list, as estimated and as it is, and
how many of the first 200 suspects are wrong. Medians over seeds.
"""

import argparse
import csv
import itertools
import re
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
import numpy as np  # noqa: E402
import score  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from apbc_common import relion  # noqa: E402

PRESET, CONE = "standard", 30
BOX = accuracy.BOX[PRESET] * accuracy.APIX
REACH = 0.3 * accuracy.DIAMETER[PRESET] / accuracy.APIX
FIRST = 200  # suspects
CASES = {
    "usual": (),
    "shifted": ("--centring", 0.075 * BOX),
    "oneway": ("--shift", 0.1 * BOX),
    **{f"wrong{percent}": ("--wrong", percent / 100) for percent in (0, 10, 20, 30)},
    "cone": ("--wrong", 0, "--cone", CONE),
}
LINKED = "Micrographs AutoPick Extract truth truth_test learn.star test.star".split()


def make_case(folder, case, seed):
    """Link a set of accuracy.py, and label it in another way."""
    base, project = folder / f"{PRESET}{seed}", folder / f"{PRESET}{seed}_{case}"
    accuracy.make_simulated(base, PRESET, seed)
    if not (project / "Select").exists():
        project.mkdir(exist_ok=True)
        for name in LINKED:
            if not (project / name).exists():
                (project / name).symlink_to(base / name)
        accuracy.label(project, PRESET, seed, *CASES[case])
    return project


def read_truth(project):
    """Return x, y and tilt of the whole particles of each micrograph: {stem: (N, 3)}."""
    truth = {}
    for path in (project / "truth").glob("*.csv"):
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "good"]
        truth[path.stem] = np.array([[float(row[k]) for k in ("x", "y", "tilt")] for row in rows])
    return truth


def recalls(project, picks, truth):
    """Return the recall of views in the cone and of others, near to focus and far from it."""
    block = relion.table(project / "test.star", relion.MICROGRAPH, "micrograph")
    names = block.read(relion.MICROGRAPH)[relion.MICROGRAPH]
    defocus = block.numbers("rlnDefocusU")[:, 0]
    found, tilt, far = [], [], []
    for name, value in zip(names, defocus, strict=True):
        one = truth[Path(name).stem]
        found.append(cKDTree(picks[Path(name).stem][:, :2]).query(one[:, :2])[0] <= REACH)
        tilt.append(one[:, 2])
        far.append(np.full(len(one), value > np.median(defocus)))
    found, tilt, far = (np.concatenate(part) for part in (found, tilt, far))
    cone = np.minimum(tilt, 180 - tilt) < CONE
    parts = {"in the cone": cone, "others": ~cone, "near focus": ~far, "far": far}
    return {name: found[part].mean() for name, part in parts.items()}


def is_particle(truth, micrographs, xy):
    """Return which places are those of whole particles."""
    return np.array(
        [
            np.hypot(*(truth[Path(name).stem][:, :2] - at).T).min() <= REACH
            for name, at in zip(micrographs, xy, strict=True)
        ]
    )


def doubts(project, folder, truth):
    """Return estimated and true shares of wrong labels, and how many first suspects are wrong."""
    said = re.search(r"as it seems: ([\d.]+)% of the good, ([\d.]+)% of the bad", read_said(folder))
    row = {}
    for kind, share in zip(("good", "bad"), said.groups(), strict=True):
        listed = relion.read_particles(project, project / f"Select/{kind}/particles.star")
        names = np.array(listed.micrographs, object)[listed.micrograph]
        wrong = is_particle(truth, names, listed.xy) != (kind == "good")
        row |= {f"{kind}: said": float(share) / 100, f"{kind}: is": wrong.mean()}
    block = relion.table(folder / "suspects.star", "apbcKind", "suspect")
    text = block.read(relion.MICROGRAPH, "apbcKind").head(FIRST)
    xy = block.numbers(relion.X, relion.Y)[:FIRST]
    good = is_particle(truth, text[relion.MICROGRAPH], xy)
    return row | {"suspects": (good != (text["apbcKind"] == "good").to_numpy()).mean()}


def read_said(folder):
    """Return what gen_model.py printed."""
    return (folder / accuracy.SAID).read_text()


def measure(folder, case, way, seed):
    """Teach and pick; return the row's figures."""
    project = make_case(folder, case, seed)
    data = project / "data"
    lists = "-g", "Select/good/particles.star", "-b", "Select/bad/particles.star"
    diameter = accuracy.DIAMETER[PRESET]
    cut = accuracy.from_micrographs(diameter, accuracy.BOX[PRESET], 1.5)
    accuracy.cut_windows(project, data, seed, *lists, "-m", "learn.star", *cut)
    files = accuracy.teach_and_pick(project, data, way, seed, "test.star", data / way)
    found = accuracy.judge(project / "truth_test", diameter, *files)
    truth = read_truth(project)
    row = {name: found[name] for name in ("f1", "distance")}
    row |= recalls(project, score.read_picks([files[0]]), truth)
    if "--members" in accuracy.WAYS[way]:
        row |= doubts(project, data / way, truth)
    for line in read_said(data / way).splitlines():
        if line.startswith(("after round", "wrong labels")):
            print(f"{case} {seed} {way}: {line}", file=sys.stderr, flush=True)
    return row


def main():
    """Print a line for each case and way."""
    title, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="labels.py",
        description=title,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=["plain", "rounds"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    folder = args.dir.resolve()
    for case, way in itertools.product(args.cases, args.ways):
        rows = [measure(folder, case, way, seed) for seed in args.seeds]
        cells = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        text = ", ".join(f"{name} {value:.3f}" for name, value in cells.items())
        each = " ".join(f"{row['f1']:.3f}" for row in rows)
        print(f"{case:8} {way:8} {text}; F1 {each}", flush=True)


if __name__ == "__main__":
    main()
