"""What the scripts say of bad input: one line, exit 1 or 2, and nothing changed on disk."""

import contextlib
import errno
import json
import os
import resource
import shutil
import warnings
from dataclasses import dataclass
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
from conftest import APIX, BINNED, BOX, SCALE, particles_star, read_mrc, snapshot

from apbc_common import files, images, learning, mrc, network, relion, results

ALL = "Extract/job005/particles.star"
GOOD, BAD = "Select/job010/particles.star", "Select/job011/particles.star"
MICROGRAPHS = "CtfFind/job003/micrographs_ctf.star"
MIC = "Micrographs/sub0/mic_a.0.mrc"
STACK = "Extract/job005/Micrographs/sub0/mic_a.0.mrcs"

DATA = ("-g", GOOD, "-b", BAD)
GRID = ("-i", MICROGRAPHS, "-x", BOX)
PICK = ("-i", ALL)
SHOW = ("-m", MIC, "-s", ALL)
REQUIRED = {"gen_data": DATA, "gen_grid": GRID, "gen_picks": PICK, "show_picks": SHOW}


@dataclass
class Case:
    """What is wrong, the command, and what is said of it; {p} is the project, {c} ClassBin."""

    name: str
    script: str
    options: tuple
    message: str
    damage: Any = None
    code: int = 1


def check(project, capsys, case):
    if case.damage:
        case.damage(project)
    before = snapshot(project.path)
    capsys.readouterr()
    assert project.call(case.script, *case.options) == case.code
    said = capsys.readouterr().err.splitlines()
    err = [line for line in said if not line.endswith("/s]") and "running on " not in line]
    message = case.message.replace("{p}", str(project.path))
    message = message.replace("{c}", str(project.path / "ClassBin"))
    if "SHA" in message:
        model = json.loads((project / "ClassBin/model.json").read_text())
        message = message.replace("SHA", model["sha256"][:12])
    if case.code == 2:  # argparse shows the usage first
        assert err[0].startswith(f"usage: {case.script}.py ")
        err = err[-1:]
    assert err == [f"{case.script}.py: error: {message}"]
    assert snapshot(project.path) == before


def cases(*found):
    return pytest.mark.parametrize("case", found, ids=[case.name for case in found])


# --- ways to spoil a project ----------------------------------------------------------------------


def text(path, content):
    return lambda project: (project / path).write_bytes(content.encode())


def edit(path, old, new, count=-1):
    def spoil(project):
        content = (project / path).read_bytes().decode()
        assert old in content
        (project / path).write_bytes(content.replace(old, new, count).encode())

    return spoil


def image(path, section, value):
    """Set one image of a stack, or (0) a micrograph, to a value; NaN in one pixel only."""

    def spoil(project):
        data = read_mrc(project / path).copy()
        one = data if data.ndim == 2 else data[section]
        one[(8, 8) if np.isnan(value) else ...] = value
        with warnings.catch_warnings():  # mrcfile sees what is wrong
            warnings.simplefilter("ignore")
            mrc.write(project / path, data, BINNED)

    return spoil


def restack(path, change):
    return lambda project: mrc.write(project / path, change(read_mrc(project / path)), BINNED)


def cut(path, size):
    return lambda project: os.truncate(project / path, size)


def remove(*paths):
    def spoil(project):
        for path in paths:
            if (project / path).is_dir():
                shutil.rmtree(project / path)
            else:
                (project / path).unlink()

    return spoil


def other_scale(size, apix):
    """Give the bad list stacks of another size, which it describes truly."""

    def spoil(project):
        for path in list((project / "Extract/job005").rglob("*.mrcs")):
            target = str(path).replace("job005", "job006")
            mrc.write(target, images.resize(read_mrc(path), size), apix)
        rows = [line for line in (project / BAD).read_text().splitlines() if "@" in line]
        rows = [row.replace("job005", "job006") for row in rows]
        (project / BAD).write_text(particles_star(rows, apix, size))

    return spoil


def keep_rows(path, count):
    def spoil(project):
        rows = [line for line in (project / path).read_text().splitlines() if "@" in line]
        (project / path).write_text(particles_star(rows[:count]))

    return spoil


def share(count):
    """Put the first good particles into the bad list."""

    def spoil(project):
        rows = {
            kind: [line for line in (project / kind).read_text().splitlines() if "@" in line]
            for kind in (GOOD, BAD)
        }
        (project / BAD).write_text(particles_star(rows[GOOD][:count] + rows[BAD]))

    return spoil


def keras_2(project):
    with h5py.File(project / "ClassBin/model.h5", "r+") as file:
        file.attrs["keras_version"] = "2.15.0"


def other_model(project):
    with files.atomic(project / "ClassBin/model.h5") as part:
        network.save_model(network.build_model(48), part)


# --- STAR files, the same in every script that reads one ------------------------------------------

ROW = "000001@Extract/job005/Micrographs/sub0/mic_a.0.mrcs Micrographs/sub0/mic_a.0.mrc "


