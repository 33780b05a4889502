"""Labels held against what networks say of them: which peak is whose, and where particles are.

A network learns from places that people and programs chose; some are off the centre. Labels that
look wrong, and negatives that look like particles, stay: without them networks are worse (the
example's README has the numbers), since the hardest of the right ones look wrong too.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from . import decision, direct
from .windows import REACH

RADIUS = 0.3  # of the diameter, within which a peak is a listed particle
ERROR = 0.04  # of the diameter: how far peaks are from their particles, in sets with a truth
LIKELY = 0.5  # chance from which a label is taken for wrong


def at_peaks(survey, samples, rows, dataset):
    """Return the label of each peak that is a listed particle, and the score of each particle.

    Parameters
    ----------
    survey : survey.Survey
    samples : samples.Samples
    rows : ndarray of int
        The listed particles of the micrographs surveyed.
    dataset : dict

    Returns
    -------
    label : ndarray of int
        Of each peak: 1 good, 0 bad, -1 for those that are none of the listed.
    score : ndarray of float64
        Of each of ``rows``: its peak's, or the least there is for one that has none.
    """
    window = survey.match(samples, rows, RADIUS * dataset["diameter_angst"])
    score = np.full(len(samples), direct.FLOOR)
    score[window[window >= 0]] = survey.score[window >= 0]
    return np.where(window >= 0, samples.label[window], -1), score[rows]


@dataclasses.dataclass(frozen=True)
class Revision:
    """Labels that were revised.

    Parameters
    ----------
    samples : samples.Samples
        With the good moved to where they are.
    moved : ndarray of bool, shape (N,)
        Which are somewhere else now.
    said : str
        What was done, for people.
    """

    samples: object
    moved: np.ndarray
    said: str


def revise(survey, samples, dataset) -> Revision:
    """Move good particles towards their peaks.

    A peak counts if it is more likely a particle than not. Labels and peaks both err: the farther
    they are apart, beyond what peaks err by, the more of the way is gone, by the same part for all.

    Parameters
    ----------
    survey : survey.Survey
        Of the micrographs to learn from.
    samples : samples.Samples
        Of micrographs.
    dataset : dict
    """
    here = np.isin(samples.source, survey.names)
    good = np.flatnonzero(here & (samples.label == 1))
    label, _ = at_peaks(survey, samples, np.flatnonzero(here & samples.listed), dataset)
    line = decision.fit_line(survey.score[label >= 0], label[label >= 0] == 1)
    sure = survey.of(line.odds(survey.score) >= 0)
    window = sure.match(samples, good, REACH * dataset["box_angst"])
    at = window[window >= 0]
    apix = np.array([survey.apix[name] for name in samples.source[at]])[:, None]
    away = (sure.xy[window >= 0] - samples.where[at]) * apix
    part = way(np.hypot(*away.T), ERROR * dataset["diameter_angst"])
    where = samples.where.copy()
    where[at] += part * away / apix
    moved = np.zeros(len(samples), bool)
    moved[at] = True
    middle = np.median(np.hypot(*away.T)) if len(at) else 0
    said = (
        f"{len(at)} of {len(good)} good particles found, half of them by more than {middle:.1f} A "
        "off, all by {:.1f}, {:.1f} A on average".format(
            *(away.mean(axis=0) if len(at) else (0, 0))
        )
        + f"; moved {part:.0%} of the way"
    )
    return Revision(dataclasses.replace(samples, where=where), moved, said)


def way(away, error) -> float:
    """Return which part of the way from labels to peaks to go: 0 to 1.

    The best mean of two places that err, where it is known how much one does and how far they are
    apart.

    >>> way([20.0, 20.0, 60.0], error=10.0)
    0.75
    """
    if not len(away) or not (apart := np.median(away)):
        return 0.0
    return float(max(0.0, 1 - (error / apart) ** 2))
