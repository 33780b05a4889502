"""What show_picks.py draws of direct picking: sizes, colours, dashes."""

import itertools
import json
import os
import re
import shutil
import time
import warnings
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import APIX, micrographs_star, read_mrc, snapshot
from conftest import BOX as EXTRACTED
from matplotlib.colors import to_rgb
from PIL import Image

import show_picks
from apbc_common import classbin, mrc, overlay, relion

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


# --- the micrograph -------------------------------------------------------------------------------


def white_bar(picture):
    """How long the whitest row is, in pixels: 0 without a scale bar."""
    rows = (picture == 255).all(axis=-1)
    return max(len(list(run)) for row in rows for white, run in itertools.groupby(row) if white)


@pytest.mark.parametrize(
    ("header", "listed", "length"),
    [(4.0, None, 50), (1.77, None, 56.5), (40.0, None, 50), (1.77, 4.0, 50), (0, None, 0)],
)
def test_the_scale_bar_is_as_long_as_it_says(project, header, listed, length):
    """20 nm of 4 A, 10 of 1.77, 200 of 40; a list of micrographs goes before the header."""
    mrc.write(project / MIC, read_mrc(project / MIC), header)
    write_picks(project, f"{PICKS}/{OWN}")
    if listed:
        record_picking(project)
    options = ("-m", MIC, "-s", f"{PICKS}/{OWN}", "-x", BOX)
    assert project.call("show_picks", *options) == 0
    _, picture = drawn(project, "autopick")
    if not length:
        assert white_bar(picture) < 10
        return
    bar = picture[501, :80]
    assert white_bar(picture) == pytest.approx(length, abs=1)
    assert white_bar(bar[None]) == pytest.approx(length, abs=1)
    assert (bar[11] < 60).all() and (bar[12] > 230).all()  # its rim
    assert project.call("show_picks", *options, "--out", "a.svg") == 0
    nanometres = {50: {4.0: "20 nm", 40.0: "200 nm"}.get(listed or header), 56.5: "10 nm"}[length]
    assert nanometres in texts(project / "a.svg")


def texts(path):
    """All text in an SVG that is text."""
    return ["".join(one.itertext()).strip() for one in svg(path).iter(f"{SVG}text")]


SVG = "{http://www.w3.org/2000/svg}"


def svg(path):
    return ElementTree.parse(path).getroot()


def test_carbon_is_as_grey_as_the_rest(project):
    picture = read_mrc(project / MIC)
    picture[:, 256:] = 5 * picture[:, 256:] - 300
    mrc.write(project / MIC, picture, APIX)
    relion.write_coordinates(project / "none_autopick.star", np.empty((0, 2)))
    assert project.call("show_picks", "-m", MIC, "-s", "none_autopick.star", "-x", 30) == 0
    with Image.open(project / f"ClassBin/pngs/{MIC[:-4]}_autopick.png") as grey:
        grey = np.asarray(grey.convert("L")).astype(float)[40:460]
    left, right = grey[:, :190], grey[:, 322:]  # a region from the border
    assert left.mean() == pytest.approx(right.mean(), abs=5)
    assert left.std() == pytest.approx(right.std(), rel=0.1) and left.std() > 25


def test_a_lowpass_takes_noise_away(project, capsys):
    write_picks(project, OWN)
    rough = {}
    for lowpass in ((), ("--lowpass", 16), ("--lowpass", 60)):
        options = ("-m", MIC, "-s", OWN, "-x", BOX, *lowpass)
        assert project.call("show_picks", *options) == 0
        _, picture = drawn(project, "Micrographs_sub0_autopick")
        grey = picture[:200, :, 0].astype(float)
        rough[lowpass] = np.diff(grey, axis=1).std() / grey.std()
    none, some, much = rough.values()
    assert none > 1.3 and 0.6 < some < 1.1 and much < 0.35


# --- several lists --------------------------------------------------------------------------------


def colour(number):
    return np.array(to_rgb(overlay.COLOURS[number])) * 255


