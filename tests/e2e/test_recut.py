"""gen_picks.py --recut: picks cut anew from their candidates, which are those of a fresh run."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, contents, micrographs_star, snapshot

from apbc_common import external, files, network, relion, star

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
PICKS = "ClassBin/picks"
RECORD = f"{PICKS}/run_gen_picks.json"
REMINDER = (
    "RELION needs a new Extract job for these picks: one that is continued keeps its old particles"
)
CUTS = {}  # thresholds of the hardly trained model, by name
LOW, MIDDLE, HIGH = (("--threshold", cut) for cut in (0.01, "middle", "high"))


def pick(project, *options):
    """Pick the project's micrographs; return the exit code."""
    return project.call("gen_picks", *arguments(project, *options))


def arguments(project, *options):
    return ["-i", project.micrographs, *(str(CUTS.get(one, one)) for one in options)]


def file_of(name):
    return f"{PICKS}/{relion.rest(name)}_autopick.star"


def candidates_of(name):
    return f"{PICKS}/.candidates/{relion.rest(name)}.star"


def picked(project):
    """The bytes of the picks and lists that a run wrote, and of its record."""
    found = contents(project / PICKS)
    record = json.loads((project / RECORD).read_text())
    assert record["state"] == "finished"
    found["run_gen_picks.json"] = record["options"], record["counts"]["picks"], record["outputs"]
    return found


@pytest.fixture(scope="module")
def _unpicked(_taught, tmp_path_factory):
    """A project with a model so hardly trained that scores scatter."""
    project = _taught.copy(tmp_path_factory.mktemp("unpicked") / "p")
    assert project.call("gen_model", "--epochs", 5, "--batch", 16, "-c") == 0
    every = project.copy(tmp_path_factory.mktemp("every") / "p")
    assert pick(every, *LOW) == 0
    scores = [relion.read_coordinates(every / file_of(name))[1] for name in NAMES]
    levels = np.quantile(np.concatenate(scores), (0.5, 0.8)).round(4).tolist()
    CUTS.update(zip(("middle", "high"), levels, strict=True))
    return project


@pytest.fixture(scope="module")
def fresh(_unpicked, tmp_path_factory):
    """A project picked with some options, and no others before."""
    made = {}

    def of(*options):
        if options not in made:
            made[options] = _unpicked.copy(tmp_path_factory.mktemp("fresh") / "p")
            assert pick(made[options], *options) == 0
        return made[options]

    return of


@pytest.fixture
def done(fresh, tmp_path):
    """A copy of a project picked with the middle threshold."""
    return fresh(*MIDDLE).copy(tmp_path / "done.1")


@contextlib.contextmanager
def asleep():
    """Whatever would score fails in this block."""

    def wake(*_):
        raise AssertionError("the model was loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "load_model", wake)
        yield


# --- cuts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    LOW, HIGH, ("--threshold", 1), ("--max-picks", 3), (*LOW, "--max-picks", 5), ("--fdr", 0.3),
])  # fmt: skip
def test_a_cut_is_what_a_fresh_run_writes(done, fresh, capsys, options):
    whole = options if {"--threshold", "--fdr"} & set(options) else (*MIDDLE, *options)
    expected = picked(fresh(*whole))
    assert expected != picked(done)
    capsys.readouterr()
    with asleep():
        assert pick(done, *options, "--recut") == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 micrographs, ") and "warning" not in err
    assert out.splitlines()[1:] == [REMINDER]
    assert picked(done) == expected
    assert pick(done, *whole) == 0
    assert pick(done, "--recut") == 0  # with what the earlier run had
    assert capsys.readouterr().out == 2 * (
        f"finished before: nothing to do, 3 micrographs -> {done.path}/{PICKS}\n"
    )
    before = snapshot(done.path)
    assert pick(done, *MIDDLE) == 1
    assert "; --recut cuts its picks anew, -c clears what it wrote" in capsys.readouterr().err
    assert snapshot(done.path) == before


def test_cuts_follow_one_another(done, fresh):
    with asleep():
        for options in (HIGH, LOW, (*LOW, "--max-picks", 2), (*MIDDLE, "--max-picks", 99)):
            assert pick(done, *options, "--recut") == 0
    assert picked(done) == picked(fresh(*MIDDLE, "--max-picks", 99))


