#!/usr/bin/env python3
"""Measure what labels do to the picks: wrong, shifted, one-sided ones, and kinds left out.

Example: python tests/bench/labels.py --dir Bench --cases usual shifted --ways plain rounds

Sets of accuracy.py, learnt anew with labels that err on purpose: the case `usual` is theirs, 5 %
wrong, 5 A off. `shifted`: off by a normal error of 0.075 boxes along x and y; `oneway`: by a tenth
of a box along x, all; `wrong0` to `wrong30`: so many of 100 labels are turned round; `cone`: none
is, but particles seen along their z axis, give or take 30 degrees, are all in the bad list.
`nobad` learns without the bad particles and the places beside them, `nobackground` without the
places that no list holds; thresholds are chosen on micrographs where all are.

Columns: F1 at the default threshold; distance in A; recall of the views in that cone, of all
others, and of the micrographs nearer to focus and farther off than the median. Of ways with
members: the share of wrong labels in the good and in the bad list, as estimated and as it is, and
how many of the first 200 suspects are wrong. Medians over seeds.
"""

import csv
import itertools
import json
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

CONE = 30
FIRST = 200  # suspects
CASES = {
    "usual": None,
    "shifted": lambda box: ("--centring", 0.075 * box),
    "oneway": lambda box: ("--shift", 0.1 * box),
    "wrong0": lambda box: ("--wrong", 0),
    "wrong10": lambda box: ("--wrong", 0.1),
    "wrong20": lambda box: ("--wrong", 0.2),
    "wrong30": lambda box: ("--wrong", 0.3),
    "cone": lambda box: ("--wrong", 0, "--cone", CONE),
    "nobad": lambda box: (),
    "nobackground": lambda box: (),
}  # options of label.py, by the box in A
LEFT_OUT = {"nobad": {"bad", "beside"}, "nobackground": {"offcentre", "beside", "empty"}}
LINKED = "Micrographs AutoPick Extract truth truth_test learn.star test.star".split()


def make_case(folder, preset, case, seed):
    """Link a set of accuracy.py, and label it in another way."""
    base, project = folder / f"{preset}{seed}", folder / f"{preset}{seed}_{case}"
    accuracy.make_simulated(base, preset, seed)
    if case == "usual":
        return base
    if not (project / "Select").exists():
        project.mkdir(exist_ok=True)
        for name in LINKED:
            if not (project / name).exists():
                (project / name).symlink_to(base / name)
        box = accuracy.BOX[preset] * accuracy.APIX
        accuracy.label(project, preset, seed, *CASES[case](box))
    return project


def leave_out(data, kinds):
    """Take windows of some kinds out of what a data set teaches."""
    record = json.loads((data / "dataset.json").read_text())
    taught = {name for name, one in record["micrographs"].items() if one["part"] == "train"}
    lines = (data / "train.star").read_text().splitlines()
    rows = [line.split() for line in lines]
    kept = [not (len(row) == 5 and row[0] in taught and row[3] in kinds) for row in rows]
    (data / "train.star").write_text("\n".join([*itertools.compress(lines, kept), ""]))
    left = [row[3] for row, keep in zip(rows, kept, strict=True) if keep and len(row) == 5]
    record["counts"]["train"] = {"good": left.count("good"), "bad": len(left) - left.count("good")}
    (data / "dataset.json").write_text(json.dumps(record))


def read_truth(project):
    """Return x, y and tilt of the whole particles of each micrograph: {stem: (N, 3)}."""
    truth = {}
    for path in (project / "truth").glob("*.csv"):
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "good"]
        truth[path.stem] = np.array([[float(row[k]) for k in ("x", "y", "tilt")] for row in rows])
    return truth


