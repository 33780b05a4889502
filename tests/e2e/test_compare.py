"""gen_picks.py --compare: what was gained over the picks that RELION had."""

import numpy as np
import pytest
from conftest import APIX, micrographs_star

from apbc_common import relion, star

ALL = "Extract/job005/particles.star"
PICKS = "ClassBin/picks"
NODE = "AutoPick/job004"
NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]


def pick(project, *options):
    return project.call("gen_picks", "-i", project.micrographs, *options)


def node(project, places, rename=lambda name: name):
    """Write a pick job of RELION: coordinate files, the list of 4 and 5, the line of 3.1."""
    files = {}
    for name, xy in places.items():
        files[name] = project / NODE / f"{relion.rest(name)}_autopick.star"
        relion.write_coordinates(files[name], xy)
    listed = project / "CtfFind/job002/micrographs.star"
    listed.parent.mkdir()
    listed.write_text(micrographs_star(map(rename, NAMES)))
    relion.write_coordinate_lists(
        project.path, listed, {rename(name): path for name, path in files.items()},
        project / NODE / "autopick.star", project / NODE / "coords_suffix_autopick.star",
    )  # fmt: skip


def picked(project):
    return {n: relion.read_coordinates(project / f"{PICKS}/picks.star", n)[0] for n in NAMES}


def table(project):
    """kept, new and dropped of each micrograph."""
    rows = star.scan(project / f"{PICKS}/compared.star")["compared"].read()
    return {name: tuple(map(int, counts)) for name, *counts in rows.itertuples(index=False)}


@pytest.fixture
def earlier(taught):
    """Micrograph 0: all that are picked, 3 px off; 1: all but five, and two elsewhere; 2: none."""
    assert pick(taught) == 0
    xy = picked(taught)
    corner = [[130.5, 141.5], [140.0, 170.0]]
    far = [p for p in corner if np.hypot(*(xy[NAMES[1]] - p).T).min() > 20] or [[60.0, 60.0]]
    places = {NAMES[0]: xy[NAMES[0]] + 3, NAMES[1]: np.concatenate([xy[NAMES[1]][5:], far])}
    counts = {
        NAMES[0]: (len(xy[NAMES[0]]), 0, 0),
        NAMES[1]: (len(xy[NAMES[1]]) - 5, 5, len(far)),
        NAMES[2]: (0, len(xy[NAMES[2]]), 0),
    }
    return taught, places, counts


@pytest.mark.parametrize("listed", ["autopick.star", "coords_suffix_autopick.star"])
def test_kept_new_and_dropped(earlier, capsys, listed):
    project, places, counts = earlier
    node(project, places)
    assert pick(project, "--compare", f"{NODE}/{listed}") == 0  # the picks of before are kept
    assert table(project) == counts
    kept, new, dropped = map(sum, zip(*counts.values(), strict=True))
    said, lacking = capsys.readouterr().out.splitlines()[-2:]
    assert said.startswith(f"{kept} kept, {new} new, {dropped} dropped of those in ")
    assert lacking == (
        f"1 of 3 micrographs are not in it: their {counts[NAMES[2]][1]} picks count as new"
    )


@pytest.mark.parametrize("rename", [
    lambda name: f"Elsewhere/{name.rpartition('/')[2]}",
    lambda name: f"J12/012345678901234567890_{name.rpartition('/')[2]}",
])  # fmt: skip
def test_micrographs_of_other_names(earlier, rename):
    project, places, counts = earlier
    node(project, places, rename)
    assert pick(project, "--compare", f"{NODE}/autopick.star") == 0
    assert table(project) == counts


