"""RELION takes direct picks as they are: every one is extracted, none padded."""

import numpy as np
import pytest
from conftest import APIX, BOX, SCALE, extract, read_mrc
from test_oracle import count_read, printed

from apbc_common import images, mrc, relion

pytestmark = pytest.mark.relion

EMPTY = "Micrographs/sub1/mic_a.1.mrc"


@pytest.mark.parametrize("out", ["ClassBin/picks/", "External/job020/"])
def test_relion_extracts_every_pick(taught, out):
    mrc.write(taught / EMPTY, np.random.default_rng(0).normal(size=(512, 512)), APIX)
    options = ("--o", out) if "job" in out else ()
    assert taught.call("gen_picks", "-i", taught.micrographs, *options) == 0
    extract(taught.path, taught.micrographs, out, "_autopick.star", "Extract/job030/", BOX)
    names = [n for n in relion.read_micrographs(taught / taught.micrographs).names if n != EMPTY]
    total = 0
    for name in names:
        xy, scores = relion.read_coordinates(taught / f"{out}{relion.rest(name)}_autopick.star")
        kept, copied = relion.read_coordinates(taught / "Extract/job030/particles.star", name)
        assert len(xy) >= 11 and (kept == xy).all() and (copied == scores).all()
        corner = xy.astype(int) - BOX // 2
        assert (corner >= 0).all() and (corner + BOX <= 512).all()  # whole boxes
        stack = read_mrc(taught / f"Extract/job030/{name}s")
        ours = images.extract(read_mrc(taught / name), xy, BOX, SCALE)
        assert abs(stack - ours).max() <= 1e-5
        total += len(xy)
    assert count_read(taught, "Extract/job030/particles.star") == total


def test_relion_reads_the_lists_of_picks(taught):
    assert taught.call("gen_picks", "-i", taught.micrographs) == 0
    names = relion.read_micrographs(taught / taught.micrographs).names
    picks = "ClassBin/picks"
    listed = printed(taught, f"{picks}/autopick.star", "coordinate_files", "_rlnMicrographName")
    assert [row[0] for row in listed] == names
    suffix = (taught / f"{picks}/coords_suffix_autopick.star").read_text().strip()
    assert len(printed(taught, suffix, "micrographs", "_rlnMicrographName")) == 3
    labels = [f"_{label}" for label in (relion.MICROGRAPH, relion.X, relion.Y, relion.SCORE)]
    every = printed(taught, f"{picks}/picks.star", "particles", *labels)
    for name in names:
        one = printed(taught, f"{picks}/{relion.rest(name)}_autopick.star", "", *labels[1:])
        assert one == [row[1:] for row in every if row[0] == name]
        assert len(one) >= 11


def test_relion_takes_box_files(taught):
    """To a pixel: such files have whole numbers."""
    assert taught.call("gen_picks", "-i", taught.micrographs, "--box-files") == 0
    extract(taught.path, taught.micrographs, "ClassBin/picks/", ".box", "Extract/job030/", BOX)
    for name in relion.read_micrographs(taught / taught.micrographs).names:
        xy, _ = relion.read_coordinates(taught / "ClassBin/picks/picks.star", name)
        kept, _ = relion.read_coordinates(taught / "Extract/job030/particles.star", name)
        assert len(xy) >= 11 and abs(kept - xy).max() <= 0.5


def test_relion_reads_the_list_with_y_from_the_other_end(taught):
    assert taught.call("gen_picks", "-i", taught.micrographs, "--invert-y") == 0
    rows = [
        printed(taught, f"ClassBin/picks/{name}.star", "particles", f"_{relion.Y}")
        for name in ("picks", "picks_inverted_y")
    ]
    assert len(rows[0]) > 30
    for (y,), (other,) in zip(*rows, strict=True):
        assert abs(float(y) + float(other) - 511) < 0.02
