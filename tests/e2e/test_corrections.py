"""Corrections: what people said of places, learnt from beside the lists."""

import hashlib
import json

import numpy as np
import pytest
from conftest import make_project

from apbc_common import classbin, peaks, relion, samples
from apbc_common.labels import RADIUS

HEADER = (
    "\ndata_corrections\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n"
    "_rlnCoordinateY #3\n_apbcKind #4\n"
)
NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(5)]
NEW = NAMES[4]  # no list of particles names it
DIAMETER = 150  # A, 37.5 px


def write(project, rows, name="corrections.star"):
    text = "".join(f"{micrograph} {x} {y} {kind}\n" for micrograph, x, y, kind in rows)
    (project / name).write_text(HEADER + text)
    return name


def cut(project, *options, out="ClassBin"):
    lists = ("-g", project.good, "-b", project.bad, "--diameter", DIAMETER, "--from-micrographs")
    return project.call("gen_data", *lists, "--o", out, *options)


def read(project, out="ClassBin"):
    folder = classbin.ClassBin(project.path, project / out)
    dataset = classbin.read_dataset_record(folder.dataset)
    found = samples.read(folder, dataset)
    return dataset, found, samples.pixels(project.path, folder.folder, dataset, found)


def parts(dataset):
    return {name: one["part"] for name, one in dataset["micrographs"].items()}


def rows_of(found, which):
    return {
        (found.source[i], *found.where[i].round(2).tolist(), found.kind[i])
        for i in np.flatnonzero(which)
    }


@pytest.fixture(scope="module")
def _five(tmp_path_factory):
    """Five micrographs; the lists name four. A data set of these, `plain`."""
    project = make_project(tmp_path_factory.mktemp("five") / "p", count=5)
    for path in (project.good, project.bad):
        lines = (project / path).read_text().splitlines()
        (project / path).write_text("\n".join(x for x in lines if NEW not in x) + "\n")
    assert cut(project, "--no-png", out="plain") == 0
    return project


@pytest.fixture
def five(_five, tmp_path):
    return _five.copy(tmp_path / "five")


def particles(project, kind, name):
    path = project / getattr(project, kind)
    found = relion.read_particles(project.path, path)
    return found.xy[found.micrograph == found.micrographs.index(name)].round(2)


@pytest.mark.parametrize("png", [(), ("--no-png",)])
def test_corrections_rule_over_the_lists(five, png, capsys):
    dataset, before, _ = read(five, "plain")
    part = parts(dataset)
    (test,) = (name for name in part if part[name] == "test")
    (held,) = (name for name in part if part[name] == "validation")
    first, second = (name for name in part if part[name] == "train")
    good, bad = (particles(five, kind, first) for kind in ("good", "bad"))
    rows = [
        (first, *good[0] + 5, "bad"),  # listed as good
        (first, *bad[0], "good"),  # listed as bad
        (first, *good[1] - 4, "good"),  # confirmed
        (NEW, 200.5, 100.25, "good"),
        (NEW, 300.0, 400.0, "bad"),
        (NEW, 300.0, 512.0, "bad"),  # outside
        (held, *particles(five, "bad", held)[3], "good"),
        (test, *particles(five, "good", test)[2], "bad"),
        (test, *particles(five, "good", test)[3], "bad"),
    ]
    capsys.readouterr()
    assert cut(five, "--corrections", write(five, rows), *png) == 0
    out, err = capsys.readouterr()
    assert "warning: 1 corrections lie outside their micrographs; left out\n" in err
    assert (
        "corrections: 4 good, 4 bad, in place of 6 listed particles; 5 teach, 1 lie on micrographs "
        "of the validation, 2 on those of the test\n"
    ) in out
    dataset, found, pixels = read(five)
    wanted = {(n, round(float(x), 2), round(float(y), 2), k) for n, x, y, k in rows if y != 512}
    assert rows_of(found, found.corrected) == wanted
    assert not (found.corrected & found.listed).any()
    assert set(found.weight[found.corrected]) == {samples.CORRECTION}
    assert set(found.weight[~found.corrected]) == {1.0}
    # The split is that of the lists, and what is new is learnt from.
    assert parts(dataset) == {**part, NEW: "train"}
    # Nothing of the lists is left near a correction, and nothing else of them is gone.
    reach = RADIUS * DIAMETER / 4
    left = rows_of(found, found.listed)
    gone = rows_of(before, before.listed) - left
    assert len(gone) == 6 and left < rows_of(before, before.listed)
    fixed = {name: np.array([r[1:3] for r in rows if r[0] == name], float) for name in part}
    for name, x, y, _ in gone:
        assert peaks.nearest(np.array([[x, y]]), fixed[name])[0] <= reach
    # What was corrected to be good is none to derived negatives; they are added to it too.
    derived = found.derived & (found.source == NEW)
    assert sorted(found.kind[derived]) == ["beside", "offcentre"]
    for name in {*part, NEW}:
        here = found.source == name
        particle = found.where[here & (found.label == 1)]
        away = peaks.nearest(found.where[here & found.derived], particle)
        assert away.min() >= 0.2 * 96 - 1e-6
    # Micrographs without corrections are as before.
    kept = rows_of(found, found.source == second)
    assert kept == rows_of(before, before.source == second)
    assert dataset["corrected"] == {"train": 6, "test": 2}
    digest = hashlib.sha256((five / "corrections.star").read_bytes()).hexdigest()
    assert dataset["corrections"] == {"corrections.star": digest}
    record = json.loads((five / "ClassBin/run_gen_data.json").read_text())
    assert record["inputs"]["corrections 1"] == {"path": "corrections.star", "sha256": digest}
    count = dataset["counts"]["train"]
    assert out.splitlines()[-1].startswith(
        f"{sum(count.values())} train windows ({count['good']} good, {count['bad']} bad, "
        f"{dataset['derived']['train']} of them derived; 6 of them corrections), "
    )
    assert pixels.std(axis=(1, 2)).min() > 5
    names = [p.name for p in (five / "ClassBin").rglob("*.png") if "corrected" in p.name]
    assert len(names) == (0 if png else 8)
    assert cut(five, "--corrections", "corrections.star", *png) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished before")


