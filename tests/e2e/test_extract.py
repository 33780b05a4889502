"""gen_picks.py --extract: what is cut when, what is kept, and what is refused."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import BOX, ROOT, SCALE, contents, micrographs_star, read_mrc, snapshot

from apbc_common import images, mrc, relion, star

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
STACKS = [f"ClassBin/picks/{name}s" for name in NAMES]
PARTICLES = "ClassBin/picks/particles.star"


def pick(project, *options):
    """Pick the project's micrographs; return the exit code."""
    return project.call("gen_picks", "-i", project.micrographs, *options)


def made(project):
    """The bytes of all that a run wrote, but for its record, which lists files as they came."""
    found = contents(project / "ClassBin/picks")
    assert b'"state": "finished"' in found.pop("run_gen_picks.json")
    return found


@pytest.fixture(scope="module")
def _picked(_taught, tmp_path_factory):
    project = _taught.copy(tmp_path_factory.mktemp("picked") / "p")
    assert pick(project) == 0
    return project


@pytest.fixture
def picked(_picked, tmp_path):
    """A fresh copy of a project whose micrographs are picked, and not extracted."""
    return _picked.copy(tmp_path / "picked.1")


@pytest.fixture(scope="module")
def whole(_taught, tmp_path_factory):
    """What a run that picks and extracts writes, and its project."""
    project = _taught.copy(tmp_path_factory.mktemp("whole") / "p")
    assert pick(project, "--extract") == 0
    return made(project), project


def test_one_run_picks_and_extracts(whole, capsys):
    _, project = whole
    assert pick(project, "--extract") == 0
    assert capsys.readouterr().out == (
        f"finished before: nothing to do, 3 micrographs -> {project / 'ClassBin/picks'}\n"
    )
    particles = relion.read_particles(project.path, project / PARTICLES)
    picks = star.scan(project / "ClassBin/picks/picks.star")["particles"]
    columns = (relion.MICROGRAPH, relion.X, relion.Y, relion.SCORE)
    assert len(particles) >= 30
    assert particles.block.read(*columns).equals(picks.read(*columns))
    assert particles.stacks == STACKS
    for name, stack in zip(NAMES, STACKS, strict=True):
        xy, _ = relion.read_coordinates(project / PARTICLES, name)
        expected = images.extract(read_mrc(project / name), xy, BOX, SCALE, 24)
        assert abs(read_mrc(project / stack) - expected).max() <= 1e-6
        assert mrc.size(project / stack).apix == pytest.approx(6)
    record = json.loads((project / "ClassBin/picks/run_gen_picks.json").read_text())
    assert record["counts"]["particles"] == len(particles)
    assert set(record["outputs"]) > {"particles.star", STACKS[0].removeprefix("ClassBin/picks/")}


def test_a_run_without_is_followed_by_one_with_it(picked, whole, capsys):
    before = snapshot(picked.path / "ClassBin/picks/Micrographs")
    assert not (picked / PARTICLES).exists()
    assert pick(picked, "--extract") == 0
    said = capsys.readouterr()
    count = relion.read_particles(picked.path, picked / PARTICLES).block.rows
    assert said.out.splitlines()[-1] == (
        f"{count} particles (box 384.0 A in 64 px, background outside 24 px, inverted) -> "
        f"{picked / PARTICLES}"
    )
    assert "no Extract job said how it normalised; taken as RELION's default" in said.err
    after = snapshot(picked.path / "ClassBin/picks/Micrographs")
    assert {name: after[name] for name in before} == before
    assert made(picked) == whole[0]


def test_clearing_takes_the_stacks_away(picked):
    assert pick(picked, "--extract") == 0
    assert all((picked / path).exists() for path in [*STACKS, PARTICLES])
    assert pick(picked) == 0  # remembers them
    assert pick(picked, "-c") == 0
    assert not any((picked / path).exists() for path in [*STACKS, PARTICLES])


KILLED = """
import os, signal, sys
real = os.replace
def replace(part, path):
    if str(path).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(part, path)
os.replace = replace
import gen_picks
gen_picks.main(sys.argv[2:])
"""