def test_particles_lie_where_they_were_aligned_and_have_classes(taught, capsys):
    """All listed particles, their coordinates 15 px off, which their origins take back."""
    good = taught / taught.good
    lines = (taught / ALL).read_text().splitlines()
    names = set(good.read_text().split())
    for i, line in enumerate(lines):
        cells = line.split()
        if line.startswith("_rlnUnknownThing"):
            lines[i] += "\n_rlnOriginXAngst #8\n_rlnClassNumber #9"
        elif "@" in line:
            cells[2] = f"{float(cells[2]) + 15:.6f}"
            lines[i] = " ".join([*cells, str(15 * APIX), "1" if cells[0] in names else "12"])
    text = "\n".join(lines).replace(
        "_rlnOriginXAngst #8", "_rlnOriginXAngst #8\n_rlnOriginYAngst #9"
    )
    text = text.replace(f" {15 * APIX} ", f" {15 * APIX} 0.0 ").replace("Number #9", "Number #10")
    (taught / "aligned.star").write_text(text + "\n")
    assert pick(taught, "--compare", "aligned.star") == 0
    out = capsys.readouterr().out.splitlines()
    kept = sum(kept for kept, _, _ in table(taught).values())
    assert kept >= 33 and out[-2] == f"class 1: {kept} of 36 kept"
    assert out[-1] == "class 12: 0 of 36 kept"


def test_the_new_ones_are_a_list_of_their_own(earlier):
    project, places, counts = earlier
    node(project, places)
    assert pick(project, "--extract", "--compare", f"{NODE}/autopick.star") == 0
    new = relion.read_particles(project.path, project / f"{PICKS}/particles_new.star")
    for i, name in enumerate(new.micrographs):
        assert (new.micrograph == i).sum() == counts[name][1]
        if name == NAMES[1]:
            assert new.xy[new.micrograph == i].tolist() == picked(project)[name][:5].tolist()
    assert len(new) == sum(count[1] for count in counts.values())


def test_missing_micrographs(earlier, capsys):
    project, places, counts = earlier
    node(project, places)
    path = project / NODE / "autopick.star"
    path.write_text(path.read_text().replace(NAMES[0], "Micrographs/sub0/mic_b.0.mrc"))
    capsys.readouterr()
    assert pick(project, "--compare", f"{NODE}/autopick.star") == 1
    assert (
        "autopick.star: 1 of 2 micrographs are not in "
        f"{project.path / project.micrographs}: Micrographs/sub0/mic_b.0.mrc "
        f"(nearest: {NAMES[0]}); give the list that has them, or --allow-missing\n"
    ) in capsys.readouterr().err
    assert pick(project, "--compare", f"{NODE}/autopick.star", "--allow-missing") == 0
    assert "their picks are left out" in capsys.readouterr().err
    assert table(project) == counts | {NAMES[0]: (0, counts[NAMES[0]][0], 0)}


def test_picks_of_another_project(taught, capsys):
    """No micrograph is known: that is an error whatever is allowed."""
    (taught / "other.star").write_text(
        "data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n_rlnCoordinateY\nx.mrc 1 2\n"
    )
    assert pick(taught, "--compare", "other.star", "--allow-missing") == 1
    assert "1 of 1 micrographs are not in" in capsys.readouterr().err
    assert not (taught / PICKS).exists()


@pytest.mark.parametrize("text, name, said", [
    ("data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n1 2\n", "a.star", "no column rlnMicrographN"),
    ("nothing.star\n", "coords_suffix_a.star", "as the list of micrographs, which is not there"),
])  # fmt: skip
def test_lists_that_cannot_be_compared(taught, capsys, text, name, said):
    (taught / name).write_text(text)
    assert pick(taught, "--compare", name) == 1
    assert said in capsys.readouterr().err


def test_picks_on_micrographs_of_another_size(earlier, capsys):
    project, places, counts = earlier
    node(project, {name: 2 * xy for name, xy in places.items()})
    assert pick(project, "--compare", f"{NODE}/autopick.star") == 0
    xy = 2 * np.concatenate(list(places.values()))
    beyond = int((xy >= 512).any(axis=1).sum())
    said = f"autopick.star: {beyond} of {len(xy)} lie outside their micrographs; were these of"
    assert said in capsys.readouterr().err