def test_windows_of_corrections_are_cut_where_they_are(five):
    """A picture and a list say the same of them."""
    rows = [(NEW, 200.5, 100.25, "good"), (NEW, 300.0, 400.0, "bad")]
    write(five, rows)
    assert cut(five, "--corrections", "corrections.star", out="with") == 0
    assert cut(five, "--corrections", "corrections.star", "--no-png", out="without") == 0
    (_, found, pixels), (_, again, cut_now) = read(five, "with"), read(five, "without")
    assert np.array_equal(pixels, cut_now)
    assert np.array_equal(found.corrected, again.corrected) and found.corrected.sum() == 2


def test_later_corrections_rule_over_earlier_ones(five):
    reach = RADIUS * DIAMETER / 4
    first = write(five, [(NEW, 100, 100, "good"), (NEW, 300, 300, "bad")], "first.star")
    rows = [(NEW, 100, 100.5, "bad"), (NEW, 100 + 0.9 * reach, 100, "bad")]  # one place, twice
    rows += [(NEW, 300, 300 + 1.1 * reach, "good")]
    second = write(five, rows, "second.star")
    options = ("--no-png", "--corrections", first, "--corrections", second)
    assert cut(five, *options) == 0
    dataset, found, _ = read(five)
    assert rows_of(found, found.corrected) == {
        (NEW, round(100 + 0.9 * reach, 2), 100.0, "bad"),
        (NEW, 300.0, 300.0, "bad"),
        (NEW, 300.0, round(300 + 1.1 * reach, 2), "good"),
    }
    assert list(dataset["corrections"]) == [first, second]


def test_a_micrograph_may_go_by_its_file_name(five, capsys):
    rows = [("moved/mic_a.4.mrc", 100, 100, "good"), ("moved/else.mrc", 100, 100, "good")]
    options = ("--no-png", "--corrections", write(five, rows))
    assert cut(five, *options) == 1
    said = (
        f"{five.path}/corrections.star: 1 of 2 micrographs are not in "
        f"{five.path}/{five.micrographs}: moved/else.mrc (nearest: "
    )
    assert said in capsys.readouterr().err
    assert cut(five, *options, "--allow-missing") == 0
    assert "their corrections are left out" in capsys.readouterr().err
    _, found, _ = read(five)
    assert rows_of(found, found.corrected) == {(NEW, 100.0, 100.0, "good")}


ROW = f"{NEW} 100 100 good\n"
PLACE = f"corrections.star:{len(HEADER.splitlines()) + 1}"
BAD = {
    "no column": (HEADER.replace("_apbcKind", "_rlnKind") + ROW, "0 correction tables (with a"),
    "no place": (
        HEADER.replace("CoordinateY", "Y") + ROW,
        "corrections.star: data_corrections has no column rlnCoordinateY; it has",
    ),
    "no rows": (HEADER, "corrections.star: data_corrections has no corrections\n"),
    "no number": (
        HEADER + ROW.replace("100 good", "1oo good"),
        f"{PLACE}: rlnCoordinateY is '1oo', expected a number\n",
    ),
    "another kind": (
        HEADER + ROW.replace("good", "ok"),
        f"{PLACE}: apbcKind is 'ok', expected good or bad\n",
    ),
    "unknown": (HEADER + ROW.replace("a.4", "b.9"), "1 of 1 micrographs are not in "),
    "outside": (
        HEADER + ROW.replace("100 100", "-1 100"),
        "--corrections: all 1 corrections lie outside their micrographs; coordinates are pixels "
        "of the micrographs\n",
    ),
    "both": (
        HEADER + ROW + f"{NEW} 105 100 bad\n",
        f"corrections.star: 1 places are good and bad, within 0.3 diameters: {NEW} at 100.0, "
        "100.0; keep one of each\n",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_corrections(five, name, capsys):
    text, said = BAD[name]
    (five / "corrections.star").write_text(text)
    capsys.readouterr()
    assert cut(five, "--corrections", "corrections.star") == 1
    lines = capsys.readouterr().err.splitlines(True)
    errors = [line for line in lines if line.startswith("gen_data.py: error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert not (five / "ClassBin").exists()


def test_corrections_need_micrographs(five, capsys):
    write(five, [(NEW, 100, 100, "good")])
    lists = ("-g", five.good, "-b", five.bad, "--corrections", "corrections.star")
    assert five.call("gen_data", *lists) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gen_data.py: error: argument --corrections: with --from-micrographs, where places can be "
        "cut"
    )
    assert five.call("gen_data", *lists, "none.star", "--from-micrographs") == 2
    assert cut(five, "--corrections", "none.star") == 2
    assert "argument --corrections: none.star: no such file in the project" in (
        capsys.readouterr().err
    )
