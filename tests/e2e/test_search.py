"""Settings of learning, searched for and used again."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_project

from apbc_common import learning, search

TRAINING = ("--epochs", 4, "--batch", 16)
USUAL = {"rate": 0.002, "width": 1.0, "dropout": 0.5, "jitter": 0.0}


@pytest.fixture(scope="module")
def _searched(tmp_path_factory):
    """A project of six micrographs; a search of four settings, interrupted in the third."""
    project = make_project(tmp_path_factory.mktemp("searched") / "p", count=6)
    lists = ("-g", project.good, "-b", project.bad)
    assert project.call("gen_data", *lists, "--from-micrographs", "--no-png") == 0
    train, calls = learning.train, []

    def stop(*args):
        if len(rows(project)) == 2 and calls[-1] == 2:
            raise KeyboardInterrupt
        calls.append(len(rows(project)))
        return train(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "train", stop)
        assert project.call("gen_model", "--search", 4, *TRAINING) == 130
    return project


@pytest.fixture
def searched(_searched, tmp_path):
    return _searched.copy(tmp_path / "searched")


def rows(project, folder="ClassBin"):
    path = project / folder / "search.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def settings_of(row):
    return {name: float(row[name]) for name in USUAL}


def test_a_killed_search_goes_on_and_the_best_is_learnt_with(searched, capsys):
    before = rows(searched)
    assert len(before) == 2 and settings_of(before[0]) == USUAL
    capsys.readouterr()
    assert searched.call("gen_model", "--search", 4, *TRAINING) == 0
    out, err = capsys.readouterr()
    found = rows(searched)
    assert found[:2] == before and len(found) == 4
    assert len({tuple(settings_of(row).values()) for row in found}) == 4
    tried = {int(n) for n in re.findall(r"^setting (\d)/4, fold \d/3, ", err, re.M)}
    assert tried == {3, 4}
    done = [row for row in found if row["state"] == "done"]
    for row in found:
        folds = [float(row[name]) for name in ("fold 1", "fold 2", "fold 3") if row[name]]
        assert float(row["mean"]) == pytest.approx(sum(folds) / len(folds), abs=1e-4)
        assert (len(folds) == 3) == (row["state"] == "done")
    best = max(done, key=lambda row: float(row["mean"]))
    record = json.loads((searched / "ClassBin/model.json").read_text())
    assert record["options"]["settings"] == settings_of(best)
    stopped = len(found) - len(done)
    name = ", ".join(f"{name} {value:g}" for name, value in settings_of(best).items())
    assert out.splitlines()[-2] == (
        f"4 settings tried, 2 of them before, {stopped} stopped early; average precision "
        f"{float(found[0]['mean']):.4f} as usual, {float(best['mean']):.4f} with {name}"
    )
    assert (searched / "ClassBin/search.png").stat().st_size > 10_000
    run = json.loads((searched / "ClassBin/run_gen_model.json").read_text())
    assert {"search.csv", "search.png", "settings.json"} <= set(run["outputs"])
    assert searched.call("gen_model", "--search", 4, *TRAINING) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_best_of_a_search_cut_short_is_used_and_said(searched, capsys):
    path = searched / "ClassBin/settings.json"
    record = json.loads(path.read_text())
    record["settings"]["width"] = 0.5
    path.write_text(json.dumps(record))
    capsys.readouterr()
    use = ("--settings", "ClassBin/settings.json", "--o", "other")
    assert searched.call("gen_model", *use, *TRAINING) == 0
    out, err = capsys.readouterr()
    assert f"{path}: the best of 2 settings; the search for it was to try 4" in err
    model = json.loads((searched / "other/model.json").read_text())
    assert model["options"]["settings"] == record["settings"]
    assert any("convolution1: Conv2D (60, 60, 8)" in line for line in model["layers"])


def test_a_setting_below_the_median_is_stopped(monkeypatch):
    """The fold's score is told by the setting's rate; nothing is learnt."""
    monkeypatch.setattr(learning, "train", lambda *args: (args[-3], {"loss": [0.0]}))
    monkeypatch.setattr(search, "_precision", lambda model, *_: model.rate)
    tried, fold, windows = [], np.arange(3), SimpleNamespace(label=None, weight=None, blank=None)
    for rate, folds in ((0.5, 3), (0.8, 3), (0.6, 1), (0.65, 3), (0.64, 2)):
        options = {"epochs": 1, "batch": 1, "seed": 0}
        row = search._try(None, windows, fold, learning.Settings(rate), options, tried, "")
        assert (rate, sum(row[name] is not None for name in search.SCORES)) == (rate, folds)
        tried.append(row)
    assert search._best(tried)["rate"] == 0.8


def test_too_few_micrographs(project, capsys):
    lists = ("-g", project.good, "-b", project.bad)
    assert project.call("gen_data", *lists, "--from-micrographs", "--no-png") == 0
    capsys.readouterr()
    assert project.call("gen_model", "--search", 4) == 1
    assert capsys.readouterr().err == (
        "gen_model.py: error: --search 4: 3 parts of the micrographs are left out in turn, but "
        "only 2 have good particles to learn from\n"
    )
    assert not (project / "ClassBin/run_gen_model.json").exists()


@pytest.mark.parametrize("value", ["0", "1", "201", "some"])
def test_absurd_searches(project, capsys, value):
    assert project.call("gen_model", "--search", value) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gen_model.py: error: argument --search: '{value}' is not a whole number from 2 to 200"
    )


def test_a_search_and_settings_exclude_each_other(searched, capsys):
    both = ("--search", 4, "--settings", "ClassBin/settings.json")
    assert searched.call("gen_model", *both) == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "not a settings file, as gen_model.py --search writes"),
        ('{"version": 1}', "not a settings file, as gen_model.py --search writes"),
        ('{"version": 1, "settings": 3}', "not a settings file, as gen_model.py --search writes"),
        (
            '{"version": 9, "settings": {}}',
            f"settings of version 9, expected {search.VERSION}; search anew",
        ),
        (
            json.dumps({"version": 1, "settings": USUAL | {"rate": -1}}),
            "rate -1, expected a number from 1e-06 to 0.1",
        ),
        (
            json.dumps({"version": 1, "settings": USUAL | {"width": "wide"}}),
            "width wide, expected a number from 0.1 to 10",
        ),
        (
            json.dumps({"version": 1, "settings": {"rate": 0.002}}),
            "width None, expected a number from 0.1 to 10",
        ),
    ],
)
def test_settings_that_can_not_be(project, capsys, text, fault):
    lists = ("-g", project.good, "-b", project.bad)
    assert project.call("gen_data", *lists, "--from-micrographs", "--no-png") == 0
    (project / "my.json").write_text(text)
    capsys.readouterr()
    assert project.call("gen_model", "--settings", "my.json") == 1
    assert capsys.readouterr().err == f"gen_model.py: error: {project / 'my.json'}: {fault}\n"


def test_a_damaged_table(searched, capsys):
    (searched / "ClassBin/search.csv").write_text("rate,width\nfast,1\n")
    assert searched.call("gen_model", "--search", 4, *TRAINING) == 1
    assert "search.csv: damaged; remove it" in capsys.readouterr().err
