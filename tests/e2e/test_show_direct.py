"""What show_picks.py draws of direct picking: sizes, colours, dashes."""

import json
import shutil
import warnings

import numpy as np
import pytest
from conftest import APIX, micrographs_star, read_mrc
from PIL import Image

from apbc_common import classbin, mrc, relion

MIC = "Micrographs/sub0/mic_a.0.mrc"
OWN = f"{MIC.removesuffix('.mrc')}_autopick.star"
PICKS = "ClassBin/picks"
SCORES = (0.1, 0.3, 0.5, 0.7, 0.9)
CENTRES = np.array([[70, 256], [160, 256], [256, 256], [350, 256], [440, 256]])
BOX = 80


def record_picking(project, folder=PICKS, threshold=0.4, diameter=200.0):
    """Write the records that a run of direct picking leaves, without a run."""
    names = [MIC, "Micrographs/sub1/mic_a.1.mrc"]
    (project / "some.star").write_text(micrographs_star(names))
    own = [relion.rest(name) + "_autopick.star" for name in names]
    path = {"model": "ClassBin/model.h5", "list": "some.star"}
    record = {
        "state": "finished",
        "inputs": {"model": {"path": path["model"], "sha256": ""}},
        "growing": {"list": {"path": path["list"], "sha256": ""}},
        "options": {"threshold": threshold},
        "outputs": [*own, "picks.star", "candidates.star"],
    }
    classbin.write_json(made(project / folder / "run_gen_picks.json"), record)
    kinds = {part: dict.fromkeys(classbin.KINDS, 1) for part in classbin.PARTS}
    dataset = {
        "window_px": 64,
        "image_px": 96,
        "window_angst": 384.0,
        "box_angst": 384.0,
        "counts": kinds,
    }
    dataset |= {"source": "micrograph", "contrast": 1, "files": {}, "micrographs": {}}
    model = {"options": {"seed": 0}, "threshold": threshold, "sha256": "", "calibration": None}
    model["dataset"] = {**dataset, "diameter_angst": diameter}
    classbin.write_json(made(project / "ClassBin/model.json"), model)


def made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_picks(project, path, scores=SCORES):
    relion.write_coordinates(made(project / path), CENTRES, scores)


def drawn(project, what):
    """The caption and the picture, as int RGB."""
    with Image.open(project / f"ClassBin/pngs/{MIC.removesuffix('.mrc')}_{what}.png") as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    return rgb[:40], rgb[40:]


def ring(picture, centre, box=BOX):
    """The most colourful pixel across the circle, at each of 360 angles: (360, 3)."""
    angle = np.arange(360)[:, None] * np.pi / 180
    radius = box / 2 + np.arange(-2, 3)
    x, y = (
        np.rint(c + radius * f(angle)).astype(int)
        for c, f in zip(centre, (np.cos, np.sin), strict=True)
    )
    across = picture[y, x]
    best = np.ptp(across, axis=2).argmax(axis=1)
    return across[np.arange(360), best]


def colourful(pixels):
    return np.ptp(pixels, axis=-1) > 60


# --- the size of the circles ----------------------------------------------------------------------


def test_what_gen_picks_picked_is_drawn_without_more_options(trained, capsys):
    assert trained.call("gen_picks", "-i", trained.micrographs) == 0
    mrc.write(trained / MIC, read_mrc(trained / MIC), 2 * APIX)  # the list counts, not the header
    model = json.loads((trained / "ClassBin/model.json").read_text())
    circles = model["dataset"]["diameter_angst"] / APIX
    rows = (trained / PICKS / "picks.star").read_text().splitlines()
    count = sum(row.startswith(f"{MIC} ") for row in rows)
    assert count
    for options, what in (
        ((), "picks"),
        (("-s", f"{PICKS}/picks.star"), "picks"),
        (("-s", f"{PICKS}/{OWN}"), "autopick"),
    ):
        capsys.readouterr()
        assert trained.call("show_picks", "-m", MIC, *options) == 0
        assert capsys.readouterr().out == (
            f"{count} picks, 0 of them outside, circles of {circles:.0f} px -> "
            f"{trained.path}/ClassBin/pngs/{MIC.removesuffix('.mrc')}_{what}.png\n"
        )
    assert trained.call("show_picks", "-m", MIC, "-x", 33) == 0
    assert f"{count} picks, 0 of them outside, circles of 33 px" in capsys.readouterr().out


