"""What a run of direct picking found, counted: for people who look before they go on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from . import ApbcError, cli, relion
from .classbin import ClassBin, model_record, read_model_record, read_picking

MOST = 1000  # micrographs that are read; of more, so many spread over defocus
STEPS = [round(0.01 * n, 2) for n in range(1, 100)]  # thresholds that things are counted at


@dataclass(frozen=True)
class Micrograph:
    """A micrograph that was picked.

    Parameters
    ----------
    name : str
        Relative to the project.
    apix : float
        A a pixel.
    defocus : float or None
        rlnDefocusU in A.
    xy : ndarray of float64, shape (N, 2)
        Candidates, in pixels, best first.
    score : ndarray of float64, shape (N,)
    """

    name: str
    apix: float
    defocus: float | None
    xy: np.ndarray
    score: np.ndarray

    def picks(self, threshold) -> int:
        """Return how many candidates reach a threshold."""
        return int((self.score >= threshold).sum())


@dataclass(frozen=True)
class Tally:
    """A run of direct picking.

    Parameters
    ----------
    folder : pathlib.Path
        Of the run's files.
    record : dict
        Of the run.
    model : pathlib.Path
    taught : dict or None
        The model's record; None if it is not there any longer.
    micrographs : list of Micrograph
        Those read.
    picked : int
        How many there are.
    """

    folder: Path
    record: dict
    model: Path
    taught: dict | None
    micrographs: list
    picked: int

    @property
    def threshold(self) -> float:
        """The run's."""
        return self.record["options"]["threshold"]

    @property
    def scores(self) -> np.ndarray:
        """Those of all candidates read: float64, (N,)."""
        return np.concatenate([np.empty(0), *(one.score for one in self.micrographs)])

    @property
    def diameter(self) -> float:
        """The particle's, in A: the model's, else twice the run's minimum distance."""
        if self.taught:
            return self.taught["dataset"]["diameter_angst"]
        return 2 * self.record["options"]["min_distance"] or 1.0

    @property
    def outdated(self) -> bool:
        """Whether the model was trained anew since."""
        was = self.record["inputs"]["model"]["sha256"]
        return bool(self.taught and self.taught["sha256"] != was)

    @property
    def calibrated(self) -> bool:
        """Whether scores are chances."""
        return bool(self.taught and self.taught["calibration"])


def read(project, star) -> Tally:
    """Read the run that wrote a list of picks.

    Parameters
    ----------
    project : pathlib.Path
    star : path-like
        ``picks.star`` of gen_picks.py, beside which the run's other files lie.

    Raises
    ------
    ApbcError
        If no run of direct picking wrote it, or the list of micrographs is gone.
    """
    record = read_picking(star)
    if record is None:
        raise ApbcError(
            f"{star}: not of a run of gen_picks.py on micrographs, which a report is on; pick with "
            "gen_picks.py, or name its picks.star with -s"
        )
    listed = project / record["growing"]["list"]["path"]
    if not listed.is_file():
        raise ApbcError(f"{listed}: the list of micrographs that were picked is gone")
    model = project / record["inputs"]["model"]["path"]
    classbin = ClassBin(project, Path(star).parent)
    known = relion.read_micrographs(listed)
    there = [name for name in known.names if _file(classbin, name).exists()]
    chosen = set(known.spread(there, MOST))
    rows = zip(known.names, known.apix, known.defocus or [None] * len(known.names), strict=True)
    rows = [row for row in rows if row[0] in chosen]
    most = record["options"].get("max_picks")
    read = [_read(classbin, *row, most) for row in cli.progress(rows, "lists")]
    taught = read_model_record(model) if model_record(model).exists() else None
    return Tally(Path(star).parent, record, model, taught, read, len(there))


def _file(classbin, name):
    return classbin.candidates_file(relion.rest(name))


def _read(classbin, name, apix, defocus, most):
    path = _file(classbin, name)
    xy, score = relion.read_coordinates(path)
    if score is None:
        raise ApbcError(f"{path}: no column {relion.SCORE}; pick again with gen_picks.py -c")
    return Micrograph(name, apix, defocus, xy[:most], score[:most])


def choose(micrographs, threshold, count) -> list[int]:
    """Return the indices of a few micrographs that differ in defocus and number of picks.

    First those with the most and the fewest picks, nearest to focus and farthest off; then one by
    one the one that differs most from those chosen. In the order of the list.

    Parameters
    ----------
    micrographs : list of Micrograph
    threshold : float
    count : int
    """
    total = len(micrographs)
    picks = np.array([one.picks(threshold) for one in micrographs])
    defocus = np.array([one.defocus if one.defocus else 0.0 for one in micrographs])
    ranks = [np.argsort(np.argsort(of, kind="stable")) for of in (picks, defocus)]
    place = np.stack(ranks, axis=1) / max(total - 1, 1)
    ends = [end for rank in ranks for end in (rank.argmax(), rank.argmin())]
    chosen = list(dict.fromkeys(int(i) for i in ends))[:count]
    while len(chosen) < min(count, total):
        away = np.linalg.norm(place[:, None] - place[chosen], axis=2).min(axis=1)
        away[chosen] = -1
        chosen.append(int(away.argmax()))
    return sorted(chosen)


def levels(tally) -> dict:
    """Count picks, and the share of them expected to be false, at each threshold to choose from.

    Returns
    -------
    dict
        'at': thresholds, the run's among them; 'picks' of the micrographs read; 'false': the mean
        of what the scores of these picks, as chances, lack of 1; None where there is no pick, or
        scores are no chances.
    """
    at = sorted({*STEPS, tally.threshold})
    score = np.sort(tally.scores)[::-1]
    picks = np.searchsorted(-score, -np.array(at), side="right")
    right = np.r_[0.0, score.cumsum()][picks]
    false = [
        round(1 - float(r) / n, 4) if n and tally.calibrated else None
        for r, n in zip(right, picks.tolist(), strict=True)
    ]
    return {"at": at, "picks": picks.tolist(), "false": false}


def distances(tally) -> np.ndarray:
    """Return how far each pick's nearest neighbour is, in A; none of a pick that is alone."""
    found = [np.empty(0)]
    for one in tally.micrographs:
        xy = one.xy[one.score >= tally.threshold]
        if len(xy) > 1:
            found.append(cKDTree(xy).query(xy, 2)[0][:, 1] * one.apix)
    return np.concatenate(found)


def command(project, tally, anew) -> list[str]:
    """Return the words of the line that picks ``anew``, or cuts what there is at threshold {}."""
    words = ["gen_picks.py", "-i", tally.record["growing"]["list"]["path"]]
    usual = ClassBin(project)
    if tally.folder.resolve() != usual.picks_dir.resolve():
        words += ["--o", os.path.relpath(tally.folder, project)]
    if not anew:
        return [*words, "--threshold", "{}", "--recut"]
    if tally.model.resolve() != usual.model.resolve():
        words += ["--model", os.path.relpath(tally.model, project)]
    return [*words, "-c"]