@cases(
    Case(
        "no STAR file",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}:1: not a STAR file: 'x,y' where data_... was expected",
        text(GOOD, "x,y\n1,2\n"),
    ),
    Case("empty", "gen_data", DATA, f"{{p}}/{GOOD}: not a STAR file: it is empty", text(GOOD, "")),
    Case(
        "an MRC file",
        "gen_grid",
        ("-i", MIC, "-x", BOX),
        f"{{p}}/{MIC}:1: not a STAR file: it holds binary data",
    ),
    Case(
        "CRLF",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}:1: CRLF line ends, which RELION can't read; run dos2unix on a copy",
        edit(BAD, "\n", "\r\n"),
    ),
    Case(
        "CRLF in the micrographs",
        "gen_grid",
        GRID,
        f"{{p}}/{MICROGRAPHS}:1: CRLF line ends, which RELION can't read; run dos2unix on a copy",
        edit(MICROGRAPHS, "\n", "\r\n"),
    ),
    Case(
        "short row",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}:32: 6 columns, expected 7",
        edit(GOOD, " 002 1.0e-07", " 002", 1),
    ),
    Case(
        "long row",
        "gen_picks",
        PICK,
        f"{{p}}/{ALL}:33: 8 columns, expected 7",
        edit(ALL, " 003 ", " 003 003 ", 1),
    ),
    Case(
        "blank line between rows",
        "gen_picks",
        PICK,
        f"{{p}}/{ALL}:33: a row after the blank line that ends data_particles, which RELION would "
        "not read; remove the blank line",
        edit(ALL, " 001 1.0e-07\n", " 001 1.0e-07\n\n", 1),
    ),
    Case(
        "repeated label",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}:30: label _rlnCoordinateY a second time; remove one of the two columns",
        edit(GOOD, "_rlnUnknownThing", "_rlnCoordinateY"),
    ),
    Case(
        "repeated block",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}:21: block data_optics a second time; rename or remove one",
        edit(GOOD, "data_particles", "data_optics"),
    ),
    Case(
        "no particle table",
        "gen_data",
        ("-g", MICROGRAPHS, "-b", BAD),
        f"{{p}}/{MICROGRAPHS}: no column rlnImageName; a list of micrographs, not a particle list",
    ),
    Case(
        "no micrograph table",
        "gen_grid",
        ("-i", "Extract/job005/job.star", "-x", BOX),
        "{p}/Extract/job005/job.star: 0 micrograph tables (with a column rlnMicrographName) among "
        "data_job, data_joboptions_values, expected 1",
    ),
    Case(
        "particles for micrographs",
        "gen_grid",
        ("-i", ALL, "-x", BOX),
        f"{{p}}/{ALL}: a list of particles, expected one of micrographs",
    ),
    Case(
        "missing column",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}: data_optics has no column rlnImagePixelSize; it has rlnOpticsGroupName, "
        "rlnOpticsGroup, rlnMicrographOriginalPixelSize, rlnVoltage, rlnSphericalAberration, "
        "rlnAmplitudeContrast, rlnImageSizes, rlnImageSize, rlnImageDimensionality",
        edit(GOOD, "_rlnImagePixelSize", "_rlnImageSizes"),
    ),
    Case(
        "missing columns of 3.0",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}: data_particles has no column rlnDetectorPixelSize, rlnMagnification; it "
        "has rlnImageName, rlnMicrographName, rlnCoordinateX, rlnCoordinateY, rlnGroup, "
        "rlnGroupNumber, rlnUnknownThing",
        edit(GOOD, "_rlnOpticsGroup #5", "_rlnGroup #5"),
    ),
    Case(
        "no number",
        "gen_picks",
        PICK,
        f"{{p}}/{ALL}:31: rlnCoordinateX is '447.0O', expected a number",
        edit(ALL, ROW + "447.000000", ROW + "447.0O"),
    ),
    Case(
        "no row",
        "gen_picks",
        PICK,
        f"{{p}}/{ALL}: data_particles has no particles",
        keep_rows(ALL, 0),
    ),
    Case(
        "micrograph named twice",
        "gen_grid",
        GRID,
        f"{{p}}/{MICROGRAPHS}:27: {MIC} and {MIC} would share one file of picks; keep one",
        edit(MICROGRAPHS, "sub0/mic_a.2", "sub0/mic_a.0"),
    ),
    Case(
        "one rest in two jobs",
        "gen_grid",
        GRID,
        f"{{p}}/{MICROGRAPHS}:27: {MIC} and MotionCorr/job002/{MIC} would share one file of "
        "picks; keep one",
        edit(MICROGRAPHS, "Micrographs/sub0/mic_a.2", "MotionCorr/job002/Micrographs/sub0/mic_a.0"),
    ),
)
def test_star_files(trained, capsys, case):
    if case.script == "gen_data":
        shutil.rmtree(trained / "ClassBin")
    check(trained, capsys, case)


# --- stacks, the same in both scripts that read them ----------------------------------------------

STACKS = "{p}/LIST: 1 of 3 stacks can't be used: "


