"""What a training left, for the report: its table, its picture, and its mistakes."""

from __future__ import annotations

import json
import os

import numpy as np

from . import ApbcError, boxes, png, results, samples
from .classbin import ClassBin, model_record


def parts(project, tally) -> dict:
    """Return what the model's own files say: table, picture, mistakes."""
    home = ClassBin(project, tally.model.parent)
    found = {"table": None, "said": "", "picture": "", "file": "", "missing": ""}
    lacking = [
        path.name
        for path in (model_record(tally.model), home.training_picture, home.testing_results)
        if not path.exists()
    ]
    if lacking:
        found["missing"] = f"Not there any longer: {', '.join(lacking)}, of {home.folder}."
    if home.training_picture.exists():
        found["picture"] = boxes.data_uri(home.training_picture.read_bytes(), "image/png")
        found["file"] = os.path.relpath(home.training_picture, project)
    rows = read_results(home.testing_results)
    if rows:
        tested = {name: np.array([row[name] for row in rows]) for name in ("label", "probability")}
        figures = results.figures(tested)
        found["table"] = {name: results.cell(value) for name, value in figures.items()}
        found["said"] = results.say(results.intervals(tested, np.zeros(len(rows))))
    kinds = [
        {"title": title, "boxes": wrong_boxes(project, tally, some)}
        for title, some in boxes.mistakes(rows).items()
    ]
    return {"model": found, "mistakes": kinds if rows else []}


def read_results(path) -> list[dict]:
    """Read testing_results.txt; [] where it is missing or damaged."""
    wanted = {"file", "label", "probability", "prediction"}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return rows if all(row.keys() >= wanted for row in rows) else []
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def wrong_boxes(project, tally, rows) -> list[dict]:
    """Return the windows of rows of testing_results.txt: their pictures, or cut again."""
    dataset = tally.taught["dataset"] if tally.taught else {"files": {}}
    windows, places = [None] * len(rows), {}
    for i, row in enumerate(rows):
        if not dataset["files"]:  # there are pictures
            windows[i] = png.decode(project / row["file"])
        else:
            where, _, source = row["file"].rpartition("@")
            places.setdefault(source, {})[i] = where
    for source, some in places.items():
        for i, window in zip(some, cut_again(project, dataset, source, some.values()), strict=True):
            windows[i] = window
    return [
        {
            "image": "" if window is None else boxes.thumbnail(window),
            "file": row["file"],
            "score": f"{row['probability']:.2f}",
        }
        for window, row in zip(windows, rows, strict=True)
    ]


def cut_again(project, dataset, source, places):
    """Return the windows at places of a stack or micrograph; None where that has gone since."""
    try:
        where = [
            int(place) - 1 if dataset["source"] == "stack" else [float(n) for n in place.split(",")]
            for place in places
        ]
        return samples.cut(project, dataset, source, np.array(where))
    except (ApbcError, OSError, KeyError, ValueError):
        return [None] * len(places)
