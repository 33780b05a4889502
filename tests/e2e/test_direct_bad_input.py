"""What is said of bad input to direct picking: one line, exit 1 or 2, and nothing changed."""

import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import APIX, ROOT, particles_star, read_mrc, snapshot
from test_bad_input import (
    ALL,
    BAD,
    DATA,
    GOOD,
    MIC,
    MICROGRAPHS,
    Case,
    cases,
    check,
    cut,
    edit,
    keras_2,
    other_model,
    remove,
    text,
)

from apbc_common import files, mrc, network, relion

CUT = (*DATA, "--from-micrographs")
PICK = ("-i", MICROGRAPHS)
NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
APIX_LINE = "2.7 0.1 4.0"


def both(*spoils):
    return lambda project: [spoil(project) for spoil in spoils]


@pytest.fixture
def aligned(project):
    """The tiny project with a good list that a 2D classification has aligned."""
    edit(GOOD, "_rlnUnknownThing #7", "_rlnOriginXAngst #7\n_rlnOriginYAngst #8")(project)
    edit(GOOD, " 1.0e-07", " 0.0 0.0")(project)
    return project


# --- windows from micrographs --------------------------------------------------------------------

USED = "{p}/" + MICROGRAPHS + ": 1 of 3 micrographs of the particles can't be used: "
UNFIT = (
    "contrast unknown (12 windows cut anew from the micrographs, median correlation -0.11: "
    "coordinates, box or pixel size are not what the lists say); windows can't be cut from these "
    "micrographs"
)


@cases(
    Case(
        "no micrograph names",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: no columns rlnMicrographName, rlnCoordinateX and rlnCoordinateY; cutting "
        "from micrographs needs them",
        edit(GOOD, "_rlnMicrographName", "_rlnFoo"),
    ),
    Case(
        "no coordinates",
        "gen_data",
        CUT,
        f"{{p}}/{BAD}: no columns rlnMicrographName, rlnCoordinateX and rlnCoordinateY; cutting "
        "from micrographs needs them",
        edit(BAD, "_rlnCoordinateY", "_rlnFoo"),
    ),
    Case("no micrograph", "gen_data", CUT, f"{USED}{MIC}: not there", remove(MIC)),
    Case(
        "truncated micrograph",
        "gen_data",
        CUT,
        f"{USED}{{p}}/{MIC}: truncated: 2000 bytes, its header asks for 1049600",
        cut(MIC, 2000),
    ),
    Case(
        "a micrograph that is not listed",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: 1 of 3 micrographs are not in {{p}}/{MICROGRAPHS}: {MIC} (nearest: "
        f"{MIC.replace('0.mrc', '2.mrc')}); give the list that has them, or --allow-missing",
        edit(MICROGRAPHS, f"{MIC} 1 15000.0\n", ""),
    ),
    Case(
        "no pixel size",
        "gen_data",
        CUT,
        f"{USED.replace('1 of', '3 of')}{MIC} has no pixel size (rlnMicrographPixelSize); "
        f"{MIC.replace('0', '2').replace('sub2', 'sub0')} has no pixel size "
        "(rlnMicrographPixelSize); Micrographs/sub1/mic_a.1.mrc has no pixel size "
        "(rlnMicrographPixelSize)",
        edit(MICROGRAPHS, "_rlnMicrographPixelSize", "_rlnFoo"),
    ),
    Case(
        "no list of micrographs",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: no Extract job names its micrographs; give their list with -m",
        remove("Extract/job005/job.star"),
    ),
    Case(
        "half an origin",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: data_particles has no column rlnOriginXAngst; it has rlnImageName, "
        "rlnMicrographName, rlnCoordinateX, rlnCoordinateY, rlnOpticsGroup, rlnGroupNumber, "
        "rlnFoo, rlnOriginYAngst",
        edit(GOOD, "_rlnOriginXAngst", "_rlnFoo"),
    ),
    Case(
        "an origin that is no number",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}:32: rlnOriginYAngst is 'nan', expected a number",
        edit(GOOD, " 0.0 0.0", " 0.0 nan", 1),
    ),
    Case(
        "no contrast that fits",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: {UNFIT}",
        edit(MICROGRAPHS, APIX_LINE, "2.7 0.1 3.0"),
    ),
    Case(
        "two micrographs",
        "gen_data",
        CUT,
        f"{{p}}/{GOOD}: good particles on 2 micrographs, expected at least 3: one each to learn "
        "from, to decide by and to test with",
        lambda project: files.write_text(
            project / GOOD,
            "".join(
                line
                for line in (project / GOOD).read_text().splitlines(keepends=True)
                if "mic_a.2" not in line
            ),
        ),
    ),
    Case(
        "a window larger than the box",
        "gen_data",
        (*CUT, "--window", 400),
        "--window 400: larger than the box of 384.0 A; give less, or extract with a larger box",
    ),
    Case(
        "a window smaller than half the diameter as given",
        "gen_data",
        (*CUT, "--window", 260, "--diameter", 521),
        "windows of 260 A: less than half the particle's diameter of 521 A; give a larger "
        "--window, or the right --diameter",
    ),
    Case(
        "a window smaller than half the diameter as measured",
        "gen_data",
        (*DATA, "--window", 70),
        "windows of 70 A: less than half the particle's diameter of 156 A; give a larger "
        "--window, or the right --diameter",
    ),
    Case(
        "a window finer than the micrographs",
        "gen_data",
        (*CUT, "--window", 250),
        "windows of 64 px and 250 A: the micrographs have pixels of 4 A, the boxes 384 A; give a "
        "--window of 256 to 384 A",
    ),
    Case(
        "windows of more pixels than the box",
        "gen_data",
        (*CUT, "--size", 512),
        "--size 512: at the micrographs' 4 A a pixel the windows cover 2048 A, the boxes only "
        "384 A; give a smaller one",
    ),
    Case(
        "a diameter in another unit",
        "gen_data",
        (*CUT, "--diameter", 15.6),
        "a diameter of 15.6 A (as given): less than 4 pixels of windows of 256 A; give the "
        "particle's --diameter, in A",
    ),
    Case(
        "no window",
        "gen_data",
        (*CUT, "--window", 0),
        "argument --window: '0' is not a number above 0",
        code=2,
    ),
    Case(
        "no diameter",
        "gen_data",
        (*CUT, "--diameter", "nan"),
        "argument --diameter: 'nan' is not a number above 0",
        code=2,
    ),
)
def test_gen_data(aligned, capsys, case):
    check(aligned, capsys, case)


