"""How picks are cut: boxes, pieces, what it says of itself."""

import numpy as np
import pytest

from apbc_common import extraction, images, mrc
from apbc_common.extraction import Extraction


@pytest.mark.parametrize(
    "apix, box, particles",
    [(4, 96, 6), (3.8, 102, 6.05625), (1.77, 216, 5.97375), (8, 48, 6)],
)
def test_the_box_is_even_and_nearest(apix, box, particles):
    cutting = Extraction(382.32 if apix == 1.77 else 384, 64)
    assert cutting.box(apix) == box
    assert cutting.particle_apix(apix) == pytest.approx(particles)


@pytest.mark.parametrize("count", [1, 5, 6])
def test_pieces_are_as_the_whole(tmp_path, monkeypatch, count):
    rng = np.random.default_rng(1)
    picture = rng.normal(size=(90, 80)).astype(np.float32)
    xy = rng.uniform(0, 80, (count, 2))
    mrc.write(tmp_path / "a.mrc", picture, 2)
    cutting = Extraction(64, 16, bg_radius=5, invert=False)
    expected = images.extract(picture, xy, 32, 16, 5, invert=False)
    pieces = []
    extract = images.extract
    monkeypatch.setattr(
        images, "extract", lambda p, xy, *how: pieces.append(len(xy)) or extract(p, xy, *how)
    )
    monkeypatch.setattr(extraction, "CHUNK", 2 * 32**2)
    cut = cutting.cut(tmp_path / "a.mrc", 2, xy)
    assert max(pieces) == min(2, count) and sum(pieces) == count
    assert cut.dtype == np.float32
    assert abs(cut - expected).max() <= 1e-6


def test_it_says_what_it_does():
    assert str(Extraction(382.32, 64, bg_radius=24)) == (
        "box 382.3 A in 64 px, background outside 24 px, inverted"
    )
    raw = Extraction(384, 96, norm=False, invert=False)
    assert str(raw) == "box 384.0 A in 96 px, not normalised, not inverted"
