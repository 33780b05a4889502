"""RELION as the judge: it cuts the same pixels, reads what we write, refuses what we refuse."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import (
    APIX,
    BINNED,
    BOX,
    ROOT,
    SCALE,
    Project,
    extract,
    micrographs_star,
    read_mrc,
)

from apbc_common import images, mrc, relion

pytestmark = pytest.mark.relion

ALL = "Extract/job005/particles.star"


def run(project, *command):
    """A RELION program's exit code, and what it prints."""
    done = subprocess.run(
        [str(part) for part in command], cwd=project.path, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def count_read(project, path):
    """How many particles relion_star_handler reads and writes back."""
    select = ("--select", "rlnCoordinateX", "--minval", "0")
    code, text = run(project, "relion_star_handler", "--i", path, "--o", "back.star", *select)
    assert code == 0, text
    return int(re.search(r"Written: back\.star with (\d+) item\(s\)", text)[1])


def printed(project, path, table, *labels):
    """The rows of a table as relion_star_printtable shows them."""
    code, text = run(project, "relion_star_printtable", path, f"data_{table}", *labels)
    assert code == 0, text
    return [line.split() for line in text.splitlines() if "WARN" not in line and line.strip()]


def rows_of(path):
    lines = path.read_text().splitlines()
    return lines[max(i for i, line in enumerate(lines) if line.startswith("_")) + 1 :]


# --- extraction -----------------------------------------------------------------------------------

PICKS = np.array(
    [
        (450, 350),  # whole
        (451, 349),
        (300.25, 400.75),  # RELION cuts the fraction off
        (612.5, 333.999),
        (450, 3),  # edges
        (450.6, 699),
        (2.7, 350),
        (898.2, 350.5),
        (0, 0),  # corners
        (899, 0),
        (0.9, 699.9),
        (899, 699),
    ]
)


@pytest.fixture(scope="module")
def picked(relion, tmp_path_factory):
    """One micrograph that is not square, on a slope, and a coordinate file of it."""
    project = Project(tmp_path_factory.mktemp("picked"))
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:700, :900]
    picture = (
        rng.normal(20, 3, (700, 900)) + 0.01 * x - 0.02 * y + 2 * np.sin(x / 9) * np.cos(y / 7)
    )
    mrc.write(project / "Micrographs/a.1.mrc", picture, APIX)
    (project / "micrographs.star").write_text(micrographs_star(["Micrographs/a.1.mrc"]))
    header = "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
    (project / "picks/Micrographs").mkdir(parents=True)
    (project / "picks/Micrographs/a.1_pick.star").write_text(
        header + "".join(f"{x:.3f} {y:.3f}\n" for x, y in PICKS) + "\n"
    )
    return project


@pytest.mark.parametrize("invert", [True, False], ids=["inverted", "as is"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "raw"])
@pytest.mark.parametrize(("box", "scale"), [(128, 128), (128, 64), (216, 64), (128, 192)])
def test_extract_is_pixel_for_pixel_that_of_relion(picked, box, scale, norm, invert):
    part_dir = f"Extract/{box}-{scale}-{norm}-{invert}/"
    micrographs = "micrographs.star"
    extract(picked.path, micrographs, "picks/", "_pick.star", part_dir, box, scale, norm, invert)
    theirs = read_mrc(picked / f"{part_dir}Micrographs/a.1.mrcs")
    picture = read_mrc(picked / "Micrographs/a.1.mrc")
    ours = images.extract(picture, PICKS, box, scale, norm=norm, invert=invert)
    assert ours.shape == theirs.shape == (len(PICKS), scale, scale)
    assert ours.dtype == theirs.dtype == np.float32
    assert theirs.std() > 0.5
    assert abs(ours - theirs).max() <= 1e-5


# --- what we write --------------------------------------------------------------------------------


