"""Which score makes a pick: thresholds, from scores of what training has not seen."""

from __future__ import annotations

import numpy as np
from scipy import optimize, special

from . import cli, direct, peaks
from .classbin import KINDS

FLAT = 0.005
SLIPS = 0.02  # of the labels, wrong by mistake: a few clear ones must not bend the line
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


def peak_threshold(project, models, dataset, labelled):
    """Return the probability at which peaks of micrographs have the best F1.

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
    return best_cut(scores, good, bad & ~good)


def best_cut(scores, good, bad):
    """Return the score at which peaks are expected to have the best F1.

    Lists are incomplete: what they do not hold is unknown, not wrong. So the chance that a peak is
    a particle is learnt from those that a list does hold, good or bad, and counted over all.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Probabilities of the peaks.
    good, bad : ndarray of bool, shape (N,)
        Which of them are listed, as what.

    Returns
    -------
    float
        With four decimals: the middle, in log odds, of the scores where F1 is within FLAT of the
        best, since where it is flat the best is chance. 0.5 if no listed particle has a peak.
    """
    known = good | bad
    if not good.any():
        return 0.5
    odds = _log_odds(scores)
    slope, offset = fit_odds(odds[known], good[known])
    order = np.argsort(-odds, kind="stable")
    odds = odds[order]
    right = special.expit(slope * odds + offset).cumsum()
    f1 = 2 * right / (np.arange(1, len(odds) + 1) + right[-1])
    flat = odds[f1 >= f1.max() - FLAT]
    return round(float(special.expit((flat[0] + flat[-1]) / 2)), 4)


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


def _log_odds(scores):
    """Return log odds of probabilities of four decimals, which may be 0 or 1."""
    return special.logit(np.clip(scores, 1e-4, 1 - 1e-4))