@pytest.mark.parametrize("script", ["gen_data", "gen_picks"])
@cases(
    Case("missing", "", (), f"{STACKS}{STACK}: No such file or directory", remove(STACK)),
    Case(
        "truncated",
        "",
        (),
        f"{STACKS}{{p}}/{STACK}: truncated: 1384 bytes, its header asks for 394240",
        cut(STACK, 1384),
    ),
    Case("no MRC file", "", (), f"{STACKS}{{p}}/{STACK}: not an MRC file", text(STACK, "hello")),
    Case(
        "fewer images",
        "",
        (),
        f"{STACKS}{STACK}: 7 images, but number 24 is named",
        restack(STACK, lambda data: data[:7]),
    ),
    Case(
        "of another size",
        "",
        (),
        f"{STACKS}{STACK}: images of 32 x 32, expected 64 x 64",
        restack(STACK, lambda data: data[:, :32, :32]),
    ),
)
def test_stacks(trained, capsys, case, script):
    if script == "gen_data":
        shutil.rmtree(trained / "ClassBin")
    message = case.message.replace("LIST", ALL)
    if script == "gen_data":  # which reads the good ones first
        message = case.message.replace("LIST", GOOD).replace("number 24", "number 12")
    check(trained, capsys, Case(case.name, script, REQUIRED[script], message, case.damage))


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (3.0, "constant")]
)
@pytest.mark.parametrize("number", [1, 24])
@pytest.mark.parametrize("script", ["gen_data", "gen_picks"])
def test_images(trained, capsys, script, number, value, reason):
    if script == "gen_data":
        remove("ClassBin/train", "ClassBin/test", "ClassBin/dataset.json")(trained)
        remove("ClassBin/train.star", "ClassBin/test.star", "ClassBin/run_gen_data.json")(trained)
    name, remedy = {
        "gen_data": (f"{number:06d}@{{p}}/{STACK}", "take it out of the list"),
        "gen_picks": (f"{number:06d}@{{p}}/{STACK}", "take it out of the list"),
    }[script]
    message = f"{name}: the image is {reason}; {remedy}"
    damage = image(STACK, number - 1, value)
    check(trained, capsys, Case("", script, REQUIRED[script], message, damage))


def test_of_many_faults_the_first_three_are_named(project, capsys):
    shutil.rmtree(project / "Extract/job005/Micrographs")
    more = f"000001@gone.mrcs {MIC} 1 1 1 1 1\n"
    (project / GOOD).write_text((project / GOOD).read_text().rstrip("\n") + f"\n{more}\n")
    names = [f"Extract/job005/Micrographs/sub{i % 2}/mic_a.{i}.mrcs" for i in range(3)]
    missing = "".join(f"{name}: No such file or directory; " for name in names)
    message = f"{{p}}/{GOOD}: 4 of 4 stacks can't be used: {missing}..."
    check(project, capsys, Case("", "gen_data", DATA, message))


# --- gen_data -------------------------------------------------------------------------------------


@cases(
    Case(
        "other box",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}: box 320.0 A (64 px of 5 A); {{p}}/{GOOD} has box 384.0 A (64 px of 6 A): "
        "extract both lists with one box",
        edit(BAD, " 6.000000 64 2", " 5.000000 64 2"),
    ),
    Case(
        "other pixel size",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}: box 384.0 A (48 px of 8 A); {{p}}/{GOOD} has box 384.0 A (64 px of 6 A): "
        "extract both lists with one pixel size",
        other_scale(48, 8.0),
    ),
    Case(
        "volumes",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}: rlnImageDimensionality 3, expected 2",
        edit(BAD, " 6.000000 64 2", " 6.000000 64 3"),
    ),
    Case(
        "in both lists",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}: 5 of 41 particles are in {{p}}/{GOOD} too: "
        f"000001@{STACK}; 000002@{STACK}; 000003@{STACK}; ...; a particle is good or bad",
        share(5),
    ),
    Case(
        "twice in one list",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}: 1 images named a second time: 000002@{STACK} (lines 32 and 33); "
        "remove them",
        edit(GOOD, "000003@", "000002@", 1),
    ),
    Case(
        "nine good particles",
        "gen_data",
        DATA,
        f"{{p}}/{GOOD}: 9 good particles, expected at least 10; select more classes",
        keep_rows(GOOD, 9),
    ),
    Case(
        "nine bad particles",
        "gen_data",
        DATA,
        f"{{p}}/{BAD}: 9 bad particles, expected at least 10; select more classes",
        keep_rows(BAD, 9),
    ),
    Case(
        "windows of other data",
        "gen_data",
        DATA,
        "{c}/test/bad/mine.png: already there, and not written by the run in run_gen_data.json; "
        "move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/test/bad/mine.png", "mine"),
    ),
    Case(
        "windows of other data, not by the record",
        "gen_data",
        (*DATA, "-c"),
        "{c}/test/bad/mine.png: already there, and not written by the run in run_gen_data.json; "
        "move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/test/bad/mine.png", "mine"),
    ),
    Case(
        "a data set that no record knows",
        "gen_data",
        DATA,
        "{c}/dataset.json: already there, and not written by the run in run_gen_data.json; "
        "move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/dataset.json", "{}"),
    ),
    Case(
        "micrographs of another list",
        "gen_data",
        (*DATA, "-m", ALL),
        f"{{p}}/{ALL}: a list of particles, expected one of micrographs",
    ),
    Case(
        "a list that is not there",
        "gen_data",
        ("-g", "Select/job9/particles.star", "-b", BAD),
        "argument -g/--stargood: Select/job9/particles.star: no such file in the project {p}",
        code=2,
    ),
    Case(
        "a folder for a list",
        "gen_data",
        ("-g", GOOD, "-b", "Select"),
        "argument -b/--starbad: Select: a folder in the project {p}",
        code=2,
    ),
    Case(
        "one list only",
        "gen_data",
        ("-g", GOOD),
        "one of -b/--starbad and --all is required, and not both",
        code=2,
    ),
    Case(
        "size",
        "gen_data",
        (*DATA, "--size", 72),
        "argument --size: '72' is not a multiple of 16 from 48 to 512",
        code=2,
    ),
    Case(
        "size too small",
        "gen_data",
        (*DATA, "--size", 32),
        "argument --size: '32' is not a multiple of 16 from 48 to 512",
        code=2,
    ),
    Case(
        "seed",
        "gen_data",
        (*DATA, "--seed", -1),
        "argument --seed: '-1' is not a whole number from 0 to 4294967295",
        code=2,
    ),
)
def test_gen_data(project, capsys, case):
    check(project, capsys, case)


