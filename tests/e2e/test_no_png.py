"""Data sets without pictures: lists that say where each window is."""

import json
import os

import numpy as np
import pytest
from conftest import contents, read_mrc

from apbc_common import classbin, mrc, samples, star

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
STACK = "Extract/job005/Micrographs/sub0/mic_a.0.mrcs"


def lists(project):
    return "-g", project.good, "-b", project.bad


def read(project, out):
    """The list of a data set, and its pixels."""
    folder = classbin.ClassBin(project.path, project / out)
    dataset = json.loads(folder.dataset.read_text())
    found = samples.read(folder, dataset)
    return found, samples.pixels(project.path, folder.folder, dataset, found)


@pytest.mark.parametrize("options", [(), ("--from-micrographs",), ("--window", 300)])
def test_the_windows_are_those_of_the_pictures(project, options):
    assert project.call("gen_data", *lists(project), *options, "--o", "with") == 0
    assert project.call("gen_data", *lists(project), *options, "--no-png", "--o", "without") == 0
    assert not list((project / "without").rglob("*.png"))
    pictured, pixels = read(project, "with")
    listed, cut = read(project, "without")
    assert len(pixels) == (180 if "--from-micrographs" in options else 72)
    assert pixels.std(axis=(1, 2)).min() > 5
    assert np.array_equal(pixels, cut)
    assert listed.picture is None
    for name in ("kind", "source", "where", "micrograph", "row", "part"):
        assert np.array_equal(getattr(listed, name), getattr(pictured, name)), name


def test_the_lists_lead_back_to_the_particles(project):
    assert project.call("gen_data", *lists(project), "--no-png") == 0
    found, _ = read(project, "ClassBin")
    names = {
        kind: star.scan(project / path)["particles"].read()
        for kind, path in (("good", project.good), ("bad", project.bad))
    }
    for index in range(len(found)):
        row = names[found.kind[index]].iloc[found.row[index]]
        assert row["rlnImageName"] == found.name(index, "")
        assert row["rlnMicrographName"] == found.micrograph[index]


@pytest.mark.parametrize("options", [(), ("--from-micrographs",)])
def test_lists_read_in_pieces_give_the_same_files(trained, monkeypatch, options):
    def written(out):
        made = ("--no-png", "--o", f"{out}/data")
        assert trained.call("gen_data", *lists(trained), *options, *made) == 0
        every = ("-i", "Extract/job005/particles.star", "--threshold", 0.5, "--o", f"{out}/picks")
        assert trained.call("gen_picks", *every) == 0
        return {path: data for path, data in contents(trained / out).items() if "run_" not in path}

    whole = written("whole")
    assert len(whole) == 5 and b"@" in whole["picks/particles_true.star"]
    monkeypatch.setattr(star, "PIECE", 3)
    assert written("pieces") == whole


def test_a_model_without_pictures_is_that_with_them(project):
    results = []
    for out, options in (("with", ()), ("without", ("--no-png",))):
        assert project.call("gen_data", *lists(project), *options, "--o", out) == 0
        training = ("--data", out, "--o", out, "--epochs", 2, "--batch", 16)
        assert project.call("gen_model", *training) == 0
        rows = json.loads((project / out / "testing_results.txt").read_text())
        results.append([(row["label"], row["probability"]) for row in rows])
        assert len({row["file"] for row in rows}) == len(rows) == 14
    assert np.allclose(*results, atol=1e-3)
    assert rows[0]["file"].endswith(".mrcs") and "@Extract/" in rows[0]["file"]


def moved(project):
    (project / STACK).rename(project / "elsewhere.mrcs")
    return f"{STACK}: No such file or directory"


def longer(project):
    boxes = read_mrc(project / STACK)
    mrc.write(project / STACK, np.concatenate([boxes, boxes[:1]]), 6.0)
    return f"{STACK} was written since"


def touched(project):
    os.utime(project / STACK)
    return f"{STACK} was written since"


@pytest.mark.parametrize("change", [moved, longer, touched])
def test_stacks_that_moved_or_changed_are_refused(project, capsys, change):
    assert project.call("gen_data", *lists(project), "--no-png") == 0
    what = change(project)
    capsys.readouterr()
    assert project.call("gen_model") == 1
    assert capsys.readouterr().err == (
        "gen_model.py: error: 1 of 3 files that the windows are cut from moved or changed: "
        f"{what}; run gen_data.py -c again\n"
    )
    assert not (project / "ClassBin/run_gen_model.json").exists()


def test_a_constant_image_is_named_before_the_training(project, capsys):
    assert project.call("gen_data", *lists(project), "--no-png") == 0
    boxes = read_mrc(project / STACK)
    boxes[2] = 3
    mrc.write(project / STACK, boxes, 6.0)
    dataset = json.loads((project / "ClassBin/dataset.json").read_text())
    dataset["files"][STACK] = samples.stamp(project / STACK)
    classbin.write_json(project / "ClassBin/dataset.json", dataset)
    capsys.readouterr()
    assert project.call("gen_model") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gen_model.py: error: 000003@{project.path}/{STACK}: the image is constant; take it out "
        "of the list"
    )


def shorter(text):
    return text.replace(next(line for line in text.splitlines() if "good" in line) + "\n", "")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "not there; run gen_data.py again"),
        (shorter, "28 good and 29 bad windows, dataset.json says 29 and 29; run gen_data.py again"),
        (
            lambda text: text.replace("apbcKind", "apbcThing"),
            "0 window tables (with a column apbcKind)",
        ),
    ],
)
def test_a_list_that_is_not_the_data_set_s_is_refused(project, capsys, damage, message):
    assert project.call("gen_data", *lists(project)) == 0
    path = project / "ClassBin/train.star"
    path.write_text(damage(path.read_text())) if damage else path.unlink()
    capsys.readouterr()
    assert project.call("gen_model") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gen_model.py: error: {path}: ") and message in line


def test_a_micrograph_that_the_record_lacks_is_named(project, capsys):
    assert project.call("gen_data", *lists(project), "--from-micrographs") == 0
    path = project / "ClassBin/train.star"
    found, _ = read(project, "ClassBin")
    name = found.source[0]
    path.write_text(path.read_text().replace(name, "Micrographs/other.mrc"))
    capsys.readouterr()
    assert project.call("gen_model") == 1
    assert capsys.readouterr().err == (
        f"gen_model.py: error: {path}: Micrographs/other.mrc is not in dataset.json; "
        "run gen_data.py again\n"
    )