def test_options_that_are_not_given_are_those_of_the_earlier_run(done, fresh, capsys):
    shutil.rmtree(done / PICKS)
    shutil.copytree(done / "ClassBin", done / "other")
    options = ("--model", "other/model.h5", "--border", 230, "--min-distance", 200, "--stride", 8)
    assert pick(done, *options, *HIGH, "--max-picks", 4) == 0
    record = json.loads((done / RECORD).read_text())
    (done / "ClassBin/model.h5").unlink()
    with asleep():
        assert pick(done, *LOW, "--recut") == 0
    again = json.loads((done / RECORD).read_text())
    assert again["options"] == {**record["options"], "threshold": 0.01}
    assert again["inputs"] == record["inputs"]


def test_new_micrographs_are_left_for_later(done, fresh, capsys):
    expected = picked(fresh(*HIGH))
    (done / done.micrographs).write_text(micrographs_star(NAMES[:2]))
    assert pick(done, "-c") == 0
    (done / done.micrographs).write_text(micrographs_star(NAMES))
    with asleep():
        assert pick(done, *HIGH, "--recut") == 0
    said = "1 micrographs are not picked yet; that line without --recut picks them\n"
    assert said in capsys.readouterr().out
    assert [(done / file_of(name)).exists() for name in NAMES] == [True, True, False]
    assert pick(done, *HIGH) == 0
    found = picked(done)
    for made in (found, expected):
        made["run_gen_picks.json"][2].sort()  # files in the order in which they came
    assert found == expected


def lose(done):
    (done / candidates_of(NAMES[0])).unlink()


def damage(done):
    path = done / candidates_of(NAMES[1])
    path.write_bytes(path.read_bytes()[:-20])


def list_others(done):
    others = micrographs_star([f"Other/{name}" for name in NAMES])
    (done / done.micrographs).write_text(others)
    (done / "Other").symlink_to(done.path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, f"the candidates of 1 micrographs that were picked are gone ({NAMES[0]};"),
        (damage, "columns, expected 5; -c in place of --recut picks anew"),
        (list_others, "none of its micrographs was picked by the run in"),
    ],
)
def test_what_cannot_be_cut_stays(done, capsys, spoil, message):
    spoil(done)
    before = snapshot(done / PICKS)
    assert pick(done, *HIGH, "--recut") == 1
    assert message in capsys.readouterr().err
    assert snapshot(done / PICKS) == before


def test_picks_of_micrographs_that_are_no_longer_listed_go_too(done, fresh):
    expected = picked(fresh(*HIGH))
    (done / done.micrographs).write_text(micrographs_star(NAMES[:2]))
    with asleep():
        assert pick(done, *HIGH, "--recut") == 0
        assert not (done / file_of(NAMES[2])).exists()
        (done / done.micrographs).write_text(micrographs_star(NAMES))
        assert pick(done, *HIGH) == 0
    found = picked(done)
    for made in (found, expected):
        made["run_gen_picks.json"][2].sort()
    assert found == expected


@pytest.mark.parametrize("earlier", [0.002, 0.01, 0.5])
def test_below_the_candidates_nothing_is_cut(done, fresh, capsys, earlier):
    assert pick(done, "-c", "--threshold", earlier) == 0
    before = snapshot(done.path)
    capsys.readouterr()
    assert pick(done, "--threshold", 0.0019, "--recut") == 1
    floor = min(earlier, 0.01)
    assert capsys.readouterr().err == (
        f"gen_picks.py: error: {done.path}/{RECORD}: threshold 0.0019, but candidates are kept "
        f"from {floor:g} on; give at least that, or -c in place of --recut, which scores again\n"
    )
    assert snapshot(done.path) == before
    assert pick(done, "--threshold", floor, "--recut") == 0
    for name in NAMES if earlier > floor else ():
        assert (done / file_of(name)).read_bytes() == (fresh(*LOW) / file_of(name)).read_bytes()


@pytest.mark.parametrize("option, difference", [
    (("--min-distance", 99), "min_distance [0-9.]+, this one has 99.0"),
    (("--border", 0), "border 192.0, this one has 0.0"),
    (("--stride", 8), "stride 4, this one has 8"),
    (("--invert",), "invert False, this one has True"),
    (("--model", "other/model.h5"), "model ClassBin/model.h5, this one has other/model.h5"),
])  # fmt: skip
def test_what_asks_for_scores_is_refused(done, capsys, option, difference):
    (done / "other").mkdir()
    network.save_model(network.build_model(64), done / "other/model.h5")
    digests = (files.digest(done / folder / "model.h5") for folder in ("ClassBin", "other"))
    text = (done / "ClassBin/model.json").read_text().replace(*digests)
    (done / "other/model.json").write_text(text)
    before = snapshot(done.path)
    capsys.readouterr()
    assert pick(done, *HIGH, "--recut", *option) == 1
    assert re.fullmatch(
        rf"gen_picks\.py: error: .*/{RECORD}: an earlier run had {difference}; -c clears what it "
        "wrote and starts anew, --o DIR writes elsewhere\n",
        capsys.readouterr().err,
    )
    assert snapshot(done.path) == before


