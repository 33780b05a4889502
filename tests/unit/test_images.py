"""Pixels: conditioning, Fourier resizing, extraction."""

import numpy as np
import pytest
from scipy import ndimage

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


# --- condition_micrograph ------------------------------------------------------------------------

APIX, WANTED, REGION = 2.0, 6.1, 200.0
ODD = [(301, 437), (300, 440), (303, 400)]  # ny, nx: 301 * 2 / 6.1 is 98.7 pixels


def ice(shape=(301, 437), seed=2):
    """Noise of deviation 0.85, correlated over some pixels; float32."""
    noise = np.random.default_rng(seed).normal(0, 3, shape)
    return ndimage.gaussian_filter(noise, 1).astype(np.float32)


def spots(shape, xy, width=6.0):
    """Round spots of the same size at places in pixels; float32."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2)) for cx, cy in xy).astype(
        np.float32
    )


def conditioned(picture, apix=APIX, wanted=WANTED, region=REGION):
    return images.condition_micrograph(picture, apix, wanted, region)[0].astype(int)


@pytest.mark.parametrize("shape", ODD)
def test_a_micrograph_becomes_grey_values_of_the_wanted_scale(shape):
    grey, scale = images.condition_micrograph(ice(shape), APIX, WANTED, REGION)
    assert grey.dtype == np.uint8
    assert grey.shape == tuple(round(n * APIX / WANTED) for n in shape)
    assert (scale * grey.shape[::-1]).tolist() == pytest.approx(shape[::-1], abs=1e-9)
    assert scale == pytest.approx(WANTED / APIX, rel=0.01)
    assert grey.mean() == pytest.approx(127.5, abs=1)
    assert grey.std() == pytest.approx(127.5 / images.CLIP, abs=1.5)


@pytest.mark.parametrize("factor, offset", [(1e-3, 0), (250, 0), (1, 300), (-1e4, 7), (1e20, 0)])
def test_a_micrograph_s_scale_and_offset_do_not_show(factor, offset):
    picture = ice()
    other = conditioned((factor * picture.astype(float) + offset).astype(np.float32))
    expected = conditioned(picture)
    expected = expected if factor > 0 else 255 - expected
    assert np.abs(other - expected).max() <= 1  # where rounding tips over
    assert np.mean(other != expected) < 0.01


def test_local_mean_and_contrast_do_not_show():
    y, x = np.mgrid[:300, :440]
    picture = ice((300, 440))
    uneven = picture * (1 + x / 440) + x / 440 + np.sin(y / 150)
    away = np.abs(conditioned(uneven.astype(np.float32)) - conditioned(picture))
    assert np.median(away) <= 1 and away[10:-10, 10:-10].max() <= 6


@pytest.mark.parametrize("value", [1e2, 1e4, 1e7, 1e16, 3e38])
@pytest.mark.parametrize("dead", [True, False])
def test_hot_and_dead_pixels_stay_where_they_are(value, dead):
    picture = ice()
    hot = picture.copy()
    hot[50, 60], hot[200, 300] = value, -value if dead else picture[200, 300]
    away = np.abs(conditioned(hot) - conditioned(picture))
    assert (away > 8).sum() < 40  # of 14,000 pixels


def test_a_flat_border_leaves_the_rest_alone_and_is_not_blown_up():
    picture = ice((300, 440))
    border, middle = slice(16, 28), slice(75, -3)  # half a region from the step, at 42.6
    for step in (0, 2, 8):
        bordered = picture.copy()
        bordered[:, :130] = -step
        grey = conditioned(bordered)
        assert np.percentile(np.abs(grey - conditioned(picture))[:, middle], 99) <= 8
        assert np.median(np.abs(grey[:, border] - 127.5)) < 9


def test_coarse_steps_of_8_bits_do_not_matter():
    picture = ice()
    steps = np.rint(picture / picture.std() * 20).astype(np.int8)
    away = np.abs(conditioned(steps.astype(np.float32)) - conditioned(picture))
    assert away.max() <= 4


def test_condition_micrograph_leaves_its_input_alone_also_at_the_same_scale():
    picture = ice()
    kept = picture.copy()
    assert conditioned(picture, wanted=APIX).shape == picture.shape
    conditioned(picture)
    assert (picture == kept).all()


def test_no_pixel_is_made_up():
    """Where the wanted scale is the finer one by rounding only, the micrograph's own stays."""
    grey, scale = images.condition_micrograph(ice(), 2.0, 1.99, REGION)
    assert grey.shape == (301, 437) and scale.tolist() == [1, 1]


