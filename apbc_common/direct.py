"""Pick a micrograph: condition it, score it everywhere, find the peaks."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from . import ApbcError, decision, images, mrc, network, peaks

HEADER_TOLERANCE = 0.01  # by which a header's pixel size may differ from the list's
FLOOR = 0.01  # least probability of a candidate
STRIDE = 4
BLUR = 1 / 6  # of the diameter: sigma of the Gaussian that finds the middle of a plateau


def defaults(taught) -> dict:
    """Return the minimum distance, border (A) and stride that suit the data set of a model."""
    return {
        "min_distance": taught["diameter_angst"] / 2,
        "border": taught["box_angst"] / 2,
        "stride": STRIDE,
    }


class Picker:
    """What picks with one model and one set of options.

    Parameters
    ----------
    model : keras.Model
    taught : dict
        The data set of the model's record.
    min_distance, border : float
        A between picks, and between picks and the border.
    floor : float
        Least probability of a pick, before a micrograph's scores are lowered.
    stride : int
        Pixels of the conditioned micrograph between places scored: 1, 2, 4 or 8.
    invert : bool
        Whether the model was taught with the contrast inverted.
    evening : decision.Evening
        Of the model's log odds.
    """

    def __init__(
        self, model, taught, min_distance, border, floor, stride=STRIDE, invert=False,
        evening=decision.AS_THEY_ARE,
    ):  # fmt: skip
        self.apix, self.box = taught["window_angst"] / taught["window_px"], taught["box_angst"]
        self.min_distance, self.border = min_distance, border
        self.least = math.log(floor / (1 - floor)) if 0 < floor < 1 else (2 * floor - 1) * math.inf
        self.invert, self.evening = invert, evening
        self.blur = BLUR * taught["diameter_angst"] / (stride * self.apix)  # spacings of the map
        self._dense = network.Dense(model, stride)

    def prepare(self, path, apix):
        """Read and condition a micrograph of ``apix`` A a pixel.

        Returns
        -------
        prepared : tuple
            What `find` takes.
        note : str
            What is odd: the header's pixel size is another one; '' if nothing is.

        Raises
        ------
        ApbcError
            As `mrc.image`, and if the micrograph is smaller than a box or its borders.
        OSError
            If it can't be read.
        """
        size = mrc.size(path)
        least = f"a box of {self.box:.0f} A"
        if 2 * self.border > self.box:
            least = f"two borders of {self.border:g} A"
        if min(size.nx, size.ny) * apix < max(self.box, 2 * self.border):
            raise ApbcError(f"{path}: {size.nx} x {size.ny} px of {apix:g} A, smaller than {least}")
        note = ""
        if size.apix and abs(size.apix / apix - 1) > HEADER_TOLERANCE:
            note = (
                f"{path}: its header says {size.apix:g} A a pixel, the list {apix:g}; the list's "
                "counts"
            )
        grey, scale = images.condition_micrograph(mrc.image(path), apix, self.apix, self.box)
        return (255 - grey if self.invert else grey, scale, apix), note

    def find(self, prepared):
        """Find the particles of a prepared micrograph.

        Returns
        -------
        xy : ndarray of float64, shape (N, 2)
            In pixels of the micrograph, best first.
        probabilities : ndarray of float64, shape (N,)
            Rounded to four decimals, as files have them.
        """
        grey, scale, apix = prepared
        size = self._dense.size
        beyond = max(0, size // 2 - int(self.border / self.apix))  # windows reach over the border
        padded = np.pad(grey, beyond, mode="reflect") if beyond else grey
        scores = self._dense(padded)
        xy, odds = peaks.maxima(scores, min(0.0, self.least))  # all that a micrograph's level is of
        xy = peaks.centred(xy, special.expit(scores), self.blur)
        xy = (xy * self._dense.stride + (size - 1) / 2 - beyond) * scale  # of `all_ways`
        kept = peaks.best_apart(xy, self.min_distance / apix)
        margin = math.ceil(self.border / apix)  # RELION cuts coordinates to whole pixels
        last = np.array(grey.shape[::-1]) * scale - 1
        kept &= ((xy >= margin) & (xy <= last - margin)).all(axis=1)
        evened = special.expit(self.evening.even(odds[kept].astype(float)))
        enough = odds[kept] >= self.least
        return xy[kept][enough], np.round(evened[enough], 4)
