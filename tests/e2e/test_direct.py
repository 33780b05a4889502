"""Direct picking on the tiny project: windows from micrographs, picks, again, after kills."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import (
    APIX,
    BINNED,
    BOX,
    ROOT,
    SCALE,
    contents,
    count_picked,
    micrograph,
    more,
    picked_whole,
    read_mrc,
    snapshot,
    workers_of,
)
from PIL import Image

from apbc_common import classbin, images, mrc, peaks, relion, samples, star, windows

MICROGRAPHS = "CtfFind/job003/micrographs_ctf.star"
NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
PICK = ("-i", MICROGRAPHS)
PICKS = "ClassBin/picks"
WEAK = ("--model", "weak/model.h5")
DIAMETER = 150.0  # A, of the discs


def lists(project):
    return "-g", project.good, "-b", project.bad


def read_samples(project, out="ClassBin"):
    """The windows of a data set."""
    return samples.read(
        classbin.ClassBin(project.path, project / out), record(project, f"{out}/dataset.json")
    )


def record(project, name):
    return json.loads((project / name).read_text())


def truth(project, which="good"):
    """The centres of each micrograph's particles, in its pixels."""
    found = relion.read_particles(project.path, project / getattr(project, which))
    return {n: found.xy[found.micrograph == i] for i, n in enumerate(found.micrographs)}


def picked(project, name, out=PICKS, which="picks"):
    """Picks and their scores of one micrograph, from its own file or that of its candidates."""
    rest = relion.rest(name)
    path = f"{rest}_autopick.star" if which == "picks" else f".candidates/{rest}.star"
    return relion.read_coordinates(project / out / path)


def without_records(folder):
    return {name: data for name, data in contents(folder).items() if "run_" not in name}


# --- windows from the micrographs ----------------------------------------------------------------


def test_gen_data_cuts_windows_from_the_micrographs(project, capsys):
    assert project.call("gen_data", *lists(project), "--from-micrographs") == 0
    out, err = capsys.readouterr()
    correlated = "(12 windows cut anew from the micrographs, median correlation -1.00)"
    assert out.splitlines()[2:] == [
        f"good: contrast inverted from the micrographs {correlated}",
        f"bad: contrast inverted from the micrographs {correlated}",
        "good: the middle of their average is -0.4, -0.8 A off, give or take 1.6",
        "diameter 156 A (measured), windows of 256 A",
        "120 train windows (24 good, 96 bad, 72 of them derived), 60 test windows (12 good, "
        f"48 bad, 36 of them derived), 0 skipped -> {project.path}/ClassBin",
    ]
    assert err.splitlines()[0] == (
        f"warning: {project.path}/{project.good}: no columns rlnOriginXAngst, rlnOriginYAngst; "
        "particles are taken as centred. The list of a 2D classification has them"
    )
    dataset = record(project, "ClassBin/dataset.json")
    assert (dataset["source"], dataset["contrast"], dataset["recentred"]) == (
        *("micrograph", 1, False),
    )
    assert dataset["derived"] == {"train": 72, "test": 36}
    assert sorted(dataset["micrographs"]) == sorted(NAMES)


def test_windows_are_what_picking_sees_and_are_named_for_what_they_are(project):
    assert project.call("gen_data", *lists(project), "--from-micrographs", "--window", 300) == 0
    dataset = record(project, "ClassBin/dataset.json")
    places = {"good": truth(project), "bad": truth(project, "bad")}
    seen = []
    listed = read_samples(project)
    for kind, name, where, row, picture in zip(
        listed.kind, listed.source, listed.where, listed.row, listed.picture, strict=True
    ):
        part, folder, file = picture.split("/")
        assert part == ("test" if dataset["micrographs"][name]["part"] == "test" else "train")
        assert folder == ("good" if kind == "good" else "bad")
        assert file.startswith(name[:-4].replace("/", "__")) and file.endswith(f"{kind}.png")
        seen.append(kind)
        if kind in places:
            assert (where == places[kind][name][row % 12]).all()
        grey, scale = images.condition_micrograph(mrc.image(project / name), APIX, 300 / 64, 384.0)
        with Image.open(project / "ClassBin" / picture) as window:
            assert (np.asarray(window) == images.windows(grey, where / scale, 64)[0]).all()
    counts = {kind: seen.count(kind) for kind in set(seen)}
    assert counts == {
        "good": 36,
        "bad": 36,
        "offcentre": 36,
        "beside": 36 * windows.PER_BAD,
        "empty": 36,
    }
    pictures = {str(path) for path in (project / "ClassBin").rglob("*.png")}
    assert pictures == {str(project / "ClassBin" / name) for name in listed.picture}


