"""All scripts, in order and again, on the tiny project."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest
from conftest import APIX, BINNED, BOX, ROOT, SCALE, contents, particles_star, snapshot
from PIL import Image

import gen_grid
import gen_model
from apbc_common import classbin, images, learning, mrc, network, png, relion, windows

SCRIPTS = ("gen_data", "gen_model", "gen_grid", "gen_picks", "show_picks")
ALL = "Extract/job005/particles.star"
MIC = "Micrographs/sub0/mic_a.0.mrc"


def lists(project):
    return "-g", project.good, "-b", project.bad


def folders(project, out="ClassBin"):
    """Names of the windows by part and kind."""
    return {
        (part, kind): sorted(path.name for path in (project / out / part / kind).iterdir())
        for part in classbin.PARTS
        for kind in classbin.KINDS
    }


def png_bytes(project, out="ClassBin"):
    return {p.name: p.read_bytes() for p in sorted((project / out).rglob("*.png"))}


def record(project, script, out="ClassBin"):
    return json.loads((project / out / f"run_{script}.json").read_text())


def star_rows(path):
    """The text above the rows of a STAR file's last table, and its rows."""
    lines = path.read_text().rstrip("\n").split("\n")
    start = max(i for i, line in enumerate(lines) if line.startswith("_")) + 1
    return lines[:start], lines[start:]


# --- the steps, one after the other --------------------------------------------------------------


def test_gen_data_writes_a_window_for_each_particle(project, capsys):
    assert project.call("gen_data", *lists(project)) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "good: 36 particles, 1 optics group(s), box 384.0 A (64 px of 6 A)",
        "bad: 36 particles, 1 optics group(s), box 384.0 A (64 px of 6 A)",
        "good: contrast inverted from the micrographs (12 windows cut anew from the micrographs, "
        "median correlation -1.00)",
        "bad: contrast inverted from the micrographs (12 windows cut anew from the micrographs, "
        "median correlation -1.00)",
        "diameter 156 A (measured), windows of 384 A",
        "58 train windows (29 good, 29 bad), 14 test windows (7 good, 7 bad), 0 skipped -> "
        f"{project.path}/ClassBin",
    ]
    assert [line.split(" [")[0] for line in err.splitlines()] == [
        " 33% 24/72",
        " 67% 48/72",
        "100% 72/72",
    ]
    assert json.loads((project / "ClassBin/dataset.json").read_text()) == {
        "window_px": 64,
        "window_angst": 384.0,
        "box_angst": 384.0,
        "diameter_angst": pytest.approx(154.5, abs=3),  # where the discs have lost 90 %
        "apix": BINNED,
        "image_px": SCALE,
        "extraction": {"norm": True, "bg_radius": 24, "known": False, "invert": True},
        "contrast": -1,
        "source": "stack",
        "sha256": {
            kind: hashlib.sha256((project / star).read_bytes()).hexdigest()
            for kind, star in (("good", project.good), ("bad", project.bad))
        },
        "good": project.good,
        "bad": project.bad,
        "split": "random by class",
        "test_share": 0.2,
        "seed": 0,
        "counts": {"train": {"bad": 29, "good": 29}, "test": {"bad": 7, "good": 7}},
        "derived": {"train": 0, "test": 0},
        "corrected": {"train": 0, "test": 0},
        "corrections": {},
        "files": {},
    }
    written = record(project, "gen_data")
    assert written["state"] == "finished"
    assert written["options"] == {
        "from_micrographs": False,
        "allow_missing": False,
        "min_score": None,
        "max_score": None,
        "size": 64,
        "window": None,
        "diameter": None,
        "no_png": False,
        "seed": 0,
    }
    assert len(written["outputs"]) == 75


def test_windows_are_the_conditioned_images_under_the_name_of_the_particle(project):
    assert project.call("gen_data", *lists(project)) == 0
    for kind, numbers in (("good", range(1, 13)), ("bad", range(13, 25))):
        seen = []
        for part in classbin.PARTS:
            for path in (project / "ClassBin" / part / kind).iterdir():
                stem, number, suffix = path.name.rsplit("_", 2)
                assert suffix == f"{kind}.png"
                stack = project / (stem.replace("__", "/") + ".mrcs")
                box = mrcfile.read(stack)[int(number) - 1]
                with Image.open(path) as window:
                    assert (window.size, window.mode) == ((64, 64), "L")
                    assert (np.asarray(window) == images.condition(box[None], 64)[0]).all()
                seen.append((stack.name, int(number)))
        assert sorted(seen) == [(f"mic_a.{i}.mrcs", n) for i in range(3) for n in numbers]


def test_size_of_the_windows_is_an_option(project):
    assert project.call("gen_data", *lists(project), "--size", 48) == 0
    sizes = set()
    for path in (project / "ClassBin").rglob("*.png"):
        with Image.open(path) as window:
            sizes.add(window.size)
    assert sizes == {(48, 48)}
    dataset = json.loads((project / "ClassBin/dataset.json").read_text())
    assert (dataset["window_px"], dataset["apix"]) == (48, 8.0)


