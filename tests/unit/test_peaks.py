"""Peaks: maxima and where they are, places apart, places matched with centres."""

import numpy as np
import pytest

from apbc_common import peaks


def hill(shape, x, y, width=9.0):
    """A paraboloid with its top at x, y; float64."""
    rows, columns = np.indices(shape)
    return 5 - ((columns - x) ** 2 + 2 * (rows - y) ** 2) / width


@pytest.mark.parametrize("x, y", [(4, 5), (4.3, 5.4), (3.51, 4.52), (4.5, 5.25), (6.49, 2.51)])
def test_a_parabola_s_top_is_found_below_the_spacing(x, y):
    for dtype, exact in ((np.float64, 1e-12), (np.float32, 1e-5)):
        xy, values = peaks.maxima(hill((9, 11), x, y).astype(dtype))
        assert xy == pytest.approx(np.array([[x, y]]), abs=exact)
        assert values.dtype == dtype and values.tolist() == [
            hill((9, 11), x, y).max().astype(dtype)
        ]


def test_a_maximum_on_the_edge_is_moved_along_the_edge_only():
    for x, y, expected in ((4.3, -2, [4.3, 0]), (20, 3.2, [10, 3.2]), (-1, -1, [0, 0])):
        xy, _ = peaks.maxima(hill((9, 11), x, y))
        assert xy == pytest.approx(np.array([expected]), abs=1e-12)


@pytest.mark.parametrize(
    "shape", [(0, 7), (7, 0), (0, 0)], ids=["no rows", "no columns", "nothing"]
)
def test_an_empty_map_has_no_maximum(shape):
    xy, values = peaks.maxima(np.empty(shape, np.float32))
    assert xy.shape == (0, 2) and values.shape == (0,) and values.dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2)])
def test_maps_of_one_row_or_column(shape):
    scores = np.zeros(shape)
    scores.flat[-1] = 1
    xy, values = peaks.maxima(scores, least=0.5)
    assert xy.tolist() == [[shape[1] - 1, shape[0] - 1]] and values.tolist() == [1]


def test_a_plateau_counts_once_at_its_first_place():
    scores = np.zeros((9, 9), np.float32)
    scores[2:5, 3:6] = 7  # a block
    scores[7, 0] = scores[6, 1] = scores[7, 2] = 7  # joined by corners only
    scores[0, 7:] = 3
    xy, values = peaks.maxima(scores, least=1)
    assert abs(xy - [[3, 2], [1, 6], [7, 0]]).max() <= 0.5
    assert values.tolist() == [7, 7, 3]
    assert peaks.maxima(np.full((4, 4), 2.0))[0].tolist() == [[0, 0]]


def test_of_two_equal_neighbours_the_top_lies_between_them():
    scores = np.array([[0, 1, 0], [1, 4, 1], [1, 4, 1], [0, 1, 0.0]])
    assert peaks.maxima(scores, 2)[0].tolist() == [[1, 1.5]]


def test_the_least_score_is_still_a_maximum():
    scores = np.zeros((5, 9), np.float32)
    scores[2, [1, 4, 7]] = 1, 3, 2
    assert peaks.maxima(scores, 1)[1].tolist() == [3, 2, 1]
    assert peaks.maxima(scores, np.nextafter(1, 2, dtype=np.float32))[1].tolist() == [3, 2]
    assert peaks.maxima(scores)[1].tolist()[:3] == [3, 2, 1]


def test_places_at_just_the_distance_are_kept():
    xy = np.array([[0, 0], [3, 4], [3, 3.99], [6, 8]])
    assert peaks.best_apart(xy, 5).tolist() == [True, True, False, True]
    assert peaks.best_apart(xy, 0).tolist() == [True] * 4
    assert peaks.best_apart(np.zeros((3, 2)), 1e-9).tolist() == [True, False, False]
    assert peaks.best_apart(np.empty((0, 2)), 5).shape == (0,)


def test_a_place_that_was_left_out_takes_none_with_it():
    line = np.array([[0, 0], [4, 0], [8, 0], [12, 0.0]])  # the second falls, so the third stays
    assert peaks.best_apart(line, 5).tolist() == [True, False, True, False]


def test_match_is_one_to_one_and_the_best_comes_first():
    centres = np.array([[0, 0], [10, 0.0]])
    at = peaks.match(np.array([[1, 0], [0, 0], [9, 0], [30, 0], [10, 0.0]]), centres, 3)
    assert at.tolist() == [0, -1, 1, -1, -1]


def test_match_takes_the_nearest_free_centre_within_the_distance():
    centres = np.array([[0, 0], [4, 0.0]])
    assert peaks.match(np.array([[1, 0], [0, 0.0]]), centres, 3).tolist() == [0, -1]
    assert peaks.match(np.array([[1, 0], [1, 0.0]]), centres, 3).tolist() == [0, 1]
    assert peaks.match(np.array([[7, 0.0]]), centres, 3).tolist() == [1]
    assert peaks.match(np.array([[7.01, 0]]), centres, 3).tolist() == [-1]


@pytest.mark.parametrize("count", [(0, 3), (3, 0), (0, 0)])
def test_match_of_nothing(count):
    places, centres = (np.zeros((n, 2)) for n in count)
    assert peaks.match(places, centres, 5).tolist() == [-1] * count[0]


def plateau(centres, radius, shape=(60, 80)):
    """Level discs, with noise that puts the highest entry anywhere."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    rng = np.random.default_rng(0)
    inside = [np.hypot(x - cx, y - cy) <= radius for cx, cy in centres]
    return np.any(inside, axis=0) * (1 - 0.01 * rng.random(shape))


def test_a_plateau_s_middle_is_found():
    weights = plateau([(20, 25), (55, 30)], 5)
    before = np.array([[16.0, 24.0], [58.0, 33.0]])
    found = peaks.centred(before, weights, 2.5)
    assert found == pytest.approx(np.array([[20, 25], [55, 30]]), abs=0.15)


def test_a_peak_stays_on_its_own_hill():
    """Two that touch; one on nothing, and one too far from the top of its hill."""
    weights = plateau([(20, 25), (31, 25)], 5)
    before = np.array([[22.0, 25.0], [29.0, 25.0], [70.0, 50.0], [20.0, 33.0]])
    found = peaks.centred(before, weights, 1.5)
    assert found[:2] == pytest.approx(np.array([[20, 25], [31, 25]]), abs=0.7)
    assert found[3].tolist() == before[3].tolist()
    assert np.hypot(*(found[2] - before[2])) <= 3


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_on_a_level_map_nothing_moves_far(level):
    before = np.array([[3.0, 4.0], [70.0, 50.0]])
    found = peaks.centred(before, np.full((60, 80), level), 2.0)
    assert (np.hypot(*(found - before).T) <= 4).all()
    assert peaks.centred(np.empty((0, 2)), np.full((6, 8), level), 2.0).shape == (0, 2)