def test_both_kinds_of_images_are_printed_before_they_are_refused(project, capsys):
    edit(BAD, " 6.000000 64 2", " 5.000000 64 2")(project)
    assert project.call("gen_data", *DATA) == 1
    assert capsys.readouterr().out.splitlines() == [
        "good: 36 particles, 1 optics group(s), box 384.0 A (64 px of 6 A)",
        "bad: 36 particles, 1 optics group(s), box 320.0 A (64 px of 5 A)",
    ]


def test_coordinates_that_fit_no_micrograph_are_warned_of(project, capsys):
    edit(MICROGRAPHS, f"2.7 0.1 {APIX}", "2.7 0.1 3.0")(project)
    assert project.call("gen_data", *DATA) == 0
    out, err = capsys.readouterr()
    said = out.splitlines()[2]
    assert said.startswith("good: contrast unknown (12 windows cut anew from the ")
    assert said.endswith(": coordinates, box or pixel size are not what the lists say)")
    assert err.splitlines()[0] == (
        "warning: the contrast is unknown; make sure that both lists were extracted alike"
    )
    assert json.loads((project / "ClassBin/dataset.json").read_text())["contrast"] is None


def uninverted(project, star):
    """Write a copy of a list whose stacks have the micrographs' contrast."""
    text = (project / star).read_text().replace("@Extract/job005/", "@Extract/job006/")
    (project / "other.star").write_text(text)
    for path in (project / "Extract/job005").rglob("*.mrcs"):
        target = project / "Extract/job006" / path.relative_to(project / "Extract/job005")
        mrc.write(target, -read_mrc(path), 6.0)


def test_lists_of_other_contrast_are_refused(project, capsys):
    uninverted(project, BAD)
    how = "the micrographs (12 windows cut anew from the micrographs, median correlation"
    check(
        project,
        capsys,
        Case(
            "",
            "gen_data",
            ("-g", GOOD, "-b", "other.star", "-m", MICROGRAPHS),
            f"{{p}}/other.star: contrast as in {how} 1.00); {{p}}/{GOOD}: inverted from {how} "
            "-1.00): extract both lists alike",
        ),
    )


def test_windows_of_other_contrast_than_the_models_are_turned_round(trained, capsys):
    uninverted(trained, ALL)
    assert trained.call("gen_picks", *PICK, "--o", "as taught") == 0
    capsys.readouterr()
    assert trained.call("gen_picks", "-i", "other.star", "-m", MICROGRAPHS, "--o", "turned") == 0
    assert capsys.readouterr().out.startswith(
        "contrast as in the micrographs (12 windows cut anew from the micrographs, median "
        "correlation 1.00); the model's windows have the other one, so these are turned round\n"
    )
    for which in ("true", "false"):
        one, other = (
            relion.read_particles(trained.path, trained / f"{out}/particles_{which}.star")
            for out in ("as taught", "turned")
        )
        assert one.section.tolist() == other.section.tolist()
        scores = [found.block.numbers(relion.SCORE)[:, 0] for found in (one, other)]
        assert scores[1] == pytest.approx(scores[0], abs=0.02)  # grey values differ by 1 at most


@pytest.mark.parametrize("clear", [(), ("-c",)])
def test_no_list_is_read_and_overwritten(trained, capsys, clear):
    assert trained.call("gen_picks", "-i", ALL) == 0
    options = ("-i", "ClassBin/particles_true.star", "--threshold", 0.5)
    message = "{c}/particles_true.star: it would be overwritten, and is read; use --o DIR"
    if not clear:
        message = (
            f"{{c}}/run_gen_picks.json: an earlier run had particles {ALL}, this one has "
            "ClassBin/particles_true.star; -c clears what it wrote and starts anew, --o DIR "
            "writes elsewhere"
        )
    check(trained, capsys, Case("", "gen_picks", (*options, *clear), message))


# --- gen_model ------------------------------------------------------------------------------------