def test_gen_model_writes_history_results_and_picture(project, capsys):
    assert project.call("gen_data", *lists(project)) == 0
    capsys.readouterr()
    assert project.call("gen_model", "--epochs", 2, "--batch", 16, "--seed", 3) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:3] == ["2", "epochs;", "loss"]
    assert lines[1] == ["samples", "accuracy", "TP", "TN", "FP", "FN", "precision", "recall"]
    assert [line[:2] for line in lines[2:5]] == [
        ["training", "46"],
        ["validation", "12"],
        ["testing", "14"],
    ]
    threshold = json.loads((project / "ClassBin/model.json").read_text())["threshold"]
    figure = r"[01]\.\d{3}( \([01]\.\d{3} to [01]\.\d{3}\))?"
    assert re.fullmatch(
        f"testing: accuracy {figure}, ROC area {figure}, average precision {figure}",
        out.splitlines()[5],
    )
    assert re.fullmatch(
        r"chances are off by 0\.\d{3} on average: 14 test windows", out.splitlines()[6]
    )
    assert out.splitlines()[7:] == [
        f"threshold {threshold:g}: best F1 of the validation part; the table is at 0.5",
        f"model, results and picture -> {project.path}/ClassBin",
    ]
    err = err.splitlines()
    assert [line.split(" [")[0] for line in err[:3]] == [" 33% 24/72", " 67% 48/72", "100% 72/72"]
    assert err[3].startswith("running on ")
    assert [re.match(r"(\d)/2 loss 0\.\d{3} ", line)[1] for line in err[4:6]] == ["1", "2"]

    (log,) = json.loads((project / "ClassBin/training_log.txt").read_text())
    assert {name: len(values) for name, values in log.items()} == {
        "loss": 2,
        "accuracy": 2,
        "val_loss": 2,
        "val_accuracy": 2,
    }
    with Image.open(project / "ClassBin/train_and_test_results.png") as picture:
        assert picture.size == (1200, 1560)
    model = json.loads((project / "ClassBin/model.json").read_text())
    assert model["dataset"] == json.loads((project / "ClassBin/dataset.json").read_text())
    assert model["options"] == {
        "epochs": 2,
        "batch": 16,
        "members": 1,
        "rounds": 1,
        "search": None,
        "seed": 3,
        "continue": False,
        "settings": {"rate": 0.002, "width": 1.0, "dropout": 0.5, "jitter": 0.0},
    }
    assert 0 <= model["threshold"] <= 1
    assert (model["versions"]["apbc"], model["versions"]["keras"][0]) == ("1.0.0", "3")
    kinds = [line.split()[1] for line in model["layers"]]
    assert (kinds.count("Conv2D"), kinds.count("MaxPooling2D")) == (28, 16)  # all ways


def test_a_trained_model_beats_chance_on_the_windows_it_never_saw(trained):
    results = json.loads((trained / "ClassBin/testing_results.txt").read_text())
    tested = sorted(row["file"].rpartition("/")[2] for row in results)
    names = folders(trained)
    assert tested == sorted(names["test", "good"] + names["test", "bad"])
    for row in results:
        assert row["label"] == row["file"].endswith("_good.png")
        assert row["prediction"] == (row["probability"] >= 0.5)
    assert sum(row["label"] == row["prediction"] for row in results) >= 13  # of 14


def test_windows_of_unknown_contrast_are_warned_of(trained, capsys):
    (trained / "Extract/job005/job.star").unlink()
    assert trained.call("gen_picks", "-i", ALL) == 0
    assert capsys.readouterr().err.startswith(
        "warning: contrast unknown (no micrographs: give -m MICROGRAPHS.star to have it checked); "
        "taken as that of the lists the model learnt from, inverted from the micrographs\n"
    )


def test_a_model_from_micrographs_sorts_lists_of_unknown_contrast(taught, capsys):
    """Its lists were inverted from the micrographs, its windows are not: these are turned round."""
    assert taught.call("gen_picks", "-i", ALL, "--o", "Known") == 0
    (taught / "Extract/job005/job.star").unlink()
    capsys.readouterr()
    assert taught.call("gen_picks", "-i", ALL, "--o", "Unknown") == 0
    said = capsys.readouterr()
    assert "the model learnt from, inverted from the micrographs" in said.err
    assert "so these are turned round" in said.out
    kept = [(taught / f"{out}/particles_true.star").read_text() for out in ("Known", "Unknown")]
    assert kept[0] == kept[1] and kept[0].count("@") > 10


def test_a_list_without_true_particles_is_warned_of(trained, capsys):
    assert trained.call("gen_picks", "-i", trained.bad, "--threshold", 1) == 0
    assert "no particle is true; was the list extracted as" in capsys.readouterr().err


@pytest.mark.parametrize("out, said", [
    ("", "argument --o: no folder is named"),
    ("Extract/job005/", "the folder of another job; give External/jobNNN/, or a folder of your"),
])  # fmt: skip
def test_folders_that_are_not_written_to(project, capsys, out, said):
    before = snapshot(project.path)
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX, "--o", out) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert snapshot(project.path) == before


def test_gen_grid_covers_each_micrograph(project, capsys):
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    out = capsys.readouterr().out
    assert out == (
        "3 micrographs, 243 boxes of 96 px; 0 files kept from before, 0 micrographs skipped -> "
        f"{project.path}/ClassBin/grid\n"
    )
    names = [f"Micrographs/sub{i % 2}/mic_a.{i}" for i in range(3)]
    for name in names:
        header, rows = star_rows(project / f"ClassBin/grid/{name}_grid.star")
        assert header[-8:] == [
            "data_",
            "",
            "loop_",
            "_rlnCoordinateX #1",
            "_rlnCoordinateY #2",
            "_rlnClassNumber #3",
            "_rlnAnglePsi #4",
            "_rlnAutopickFigureOfMerit #5",
        ]
        steps = range(48, 465, 48)
        assert rows == [f"{x}.00 {y}.00 0 0.0 -999.0" for y in steps for x in steps]
    header, rows = star_rows(project / "ClassBin/grid/grid.star")
    assert "data_coordinate_files" in header
    assert rows == [f"{name}.mrc ClassBin/grid/{name}_grid.star" for name in names]
    suffix = (project / "ClassBin/grid/coords_suffix_grid.star").read_text()
    assert suffix == f"{project.micrographs}\n"