def test_particles_that_all_lie_outside(aligned, capsys):
    rows = [line for line in (aligned / GOOD).read_text().splitlines() if "@" in line]
    far = [re.sub(r"(\.mrc) \S+ \S+ ", r"\1 600.0 -1.0 ", row) for row in rows]
    (aligned / GOOD).write_text(
        (aligned / GOOD).read_text().replace("\n".join(rows), "\n".join(far))
    )
    message = (
        f"{{p}}/{GOOD}: good particles on 0 micrographs, expected at least 3: one each to learn "
        f"from, to decide by and to test with; {len(rows)} particles lie outside theirs"
    )
    check(aligned, capsys, Case("", "gen_data", CUT, message))


def test_a_micrograph_that_cannot_be_used_is_found_before_anything_is_written(aligned, capsys):
    data = read_mrc(aligned / MIC)
    data[:] = 5
    mrc.write(aligned / MIC, data, APIX)
    before = snapshot(aligned.path)
    assert aligned.call("gen_data", *CUT) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gen_data.py: error: {aligned.path}/{aligned.good}: contrast unknown (not checked: "
        f"{aligned.path}/{MIC}: every pixel is 5); windows can't be cut from these micrographs"
    )
    assert snapshot(aligned.path) == before


# --- picking -------------------------------------------------------------------------------------