@pytest.mark.parametrize("wanted, left", [(250.0, "3 x 2"), (1e6, "0 x 0")])
def test_a_scale_that_leaves_nothing_is_refused(wanted, left):
    with pytest.raises(ValueError) as caught:
        images.condition_micrograph(ice((301, 437)), APIX, wanted, REGION)
    assert str(caught.value) == f"{wanted:g} A a pixel leaves {left} pixels"


@pytest.mark.parametrize("shape", ODD)
@pytest.mark.parametrize("wanted", [6.1, 4.0, 7.37])
def test_places_are_mapped_to_the_far_edge(shape, wanted):
    """The scale is each axis' own: with wanted / apix the far edge would be pixels off."""
    xy = [(30, 30), (shape[1] - 30, shape[0] - 25), (shape[1] - 40.5, 33.25), (35.75, 260)]
    bare = conditioned(ice(shape), wanted=wanted)
    grey, scale = images.condition_micrograph(ice(shape) - spots(shape, xy), APIX, wanted, REGION)
    for x, y in xy:
        near = np.array((x, y)) / scale
        corner = np.rint(near).astype(int) - 5
        spot = (bare - grey)[corner[1] :, corner[0] :][:11, :11].clip(0)
        spot[spot < spot.max() / 3] = 0
        found = ndimage.center_of_mass(spot)[::-1] + corner
        assert np.hypot(*((found - near) * scale)) < 0.5  # pixels of the micrograph


def test_micrographs_and_windows_have_one_centre():
    """Index size/2: the mean offset of symmetric spots is below a tenth of a pixel."""
    rng = np.random.default_rng(8)
    shape, size = (601, 603), 24
    along = np.arange(60, 545, 60)
    xy = np.stack(np.meshgrid(along, along), -1).reshape(-1, 2) + rng.uniform(-9, 9, (81, 2))
    grey, scale = images.condition_micrograph(ice(shape) - spots(shape, xy), APIX, 6.1, REGION)
    average = 255 - images.windows(grey, xy / scale, size).mean(axis=0)
    average -= np.median(average)
    average[average < average.max() / 4] = 0
    assert ndimage.center_of_mass(average) == pytest.approx((size / 2, size / 2), abs=0.1)


# --- windows -------------------------------------------------------------------------------------


def test_windows_are_cut_about_the_rounded_place():
    grey = np.arange(60 * 70).reshape(60, 70) % 251
    cut = images.windows(grey.astype(np.uint8), [(20, 30), (19.6, 30.4), (8.4, 51.6)], 16)
    assert cut.dtype == np.uint8 and cut.shape == (3, 16, 16)
    assert (cut[0] == grey[22:38, 12:28]).all() and (cut[1] == cut[0]).all()
    assert (cut[2] == grey[44:60, 0:16]).all()
    assert cut[0][8, 8] == grey[30, 20]


def test_what_lies_outside_is_reflected():
    grey = np.random.default_rng(3).integers(0, 256, (20, 25), dtype=np.uint8)
    padded = np.pad(grey, 90, mode="reflect")
    xy = [(0, 0), (24, 19), (-3, 10), (12, 22), (24.4, -0.4), (70, 65)]
    for (x, y), window in zip(xy, images.windows(grey, xy, 48), strict=True):
        row, column = 90 - 24 + round(y), 90 - 24 + round(x)
        assert (window == padded[row : row + 48, column : column + 48]).all()
    assert images.windows(grey, np.empty((0, 2)), 48).shape == (0, 48, 48)