def test_relion_reads_the_particle_lists(trained):
    assert trained.call("gen_picks", "-i", ALL, "--min-distance", 700) == 0
    counts = json.loads((trained / "ClassBin/run_gen_picks.json").read_text())["counts"]
    assert counts["true"] + counts["false"] == counts["particles"] == 72
    assert 0 < counts["unique"] < counts["true"]
    for which in ("true", "false", "unique"):
        path = f"ClassBin/particles_{which}.star"
        assert count_read(trained, path) == counts[which]
        rows = printed(trained, path, "particles", "_rlnImageName", "_rlnAutopickFigureOfMerit")
        ours = relion.read_particles(trained.path, trained / path)
        assert [name for name, _ in rows] == [ours.name(row) for row in range(len(ours))]
        scores = ours.block.numbers(relion.SCORE)[:, 0]
        assert [float(score) for _, score in rows] == pytest.approx(scores, abs=1e-4)


def test_relion_reads_the_stack_of_the_true_particles(trained):
    assert trained.call("gen_picks", "-i", ALL) == 0
    path = "ClassBin/particles_true.star"
    code, text = run(trained, "relion_stack_create", "--i", path, "--o", "true", "--one_by_one")
    assert code == 0, text
    particles = relion.read_particles(trained.path, trained / path)
    stack = read_mrc(trained / "true.mrcs")
    assert stack.shape == (len(particles), SCALE, SCALE)
    first = read_mrc(trained / particles.stacks[0])[particles.section[0]]
    assert stack[0] == pytest.approx(first, abs=1e-5)


def test_relion_cuts_every_box_of_the_grid(project):
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    extract(
        project.path, project.micrographs, "ClassBin/grid/", "_grid.star", "Extract/job020/", BOX
    )
    assert count_read(project, "Extract/job020/particles.star") == 3 * 81
    for name in relion.read_micrographs(project / project.micrographs).names:
        grid, _ = relion.read_coordinates(project / f"ClassBin/grid/{relion.rest(name)}_grid.star")
        cut, _ = relion.read_coordinates(project / "Extract/job020/particles.star", name)
        assert (cut == grid).all()
        stack = read_mrc(project / f"Extract/job020/{name}s")
        ours = images.extract(read_mrc(project / name), grid, BOX, SCALE)
        assert abs(stack - ours).max() <= 1e-5


def test_relion_reads_the_lists_of_the_grid(project):
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    names = relion.read_micrographs(project / project.micrographs).names
    labels = ("_rlnMicrographName", "_rlnMicrographCoordinates")
    listed = printed(project, "ClassBin/grid/grid.star", "coordinate_files", labels[0])
    assert [row[0] for row in listed] == names
    rows = [row.split() for row in rows_of(project / "ClassBin/grid/grid.star") if row]
    for name, path in rows:  # 3.1.3 doesn't know the second column
        assert path == f"ClassBin/grid/{relion.rest(name)}_grid.star"
        picks = printed(project, path, "", "_rlnCoordinateX", "_rlnCoordinateY")
        assert len(picks) == 81
        assert [float(value) for value in picks[1]] == [96, 48]
    suffix = (project / "ClassBin/grid/coords_suffix_grid.star").read_text()
    assert len(printed(project, suffix.strip(), "micrographs", labels[0])) == 3


# --- what RELION refuses --------------------------------------------------------------------------


@pytest.mark.parametrize("old", [" 002 1.0e-07", " 1 002 1.0e-07"])
def test_a_short_row_is_refused_by_both(trained, capsys, old):
    text = (trained / ALL).read_text()
    (trained / ALL).write_text(text.replace(old, old.rsplit(" ", 1)[0], 1))
    select = ("--select", "rlnCoordinateX", "--minval", "0")
    code, said = run(trained, "relion_star_handler", "--i", ALL, "--o", "back.star", *select)
    assert code == 1
    assert "Expected = 7 Found = 6" in said
    capsys.readouterr()
    assert trained.call("gen_picks", "-i", ALL) == 1
    assert capsys.readouterr().err == (
        f"gen_picks.py: error: {trained.path}/{ALL}:32: 6 columns, expected 7\n"
    )