def test_a_window_of_the_box_but_for_rounding_is_the_box(project):
    """387 A are within 1 % of the box of 384 A; a window can't reach over it."""
    for out, options in (("box", ()), ("more", ("--window", 387))):
        assert project.call("gen_data", *lists(project), "--size", 512, *options, "--o", out) == 0
    for part in classbin.PARTS:
        assert contents(project / "box" / part) == contents(project / "more" / part)


def test_particles_off_their_centre_are_recentred(project):
    """Boxes cut beside the particles, with the origins that a 2D classification finds."""
    assert project.call("gen_data", *lists(project), "--from-micrographs", "--o", "centred") == 0
    text = (project / project.good).read_text()
    text = text.replace("_rlnUnknownThing #7", "_rlnOriginXAngst #7\n_rlnOriginYAngst #8")
    rows = []
    for line in text.splitlines():
        cells = line.split()
        if "@" in line:
            cells[2:4] = f"{float(cells[2]) + 5:.6f}", f"{float(cells[3]) - 3:.6f}"
            cells[-1] = f"{5 * APIX} {-3 * APIX}"
        rows.append(" ".join(cells))
    (project / project.good).write_text("\n".join(rows) + "\n")
    for name, xy in truth(project).items():
        path = project / f"Extract/job005/{name}s"
        boxes = read_mrc(path)
        boxes[:12] = images.extract(mrc.image(project / name), xy, BOX, SCALE)
        mrc.write(path, boxes, 6.0)
    assert project.call("gen_data", *lists(project), "--from-micrographs", "--o", "moved") == 0
    assert record(project, "moved/dataset.json")["recentred"]
    for part in classbin.PARTS:
        assert contents(project / f"moved/{part}") == contents(project / f"centred/{part}")


def test_no_micrograph_is_in_two_parts(taught):
    listed = read_samples(taught)
    (parts,) = samples.divide(listed, 1, 0)
    parts["testing"] = np.flatnonzero(listed.part == "test")
    held = {part: set(listed.source[index]) for part, index in parts.items()}
    assert sorted(map(len, held.values())) == [1, 1, 1] and len(set.union(*held.values())) == 3
    assert {part: (len(index), listed.label[index].sum()) for part, index in parts.items()} == {
        "training": (60, 12),
        "validation": (60, 12),
        "testing": (60, 12),
    }


def test_what_lies_outside_is_counted(project, capsys):
    text = (project / project.bad).read_text()
    row = next(line for line in text.splitlines() if "@" in line)
    cells = row.split()
    cells[2] = "512.0"
    (project / project.bad).write_text(text.replace(row, " ".join(cells)))
    assert project.call("gen_data", *lists(project), "--from-micrographs") == 0
    out, err = capsys.readouterr()
    assert "warning: 1 particles lie outside their micrographs; left out" in err.splitlines()
    assert "180 " not in out and "bad, " in out
    counts = record(project, "ClassBin/dataset.json")["counts"]
    assert sum(sum(part.values()) for part in counts.values()) == 180 - 1 - windows.PER_BAD


# --- picks ---------------------------------------------------------------------------------------


