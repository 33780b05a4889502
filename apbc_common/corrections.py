"""What people said of places: there is a particle, or none. A list that the report writes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import ApbcError, names, peaks, relion, star
from .classbin import KINDS
from .labels import RADIUS
from .samples import KIND


class Corrected(NamedTuple):
    """Corrections of one micrograph: x, y in its pixels, float64 (N, 2); bool (N,)."""

    xy: np.ndarray
    good: np.ndarray


NONE = Corrected(np.empty((0, 2)), np.empty(0, bool))


def read(path, listed, allow_missing) -> dict[str, Corrected]:
    """Read a list of corrections: rlnMicrographName, rlnCoordinateX and Y, and apbcKind.

    Parameters
    ----------
    path : path-like
    listed : relion.Micrographs
        Those that it may name, as `names.match` finds them.
    allow_missing : bool
        Leave out the corrections of other micrographs.

    Returns
    -------
    dict of str to Corrected
        By the listed name of the micrograph.

    Raises
    ------
    ApbcError
        For what `star.scan` and `names.insist` refuse, no rows, or a kind other than KINDS.
    """
    block = relion.table(path, KIND, "correction")
    block.require(relion.MICROGRAPH, relion.X, relion.Y)
    if not block.rows:
        raise star.StarError(f"{path}: data_{block.name} has no corrections")
    text, xy = block.read(relion.MICROGRAPH, KIND), block.numbers(relion.X, relion.Y)
    odd = np.flatnonzero(~text[KIND].isin(KINDS))
    if len(odd):
        raise star.StarError(
            f"{path}:{block.line + odd[0]}: {KIND} is {text[KIND][odd[0]]!r}, expected good or bad"
        )
    meant = names.match(text[relion.MICROGRAPH].unique(), listed.names)
    names.insist(path, meant, listed, allow_missing, "their corrections are left out")
    good = (text[KIND] == "good").to_numpy()
    here = {
        name: (text[relion.MICROGRAPH] == name).to_numpy() for name, one in meant.items() if one
    }
    return {meant[name]: Corrected(xy[rows], good[rows]) for name, rows in here.items()}


def settle(lists, listed, diameter) -> dict[str, Corrected]:
    """Return the corrections of several lists, later ones over earlier ones at the same place.

    Parameters
    ----------
    lists : list of (path-like, dict)
        As `read`.
    listed : relion.Micrographs
    diameter : float
        Of the particle, A; places within RADIUS of it are one.

    Raises
    ------
    ApbcError
        For both kinds at one place in one list, and a micrograph without a pixel size.
    """
    found = {}
    for path, corrected in lists:
        for name, one in corrected.items():
            reach = RADIUS * diameter / listed.apix_of([name])[0]
            _check_agree(path, name, one, reach)
            found[name] = _over(found.get(name, NONE), one, reach)
    return found


def _check_agree(path, name, one, reach):
    good, bad = one.xy[one.good], one.xy[~one.good]
    both = good[peaks.nearest(good, bad) <= reach]
    if len(both):
        x, y = both[0]
        raise ApbcError(
            f"{path}: {len(both)} places are good and bad, within {RADIUS:g} diameters: {name} at "
            f"{x:.1f}, {y:.1f}; keep one of each"
        )


def _over(earlier, later, reach):
    """Return both, less those that a later one lies on."""
    xy, good = map(np.concatenate, zip(earlier, later, strict=True))
    kept = peaks.best_apart(xy[::-1], reach)[::-1]
    return Corrected(xy[kept], good[kept])
