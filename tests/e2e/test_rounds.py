"""Training in rounds, and training particles that the networks contradict."""

import re

import numpy as np
import pytest
from conftest import make_project

from apbc_common import learning, relion, star

SWAPPED = 3  # of each list, put into the other


def lists(project):
    return "-g", project.good, "-b", project.bad


@pytest.fixture(scope="module")
def _larger(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("larger") / "p", count=6)


@pytest.fixture
def larger(_larger, tmp_path):
    return _larger.copy(tmp_path / "larger")


def rows(path):
    return [line for line in path.read_text().splitlines() if "@" in line]


def test_good_particles_go_where_they_are_found(larger, monkeypatch, capsys):
    """By their origins every good particle is 20 A off, somewhere."""
    train, seen = learning.train, []
    monkeypatch.setattr(
        learning, "train", lambda pixels, *rest: seen.append(pixels.copy()) or train(pixels, *rest)
    )
    particles = relion.read_particles(larger.path, larger / larger.good)
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, len(particles))
    origin = 20 * np.stack([np.cos(angle), np.sin(angle)])
    columns = {
        label: [f"{value:.6f}" for value in values]
        for label, values in zip(relion.ORIGIN_ANGST, origin, strict=True)
    }
    relion.copy_particles(particles, larger / "off.star", angle < 7, columns)
    lists = "-g", "off.star", "-b", larger.bad
    assert larger.call("gen_data", *lists, "--from-micrographs", "--no-png") == 0
    training = ("--rounds", 2, "--epochs", 24, "--batch", 16)
    assert larger.call("gen_model", *training) == 0
    said = capsys.readouterr().out.splitlines()[-2]
    moved = re.match(
        r"after round 1: (\d+) of (\d+) good particles found, half of them by more than "
        r"(\d+\.\d) A off, all by (-?\d+\.\d), (-?\d+\.\d) A on average; moved \d\d% of the way$",
        said,
    )
    assert int(moved[1]) > 0.9 * int(moved[2])
    assert float(moved[3]) == pytest.approx(20, abs=3)
    assert max(abs(float(moved[4])), abs(float(moved[5]))) < 6
    cut_anew = (seen[0] != seen[1]).any(axis=(1, 2))
    assert cut_anew.sum() == int(moved[1])


def swap(project):
    """Put some particles into the wrong list; return their names."""
    good, bad = (project / path for path in (project.good, project.bad))
    ours = {path: rows(path)[1::20][:SWAPPED] for path in (good, bad)}
    for path, other in ((good, bad), (bad, good)):
        kept = [line for line in path.read_text().splitlines() if line not in ours[path]]
        while not kept[-1]:
            kept.pop()
        path.write_text("\n".join([*kept, *ours[other], "", ""]))
    return {line.split()[0] for lines in ours.values() for line in lines}


@pytest.mark.parametrize("source", ["micrographs", "stacks"])
def test_particles_in_the_wrong_list_are_suspects(larger, capsys, source):
    wrong = swap(larger)
    options = ["--from-micrographs"] if source == "micrographs" else []
    assert larger.call("gen_data", *lists(larger), "--no-png", *options) == 0
    assert larger.call("gen_model", "--members", 3, "--epochs", 16, "--batch", 16) == 0
    out = capsys.readouterr().out
    found = star.scan(larger / "ClassBin/suspects.star")["suspects"].read()
    taught = star.scan(larger / "ClassBin/train.star")["windows"].read()
    asked = taught_names(larger, taught)
    assert len(asked & wrong) >= 3
    assert set(found[relion.IMAGE]) <= asked & wrong
    assert len(found) >= 2 / 3 * len(asked & wrong)
    assert (np.diff(found["apbcWrong"].astype(float)) <= 0).all()
    for name, kind, row in zip(
        found[relion.IMAGE], found["apbcKind"], found["apbcRow"], strict=True
    ):
        path = larger.good if kind == "good" else larger.bad
        assert rows(larger / path)[int(row) - 1].split()[0] == name
    rescued = relion.read_particles(larger.path, larger / "ClassBin/particles_rescued.star")
    names = {rescued.name(i) for i in range(len(rescued))}
    assert names == set(found[relion.IMAGE][found["apbcKind"] == "bad"]) != set()
    assert re.search(
        rf"^wrong labels, as it seems: \d+\.\d% of the good, \d+\.\d% of the bad; "
        rf"{len(found)} suspects, {len(rescued)} rescued$",
        out,
        re.M,
    )


@pytest.mark.parametrize("damage", ["stacks", "list"])
def test_lists_that_suspects_can_not_be_told_of_are_found_before_learning(
    larger, monkeypatch, capsys, damage
):
    assert larger.call("gen_data", *lists(larger), "--no-png", "--from-micrographs") == 0
    monkeypatch.setattr(learning, "train", lambda *rest: pytest.fail("it learns"))
    if damage == "list":
        swap(larger)
        error = "moved or changed since gen_data.py read it; run that again"
    else:
        gone = star.scan(larger / larger.bad)["particles"].read()[relion.IMAGE][0].split("@")[1]
        (larger / gone).unlink()
        error = f"1 of 6 stacks can't be used: {gone}: No such file"
    assert larger.call("gen_model", "--members", 3) == 1
    assert f"gen_model.py: error: {larger / larger.bad}: {error}" in capsys.readouterr().err
    assert not (larger / "ClassBin/model.h5").exists()


def taught_names(project, windows):
    """The particles that were learnt from."""
    names = set()
    for kind in ("good", "bad"):
        listed = rows(project / (project.good if kind == "good" else project.bad))
        of_kind = windows[windows["apbcKind"] == kind]
        names |= {listed[int(row) - 1].split()[0] for row in of_kind["apbcRow"]}
    return names
