"""gen_picks.py: picks in the forms of other programs."""

import sys

import numpy as np
import pytest
from conftest import APIX, BOX, snapshot
from cryosparc.dataset import Dataset

from apbc_common import relion

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
PICKS = "ClassBin/picks"
SIZE = 512


def pick(project, *options):
    return project.call("gen_picks", "-i", project.micrographs, *options)


def picked(project, listed="picks"):
    return {n: relion.read_coordinates(project / f"{PICKS}/{listed}.star", n) for n in NAMES}


def exposures(project, change=()):
    """cryoSPARC's file of the micrographs: with its numbers, in another order, and one more."""
    others = ["Micrographs/other.mrc", *reversed(NAMES)]
    fields = {
        "uid": np.arange(4, dtype="u8") + (1 << 62),
        "micrograph_blob/path": [
            f"J2/imported/{i:021d}_{name.split('/')[-1]}" for i, name in enumerate(others)
        ],
        "micrograph_blob/shape": np.full((4, 2), SIZE, "u4"),
        "micrograph_blob/psize_A": np.full(4, APIX, "f4"),
        **dict(change),
    }  # fmt: skip
    Dataset({name: cells for name, cells in fields.items() if cells is not None}).save(
        project / "exposures.cs"
    )


def test_box_files_have_the_picks_in_their_middle(taught, capsys):
    assert pick(taught, "--box-files") == 0
    assert "box files of 3 micrographs" in capsys.readouterr().out
    for name, (xy, _) in picked(taught).items():
        text = (taught / f"{PICKS}/{name.removesuffix('.mrc')}.box").read_text()
        boxes = np.array([line.split("\t") for line in text.splitlines()], int)
        assert (boxes[:, 2:] == BOX).all()
        assert len(xy) > 5 and abs(boxes[:, :2] + BOX // 2 - xy).max() <= 0.5


def test_y_from_the_other_end(taught):
    assert pick(taught, "--invert-y") == 0
    for name, (xy, scores) in picked(taught, "picks_inverted_y").items():
        as_picked, as_scored = picked(taught)[name]
        assert np.allclose(xy[:, 0], as_picked[:, 0]) and len(xy) > 5
        assert np.allclose(xy[:, 1] + as_picked[:, 1], SIZE - 1)
        assert (scores == as_scored).all()


def test_cryosparc_s_particles_are_read_back(taught, capsys):
    exposures(taught)
    assert pick(taught, "--cs", "exposures.cs") == 0, capsys.readouterr().err
    rows, known = Dataset.load(taught / f"{PICKS}/picks.cs"), Dataset.load(taught / "exposures.cs")
    assert len(set(rows["uid"].tolist())) == len(rows)
    path = dict(zip(known["uid"].tolist(), known["micrograph_blob/path"], strict=True))
    names = np.array([path[uid] for uid in rows["location/micrograph_uid"].tolist()])
    assert (names == rows["location/micrograph_path"]).all()
    assert np.allclose(rows["location/micrograph_psize_A"], APIX)
    for name, (xy, scores) in picked(taught).items():
        here = np.char.endswith(names.astype(str), name.split("/")[-1])
        found = np.stack([rows[f"location/center_{axis}_frac"][here] for axis in "xy"], axis=1)
        assert np.allclose(found * SIZE, xy, atol=1e-3) and len(xy) > 5
        assert np.allclose(rows["pick_stats/ncc_score"][here], scores)


def test_they_can_be_had_later_and_are_kept_up_to_date(taught, capsys):
    assert pick(taught, "--sample", 2) == 0
    exposures(taught)
    options = "--sample", 2, "--cs", "exposures.cs", "--invert-y", "--box-files"
    assert pick(taught, *options) == 0
    assert len(list((taught / PICKS).rglob("*.box"))) == 2
    made = snapshot(taught / PICKS)
    assert pick(taught, *options) == 0
    assert "finished before" in capsys.readouterr().out
    assert snapshot(taught / PICKS) == made
    assert pick(taught, "--sample", 2, "--extract") == 0
    assert "not of these picks" not in capsys.readouterr().err
    assert pick(taught) == 0
    said = capsys.readouterr().err
    for name, option in (("picks_inverted_y.star", "--invert-y"), ("picks.cs", "--cs")):
        assert f"{taught / PICKS / name}: not of these picks; {option} brings" in said
    assert pick(taught, *options[2:], "-c") == 0
    assert len(Dataset.load(taught / f"{PICKS}/picks.cs")) == sum(
        len(xy) for xy, _ in picked(taught).values()
    )
    assert len(list((taught / PICKS).rglob("*.box"))) == 3


@pytest.mark.parametrize("change, said", [
    ({"micrograph_blob/shape": np.full((4, 2), 500, "u4")}, "has 500 x 500 px, Micrographs/sub"),
    ({"micrograph_blob/path": [f"J2/{i}.mrc" for i in range(4)]}, "3 of 3 micrographs are not"),
    ({"micrograph_blob/path": ["J2/a.mrc", "J2/b.mrc"] + NAMES[:2]}, "1 of 3 micrographs are not"),
    ({"micrograph_blob/path": [NAMES[0], *NAMES]}, f"exposures named twice: {NAMES[0]}; keep one"),
    ({"micrograph_blob/psize_A": np.full(4, 1.3, "f4")}, "has 1.3 A a pixel, Micrographs/sub"),
    ({"micrograph_blob/shape": None}, "no micrograph_blob/shape; give the .cs file of exposures"),
])  # fmt: skip
def test_exposures_that_are_not_these(taught, capsys, change, said):
    exposures(taught, change)
    assert pick(taught, "--cs", "exposures.cs") == 1
    assert said in capsys.readouterr().err
    assert not (taught / f"{PICKS}/picks.cs").exists()


def test_picks_of_exposures_that_are_missing_are_left_out(taught, capsys):
    exposures(taught, {"micrograph_blob/path": ["J2/a.mrc", "J2/b.mrc"] + NAMES[:2]})
    assert pick(taught, "--cs", "exposures.cs", "--allow-missing") == 0
    assert "their picks are left out" in capsys.readouterr().err
    rows = Dataset.load(taught / f"{PICKS}/picks.cs")
    assert set(rows["location/micrograph_path"]) == set(NAMES[:2])


def test_a_file_that_is_no_cs(taught, capsys):
    (taught / "exposures.cs").write_text("junk")
    assert pick(taught, "--cs", "exposures.cs") == 1
    assert "exposures.cs: Could not load dataset" in capsys.readouterr().err


def test_without_cryosparc_s_library(taught, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryosparc.dataset", None)
    exposures(taught)
    assert pick(taught, "--cs", "exposures.cs") == 1
    assert "pip install cryosparc-tools" in capsys.readouterr().err
    assert not (taught / PICKS).exists()


def test_no_picks_at_all(taught):
    exposures(taught)
    options = "--cs", "exposures.cs", "--invert-y", "--box-files", "--border", 1020
    assert pick(taught, *options) == 0
    assert len(Dataset.load(taught / f"{PICKS}/picks.cs")) == 0
    assert relion.table(taught / f"{PICKS}/picks_inverted_y.star", relion.X, "pick").rows == 0
    assert [p.stat().st_size for p in (taught / PICKS).rglob("*.box")] == [0, 0, 0]