def test_gen_picks_parts_the_rows_and_changes_nothing_else(trained, capsys):
    header, rows = star_rows(trained / ALL)
    assert trained.call("gen_picks", "-i", ALL, "--min-distance", 150) == 0
    out = capsys.readouterr().out
    parted = {}
    for which in ("true", "false", "unique"):
        head, scored = star_rows(trained / f"ClassBin/particles_{which}.star")
        assert head == [*header, "_rlnAutopickFigureOfMerit #8 "]
        parted[which] = [line.rstrip().rsplit(" ", 1) for line in scored]
    true, false = ([row for row, _ in parted[which]] for which in ("true", "false"))
    assert [row for row in rows if row in set(true)] == true  # the order of the input
    assert [row for row in rows if row in set(false)] == false
    assert sorted(true + false) == sorted(rows)
    assert not set(true) & set(false)
    assert all(float(score) >= 0.5 for _, score in parted["true"])
    assert all(float(score) < 0.5 for _, score in parted["false"])
    assert all(re.fullmatch(r"[01]\.\d{4}", score) for _, score in parted["true"])
    right = sum(int(row[:6]) <= 12 for row in true) + sum(int(row[:6]) > 12 for row in false)
    assert right >= 68  # of 72
    assert [row for row in parted["true"] if row in parted["unique"]] == parted["unique"]
    count = {which: len(found) for which, found in parted.items()}
    assert out == (
        f"72 particles: {count['true']} true (from 0.5), {count['false']} false, 0 skipped, "
        f"{count['unique']} unique (150 A apart) -> {trained.path}/ClassBin\n"
    )
    assert record(trained, "gen_picks")["counts"] == {"particles": 72, **count}
    assert not list((trained / "ClassBin").glob(".part-*"))


def test_unique_particles_are_the_best_of_each_neighbourhood(trained, monkeypatch):
    score = np.random.default_rng(5).permutation(72).astype(np.float32) / 72
    monkeypatch.setattr(network.Scorer, "__call__", lambda *_: score)
    # 600 A are 150 px of the micrograph, and the particles lie 96 px apart
    assert trained.call("gen_picks", "-i", ALL, "--min-distance", 600, "--threshold", 0.25) == 0
    unique, true = (
        relion.read_particles(trained.path, trained / f"ClassBin/particles_{which}.star")
        for which in ("unique", "true")
    )
    assert len(true) == 54
    kept = [unique.name(row) for row in range(len(unique))]
    names = [true.name(row) for row in range(len(true))]
    assert [name for name in names if name in kept] == kept  # the order of the input
    scores = true.block.numbers(relion.SCORE)[:, 0]
    for row, name in enumerate(names):
        near = np.hypot(*(true.xy - true.xy[row]).T) < 150
        near &= true.micrograph == true.micrograph[row]
        better = [names[i] in kept and scores[i] > scores[row] for i in np.flatnonzero(near)]
        assert (name in kept) != any(better)


def test_threshold_decides_between_true_and_false(trained, capsys):
    assert trained.call("gen_picks", "-i", ALL, "--threshold", 0) == 0
    assert "72 true (from 0), 0 false" in capsys.readouterr().out
    assert star_rows(trained / "ClassBin/particles_false.star")[1] == []


def test_a_score_that_is_there_is_replaced_in_its_column(trained):
    """RELION's Extract copies the picker's score into particles.star."""
    text = (trained / ALL).read_text()
    text = text.replace("_rlnUnknownThing", "_rlnAutopickFigureOfMerit")
    (trained / ALL).write_text(text.replace("1.0e-07", "-999.000"))
    assert trained.call("gen_picks", "-i", ALL) == 0
    header, rows = star_rows(trained / "ClassBin/particles_true.star")
    assert header == star_rows(trained / ALL)[0]
    assert len(rows) >= 34
    assert all(len(row.split()) == 7 and 0.5 <= float(row.split()[6]) <= 1 for row in rows)


def test_show_picks_draws_the_micrograph_with_its_picks(trained, capsys):
    assert trained.call("gen_picks", "-i", ALL) == 0
    assert trained.call("gen_grid", "-i", trained.micrographs, "-x", BOX) == 0
    true = sum(MIC in row for row in star_rows(trained / "ClassBin/particles_true.star")[1])
    capsys.readouterr()
    target = f"{trained.path}/ClassBin/pngs/Micrographs/sub0/mic_a.0"
    picks = "ClassBin/particles_true.star"
    assert trained.call("show_picks", "-m", MIC, "-s", picks) == 0
    line = "{} picks, 0 of them outside, circles of {} px -> {}_{}.png\n"
    assert capsys.readouterr().out == line.format(true, BOX, target, "true")
    assert trained.call("show_picks", "-m", MIC, "-s", picks, "-z", "1.25") == 0
    assert capsys.readouterr().out == line.format(true, 80, target, "true")
    grid = f"ClassBin/grid/{MIC.removesuffix('.mrc')}_grid.star"
    assert trained.call("show_picks", "-m", MIC, "-s", grid, "-x", BOX) == 0
    assert capsys.readouterr().out == line.format(81, BOX, target, "grid")
    for which in ("true", "grid"):
        with Image.open(f"{target}_{which}.png") as picture:
            assert picture.size == (512, 552)