@cases(
    Case(
        "micrographs that would be enlarged",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}: micrographs of 6.1 A a pixel; {{c}}/model.h5 works at 4 A and takes "
        "0.1 to 4; check the pixel size, or train a model for these",
        edit(MICROGRAPHS, APIX_LINE, "2.7 0.1 6.1"),
    ),
    Case(
        "micrographs that would be shrunk to nothing",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}: micrographs of 0.09 A a pixel; {{c}}/model.h5 works at 4 A and "
        "takes 0.1 to 4; check the pixel size, or train a model for these",
        edit(MICROGRAPHS, APIX_LINE, "2.7 0.1 0.09"),
    ),
    Case(
        "no pixel size",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}: no pixel size (rlnMicrographPixelSize) of 3 of 3 micrographs: "
        "Micrographs/sub0/mic_a.0.mrc; Micrographs/sub1/mic_a.1.mrc; Micrographs/sub0/mic_a.2.mrc",
        edit(MICROGRAPHS, "_rlnMicrographPixelSize", "_rlnFoo"),
    ),
    Case(
        "the list of another project",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}: none of its 3 micrographs (Elsewhere/sub0/mic_a.0.mrc; Elsewhere/"
        "sub1/mic_a.1.mrc; Elsewhere/sub0/mic_a.2.mrc) is in {p}; give the list of this project, "
        "or its folder with -p",
        edit(MICROGRAPHS, "Micrographs/", "Elsewhere/"),
    ),
    Case(
        "a micrograph named twice",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}:27: {MIC} and {MIC} would share one file of picks; keep one",
        edit(MICROGRAPHS, "sub0/mic_a.2", "sub0/mic_a.0"),
    ),
    Case(
        "a micrograph whose picks RELION would take for the list of all",
        "gen_picks",
        PICK,
        f"{{p}}/{MICROGRAPHS}:26: the picks of coords_suffix.mrc would be the file by which RELION "
        "finds all picks; rename it",
        edit(MICROGRAPHS, "Micrographs/sub1/mic_a.1.mrc", "coords_suffix.mrc"),
    ),
    Case(
        "neither micrographs nor particles",
        "gen_picks",
        ("-i", "Extract/job005/job.star"),
        "{p}/Extract/job005/job.star: 0 micrograph tables (with a column rlnMicrographName) among "
        "data_job, data_joboptions_values, expected 1",
    ),
    Case(
        "an MRC file",
        "gen_picks",
        ("-i", MIC),
        f"{{p}}/{MIC}:1: not a STAR file: it holds binary data",
    ),
    Case(
        "unknown contrast",
        "gen_picks",
        PICK,
        "{c}/model.h5: its record does not say whether its windows' contrast is inverted from the "
        "micrographs'; say it with --invert (particles white, as RELION's) or --no-invert",
        edit("ClassBin/model.json", '"contrast": 1', '"contrast": null'),
    ),
    Case(
        "no diameter in the record",
        "gen_picks",
        PICK,
        "{c}/model.json: damaged; run gen_model.py again",
        edit("ClassBin/model.json", '"diameter_angst"', '"diameters"'),
    ),
    Case(
        "no model",
        "gen_picks",
        PICK,
        "{c}/model.h5: no model there; run gen_model.py first, or name one with --model",
        remove("ClassBin/model.h5"),
    ),
    Case(
        "no record of the model",
        "gen_picks",
        PICK,
        "{c}/model.json: not there; run gen_model.py first",
        remove("ClassBin/model.json"),
    ),
    Case(
        "damaged model",
        "gen_picks",
        PICK,
        "{c}/model.h5: damaged, not an HDF5 file; train anew with gen_model.py",
        text("ClassBin/model.h5", "hello"),
    ),
    Case(
        "model of Keras 2",
        "gen_picks",
        (*PICK, "-j", 2),
        "{c}/model.h5: written by Keras 2.15.0, expected 3; train anew",
        keras_2,
    ),
    Case(
        "model of other windows",
        "gen_picks",
        PICK,
        "{c}/model.h5: not the model that its record describes (windows of 64 px, sha256 SHA...); "
        "train anew with gen_model.py",
        other_model,
    ),
    Case(
        "picks that no record knows",
        "gen_picks",
        PICK,
        "{c}/picks/picks.star: already there, and not written by the run in run_gen_picks.json; "
        "move it away, or use --o DIR to write elsewhere",
        lambda project: files.write_text(project / "ClassBin/picks/picks.star", "mine"),
    ),
    *(
        Case(
            f"an option for lists of micrographs: {options[0]}",
            "gen_picks",
            ("-i", ALL, *options),
            f"{{p}}/{ALL}: {options[0]} is for lists of micrographs, this list is of particles",
        )
        for options in (
            *(("--stride", 4), ("--border", 0), ("--max-picks", 9), ("--sample", 2)),
            *(("--max-bad", 5), ("--invert",)),
        )
    ),
    *(
        Case(
            f"an option for lists of particles: {options[0]}",
            "gen_picks",
            (*PICK, *options),
            f"{{p}}/{MICROGRAPHS}: {options[0]} is for lists of particles, this list is of "
            "micrographs",
        )
        for options in (("--batch", 64), ("--micrographs", MICROGRAPHS))
    ),
    *(
        Case(
            f"{option} {value}",
            "gen_picks",
            (*PICK, option, value),
            f"argument {option}: '{value}' is not {wanted}",
            code=2,
        )
        for option, value, wanted in (
            ("--threshold", -0.1, "a number from 0 to 1"),
            ("--threshold", 1.01, "a number from 0 to 1"),
            ("--border", -1, "a number of at least 0"),
            ("--max-picks", 0, "a whole number of at least 1"),
            ("--sample", 0, "a whole number of at least 1"),
            ("--max-bad", 101, "a number from 0 to 100"),
        )
    ),
    Case(
        "no process",
        "gen_picks",
        (*PICK, "-j", 0),
        "argument -j/--jobs: '0' is not a whole number from 1 to 256",
        code=2,
    ),
    Case(
        "another stride",
        "gen_picks",
        (*PICK, "--stride", 3),
        "argument --stride: invalid choice: 3 (choose from 1, 2, 4, 8)",
        code=2,
    ),
)
def test_gen_picks(taught, capsys, case):
    check(taught, capsys, case)