def coloured(circle, number):
    """The part of a circle that has a list's colour."""
    return (abs(circle - colour(number)).max(axis=1) < 40).mean()


def lists_of(project, **places):
    """Write coordinate files ``<name>_autopick.star``; return the options that name them."""
    for name, xy in places.items():
        relion.write_coordinates(project / f"{name}_autopick.star", xy, [0.5] * len(xy))
    return [word for name in places for word in ("-s", f"{name}_autopick.star")]


def test_each_list_has_its_colour_and_a_row_of_the_legend(project, capsys):
    assert len(overlay.COLOURS) == show_picks.MOST
    lists = lists_of(project, a=CENTRES[:2], b=CENTRES[3:], c=CENTRES[:1])
    out = ("--out", "pictures/of three.png")
    assert project.call("show_picks", "-m", MIC, *lists, "-x", BOX, *out) == 0
    path = f"{project.path}/pictures/of three.png"
    assert capsys.readouterr().out == (
        "a_autopick.star: 2 picks, 0 of them outside, circles of 80 px\n"
        "b_autopick.star: 2 picks, 0 of them outside, circles of 80 px\n"
        f"c_autopick.star: 1 picks, 0 of them outside, circles of 80 px -> {path}\n"
    )
    with Image.open(path) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(int)
    rows, picture = np.split(rgb[40:], [3 * 28])
    assert picture.shape == (512, 512, 3)
    for number, row in enumerate(np.split(rows, 3)):
        parts = [(abs(row[:, :28] - colour(n)).max(axis=-1) < 40).sum() for n in range(3)]
        assert parts[number] > 20 and sum(parts) == parts[number]
        assert (row[:, 28:] < 128).any()  # text
    for centre, number in ((0, 0), (1, 0), (3, 1), (4, 1), (0, 2)):
        circle = ring(picture, CENTRES[centre], BOX - 8 * number)
        assert coloured(circle, number) > 0.9
    assert not colourful(ring(picture, CENTRES[2])).any()
    assert project.call("show_picks", "-m", MIC, *lists, "-x", BOX) == 0
    assert (project / f"ClassBin/pngs/{MIC[:-4]}_autopick_autopick_autopick.png").is_file()


def test_candidates_among_several_lists_are_dashed_too(project, capsys):
    record_picking(project, threshold=0.5)
    write_picks(project, f"{PICKS}/{OWN}")
    relion.gather_coordinates(project / PICKS / "candidates.star", [(MIC, project / PICKS / OWN)])
    lists = ("-s", f"{PICKS}/candidates.star", *lists_of(project, b=[[256, 100]]))
    assert project.call("show_picks", "-m", MIC, *lists, "-x", BOX, "--out", "a.png") == 0
    said = f"{PICKS}/candidates.star: 5 candidates, 2 of them below 0.5 (dashed), 0 of them outside"
    assert capsys.readouterr().out.startswith(said)
    with Image.open(project / "a.png") as picture:
        picture = np.asarray(picture.convert("RGB")).astype(int)[40 + 2 * 28 :]
    parts = [coloured(ring(picture, centre), 0) for centre in CENTRES]
    assert max(parts[:2]) < 0.9 < min(parts[2:]) and min(parts) > 0.3


def test_a_list_without_a_size_takes_that_of_the_first_that_has_one(project, capsys):
    record_picking(project)
    write_picks(project, f"{PICKS}/{OWN}")
    (project / "a.box").write_text("10 20 31 40\n\n-5\t7.0 30 30 -3\n")
    own = f"{PICKS}/{OWN}"
    for lists, sizes in (
        (("a_autopick.star", own, "a.box"), (50, 50, 31)),
        (("a_autopick.star", "a.box", own), (31, 31, 50)),
        (("a_autopick.star", project.good, own), (EXTRACTED, EXTRACTED, 50)),
    ):
        lists_of(project, a=[[9, 9]])
        named = [word for one in lists for word in ("-s", one)]
        assert project.call("show_picks", "-m", MIC, *named, "--out", "a.png") == 0
        said = re.findall(r"circles of (\d+) px", capsys.readouterr().out)
        assert said == list(map(str, sizes))
    assert project.call("show_picks", "-m", MIC, *named, "-x", 44, "--out", "a.png") == 0
    assert capsys.readouterr().out.count("circles of 44 px") == 3