def test_circles_lie_round_the_particles_with_row_0_on_top(project, capsys):
    picture = np.random.default_rng(0).normal(100, 1, (512, 640)).astype(np.float32)
    mrc.write(project / "one.mrc", picture, APIX)
    relion.write_coordinates(project / "one_autopick.star", [[500, 60]])
    assert project.call("show_picks", "-m", "one.mrc", "-s", "one_autopick.star", "-x", 80) == 0
    with Image.open(project / "ClassBin/pngs/one_autopick.png") as drawn:
        assert drawn.size == (640, 552)
        rgb = np.asarray(drawn.convert("RGB")).astype(int)[40:]
    y, x = np.nonzero(rgb[..., 1] - rgb[..., 0] > 60)
    assert (x.mean(), y.mean()) == pytest.approx((500, 60), abs=1)
    assert np.hypot(x - 500, y - 60) == pytest.approx(40, abs=2.5)


# --- the split ------------------------------------------------------------------------------------


def test_the_seed_alone_decides_the_split(project):
    for out, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert project.call("gen_data", *lists(project), "--o", out, "--seed", seed) == 0
    names = {out: folders(project, out) for out in "abc"}
    assert names["a"] == names["b"]
    assert names["a"]["test", "good"] != names["c"]["test", "good"]
    assert names["a"]["test", "bad"] != names["c"]["test", "bad"]
    pngs = {out: png_bytes(project, out) for out in "abc"}
    assert pngs["a"] == pngs["b"] == pngs["c"]  # the same 72 windows, parted otherwise
    assert len(pngs["a"]) == 72


# --- running again --------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_touches_nothing(trained, capsys):
    commands = {
        "gen_data": lists(trained),
        "gen_model": ("--epochs", 15, "--batch", 16),
        "gen_grid": ("-i", trained.micrographs, "-x", BOX),
        "gen_picks": ("-i", ALL),
    }
    for script in ("gen_grid", "gen_picks"):
        assert trained.call(script, *commands[script]) == 0
    before = snapshot(trained.path)
    capsys.readouterr()
    said = {}
    for script, options in commands.items():
        assert trained.call(script, *options) == 0
        said[script] = capsys.readouterr().out.splitlines()[-1]
    folder = trained.path / "ClassBin"
    assert said == {
        "gen_data": "finished before: nothing to do. 58 train windows (29 good, 29 bad), "
        f"14 test windows (7 good, 7 bad), 0 skipped -> {folder}",
        "gen_model": f"finished before: nothing to do -> {folder}/model.h5",
        "gen_grid": f"finished before: nothing to do, 3 micrographs -> {folder}/grid",
        "gen_picks": "finished before: nothing to do -> "
        f"{folder}/particles_true.star, {folder}/particles_false.star",
    }
    assert snapshot(trained.path) == before


def test_other_options_are_refused_and_the_difference_named(trained, capsys):
    assert trained.call("gen_grid", "-i", trained.micrographs, "-x", BOX) == 0
    assert trained.call("gen_picks", "-i", ALL) == 0
    shutil.copy(trained / trained.micrographs, trained / "other.star")
    before = snapshot(trained.path)
    capsys.readouterr()
    remedy = "-c clears what it wrote and starts anew, --o DIR writes elsewhere"
    for script, options, difference in (
        ("gen_data", (*lists(trained), "--seed", 1), "seed 0, this one has 1"),
        ("gen_data", (*lists(trained), "--size", 48), "size 64, this one has 48"),
        (
            "gen_data",
            ("-g", trained.bad, "-b", trained.good),
            f"bad {trained.bad}, this one has {trained.good}; "
            f"good {trained.good}, this one has {trained.bad}",
        ),
        ("gen_model", ("--epochs", 15), "batch 16, this one has 64"),
        ("gen_model", ("--epochs", 9, "--batch", 16), "epochs 15, this one has 9"),
        ("gen_grid", ("-i", trained.micrographs, "-x", 64), "box 96, this one has 64"),
        (
            "gen_grid",
            ("-i", "other.star", "-x", BOX),
            f"micrographs {trained.micrographs}, this one has other.star",
        ),
        ("gen_picks", ("-i", ALL, "--threshold", 0.7), "threshold 0.5, this one has 0.7"),
        (
            "gen_picks",
            ("-i", ALL, "--min-distance", 100),
            "min_distance none given, this one has 100.0",
        ),
        (
            "gen_picks",
            ("-i", ALL, "-m", "other.star"),
            "micrographs none, this one has other.star",
        ),
        (
            "gen_picks",
            ("-i", trained.good),
            f"particles {ALL}, this one has {trained.good}",
        ),
    ):
        assert trained.call(script, *options) == 1
        err = capsys.readouterr().err
        where = f"{script}.py: error: {trained.path}/ClassBin/run_{script}.json: "
        assert err == f"{where}an earlier run had {difference}; {remedy}\n"
    assert snapshot(trained.path) == before


def test_another_content_of_the_same_list_is_refused(trained, capsys):
    assert trained.call("gen_picks", "-i", ALL) == 0
    text = (trained / ALL).read_text()
    (trained / ALL).write_text(text.replace(" 003 ", " 0003 "))
    capsys.readouterr()
    assert trained.call("gen_picks", "-i", ALL) == 1
    assert f"an earlier run had another content of {ALL}; -c" in (capsys.readouterr().err)


def test_clear_removes_what_the_record_lists_and_nothing_else(project):
    assert project.call("gen_data", *lists(project)) == 0
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    mine = project / "ClassBin/grid/Micrographs/sub0/notes.txt"
    mine.write_text("mine")
    grid = contents(project / "ClassBin/grid")
    assert project.call("gen_data", *lists(project), "--seed", 1, "-c") == 0
    assert sum(map(len, folders(project).values())) == 72
    assert record(project, "gen_data")["options"]["seed"] == 1
    assert contents(project / "ClassBin/grid") == grid
    assert project.call("gen_grid", "-i", project.micrographs, "-x", 128, "--clear") == 0
    left = contents(project / "ClassBin/grid")
    assert left["Micrographs/sub0/notes.txt"] == b"mine"
    rows = star_rows(project / "ClassBin/grid/Micrographs/sub0/mic_a.0_grid.star")[1]
    assert len(rows) == 49
    assert left.keys() == grid.keys()


