"""Lists in the forms of RELION 3.0, 3.1, 4.0 and 5.0 through every script.

The headers are those of tests/data. Two optics groups: micrographs of 4 and of 3.2 A a pixel, both
extracted to 6 A; the detector's pixels are half of that. All particles have origins: their
coordinates are off by 8 A.
"""

import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import APIX, BINNED, BOX, ROOT, SCALE, Project, contents, micrograph

from apbc_common import images, mrc, relion, star

DATA = ROOT / "tests/data"
VERSIONS = ["3.0", "3.1", "4.0", "5.0"]
FINE = 3.2  # A a pixel of the second optics group
MICROGRAPHS = "CtfFind/job003/micrographs_ctf.star"
ALL = "Class2D/job008/run_it025_data.star"
GOOD, BAD = "Select/job010/particles.star", "Select/job011/particles.star"
AUTOPICK = "AutoPick/job004"
OFF = 8.0  # A, along x
DETECTOR = 5.0  # um


def filled(kind, version, tables):
    """The text of a file of tests/data with other rows: dicts by label, in each of the tables.

    A label that a row does not tell has what it has in the first row there.
    """
    out, labels, table, done = [], [], None, set()
    for line in (DATA / f"{kind}_{version}.star").read_text().splitlines():
        if line.startswith("data_"):
            table, labels = line.removeprefix("data_").strip(), []
        elif line.startswith("_"):
            labels.append(line.split()[0][1:])
        elif table in tables and labels and line.strip():
            if table not in done:
                usual = dict(zip(labels, shlex.split(line), strict=True))
                for row in tables[table]:
                    cells = [str((usual | row)[label]) for label in labels]
                    out.append(" ".join(f'"{c}"' if " " in c else c for c in cells))
            done.add(table)
            continue
        out.append(line)
    return "\n".join([*out, ""])


def optics(version, image):
    """Rows of data_optics, of images or of micrographs."""
    rows = []
    for group, apix in (("1", APIX), ("2", FINE)):
        told = {relion.IMAGE_APIX: f"{BINNED:.6f}", relion.IMAGE_SIZE: str(SCALE)}
        told = told if image else {"rlnMicrographPixelSize": f"{apix:.6f}"}
        rows.append({
            "rlnOpticsGroupName": f"opticsGroup{group}", relion.GROUP: group,
            "rlnMicrographOriginalPixelSize": f"{apix / 2:.6f}", **told,
        })  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Micrographs and stacks, and what the lists have to say of them."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("versions")
    found = SimpleNamespace(folder=folder, micrographs=[], particles=[])
    for number in range(6):
        apix = (APIX, FINE)[number % 2]
        scale, name = APIX / apix, f"MotionCorr/job002/Movies/mic.{number}.mrc"
        size, box = round(512 * scale), images.even(BOX * scale)
        steps = np.arange(64, 512, 96) * scale
        places = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2).round()
        xy = rng.permutation(places)[:24] + rng.integers(-8, 9, (24, 2))
        picture = micrograph(rng, xy[:12], xy[12:], size, scale)
        mrc.write(folder / name, picture, apix)
        picked = xy + (OFF / apix, 0)  # where RELION extracted; its 2D classes found the centres
        stack = f"Extract/job005/Movies/mic.{number}.mrcs"
        mrc.write(folder / stack, images.extract(picture, picked, box, SCALE), BINNED)
        group = str(1 + number % 2)
        defocus = {"rlnDefocusU": f"{15000 + 100 * number}.0", relion.GROUP: group}
        pixel = {relion.DETECTOR_PIXEL: f"{DETECTOR:.6f}"}
        found.micrographs.append({
            relion.MICROGRAPH: name, **defocus, **pixel,
            relion.MAGNIFICATION: f"{1e4 * DETECTOR / apix:.6f}",
        })  # fmt: skip
        for row, (x, y) in enumerate(picked, 1):
            found.particles.append({
                relion.IMAGE: f"{row:06d}@{stack}", relion.MICROGRAPH: name,
                relion.X: f"{x:.6f}", relion.Y: f"{y:.6f}", **defocus, **pixel,
                relion.MAGNIFICATION: f"{1e4 * DETECTOR / BINNED:.6f}",
                relion.CLASS: "1" if row <= 12 else str(2 + row % 2),
                relion.ORIGIN_ANGST[0]: f"{OFF:.6f}", relion.ORIGIN_ANGST[1]: "0.000000",
                relion.ORIGIN_30[0]: f"{OFF / BINNED:.6f}", relion.ORIGIN_30[1]: "0.000000",
            })  # fmt: skip
    return found