@cases(
    Case(
        "no ClassBin",
        "gen_model",
        (),
        "{c}/dataset.json: not there; run gen_data.py first",
        remove("ClassBin"),
    ),
    Case(
        "no data there",
        "gen_model",
        ("--data", "Select/"),
        "{p}/Select/dataset.json: not there; run gen_data.py first",
    ),
    Case(
        "damaged data set",
        "gen_model",
        (),
        "{c}/dataset.json: damaged; remove it and run gen_data.py again",
        text("ClassBin/dataset.json", "{"),
    ),
    Case(
        "windows gone",
        "gen_model",
        ("-c",),
        "29 of 72 windows can't be read: {c}/train/good/Extract__job005__Micrographs__sub0__mic_a.0"
        "_000001_good.png; {c}/train/good/Extract__job005__Micrographs__sub0__mic_a.0_000003_good"
        ".png; {c}/train/good/Extract__job005__Micrographs__sub0__mic_a.0_000004_good.png; ...; "
        "make them again with gen_data.py -c",
        remove("ClassBin/train/good"),
    ),
    Case(
        "no model to test",
        "gen_model",
        ("-s",),
        "{c}/model.h5: no model there; run gen_model.py first, or name one with --model",
        remove("ClassBin/model.h5"),
    ),
    Case(
        "no record of the model",
        "gen_model",
        ("-s",),
        "{c}/model.json: not there; run gen_model.py first",
        remove("ClassBin/model.json"),
    ),
    Case(
        "model of other windows",
        "gen_model",
        ("-s",),
        "{c}/model.h5: trained with windows of 64 px, 400.0 A; these have 64 px, 384.0 A",
        edit("ClassBin/model.json", '"window_angst": 384.0', '"window_angst": 400.0'),
    ),
    Case(
        "a model to train with",
        "gen_model",
        ("--model", "ClassBin/model.h5"),
        "argument --model: only with -s or --continue",
        code=2,
    ),
    Case(
        "no epoch",
        "gen_model",
        ("--epochs", 0),
        "argument --epochs: '0' is not a whole number of at least 1",
        code=2,
    ),
    Case(
        "half a batch",
        "gen_model",
        ("--batch", 0.5),
        "argument --batch: '0.5' is not a whole number from 1 to 4096",
        code=2,
    ),
    Case(
        "no GPU, as a number",
        "gen_model",
        ("--gpus", 0),
        "argument --gpus: '0' is not all, none or a whole number of at least 1",
        code=2,
    ),
    Case(
        "GPUs of nonsense",
        "gen_model",
        ("-s", "--gpus", "some"),
        "argument --gpus: 'some' is not all, none or a whole number of at least 1",
        code=2,
    ),
)
def test_gen_model(trained, capsys, case):
    check(trained, capsys, case)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"window_px": 64', '"window_px": "64"'),
        ('"window_px": 64', '"window_px": 0'),
        ('"window_angst": 384.0', '"window_angst": NaN'),
        ('"box_angst": 384.0', '"box_angst": null'),
        ('"counts": {', '"counts": [], "c": {'),
        ('"test": {', '"tests": {'),
    ],
)
def test_records_that_make_no_sense(trained, capsys, old, new):
    for name, script, options, made_by in (
        ("dataset.json", "gen_model", ("-s",), "remove it and run gen_data.py again"),
        ("model.json", "gen_picks", PICK, "run gen_model.py again"),
    ):
        path = trained / "ClassBin" / name
        kept = path.read_text()
        assert old in kept
        path.write_text(kept.replace(old, new))
        check(trained, capsys, Case("", script, options, f"{{c}}/{name}: damaged; {made_by}"))
        path.write_text(kept)


def test_pixels_of_any_finite_size_are_used(project):
    for name, change in (
        ("sub0/mic_a.0", lambda data: data * np.float32(1e-25)),
        ("sub1/mic_a.1", lambda data: data * np.float32(1e25)),
        ("sub0/mic_a.2", lambda data: np.where(data == data.max(), np.float32(1e30), data)),
    ):
        path = project / f"Extract/job005/Micrographs/{name}.mrcs"
        with mrcfile.mmap(path, mode="r+") as stack:
            stack.data[:] = change(stack.data)
    assert project.call("gen_data", *DATA) == 0


def test_a_pixel_size_with_a_typo_is_named(project, capsys):
    edit(MICROGRAPHS, f"2.7 0.1 {APIX}", "2.7 0.1 0.001")(project)
    message = f"{MIC}: a box of 384 A on 512 x 512 px of 0.001 A: a pixel size is wrong"
    options = (*DATA, "-m", MICROGRAPHS)
    check(project, capsys, Case("", "gen_data", options, message))


def test_a_stack_shared_by_groups_of_other_boxes(trained, capsys):
    text = (trained / ALL).read_text()
    group = f"opticsGroup1 1 1.0 300 2.7 0.1 {6:.6f} 64 2\n"
    assert group in text
    other = "opticsGroup2 2 1.0 300 2.7 0.1 3.000000 128 2\n"
    text = text.replace(group, group + other)
    row = next(line for line in text.splitlines() if line.startswith("000003@"))
    text = text.replace(row, row.replace(" 1 003 ", " 2 003 "))
    (trained / ALL).write_text(text)
    message = f"{STACKS}{STACK}: images of 64 x 64, expected 128 x 128".replace("LIST", ALL)
    check(trained, capsys, Case("", "gen_picks", PICK, message))


def test_a_table_that_is_no_loop(trained, capsys):
    labels = ("rlnImageName 000001@" + STACK, "rlnOpticsGroup 1")
    text = (trained / ALL).read_text().split("data_particles")[0]
    text += "data_particles\n\n" + "".join(f"_{label}\n" for label in labels) + "\n"
    (trained / ALL).write_text(text)
    message = f"{{p}}/{ALL}: data_particles is no loop_; write it as one"
    check(trained, capsys, Case("", "gen_picks", PICK, message))


@pytest.mark.parametrize("skip", [(), ("-s",)])
@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n cut short", b"hello"])
def test_a_damaged_window(trained, capsys, skip, data):
    window = min((trained / "ClassBin/train/good").glob("*.png"))
    window.write_bytes(data)
    message = f"1 of 72 windows can't be read: {window}; make them again with gen_data.py -c"
    options = skip or ("-c", "--epochs", 1)
    check(trained, capsys, Case("", "gen_model", options, message))


# --- gen_grid -------------------------------------------------------------------------------------

UNFIT = f"{{p}}/{MICROGRAPHS}: 1 of 3 micrographs can't be used: "