def test_cleardata_is_the_old_name_of_clear(project):
    for options in ((), ("--cleardata", "--seed", 2)):
        assert project.call("gen_data", *lists(project), *options) == 0
    assert record(project, "gen_data")["options"]["seed"] == 2


def test_what_is_missing_is_made_and_what_is_there_is_kept(project, capsys):
    assert project.call("gen_data", *lists(project)) == 0
    gone, kept = sorted((project / "ClassBin/train/good").iterdir())[:2]
    lost = gone.read_bytes()
    before = snapshot(project / "ClassBin")
    gone.unlink()
    capsys.readouterr()
    assert project.call("gen_data", *lists(project)) == 0
    assert "finished before" not in capsys.readouterr().out
    assert gone.read_bytes() == lost
    after = snapshot(project / "ClassBin")
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    records = {"train.star", "test.star", "dataset.json", "run_gen_data.json"}
    assert changed == {f"train/good/{gone.name}", *records}


def test_gen_grid_takes_new_micrographs_of_the_list(project, capsys):
    text = (project / project.micrographs).read_text()
    rows = [line for line in text.splitlines(keepends=True) if line.startswith("Micrographs")]
    (project / project.micrographs).write_text(text.replace(rows[2], ""))
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    before = snapshot(project / "ClassBin/grid")
    (project / project.micrographs).write_text(text)
    capsys.readouterr()
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    assert capsys.readouterr().out == (
        "3 micrographs, 243 boxes of 96 px; 2 files kept from before, 0 micrographs skipped -> "
        f"{project.path}/ClassBin/grid\n"
    )
    after = snapshot(project / "ClassBin/grid")
    assert {name for name in after if after[name] != before.get(name)} == {
        "Micrographs/sub0/mic_a.2_grid.star",
        "grid.star",
        "coords_suffix_grid.star",
    }
    assert len(star_rows(project / "ClassBin/grid/grid.star")[1]) == 3


# --- interrupted and killed -----------------------------------------------------------------------


def interrupt(monkeypatch, module, name, after):
    """Let a function work ``after`` times and then behave as if Ctrl-C were hit."""
    real, calls = getattr(module, name), []

    def once_more(*args, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, name, once_more)


@pytest.mark.parametrize(
    ("script", "options", "module", "name", "after"),
    [
        ("gen_data", ("-g", "GOOD", "-b", "BAD"), png, "encode", 30),
        ("gen_grid", ("-i", "MICROGRAPHS", "-x", BOX), relion, "write_coordinates", 1),
        ("gen_picks", ("-i", ALL, "--batch", 16, "--o", "picked"), network.Scorer, "__call__", 2),
        ("gen_picks", ("-i", ALL, "--o", "picked"), relion, "copy_particles", 1),
    ],
)
def test_after_ctrl_c_the_same_command_goes_on(
    trained, monkeypatch, capsys, script, options, module, name, after
):
    names = {"GOOD": trained.good, "BAD": trained.bad, "MICROGRAPHS": trained.micrographs}
    options = [names.get(option, option) for option in options]
    if script == "gen_data":
        shutil.rmtree(trained / "ClassBin")
    out = trained / ("picked" if "picked" in options else "ClassBin")
    with monkeypatch.context() as patched:
        interrupt(patched, module, name, after)
        assert trained.call(script, *options) == 130
    err = capsys.readouterr().err
    assert err.endswith(f"{script}.py: interrupted; run the same command again\n")
    assert "Traceback" not in err
    assert record(trained, script, out.name)["state"] == "unfinished"
    kept = snapshot(out)
    assert [name for name in kept if "/.part-" in f"/{name}"] == (
        [".part-scores.f32"] if script == "gen_picks" else []
    )
    time.sleep(0.01)
    assert trained.call(script, *options) == 0
    first = contents(out)
    after_it = snapshot(out)
    outputs = [
        name for name in kept if kept[name] and not re.search(r"run_|\.part-|json$|h5$", name)
    ]
    assert outputs or script == "gen_picks"
    if script != "gen_picks":
        assert all(after_it[name] == kept[name] for name in outputs)
    assert trained.call(script, *options, "-c") == 0
    assert contents(out) == first  # as if it had never been interrupted


def test_gen_picks_scores_only_what_its_journal_lacks(trained, monkeypatch):
    options = ("-i", ALL, "--batch", 16)
    scored = []
    real = network.Scorer.__call__

    def counted(self, windows):
        scored.append(len(windows))
        return real(self, windows)

    with monkeypatch.context() as patched:
        interrupt(patched, network.Scorer, "__call__", 3)
        assert trained.call("gen_picks", *options) == 130
    journal = trained / "ClassBin/.part-scores.f32"
    scores = np.fromfile(journal, np.float32)
    assert np.isfinite(scores).tolist() == [True] * 48 + [False] * 24
    scores[40] = np.nan  # a kill in the middle of writing
    scores.tofile(journal)
    with monkeypatch.context() as patched:
        patched.setattr(network.Scorer, "__call__", counted)
        assert trained.call("gen_picks", *options) == 0
        assert scored == [16, 16, 8]
        first = contents(trained / "ClassBin")
        assert not journal.exists()
        assert trained.call("gen_picks", *options, "-c") == 0
    assert scored == [16, 16, 8, 16, 16, 16, 16, 8]
    assert contents(trained / "ClassBin") == first


