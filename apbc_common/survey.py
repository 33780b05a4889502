"""What networks say of whole micrographs: peaks, and which listed particles they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import cli, decision, direct, parallel, peaks


@dataclass(frozen=True)
class Survey:
    """Peaks of micrographs.

    Parameters
    ----------
    names : list of str
        The micrographs.
    micrograph : ndarray of int, shape (P,)
        Index into ``names``.
    xy : ndarray of float64, shape (P, 2)
        In pixels of the micrograph.
    score : ndarray of float64, shape (P,)
        What the networks say, calibrated where they are; best first in each micrograph.
    apix : dict of str to float
        A a pixel of each micrograph.
    """

    names: list
    micrograph: np.ndarray
    xy: np.ndarray
    score: np.ndarray
    apix: dict

    def of(self, which):
        """Return some of the peaks, bool (P,), as a survey."""
        parts = (part[which] for part in (self.micrograph, self.xy, self.score))
        return Survey(self.names, *parts, self.apix)

    def match(self, samples, rows, angst) -> np.ndarray:
        """Return which of the windows is at each peak, one to one: int (P,), -1 for none.

        Parameters
        ----------
        samples : samples.Samples
            Of micrographs.
        rows : ndarray of int
            Those to choose from.
        angst : float
            The farthest that a window may be from its peak.
        """
        found = np.full(len(self.xy), -1)
        for here, there, apix in self._micrographs(samples, rows):
            index = peaks.match(self.xy[here], samples.where[there], angst / apix)
            found[here] = np.where(index >= 0, there[index], -1)
        return found

    def _micrographs(self, samples, rows):
        """Yield the peaks, the windows and A a pixel of each micrograph that has windows."""
        for number, name in enumerate(self.names):
            there = rows[samples.source[rows] == name]
            if len(there):
                yield self.micrograph == number, there, self.apix[name]


def survey(project, dataset, work, note="", evening=decision.AS_THEY_ARE) -> Survey:
    """Find the peaks of micrographs.

    Parameters
    ----------
    project : pathlib.Path
    dataset : dict
        Record of the data set that the models were taught with.
    work : list of (keras.Model, list of str)
        Models, and the micrographs that each is asked about; no micrograph twice.
    note : str
        What micrographs they are, for the line of progress.
    evening : decision.Evening
        Of the models' log odds.

    Raises
    ------
    ApbcError, OSError
        As `direct.Picker.prepare`.
    """
    apix = {name: dataset["micrographs"][name]["apix"] for _, names in work for name in names}
    found = []

    def prepared():
        for model, names in work:
            usual = direct.defaults(dataset)
            picker = direct.Picker(model, dataset, floor=direct.FLOOR, evening=evening, **usual)
            for name in names:
                yield picker, picker.prepare(project / name, apix[name])[0]

    for picker, ready in cli.progress(
        parallel.ahead(prepared()), f"{note}micrographs".strip(), len(apix)
    ):
        found.append(picker.find(ready))
    number = np.repeat(np.arange(len(found)), [len(xy) for xy, _ in found])
    xy, score = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Survey(list(apix), number, xy, score, apix)