@cases(
    Case(
        "odd box",
        "gen_grid",
        ("-i", MICROGRAPHS, "-x", 95),
        "argument -x/--boxsize: '95' is not an even number from 2",
        code=2,
    ),
    Case(
        "no box",
        "gen_grid",
        ("-i", MICROGRAPHS, "-x", 0),
        "argument -x/--boxsize: '0' is not an even number from 2",
        code=2,
    ),
    Case(
        "negative box",
        "gen_grid",
        ("-i", MICROGRAPHS, "-x", -96),
        "argument -x/--boxsize: '-96' is not an even number from 2",
        code=2,
    ),
    Case(
        "box larger than the micrographs",
        "gen_grid",
        ("-i", MICROGRAPHS, "-x", 514),
        f"{{p}}/{MICROGRAPHS}: 3 of 3 micrographs can't be used: "
        + "; ".join(
            f"Micrographs/sub{i % 2}/mic_a.{i}.mrc: 512 x 512 px, smaller than a box of 514"
            for i in range(3)
        ),
    ),
    Case(
        "movie",
        "gen_grid",
        GRID,
        f"{UNFIT}{MIC}: 4 sections, expected a micrograph, not a movie",
        restack(MIC, lambda data: np.stack([data] * 4)),
    ),
    Case(
        "no micrograph",
        "gen_grid",
        GRID,
        f"{UNFIT}{{p}}/{MIC}: No such file or directory",
        remove(MIC),
    ),
    Case(
        "truncated micrograph",
        "gen_grid",
        GRID,
        f"{UNFIT}{{p}}/{MIC}: truncated: 5000 bytes, its header asks for 1049600",
        cut(MIC, 5000),
    ),
    Case(
        "a grid that no record knows",
        "gen_grid",
        GRID,
        "{c}/grid/grid.star: already there, and not written by the run in run_gen_grid.json; "
        "move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/grid/grid.star", "mine"),
    ),
)
def test_gen_grid(project, capsys, case):
    check(project, capsys, case)


def test_a_grid_is_cleared_only_for_one_that_can_be_made(project, capsys):
    assert project.call("gen_grid", *GRID) == 0
    remove(MIC)(project)
    message = f"{UNFIT}{{p}}/{MIC}: No such file or directory"
    check(project, capsys, Case("", "gen_grid", ("-i", MICROGRAPHS, "-x", 64, "-c"), message))


# --- gen_picks ------------------------------------------------------------------------------------


@cases(
    Case(
        "no ClassBin",
        "gen_picks",
        PICK,
        "{c}/model.json: not there; run gen_model.py first",
        remove("ClassBin"),
    ),
    Case(
        "no model",
        "gen_picks",
        PICK,
        "{c}/model.h5: no model there; run gen_model.py first, or name one with --model",
        remove("ClassBin/model.h5"),
    ),
    Case(
        "damaged model",
        "gen_picks",
        PICK,
        "{c}/model.h5: damaged, not an HDF5 file; train anew with gen_model.py",
        text("ClassBin/model.h5", "hello"),
    ),
    Case(
        "truncated model",
        "gen_picks",
        PICK,
        "{c}/model.h5: damaged, not an HDF5 file; train anew with gen_model.py",
        cut("ClassBin/model.h5", 4096),
    ),
    Case(
        "damaged record",
        "gen_picks",
        PICK,
        "{c}/model.json: damaged; remove it and run gen_model.py again",
        cut("ClassBin/model.json", 100),
    ),
    Case(
        "model of another box",
        "gen_picks",
        PICK,
        f"{{p}}/{ALL}: the box is 384.0 A (64 px of 6 A), {{c}}/model.h5 was trained with "
        "300.0 A; extract with that box or train anew",
        edit("ClassBin/model.json", '"box_angst": 384.0', '"box_angst": 300.0'),
    ),
    Case(
        "model of other windows",
        "gen_picks",
        PICK,
        "{c}/model.h5: not the model that its record describes (windows of 64 px, sha256 "
        "SHA...); train anew with gen_model.py",
        other_model,
    ),
    Case(
        "model of Keras 2",
        "gen_picks",
        PICK,
        "{c}/model.h5: written by Keras 2.15.0, expected 3; train anew",
        keras_2,
    ),
    Case(
        "no coordinates to keep apart",
        "gen_picks",
        (*PICK, "--min-distance", 100),
        f"{{p}}/{ALL}: --min-distance needs columns rlnMicrographName, rlnCoordinateX and "
        "rlnCoordinateY",
        edit(ALL, "_rlnCoordinateX", "_rlnCoordinateZ"),
    ),
    Case(
        "no pixel size to keep apart with",
        "gen_picks",
        (*PICK, "--min-distance", 100),
        f"{{p}}/{ALL}: --min-distance needs the micrographs' pixel size; give their list with -m",
        remove("Extract/job005/job.star"),
    ),
    Case(
        "no pixel size of a micrograph",
        "gen_picks",
        (*PICK, "--min-distance", 100),
        f"{{p}}/{MICROGRAPHS}: no pixel size (rlnMicrographPixelSize) of 1 of 3 micrographs: {MIC}",
        edit(MICROGRAPHS, f"{MIC} 1 15000.0\n", ""),
    ),
    Case(
        "threshold",
        "gen_picks",
        (*PICK, "--threshold", 1.5),
        "argument --threshold: '1.5' is not a number from 0 to 1",
        code=2,
    ),
    Case(
        "distance",
        "gen_picks",
        (*PICK, "--min-distance", "nan"),
        "argument --min-distance: 'nan' is not a number above 0",
        code=2,
    ),
    Case(
        "a model that is not there",
        "gen_picks",
        (*PICK, "--model", "m.h5"),
        "argument --model: m.h5: no such file in the project {p}",
        code=2,
    ),
    Case(
        "lists that no record knows",
        "gen_picks",
        PICK,
        "{c}/particles_true.star: already there, and not written by the run in "
        "run_gen_picks.json; move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/particles_true.star", "mine"),
    ),
)
def test_gen_picks(trained, capsys, case):
    check(trained, capsys, case)


