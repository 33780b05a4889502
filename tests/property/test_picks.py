"""What holds of every pick: apart, inside, best first, whatever the order; and of every scale."""

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_properties import FEW, QUICK

from apbc_common import direct, images, peaks

MAPS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
    elements=st.integers(-3, 3).map(float),
)
DISTINCT = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1)).map(
    lambda drawn: (
        np.random.default_rng(drawn[2]).permutation(drawn[0] * drawn[1]).reshape(drawn[:2])
    )
)  # maps of as many scores as places
PLACES = arrays.arrays(
    np.float64, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 40).map(float)
)


def tops(scores):
    """Rows and columns that no neighbour exceeds, by the slow way."""
    return {
        (i, j)
        for i, j in np.ndindex(scores.shape)
        if scores[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max() <= scores[i, j]
    }


@QUICK
@given(MAPS, st.integers(-3, 4))
def test_maxima_are_the_places_that_no_neighbour_exceeds(scores, least):
    xy, values = peaks.maxima(scores, least)
    left = {(i, j) for i, j in tops(scores) if scores[i, j] >= least}
    assert (np.diff(values) <= 0).all()
    assert (values >= least).all()
    for (x, y), value in zip(xy, values, strict=True):
        near = [(i, j) for i, j in left if max(abs(i - y), abs(j - x)) <= 0.5]
        group = {next((i, j) for i, j in near if scores[i, j] == value)}
        while more := {
            (i, j) for i, j in left - group for k, m in group if max(abs(i - k), abs(j - m)) == 1
        }:
            group |= more  # a plateau
        left -= group
    assert not left  # each one, and each plateau once


@QUICK
@given(DISTINCT)
def test_maxima_do_not_depend_on_how_the_map_lies(scores):
    xy, values = peaks.maxima(scores)
    height, width = scores.shape
    for turned, back in (
        (scores.T, lambda xy: xy[:, ::-1]),
        (scores[::-1], lambda xy: np.array([0, height - 1]) + xy * (1, -1)),
        (scores[:, ::-1], lambda xy: np.array([width - 1, 0]) + xy * (-1, 1)),
    ):
        other, others = peaks.maxima(turned)
        assert others.tolist() == values.tolist()
        assert np.abs(back(other) - xy).max(initial=0) < 1e-9


@QUICK
@given(PLACES, PLACES, st.floats(0.5, 15))
def test_match_is_one_to_one_and_leaves_no_pair_behind(xy, centres, distance):
    at = peaks.match(xy, centres, distance)
    right = at >= 0
    near = np.hypot(*(xy[:, None] - centres[None]).transpose(2, 0, 1)) <= distance
    assert right.shape == (len(xy),) and len(set(at[right])) == right.sum()
    assert near[right, at[right]].all()
    if len(xy) and near[0].any():
        assert right[0]  # the best comes first
    for i in np.flatnonzero(~right):  # each centre near it went to a better one
        assert near[i].sum() <= near[right & (np.arange(len(xy)) < i)].any(axis=0)[near[i]].sum()


MIDDLE = [(i, j) for i in (7, 8) for j in (7, 8)]  # of 16 x 16 pixels


class Fake:
    """In the place of `network.Dense`: what a function makes of each place's window."""

    size = 16

    def __init__(self, stride, function):
        self.stride, self.function, self.scores = stride, function, None

    def __call__(self, grey):
        rows, columns = ((n - self.size) // self.stride + 1 for n in grey.shape)
        self.scores = self.function(grey, max(rows, 0), max(columns, 0))
        return self.scores

    def find(self, grey, scale, apix, **options):
        """Pick with these scores: windows of 4 A a pixel, boxes of 80 A."""
        taught = {"window_px": self.size, "window_angst": 4.0 * self.size, "box_angst": 80.0}
        taught["diameter_angst"] = 0.0  # nothing is smoothed
        with mock.patch.object(direct.network, "Dense", lambda *_: self):
            picker = direct.Picker(None, taught, stride=self.stride, **options)
        return picker.find((grey, scale, apix))


@QUICK
@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0, 150),
    st.floats(0, 160),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_picks_are_apart_inside_best_first_and_the_best_is_kept(
    shape, stride, distance, border, floor, seed
):
    rng, scale, apix = np.random.default_rng(seed), np.array([2.01, 1.99]), 2.0
    dense = Fake(stride, lambda _, *shape: rng.normal(-1, 2, shape).astype(np.float32))
    options = {"min_distance": distance, "border": border, "floor": floor}
    xy, probability = dense.find(np.zeros(shape, np.uint8), scale, apix, **options)
    assert xy.shape == (len(probability), 2) and (np.diff(probability) <= 0).all()
    assert (probability >= floor - 5e-5).all()
    last = np.array(shape[::-1]) * scale - 1
    margin = border / apix
    assert ((xy >= margin - 1e-9) & (xy <= last - margin + 1e-9)).all()
    gaps = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
    np.fill_diagonal(gaps, np.inf)
    assert (gaps >= distance / apix - 1e-9).all()
    if dense.scores.size:
        best = 1 / (1 + np.exp(-float(dense.scores.max())))
        row, column = np.unravel_index(dense.scores.argmax(), dense.scores.shape)
        beyond = max(0, 8 - int(border / 4))
        place = (np.array([column, row]) * stride + 7.5 - beyond) * scale
        room = stride * scale.max()  # a place may move by half a stride
        if best > floor and ((place >= margin + room) & (place <= last - margin - room)).all():
            assert abs(probability[0] - best) < 5.1e-5
            assert np.abs(xy[0] - place).max() <= room / 2 + 1e-9


@FEW
@given(
    st.tuples(st.integers(60, 180), st.integers(60, 180)),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 30).map(float),
    st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_a_pick_lies_on_the_spot_that_made_the_score(shape, stride, border, where):
    """Whatever stride, border and shape: scores that peak at the middle, (size - 1) / 2."""
    y, x = np.indices(shape)
    centre = np.array(where) * (np.array(shape[::-1]) - 1)
    grey = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 12.0**2))

    def at_the_middle(padded, rows, columns):
        middle = sum(padded[i:, j:][::stride, ::stride][:rows, :columns] for i, j in MIDDLE)
        return np.log(middle + 1e-9)

    scale = np.array([1.52, 1.48])
    options = {"min_distance": 100, "border": border, "floor": 0.0}
    xy, _ = Fake(stride, at_the_middle).find(grey, scale, 1.5, **options)
    assert np.abs(xy[0] - centre * scale).max() < 0.01