def test_the_particles_are_picked_and_nothing_else(taught, capsys):
    assert taught.call("gen_picks", *PICK) == 0
    out, err = capsys.readouterr()
    model = record(taught, "ClassBin/model.json")
    found = {name: picked(taught, name) for name in NAMES}
    total = sum(len(xy) for xy, _ in found.values())
    assert out == (
        f"3 micrographs, {total} picks (from {model['threshold']:g}), 0 micrographs without; "
        f"0 skipped -> {taught.path}/{PICKS}\n"
    )
    assert err.splitlines()[-1].startswith("100% 3/3 micrographs [")
    assert f", {total} picks, " in err.splitlines()[-1]
    right, offsets = 0, []
    for name, centres in truth(taught).items():
        xy, scores = found[name]
        right += (peaks.match(xy, centres, 0.3 * DIAMETER / APIX) >= 0).sum()
        gaps = xy[:, None] - centres
        nearest = np.hypot(*gaps.transpose(2, 0, 1)).argmin(axis=1)
        offsets += list(gaps[np.arange(len(xy)), nearest])
        assert (np.diff(scores) <= 0).all() and (scores >= model["threshold"]).all()
        assert ((xy >= BOX / 2) & (xy <= 511 - BOX / 2)).all()
    assert right >= 35 and total <= 38  # of 36
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.1 * BINNED / APIX  # a tenth of a pixel
    counts = record(taught, f"{PICKS}/run_gen_picks.json")["counts"]
    assert counts == {
        **{"micrographs": 3, "picks": total, "without picks": 0, "kept": 0, "skipped": 0}
    }


def test_the_lists_are_those_that_relion_and_cryosparc_take(taught):
    assert taught.call("gen_picks", *PICK, "--max-picks", 5) == 0
    listed = star.scan(taught / f"{PICKS}/autopick.star")["coordinate_files"].read()
    assert listed.to_numpy().tolist() == [
        [name, f"{PICKS}/{relion.rest(name)}_autopick.star"] for name in NAMES
    ]
    assert (taught / f"{PICKS}/coords_suffix_autopick.star").read_text() == MICROGRAPHS + "\n"
    for which, count in (("picks", {5}), ("candidates", range(12, 100))):
        table = star.scan(taught / f"{PICKS}/{which}.star")["particles"]
        assert table.labels == (
            *(relion.MICROGRAPH, relion.X, relion.Y, relion.CLASS, relion.PSI, relion.SCORE),
        )
        names = table.read(relion.MICROGRAPH)[relion.MICROGRAPH]
        assert list(dict.fromkeys(names)) == NAMES
        for name in NAMES:
            one = star.scan(taught / f"{PICKS}/{relion.rest(name)}_autopick.star")[""].read()
            rows = table.read(*one.columns)[(names == name).to_numpy()]
            assert len(rows) in count
            assert rows[:5].to_numpy().tolist() == one.to_numpy().tolist()


def test_options_decide_what_is_kept(taught):
    """By the candidates of a run without them, which hold them all; of a model hardly trained."""
    assert taught.call("gen_model", "--epochs", 5, "--batch", 16, "--o", "weak") == 0
    low = ("--threshold", 0.01)
    assert taught.call("gen_picks", *PICK, *WEAK, *low, "--o", "all") == 0
    every = {name: picked(taught, name, "all") for name in NAMES}
    middle = np.round(np.median(np.concatenate([scores for _, scores in every.values()])), 4)
    for out, options, keep in (
        ("most", (*low, "--max-picks", 4), lambda xy, _: np.arange(len(xy)) < 4),
        ("sure", ("--threshold", middle), lambda _, scores: scores >= middle),
        ("in", (*low, "--border", 400), lambda xy, _: ((xy >= 100) & (xy <= 411)).all(axis=1)),
    ):
        assert taught.call("gen_picks", *PICK, *WEAK, *options, "--o", out) == 0
        left_out = 0
        for name, (xy, scores) in every.items():
            kept = keep(xy, scores)
            left_out += (~kept).sum()
            assert picked(taught, name, out)[0].tolist() == xy[kept].tolist()
        assert 0 < left_out < sum(len(xy) for xy, _ in every.values())