@pytest.mark.parametrize("options, code, message", [
    (("-c",), 2, "argument --recut: not with -c, which clears what it cuts from"),
    (("--sample", 2), 2, "argument --recut: not with --sample; it cuts all that was picked"),
    (("--o", "Empty"), 1,
     "{p}/Empty: no picks of an earlier run, which --recut cuts anew; run without it first"),
    (("--o", "Grid"), 1,
     "{p}/Grid: no picks of an earlier run, which --recut cuts anew; run without it first"),
    (("-i", "Extract/job005/particles.star"), 1,
     "{p}/Extract/job005/particles.star: --recut is for lists of micrographs, this list is of "
     "particles"),
])  # fmt: skip
def test_nothing_to_cut(done, capsys, options, code, message):
    if "Grid" in options:
        grid = ("-i", "Extract/job005/particles.star", "--o", "Grid")
        assert done.call("gen_picks", *grid) == 0
    before = snapshot(done.path)
    capsys.readouterr()
    assert pick(done, *HIGH, "--recut", *options) == code
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gen_picks.py: error: {message.replace('{p}', str(done.path))}"
    )
    assert snapshot(done.path) == before


# --- killed --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
at, name = sys.argv[1:3]
real = getattr(os, at)
def dying(*paths, **options):
    if str(paths[-1]).endswith(name):
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths, **options)
setattr(os, at, dying)
import gen_picks
gen_picks.main(sys.argv[3:])
"""
FILES = [os.path.basename(file_of(name)) for name in NAMES]


def kill(project, at, name, *options):
    """Kill a run that is about to remove a file ('unlink') or to give it its name ('replace')."""
    command = [sys.executable, "-c", KILLED, at, name, "-p", str(project.path)]
    done = subprocess.run([*command, *arguments(project, *options)], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert json.loads((project / RECORD).read_text())["state"] == "unfinished"


@pytest.mark.parametrize("at, name, cut", [
    ("unlink", FILES[0], False), ("unlink", FILES[2], False), ("unlink", "picks.star", False),
    ("replace", FILES[0], True), ("replace", FILES[1], True), ("replace", "picks.star", True),
])  # fmt: skip
def test_a_killed_cut_is_no_mixture(done, fresh, tmp_path, capsys, at, name, cut):
    """Whoever goes on, with the old threshold or the new one, gets all of one of them or is told.

    As long as old picks may be there the run is the old one; from then on it is the new one.
    """
    kill(done, at, name, *HIGH, "--recut")
    left = [name for name in NAMES if (done / file_of(name)).exists()]
    there = fresh(*(HIGH if cut else MIDDLE))
    assert all((done / file_of(n)).read_bytes() == (there / file_of(n)).read_bytes() for n in left)
    if cut:  # RELION finds no list of some old and some new ones
        lists = ("picks.star", "autopick.star", "coords_suffix_autopick.star")
        assert not any((done / PICKS / name).exists() for name in lists)
    for number, (options, can) in enumerate([
        ((*HIGH, "--recut"), True), (HIGH, cut), (MIDDLE, not cut), ((*LOW, "--recut"), True),
    ]):  # fmt: skip
        project = done.copy(tmp_path / f"copy{number}")
        with asleep():
            assert pick(project, *options) == (0 if can else 1), capsys.readouterr().err
        if can:
            assert picked(project) == picked(fresh(*options[:2]))


def test_a_killed_clearing_is_no_mixture_either(done, fresh):
    kill(done, "unlink", FILES[1], *HIGH, "-c")
    assert pick(done, *HIGH) == 1
    assert pick(done, *HIGH, "-c") == 0
    assert picked(done) == picked(fresh(*HIGH))


# --- what is made of the picks -------------------------------------------------------------------


def test_stacks_are_cut_anew_where_asked_for(done, fresh, capsys):
    whole, other = picked(fresh(*HIGH, "--extract")), fresh(*MIDDLE, "--extract")
    project = other.copy(done / "whole")
    stacks = {name: data for name, data in contents(project / PICKS).items()
              if name.endswith(".mrcs") or name == "particles.star"}  # fmt: skip
    capsys.readouterr()
    assert pick(project, *HIGH, "--recut") == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"warning: {project.path}/{PICKS}/particles.star: not of these picks; --extract brings it "
        "up to date"
    )
    after = contents(project / PICKS)
    assert len(stacks) == 4 and {name: after[name] for name in stacks} == stacks
    kill(project, "replace", f"{relion.rest(NAMES[1])[-5:]}.mrcs", *HIGH, "--extract")
    assert not (project / PICKS / "particles.star").exists()  # it names other particles
    assert pick(project, *HIGH, "--extract") == 0
    assert without_record(picked(project)) == without_record(whole)
    project = other.copy(done / "at once")
    assert pick(project, *HIGH, "--recut", "--extract") == 0
    assert capsys.readouterr().out.splitlines()[-1] == REMINDER
    assert without_record(picked(project)) == without_record(whole)


def without_record(found):
    return {name: data for name, data in found.items() if not name.startswith("run_")}


OTHERS = ("--box-files", "--invert-y", "--compare", "Select/job010/particles.star")


def test_lists_for_others_are_made_anew_or_told_of(done, fresh, capsys):
    whole, other = picked(fresh(*HIGH, *OTHERS)), fresh(*MIDDLE, *OTHERS)
    project = other.copy(done / "with")
    assert pick(project, *HIGH, "--recut", *OTHERS) == 0
    assert without_record(picked(project)) == without_record(whole)
    project = other.copy(done / "without")
    capsys.readouterr()
    assert pick(project, *HIGH, "--recut") == 0
    assert "picks_inverted_y.star: not of these picks; --invert-y" in capsys.readouterr().err
    assert contents(project / PICKS).keys() == {
        *contents(fresh(*HIGH) / PICKS), "picks_inverted_y.star"
    }  # fmt: skip


def test_a_job_is_cut_in_its_folder(done, fresh):
    job = ("--o", "External/job015/")
    (done / external.PIPELINE).write_text("_rlnPipeLineProcessType #3\n")
    assert pick(done, *job, *LOW) == 0
    for _ in range(2):  # Continue is the same line
        assert pick(done, *job, *HIGH, "--recut", "--extract") == 0
        nodes = star.scan(done / f"External/job015/{external.NODES}")["output_nodes"].read()
        assert nodes["rlnPipeLineNodeName"].tolist() == [
            f"External/job015/{name}" for name in ("coords_suffix_autopick.star", "particles.star")
        ]
        assert (done / f"External/job015/{external.SUCCESS}").exists()
    for name in NAMES:
        path = file_of(name).removeprefix(f"{PICKS}/")
        expected = (fresh(*HIGH) / PICKS / path).read_bytes()
        assert (done / "External/job015" / path).read_bytes() == expected


# --- many ----------------------------------------------------------------------------------------

MANY, EACH = 200, 400
AWAKE = """
import sys, gen_picks
assert gen_picks.main(sys.argv[1:]) == 0
assert not {"tensorflow", "keras"} & set(sys.modules)
"""


def test_many_are_cut_in_seconds_without_tensorflow(done):
    rng = np.random.default_rng(0)
    names = [f"Micrographs/more/{i}.mrc" for i in range(MANY)]
    (done / done.micrographs).write_text(micrographs_star([NAMES[0], *names]))
    scores = np.sort(rng.random((MANY, EACH)))[:, ::-1]
    record = json.loads((done / RECORD).read_text())
    for name, each in zip(names, scores, strict=True):
        xy = rng.uniform(0, 4000, (EACH, 2))
        relion.write_coordinates(done / candidates_of(name), xy, each)
        relion.write_coordinates(done / file_of(name), xy[each >= 0.5], each[each >= 0.5])
        record["outputs"] += [path.removeprefix(f"{PICKS}/")
                              for path in (file_of(name), candidates_of(name))]  # fmt: skip
    (done / RECORD).write_text(json.dumps(record))
    start = time.monotonic()
    command = [sys.executable, "-c", AWAKE, "-p", str(done.path)]
    command += arguments(done, "--threshold", 0.8, "--recut")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - start < 30  # 3 s on two idle cores
    some = len(relion.read_coordinates(done / file_of(NAMES[0]))[1])
    count = (scores.round(4) >= 0.8).sum() + some
    assert ended.stdout.startswith(f"{MANY + 1} micrographs, {count} picks (from 0.8), ")