def write_lists(folder, version, pixels):
    """Write every list of a project in the form of a version."""

    def put(path, text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)

    old = version == "3.0"
    main = "" if old else "micrographs"
    tables = {main: pixels.micrographs} | ({} if old else {"optics": optics(version, False)})
    put(MICROGRAPHS, filled("micrographs", version, tables))
    good = [row for row in pixels.particles if row[relion.CLASS] == "1"]
    bad = [row for row in pixels.particles if row[relion.CLASS] != "1"]
    for path, rows in ((ALL, good[::2] + bad + good[1::2]), (GOOD, good), (BAD, bad)):
        tables = {"" if old else "particles": rows}
        tables |= {} if old else {"optics": optics(version, True)}
        put(path, filled("class2d", version, tables))
    files = {}
    for row in pixels.micrographs:
        name = row[relion.MICROGRAPH]
        rows = [r for r in pixels.particles if r[relion.MICROGRAPH] == name][6:18]
        files[name] = f"{AUTOPICK}/{relion.rest(name)}_autopick.star"
        places = [{label: r[label] for label in (relion.X, relion.Y)} for r in rows]
        put(files[name], filled("coordinates", version, {"": places}))
    if version in ("3.0", "3.1"):
        put(f"{AUTOPICK}/coords_suffix_autopick.star", f"{MICROGRAPHS}\n")
    else:
        rows = [{relion.MICROGRAPH: name, relion.FILES: file} for name, file in files.items()]
        put(f"{AUTOPICK}/autopick.star", filled("autopick", version, {"coordinate_files": rows}))
    put("Extract/job005/job.star", (
        "data_joboptions_values\n\nloop_\n_rlnJobOptionVariable\n_rlnJobOptionValue\n"
        f"star_mics {MICROGRAPHS}\n"
    ))  # fmt: skip


@pytest.fixture
def project(pixels, request, tmp_path):
    """A project whose lists have the form of a version."""
    folder = shutil.copytree(pixels.folder, tmp_path / "p")
    write_lists(folder, request.param, pixels)
    return Project(folder, MICROGRAPHS, GOOD, BAD)


@pytest.fixture(scope="module")
def learnt(pixels, tmp_path_factory):
    """The project of 3.1, with a model of windows from micrographs."""
    folder = shutil.copytree(pixels.folder, tmp_path_factory.mktemp("learnt") / "p")
    write_lists(folder, "3.1", pixels)
    project = Project(folder, MICROGRAPHS, GOOD, BAD)
    for way, out in (((), "Stacks"), (("--from-micrographs",), "ClassBin")):
        assert project.call("gen_data", "-g", GOOD, "-b", BAD, "--o", out, *way) == 0
    assert project.call("gen_model", "--epochs", "40", "--batch", "16") == 0
    assert project.call("gen_picks", "-i", MICROGRAPHS) == 0
    return project


every_form = pytest.mark.parametrize("project", VERSIONS, indirect=True)


def windows(folder):
    """The bytes of the pictures of windows, whatever rows of lists they are."""
    found = contents(folder)
    parts = ("train/", "test/")
    return sorted((name.split("_")[0], found[name]) for name in found if name.startswith(parts))


@every_form
@pytest.mark.parametrize("way, out", [((), "Stacks"), (("--from-micrographs",), "ClassBin")])
@pytest.mark.parametrize("lists", [("-b", BAD), ("--all", ALL)], ids=["two", "one"])
def test_the_windows_are_the_same(project, learnt, capsys, way, out, lists):
    assert project.call("gen_data", "-g", GOOD, *lists, *way) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"{SCALE} px of {BINNED:g} A" in said
    assert "median correlation -1.00" in said  # pixel sizes of both groups, never the detector's
    made, usual = windows(project / "ClassBin"), windows(learnt / out)
    if lists[0] == "-b":
        assert made == usual
    else:  # the bad ones are in another order
        assert len(made) == len(usual)


