#!/usr/bin/env python3
"""Measure what corrections bring: picks held against the truth where a user would look at them.

Example: python tests/bench/corrections.py --dir Bench --presets hard few --seeds 1 2

Sets of accuracy.py: 12 micrographs are learnt from, 8 are the test. The model, `plain`, also picks
12 further ones, as many as the report shows, which no list names. There the truth corrects boxes:
the candidates nearest the threshold, in log odds, or some at random; those beside edges and clumps,
neither right nor wrong, are passed over. `on` goes on with the model, `anew` trains from the
start. `on, no boxes` is the control: what more training brings by itself.

Columns as of accuracy.py, of the test micrographs, where nothing was corrected. What was made is
kept in DIR. Needs RELION 3.1.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
import numpy as np  # noqa: E402
import score  # noqa: E402
from scipy import special  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

import gen_model  # noqa: E402
from apbc_common import classbin, relion, star  # noqa: E402

MORE = 12  # micrographs that are picked, and corrected
OTHER = 1000  # what their seed is more than that of the set
LEAST = 1e-4  # chance: files have four decimals
ROWS = (
    ("on", "near", 0),
    ("on", "near", 60),
    ("anew", "near", 60),
    ("on", "random", 60),
    ("on", "near", 600),
)  # how to learn, which boxes, how many


def make_more(project, preset, seed):
    """Simulate further micrographs; list them, and them with those that are learnt from."""
    if (project / "both.star").exists():
        return
    accuracy.shell(
        project / "log.txt", sys.executable, accuracy.EXAMPLE / "simulate.py", project / "more",
        "--preset", preset, "--seed", seed + OTHER, "--micrographs", MORE, cwd=accuracy.ROOT,
    )  # fmt: skip
    text = (project / "more/micrographs_ctf.star").read_text()
    text = text.replace("Micrographs/", "more/Micrographs/")
    (project / "more.star").write_text(text)
    rows = [line for line in text.splitlines() if line.startswith("more/")]
    learnt = (project / "learn.star").read_text().rstrip()
    (project / "both.star").write_text("\n".join([learnt, *rows, ""]))


def judged(project, plain, diameter):
    """Return the candidates that the truth can tell: (name, x, y), odds over the threshold, kind.

    Parameters
    ----------
    project, plain : pathlib.Path
        Where the set is, and the model with its picks.
    diameter : float
        In pixels.
    """
    threshold = classbin.read_model_record(plain / "model.h5")["threshold"]
    truth = score.read_truth(project / "more/truth")
    places, odds, good = [], [], []
    for stem, found in score.read_picks([plain / "more/candidates.star"]).items():
        whole, unsure = (
            cKDTree(centres).query(found[:, :2])[0] if len(centres) else np.full(len(found), np.inf)
            for centres in truth[stem]
        )
        right = whole <= 0.3 * diameter
        told = right | (unsure > score.IGNORED_REACH * diameter)
        places += [(f"more/Micrographs/{stem}.mrc", *xy) for xy in found[told, :2].tolist()]
        odds.append(special.logit(np.clip(found[told, 2], LEAST, 1 - LEAST)))
        good.append(right[told])
    return places, np.concatenate(odds) - special.logit(threshold), np.concatenate(good)


def correct(path, candidates, which, count, seed):
    """Write the corrections of so many candidates."""
    places, odds, good = candidates
    order = np.argsort(abs(odds), kind="stable")
    if which == "random":
        order = np.random.default_rng(seed).permutation(len(odds))
    rows = [
        (name, f"{x:.2f}", f"{y:.2f}", "good" if good[i] else "bad")
        for i in order[:count]
        for name, x, y in [places[i]]
    ]
    star.write_rows(path, "corrections", [relion.MICROGRAPH, relion.X, relion.Y, "apbcKind"], rows)


def measure(folder, preset, seed):
    """Yield (row's name, scores) of one preset and seed."""
    project, diameter = folder / f"{preset}{seed}", accuracy.DIAMETER[preset]
    accuracy.make_simulated(project, preset, seed)
    make_more(project, preset, seed)
    data = accuracy.cut_simulated(project, preset, seed)
    plain, truth = data / "plain", project / "truth_test"
    picks = accuracy.teach_and_pick(project, data, "plain", seed, "test.star", plain)
    yield "plain", accuracy.judge(truth, diameter, *picks, plain / "model.h5")
    if not (plain / "more/candidates.star").exists():
        accuracy.pick(project, plain / "model.h5", "more.star", plain / "more")
    candidates = judged(project, plain, diameter / accuracy.APIX)
    options = accuracy.from_micrographs(diameter, accuracy.BOX[preset], "1.5")
    lists = [text.replace("learn.star", "both.star") for text in accuracy.LISTS]
    for how, which, count in ROWS:
        corrected = project / f"{which}_{count}" if count else data
        if count and not (corrected / "dataset.json").exists():
            fixes = project / f"{which}_{count}.star"
            correct(fixes, candidates, which, count, seed)
            more = *lists, *options, "--corrections", fixes
            accuracy.cut_windows(project, corrected, seed, *more)
        out = corrected / how
        lists_out = out / "picks/picks.star", out / "picks/candidates.star"
        if not lists_out[1].exists():
            way = ("--continue", "--model", plain / "model.h5") if how == "on" else ()
            made = "--data", corrected, "--o", out, "--seed", seed
            accuracy.ours(gen_model, project, *made, *way)
            accuracy.pick(project, out / "model.h5", "test.star", out / "picks")
        name = f"{how}, {count} boxes, {which}" if count else f"{how}, no boxes"
        yield name, accuracy.judge(truth, diameter, *lists_out, out / "model.h5")


def main():
    """Print a table for each preset."""
    parser = accuracy.new_parser("corrections.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    presets = list(accuracy.DIAMETER)
    parser.add_argument("--presets", nargs="+", choices=presets, default=["hard", "few"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    args = parser.parse_args()
    args.dir = args.dir.resolve()
    accuracy.tables(args, lambda preset, seed: measure(args.dir, preset, seed))


if __name__ == "__main__":
    main()
