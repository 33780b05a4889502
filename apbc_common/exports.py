"""Picks in the forms of other programs: EMAN's box files, and cryoSPARC's lists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from . import ApbcError, files, mrc, names, relion

BLOB = "micrograph_blob/path", "micrograph_blob/shape"  # of cryoSPARC's exposures
PIXEL = "micrograph_blob/psize_A"
TOLERANCE = 0.01  # by which its pixel size may differ from the list's


def write_box(path, xy, box):
    """Write one micrograph's picks as EMAN's boxes: corner x and y, width and height, in pixels.

    RELION takes x + width / 2 for the centre. EMAN draws the first row of a micrograph at the
    bottom; the numbers are the same.

    Parameters
    ----------
    path : path-like
    xy : ndarray, shape (N, 2)
        Centres in pixels of the micrograph.
    box : int
        Even.
    """
    corners = (np.round(xy) - box // 2).astype(int).tolist()
    files.write_text(path, "".join(f"{x}\t{y}\t{box}\t{box}\n" for x, y in corners))


def read_box(path):
    """Read one micrograph's EMAN boxes, of any program: columns x, y, width, height.

    Returns
    -------
    xy : ndarray of float64, shape (N, 2)
        Centres in pixels of the micrograph, as RELION takes them: x + width / 2, cut.
    box : float or None
        The largest width; None of no boxes.

    Raises
    ------
    ApbcError
        For a line that has not four numbers.
    """
    found = []
    for number, line in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            x, y, width, height = (int(float(word)) for word in line.split()[:4])
        except (ValueError, OverflowError):
            raise ApbcError(
                f"{path}:{number}: {line.strip()[:60]!r}, expected a box: x, y, width and height"
            ) from None
        found.append((x + width // 2, y + height // 2, width))
    boxes = np.array(found, float).reshape(-1, 3)
    return boxes[:, :2], boxes[:, 2].max() if len(boxes) else None


def write_upside_down(target, project, picks):
    """Write the list of all picks as they lie where a micrograph's rows run the other way.

    Parameters
    ----------
    target : path-like
    project : pathlib.Path
    picks : dict of str to path-like
        The coordinate file of each micrograph.
    """

    def turned():
        for name, path in picks.items():
            xy, scores = relion.read_coordinates(path)
            xy[:, 1] = mrc.size(project / name).ny - 1 - xy[:, 1]
            yield name, relion.coordinate_table(xy, scores)

    relion.gather_tables(target, turned())


class Exposures:
    """The micrographs as cryoSPARC knows them: what picks need to be its particles.

    Parameters
    ----------
    path : path-like
        The ``.cs`` file of an output group "exposures" or "micrographs".
    project : pathlib.Path
    listed : relion.Micrographs
        Those to pick, which are found among the exposures by their names.
    allow_missing : bool
        Whether some may be missing.

    Raises
    ------
    ApbcError
        If cryosparc-tools, which reads and writes such files, is not installed; if the file is
        none; if micrographs are missing that may not be, or all are; if exposures are named twice,
        or have other pixels.
    """

    def __init__(self, path, project, listed, allow_missing):
        self.path, self._project = Path(path), project
        kind = _dataset(self.path)
        open(self.path, "rb").close()  # what can't be read is no damaged one
        try:
            self._rows = kind.load(self.path)
        except Exception as err:
            raise ApbcError(f"{path}: {err}; give the .cs file of exposures") from err
        lacking = [field for field in ("uid", *BLOB) if field not in self._rows]
        if lacking:
            raise ApbcError(f"{path}: no {', '.join(lacking)}; give the .cs file of exposures")
        known = [str(one) for one in self._rows[BLOB[0]]]
        if again := [name for name, count in Counter(known).items() if count > 1]:
            raise ApbcError(f"{path}: exposures named twice: {relion.first(again)}; keep one each")
        index = {name: row for row, name in enumerate(known)}
        found = names.match(listed.names, known)
        told = relion.Micrographs(self.path, known, [None] * len(known))
        names.insist(listed.path, found, told, allow_missing, "their picks are left out")
        self._row_of = {name: index[one] for name, one in found.items() if one}
        for name, apix in listed.apix_by_name().items() if PIXEL in self._rows else ():
            told = self._rows[PIXEL][self._row_of[name]] if name in self._row_of else apix
            if apix and abs(told / apix - 1) > TOLERANCE:
                raise ApbcError(
                    f"{path}: {found[name]} has {told:g} A a pixel, {name} of {listed.path} "
                    f"{apix:g}: not the same micrographs, or a wrong pixel size"
                )

    def write(self, target, picks):
        """Write the picks as cryoSPARC's particles without images.

        A place is a part of the micrograph's width and height, from its first pixel on.

        Parameters
        ----------
        target : path-like
        picks : dict of str to path-like
            The coordinate file of each micrograph.

        Returns
        -------
        int
            How many.

        Raises
        ------
        ApbcError
            If a micrograph has another size than cryoSPARC's.
        """
        rows, places, scores = [], [], []
        for name, path in picks.items():
            if name not in self._row_of:
                continue
            shape = tuple(self._rows[BLOB[1]][self._row_of[name]].tolist())
            size = mrc.size(self._project / name)
            if shape != (size.ny, size.nx):
                raise ApbcError(
                    f"{self.path}: {self._rows[BLOB[0]][self._row_of[name]]} has {shape[1]} x "
                    f"{shape[0]} px, {name} {size.nx} x {size.ny}: not the same micrographs"
                )
            xy, score = relion.read_coordinates(path)
            rows += [self._row_of[name]] * len(xy)
            places.append(xy / (size.nx, size.ny))
            scores.append(score)
        rows = np.array(rows, int)
        x, y = np.concatenate([np.empty((0, 2)), *places]).T
        columns = {
            "uid": np.random.default_rng().integers(1, 1 << 63, len(rows), np.uint64),
            "location/micrograph_uid": self._rows["uid"][rows],
            "location/exp_group_id": self._of("mscope_params/exp_group_id", rows, np.uint32),
            "location/micrograph_path": self._rows[BLOB[0]][rows],
            "location/micrograph_shape": self._rows[BLOB[1]][rows],
            "location/micrograph_psize_A": self._of(PIXEL, rows, np.float32),
            "location/center_x_frac": x.astype(np.float32),
            "location/center_y_frac": y.astype(np.float32),
            "pick_stats/ncc_score": np.concatenate([np.empty(0), *scores]).astype(np.float32),
        }
        with files.atomic(target) as part:
            _dataset(self.path)(columns).save(part)
        return len(rows)

    def _of(self, field, rows, kind):
        """Return a field of the exposures that some versions lack: then 0."""
        return self._rows[field][rows] if field in self._rows else np.zeros(len(rows), kind)


def _dataset(path):
    try:
        from cryosparc.dataset import Dataset
    except ImportError as err:
        raise ApbcError(
            f"{path}: reading cryoSPARC's files needs its own library: pip install cryosparc-tools"
        ) from err
    return Dataset