def test_another_run_s_picks_are_not_mixed_with_others(taught, capsys):
    assert taught.call("gen_picks", *PICK, "--sample", 1) == 0
    text = (taught / "ClassBin/model.json").read_text()
    (taught / "other").mkdir()
    network.save_model(network.build_model(64), taught / "other/model.h5")
    digests = (files.digest(taught / folder / "model.h5") for folder in ("ClassBin", "other"))
    (taught / "other/model.json").write_text(text.replace(*digests))
    for options, difference in (
        (
            ("--threshold", 0.123),
            r"threshold [\d.]+, this one has 0\.123",
        ),
        (("--min-distance", 99), r"min_distance [\d.]+, this one has 99\.0"),
        (("--border", 0), r"border 192\.0, this one has 0\.0"),
        (("--stride", 8), "stride 4, this one has 8"),
        (("--max-picks", 7), "max_picks none given, this one has 7"),
        (("--invert",), "invert False, this one has True"),
        (("--model", "other/model.h5"), "model ClassBin/model.h5, this one has other/model.h5"),
    ):
        before = snapshot(taught.path)
        capsys.readouterr()
        assert taught.call("gen_picks", *PICK, *options) == 1
        cut = options[0] in ("--threshold", "--max-picks")
        can = "--recut cuts its picks anew, " if cut else ""
        assert re.fullmatch(
            rf"gen_picks\.py: error: .*/run_gen_picks\.json: an earlier run had {difference}; "
            rf"{can}-c clears what it wrote and starts anew, --o DIR writes elsewhere\n",
            capsys.readouterr().err,
        )
        assert snapshot(taught.path) == before


def test_a_micrograph_smaller_than_a_box_is_skipped(taught, capsys):
    picture = np.random.default_rng(0).normal(size=(95, 300))
    mrc.write(taught / MIC, picture, APIX)
    assert taught.call("gen_picks", *PICK) == 1
    out, err = capsys.readouterr()
    fault = f"{taught.path}/{MIC}: 300 x 95 px of 4 A, smaller than a box of 384 A"
    assert f"warning: {fault}; skipped" in err.splitlines()
    assert err.splitlines()[-1] == (
        f"gen_picks.py: error: {taught.path}/{MICROGRAPHS}: 1 micrographs were skipped: {fault}"
    )
    assert out.startswith("2 micrographs, ")
    assert taught.call("gen_picks", *PICK, "--border", 1200, "--o", "Wide") == 1
    fault = f"{taught.path}/{MIC}: 300 x 95 px of 4 A, smaller than two borders of 1200 A"
    assert f"warning: {fault}; skipped\n" in capsys.readouterr().err


