"""Settings of learning: drawn, tried on folds of micrographs, kept in a table."""

from __future__ import annotations

import csv
import dataclasses
import json
import time

import numpy as np
from scipy import stats

from . import ApbcError, cli, files, learning, network, results, samples
from .classbin import write_json
from .learning import Settings

VERSION = 1  # of a settings file: what learning.Settings has
FOLDS = 3  # of the micrographs; each setting learns without each of them
SHARE = 0.5  # of the epochs, in a trial
SPACE = {
    "rate": stats.loguniform(5e-4, 5e-3),
    "width": (0.5, 0.75, 1.0, 1.5),
    "dropout": (0.0, 0.25, 0.5, 0.7),
    "jitter": (0.0, 0.1, 0.2),
}  # where settings are drawn from
LIMITS = {"rate": (1e-6, 0.1), "width": (0.1, 10), "dropout": (0, 0.95), "jitter": (0, 1)}
PLACES = 4  # decimals of a score
SCORES = [f"fold {number}" for number in range(1, FOLDS + 1)]
COLUMNS = [*SPACE, "epochs", *SCORES, "mean", "state", "seconds"]
KINDS = {"epochs": int, "seconds": int, "state": str}  # the others: float
DONE, STOPPED = "done", "stopped"


def draw(count, seed) -> list[Settings]:
    """Return settings to try: the usual ones, then some at random; the same of one seed."""
    from sklearn.model_selection import ParameterSampler

    found = ParameterSampler(SPACE, count - 1, random_state=seed)
    rounded = ({name: float(f"{value:.3g}") for name, value in one.items()} for one in found)
    return [Settings(), *(Settings(**one) for one in rounded)]


def search(pixels, windows, fold, options, classbin):
    """Try settings; keep each in the table, the best in a file, so that a killed search goes on.

    Score: mean over the folds of the average precision of listed windows, of micrographs that
    were not learnt from. One that is below the median of those before it, after as many folds, is
    stopped.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (N, size, size)
    windows : samples.Samples
    fold : ndarray of int
        Of `folds`.
    options : dict
        'search', 'epochs', 'batch', 'seed'.
    classbin : classbin.ClassBin
        Where to write.

    Returns
    -------
    settings : learning.Settings
        The best.
    said : str
        For people.

    Raises
    ------
    ApbcError
        If the table of an earlier, unfinished search is damaged.
    """
    tried = _read_table(classbin.search_table)
    wanted = draw(options["search"], options["seed"])
    kept = len(tried)
    for number, settings in enumerate(wanted[kept:], kept + 1):
        row = _try(pixels, windows, fold, settings, options, tried, f"{number}/{len(wanted)}, ")
        tried.append(row)
        _write_table(classbin.search_table, tried)
        best = _best(tried)
        about = {"tried": len(tried), "of": len(wanted), "average_precision": best["mean"]}
        record = {"version": VERSION, "settings": dataclasses.asdict(_settings(best)), **about}
        write_json(classbin.settings, record)
    best = _best(tried)
    results.draw_search(classbin.search_picture, tried, list(SPACE), best)
    stopped = sum(row["state"] == STOPPED for row in tried)
    return _settings(best), (
        f"{len(tried)} settings tried, {kept} of them before, {stopped} stopped early; average "
        f"precision {tried[0]['mean']:.4f} as usual, {best['mean']:.4f} with {say(_settings(best))}"
    )


def folds(windows, options):
    """Return the fold of each window, -1 for testing; raise ApbcError as `samples.folds`."""
    return samples.folds(windows, FOLDS, options["seed"], f"--search {options['search']}")


def say(settings) -> str:
    """Return settings as text."""
    return ", ".join(f"{name} {getattr(settings, name):g}" for name in SPACE)


def _try(pixels, windows, fold, settings, options, tried, note):
    """Return the row of one setting."""
    start, scores = time.monotonic(), []
    for held in range(FOLDS):
        training, asked = np.flatnonzero((fold >= 0) & (fold != held)), np.flatnonzero(fold == held)
        model, log = learning.train(
            pixels,
            windows.label,
            training,
            asked,
            options["epochs"],
            options["batch"],
            options["seed"],
            f"setting {note}fold {held + 1}/{FOLDS}, ",
            None,
            SHARE,
            settings,
            windows.weight,
            windows.blank,
        )
        scores.append(_precision(model, pixels, windows, asked, options["batch"]))
        names = SCORES[: held + 1]
        before = [
            np.mean([row[name] for name in names]) for row in tried if row[names[-1]] is not None
        ]
        if held + 1 < FOLDS and before and np.mean(scores) < np.median(before):
            break
    return {
        **dataclasses.asdict(settings),
        "epochs": len(log["loss"]),
        **dict(zip(SCORES, [*scores, *[None] * (FOLDS - len(scores))], strict=True)),
        "mean": round(float(np.mean(scores)), PLACES),
        "state": DONE if len(scores) == FOLDS else STOPPED,
        "seconds": round(time.monotonic() - start),
    }


def _precision(model, pixels, windows, rows, batch):
    """Return the average precision of the listed among some windows."""
    from sklearn.metrics import average_precision_score

    rows = rows[windows.listed[rows]]
    score = learning.score(network.all_ways(model), pixels, rows, batch)
    return round(float(average_precision_score(windows.label[rows], score)), PLACES)


def _best(tried):
    return max((row for row in tried if row["state"] == DONE), key=lambda row: row["mean"])


def _settings(row):
    return Settings(**{name: row[name] for name in SPACE})


def _write_table(path, tried):
    with files.atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(tried)


def _read_table(path):
    """Return the rows of an earlier, unfinished search."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            {name: KINDS.get(name, float)(row[name]) if row[name] else None for name in COLUMNS}
            for row in rows
        ]
    except (KeyError, TypeError, ValueError):
        raise ApbcError(f"{path}: damaged; remove it") from None


def read(path) -> Settings:
    """Read settings; warn if the search that they are from was cut short.

    Raises
    ------
    ApbcError
        If it is not a settings file, one of another version, or holds what can't be.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version, found = record["version"], record["settings"]
        tried, of = record.get("tried"), record.get("of")
        found.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ApbcError(f"{path}: not a settings file, as gen_model.py --search writes") from None
    if version != VERSION:
        raise ApbcError(f"{path}: settings of version {version}, expected {VERSION}; search anew")
    for name, (low, high) in LIMITS.items():
        if not isinstance(found.get(name), int | float) or not low <= found[name] <= high:
            raise ApbcError(
                f"{path}: {name} {found.get(name)}, expected a number from {low:g} to {high:g}"
            )
    if tried != of:
        cli.warn(f"{path}: the best of {tried} settings; the search for it was to try {of}")
    return Settings(**{name: float(found[name]) for name in LIMITS})
