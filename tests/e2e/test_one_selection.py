"""gen_data.py with one selection, or none: good and bad out of the list of all."""

import json

import numpy as np
import pytest
from conftest import make_project

from apbc_common import classbin, relion, samples, star

ALL = "Class2D/job008/run_it025_data.star"
RANKED = "Select/job014/rank_data.star"


def with_classes(project):
    """Add the lists of a 2D classification: three classes, the good particles in the first."""
    lines = (project / "Extract/job005/particles.star").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("000001@"))
    head, rows = lines[:first], [line for line in lines[first:] if line]
    good = set((project / project.good).read_text().split())
    numbers = [1 if row.split()[0] in good else 2 + i % 2 for i, row in enumerate(rows)]
    order = np.random.default_rng(0).permutation(len(rows))  # Class2D sorts as it likes
    text = [*head, "_rlnClassNumber #8", *(f"{rows[i]} {numbers[i]}" for i in order), ""]
    for path in (ALL, RANKED):
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text("\n".join(text))
    (project / "Select/job014/rank_model.star").write_text(
        "# version 30001\n\ndata_model_classes\n\nloop_\n_rlnReferenceImage #1\n_rlnClassScore #2\n"
        "000001@a.mrcs 0.8\n000002@a.mrcs 0.1\n000003@a.mrcs 0.4\n\n"
    )
    return project


@pytest.fixture
def classes(project):
    return with_classes(project)


def taught(project):
    """The names of the images by kind, as the lists of windows say."""
    found = {"good": set(), "bad": set()}
    for part in classbin.PARTS:
        rows = star.scan(project / f"ClassBin/{part}.star")["windows"].read()
        for name, kind in zip(rows[relion.IMAGE], rows[samples.KIND], strict=True):
            found[kind].add(name)
    return found


def names(project, path):
    return set(relion.table(project / path, relion.IMAGE, "x").read(relion.IMAGE)[relion.IMAGE])


def test_all_minus_good_is_bad(classes, capsys):
    options = ("-g", classes.good, "--all", ALL, "--no-png", "--diameter", 50)
    assert classes.call("gen_data", *options) == 0
    assert "72 particles, 36 good, 36 bad, 0 of these left out" in capsys.readouterr().out
    found = taught(classes)
    assert found["good"] == names(classes, classes.good)
    assert found["bad"] == names(classes, classes.bad)
    # What is written tells which row of which list a window is.
    record = json.loads((classes / "ClassBin/dataset.json").read_text())
    assert record["good"] == classes.good and record["bad"] == ALL
    rows = star.scan(classes / "ClassBin/train.star")["windows"].read()
    listed = {
        kind: relion.table(classes / record[kind], relion.IMAGE, "x").read(relion.IMAGE)
        for kind in ("good", "bad")
    }
    for name, kind, row in zip(
        rows[relion.IMAGE], rows[samples.KIND], rows[samples.ROW], strict=True
    ):
        assert listed[kind][relion.IMAGE][int(row) - 1] == name


def with_twins(classes, origins=False):
    """Put half of the bad ones 20 A from good ones; return how many. The selection dropped them.

    With ``origins`` only these say so: the coordinates are 300 A off.
    """
    path = classes / ALL
    lines = path.read_text().splitlines()
    good = names(classes, classes.good)
    place = {line.split()[0]: line.split()[2:4] for line in lines if "@" in line}
    twins = dict(zip(sorted(names(classes, classes.bad)), sorted(good), strict=True))
    moved = 0
    for i, line in enumerate(lines):
        cells, by = line.split(), 0.0
        if cells and cells[0] in twins and int(cells[0][:6]) % 2:
            x, y = place[twins[cells[0]]]
            moved, by = moved + 1, 300.0 * origins
            lines[i] = " ".join([*cells[:2], f"{float(x) + 5 + by / 4:.6f}", y, *cells[4:]])
        if cells and "@" in cells[0] and origins:
            lines[i] += f" {by} 0.0"
    if origins:
        at = lines.index("_rlnClassNumber #8")
        lines[at + 1 : at + 1] = ["_rlnOriginXAngst #9", "_rlnOriginYAngst #10"]
    path.write_text("\n".join(lines) + "\n")
    assert 0 < moved < len(twins)
    return moved


@pytest.mark.parametrize("origins", [False, True])
@pytest.mark.parametrize("way", [(), ("--from-micrographs",)])
def test_bad_ones_on_a_good_one_are_left_out(classes, capsys, way, origins):
    """The pixels of these are elsewhere: only what is left is held against the micrographs."""
    moved = with_twins(classes, origins)
    options = ("-g", classes.good, "--all", ALL, "--no-png", "--diameter", 50, *way)
    assert classes.call("gen_data", *options) == 0, capsys.readouterr().err
    assert f"36 bad, {moved} of these left out" in capsys.readouterr().out


def test_micrographs_by_other_names(classes, capsys):
    """The lists have cryoSPARC's numbers in front of the names, the list of micrographs not."""
    moved = with_twins(classes)
    known = relion.read_micrographs(classes / classes.micrographs).names
    for path in (classes / ALL, classes / classes.good):
        text = path.read_text()
        for name in known:
            text = text.replace(f" {name}", f" 012345678901234567890_{name.rpartition('/')[2]}")
        path.write_text(text)
    options = ("-g", classes.good, "--all", ALL, "--no-png", "--diameter", 50)
    assert classes.call("gen_data", *options, "--from-micrographs") == 0, capsys.readouterr().err
    assert f"36 bad, {moved} of these left out" in capsys.readouterr().out


