"""Which score makes a pick: thresholds, from scores of what training has not seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy import optimize, special

FLAT = 0.005  # of F1, that makes no difference
LEVELS = [round(0.01 * n, 2) for n in range(1, 100)]  # of chance, to say what is expected from
PRIOR = 0.5, 1.5, 2.0, 2.0  # deviations of slope, offset, and the log odds of both kinds of slips
SLIPS = 0.05  # of the labels of a list, wrong: what is taken for usual
MOST_SLIPS = 0.5  # of them: beyond it a list is the other one
STEADY = 20  # likely particles of a micrograph whose level is half believed
TOO_MUCH = 0.7, 0.3  # usual part of what a level is above others, and its deviation


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
class Line:
    """What a score says of a particle, and of its label.

    Parameters
    ----------
    slope, offset : float
        Of the line that turns a score's log odds into those that it is a particle's.
    missed, false : float
        Shares of the particles that are labelled bad, and of all else that is labelled good,
        whatever the score.
    """

    slope: float = 1.0
    offset: float = 0.0
    missed: float = SLIPS
    false: float = SLIPS

    def odds(self, scores) -> np.ndarray:
        """Return the log odds that it is a particle: float64, (N,), of probabilities (N,)."""
        return self.slope * _odds(scores) + self.offset

    def surprise(self, odds, good) -> float:
        """Return how unlikely labels (N,) are, as -log of the chance, of log odds (N,)."""
        chance = self.false + (1 - self.missed - self.false) * special.expit(odds)
        return -np.log(np.where(good, chance, 1 - chance)).sum()

    def wrong(self, scores, good) -> np.ndarray:
        """Return the chance that a label is wrong: float64 (N,), of scores and labels (N,)."""
        chance = special.expit(self.odds(scores))
        particle = np.where(good, 1 - self.missed, self.missed) * chance
        other = np.where(good, self.false, 1 - self.false) * (1 - chance)
        return np.where(good, other, particle) / (particle + other)


def _odds(scores):
    return special.logit(np.clip(scores, 1e-4, 1 - 1e-4))  # of four decimals: 0 and 1 occur


def fit_line(scores, good) -> Line:
    """Fit the chance that a label is good, as a straight line of log odds (Platt's scaling).

    A label may be a slip, whatever the score: how many are is fitted with the line. Scores were
    learnt from the same labels, and the more of them are slips the less sure are scores, so the
    line is expected to be as much steeper. Where labels are few, all stays near `Line`'s defaults,
    give or take PRIOR.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Probabilities.
    good : ndarray of bool, shape (N,)
        Labels.
    """
    odds, usual = _odds(scores), (1.0, 0.0, *2 * [special.logit(SLIPS / MOST_SLIPS)])

    def line(found):
        missed, false = MOST_SLIPS * special.expit(found[2:])
        steeper = (1 - 2 * SLIPS) / (1 - missed - false)
        return Line(steeper * found[0], steeper * found[1], missed, false)

    def unlikely(found):
        one = line(found)
        away = (found - usual) / PRIOR
        return one.surprise(one.slope * odds + one.offset, good) + (away**2).sum() / 2

    return line(optimize.minimize(unlikely, usual).x)


@dataclass(frozen=True)
class Evening:
    """How the log odds of a micrograph's peaks are made to mean what others' mean.

    The scores of some micrographs are higher than those of others, and not of particles alone:
    their junk's are, too. A micrograph's level is the median log odds of its peaks that are
    likelier particles than not; of what it is above the usual, a part is too much and is taken off
    them all. The fewer such peaks there are, the less; nothing rises.

    Parameters
    ----------
    usual : float
        Level of micrographs.
    part : float
        Of what is above it.
    """

    usual: float = 0.0
    part: float = 0.0

    @classmethod
    def of(cls, record):
        """Return that of a model's record; where there is none, one that changes nothing."""
        return cls(**(record["calibration"] or {}).get("evening", {}))

    def even(self, odds) -> np.ndarray:
        """Return the log odds of all peaks of one micrograph, float64 (N,), evened."""
        level, trust = _level(odds)
        return odds - trust * self.part * max(0.0, level - self.usual)


AS_THEY_ARE = Evening()


def _level(odds):
    """Return the level of a micrograph, and how far to trust it: 0 to 1."""
    likely = odds[odds >= 0]
    count = len(likely)
    return float(np.median(likely)) if count else 0.0, count / (count + STEADY)


def fit_evening(each, odds, label, micrograph, line) -> Evening:
    """Fit how much is too much, from the listed peaks, as `fit_line` fits the line.

    Parameters
    ----------
    each : list of ndarray of float64
        Log odds of the peaks of each micrograph.
    odds : ndarray of float64, shape (N,)
        Of all peaks.
    label, micrograph : ndarray of int, shape (N,)
        As `calibrate`.
    line : Line
    """
    level, trust = np.array([_level(one) for one in each]).T
    usual = float((trust * level).sum() / max(trust.sum(), 1e-9))
    known = label >= 0
    good, odds, micrograph = label[known] == 1, odds[known], micrograph[known]
    trust, above = trust[micrograph], np.maximum(0, level - usual)[micrograph]
    mean = float((trust * above).sum() / max(trust.sum(), 1e-9))

    def unlikely(part):  # about the mean: how high scores are on the whole, the line has said
        away = (part - TOO_MUCH[0]) / TOO_MUCH[1]
        return line.surprise(odds + trust * part * (mean - above), good) + away**2 / 2

    part = optimize.minimize_scalar(unlikely, bounds=(0, 3), method="bounded").x
    return Evening(usual, float(part))


@dataclass(frozen=True)
class Calibration:
    """What peaks of micrographs that were not learnt from say of a score.

    Parameters
    ----------
    line : Line
        Of the peaks that are listed particles.
    evening : Evening
        Of the line's log odds.
    threshold : float
        The chance from which on picks are expected to have the best F1.
    expected : dict of str to list of float
        At each of the chances 'from', how many 'picks' a micrograph has, and which share of them
        are 'false'.
    """

    line: Line
    evening: Evening
    threshold: float
    expected: dict

    def record(self) -> dict:
        """Return what a model's record says of it."""
        return {**asdict(self.line), "evening": asdict(self.evening), "expected": self.expected}


def calibrate(scores, label, micrograph, count) -> Calibration:
    """Learn from peaks what their scores mean.

    Lists are incomplete: what they do not hold is unknown, not wrong. So the chance that a peak is
    a particle is learnt from those that a list does hold, good or bad, and counted over all.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Probabilities of the peaks.
    label : ndarray of int, shape (N,)
        1 for the listed good, 0 for the bad, -1 for those that no list holds.
    micrograph : ndarray of int, shape (N,)
        Number of the one each is from, from 0 on.
    count : int
        Of micrographs.

    Returns
    -------
    Calibration
        Its threshold has four decimals: the middle, in log odds, of those where F1 is within FLAT
        of the best, since where it is flat the best is chance. 0.5, and scores as they are, if no
        listed good particle has a peak.
    """
    known, some = label >= 0, (label == 1).any()
    line = fit_line(scores[known], label[known] == 1) if some else Line()
    odds = line.odds(scores)
    each = [odds[micrograph == one] for one in range(count)]
    evening = fit_evening(each, odds, label, micrograph, line) if some else AS_THEY_ARE
    odds = np.sort(np.concatenate([evening.even(one) for one in each]))[::-1]
    chance = special.expit(odds)
    picks, right = np.arange(1, len(odds) + 1), chance.cumsum()
    threshold = 0.5
    if some:
        f1 = 2 * right / (picks + right[-1])
        flat = odds[f1 >= f1.max() - FLAT]
        threshold = round(float(special.expit((flat[0] + flat[-1]) / 2)), 4)
    picks = (chance >= np.array(LEVELS)[:, None]).sum(axis=1)
    right = np.r_[0.0, right][picks]
    expected = {
        "from": LEVELS,
        "picks": (picks / count).round(2).tolist(),
        "false": (1 - right / np.maximum(picks, 1)).round(4).tolist(),
    }
    return Calibration(line, evening, threshold, expected)


def level(expected, share):
    """Return the lowest level of `Calibration.expected` with at most that share of false picks.

    A dict of 'from', 'picks' and 'false'; None if there is none with a pick.
    """
    rows = (dict(zip(expected, row, strict=True)) for row in zip(*expected.values(), strict=True))
    return next((row for row in rows if row["picks"] and row["false"] <= share), None)
