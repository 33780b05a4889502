"""Good and bad particles out of the list of all: by one selection, or by RELION's class ranker."""

from __future__ import annotations

import numpy as np

from . import ApbcError, peaks, relion, star

SCORE = "rlnClassScore"  # of a class in the ranker's model; row n is that of rlnClassNumber n


def chosen(good, every) -> np.ndarray:
    """Return which of all particles the good list has: bool (N,).

    Particles are the same if their images have one name.

    Raises
    ------
    ApbcError
        If the good list has particles that are not among all.
    """
    strange = np.flatnonzero(~relion.shared(good, every))
    if len(strange):
        raise ApbcError(
            f"{good.block.path}: {len(strange)} of {len(good)} particles are not in "
            f"{every.block.path}: {relion.first(map(good.name, strange))}; give the list that they "
            "were selected from"
        )
    return relion.shared(every, good)


def scores(every, path) -> np.ndarray:
    """Return the score of each particle's class: float64 (N,).

    Parameters
    ----------
    every : relion.Particles
        ``rank_data.star`` of a Select job of RELION 4 or 5.
    path : path-like
        ``rank_model.star`` beside it, which has the scores of all classes.

    Raises
    ------
    StarError
        If there are no class numbers, no scores, or a class without one.
    """
    if relion.CLASS not in every.block.labels:
        raise star.StarError(
            f"{every.block.path}: no column {relion.CLASS}; give the rank_data.star of the class "
            "ranker's job"
        )
    number = every.block.numbers(relion.CLASS)[every.row, 0].astype(int)
    of_class = relion.table(path, SCORE, "class").numbers(SCORE)[:, 0]
    strange = sorted(set(number[(number < 1) | (number > len(of_class))].tolist()))
    if strange:
        raise star.StarError(
            f"{every.block.path}: {relion.CLASS} {relion.first(map(str, strange))}, but {path} has "
            f"the scores of {len(of_class)} classes"
        )
    return of_class[number - 1]


def beside(every, xy, good, bad, reach) -> np.ndarray:
    """Return which of the bad lie on a good particle: bool (N,).

    A selection without duplicates drops particles as good as those it keeps.

    Parameters
    ----------
    every : relion.Particles
    xy : ndarray, shape (N, 2)
        Their centres, in pixels of their micrographs.
    good, bad : ndarray of bool, shape (N,)
    reach : ndarray of float, shape (M,)
        How near that is, in pixels of each of the M micrographs.
    """
    found = np.zeros(len(every), bool)
    for index, here in relion.rows_of(every.micrograph, range(len(reach))).items():
        rows = here[bad[here]]
        found[rows] = peaks.nearest(xy[rows], xy[here[good[here]]]) <= reach[index]
    return found