@pytest.mark.parametrize("lists", [("-b", "Select/job011/particles.star"), ("--all", ALL)])
def test_particles_of_micrographs_that_are_not_listed_are_left_out(tmp_path, capsys, lists):
    project = with_classes(make_project(tmp_path / "p", 4))
    path = project / project.micrographs
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "mic_a.2" not in line))
    options = "-g", project.good, *lists, "--no-png", "--diameter", 50, "--from-micrographs"
    assert project.call("gen_data", *options) == 1
    assert "1 of 4 micrographs are not in" in capsys.readouterr().err
    assert project.call("gen_data", *options, "--allow-missing") == 0, capsys.readouterr().err
    assert "their particles are left out" in capsys.readouterr().err
    found = set()
    for part in classbin.PARTS:
        rows = star.scan(project / f"ClassBin/{part}.star")["windows"].read(relion.MICROGRAPH)
        found |= set(rows[relion.MICROGRAPH])
    assert len(found) == 3 and not any("mic_a.2" in name for name in found)


@pytest.mark.parametrize("options, bad", [
    (("--min-score", 0.5), {2, 3}), (("--min-score", 0.5, "--max-score", 0.3), {2}),
])  # fmt: skip
def test_classes_by_their_scores(classes, options, bad):
    assert classes.call("gen_data", "--all", RANKED, "--no-png", "--diameter", 50, *options) == 0
    rows = relion.table(classes / RANKED, relion.IMAGE, "x").read(relion.IMAGE, relion.CLASS)
    number = dict(zip(rows[relion.IMAGE], rows[relion.CLASS].astype(int), strict=True))
    found = taught(classes)
    assert {number[name] for name in found["good"]} == {1}
    assert {number[name] for name in found["bad"]} == bad
    assert found["good"] == names(classes, classes.good)


def test_members_find_suspects_in_the_list_of_all(classes, capsys):
    assert classes.call("gen_data", "-g", classes.good, "--all", ALL, "--diameter", 50) == 0
    assert classes.call("gen_model", "--members", 2, "--epochs", 1) == 0
    assert "wrong labels, as it seems" in capsys.readouterr().out
    rescued = names(classes, "ClassBin/particles_rescued.star")
    assert rescued <= names(classes, classes.bad)


def change(project, old, new):
    """Change the ranker's model."""
    path = project / "Select/job014/rank_model.star"
    path.write_text(path.read_text().replace(old, new))


def no_class_numbers(path):
    """Take the last column out of a list."""
    lines = [x for x in path.read_text().splitlines() if "rlnClassNumber" not in x]
    path.write_text("\n".join(x.rpartition(" ")[0] if "@" in x else x for x in lines) + "\n")


@pytest.mark.parametrize("options, code, said", [
    (("-g", "{good}"), 2, "one of -b/--starbad and --all is required, and not both"),
    (("-g", "{good}", "-b", "{bad}", "--all", ALL), 2, "one of -b/--starbad and --all is"),
    (("--all", ALL), 2, "one of -g/--stargood and --min-score is required"),
    (("--all", ALL, "-g", "{good}", "--min-score", 0.5), 2, "one of -g/--stargood and --min-score"),
    (("-b", "{bad}", "--min-score", 0.5), 2, "--min-score: with --all"),
    (("-g", "{good}", "-b", "{bad}", "--max-score", 0.5), 2, "--max-score: with --all and a --min"),
    (("--all", RANKED, "--min-score", 0.3, "--max-score", 0.5), 2, "that is not below it"),
    (("--all", ALL, "--min-score", 0.5), 1, "no rank_model.star beside it"),
    (("--all", RANKED, "--min-score", 0.9), 1, "0 good particles, expected at least 10"),
    (("--all", "{bad}", "-g", "{good}"), 1, "36 of 36 particles are not in"),
])  # fmt: skip
def test_mistakes_are_named(classes, capsys, options, code, said):
    texts = [str(one).format(good=classes.good, bad=classes.bad) for one in options]
    assert classes.call("gen_data", *texts) == code
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (classes / "ClassBin").exists()


@pytest.mark.parametrize("spoil, said", [
    (lambda p: no_class_numbers(p / RANKED), "no column rlnClassNumber"),
    (lambda p: change(p, "000003@a.mrcs 0.4\n", ""), "has the scores of 2 classes"),
    (lambda p: change(p, "ClassScore", "Other"), "rlnClassScore"),
])  # fmt: skip
def test_ranker_s_files_that_can_t_be_used(classes, capsys, spoil, said):
    spoil(classes)
    assert classes.call("gen_data", "--all", RANKED, "--min-score", 0.5) == 1
    assert said in capsys.readouterr().err


def test_without_the_micrographs_pixel_size_it_warns(classes, capsys):
    (classes / "Extract/job005/job.star").unlink()
    assert classes.call("gen_data", "-g", classes.good, "--all", ALL, "--no-png") == 0
    assert "bad particles that lie on good ones can't be told" in capsys.readouterr().err
