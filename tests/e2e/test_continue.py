"""gen_model.py --continue: a model goes on with corrections."""

import json
import re

import numpy as np
import pytest
from conftest import make_project

import gen_model
from apbc_common import classbin, files, learning, network, samples

TRAINING = ("--batch", 16)
ROW = "Micrographs/sub0/mic_a.2.mrc {0} {0} good\n"
TESTED = "Micrographs/sub0/mic_a.4.mrc 256 256 bad\n"
HEADER = "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\n_apbcKind\n"


def cut(project, *options):
    lists = ("-g", project.good, "-b", project.bad, "--from-micrographs", "--no-png")
    return project.call("gen_data", *lists, *options)


def correct(project, *places):
    """Make the data set anew with corrections."""
    (project / "fix.star").write_text(HEADER + "".join(map(ROW.format, places)) + TESTED)
    assert cut(project, "-c", "--corrections", "fix.star") == 0


def go_on(project, *options):
    return project.call("gen_model", "--continue", *TRAINING, *options)


def record(project, out="ClassBin"):
    return classbin.read_model_record(project / out / "model.h5")


def weights(project, out="ClassBin"):
    path = project / out / "model.h5"
    (model,) = network.single(network.load_model(path, classbin.read_model_record(path)))
    return [array.copy() for array in model.get_weights()]


def same(some, others):
    return all(np.array_equal(*pair) for pair in zip(some, others, strict=True))


@pytest.fixture(scope="module")
def _taught_five(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("taught") / "p", count=5)
    assert cut(project) == 0
    assert project.call("gen_model", "--epochs", 4, *TRAINING) == 0
    return project


@pytest.fixture
def five(_taught_five, tmp_path):
    return _taught_five.copy(tmp_path / "five")