def test_an_interrupted_training_leaves_no_model_and_goes_on(project, monkeypatch):
    assert project.call("gen_data", *lists(project)) == 0
    untrained = network.build_model(SCALE)
    log = {"loss": [1.0], "val_loss": [1.0], "accuracy": [0.5], "val_accuracy": [0.5]}
    monkeypatch.setattr(learning, "train", lambda *_: (untrained, log))
    with monkeypatch.context() as patched:
        interrupt(patched, gen_model, "write_model", 0)
        assert project.call("gen_model") == 130
    left = {path.name for path in (project / "ClassBin").iterdir() if path.is_file()}
    made = {"train.star", "test.star", "dataset.json", "run_gen_data.json"}
    assert left == made | {"run_gen_model.json", "network_1_1.npz"}
    monkeypatch.setattr(learning, "train", None)  # it is not called again
    assert project.call("gen_model") == 0
    assert record(project, "gen_model")["state"] == "finished"
    assert json.loads((project / "ClassBin/training_log.txt").read_text()) == [log]


def test_parts_that_a_kill_left_are_written_over(project):
    assert project.call("gen_data", *lists(project)) == 0
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    whole = contents(project / "ClassBin")
    for name, script in (
        ("train/good/Extract__job005__Micrographs__sub0__mic_a.0_000001_good.png", "gen_data"),
        ("grid/Micrographs/sub1/mic_a.1_grid.star", "gen_grid"),
    ):
        path = project / "ClassBin" / name
        if not path.exists():
            path = path.parents[2] / "test" / "good" / path.name
        path.rename(path.with_name(f".part-{path.name}"))
        path.with_name(f".part-{path.name}").write_bytes(b"half")
        state = project / f"ClassBin/run_{script}.json"
        state.write_text(state.read_text().replace('"finished"', '"unfinished"'))
    assert project.call("gen_data", *lists(project)) == 0
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    assert contents(project / "ClassBin") == whole


def copies(project, count):
    """Lists that name each micrograph and stack ``count`` times, as links."""
    rows, micrographs = {"good": [], "bad": []}, []
    for i in range(count):
        name = f"Micrographs/more/m{i:04d}"
        stack = f"Extract/job005/{name}.mrcs"
        for source, target in (
            (MIC, f"{name}.mrc"),
            (f"Extract/job005/{MIC}s", stack),
        ):
            (project / target).parent.mkdir(parents=True, exist_ok=True)
            os.link(project / source, project / target)
        micrographs.append(f"{name}.mrc")
        for number in range(1, 25):
            kind = "good" if number <= 12 else "bad"
            rows[kind].append(f"{number:06d}@{stack} {name}.mrc 100.0 100.0 1 1 1")
    for kind in rows:
        (project / f"{kind}.star").write_text(particles_star(rows[kind]))
    text = (project / project.micrographs).read_text()
    old = [line for line in text.splitlines(keepends=True) if line.startswith("Micrographs")]
    new = "".join(f"{name} 1 15000.0\n" for name in micrographs)
    (project / "micrographs.star").write_text(text.replace("".join(old), new))


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(
    ("script", "options", "pattern", "files"),
    [
        ("gen_data", ("-g", "good.star", "-b", "bad.star"), "train/good/E*.png", 2404),
        ("gen_grid", ("-i", "micrographs.star", "-x", "32"), "grid/Micrographs/more/m*.star", 103),
    ],
)
def test_a_stopped_process_is_continued_to_the_same_end(
    project, script, options, pattern, files, stop
):
    copies(project, 100)
    command = [sys.executable, ROOT / f"{script}.py", *options]
    folder = project / "ClassBin"
    process = subprocess.Popen(
        command,
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # what runs in a shell's background inherits that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < 20 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(stop)
    ended = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130}[stop]
    assert process.wait(60) == ended, "if 0, it was done already: make the list longer"
    assert record(project, script)["state"] == "unfinished"
    assert project.call(script, *options) == 0
    continued = contents(folder)
    shutil.rmtree(folder)
    assert project.call(script, *options) == 0
    assert continued == contents(folder)
    assert len(continued) == files


# --- paths ----------------------------------------------------------------------------------------


def test_a_relative_project_and_an_absolute_one_are_the_same(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.path.parent)
    absolute, trained.path = trained.path, trained.path.relative_to(trained.path.parent)
    model = ("--epochs", 15, "--batch", 16)
    assert trained.call("gen_data", *lists(trained), "-c") == 0
    assert trained.call("gen_model", *model) == 0
    assert trained.call("gen_grid", "-i", trained.micrographs, "-x", BOX) == 0
    assert trained.call("gen_picks", "-i", ALL, "--min-distance", 150) == 0
    assert trained.call("show_picks", "-m", MIC, "-s", ALL) == 0
    said = capsys.readouterr().out
    assert f"24 picks, 0 of them outside, circles of 96 px -> {trained.path}/ClassBin" in said
    rows = star_rows(absolute / "ClassBin/grid/grid.star")[1]
    assert all(" ClassBin/grid/Micrographs/" in row for row in rows)
    trained.path = absolute
    assert trained.call("gen_data", *lists(trained)) == 0
    assert trained.call("gen_grid", "-i", trained.micrographs, "-x", BOX) == 0
    assert trained.call("gen_picks", "-i", ALL, "--min-distance", 150) == 0
    assert capsys.readouterr().out.count("finished before: nothing to do") == 3
    assert said.count("finished before: nothing to do") == 1  # the model: its windows are the same


