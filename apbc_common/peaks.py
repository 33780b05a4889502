"""From a map of scores to places: local maxima, refined, and no two too near. No files."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree


def maxima(scores, least=-np.inf):
    """Find the local maxima of a map, refined below its spacing.

    A maximum is an entry no neighbour of which, of eight, is greater; of equal neighbours the first
    in the order of rows. A parabola through it and its neighbours refines x and y, by half a
    spacing at most.

    Parameters
    ----------
    scores : ndarray, shape (H, W)
    least : float
        Maxima below it are left out.

    Returns
    -------
    xy : ndarray of float64, shape (N, 2)
        Column and row, in spacings of the map; best first.
    values : ndarray, shape (N,)
        The scores there, of the type of ``scores``.
    """
    if not scores.size:
        return np.empty((0, 2)), np.empty(0, scores.dtype)
    highest = ndimage.maximum_filter(scores, 3, mode="nearest")
    tops = (scores == highest) & (scores >= least)
    group, count = ndimage.label(tops, np.ones((3, 3)))  # a plateau counts once
    at = np.flatnonzero(tops)
    at = at[np.unique(group.flat[at], return_index=True)[1]] if count else at
    row, column = np.unravel_index(at, scores.shape)
    value = scores[row, column]
    xy = np.stack([column, row], axis=1).astype(float)
    for axis, (position, length) in enumerate(((column, scores.shape[1]), (row, scores.shape[0]))):
        inside = (position > 0) & (position < length - 1)
        step = (0, 1) if axis == 0 else (1, 0)
        low = scores[row - step[0] * inside, column - step[1] * inside].astype(float)
        high = scores[row + step[0] * inside, column + step[1] * inside].astype(float)
        bend = low + high - 2.0 * value
        shift = np.divide(low - high, 2 * bend, out=np.zeros(len(at)), where=inside & (bend < 0))
        xy[:, axis] += np.clip(shift, -0.5, 0.5)
    order = np.lexsort((at, -value))
    return xy[order], value[order]


def centred(xy, weights, sigma):
    """Move each place to the top of the hill that it lies on.

    Where a network was taught with places that scatter, its map has plateaus, and the highest entry
    of one is chance; but their middles are right. Smoothing makes hills of them. A place whose top
    is more than 2 ``sigma`` away stays.

    Parameters
    ----------
    xy : ndarray, shape (N, 2)
        Column and row, in spacings of the map.
    weights : ndarray, shape (H, W)
        What is smoothed: probabilities.
    sigma : float
        Of the Gaussian, in spacings.

    Returns
    -------
    ndarray of float64, shape (N, 2)
    """
    smooth = ndimage.gaussian_filter(weights.astype(float), sigma, mode="nearest")
    tops, _ = maxima(smooth)
    if not len(xy) or not len(tops):
        return xy
    at = np.rint(xy).astype(int)
    steps = np.array([(x, y) for x in (0, -1, 1) for y in (0, -1, 1)])  # where level, stay
    last = np.array(smooth.shape[::-1]) - 1
    for _ in range(math.ceil(4 * sigma)):
        near = np.clip(at[:, None] + steps, 0, last)
        best = smooth[near[..., 1], near[..., 0]].argmax(axis=1)
        at = near[np.arange(len(at)), best]
    away, top = cKDTree(tops).query(at)
    there = (away <= 1) & (np.hypot(*(tops[top] - xy).T) <= 2 * sigma)
    return np.where(there[:, None], tops[top], xy)


def best_apart(xy, distance):
    """Return which of the places, best first, to keep so that none is nearer than ``distance``.

    Parameters
    ----------
    xy : ndarray, shape (N, 2)
    distance : float

    Returns
    -------
    ndarray of bool, shape (N,)

    Examples
    --------
    >>> best_apart(np.array([[0, 0], [3, 0], [6, 0]]), 4).tolist()
    [True, False, True]
    """
    kept = np.ones(len(xy), bool)
    if len(xy) < 2 or distance <= 0:
        return kept
    tree = cKDTree(xy)
    for i in range(len(xy)):
        if kept[i]:
            near = np.array(tree.query_ball_point(xy[i], distance))
            near = near[near > i]
            kept[near[np.hypot(*(xy[near] - xy[i]).T) < distance]] = False
    return kept


def match(xy, centres, distance):
    """Return which centre each place is at, one to one, the best place first.

    Parameters
    ----------
    xy : ndarray, shape (N, 2)
        Best first.
    centres : ndarray, shape (M, 2)
    distance : float
        The farthest that a place may be from its centre.

    Returns
    -------
    ndarray of int, shape (N,)
        The nearest centre that is free; -1 if there is none.
    """
    at = np.full(len(xy), -1)
    free = np.ones(len(centres), bool)
    if len(centres) and len(xy):
        near = cKDTree(centres).query_ball_point(xy, distance)
        for i, found in enumerate(near):
            found = [j for j in found if free[j]]
            if found:
                at[i] = min(found, key=lambda j: np.hypot(*(centres[j] - xy[i])))
                free[at[i]] = False
    return at


def nearest(xy, others):
    """Return how far each place, (N, 2), is from the nearest of others, (M, 2); inf for none."""
    return cKDTree(others).query(xy)[0] if len(others) else np.full(len(xy), np.inf)
