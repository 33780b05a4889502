"""Models of several networks."""

import json
import re

import numpy as np
import pytest

import gen_model
from apbc_common import classbin, learning, network, report, samples, tally


def lists(project):
    return "-g", project.good, "-b", project.bad


@pytest.fixture(scope="module")
def _pair(_template, tmp_path_factory):
    project = _template.copy(tmp_path_factory.mktemp("pair") / "p")
    lists = ("-g", project.good, "-b", project.bad)
    assert project.call("gen_data", *lists, "--from-micrographs", "--no-png") == 0
    training = ("--members", 2, "--epochs", 8, "--batch", 16)
    assert project.call("gen_model", *training) == 0
    return project


@pytest.fixture
def pair(_pair, tmp_path):
    return _pair.copy(tmp_path / "pair")


def scores(model, windows):
    return model(windows[..., None].astype(np.float32)).numpy()[:, 0]


def test_one_model_averages_the_members(pair):
    path = pair / "ClassBin/model.h5"
    model = network.load_model(path, classbin.read_model_record(path))
    windows = np.random.default_rng(0).integers(0, 256, (5, 64, 64))
    members = [scores(one, windows) for one in network.split(model)]
    odds = [np.log(p / (1 - p)) for p in members]
    assert len(members) == 2 and not np.allclose(*members)
    mean = 1 / (1 + np.exp(-np.mean(odds, axis=0)))
    line = json.loads((pair / "ClassBin/model.json").read_text())["calibration"]
    calibrated = 1 / (1 + np.exp(-line["slope"] * np.mean(odds, axis=0) - line["offset"]))
    assert scores(network.uncalibrated(model), windows) == pytest.approx(mean, abs=1e-6)
    assert scores(model, windows) == pytest.approx(calibrated, abs=1e-6)


def test_what_is_said_of_members(pair, capsys):
    """Written again from the model alone: the same."""
    before = (pair / "ClassBin/testing_results.txt").read_bytes()
    (pair / "ClassBin/testing_results.txt").unlink()
    capsys.readouterr()
    assert pair.call("gen_model", "--members", 2, "--epochs", 8, "--batch", 16) == 0
    rows = re.findall(r"^ *([a-z]+(?: \d)?) +\d+ +[01]\.\d{4} ", capsys.readouterr().out, re.M)
    assert rows == ["training", "validation", "testing", "derived", "member 1", "member 2", "peaks"]
    assert (pair / "ClassBin/testing_results.txt").read_bytes() == before
    logs = json.loads((pair / "ClassBin/training_log.txt").read_text())
    assert [len(log["loss"]) for log in logs] == [8, 8] and logs[0] != logs[1]


def test_the_other_scripts_take_it_as_any_model(pair):
    assert pair.call("gen_picks", "-i", pair.micrographs) == 0
    assert len(list((pair / "ClassBin/picks").rglob("mic*_autopick.star"))) == 3


