"""Pixels: conditioning, Fourier resizing, extraction."""

import numpy as np
import pytest

from apbc_common import images


def noise(count=3, n=32, seed=0):
    return np.random.default_rng(seed).normal(5, 2, (count, n, n)).astype(np.float32)


def wave(n, kx, ky, phase=0.3):
    """A plane wave of whole periods, its phase fixed at the centre n/2; float64 (n, n)."""
    r = (np.arange(n) - n // 2) / n
    return np.cos(2 * np.pi * (kx * r + ky * r[:, None]) + phase)


def blob(n, width):
    """A round spot centred on index n/2, its width in pixels; float32 (n, n)."""
    k = np.arange(n) - n // 2
    return np.exp(-(k**2 + k[:, None] ** 2) / (2 * width**2)).astype(np.float32)


# --- condition -----------------------------------------------------------------------------------


def test_condition_maps_deviations_to_grey(tmp_path):
    boxes = noise(4, 64)
    grey = images.condition(boxes, 64)
    assert grey.dtype == np.uint8 and grey.shape == (4, 64, 64)
    for box, window in zip(boxes.astype(float), grey, strict=True):
        z = (box - box.mean()) / box.std()
        expected = np.clip(127.5 + 127.5 * z / images.CLIP, 0, 255)
        assert np.abs(window - expected).max() < 0.501
        assert window.mean() == pytest.approx(127.5, abs=0.05)
        assert window.std() == pytest.approx(127.5 / 4, abs=0.1)


def test_condition_clips_at_both_ends():
    box = noise(1, 64)
    box[0, 0, 0], box[0, 5, 5] = 1e4, -1e4
    grey = images.condition(box, 64)[0]
    assert (grey[0, 0], grey[5, 5]) == (255, 0)


@pytest.mark.parametrize("size", [64, 48, 32, 96])
@pytest.mark.parametrize("scale, offset", [(1e-3, 0), (250, 0), (1, 100), (3, -40)])
def test_condition_does_not_see_scale_and_offset(size, scale, offset):
    boxes = noise(2, 64)
    grey = images.condition(boxes, size).astype(int)
    other = images.condition((scale * boxes + offset).astype(np.float32), size)
    assert np.abs(other - grey).max() <= 1  # where rounding tips over
    assert np.mean(other != grey) < 0.01


def test_condition_of_an_inverted_image_is_the_inverted_window():
    boxes = noise(2, 64)
    sums = images.condition(boxes, 64).astype(int) + images.condition(-boxes, 64)
    assert set(np.unique(sums)) <= {254, 255, 256}


def test_condition_of_one_image_does_not_depend_on_its_neighbours():
    boxes = noise(5, 48)
    all_of_them = images.condition(boxes, 64)
    assert all(
        (images.condition(boxes[i : i + 1], 64)[0] == all_of_them[i]).all() for i in range(5)
    )


def test_condition_leaves_its_input_alone():
    boxes = noise()
    kept = boxes.copy()
    images.condition(boxes, 32)
    images.condition(boxes, 48)
    assert (boxes == kept).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, None])
@pytest.mark.parametrize("size", [32, 48])
def test_faults_and_condition_agree(value, size):
    boxes = noise()
    if value is None:
        boxes[1] = 7
    else:
        boxes[1, 3, 3] = value
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="constant or not finite"):
        images.condition(boxes, size if value is not None else 32)
    assert images.faults(boxes) == ["", "constant" if value is None else "not finite", ""]


# --- resize --------------------------------------------------------------------------------------

SIZES = [(64, 32), (64, 48), (216, 64), (48, 64), (64, 128), (34, 32)]


@pytest.mark.parametrize("n, size", SIZES)
def test_resize_keeps_mean_and_precision(n, size):
    boxes = noise(3, n)
    out = images.resize(boxes, size)
    assert out.shape == (3, size, size) and out.dtype == np.float32
    assert out.mean(axis=(1, 2)) == pytest.approx(boxes.mean(axis=(1, 2)), rel=1e-5)
    assert images.resize(boxes.astype(np.float64), size).dtype == np.float64


@pytest.mark.parametrize("n, size", SIZES)
@pytest.mark.parametrize("kx, ky", [(1, 0), (0, 3), (5, -4), (-9, 9), (3, 11)])
def test_resize_keeps_a_band_limited_wave_exactly(n, size, kx, ky):
    """Both grids hold the same wave about their own centre, index size/2."""
    out = images.resize(wave(n, kx, ky)[None], size)[0]
    assert np.abs(out - wave(size, kx, ky)).max() < 1e-12