def test_the_working_directory_is_the_default_project(project, monkeypatch):
    monkeypatch.chdir(project.path)
    assert gen_grid.main(["-i", project.micrographs, "-x", str(BOX)]) == 0
    assert (project / "ClassBin/grid/grid.star").is_file()


def quoted_project(project):
    """Names with spaces and dots, and one name in two directories."""
    names = ["Micrographs/a b/x.1.mrc", "Micrographs/c.d/x.1.mrc"]
    rows = {"good": [], "bad": []}
    rng = np.random.default_rng(1)
    for i, name in enumerate(names):
        picture = rng.normal(i, 1, (512, 512)).astype(np.float32)
        stack = f"Extract/job006/{name}s"
        xy = rng.integers(60, 450, (20, 2))
        mrc.write(project / name, picture, APIX)
        mrc.write(project / stack, images.extract(picture, xy, BOX, SCALE), BINNED)
        for number, (x, y) in enumerate(xy, 1):
            kind = "good" if number <= 10 else "bad"
            rows[kind].append(f"'{number:06d}@{stack}' '{name}' {x}.0 {y}.0 1 1 1")
    for kind in rows:
        (project / f"{kind}.star").write_text(particles_star(rows[kind]))
    (project / "all.star").write_text(particles_star(rows["good"] + rows["bad"]))
    text = (project / project.micrographs).read_text()
    old = "".join(line for line in text.splitlines(True) if line.startswith("Micrographs"))
    new = "".join(f'"{name}" 1 15000.0\n' for name in names)
    (project / "micrographs.star").write_text(text.replace(old, new))
    return names


def test_spaces_dots_and_one_name_in_two_folders_do_not_collide(trained, capsys):
    names = quoted_project(trained)
    more = ("-m", "micrographs.star", "--o", "more")
    assert trained.call("gen_data", "-g", "good.star", "-b", "bad.star", *more) == 0
    assert "median correlation -1.00" in capsys.readouterr().out
    cut = folders(trained, "more")
    assert sum(map(len, cut.values())) == 40
    stems = {name.rsplit("_", 2)[0] for found in cut.values() for name in found}
    assert stems == {
        "Extract__job006__Micrographs__a b__x.1",
        "Extract__job006__Micrographs__c.d__x.1",
    }
    assert trained.call("gen_grid", "-i", "micrographs.star", "-x", BOX) == 0
    grids = sorted((trained / "ClassBin/grid").rglob("x.1_grid.star"))
    assert [path.parent.name for path in grids] == ["a b", "c.d"]
    listed = star_rows(trained / "ClassBin/grid/grid.star")[1]
    assert [row.count("a b") for row in listed] == [2, 0]
    assert '"Micrographs/a b/x.1.mrc"' in listed[0].replace("'", '"')
    assert trained.call("gen_picks", "-i", "all.star", "--threshold", 0) == 0
    rows = star_rows(trained / "ClassBin/particles_true.star")[1]
    assert [row.rstrip().rsplit(" ", 1)[0] for row in rows] == star_rows(trained / "all.star")[1]
    capsys.readouterr()
    for name in names:
        assert trained.call("show_picks", "-m", name, "-s", "all.star", "-z", 1.5) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" -> ")[0] for line in said] == [
        "20 picks, 0 of them outside, circles of 96 px"
    ] * 2
    assert len(list((trained / "ClassBin/pngs").rglob("x.1_all.png"))) == 2


def test_outputs_go_where_o_says_and_are_found_there(trained):
    before = snapshot(trained.path)
    assert trained.call("gen_data", *lists(trained), "--o", "External/job020/") == 0
    data = ("--data", "External/job020/")
    assert trained.call("gen_model", "--epochs", 1, "--o", "External/job021/") == 0  # of ClassBin
    model = ("--model", "External/job021/model.h5")
    assert trained.call("gen_model", "-s", *model, *data, "--o", "External/job022/") == 0
    assert trained.call("gen_model", "-s", "--o", "External/job021/") == 0  # its own model
    assert (
        trained.call("gen_grid", "-i", trained.micrographs, "-x", BOX, "--o", "External/job023/")
        == 0
    )
    assert trained.call("gen_picks", "-i", ALL, *model, "--o", "External/job024/") == 0
    assert (
        trained.call("show_picks", "-m", MIC, "-s", ALL, "--o", trained / "External/job025/") == 0
    )
    after = snapshot(trained.path)
    assert {name: after[name] for name in before} == before  # ClassBin too
    found = [name for name in after if name not in before and after[name]]
    found = sorted(name for name in found if not re.search("/(train|test)/", name))
    results = ["testing_results.txt", "train_and_test_results.png"]
    nodes = "RELION_OUTPUT_NODES.star"
    grids = [f"Micrographs/sub{i % 2}/mic_a.{i}_grid.star" for i in (0, 2, 1)]
    assert found == sorted(
        f"External/job0{job}/{name}"
        for job, names in {
            20: ["dataset.json", "test.star", "train.star", "run_gen_data.json"],
            21: ["model.h5", "model.json", "run_gen_model.json", "training_log.txt", *results],
            22: results,
            23: ["grid.star", "coords_suffix_grid.star", "run_gen_grid.json", *grids, nodes],
            24: ["particles_true.star", "particles_false.star", "run_gen_picks.json", nodes],
            25: ["pngs/Micrographs/sub0/mic_a.0_Extract_job005_particles.png"],
        }.items()
        for name in [*names, "RELION_JOB_EXIT_SUCCESS"]
    )
    rows = star_rows(trained / "External/job023/grid.star")[1]
    assert rows[0] == f"{MIC} External/job023/{grids[0]}"
    assert record(trained, "gen_model", "External/job021")["outputs"][0] == "model.h5"