def test_a_killed_training_goes_on_with_the_network_it_was_at(pair, monkeypatch, capsys):
    """Interrupted before the last of four."""
    training = ("--members", 2, "--rounds", 2, "--epochs", 4, "--batch", 16, "--o", "again")
    train, done = learning.train, []

    def stop(*args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(train(*args))
        return done[-1]

    with monkeypatch.context() as patched:
        patched.setattr(learning, "train", stop)
        assert pair.call("gen_model", *training) == 130
    networks = sorted(path.name for path in (pair / "again").glob("network*"))
    assert networks == ["network_1_1.npz", "network_1_2.npz", "network_2_1.npz"]
    capsys.readouterr()
    assert pair.call("gen_model", *training) == 0
    trained = re.findall(r"^(round \d/2, member \d/2), ", capsys.readouterr().err, re.M)
    assert set(trained) == {"round 2/2, member 2/2"}
    first, second = json.loads((pair / "again/training_log.txt").read_text())
    assert first["loss"] == done[0][1]["loss"] + done[2][1]["loss"]
    assert second["loss"][:2] == done[1][1]["loss"] and len(second["loss"]) == 4
    model = network.load_model(
        pair / "again/model.h5", classbin.read_model_record(pair / "again/model.h5")
    )
    window = np.random.default_rng(0).integers(0, 256, (1, 64, 64))
    after = scores(network.all_ways(done[2][0]), window)
    assert scores(network.split(model)[0], window) == pytest.approx(after, abs=1e-6)
    assert not list((pair / "again").glob("network*"))


@pytest.mark.parametrize("count", [1, 3])
def test_who_scores_what(monkeypatch, count):
    """Training by a network that was taught the window, validation by one that was not."""
    held = np.split(np.arange(9), [3, 6])[:count]
    parts = [{"training": np.setdiff1d(np.arange(9), rows), "validation": rows} for rows in held]
    asked = []
    monkeypatch.setattr(network, "split", lambda model: list(range(count)))
    monkeypatch.setattr(
        learning, "score", lambda one, pixels, rows, batch: asked.append((one, rows)) or rows / 10
    )
    columns = [np.array(["good"] * 12, object)] * 4
    part = np.repeat(["train", "test"], [9, 3])
    windows = samples.Samples(*columns, np.arange(12), part, None)
    found = gen_model.score("all", None, windows, parts, 64)
    assert sorted(found["training"]["index"]) == sorted(set(np.r_[*(p["training"] for p in parts)]))
    assert sorted(found["validation"]["index"]) == sorted(np.r_[*held])
    kinds = np.repeat(["training", "validation"], count)
    for (one, rows), kind in zip(asked[: 2 * count], kinds, strict=True):
        assert set(rows) <= set(parts[one][kind])
    assert [one for one, _ in asked[2 * count :]] == ["all", *(range(count) if count > 1 else [])]


@pytest.mark.parametrize("value", ["0", "21", "-1", "1.5", "many"])
def test_absurd_members(project, capsys, value):
    assert project.call("gen_model", "--members", value) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gen_model.py: error: argument --members: '{value}' is not a whole number from 1 to 20"
    )


def test_too_few_micrographs(project, capsys):
    assert project.call("gen_data", *lists(project), "--from-micrographs", "--no-png") == 0
    capsys.readouterr()
    assert project.call("gen_model", "--members", 3) == 1
    assert capsys.readouterr().err == (
        "gen_model.py: error: --members 3: 3 parts of the micrographs are left out in turn, but "
        "only 2 have good particles to learn from\n"
    )
    assert not (project / "ClassBin/run_gen_model.json").exists()


def test_a_report_asks_each_member(pair):
    """What they say on average of a candidate's window is its score, but for whole pixels."""
    assert pair.call("gen_picks", "-i", pair.micrographs) == 0
    assert pair.call("show_picks", "--report") == 0
    assert "where its 2 members disagree" in (pair / "ClassBin/report.html").read_text()
    run = tally.read(pair.path, pair / "ClassBin/picks/picks.star")
    shown = [report.look(pair.path, run, one) for one in run.micrographs]
    which = np.repeat(range(len(shown)), [len(one.boxes) for one in shown])
    pick = np.concatenate([np.arange(len(one.boxes)) for one in shown])
    logits = report.member_logits(pair.path, run, shown, which, pick)
    assert logits.shape == (2, len(pick)) and not np.allclose(*logits)
    line = run.taught["calibration"]
    said = line["slope"] * logits.mean(axis=0) + line["offset"]
    score = np.concatenate([one.micrograph.score for one in shown])
    sure = (score > 0.05) & (score < 0.999)
    assert np.corrcoef(said[sure], np.log(score / (1 - score))[sure])[0, 1] > 0.9


def test_a_report_does_without_members_that_are_gone(pair, capsys):
    assert pair.call("gen_picks", "-i", pair.micrographs) == 0
    (pair / "ClassBin/model.h5").write_bytes(b"")
    assert pair.call("show_picks", "--report") == 0
    assert "disagree" not in (pair / "ClassBin/report.html").read_text()
    assert "its members are not asked where they disagree" in capsys.readouterr().err
