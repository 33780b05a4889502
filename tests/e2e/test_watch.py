"""gen_picks.py --watch: micrographs that arrive while it runs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, contents, micrographs_star

from apbc_common import external, relion, watching

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
PICKS = "ClassBin/picks"
RECORD = "run_gen_picks.json"


@pytest.fixture
def whole(taught):
    """The project, and what an undisturbed run of all micrographs leaves."""
    assert taught.call("gen_picks", "-i", taught.micrographs) == 0
    expected = picked(taught)
    for path in sorted((taught / PICKS).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return taught, expected


def picked(project):
    found = contents(project / PICKS)
    record = json.loads(found.pop(RECORD))
    assert record["state"] == "finished"
    return found | {RECORD: (record["options"], sorted(record["outputs"]))}


def listed(project, count):
    (project / project.micrographs).write_text(micrographs_star(NAMES[:count]))


def turns(monkeypatch, *steps):
    """Let what happens between turns happen at once; after the last step nothing may follow."""
    left = list(steps)
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: left.pop(0)())
    return left


def names_in(project, which="picks"):
    return set(relion.read_all_coordinates(project / f"{PICKS}/{which}.star")[2])


def watch(project, *options):
    return project.call("gen_picks", "-i", project.micrographs, "--watch", 0.01, *options)


def test_what_arrives_is_picked_as_if_it_had_been_there(whole, monkeypatch, capsys):
    project, expected = whole
    late = (project / NAMES[1]).read_bytes()
    listed(project, 1)

    def begins_to_be_written():
        assert names_in(project) == set(NAMES[:1])
        listed(project, 2)
        (project / NAMES[1]).write_bytes(late[:5000])

    def grows():
        assert names_in(project) == set(NAMES[:1])
        (project / NAMES[1]).write_bytes(late[:9000])

    def is_whole():
        assert names_in(project) == set(NAMES[:1])
        (project / NAMES[1]).write_bytes(late)

    def is_listed_before_it_is_there():
        assert names_in(project) == set(NAMES[:2])
        (project / NAMES[2]).rename(project / "later.mrc")
        listed(project, 3)

    def is_there():
        assert names_in(project, "candidates") == set(NAMES[:2])
        (project / "later.mrc").rename(project / NAMES[2])

    steps = begins_to_be_written, grows, is_whole, is_listed_before_it_is_there, is_there
    left = turns(monkeypatch, *steps)
    assert watch(project, "--until", 3) == 0
    assert not left and picked(project) == expected
    said = capsys.readouterr().err
    assert "1 of 2 micrographs are still to come" in said and "skipped" not in said


def test_a_list_that_is_being_written_is_read_again(whole, monkeypatch, capsys):
    project, expected = whole
    path = project / project.micrographs
    text = path.read_text()
    listed(project, 1)
    steps = (lambda: path.write_text(text[: len(text) // 2]), lambda: path.write_text(text))
    left = turns(monkeypatch, *steps)
    assert watch(project, "--until", 3) == 0
    assert not left and picked(project) == expected
    said = capsys.readouterr().err
    assert "it is read again in the next turn" in said and "of 0 micrographs" not in said


def test_a_micrograph_that_stays_short_is_skipped_and_counts(whole, monkeypatch, capsys):
    project, _ = whole
    (project / NAMES[1]).write_bytes((project / NAMES[1]).read_bytes()[:5000])
    left = turns(monkeypatch, lambda: None)
    assert watch(project, "--until", 3) == 1
    assert not left and names_in(project) == {NAMES[0], NAMES[2]}
    said = capsys.readouterr().err
    assert said.count(f"{NAMES[1]}: ") == 1  # tried once
    assert said.splitlines()[-1].endswith(f"1 micrographs were skipped: {NAMES[1]}")


def test_interrupted_between_turns_it_ends_well(whole, monkeypatch):
    project, expected = whole

    def interrupt():
        raise KeyboardInterrupt

    turns(monkeypatch, interrupt)
    assert watch(project) == 0
    assert picked(project) == expected


def test_a_run_that_was_finished_goes_on(whole, monkeypatch):
    project, expected = whole
    listed(project, 2)
    assert project.call("gen_picks", "-i", project.micrographs) == 0
    left = turns(monkeypatch, lambda: listed(project, 3))
    assert watch(project, "--until", 3) == 0
    assert not left and picked(project) == expected


def test_other_options_than_before_are_refused(whole, monkeypatch, capsys):
    project, _ = whole
    assert project.call("gen_picks", "-i", project.micrographs) == 0
    before = contents(project / PICKS)
    turns(monkeypatch)
    assert watch(project, "--border", 7) == 1
    assert "an earlier run had border" in capsys.readouterr().err
    assert contents(project / PICKS) == before


def test_relion_s_abort_ends_it(whole):
    project, _ = whole
    job = project / "External/job015"
    job.mkdir(parents=True)
    line = [sys.executable, ROOT / "gen_picks.py", "--o", "External/job015/"]
    line += ["--in_mics", project.micrographs, "--watch", "60"]
    run = subprocess.Popen(
        line, cwd=project.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for(lambda: (job / "picks.star").exists(), run)
    (job / external.ABORT).touch()
    wait_for(lambda: run.poll() is not None)
    assert (job / external.ABORTED).exists() and not (job / external.SUCCESS).exists()
    run.stderr.close()


def test_ctrl_c_of_a_terminal_ends_it(whole):
    project, expected = whole
    line = [sys.executable, ROOT / "gen_picks.py", "-i", project.micrographs, "--watch", "60"]
    run = subprocess.Popen(
        line,
        cwd=project.path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # a shell's background ignores the signal
    assert any(b"still to come" in line for line in run.stderr)
    time.sleep(0.5)
    os.kill(run.pid, signal.SIGINT)
    wait_for(lambda: run.poll() is not None)
    assert run.returncode == 0 and picked(project) == expected
    run.stderr.close()


def wait_for(true, run=None, most=120):
    end = time.monotonic() + most
    while not true():
        assert time.monotonic() < end and (run is None or run.poll() is None)
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--watch", 0), "argument --watch: '0' is not a number above 0"),
        (("--until", 3), "argument --until: only with --watch"),
        (("--watch", 1, "--until", 0), "argument --until: '0' is not a whole number of at least 1"),
        (("--watch", 1, "--recut"), "argument --watch: not with --recut or --sample"),
        (("--watch", 1, "--sample", 2), "argument --watch: not with --recut or --sample"),
    ],
)
def test_options_that_make_no_sense(project, capsys, options, message):
    assert project.call("gen_picks", "-i", project.micrographs, *options) == 2
    assert message in capsys.readouterr().err


def test_particles_do_not_arrive(trained, capsys):
    assert trained.call("gen_picks", "-i", trained.good, "--watch", 1) == 1
    assert "--watch is for lists of micrographs" in capsys.readouterr().err