def test_picks_are_as_far_apart_as_is_asked(taught):
    """Of any two nearer the better one is kept, unless one beyond the border keeps it away too."""
    assert taught.call("gen_model", "--epochs", 5, "--batch", 16, "--o", "weak") == 0
    apart, left_out = 500 / APIX, 0
    for out, distance in (("all", 1), ("far", 500)):
        options = ("--threshold", 0.01, "--border", 0, "--min-distance", distance)
        assert taught.call("gen_picks", *PICK, *WEAK, *options, "--o", out) == 0
    for name in NAMES:
        every, found = (picked(taught, name, out)[0] for out in ("all", "far"))
        assert peaks.best_apart(found, apart).all()
        kept = (every[:, None] == found[None]).all(axis=2).any(axis=1)
        assert kept.sum() == len(found)
        for place in np.flatnonzero(~kept):
            better = np.hypot(*(every[:place][kept[:place]] - every[place]).T)
            inside = ((every[place] >= apart) & (every[place] <= 511 - apart)).all()
            assert (better < apart).any() or not inside
            left_out += inside
    assert left_out


def test_the_share_of_false_picks_chooses_the_threshold(taught, capsys):
    expected = record(taught, "ClassBin/model.json")["calibration"]["expected"]
    shares = [0.5, 0.2, 0.1]
    found = []
    for number, share in enumerate(shares):
        capsys.readouterr()
        assert taught.call("gen_picks", *PICK, "--fdr", share, "--o", f"fdr{number}") == 0
        threshold = record(taught, f"fdr{number}/run_gen_picks.json")["options"]["threshold"]
        assert f"(from {threshold:g})" in capsys.readouterr().out
        index = expected["from"].index(threshold)
        assert expected["false"][index] <= share
        assert index == 0 or expected["false"][index - 1] > share
        found.append(sum(len(picked(taught, name, f"fdr{number}")[0]) for name in NAMES))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_every_stride_finds_the_same_particles(taught, stride):
    assert taught.call("gen_picks", *PICK, "--stride", stride, "--threshold", 0.5) == 0
    for name, centres in truth(taught).items():
        right = peaks.match(picked(taught, name)[0], centres, 0.3 * DIAMETER / APIX) >= 0
        assert right.sum() >= 11


def test_nearer_to_the_border_more_is_found(taught):
    """A particle 30 px from the edge: a fifth of its window is the micrograph's reflection."""
    rng = np.random.default_rng(3)
    mrc.write(taught / NAMES[0], micrograph(rng, [(30, 250), (300, 250)], []), APIX)
    assert taught.call("gen_picks", *PICK, "--o", "default") == 0
    assert taught.call("gen_picks", *PICK, "--border", 0, "--o", "near") == 0
    found = [
        np.hypot(*(picked(taught, NAMES[0], out)[0] - (30, 250)).T).min(initial=np.inf) < 8
        for out in ("default", "near")
    ]
    assert found == [False, True]


def test_each_micrograph_is_brought_to_the_models_scale(taught):
    """Another session's micrographs, of 2 A a pixel, in an optics group of their own."""
    fine = *PICK, "--stride", "1"  # scales are tested, not how well the map's hills are met
    assert taught.call("gen_model", "--epochs", "60", "--batch", "16", "-c") == 0
    assert taught.call("gen_picks", *fine) == 0
    for name in NAMES[:2]:
        finer = images.resize(read_mrc(taught / name)[None].astype(float), 1024)[0]
        mrc.write(taught / name, finer, 2.0)
    text = (taught / MICROGRAPHS).read_text()
    group = "opticsGroup1 1 1.0 300 2.7 0.1 4.0\n"
    text = text.replace(group, group + "opticsGroup2 2 1.0 300 2.7 0.1 2.0\n")
    for name in NAMES[:2]:
        text = text.replace(f"{name} 1", f"{name} 2")
    (taught / MICROGRAPHS).write_text(text)
    assert taught.call("gen_picks", *fine, "--o", "finer") == 0
    for name in NAMES:
        (xy, scores), (finer, others) = picked(taught, name), picked(taught, name, "finer")
        factor = 2 if name in NAMES[:2] else 1
        inside = ((finer > BOX / 2 * factor + 1) & (finer < (511 - BOX / 2) * factor - 1)).all(1)
        assert inside.sum() >= 11
        same = peaks.match(finer[inside] / factor, xy, 1)
        away = finer[inside] / factor - xy[same]
        far = xy[same] > 256
        assert (same >= 0).all()
        for axis in (0, 1):  # neither a shift nor a stretch
            assert abs(away[far[:, axis], axis].mean()) < 0.15
            assert abs(away[~far[:, axis], axis].mean()) < 0.15
        assert others[:11] == pytest.approx(scores[:11], abs=0.01)