@QUICK
@given(
    st.tuples(st.integers(12, 400), st.integers(12, 400)),
    st.floats(0.5, 3),
    st.floats(1, 3),
)
def test_the_scale_maps_all_of_the_micrograph(shape, apix, coarser):
    picture = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    grey, scale = images.condition_micrograph(picture, apix, apix * coarser, 30 * apix)
    assert (scale >= 1).all() and np.abs(scale * grey.shape[::-1] - shape[::-1]).max() < 1e-9
    assert np.abs(np.array(grey.shape) * coarser - shape).max() <= coarser / 2 + 1e-6


@QUICK
@given(
    st.tuples(st.integers(3, 40), st.integers(3, 40)),
    st.lists(st.tuples(st.floats(-50, 90), st.floats(-50, 90)), max_size=5),
    st.integers(1, 40).map(lambda half: 2 * half),
)
def test_windows_are_those_of_the_reflected_micrograph(shape, xy, size):
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    padded = np.pad(grey, 140, mode="reflect")
    cut = images.windows(grey, np.array(xy).reshape(-1, 2), size)
    assert cut.shape == (len(xy), size, size)
    for (x, y), window in zip(xy, cut, strict=True):
        row, column = (140 + int(np.rint(value)) - size // 2 for value in (y, x))
        assert (window == padded[row : row + size, column : column + size]).all()
