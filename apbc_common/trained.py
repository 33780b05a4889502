"""What a training left, for the report: its table, its picture, and its mistakes."""

from __future__ import annotations

import json
import os

import numpy as np

from . import ApbcError, boxes, png, relion, results, samples
from .classbin import ClassBin, model_record, read_json
from .tally import command

# Of gen_data.py: the options of its inputs, and what options are if not given.
INPUTS = {"good": "-g", "bad": "-b", "all": "--all", "corrections": "--corrections"}
USUAL = {"size": 64, "seed": 0}


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


def teach(project, tally) -> tuple[list[list[str]], str]:
    """Return the words of the lines that teach corrections, and a new name for the file of these.

    The first is the line that made the data set, as far as its record tells, with a list of
    micrographs that has those of the particles and those picked; 'LIST' where neither does.
    """
    picked = tally.record["growing"]["list"]["path"]
    record = _record_of_data(project, tally)
    words, out, given = ["gen_data.py"], [], {}
    if record:
        given = {name: entry["path"] for name, entry in record["inputs"].items()}
        listed = given.pop("micrographs", None)
        for name, path in given.items():
            if option := INPUTS.get(name.split()[0]):
                words += [option, path]
        words += ["-m", _list_of_both(project, tally, picked, listed)]
        for name, value in record["options"].items():
            if value not in (None, False, USUAL.get(name)):
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        folder = os.path.relpath(record["folder"], project)
        out = ["--o", folder] if folder != "ClassBin" else []
    else:
        words.append("AS_BEFORE")
    taken = {os.path.basename(path) for path in given.values()}
    names = ["corrections.star", *(f"corrections_{n + 2}.star" for n in range(len(taken)))]
    fixes = next(name for name in names if name not in taken)
    words += [*out, "--corrections", fixes, "-c"]
    home = os.path.relpath(tally.model.parent, project)
    where = [*(["--data", out[1]] if out else []), *(["--o", home] if home != "ClassBin" else [])]
    return [words, ["gen_model.py", *where, "--continue"], command(project, tally, True)], fixes


def _list_of_both(project, tally, *paths):
    """Return the first of some lists of micrographs that has those taught and those picked."""
    taught = tally.taught["dataset"].get("micrographs", {}) if tally.taught else {}
    wanted = {*taught, *(one.name for one in tally.micrographs)}
    for path in paths:
        if path and (project / path).is_file():
            if wanted <= set(relion.read_micrographs(project / path).names):
                return path
    return "LIST"


def _record_of_data(project, tally):
    """Return the record of the run that made the model's data set, and its folder; None if gone."""
    try:
        training = read_json(
            ClassBin(project, tally.model.parent).record("gen_model"), "", "inputs"
        )
        folder = (project / training["inputs"]["dataset"]["path"]).parent
        record = read_json(ClassBin(project, folder).record("gen_data"), "", "inputs", "options")
    except (ApbcError, KeyError, TypeError):
        return None
    return {**record, "folder": folder}


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