def test_a_model_goes_on_with_each_new_data_set(five, monkeypatch, capsys):
    train, seen = learning.train, []

    def noted(*args):
        seen.append((args[4], args[8].get_weights(), args[9], args[10], args[11]))
        return train(*args)

    monkeypatch.setattr(learning, "train", noted)
    before, first = weights(five), record(five)
    correct(five, 100, 300)
    capsys.readouterr()
    assert go_on(five) == 0
    out = capsys.readouterr().out
    (epochs, start, share, settings, weight) = seen.pop()
    assert epochs is None and same(start, before)
    assert share < 0.5 and settings.rate < learning.Settings().rate
    _, found, _ = _data(five)
    assert np.array_equal(weight, found.weight) and (weight > 1).sum() == 3
    steps = -(-(found.part == "train").sum() // 16)
    assert len(json.loads((five / "ClassBin/training_log.txt").read_text())[0]["loss"]) == round(
        share * max(60, -(-600 // steps))
    )
    assert re.search(r"^ *corrected +1 +[01]\.0000 +0 ", out, re.M)
    second = record(five)
    assert second["continued_from"] == first["sha256"] != second["sha256"]
    assert second["dataset"] == classbin.read_dataset_record(five / "ClassBin/dataset.json")
    assert second["options"]["settings"] == first["options"]["settings"]
    assert second["calibration"] != first["calibration"]
    assert not same(before, weights(five))
    assert out.splitlines()[-1] == f"model, results and picture -> {five.path}/ClassBin"
    assert not list((five / "ClassBin").glob("model_before*"))
    assert go_on(five) == 0
    assert capsys.readouterr().out.startswith("finished before: nothing to do -> ")
    results = (five / "ClassBin/testing_results.txt").read_bytes()
    (five / "ClassBin/testing_results.txt").unlink()
    assert go_on(five) == 0
    assert (five / "ClassBin/testing_results.txt").read_bytes() == results
    assert record(five) == second and not seen
    correct(five, 120)
    assert go_on(five) == 0
    assert record(five)["continued_from"] == second["sha256"]
    assert five.call("gen_model", *TRAINING) == 1
    assert "an earlier run had continue True, this one has False" in capsys.readouterr().err
    assert five.call("gen_model", "-s") == 0
    assert five.call("gen_picks", "-i", five.micrographs) == 0


def _data(project):
    folder = classbin.ClassBin(project.path)
    dataset = classbin.read_dataset_record(folder.dataset)
    return dataset, samples.read(folder, dataset), None


def test_epochs_rule(five):
    correct(five, 100)
    assert go_on(five, "--epochs", 3) == 0
    assert len(json.loads((five / "ClassBin/training_log.txt").read_text())[0]["loss"]) == 3


@pytest.mark.parametrize("where", ["in training", "before the record", "before the results"])
def test_a_killed_run_starts_from_the_old_model(five, where, monkeypatch, capsys):
    correct(five, 100)
    whole = five.copy(five.path.with_name("whole"))
    assert go_on(whole, "--epochs", 2) == 0
    old = (five / "ClassBin/model.h5").read_bytes()

    def killed(*args):
        raise KeyboardInterrupt

    write = gen_model.write_model

    def half(target, *args):
        """As if killed between the two renames."""
        kept = (target.folder / "model.json").read_bytes()
        write(target, *args)
        (target.folder / "model.json").write_bytes(kept)
        raise KeyboardInterrupt

    patch = {
        "in training": (learning, "train", killed),
        "before the record": (gen_model, "write_model", half),
        "before the results": (gen_model, "write_results", killed),
    }[where]
    with monkeypatch.context() as patched:
        patched.setattr(*patch)
        assert go_on(five, "--epochs", 2) == 130
    assert ((five / "ClassBin/model.h5").read_bytes() == old) == (where == "in training")
    assert (five / "ClassBin/model_before.h5").read_bytes() == old
    assert go_on(five, "--epochs", 2) == 0
    assert same(weights(five), weights(whole))
    assert record(five)["continued_from"] == record(whole)["continued_from"]
    assert not list((five / "ClassBin").glob("model_before*"))


def test_a_full_disk_leaves_the_model_as_it_was(five, monkeypatch):
    correct(five, 100)
    before = files.digest(five / "ClassBin/model.h5")
    write = gen_model.write_json

    def full(path, *args):
        if path.name == "model.json":
            raise OSError(28, "No space left on device")
        write(path, *args)

    monkeypatch.setattr(gen_model, "write_json", full)
    assert go_on(five, "--epochs", 2) == 1
    assert record(five)["sha256"] == before == files.digest(five / "ClassBin/model.h5")
    run = json.loads((five / "ClassBin/run_gen_model.json").read_text())
    assert run["state"] == "finished" and not run["options"]["continue"]


def test_a_model_goes_on_elsewhere(five, capsys):
    correct(five, 100)
    before = files.digest(five / "ClassBin/model.h5")
    options = ("--model", "ClassBin/model.h5", "--o", "on", "--epochs", 2)
    assert go_on(five, *options) == 0
    assert files.digest(five / "ClassBin/model.h5") == before
    assert record(five, "on")["continued_from"] == before
    assert go_on(five, *options) == 0
    assert "finished before: nothing to do -> " in capsys.readouterr().out
    correct(five, 120)
    assert go_on(five, *options) == 1
    assert "an earlier run had another content of ClassBin/dataset.json; " in (
        capsys.readouterr().err
    )
    assert go_on(five, *options, "-c") == 0
    assert go_on(five, "--o", "on", "--epochs", 3) == 0
    assert record(five, "on")["options"]["epochs"] == 3


def test_several_networks_go_on_with_what_each_has_watched(five, monkeypatch, capsys):
    assert five.call("gen_model", "-c", "--members", 2, "--epochs", 2, *TRAINING) == 0
    first = record(five)
    correct(five, 100)
    assert go_on(five, "--epochs", 2) == 0
    second = record(five)
    assert second["options"]["members"] == 2 and second["watched"] == first["watched"]
    new = set(second["dataset"]["micrographs"]) - {n for part in second["watched"] for n in part}
    assert {second["dataset"]["micrographs"][n]["part"] for n in new} == {"test"}
    assert (five / "ClassBin/suspects.star").exists()
    del second["watched"]
    classbin.write_json(five / "ClassBin/model.json", second)
    correct(five, 120)
    capsys.readouterr()
    assert go_on(five) == 1
    assert "does not say which micrographs each of its 2 networks was taught; train anew" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "options, code, said",
    [
        (("--search", 3), 2, "argument --continue: not with --search, --settings, --members or "),
        (("--members", 2), 2, "argument --continue: not with --search, --settings, --members or "),
        (("--rounds", 2), 2, "--rounds: the model has its own"),
        (("-s",), 2, "argument --continue: not with -s, which trains nothing"),
        (("-c",), 1, "-c: it would clear "),
        (("--o", "none", "--data", "ClassBin"), 1, "none/model.h5: no model there; run gen_model"),
    ],
)
def test_what_does_not_go_together(five, options, code, said, capsys):
    before = files.digest(five / "ClassBin/model.h5")
    assert go_on(five, *options) == code
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert files.digest(five / "ClassBin/model.h5") == before


@pytest.mark.parametrize(
    "options, said",
    [
        (("--from-micrographs", "--window", 300), "model.h5: trained with windows of 64 px, 2"),
        (("--window", 260), "trained with windows of another source or contrast (micrograph, 1; "),
        (("--from-micrographs", "--seed", 1), ""),
    ],
)
def test_other_windows(five, options, said, capsys):
    lists = ("-g", five.good, "-b", five.bad, "-c", "--no-png")
    assert five.call("gen_data", *lists, *options) == 0
    if "260" in map(str, options):  # as wide as those of the micrographs
        found = classbin.read_dataset_record(five / "ClassBin/dataset.json")
        found["window_angst"] = record(five)["dataset"]["window_angst"]
        classbin.write_json(five / "ClassBin/dataset.json", found)
    capsys.readouterr()
    assert go_on(five, "--epochs", 1) == (1 if said else 0)
    err = capsys.readouterr().err
    assert said in err
    seen = "trained with another split of the data; it may have seen what tests it"
    assert (seen in err) == (not said)