# --- show_picks -----------------------------------------------------------------------------------


def coordinates(project):
    relion.write_coordinates(project / "a_autopick.star", [[100, 100]])


@cases(
    Case(
        "movie",
        "show_picks",
        SHOW,
        f"{{p}}/{MIC}: 4 sections (a movie or a stack?), expected one micrograph",
        restack(MIC, lambda data: np.stack([data] * 4)),
    ),
    Case(
        "picks of other micrographs",
        "show_picks",
        ("-m", "other.mrc", "-s", ALL),
        f"{{p}}/{ALL}: no picks of other.mrc among 3 micrographs ({MIC}; "
        "Micrographs/sub1/mic_a.1.mrc; Micrographs/sub0/mic_a.2.mrc)",
        lambda project: shutil.copy(project / MIC, project / "other.mrc"),
    ),
    Case(
        "no box",
        "show_picks",
        ("-m", MIC, "-s", "a_autopick.star"),
        "{p}/a_autopick.star: coordinates, which have no box; give -x BOX, the circles' diameter "
        "in pixels of the micrograph",
        coordinates,
    ),
    Case(
        "no coordinates",
        "show_picks",
        ("-m", MIC, "-s", MICROGRAPHS, "-x", BOX),
        f"{{p}}/{MICROGRAPHS}: no column rlnCoordinateX; a list of micrographs, "
        "not a coordinate list",
    ),
    Case(
        "circles without end",
        "show_picks",
        ("-m", MIC, "-s", ALL, "-x", "1e300"),
        "circles of 1e+300 px on a micrograph of 512 x 512; give -x BOX, in its pixels",
    ),
    Case(
        "a micrograph of another project",
        "show_picks",
        ("-m", "../above.mrc", "-s", "a_autopick.star", "-x", BOX),
        "{p}/../above.mrc: not in the project {p}; link it in",
        lambda project: (
            coordinates(project),
            mrc.write(project / "../above.mrc", np.eye(64), 1.0),
        ),
    ),
    Case(
        "no MRC file",
        "show_picks",
        ("-m", ALL, "-s", "a_autopick.star", "-x", BOX),
        f"{{p}}/{ALL}: not an MRC file",
        coordinates,
    ),
    Case(
        "constant micrograph",
        "show_picks",
        SHOW,
        f"{{p}}/{MIC}: every pixel is 2",
        image(MIC, 0, 2.0),
    ),
    Case(
        "NaN in the micrograph",
        "show_picks",
        SHOW,
        f"{{p}}/{MIC}: 1 pixels are not finite",
        image(MIC, 0, np.nan),
    ),
    Case(
        "no micrograph",
        "show_picks",
        ("-m", "no.mrc", "-s", ALL),
        "argument -m/--image: no.mrc: no such file in the project {p}",
        code=2,
    ),
    Case(
        "no binning",
        "show_picks",
        (*SHOW, "-z", 0),
        "argument -z/--binfactor: '0' is not a number above 0",
        code=2,
    ),
    Case(
        "nothing to draw",
        "show_picks",
        ("-s", ALL),
        "one of the arguments -m/--image --all --report is required",
        code=2,
    ),
    Case(
        "one and all",
        "show_picks",
        (*SHOW, "--all"),
        "argument --all: not allowed with argument -m/--image",
        code=2,
    ),
    Case(
        "one of a list",
        "show_picks",
        (*SHOW, "-i", MICROGRAPHS),
        "argument -i/--imagestar: only with --all",
        code=2,
    ),
    Case(
        "a second list that is not there",
        "show_picks",
        (*SHOW, "-s", "no.star"),
        "argument -s/--star: no.star: no such file in the project {p}",
        code=2,
    ),
    Case(
        "more lists than colours",
        "show_picks",
        ("-m", MIC, *["-s", ALL] * 7),
        "argument -s/--star: 7 lists, at most 6 have a colour",
        code=2,
    ),
    Case(
        "a picture of no kind",
        "show_picks",
        (*SHOW, "--out", "a.tif"),
        "argument --out: 'a.tif' does not end in .png, .svg, .pdf",
        code=2,
    ),
    Case(
        "one picture of all",
        "show_picks",
        ("--all", "--out", "a.png"),
        "argument --out: one picture, only with -m",
        code=2,
    ),
    Case(
        "a picture over its micrograph",
        "show_picks",
        ("-m", "mic.png", "-s", ALL, "--out", "./mic.png"),
        "argument --out: ./mic.png: it would be overwritten, and is read",
        lambda project: shutil.copy(project / MIC, project / "mic.png"),
        code=2,
    ),
    Case(
        "a picture over its second list",
        "show_picks",
        (*SHOW, "-s", "list.svg", "--out", "list.svg"),
        "argument --out: list.svg: it would be overwritten, and is read",
        lambda project: shutil.copy(project / ALL, project / "list.svg"),
        code=2,
    ),
    Case(
        "two lists of a report",
        "show_picks",
        ("--report", "-s", ALL, "-s", GOOD),
        "argument -s/--star: the report is on one list",
        code=2,
    ),
    Case(
        "circles of a report",
        "show_picks",
        ("--report", "-s", ALL, "-x", BOX),
        "argument -x/--boxsize: not with --report",
        code=2,
    ),
    Case(
        "a lowpass of nothing",
        "show_picks",
        (*SHOW, "--lowpass", 0),
        "argument --lowpass: '0' is not a number above 0",
        code=2,
    ),
    Case(
        "a lowpass without a pixel size",
        "show_picks",
        ("-m", MIC, "-s", "a_autopick.star", "-x", BOX, "--lowpass", 20),
        f"{{p}}/{MIC}: its header has no pixel size, which --lowpass needs",
        lambda project: (
            coordinates(project),
            mrc.write(project / MIC, read_mrc(project / MIC), 0),
        ),
    ),
    Case(
        "a lowpass that leaves nothing",
        "show_picks",
        (*SHOW, "--lowpass", 1152),
        "--lowpass 1152: contrast is made even over 1152 A, and nothing so coarse is left; give "
        "less",
    ),
    Case(
        "a box file with a short row",
        "show_picks",
        ("-m", MIC, "-s", "a.box"),
        "{p}/a.box:2: '1 2 3', expected a box: x, y, width and height",
        text("a.box", "1 2 3 4\n1 2 3\n"),
    ),
    Case(
        "a box file with words",
        "show_picks",
        ("-m", MIC, "-s", "a.box"),
        "{p}/a.box:1: '1 2 inf 4', expected a box: x, y, width and height",
        text("a.box", "1 2 inf 4\n"),
    ),
    Case(
        "an empty box file",
        "show_picks",
        ("-m", MIC, "-s", "a.box"),
        "{p}/a.box: coordinates, which have no box; give -x BOX, the circles' diameter in pixels "
        "of the micrograph",
        text("a.box", "\n"),
    ),
    Case(
        "all of no list",
        "show_picks",
        ("--all", "-s", ALL),
        f"{{p}}/{ALL}: no run of gen_picks.py wrote it, which would tell the micrographs; give "
        "their list with -i",
    ),
    Case(
        "picks of one micrograph for all",
        "show_picks",
        ("--all", "-i", MICROGRAPHS, "-s", ALL, "-s", "a_autopick.star"),
        "{p}/a_autopick.star: names no micrographs; --all takes lists that do, or nodes",
        coordinates,
    ),
    Case(
        "picks without a size, of all",
        "show_picks",
        ("--all", "-i", MICROGRAPHS, "-s", "a_autopick.star"),
        "{p}/a_autopick.star: coordinates, which have no box; give -x BOX, the circles' diameter "
        "in pixels of the micrograph",
        coordinates,
    ),
    Case(
        "circles of all without end",
        "show_picks",
        ("--all", "-i", MICROGRAPHS, "-s", ALL, "-x", 1025),
        "circles of 1025 px on a micrograph of 512 x 512; give -x BOX, in its pixels",
    ),
    Case(
        "all of a list of particles",
        "show_picks",
        ("--all", "-i", ALL, "-s", ALL),
        f"{{p}}/{ALL}: a list of particles, expected one of micrographs",
    ),
)
def test_show_picks(project, capsys, case):
    check(project, capsys, case)