def test_box_files_are_drawn_round_their_middle(project, capsys):
    """By whole numbers, as RELION reads them."""
    (project / "a.box").write_text("60 216 81 81\n220\t300\t80\t60\n")
    assert project.call("show_picks", "-m", MIC, "-s", "a.box", "--out", "a.svg") == 0
    assert capsys.readouterr().out == (
        f"2 picks, 0 of them outside, circles of 81 px -> {project.path}/a.svg\n"
    )
    found = np.array(sorted(middles(project / "a.svg")))
    assert found == pytest.approx(np.array([(100, 256), (260, 330)]), abs=0.01)
    assert project.call("show_picks", "-m", MIC, "-s", "a.box") == 0
    assert (project / f"ClassBin/pngs/{MIC[:-4]}_box.png").is_file()


def test_a_list_without_picks_of_the_micrograph_is_warned_of(project, capsys):
    write_picks(project, OWN)
    other = "Micrographs/sub1/mic_a.1.mrc"
    relion.gather_coordinates(project / "others.star", [(other, project / OWN)])
    lists = ("-x", BOX, "-s", "others.star")
    assert project.call("show_picks", "-m", MIC, *lists, "-s", OWN, "--out", "a.svg") == 0
    said, missing = capsys.readouterr(), f"no picks of {MIC} among 1 micrographs ({other})"
    assert said.err == f"warning: {project.path}/others.star: {missing}\n"
    assert said.out.startswith("others.star: 0 picks, 0 of them outside, circles of 80 px\n")
    assert {"others.star: 0 picks", f"{OWN}: 5 picks"} <= set(texts(project / "a.svg"))
    before = snapshot(project.path)
    assert project.call("show_picks", "-m", MIC, *lists, "-s", "others.star") == 1
    said = capsys.readouterr().err
    assert said == f"show_picks.py: error: {project.path}/others.star: {missing}\n"
    assert snapshot(project.path) == before


# --- vectors --------------------------------------------------------------------------------------


def middles(path, number=1, height=512):
    """The centres of a list's circles in an SVG of a micrograph, in its pixels."""
    root = svg(path)
    (group,) = (g for g in root.iter(f"{SVG}g") if g.get("id") == f"list_{number}")
    scale = 100 / 72  # pixels a point
    below = float(root.get("viewBox").split()[3]) * scale - height  # the caption
    found = set()
    for one in group.iter(f"{SVG}path"):
        xy = np.array(re.findall(r"[-\d.]+ [-\d.]+", one.get("d")))
        xy = np.array([pair.split() for pair in xy], float) * scale
        middle = (xy.min(axis=0) + xy.max(axis=0)) / 2 - (0.5, below + 0.5)
        found.add(tuple(middle.round(3)))
    return found


def test_svg_has_circles_and_text_as_such(project):
    a, b = CENTRES[:3] + 0.25, CENTRES[3:]
    lists = lists_of(project, a=a, b=b)
    assert project.call("show_picks", "-m", MIC, *lists, "-x", BOX, "--out", "a.SVG") == 0
    for number, xy in ((1, a), (2, b)):
        found = sorted(middles(project / "a.SVG", number))
        assert np.array(found) == pytest.approx(xy, abs=0.01)
    assert texts(project / "a.SVG") == [
        "20 nm", MIC, "a_autopick.star: 3 picks", "b_autopick.star: 2 picks",
    ]  # fmt: skip
    (image,) = svg(project / "a.SVG").iter(f"{SVG}image")
    assert (float(image.get("width")), float(image.get("height"))) == (512, 512)