def test_a_header_with_another_pixel_size_only_warns(taught, capsys):
    assert taught.call("gen_picks", *PICK, "--o", "one") == 0
    for name in NAMES[:2]:
        mrc.write(taught / name, read_mrc(taught / name), 4.2)
    capsys.readouterr()
    assert taught.call("gen_picks", *PICK, "--o", "other") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warned == [
        f"warning: {taught.path}/{NAMES[0]}: its header says 4.2 A a pixel, the list 4; "
        "the list's counts",
        "warning: 2 micrographs in all have headers with another pixel size",
    ]
    for path in ("picks.star", "candidates.star"):
        assert (taught / "one" / path).read_text() == (taught / "other" / path).read_text()


def test_a_micrograph_without_picks_is_counted_and_left_out_of_the_list(taught, capsys):
    mrc.write(taught / NAMES[1], np.random.default_rng(0).normal(size=(512, 512)), APIX)
    assert taught.call("gen_picks", *PICK) == 0
    assert ", 1 micrographs without; 0 skipped -> " in capsys.readouterr().out
    assert len(picked(taught, NAMES[1])[0]) == 0
    listed = (taught / f"{PICKS}/autopick.star").read_text()
    assert [name in listed for name in NAMES] == [True, False, True]
    assert NAMES[1] not in (taught / f"{PICKS}/picks.star").read_text()


@pytest.mark.parametrize("known", [True, False])
def test_a_model_of_stacks_picks_with_a_warning(trained, capsys, known):
    options = PICK
    if not known:
        text = (trained / "ClassBin/model.json").read_text()
        (trained / "ClassBin/model.json").write_text(
            text.replace('"contrast": -1', '"contrast": null')
        )
        options = (*PICK, "--invert")
    assert trained.call("gen_picks", *options) == 0
    assert capsys.readouterr().err.splitlines()[0] == (
        f"warning: {trained.path}/ClassBin/model.h5: trained with RELION's stacks; "
        "gen_data.py --from-micrographs teaches what a micrograph looks like, and picks better"
    )
    assert record(trained, f"{PICKS}/run_gen_picks.json")["options"]["invert"] is True
    for name, centres in truth(trained).items():
        xy, _ = picked(trained, name, which="candidates")
        assert (peaks.match(xy, centres, 0.4 * DIAMETER / APIX) >= 0).sum() >= 9  # of 12


def test_the_contrast_is_turned_round(taught):
    """Inverted micrographs, and a model that is told so, give the picks of the others."""
    assert taught.call("gen_picks", *PICK, "--o", "one") == 0
    for name in NAMES:
        mrc.write(taught / name, -read_mrc(taught / name), APIX)
    assert taught.call("gen_picks", *PICK, "--invert", "--o", "other") == 0
    for name in NAMES:
        one, other = (picked(taught, name, out)[0] for out in ("one", "other"))
        assert len(one) == len(other) and (peaks.match(one, other, 0.2) >= 0).all()


def test_picks_of_a_job_lie_in_its_folder(taught):
    before = snapshot(taught.path)
    assert taught.call("gen_picks", *PICK, "--o", "External/job020/") == 0
    after = snapshot(taught.path)
    assert {name: after[name] for name in before} == before
    job = taught / "External/job020"
    assert {
        str(p.relative_to(job)) for p in job.rglob("[!.]*.*") if ".candidates" not in p.parts
    } == {
        *("autopick.star", "candidates.star", "coords_suffix_autopick.star", "picks.star"),
        *(f"{relion.rest(name)}_autopick.star" for name in NAMES),
        *("run_gen_picks.json", "RELION_OUTPUT_NODES.star"),
    }
    assert (
        f" External/job020/{relion.rest(NAMES[0])}_autopick.star"
        in (taught / "External/job020/autopick.star").read_text()
    )


