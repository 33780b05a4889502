"""Boxes for people to look at: the best, those in doubt, mistakes."""

from __future__ import annotations

import base64
import io

import numpy as np
from scipy import special

from . import images

EDGE = 96  # pixels of a box on the page
SHOWN = 24  # boxes of a gallery
USEFUL = 60  # boxes to be looked at first
NEAR = 0.5  # log odds from the threshold
ASKED = 240  # candidates whose members are compared, to find them
QUALITY = 80  # of JPEG


def thumbnail(grey, quality=QUALITY) -> str:
    """Return a grey picture, uint8 (H, W), as the text of a JPEG that a page can hold."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(grey).save(out, "JPEG", quality=quality, optimize=True)
    return data_uri(out.getvalue(), "image/jpeg")


def data_uri(content, kind) -> str:
    """Return bytes as the text that stands for a file in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def stretched(picture) -> np.ndarray:
    """Return an average, float (H, W), with all the contrast there is: uint8."""
    low, high = picture.min(), picture.max()
    return np.rint(255 * (picture - low) / max(high - low, 1e-9)).astype(np.uint8)


def cut(grey, scale, xy, edge) -> np.ndarray:
    """Cut boxes from a view of a micrograph.

    Parameters
    ----------
    grey, scale
        From `images.view`.
    xy : ndarray, shape (N, 2)
        Centres in pixels of the micrograph.
    edge : float
        Of the boxes, in its pixels.

    Returns
    -------
    ndarray of uint8, shape (N, size, size)
    """
    return images.windows(grey, xy / scale, max(2, images.even(edge / scale[0])))


def galleries(score, threshold) -> dict:
    """Choose boxes to show: {title: (those shown, those averaged)}, indices of (N,) scores.

    The best picks, those in the middle of all picks, and the candidates nearest to the threshold in
    log odds, of either side. Averaged are a third of the picks each, and what is within NEAR.
    """
    order = np.argsort(-score, kind="stable")
    picks = order[: int((score >= threshold).sum())]
    third = max(len(picks) // 3, min(len(picks), SHOWN))
    middle = _middle(picks, third)
    near = nearest(score, threshold)
    close = int((np.abs(_odds(score) - _odds(threshold)) <= NEAR).sum())
    return {
        "The best": (picks[:SHOWN], picks[:third]),
        "The middle": (_middle(middle, SHOWN), middle),
        "Around the threshold": (near[:SHOWN], near[: max(close, SHOWN)]),
    }


def _middle(items, count):
    """Return at most so many in the middle."""
    first = max(0, (len(items) - count) // 2)
    return items[first : first + count]


def _odds(score):
    return special.logit(np.clip(score, 1e-4, 1 - 1e-4))


def nearest(score, threshold, spread=1.0) -> np.ndarray:
    """Return the order of scores (N,) by their distance to the threshold, in log odds.

    ``spread`` is how much the members of an ensemble differ, (N,): so many of it count as one.
    """
    return np.argsort(np.abs(_odds(score) - _odds(threshold)) / spread, kind="stable")


def disagreement(logits) -> np.ndarray:
    """Return how much the members differ, (N,), of log odds (members, N): a deviation and a bit."""
    return 0.5 + logits.std(axis=0)


def mistakes(rows) -> dict:
    """Return what the model is surest of and wrong: {title: rows, the surest first}.

    ``rows`` are those of testing_results.txt.
    """
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    kinds = {
        "Good ones taken for bad": sorted(
            (row for row in wrong if row["label"] == 1), key=lambda row: row["probability"]
        ),
        "Bad ones taken for good": sorted(
            (row for row in wrong if row["label"] == 0), key=lambda row: -row["probability"]
        ),
    }
    return {title: found[:SHOWN] for title, found in kinds.items()}
