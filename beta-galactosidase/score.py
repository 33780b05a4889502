#!/usr/bin/env python3
"""Score lists of picks against known centres, all by the same rule.

Example: score.py --truth Demo/truth --diameter 180 --apix 1.77 LoG=AutoPick/ CNN='Picks/*.star'

A pick is right within 0.3 diameters of a good particle. Matching is one to one, best score first,
to the nearest particle still free. A pick within 0.95 diameters of a particle of kind edge or
aggregate that matches no good one is neither right nor wrong; every other one is wrong, a second
pick of one particle too. Micrographs without picks count: their particles are missed.

NAME=FILES gives a row of the table; FILES is a STAR file, a folder (every *_autopick.star below it)
or a pattern in quotation marks. Coordinate files belong to the micrograph of their name less
_autopick or _grid; a particle list tells each particle's.
"""

from __future__ import annotations

import argparse
import csv
import glob
import pathlib
import re
import sys
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from apbc_common import ApbcError, cli  # noqa: E402

IGNORED_KINDS = {"edge", "aggregate"}
IGNORED_REACH = 0.95  # diameters round an ignored particle


class Truth(NamedTuple):
    """Centres of one micrograph, (N, 2) each: to be picked, and neither right nor wrong."""

    good: np.ndarray
    ignored: np.ndarray


def judge(picks, truth, reach, ignored_reach):
    """Judge the picks of one micrograph.

    Parameters
    ----------
    picks : ndarray, shape (N, 3)
        x, y and score.
    truth : Truth
        In the same pixels.
    reach, ignored_reach : float
        Pixels within which a pick is right, and within which an ignored particle excuses it.

    Returns
    -------
    ndarray, shape (M, 2)
        Score and distance (NaN: wrong) of the picks that count, best score first.
    """
    from scipy.spatial.distance import cdist

    picks = picks[np.argsort(-picks[:, 2], kind="stable")]
    excused = (cdist(picks[:, :2], truth.ignored) <= ignored_reach).any(axis=1)
    apart = cdist(picks[:, :2], truth.good)
    apart[apart > reach] = np.inf
    judged = []
    for row, (pick, is_excused) in enumerate(zip(picks, excused, strict=True)):
        nearest = apart[row].argmin() if len(truth.good) else None
        if nearest is not None and np.isfinite(apart[row, nearest]):
            judged.append((pick[2], apart[row, nearest]))
            apart[:, nearest] = np.inf  # taken
        elif not is_excused:
            judged.append((pick[2], np.nan))
    return np.array(judged, float).reshape(-1, 2)


def judge_each(picks, truth, diameter, radius=0.3) -> dict[str, np.ndarray]:
    """Return what `judge` says of each micrograph with picks and a truth; arguments as `score`."""
    reach, ignored = radius * diameter, IGNORED_REACH * diameter
    return {n: judge(picks[n], truth[n], reach, ignored) for n in sorted(truth) if n in picks}


def score(picks, truth, diameter, radius=0.3, threshold=None) -> dict:
    """Score picks against the truth.

    Parameters
    ----------
    picks : dict of str to ndarray, shape (N, 3)
        x, y (pixels) and score by micrograph (file name without extension). Micrographs that
        `truth` lacks are left out.
    truth : dict of str to Truth
        Every micrograph that counts.
    diameter : float
        Of the particle, in the pixels of the coordinates.
    radius : float
        How far from the centre a right pick may be, in diameters.
    threshold : float, optional
        Cut: picks with this score or more are kept (default: all).

    Returns
    -------
    dict
        micrographs, particles (good ones), picks (those that count); precision, recall, f1 and
        kept (picks) at the cut; best_f1 with best_precision, best_recall, best_score and best_kept
        at the best possible cut; ap, the average precision (area under the envelope of the
        precision-recall curve); distance, the median of the right picks in pixels (NaN: none).

    Raises
    ------
    ValueError
        If there is no good particle in the truth.

    Examples
    --------
    >>> truth = {"a": Truth(np.array([[10.0, 10.0], [90.0, 90.0]]), np.empty((0, 2)))}
    >>> result = score({"a": np.array([[12.0, 10.0, 0.9], [50.0, 50.0, 0.8]])}, truth, diameter=20)
    >>> result["precision"], result["recall"], result["distance"]
    (0.5, 0.5, 2.0)
    """
    particles = sum(len(one.good) for one in truth.values())
    if not particles:
        raise ValueError("no good particle in the truth")
    judged = judge_each(picks, truth, diameter, radius).values()
    judged = np.concatenate([np.empty((0, 2)), *judged])
    judged = judged[np.argsort(-judged[:, 0], kind="stable")]
    right = np.isfinite(judged[:, 1])
    found = np.r_[0, right.cumsum()]  # entry n: among the n best picks
    precision, recall = found / np.maximum(np.arange(len(found)), 1), found / particles
    f1 = 2 * found / (np.arange(len(found)) + particles)
    kept = len(judged) if threshold is None else int((judged[:, 0] >= threshold).sum())
    best = int(f1.argmax())
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return {
        "micrographs": len(truth),
        "particles": particles,
        "picks": len(judged),
        "precision": float(precision[kept]),
        "recall": float(recall[kept]),
        "f1": float(f1[kept]),
        "kept": kept,
        "best_precision": float(precision[best]),
        "best_recall": float(recall[best]),
        "best_f1": float(f1[best]),
        "best_score": float(judged[best - 1, 0]) if best else float("nan"),
        "best_kept": best,
        "ap": float((envelope[1:] * np.diff(recall)).sum()),
        "distance": float(np.median(judged[right, 1])) if right.any() else float("nan"),
    }