# --- where nothing can be written -----------------------------------------------------------------


@pytest.mark.parametrize("script", ["gen_data", "gen_grid", "gen_picks", "show_picks"])
def test_classbin_is_a_file(trained, capsys, script):
    shutil.move(trained / "ClassBin", trained / "Model")
    (trained / "ClassBin").write_text("mine")
    options = [*REQUIRED[script], *(["--model", "Model/model.h5"] if script == "gen_picks" else [])]
    where = "{c}/pngs/Micrographs/sub0" if script == "show_picks" else "{c}"
    reason = os.strerror(errno.ENOTDIR if script == "show_picks" else errno.EEXIST)
    check(trained, capsys, Case("", script, tuple(options), f"{where}: {reason}"))


@contextlib.contextmanager
def largest_file(size):
    """Let no file grow past a size: like a full disk, an OSError in the middle of writing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("script", "size", "wrote"),
    [
        ("gen_data", 100, "no record"),
        ("gen_data", 3500, "the record, but no window"),
        ("gen_grid", 100, "no record"),
        ("gen_grid", 1500, "the record, but no grid"),
        ("gen_picks", 100, "no record"),
        ("gen_picks", 2000, "the record and the scores, but no list"),
        ("show_picks", 10_000, "no picture"),
        ("show_picks --out x.svg", 10_000, "no picture"),
        ("show_picks --out x.pdf", 10_000, "no picture"),
        ("gen_model", 100_000, "the record, but no model"),
        ("gen_model", 5_000_000, "all but the last"),
    ],
)
def test_a_full_disk(trained, monkeypatch, capsys, script, size, wrote):
    script, *options = script.split()
    if script in ("gen_data", "gen_grid"):
        shutil.rmtree(trained / "ClassBin")
    if script == "gen_model":
        kept = {"dataset.json", "run_gen_data.json", "train.star", "test.star"}
        for path in list((trained / "ClassBin").iterdir()):
            if path.is_file() and path.name not in kept:
                path.unlink()
        untrained = network.build_model(SCALE)
        monkeypatch.setattr(learning, "train", lambda *_: (untrained, {"loss": [1.0]}))
    before = snapshot(trained.path)
    if size == 5_000_000:

        def full(*_args, **_options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the picture")

        monkeypatch.setattr(results, "draw", full)
    with largest_file(size):
        code = trained.call(script, *REQUIRED.get(script, ()), *options)
    err = capsys.readouterr().err.splitlines()
    assert code == 1
    reasons = [os.strerror(number) for number in (errno.EFBIG, errno.ENOSPC)]
    assert err[-1].startswith(f"{script}.py: error: ")
    assert any(reason in err[-1] for reason in reasons)
    assert sum("error" in line for line in err) == 1
    assert snapshot(trained.path) == before