@pytest.mark.parametrize("at", [0, 2, "particles.star"])
def test_a_killed_run_goes_on(picked, whole, at):
    """Killed when a file is about to get its name; a killed process runs no clean-up."""
    name = at if isinstance(at, str) else STACKS[at].rpartition("/")[2]
    arguments = ["-p", str(picked.path), "-i", picked.micrographs, "--extract"]
    command = [sys.executable, "-c", KILLED, name, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    there = [path for path in STACKS if (picked / path).exists()]
    assert there == STACKS[: len(STACKS) if isinstance(at, str) else at]
    assert not (picked / PARTICLES).exists()
    times = {path: os.stat(picked / path).st_mtime_ns for path in there}
    assert pick(picked, "--extract") == 0
    assert {path: os.stat(picked / path).st_mtime_ns for path in there} == times
    assert made(picked) == whole[0]


def test_what_is_missing_is_cut_again(picked, whole):
    assert pick(picked, "--extract") == 0
    kept = os.stat(picked / STACKS[0]).st_mtime_ns
    (picked / STACKS[1]).unlink()
    assert pick(picked, "--extract") == 0
    assert os.stat(picked / STACKS[0]).st_mtime_ns == kept
    assert made(picked) == whole[0]


def test_new_micrographs_are_added(taught, whole, capsys):
    text = (taught / taught.micrographs).read_text()
    (taught / taught.micrographs).write_text(micrographs_star(NAMES[:2]))
    assert pick(taught, "--extract") == 0
    assert relion.read_particles(taught.path, taught / PARTICLES).micrographs == NAMES[:2]
    (taught / taught.micrographs).write_text(text)
    assert pick(taught) == 0
    assert "particles.star: not of these picks; --extract brings" in capsys.readouterr().err
    assert pick(taught, "--extract") == 0
    assert made(taught) == whole[0]


def test_micrographs_that_are_no_longer_listed_leave_the_list(taught):
    assert pick(taught, "--extract") == 0
    (taught / taught.micrographs).write_text(micrographs_star(NAMES[1:]))
    assert pick(taught) == 0
    assert pick(taught, "--extract") == 0
    assert relion.read_particles(taught.path, taught / PARTICLES).stacks == STACKS[1:]


def test_a_stack_older_than_its_picks_is_cut_again(picked):
    assert pick(picked, "--extract") == 0
    before = [mrc.size(picked / path).nz for path in STACKS]
    assert min(before) > 5
    path = picked / f"ClassBin/picks/{relion.rest(NAMES[1])}_autopick.star"
    xy, scores = relion.read_coordinates(path)
    relion.write_coordinates(path, xy[:5], scores[:5])
    assert pick(picked, "--extract") == 0
    expected = [before[0], 5, before[2]]
    assert [mrc.size(picked / path).nz for path in STACKS] == expected
    assert relion.read_particles(picked.path, picked / PARTICLES).block.rows == sum(expected)


def test_picks_by_a_clock_that_is_ahead_are_cut_once(picked, capsys):
    for path in (picked / "ClassBin/picks").rglob("*_autopick.star"):
        os.utime(path, (4e9, 4e9))
    assert pick(picked, "--extract") == 0
    capsys.readouterr()
    assert pick(picked, "--extract") == 0
    assert capsys.readouterr().out.startswith("finished before")


def test_a_micrograph_gone_by_then_is_counted(picked, whole, capsys):
    (picked / NAMES[1]).rename(picked / "away.mrc")
    for _ in range(2):  # a second run tries again
        assert pick(picked, "--extract") == 1
        said = capsys.readouterr()
        assert "1 skipped ->" in said.out
        assert said.err.splitlines()[-1] == (
            f"gen_picks.py: error: {picked / picked.micrographs}: 1 micrographs were skipped: "
            f"{picked / NAMES[1]}: No such file or directory"
        )
        found = relion.read_particles(picked.path, picked / PARTICLES)
        assert found.stacks == [STACKS[0], STACKS[2]]
    (picked / "away.mrc").rename(picked / NAMES[1])
    assert pick(picked, "--extract") == 0
    assert made(picked) == whole[0]


def test_another_folder_has_them_straight_in_it(taught):
    assert pick(taught, "--extract", "--o", "External/job009/", "--model", "ClassBin/model.h5") == 0
    found = relion.read_particles(taught.path, taught / "External/job009/particles.star")
    assert found.stacks == [f"External/job009/{name}s" for name in NAMES]


def test_a_micrograph_without_picks_has_no_stack(picked):
    empty = picked / f"ClassBin/picks/{relion.rest(NAMES[1])}_autopick.star"
    relion.write_coordinates(empty, [], [])
    assert pick(picked, "--extract") == 0
    found = relion.read_particles(picked.path, picked / PARTICLES)
    assert found.stacks == [STACKS[0], STACKS[2]]
    assert not (picked / STACKS[1]).exists()
    before = snapshot(picked / "ClassBin/picks")
    assert pick(picked, "--extract") == 0
    assert snapshot(picked / "ClassBin/picks") == before


# --- what is refused ------------------------------------------------------------------------------


def old_form(project):
    rows = "".join(f"{name} 4.0 10000\n" for name in NAMES)
    (project / project.micrographs).write_text(
        "data_\n\nloop_\n_rlnMicrographName\n_rlnDetectorPixelSize\n_rlnMagnification\n" + rows
    )
    return f"{project / project.micrographs}: a list of RELION 3.0, without data_optics"


def group_without_pixel_size(project):
    path = project / project.micrographs
    path.write_text(
        path.read_text().replace("opticsGroup1 1", "other 2 1 300 2.7 0.1 0\nopticsGroup1 1")
    )
    return f"{path}: rlnMicrographPixelSize 0 in data_optics, expected more than 0 of every group"


def older_record(project):
    path = project / "ClassBin/model.json"
    record = json.loads(path.read_text())
    del record["dataset"]["extraction"]
    path.write_text(json.dumps(record))
    return "model.h5: its record does not say how its particles were extracted"


def foreign_stack(project):
    (project / STACKS[1]).touch()
    return f"{project / STACKS[1]}: already there, and not written by the run"


@pytest.mark.parametrize("spoil", [old_form, group_without_pixel_size, older_record, foreign_stack])
def test_it_is_refused_before_any_work(picked, capsys, spoil):
    expected = spoil(picked)
    before = snapshot(picked.path)
    capsys.readouterr()
    assert pick(picked, "--extract") == 1
    said = capsys.readouterr()
    assert expected in said.err.splitlines()[-1]
    assert said.err.count("error:") == 1
    assert snapshot(picked.path) == before


def test_it_is_for_micrographs(picked, capsys):
    assert picked.call("gen_picks", "-i", picked.good, "--extract") == 1
    assert "--extract is for lists of micrographs, this list is of particles" in (
        capsys.readouterr().err
    )