def test_picks_of_another_folder_know_their_size_too(project, capsys):
    record_picking(project, "External/job020", diameter=240.0)
    write_picks(project, f"External/job020/{OWN}")
    assert project.call("show_picks", "-m", MIC, "-s", f"External/job020/{OWN}") == 0
    assert "circles of 60 px" in capsys.readouterr().out


def test_a_file_that_the_run_did_not_write_needs_its_size(project, capsys):
    record_picking(project)
    write_picks(project, f"{PICKS}/mine_autopick.star")
    assert project.call("show_picks", "-m", MIC, "-s", f"{PICKS}/mine_autopick.star") == 1
    assert capsys.readouterr().err == (
        f"show_picks.py: error: {project.path}/{PICKS}/mine_autopick.star: coordinates, "
        "which have no box; give -x BOX, the circles' diameter in pixels of the micrograph\n"
    )


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "ClassBin/model.json",
            "{}/ClassBin/model.json: not there; run gen_model.py first; or give -x BOX",
        ),
        (
            f"{PICKS}/picks.star",
            f"{{}}/{PICKS}/picks.star: not there; pick with gen_picks.py first, or name a list "
            "with -s",
        ),
    ],
)
def test_what_is_missing_is_named(project, capsys, missing, message):
    record_picking(project)
    relion.gather_coordinates(project / PICKS / "picks.star", [])
    write_picks(project, f"{PICKS}/{OWN}")
    relion.gather_coordinates(project / PICKS / "picks.star", [(MIC, project / PICKS / OWN)])
    (project / missing).unlink()
    assert project.call("show_picks", "-m", MIC) == 1
    assert capsys.readouterr().err == f"show_picks.py: error: {message.format(project.path)}\n"
    assert not (project / "ClassBin/pngs").exists()


def test_a_damaged_record_is_named(project, capsys):
    record_picking(project)
    write_picks(project, f"{PICKS}/{OWN}")
    (project / PICKS / "run_gen_picks.json").write_text("{")
    assert project.call("show_picks", "-m", MIC, "-s", f"{PICKS}/{OWN}") == 1
    assert capsys.readouterr().err == (
        f"show_picks.py: error: {project.path}/{PICKS}/run_gen_picks.json: damaged; move it away "
        "with what the run wrote, or use --o DIR\n"
    )


# --- colours --------------------------------------------------------------------------------------


def test_the_colour_of_a_circle_is_that_of_its_score_on_the_bar(project):
    write_picks(project, OWN)
    assert project.call("show_picks", "-m", MIC, "-s", OWN, "-x", BOX) == 0
    caption, picture = drawn(project, "Micrographs_sub0_autopick")
    bar = caption[20][colourful(caption[20])]
    assert 100 < len(bar) < 130
    found, light = [], []
    for centre in CENTRES:
        circle = ring(picture, centre)
        assert colourful(circle).mean() > 0.98
        colour = np.median(circle, axis=0)
        found.append(abs(bar - colour).sum(axis=1).argmin() / (len(bar) - 1))
        light.append(colour @ (0.3, 0.59, 0.11))
    assert found == pytest.approx(SCORES, abs=0.06)
    assert (np.diff(light) > 5).all()


@pytest.mark.parametrize("scores", [None, (0.5, 0.6, 0.7, 0.8, 1.1), (-0.1, 0, 0, 0, 1)])
def test_what_is_no_probability_has_one_colour_and_no_bar(project, scores):
    write_picks(project, OWN, scores)
    assert project.call("show_picks", "-m", MIC, "-s", OWN, "-x", BOX) == 0
    caption, picture = drawn(project, "Micrographs_sub0_autopick")
    assert not colourful(caption).any()
    plain = np.array([0x35, 0xE0, 0x4A])
    for centre in CENTRES:
        assert abs(np.median(ring(picture, centre), axis=0) - plain).max() < 20