# --- running again -------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_touches_nothing(taught, capsys):
    assert taught.call("gen_picks", *PICK) == 0
    before = snapshot(taught.path)
    capsys.readouterr()
    assert taught.call("gen_picks", *PICK) == 0
    assert capsys.readouterr().out == (
        f"finished before: nothing to do, 3 micrographs -> {taught.path}/{PICKS}\n"
    )
    assert snapshot(taught.path) == before


def test_what_is_missing_is_done_again(taught):
    assert taught.call("gen_picks", *PICK) == 0
    whole = contents(taught / PICKS)
    for path in (f"{relion.rest(NAMES[0])}_autopick.star", "candidates.star", "autopick.star"):
        (taught / PICKS / path).unlink()
    (taught / f"{PICKS}/.candidates/{relion.rest(NAMES[2])}.star").unlink()
    assert taught.call("gen_picks", *PICK) == 0
    assert contents(taught / PICKS) == whole
    assert record(taught, f"{PICKS}/run_gen_picks.json")["counts"]["kept"] == 1


def test_clear_removes_what_the_run_wrote_and_nothing_else(taught):
    assert taught.call("gen_picks", *PICK, "--threshold", 0.9) == 0
    shutil.move(taught / f"{PICKS}/{relion.rest(NAMES[0])}_autopick.star", taught / "kept.star")
    (taught / f"{PICKS}/Micrographs/mine.txt").write_text("mine")
    assert taught.call("gen_picks", *PICK, "--sample", 1, "-c") == 0
    left = {path.name for path in (taught / PICKS).rglob("*_autopick.star")} - {
        "coords_suffix_autopick.star"
    }
    assert len(left) == 1
    assert (taught / f"{PICKS}/Micrographs/mine.txt").read_text() == "mine"
    options = record(taught, f"{PICKS}/run_gen_picks.json")["options"]
    assert options["threshold"] == record(taught, "ClassBin/model.json")["threshold"]


def test_new_micrographs_in_the_list_are_all_that_is_worked_on(taught, capsys):
    assert taught.call("gen_picks", *PICK, "--o", "undisturbed") == 0
    text = (taught / MICROGRAPHS).read_text()
    (taught / MICROGRAPHS).write_text(text.replace(f"{NAMES[2]} 1 15000.0\n", ""))
    assert taught.call("gen_picks", *PICK) == 0
    before = snapshot(taught / PICKS)
    assert NAMES[2] not in (taught / f"{PICKS}/picks.star").read_text()
    (taught / MICROGRAPHS).write_text(text)
    capsys.readouterr()
    assert taught.call("gen_picks", *PICK) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("100% 1/1 micrographs ")
    after = snapshot(taught / PICKS)
    for name in NAMES[:2]:
        path = f"{relion.rest(name)}_autopick.star"
        assert after[path] == before[path]
    names = {name.replace("undisturbed", PICKS) for name in contents(taught / "undisturbed")}
    assert contents(taught / PICKS).keys() == names
    for name, data in without_records(taught / "undisturbed").items():
        kept = (taught / PICKS / name).read_bytes()
        assert kept == data.replace(b" undisturbed/", f" {PICKS}/".encode())
    assert record(taught, f"{PICKS}/run_gen_picks.json")["counts"]["kept"] == 2


def test_a_shorter_list_leaves_its_picks_but_lists_only_its_own(taught):
    assert taught.call("gen_picks", *PICK) == 0
    text = (taught / MICROGRAPHS).read_text()
    (taught / MICROGRAPHS).write_text(text.replace(f"{NAMES[1]} 1 15000.0\n", ""))
    assert taught.call("gen_picks", *PICK) == 0
    for path in ("autopick.star", "picks.star", "candidates.star"):
        assert NAMES[1] not in (taught / PICKS / path).read_text()
    assert len(picked(taught, NAMES[1])[0]) >= 11