# --- diameter ------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [6, 11.5, 20])
@pytest.mark.parametrize("factor, offset", [(1, 0), (-30, 127.5), (1e-3, -5)])
def test_the_diameter_of_a_disc(radius, factor, offset):
    k = np.arange(64) - 32
    disc = (np.hypot(k, k[:, None]) < radius) * factor + offset
    disc = disc + 0.01 * factor * np.random.default_rng(0).normal(size=(64, 64))
    assert images.diameter(disc) == pytest.approx(2 * radius, abs=2)


def test_the_diameter_of_a_spot_is_where_nine_tenths_of_it_are_lost():
    spot = blob(96, 8.0).astype(float)
    assert images.diameter(spot) == pytest.approx(2 * 8 * np.sqrt(2 * np.log(10)), abs=2)


def test_the_diameter_of_a_spot_with_a_rim_is_that_of_the_rim():
    y, x = np.mgrid[:96, :96] - 48
    rim = np.exp(-((np.hypot(x, y) - 30) ** 2) / 8)
    for sign in (1, -1):
        assert images.diameter(sign * (blob(96, 8.0) - 0.3 * rim)) == pytest.approx(60, abs=2)


def test_the_diameter_of_nothing_is_a_number_in_the_window():
    for flat in (np.zeros((64, 64)), np.random.default_rng(1).normal(size=(64, 64))):
        assert 1 <= images.diameter(flat) <= 64


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


@pytest.mark.parametrize("step", [(0.0, 0.0), (3.4, -2.2), (-7.5, 6.0)])
def test_the_middle_of_an_average_of_particles_at_any_angle(step):
    """300 dark bars in noise, all as far from the centre, as wide as a fifth of the window."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] - 32.0
    bars = []
    for angle in rng.uniform(0, np.pi, 300):
        along = (x - step[0]) * np.cos(angle) + (y - step[1]) * np.sin(angle)
        across = (y - step[1]) * np.cos(angle) - (x - step[0]) * np.sin(angle)
        bars.append(rng.normal(0, 1, (64, 64)) - np.exp(-(along**2) / 72 - across**2 / 18))
    assert images.middle(np.mean(bars, axis=0), 13) == pytest.approx(step, abs=0.3)
    assert np.hypot(*images.middle(np.mean(bars, axis=0), 2)) <= 2


def snow(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def waves(size, *periods):
    """Cosines along x, of so many pixels a period, added."""
    x = np.arange(size)
    rows = sum(np.cos(2 * np.pi * x / period) for period in periods)
    return np.tile(rows, (size, 1)).astype(np.float32)


def amplitude(grey, period):
    x = np.arange(grey.shape[1])
    return 2 * abs((grey.mean(axis=0) * np.exp(2j * np.pi * x / period)).mean())


def test_a_view_fits_and_tells_its_scale():
    grey, scale = images.view(snow(300, 600), 1.0, 250, 80)
    assert grey.shape == (125, 250) and grey.dtype == np.uint8
    assert scale.tolist() == [2.4, 2.4]


def test_a_small_view_is_not_enlarged():
    grey, scale = images.view(snow(100, 90), 1.0, 250, 80)
    assert grey.shape == (100, 90) and scale.tolist() == [1, 1]


def test_the_lowpass_of_a_view_halves_its_own_period():
    ratio = []
    for lowpass in (None, 40.0):
        grey, _ = images.view(waves(512, 20, 128), 2.0, 512, 2000, lowpass)
        ratio.append(amplitude(grey, 20) / amplitude(grey, 128))
    assert ratio[1] / ratio[0] == pytest.approx(0.5 / 0.5 ** (20 / 128) ** 2, abs=0.02)


def test_a_view_shows_particles_on_carbon_as_beside_it():
    picture = snow(400, 400)
    y, x = np.mgrid[:400, :400]
    for cx in (100, 300):
        picture -= 2 * (np.hypot(x - cx, y - 200) < 12)
    picture[:, 200:] = 5 * picture[:, 200:] + 10  # another level, and of another contrast
    grey, _ = images.view(picture, 1.0, 400, 120)
    left, right = (grey[195:206, c - 5 : c + 6].mean() for c in (100, 300))
    assert left < images.MIDDLE - 50 and right < images.MIDDLE - 50