def recalls(project, picks, truth, reach):
    """Return the recall of views in the cone and of others, near to focus and far from it."""
    block = relion.table(project / "test.star", relion.MICROGRAPH, "micrograph")
    names = block.read(relion.MICROGRAPH)[relion.MICROGRAPH]
    defocus = block.numbers("rlnDefocusU")[:, 0]
    found, tilt, far = [], [], []
    for name, value in zip(names, defocus, strict=True):
        one = truth[Path(name).stem]
        found.append(cKDTree(picks[Path(name).stem][:, :2]).query(one[:, :2])[0] <= reach)
        tilt.append(one[:, 2])
        far.append(np.full(len(one), value > np.median(defocus)))
    found, tilt, far = (np.concatenate(part) for part in (found, tilt, far))
    cone = np.minimum(tilt, 180 - tilt) < CONE
    parts = {"in the cone": cone, "others": ~cone, "near focus": ~far, "far": far}
    return {name: found[part].mean() for name, part in parts.items()}


def is_particle(truth, reach, micrographs, xy):
    """Return which places are those of whole particles."""
    return np.array(
        [
            np.hypot(*(truth[Path(name).stem][:, :2] - at).T).min() <= reach
            for name, at in zip(micrographs, xy, strict=True)
        ]
    )


def doubts(project, folder, truth, reach):
    """Return estimated and true shares of wrong labels, and how many first suspects are wrong."""
    said = re.search(r"as it seems: ([\d.]+)% of the good, ([\d.]+)% of the bad", read_said(folder))
    row = {}
    for kind, share in zip(("good", "bad"), said.groups(), strict=True):
        listed = relion.read_particles(project, project / f"Select/{kind}/particles.star")
        names = np.array(listed.micrographs, object)[listed.micrograph]
        wrong = is_particle(truth, reach, names, listed.xy) != (kind == "good")
        row |= {f"{kind}: said": float(share) / 100, f"{kind}: is": wrong.mean()}
    block = relion.table(folder / "suspects.star", "apbcKind", "suspect")
    text = block.read(relion.MICROGRAPH, "apbcKind").head(FIRST)
    xy = block.numbers(relion.X, relion.Y)[:FIRST]
    good = is_particle(truth, reach, text[relion.MICROGRAPH], xy)
    return row | {"suspects": (good != (text["apbcKind"] == "good").to_numpy()).mean()}


def read_said(folder):
    """Return what gen_model.py printed."""
    return (folder / accuracy.SAID).read_text()


def measure(folder, preset, case, way, seed):
    """Teach and pick; return the row's figures."""
    project = make_case(folder, preset, case, seed)
    data, diameter = accuracy.cut_simulated(project, preset, seed), accuracy.DIAMETER[preset]
    if case in LEFT_OUT:
        leave_out(data, LEFT_OUT[case])
    files = accuracy.teach_and_pick(project, data, way, seed, "test.star", data / way)
    found = accuracy.judge(project / "truth_test", diameter, *files)
    truth, reach = read_truth(project), 0.3 * diameter / accuracy.APIX
    row = {name: found[name] for name in ("f1", "best_f1", "ap", "distance")}
    row |= recalls(project, score.read_picks([files[0]]), truth, reach)
    if "--members" in accuracy.WAYS[way]:
        row |= doubts(project, data / way, truth, reach)
    for line in read_said(data / way).splitlines():
        if line.startswith(("after round", "wrong labels")):
            print(f"{preset} {case} {seed} {way}: {line}", file=sys.stderr, flush=True)
    return row


def main():
    """Print a line for each case and way."""
    parser = accuracy.new_parser("labels.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    presets = list(accuracy.DIAMETER)
    parser.add_argument("--preset", choices=presets, default="standard")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=["plain", "rounds"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    folder = args.dir.resolve()
    for case, way in itertools.product(args.cases, args.ways):
        rows = [measure(folder, args.preset, case, way, seed) for seed in args.seeds]
        cells = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        text = ", ".join(f"{name} {value:.3f}" for name, value in cells.items())
        each = " ".join(f"{row['f1']:.3f}" for row in rows)
        print(f"{args.preset} {case:12} {way:8} {text}; F1 {each}", flush=True)


if __name__ == "__main__":
    main()