def read_truth(folder) -> dict[str, Truth]:
    """Read every CSV of a folder: columns x, y (pixels) and kind (default: good)."""
    truth = {}
    for path in sorted(pathlib.Path(folder).glob("*.csv")):
        good, ignored = [], []
        with path.open(newline="") as handle:
            for line, row in enumerate(csv.DictReader(handle), start=2):
                kind = row.get("kind") or "good"
                try:
                    xy = float(row["x"]), float(row["y"])
                except (KeyError, TypeError, ValueError):
                    raise ApbcError(f"{path}:{line}: expected numbers x and y") from None
                if kind == "good":
                    good.append(xy)
                elif kind in IGNORED_KINDS:
                    ignored.append(xy)
        truth[path.stem] = Truth(*(np.array(part).reshape(-1, 2) for part in (good, ignored)))
    if not any(len(one.good) for one in truth.values()):
        raise ApbcError(f"{folder}: no good particle in {len(truth)} CSV files")
    return truth


def read_picks(paths) -> dict[str, np.ndarray]:
    """Read coordinate files or particle lists: x, y, score (1 where unscored) by micrograph."""
    from apbc_common import relion

    found = {}
    for path in paths:
        block = relion.table(path, relion.X, "coordinate")
        columns = [block.numbers(relion.X, relion.Y), np.ones((block.rows, 1))]
        if relion.SCORE in block.labels:
            columns[1] = block.numbers(relion.SCORE)
        rows = np.hstack(columns)
        stems = np.full(len(rows), re.sub("_(autopick|grid)$", "", pathlib.Path(path).stem))
        if relion.MICROGRAPH in block.labels:
            names = block.read(relion.MICROGRAPH)[relion.MICROGRAPH]
            stems = np.array([pathlib.PurePath(name).stem for name in names])
        for stem in np.unique(stems):
            found.setdefault(str(stem), []).append(rows[stems == stem])
    return {stem: np.concatenate(parts) for stem, parts in found.items()}


def files_of(text):
    """Return the STAR files that a file name, a folder or a pattern stands for."""
    path = pathlib.Path(text)
    if path.is_dir():
        found = sorted(path.rglob("*_autopick.star"))
    else:
        found = [path] if path.is_file() else sorted(glob.glob(text, recursive=True))
    if not found:
        raise ApbcError(f"{text}: no such file, no folder with *_autopick.star, no match")
    return found


def aligned(rows):
    """Return a table as text: first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def compare(truth_folder, lists, diameter, apix, radius, threshold):
    """Print the scores of several lists, a row each; diameter in A."""
    truth = read_truth(truth_folder)
    rows = [
        ("list", "picks", "precision", "recall", "F1")
        + ("best: precision", "recall", "F1", "at score", "AP", "distance (A)")
    ]
    for name, text in lists:
        picks = read_picks(files_of(text))
        unknown = sorted(set(picks) - set(truth))
        if unknown:
            cli.warn(f"{name}: {len(unknown)} micrographs without truth left out: {unknown[0]} ...")
        got = score(picks, truth, diameter / apix, radius, threshold)
        numbers = [got[key] for key in ("precision", "recall", "f1")]
        numbers += [got[f"best_{key}"] for key in ("precision", "recall", "f1", "score")]
        cells = [f"{value:.3f}" for value in [*numbers, got["ap"]]]
        rows.append((name, str(got["kept"]), *cells, f"{got['distance'] * apix:.1f}"))
    particles = sum(len(one.good) for one in truth.values())
    print(f"{particles} particles in {len(truth)} micrographs")
    print(aligned(rows))


def named_list(text):
    """Argparse type: NAME=FILES, or FILES alone, which then name themselves."""
    name, equals, rest = text.partition("=")
    if not (rest if equals else name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILES")
    return (name or rest, rest) if equals else (text, text)


def folder(text):
    """Argparse type: a folder that is there."""
    path = pathlib.Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path


def build_parser():
    """Return the parser."""
    description, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="score.py",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--truth", type=folder, required=True, metavar="DIR", help="CSV files, one a micrograph")
    add("--diameter", type=cli.positive, required=True, metavar="A", help="of the particle (A)")
    add("--apix", type=cli.positive, required=True, help="pixel of the micrographs (A)")
    add("--radius", type=cli.positive, default=0.3, help="of a right pick, in diameters (0.3)")
    add("--threshold", type=float, help="keep picks with this score or more (default: all)")
    add("lists", type=named_list, nargs="+", metavar="NAME=FILES", help="a list of picks")
    return parser


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    numbers = args.diameter, args.apix, args.radius, args.threshold
    return cli.run(parser.prog, compare, args.truth, args.lists, *numbers)


if __name__ == "__main__":
    sys.exit(main())