def test_candidates_below_the_threshold_are_dashed(project, capsys):
    record_picking(project, threshold=0.5)
    write_picks(project, f"{PICKS}/{OWN}")
    relion.gather_coordinates(project / PICKS / "candidates.star", [(MIC, project / PICKS / OWN)])
    picked = f"{PICKS}/candidates.star"
    assert project.call("show_picks", "-m", MIC, "-s", picked, "-x", BOX) == 0
    said = "5 candidates, 2 of them below 0.5 (dashed), 0 of them outside, circles of 80 px -> "
    assert capsys.readouterr().out.startswith(said)
    _, picture = drawn(project, "candidates")
    drawn_part = [colourful(ring(picture, centre)).mean() for centre in CENTRES]
    assert all(0.4 < part < 0.9 for part in drawn_part[:2])
    assert all(part > 0.98 for part in drawn_part[2:])


def test_a_micrograph_without_picks_is_drawn(project, capsys):
    record_picking(project)
    relion.write_coordinates(project / PICKS / OWN, np.empty((0, 2)), [])
    assert project.call("show_picks", "-m", MIC, "-s", f"{PICKS}/{OWN}") == 0
    assert capsys.readouterr().out.startswith("0 picks, 0 of them outside, circles of 50 px -> ")
    caption, picture = drawn(project, "autopick")
    assert not colourful(caption).any() and not colourful(picture).any()


def test_a_micrograph_of_the_run_without_a_pick_is_drawn_from_the_list_of_all(project, capsys):
    record_picking(project)
    relion.gather_coordinates(project / PICKS / "picks.star", [])
    assert project.call("show_picks", "-m", MIC) == 0
    assert capsys.readouterr().out.startswith("0 picks, 0 of them outside, circles of 50 px -> ")
    away = MIC.replace("mic_a.0", "mic_b")
    shutil.copy(project / MIC, project / away)
    assert project.call("show_picks", "-m", away) == 1
    assert f"no picks of {away} among 0 micrographs" in capsys.readouterr().err


def test_a_file_of_another_micrograph_is_warned_of(project, capsys):
    record_picking(project)
    write_picks(project, f"{PICKS}/{OWN}")
    away = MIC.replace("mic_a.0", "mic_b")
    shutil.copy(project / MIC, project / away)
    assert project.call("show_picks", "-m", away, "-s", f"{PICKS}/{OWN}") == 0
    assert capsys.readouterr().err == (
        f"warning: {project.path}/{PICKS}/{OWN}: by its name of mic_a.0.mrc, drawn on {away}\n"
    )


@pytest.mark.parametrize("name", ["a$b_$c.mrc", "漢字.mrc"])
def test_any_name_can_be_a_title(project, capsys, name):
    shutil.copy(project / MIC, project / name)
    write_picks(project, "x_autopick.star")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert project.call("show_picks", "-m", name, "-s", "x_autopick.star", "-x", BOX) == 0


def test_picks_of_the_folder_written_to_come_first(project, capsys):
    record_picking(project)
    relion.gather_coordinates(project / PICKS / "picks.star", [])
    record_picking(project, "C")
    write_picks(project, f"C/{OWN}")
    relion.gather_coordinates(project / "C/picks.star", [(MIC, project / "C" / OWN)])
    assert project.call("show_picks", "-m", MIC, "--o", "C") == 0
    assert not capsys.readouterr().out.startswith("0 picks")


def test_a_long_title_ends_before_the_bar(project):
    folder = "AutoPick/job007/" + "a_long_name/" * 5
    write_picks(project, folder + OWN)
    assert project.call("show_picks", "-m", MIC, "-s", folder + OWN, "-x", BOX) == 0
    (written,) = (project / "ClassBin/pngs").rglob("*.png")
    with Image.open(written) as picture:
        caption = np.asarray(picture.convert("L"))[:40]
    inked = np.flatnonzero((caption < 128).any(axis=0))
    assert 300 < inked[inked < 512 - 152].max() < 512 - 160  # the bar's 0 comes next
