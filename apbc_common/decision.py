"""Which score makes a pick: thresholds, from scores of what training has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from . import cli, direct, peaks
from .classbin import KINDS

FLAT = 0.005  # of F1, that makes no difference
SLIPS = 0.02  # of the labels, wrong by mistake: a few clear ones must not bend the line
LEVELS = [round(0.01 * n, 2) for n in range(1, 100)]  # of chance, to say what is expected from
PRIOR = 0.5, 1.5  # deviations of slope and offset
RADIUS = 0.3  # of the diameter, within which a peak is a listed particle
MOST_MICROGRAPHS = 20  # that the threshold is chosen on


def best_threshold(label, probability):
    """Return the probability that parts good from bad windows with the best F1."""
    order = np.argsort(-probability, kind="stable")
    scores, right = probability[order], label[order].cumsum()
    f1 = 2 * right / (np.arange(1, len(order) + 1) + label.sum())
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a cut lies between two scores, never within a tie
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return round(float(scores[best] + below) / 2, 4)


@dataclass(frozen=True)
class Calibration:
    """What peaks of micrographs that were not learnt from say of a score.

    Parameters
    ----------
    slope, offset : float
        Of the line that turns a network's logit into the log odds that a peak is good.
    threshold : float
        The chance from which on picks are expected to have the best F1.
    expected : dict of str to list of float
        At each of the chances 'from', how many 'picks' a micrograph has, and which share of them
        are 'false'.
    """

    slope: float
    offset: float
    threshold: float
    expected: dict


def calibrate(project, models, dataset, labelled) -> Calibration:
    """Learn what the scores of peaks mean.

    Parameters
    ----------
    project : pathlib.Path
    models : list of keras.Model
    dataset : dict
        Record of their data set.
    labelled : list of dict of str to dict of str to ndarray, shape (N, 2)
        Of each model, by micrographs that it has not learnt from and by kind ('good', 'bad') the
        listed particles, in pixels of the micrograph.
    """
    most = -(-MOST_MICROGRAPHS // len(models))
    work = [
        (number, *item) for number, one in enumerate(labelled) for item in list(one.items())[:most]
    ]
    pickers = [
        direct.Picker(model, dataset, floor=direct.FLOOR, **direct.defaults(dataset))
        for model in models
    ]
    found = {"scores": [], "good": [], "bad": []}
    for number, name, places in cli.progress(work, "validation micrographs"):
        apix = dataset["micrographs"][name]["apix"]
        prepared, _ = pickers[number].prepare(project / name, apix)
        xy, probability = pickers[number].find(prepared)
        found["scores"].append(probability)
        for kind in KINDS:
            near = peaks.match(xy, places[kind], RADIUS * dataset["diameter_angst"] / apix)
            found[kind].append(near)
    scores, good, bad = (np.concatenate(parts) for parts in found.values())
    return fit(scores, good, bad & ~good, len(work))


def fit(scores, good, bad, micrographs) -> Calibration:
    """Learn from peaks what their scores mean.

    Lists are incomplete: what they do not hold is unknown, not wrong. So the chance that a peak is
    a particle is learnt from those that a list does hold, good or bad, and counted over all.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Probabilities of the peaks.
    good, bad : ndarray of bool, shape (N,)
        Which of them are listed, as what.
    micrographs : int
        That they are from.

    Returns
    -------
    Calibration
        Its threshold has four decimals: the middle, in log odds, of those where F1 is within FLAT
        of the best, since where it is flat the best is chance. 0.5, and scores as they are, if no
        listed good particle has a peak.
    """
    known = good | bad
    odds = special.logit(np.clip(scores, 1e-4, 1 - 1e-4))  # of four decimals: 0 and 1 occur
    slope, offset = fit_odds(odds[known], good[known]) if good.any() else (1.0, 0.0)
    odds = np.sort(slope * odds + offset)[::-1]
    chance = special.expit(odds)
    picks, right = np.arange(1, len(odds) + 1), chance.cumsum()
    threshold = 0.5
    if good.any():
        f1 = 2 * right / (picks + right[-1])
        flat = odds[f1 >= f1.max() - FLAT]
        threshold = round(float(special.expit((flat[0] + flat[-1]) / 2)), 4)
    count = (chance >= np.array(LEVELS)[:, None]).sum(axis=1)
    right = np.r_[0.0, right][count]
    expected = {
        "from": LEVELS,
        "picks": (count / micrographs).round(2).tolist(),
        "false": (1 - right / np.maximum(count, 1)).round(4).tolist(),
    }
    return Calibration(float(slope), float(offset), threshold, expected)


def level(expected, share):
    """Return the lowest level of `Calibration.expected` with at most that share of false picks.

    A dict of 'from', 'picks' and 'false'; None if there is none with a pick.
    """
    rows = (dict(zip(expected, row, strict=True)) for row in zip(*expected.values(), strict=True))
    return next((row for row in rows if row["picks"] and row["false"] <= share), None)


def fit_odds(odds, good):
    """Fit the chance that a label is good, as a straight line of log odds (Platt's scaling).

    SLIPS of the labels may be wrong on either side, whatever the score. Where labels are few, the
    line stays near the scores' own: slope 1 and offset 0, give or take PRIOR.

    Parameters
    ----------
    odds : ndarray, shape (N,)
        Log odds of the scores.
    good : ndarray of bool, shape (N,)

    Returns
    -------
    slope, offset : float
    """

    def unlikely(line):
        chance = SLIPS + (1 - 2 * SLIPS) * special.expit(line[0] * odds + line[1])
        away = (line - (1, 0)) / PRIOR
        return -np.log(np.where(good, chance, 1 - chance)).sum() + (away**2).sum() / 2

    return optimize.minimize(unlikely, (1.0, 0.0)).x