def test_skiptraining_tests_the_model_that_is_there(trained, capsys):
    results = (trained / "ClassBin/testing_results.txt").read_bytes()
    kept = snapshot(trained / "ClassBin")
    (trained / "ClassBin/testing_results.txt").unlink()
    assert trained.call("gen_model", "-s", "--batch", 16) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:1] for line in out[1:4]] == [["training"], ["validation"], ["testing"]]
    assert out[6] == f"results and picture -> {trained.path}/ClassBin"
    rows = json.loads((trained / "ClassBin/testing_results.txt").read_text())
    assert [(row["file"].rpartition("/")[2], row["probability"], row["label"]) for row in rows] == [
        (row["file"].rpartition("/")[2], pytest.approx(row["probability"], abs=1e-4), row["label"])
        for row in json.loads(results)
    ]
    after = snapshot(trained / "ClassBin")
    assert {path for path in kept if after[path] != kept[path]} <= {
        "testing_results.txt",
        "train_and_test_results.png",
    }


def test_two_runs_at_once_are_refused_and_nothing_is_taken_back(project, capsys):
    options = ("-i", project.micrographs, "-x", BOX)
    assert project.call("gen_grid", *options) == 0
    (project / "ClassBin/grid/Micrographs/sub0/mic_a.0_grid.star").unlink()
    before = contents(project / "ClassBin")
    capsys.readouterr()
    with open(project / "ClassBin/.lock-run_gen_grid", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert project.call("gen_grid", *options) == 1
        assert capsys.readouterr().err.endswith("ClassBin: another run is writing there\n")
    (project / "ClassBin/.lock-run_gen_grid").unlink()
    assert contents(project / "ClassBin") == before
    assert project.call("gen_grid", *options) == 0


def test_a_shorter_list_of_micrographs_rewrites_the_list_of_grids(project):
    options = ("-i", project.micrographs, "-x", BOX)
    assert project.call("gen_grid", *options) == 0
    text = (project / project.micrographs).read_text()
    (project / project.micrographs).write_text(
        "".join(line for line in text.splitlines(keepends=True) if "mic_a.1" not in line)
    )
    assert project.call("gen_grid", *options) == 0
    assert "mic_a.1" not in (project / "ClassBin/grid/grid.star").read_text()


def test_other_lists_of_the_same_length_make_another_data_set(trained, capsys):
    good, bad = ((trained / star).read_bytes() for star in (trained.good, trained.bad))
    (trained / trained.good).write_bytes(bad)
    (trained / trained.bad).write_bytes(good)
    assert trained.call("gen_data", *lists(trained), "-c") == 0
    capsys.readouterr()
    assert trained.call("gen_model", "--epochs", 15, "--batch", 16) == 1
    assert "an earlier run had another content of ClassBin/dataset.json" in capsys.readouterr().err
    assert trained.call("gen_model", "-s") == 0
    assert "it may have seen these test windows" in capsys.readouterr().err


def test_a_missing_picture_is_drawn_without_training_anew(trained, monkeypatch):
    before = (trained / "ClassBin/model.h5").read_bytes()
    (trained / "ClassBin/train_and_test_results.png").unlink()
    assert trained.call("gen_model", "--epochs", 15, "--batch", 16) == 0
    assert (trained / "ClassBin/train_and_test_results.png").exists()
    assert (trained / "ClassBin/model.h5").read_bytes() == before


def test_windows_of_stacks_above_the_project_are_not_hidden(project):
    shutil.copytree(project / "Extract", project / ".hidden")
    for star in (project.good, project.bad):
        text = (project / star).read_text().replace("@Extract/", "@.hidden/")
        (project / star).write_text(text)
    assert project.call("gen_data", *lists(project)) == 0
    assert project.call("gen_model", "--epochs", 1) == 0


def test_names_that_are_no_utf_8(project):
    odd = os.fsdecode(b"j\xe9")
    shutil.copytree(project / "Extract/job005", project / "Extract" / odd)
    for star in (project.good, project.bad):
        text = (project / star).read_text().replace("@Extract/job005/", f"@Extract/{odd}/")
        (project / star).write_text(text, errors="surrogateescape")
    assert project.call("gen_data", *lists(project)) == 0
    assert project.call("gen_model", "--epochs", 1) == 0
    assert project.call("gen_picks", "-i", project.good) == 0


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_nothing_heavy(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / f"{script}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {script}.py [-h] ")
    assert f"Example: {script}.py -p ." in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    heavy = {"numpy", "pandas", "mrcfile", "scipy", "tensorflow", "keras", "matplotlib", "tqdm"}
    assert not loaded & heavy


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_bad_option_is_refused_before_any_work(script, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / f"{script}.py", "-p", "nowhere", *REQUIRED[script]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"usage: {script}.py [-h] ")
    assert done.stderr.splitlines()[-1] == (
        f"{script}.py: error: argument -p/--projpath: nowhere: no such folder"
    )
    assert not list(tmp_path.iterdir())


REQUIRED = {
    "gen_data": ("-g", "a.star", "-b", "b.star"),
    "gen_model": (),
    "gen_grid": ("-i", "a.star", "-x", "64"),
    "gen_picks": ("-i", "a.star"),
    "show_picks": ("-m", "a.mrc", "-s", "a.star"),
}


def test_names_are_kept_apart_on_a_disk_without_case():
    assert windows.flat_names({"a/B.mrcs", "A/b.mrcs"}) == {
        "A/b.mrcs": "A__b",
        "a/B.mrcs": "a__B.2",
    }