def test_a_sample_is_spread_over_defocus_and_then_completed(taught, capsys):
    text = (taught / MICROGRAPHS).read_text()
    for name, defocus in zip(NAMES, (20000, 25000, 10000), strict=True):
        text = text.replace(f"{name} 1 15000.0", f"{name} 1 {defocus}.0")
    (taught / MICROGRAPHS).write_text(text)
    assert taught.call("gen_picks", *PICK) == 0
    whole = without_records(taught / PICKS)
    shutil.rmtree(taught / PICKS)
    capsys.readouterr()
    assert taught.call("gen_picks", *PICK, "--sample", 2) == 0
    said = capsys.readouterr().out.splitlines()
    spread = f"2 of 3 micrographs, spread over defocus: {NAMES[1]} {NAMES[2]}"
    assert said[0] == spread and said[1].startswith("2 micrographs, ")
    done = {
        name for name in NAMES if (taught / PICKS / f"{relion.rest(name)}_autopick.star").exists()
    }
    assert done == {NAMES[1], NAMES[2]}  # the least and the greatest defocus
    listed = (taught / f"{PICKS}/autopick.star").read_text()
    assert [name in listed for name in NAMES] == [False, True, True]
    assert taught.call("gen_picks", *PICK, "--sample", 2) == 0
    assert "finished before" in capsys.readouterr().out
    assert taught.call("gen_picks", *PICK) == 0
    assert without_records(taught / PICKS) == whole


# --- processes, and what stops them --------------------------------------------------------------