def test_line_ends_of_windows_are_refused_by_both(project, capsys):
    path = project / project.micrographs
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 0
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    code, _ = run(
        project,
        *("relion_preprocess", "--i", project.micrographs, "--coord_dir", "ClassBin/grid/"),
        *("--coord_suffix", "_grid.star", "--part_dir", "Extract/job020/", "--extract"),
        *("--part_star", "Extract/job020/particles.star", "--extract_size", BOX),
    )
    assert code != 0
    capsys.readouterr()
    assert project.call("gen_grid", "-i", project.micrographs, "-x", BOX) == 1
    assert capsys.readouterr().err == (
        f"gen_grid.py: error: {path}:1: CRLF line ends, which RELION can't read; run dos2unix on "
        "a copy\n"
    )


def test_rows_that_relion_would_lose_are_refused(trained, capsys):
    text = (trained / ALL).read_text()
    (trained / ALL).write_text(text.replace(" 012 1.0e-07\n", " 012 1.0e-07\n\n", 1))
    assert count_read(trained, ALL) == 12  # exit 0, and 60 particles fewer
    assert trained.call("gen_picks", "-i", ALL) == 1
    assert "a row after the blank line that ends data_particles" in capsys.readouterr().err


# --- RELION 3.0 -----------------------------------------------------------------------------------


def old_form(project, path):
    """Turn a 3.1 particle list into one of 3.0: one table, magnification instead of optics."""
    labels = ["ImageName", "MicrographName", "CoordinateX", "CoordinateY", "GroupNumber"]
    labels += ["Magnification", "DetectorPixelSize", "Voltage", "SphericalAberration"]
    labels += ["AmplitudeContrast"]
    rows = [row.split() for row in rows_of(project / path) if row]
    text = "\ndata_\n\nloop_\n"
    text += "".join(f"_rln{label} #{number}\n" for number, label in enumerate(labels, 1))
    for row in rows:
        text += (
            " ".join([*row[:4], row[5], "10000.000000", f"{BINNED:.6f}", "300.0 2.7 0.1"]) + "\n"
        )
    (project / path).write_text(text + "\n")


def test_particles_of_relion_3_0_go_the_same_way(trained):
    new = json.loads((trained / "ClassBin/dataset.json").read_text())
    for path in (trained.good, trained.bad, ALL):
        old_form(trained, path)
    assert trained.call("gen_data", "-g", trained.good, "-b", trained.bad, "--o", "old") == 0
    old = json.loads((trained / "old/dataset.json").read_text())
    assert new.pop("sha256") != old.pop("sha256")  # of the lists
    assert old == new
    for folder in ("train/good", "train/bad", "test/good", "test/bad"):
        for window in (trained / "ClassBin" / folder).iterdir():
            assert (trained / "old" / folder / window.name).read_bytes() == window.read_bytes()
    assert trained.call("gen_picks", "-i", ALL) == 0
    kept = [rows_of(trained / f"ClassBin/particles_{which}.star") for which in ("true", "false")]
    kept = [[row for row in rows if row] for rows in kept]
    assert sorted(row.rstrip().rsplit(" ", 1)[0] for row in kept[0] + kept[1]) == sorted(
        row for row in rows_of(trained / ALL) if row
    )
    assert len(kept[0]) >= 34
    labels = ("_rlnImageName", "_rlnAutopickFigureOfMerit")
    for which, rows in zip(("true", "false"), kept, strict=True):
        seen = printed(trained, f"ClassBin/particles_{which}.star", "", *labels)
        assert [row[0] for row in seen] == [row.split()[0] for row in rows]
        path = f"ClassBin/particles_{which}.star"
        code, text = run(trained, "relion_convert_star", "--i", path, "--o", "new.star")
        assert code == 0, text
        assert count_read(trained, "new.star") == len(rows)


# --- the whole way --------------------------------------------------------------------------------

DIAMETER, PIXEL = 180, 1.77