def test_pdf_has_circles_and_text_as_such(project):
    lists = lists_of(project, a=CENTRES)
    assert project.call("show_picks", "-m", MIC, *lists, "-x", BOX, "--out", "a.pdf") == 0
    pdf = (project / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert pdf.count(b"/Subtype /Image") == 2  # the micrograph and the colours
    assert b"DejaVuSans" in pdf and b"/CIDFontType2" in pdf
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    page = zlib.decompress(streams[0])
    assert page.count(b" c\n") >= 2 * 8 * len(CENTRES)  # each circle and its rim, in arcs
    assert page.count(b"BT\n") == 4  # title, scale bar, ends of the colours


@pytest.mark.parametrize("name", ['漢字 <&>".mrc', "a\x07b.mrc"])
def test_any_name_can_be_in_an_svg(project, name):
    shutil.copy(project / MIC, project / name)
    lists = lists_of(project, a=CENTRES)
    assert project.call("show_picks", "-m", name, *lists, "-x", BOX, "--out", "a.svg") == 0
    (title,) = (text for text in texts(project / "a.svg") if ".mrc" in text)
    assert title.split("   ")[0] == name.replace("\x07", "\N{REPLACEMENT CHARACTER}")


# --- all micrographs ------------------------------------------------------------------------------

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
LISTED = "CtfFind/job003/micrographs_ctf.star"


def pictures(project, what="picks"):
    """When each picture was written, by micrograph."""
    paths = {name: project / f"ClassBin/pngs/{name[:-4]}_{what}.png" for name in NAMES}
    return {name: path.stat().st_mtime_ns for name, path in paths.items() if path.exists()}


def picked(project):
    """Picks of a run: of the first two micrographs of its list of three, none on the second."""
    record_picking(project)
    (project / "some.star").write_text(micrographs_star(NAMES))
    write_picks(project, f"{PICKS}/{OWN}")
    relion.gather_coordinates(project / PICKS / "picks.star", [(MIC, project / PICKS / OWN)])


def said(drawn, kept, skipped, more=""):
    return f"{drawn} drawn, {kept} kept from before, {skipped} skipped{more} -> "


def test_all_that_a_run_has_picked_are_drawn(project, capsys):
    picked(project)
    more = "; 1 were not picked"
    assert project.call("show_picks", "--all") == 0
    assert capsys.readouterr().out == (
        f"{PICKS}/picks.star: 5 picks, 0 of them outside, 1 micrographs without\n"
        f"2 micrographs: {said(2, 0, 0, more)}{project.path}/ClassBin/pngs\n"
    )
    assert list(pictures(project)) == NAMES[:2]
    _, picture = drawn(project, "picks")
    assert all(colourful(ring(picture, centre, 50)).mean() > 0.6 for centre in CENTRES)
    with Image.open(project / f"ClassBin/pngs/{NAMES[1][:-4]}_picks.png") as empty:
        assert not colourful(np.asarray(empty.convert("RGB")).astype(int)).any()


def test_pictures_that_are_up_to_date_are_kept(project, capsys):
    picked(project)
    assert project.call("show_picks", "--all", "-i", LISTED) == 0
    assert said(3, 0, 0) in capsys.readouterr().out
    before = pictures(project)

    def again(drawn, *options):
        nonlocal before
        assert project.call("show_picks", "--all", "-i", LISTED, *options) == 0
        assert said(len(drawn), 3 - len(drawn), 0) in capsys.readouterr().out
        now = pictures(project)
        assert [name for name in NAMES if now[name] != before[name]] == drawn
        before = now

    again([])
    (project / f"ClassBin/pngs/{NAMES[2][:-4]}_picks.png").write_bytes(b"of another program")
    again(NAMES[2:])
    later = time.time() + 1
    os.utime(project / NAMES[1], (later, later))
    again(NAMES[1:2])  # its picture is of now, and the micrograph of later
    os.utime(project / NAMES[1], (1, 1))
    again([])
    again(NAMES, "--lowpass", 30)
    again([], "--lowpass", 30)
    again(NAMES)
    again(NAMES, "-x", 44)
    later = time.time() + 9
    os.utime(project / PICKS / "picks.star", (later, later))
    again(NAMES, "-x", 44)


def test_what_cannot_be_read_is_skipped_and_counted(project, capsys):
    picked(project)
    for name, spoil in ((NAMES[0], "cut"), (NAMES[2], "remove")):
        path = project / name
        os.truncate(path, 2000) if spoil == "cut" else path.unlink()
    assert project.call("show_picks", "--all", "-i", LISTED) == 1
    out, err = capsys.readouterr()
    assert out.endswith(f"3 micrographs: {said(1, 0, 2)}{project.path}/ClassBin/pngs\n")
    faults = [
        f"{project.path}/{NAMES[0]}: truncated: 2000 bytes, its header asks for 1049600",
        f"{project.path}/{NAMES[2]}: No such file or directory",
    ]
    lines = [line for line in err.splitlines() if not line.endswith("/s]")]
    assert lines == [
        *(f"warning: {fault}; skipped" for fault in faults),
        f"show_picks.py: error: {project.path}/{LISTED}: 2 micrographs were skipped: "
        + "; ".join(faults),
    ]
    assert list(pictures(project)) == NAMES[1:2]
    (project / NAMES[1]).unlink()
    assert project.call("show_picks", "--all", "-i", LISTED) == 1
    assert "error: none of 3 micrographs can be drawn: " in capsys.readouterr().err


def test_lists_are_read_once(project, capsys, monkeypatch):
    """A node's files are read one by one, for their micrograph only."""
    files = {name: project / f"AutoPick/job004/{relion.rest(name)}_autopick.star" for name in NAMES}
    for path in files.values():
        write_picks(project, path)
    node = project / "AutoPick/job004/autopick.star"
    suffix = project / "AutoPick/job004/coords_suffix_autopick.star"
    relion.write_coordinate_lists(project.path, project / LISTED, files, node, suffix)
    reads, whole = [], relion.read_all_coordinates
    monkeypatch.setattr(relion, "read_all_coordinates", lambda p: reads.append(str(p)) or whole(p))
    lists = ("-s", project.good, "-s", suffix, "-s", node)
    assert project.call("show_picks", "--all", *lists, "--in_mics", LISTED) == 0
    good = f"{project.path}/{project.good}"
    assert sorted(reads) == sorted([good, *map(str, files.values()), *map(str, files.values())])
    assert capsys.readouterr().out == (
        f"{project.good}: 36 picks, 0 of them outside, 0 micrographs without\n"
        "AutoPick/job004/coords_suffix_autopick.star: 15 picks, 0 of them outside, "
        "0 micrographs without\n"
        "AutoPick/job004/autopick.star: 15 picks, 0 of them outside, 0 micrographs without\n"
        f"3 micrographs: {said(3, 0, 0)}{project.path}/ClassBin/pngs\n"
    )
    what = "Select_job010_particles_AutoPick_job004_autopick_AutoPick_job004_autopick"
    assert len(pictures(project, what)) == 3


def test_a_list_of_other_micrographs_is_warned_of(project, capsys):
    picked(project)
    relion.gather_coordinates(project / "others.star", [("b.mrc", project / PICKS / OWN)])
    lists = ("-s", "others.star", "-s", f"{PICKS}/picks.star")
    missing = (
        f"{project.path}/others.star: no picks of any of {{}} micrographs of "
        f"{project.path}/{{}}, but of 1 others (b.mrc)"
    )
    assert project.call("show_picks", "--all", *lists) == 0
    out, err = capsys.readouterr()
    assert f"warning: {missing.format(2, 'some.star')}\n" in err
    assert "others.star: 0 picks, 0 of them outside, 2 micrographs without\n" in out
    assert project.call("show_picks", "--all", "-i", LISTED, *lists[:2], "-x", BOX) == 1
    err = capsys.readouterr().err
    assert err == f"show_picks.py: error: {missing.format(3, LISTED)}\n"