@contextlib.contextmanager
def started(project, *options):
    """Give gen_picks.py as a process with its own group, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "gen_picks.py", *PICK, *map(str, options)],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what runs in a shell's background inherits that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(project, process, count):
    """Wait until so many micrographs are done; the process must not end before."""
    deadline = time.monotonic() + 120
    while count_picked(project) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def _many(_taught, tmp_path_factory):
    """A list of 40 micrographs, and the files of an undisturbed run in one process."""
    return picked_whole(_taught.copy(tmp_path_factory.mktemp("many") / "p"), 37)


@pytest.fixture
def many(_many, tmp_path):
    project, expected = _many
    return project.copy(tmp_path / "many", os.link), expected


@pytest.mark.parametrize(
    ("jobs", "stop", "code"),
    [
        pytest.param(None, signal.SIGKILL, -signal.SIGKILL, id="one killed"),
        pytest.param(2, signal.SIGKILL, -signal.SIGKILL, id="two killed"),
        pytest.param(2, signal.SIGINT, 130, id="two interrupted"),
    ],
)
def test_a_stopped_run_is_continued_to_the_same_end(many, jobs, stop, code):
    project, expected = many
    with started(project, *(["-j", jobs] if jobs else [])) as process:
        wait_for(project, process, random.Random(jobs or 0).randrange(3, 20))
        os.killpg(process.pid, stop)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code and count_picked(project) < 40
    if stop == signal.SIGINT:
        assert err.splitlines()[-1] == "gen_picks.py: interrupted; run the same command again"
        assert "Traceback" not in err
    assert record(project, f"{PICKS}/run_gen_picks.json")["state"] == "unfinished"
    before = snapshot(project / PICKS)
    assert project.call("gen_picks", *PICK) == 0
    after = snapshot(project / PICKS)
    kept = [name for name in before if name.endswith("_autopick.star") and "/." not in name]
    assert len(kept) >= 3 and all(after[name] == before[name] for name in kept)
    assert contents(project / PICKS) == expected


@pytest.mark.slow
def test_20_kills_at_random_moments_do_not_show(taught):
    dice = random.Random(0)
    project, expected = picked_whole(taught, 197)
    for _ in range(20):
        with started(project, "-j", dice.choice([1, 2])) as process:
            if dice.random() < 0.75:  # else in the start
                wait_for(project, process, count_picked(project) + dice.randrange(1, 6))
            time.sleep(dice.uniform(0, 0.1))
            target = os.killpg if dice.random() < 0.8 else os.kill  # all, or the first one only
            target(process.pid, signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL, "make the list longer"
    with started(project, "-j", 2) as process:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert contents(project / PICKS) == expected


def test_a_process_that_is_killed_loses_nothing(many):
    project, expected = many
    with started(project, "-j", 2) as process:
        wait_for(project, process, 3)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert contents(project / PICKS).keys() == expected.keys()
    assert contents(project / PICKS) == expected


# --- micrographs that can't be used --------------------------------------------------------------


def spoil(project):
    """Make four of ten micrographs useless; return what is said of each, in order."""
    names = more(project, 7)
    for name in names[3:7]:  # they are links
        data = read_mrc(project / name)
        (project / name).unlink()
        if name == names[4]:
            data[8, 9] = np.nan
        if name == names[5]:
            data[:] = 7
        if name != names[6]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # mrcfile sees it too
                mrc.write(project / name, data, APIX)
    os.truncate(project / names[3], 5000)
    size = 1024 + 4 * 512 * 512
    path = f"{project.path}/Micrographs/more"
    return names, [
        f"{path}/0.mrc: truncated: 5000 bytes, its header asks for {size}",
        f"{path}/1.mrc: 1 pixels are not finite",
        f"{path}/2.mrc: every pixel is 7",
        f"{path}/3.mrc: No such file or directory",
    ]


def test_bad_micrographs_are_named_and_skipped_and_the_others_done(taught, capsys):
    names, faults = spoil(taught)
    options = ("--max-bad", 40)
    assert taught.call("gen_picks", *PICK, *options) == 1
    out, err = capsys.readouterr()
    warned = [line for line in err.splitlines() if line.startswith("warning")]
    assert warned == [f"warning: {fault}; skipped" for fault in faults]
    assert re.match(r"6 micrographs, \d+ picks .*; 4 skipped -> ", out)
    assert err.splitlines()[-1] == (
        f"gen_picks.py: error: {taught.path}/{MICROGRAPHS}: 4 micrographs were skipped: "
        f"{'; '.join(faults[:3])}; ..."
    )
    good = [name for name in names if name not in names[3:7]]
    listed = (taught / f"{PICKS}/autopick.star").read_text()
    assert [name for name in names if f"{name} " in listed] == good
    assert all(len(picked(taught, name)[0]) >= 11 for name in good)
    whole = contents(taught / PICKS)
    shutil.rmtree(taught / PICKS)
    with started(taught, "-j", 2, *options) as process:  # the same from two processes
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.partition(" -> ")[0] == out.partition(" -> ")[0]
    assert sorted(warned) == sorted(line for line in errors.splitlines() if "warning" in line)
    assert contents(taught / PICKS) == whole
    for name in names[3:7]:  # mended, they are all that is missing
        shutil.copy(taught / NAMES[0], taught / name)
    assert taught.call("gen_picks", *PICK, *options) == 0
    assert record(taught, f"{PICKS}/run_gen_picks.json")["counts"]["kept"] == 6


def test_bad_micrographs_are_tried_again_and_reported_again(taught, capsys):
    (taught / NAMES[1]).unlink()
    for _ in range(2):
        assert taught.call("gen_picks", *PICK) == 1
        out, err = capsys.readouterr()
        assert out.startswith("2 micrographs, ") and "; 1 skipped -> " in out
        assert err.splitlines()[-1] == (
            f"gen_picks.py: error: {taught.path}/{MICROGRAPHS}: 1 micrographs were skipped: "
            f"{taught.path}/{NAMES[1]}: No such file or directory"
        )


def test_over_max_bad_the_run_stops_and_goes_on_when_told(taught, capsys):
    names, _ = spoil(taught)
    assert taught.call("gen_picks", *PICK, "--max-bad", 20) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1] == (
        "gen_picks.py: error: 3 of 10 micrographs can't be used, more than --max-bad 20 % allows; "
        "what this run picked stays, and the same command without -c goes on"
    )
    assert count_picked(taught) == 3 and not (taught / f"{PICKS}/picks.star").exists()
    assert record(taught, f"{PICKS}/run_gen_picks.json")["state"] == "unfinished"
    assert taught.call("gen_picks", *PICK, "--max-bad", 100) == 1
    assert count_picked(taught) == 6 and (taught / f"{PICKS}/picks.star").exists()


def test_where_none_can_be_read_it_says_so(taught, capsys):
    for path in (taught / "Micrographs").rglob("*.mrc"):
        path.write_bytes(path.read_bytes()[:2000])
    assert taught.call("gen_picks", *PICK, "--max-bad", 100) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("gen_picks.py: error: none of 3 micrographs can be used: ")