def select_by_truth(project):
    """Part the extracted candidates by the nearest true centre, as a user's eye would."""
    lines = (project / ALL).read_text().splitlines(keepends=True)
    start = max(i for i, line in enumerate(lines) if line.startswith("_")) + 1
    header, rows = lines[:start], [line for line in lines[start:] if line.strip()]
    particles = relion.read_particles(project.path, project / ALL)
    good = np.zeros(len(particles), bool)
    for index, name in enumerate(particles.micrographs):
        kinds = ("good", "edge")  # whole ones; those at the edge are cut by it
        stem = name.rpartition("/")[2].removesuffix(".mrc")
        with open(project / f"truth/{stem}.csv", newline="") as handle:
            true = [(row["x"], row["y"]) for row in csv.DictReader(handle) if row["kind"] in kinds]
        of_this = np.flatnonzero(particles.micrograph == index)
        gaps = particles.xy[of_this][:, None] - np.array(true, float)
        nearest = np.hypot(*gaps.transpose(2, 0, 1)).min(axis=1)
        good[of_this] = nearest < 0.3 * DIAMETER / PIXEL
    for path, keep in ((project.good, good), (project.bad, ~good)):
        (project / path).parent.mkdir(parents=True)
        kept = [row for row, wanted in zip(rows, keep, strict=True) if wanted]
        (project / path).write_text("".join([*header, *kept, "\n"]))
    return good


def test_the_whole_way_from_micrographs_to_classified_particles(tmp_path, capsys):
    project = Project(tmp_path / "project")
    project.micrographs = "micrographs_ctf.star"
    simulate = ROOT / "beta-galactosidase" / "simulate.py"
    small = ("--micrographs", "4", "--size", "1536", "--particles", "60", "--seed", "2")
    easy = ("--contrast", "2.5", "--broken", "0.3", "--carbon", "0")  # few windows to learn from
    subprocess.run([sys.executable, simulate, project.path, *small, *easy], check=True)
    code, text = run(
        project,
        *("relion_autopick", "--i", project.micrographs, "--odir", "AutoPick/job004/"),
        *("--pickname", "autopick", "--LoG", "--LoG_diam_min", 120, "--LoG_diam_max", 200),
        *("--shrink", 0, "--lowpass", 20),
    )
    assert code == 0, text
    extract(
        project.path, project.micrographs, "AutoPick/job004/", "_autopick.star", "Extract/job005/"
    )
    good = select_by_truth(project)
    assert 50 < good.sum() < len(good) - 50

    lists = ("-g", project.good, "-b", project.bad, "-m", project.micrographs)
    capsys.readouterr()
    assert project.call("gen_data", *lists) == 0
    said = capsys.readouterr().out
    assert f"good: {good.sum()} particles" in said
    assert f"bad: {len(good) - good.sum()} particles" in said
    assert re.search(r"good: contrast inverted from .*, median correlation -1\.00\)", said)
    assert project.call("gen_model", "--epochs", 25) == 0
    results = json.loads((project / "ClassBin/testing_results.txt").read_text())
    label, picked = (np.array([row[name] for row in results]) for name in ("label", "prediction"))
    recalls = (picked[label == 1] == 1).mean(), (picked[label == 0] == 0).mean()
    assert sum(recalls) / 2 > 0.75, recalls  # 0.5 is chance

    assert project.call("gen_grid", "-i", project.micrographs, "-x", 216) == 0
    extract(project.path, project.micrographs, "ClassBin/grid/", "_grid.star", "Extract/job006/")
    grid = "Extract/job006/particles.star"
    assert count_read(project, grid) == 4 * 13 * 13
    capsys.readouterr()
    options = ("--min-distance", DIAMETER, "-m", project.micrographs)
    assert project.call("gen_picks", "-i", grid, *options) == 0
    assert f"{4 * 13 * 13} particles: " in capsys.readouterr().out
    counts = json.loads((project / "ClassBin/run_gen_picks.json").read_text())["counts"]
    assert counts["true"] + counts["false"] == counts["particles"] == 4 * 13 * 13
    assert 0 < counts["unique"] <= counts["true"] < counts["particles"]
    for which in ("true", "false", "unique"):
        assert count_read(project, f"ClassBin/particles_{which}.star") == counts[which]
    path = "ClassBin/particles_true.star"
    code, text = run(project, "relion_stack_create", "--i", path, "--o", "true", "--one_by_one")
    assert code == 0, text
    assert read_mrc(project / "true.mrcs").shape == (counts["true"], 64, 64)