@pytest.mark.parametrize("kx, ky", [(20, 0), (3, 19), (-25, 25)])
def test_resize_removes_what_the_smaller_image_cannot_hold(kx, ky):
    assert np.abs(images.resize(wave(64, kx, ky)[None], 32)).max() < 1e-12


@pytest.mark.parametrize("n, size", SIZES)
def test_the_centre_stays_at_half_the_size(n, size):
    """Moments of a round spot; a centre at (size - 1)/2 would be off by a good part of a pixel."""
    out = images.resize(blob(n, n / 12)[None].astype(float), size)[0]
    k = np.arange(size)
    assert (out.sum(axis=0) @ k) / out.sum() == pytest.approx(size // 2, abs=1e-3)
    assert (out.sum(axis=1) @ k) / out.sum() == pytest.approx(size // 2, abs=1e-3)
    assert np.unravel_index(out.argmax(), out.shape) == (size // 2, size // 2)


@pytest.mark.parametrize("n, size", SIZES)
def test_a_spot_stays_in_the_centre_of_its_window(n, size):
    grey = images.condition(blob(n, n / 12)[None], size)[0]
    mirrored = grey[1:, 1:][::-1, ::-1]  # index 0 has no partner about size/2
    assert np.abs(grey[1:, 1:].astype(int) - mirrored).max() <= 1
    assert grey[size // 2, size // 2] == grey.max()


def test_resize_to_the_same_size_does_nothing():
    boxes = noise()
    assert images.resize(boxes, 32) is boxes


# --- extract -------------------------------------------------------------------------------------


def micrograph(ny=80, nx=100):
    return np.random.default_rng(1).normal(3, 2, (ny, nx)).astype(np.float32)


def test_extract_cuts_about_the_truncated_centre():
    picture = micrograph()
    boxes = images.extract(picture, [[40.99, 30.01], [8, 72]], 16, norm=False, invert=False)
    assert boxes.dtype == np.float32 and boxes.shape == (2, 16, 16)
    assert (boxes[0] == picture[22:38, 32:48]).all()
    assert boxes[0][8, 8] == picture[30, 40]
    assert (boxes[1] == picture[64:80, 0:16]).all()
    assert (images.extract(picture, [40, 30], 16, norm=False)[0] == -boxes[0]).all()


def test_extract_repeats_the_edge():
    picture = micrograph()
    box = images.extract(picture, [[2, 79]], 16, norm=False, invert=False)[0]
    assert (box[:9, 6:] == picture[71:, :10]).all()
    assert (box[:9, :6] == picture[71:, :1]).all()
    assert (box[9:, 6:] == picture[79, :10]).all()


def test_extract_takes_off_a_plane():
    y, x = np.mgrid[:80, :100]
    flat = micrograph()
    tilted = flat + 0.5 * x - 0.25 * y + 100
    xy = [[50, 40], [30, 30]]
    box, other = (images.extract(each, xy, 32) for each in (flat, tilted))
    assert other == pytest.approx(box, abs=1e-4)


def test_extract_scales_before_it_normalises():
    picture = micrograph()
    boxes = images.extract(picture, [[50, 40]], 32, 16, norm=False, invert=False)
    resized = images.resize(picture[24:56, 34:66][None].astype(float), 16)
    assert boxes == pytest.approx(resized, abs=1e-6)
    k = np.arange(16) - 8
    outside = k[:, None] ** 2 + k**2 > 6**2  # three quarters of 8
    box = images.extract(picture, [[50, 40]], 32, 16)[0]
    assert box[outside].mean() == pytest.approx(0, abs=1e-6)
    assert box[outside].std() == pytest.approx(1, abs=1e-6)


def test_extract_of_a_constant_picture_is_no_division_by_0():
    boxes = images.extract(np.full((64, 64), 7.0), [[32, 32]], 16)
    assert boxes == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("box, scale", [(15, None), (16, 7), (15, 8)])
def test_extract_refuses_odd_boxes(box, scale):
    with pytest.raises(ValueError, match=f"box {box} and scale {scale or box} must be even"):
        images.extract(micrograph(), [[40, 40]], box, scale)