@every_form
def test_the_picks_are_the_same(project, learnt, capsys):
    node = "autopick.star" if (project / AUTOPICK / "autopick.star").exists() else (
        "coords_suffix_autopick.star"
    )  # fmt: skip
    model = learnt / "ClassBin/model.h5"
    options = "-i", MICROGRAPHS, "--model", model, "--compare", f"{AUTOPICK}/{node}"
    assert project.call("gen_picks", *options) == 0, capsys.readouterr().err
    counts = capsys.readouterr().out.splitlines()[-1].split()
    found, usual = contents(project / "ClassBin/picks"), contents(learnt / "ClassBin/picks")
    for name in usual:
        assert name.startswith("run_") or found[name] == usual[name]
    names = relion.read_micrographs(project / MICROGRAPHS).names
    xy = [relion.read_coordinates(project / "ClassBin/picks/picks.star", n)[0] for n in names]
    assert 66 <= sum(map(len, xy)) <= 80  # 12 discs on each of six
    assert int(counts[0]) + int(counts[2]) == sum(map(len, xy))  # kept and new
    assert 33 <= int(counts[0]) <= 36  # half of the earlier ones are good
    for name, places in zip(names, xy, strict=True):
        of_this = project / "ClassBin/picks" / f"{relion.rest(name)}_autopick.star"
        assert project.call("show_picks", "-m", name, "-s", of_this, "-x", 50) == 0
        assert f"{len(places)} picks, 0 of them outside" in capsys.readouterr().out
    assert project.call("show_picks", "-m", names[1], "-s", f"{AUTOPICK}/{node}", "-x", 50) == 0
    assert "12 picks, 0 of them outside" in capsys.readouterr().out


@every_form
def test_particles_keep_their_form(project, learnt, capsys):
    model = learnt / "ClassBin/model.h5"
    options = "-i", ALL, "--model", model, "--min-distance", 40
    assert project.call("gen_picks", *options) == 0, capsys.readouterr().err
    blocks = star.scan(project / ALL)
    lines = (project / ALL).read_text().splitlines()
    for kind in ("true", "false", "unique"):
        path = project / f"ClassBin/particles_{kind}.star"
        kept = star.scan(path)
        assert list(kept) == list(blocks)
        assert [b.labels for b in kept.values()] == [b.labels for b in blocks.values()]
        rows = [line for line in path.read_text().splitlines() if "@" in line]
        assert 0 < len(rows) < 144
        cells = {tuple(without_score(line, blocks)) for line in lines if "@" in line}
        assert all(tuple(without_score(row, blocks)) in cells for row in rows)
    assert project.call("show_picks", "-m", "MotionCorr/job002/Movies/mic.1.mrc",
                        "-s", "ClassBin/particles_true.star") == 0  # fmt: skip
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"circles of {images.even(BOX * APIX / FINE)} px" in said


def without_score(line, blocks):
    """The cells of a row but for the score."""
    labels = next(b for b in blocks.values() if relion.IMAGE in b.labels).labels
    cells = zip(labels, line.split(), strict=True)
    return [cell for label, cell in cells if label != relion.SCORE]


@every_form
def test_the_grid_is_the_same(project, learnt):
    for one in (project, learnt):
        assert one.call("gen_grid", "-i", MICROGRAPHS, "-x", 100, "--o", "Grid") == 0
    found, usual = contents(project / "Grid"), contents(learnt / "Grid")
    assert len(found) == 9
    for name in usual:
        assert name.startswith("run_") or found[name] == usual[name]


@every_form
def test_extracted_picks_have_the_optics_of_their_micrographs(project, learnt, capsys, request):
    options = "-i", MICROGRAPHS, "--model", learnt / "ClassBin/model.h5", "--extract"
    if request.node.callspec.params["project"] == "3.0":
        assert project.call("gen_picks", *options) == 1
        assert "a list of RELION 3.0, without data_optics" in capsys.readouterr().err
        return
    assert project.call("gen_picks", *options) == 0, capsys.readouterr().err
    made = relion.read_particles(project.path, project / "ClassBin/picks/particles.star")
    assert [kind.apix for kind in made.optics] == [BINNED, BINNED]
    before = star.scan(project / MICROGRAPHS)["optics"]
    after = star.scan(project / "ClassBin/picks/particles.star")["optics"]
    kept = [label for label in before.labels if label != relion.MICROGRAPH_APIX]
    assert list(after.labels[: len(kept)]) == kept
    assert after.read(*kept).equals(before.read(*kept))