def test_no_particle_list_of_another_kind_is_picked(taught, capsys):
    """A list with coordinates alone is neither; the micrographs' list is what direct picks take."""
    (taught / "coordinates.star").write_text(
        particles_star([]).split("data_particles")[0]
        + f"data_particles\n\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n{MIC} 5.0\n"
    )
    message = "{p}/coordinates.star: a list of particles, expected one of micrographs"
    check(taught, capsys, Case("", "gen_picks", ("-i", "coordinates.star"), message))


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "x"},
        {"threshold": None},
        {"threshold": 7},
        {"threshold": float("nan")},
        {"sha256": 3},
        {"calibration": 3},
        {"calibration": {"expected": {"from": [0.5], "picks": [3], "false": []}}},
        {"calibration": {"expected": {"from": [0.5], "picks": [3], "false": ["x"]}}},
        {"calibration": {"evening": {"usual": 3.0, "part": "x"}}},
        {"calibration": {"evening": {"usual": float("nan"), "part": 0.7}}},
        {"calibration": {"evening": {"usual": 3.0}}},
        {"calibration": {"evening": 3}},
        {"dataset": {"image_px": 0}},
        {"dataset": {"image_px": "a"}},
        {"dataset": {"extraction": {}}},
        {"dataset": {"extraction": 3}},
    ],
    ids=str,
)
def test_a_record_of_a_model_that_makes_no_sense(taught, capsys, change):
    path = taught / "ClassBin/model.json"
    record = json.loads(path.read_text())
    for name, value in change.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(record))
    message = "{c}/model.json: damaged; run gen_model.py again"
    check(taught, capsys, Case("", "gen_picks", (*PICK, "--extract"), message))


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "5", "nan", "few"])
def test_an_absurd_share_of_false_picks(taught, capsys, value):
    message = f"argument --fdr: '{value}' is not a number between 0 and 1"
    check(taught, capsys, Case("", "gen_picks", (*PICK, f"--fdr={value}"), message, code=2))


def test_two_thresholds(taught, capsys):
    message = "argument --fdr: not with --threshold, which it chooses"
    options = (*PICK, "--fdr", 0.05, "--threshold", 0.5)
    check(taught, capsys, Case("", "gen_picks", options, message, code=2))


def test_a_share_of_false_picks_that_nothing_tells(taught, trained, capsys):
    message = (
        "--fdr 0.05: {c}/model.h5 was taught with RELION's stacks and knows nothing of peaks; "
        "train with gen_data.py --from-micrographs, or give a --threshold"
    )
    before = snapshot(trained.path)
    assert trained.call("gen_picks", *PICK, "--fdr", 0.05) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "gen_picks.py: error: " + message.format(c=trained.path / "ClassBin")
    assert snapshot(trained.path) == before
    path = taught / "ClassBin/model.json"
    model = json.loads(path.read_text())
    model["calibration"]["expected"]["false"] = [0.3] * 99
    path.write_text(json.dumps(model))
    message = (
        "--fdr 0.05: {c}/model.h5 expects a larger share of even its best picks to be false; give "
        "a larger share, or a --threshold"
    )
    check(taught, capsys, Case("", "gen_picks", (*PICK, "--fdr", 0.05), message))


@pytest.mark.parametrize("name", ["../../keep.txt", "{p}/keep.txt"])
def test_a_record_never_makes_clear_remove_what_lies_elsewhere(taught, capsys, name):
    assert taught.call("gen_picks", *PICK) == 0
    capsys.readouterr()
    (taught / "keep.txt").write_text("mine")
    path = taught / "ClassBin/picks/run_gen_picks.json"
    record = json.loads(path.read_text())
    record["outputs"].append(name.format(p=taught.path))
    path.write_text(json.dumps(record))
    message = (
        "{c}/picks/run_gen_picks.json: not the record of a run; move it away with what the run "
        "wrote, or use --o DIR"
    )
    check(taught, capsys, Case("", "gen_picks", (*PICK, "-c"), message))


def test_a_micrograph_too_large_for_the_memory_is_skipped(taught, capsys, monkeypatch):
    read = mrc.image

    def image(path):
        if str(path).endswith(MIC):
            raise MemoryError("Unable to allocate 5.96 GiB")
        return read(path)

    monkeypatch.setattr(mrc, "image", image)
    assert taught.call("gen_picks", *PICK) == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 micrographs, ")
    assert f"warning: {taught / MIC}: not enough memory for it; skipped" in err.splitlines()


def test_stacks_count_the_micrographs_that_gave_no_picks_too(taught, capsys):
    cut(MIC, 2000)(taught)
    assert taught.call("gen_picks", *PICK) == 1
    (taught / NAMES[1]).unlink()
    assert taught.call("gen_picks", *PICK, "--extract", "--max-bad", 100) == 1
    assert "2 micrographs were skipped" in capsys.readouterr().err
    found = relion.read_particles(taught.path, taught / "ClassBin/picks/particles.star")
    assert found.micrographs == [NAMES[2]]


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_is_no_fault(taught, closed):
    words = [sys.executable, "gen_picks.py", "-p", taught.path, *PICK]
    line = shlex.join(map(str, words)) + f" {closed}>&-"
    assert subprocess.run(line, shell=True, cwd=ROOT).returncode == 0
    assert (taught / "ClassBin/picks/picks.star").exists()
