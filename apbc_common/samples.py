"""The windows to learn from: gen_data.py lists them, gen_model.py reads them."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import ApbcError, cli, png, relion, star, windows
from .classbin import KINDS, PARTS

VALIDATION_SHARE = 0.2  # of the windows of stacks that are not for testing
KIND, ROW, PICTURE = "apbcKind", "apbcRow", "apbcPicture"  # columns beside RELION's
CORRECTION = 8.0  # listed windows that a correction counts for: it was looked at


@dataclass(frozen=True)
class Samples:
    """Windows: what each is, and where.

    Parameters
    ----------
    kind : ndarray of str, shape (N,)
        'good' or 'bad' as listed, or what it is derived as.
    source : ndarray of str, shape (N,)
        Stack or micrograph.
    where : ndarray
        Sections of the stacks, int (N,), or x, y in pixels of the micrographs, float (N, 2).
    micrograph : ndarray of str, shape (N,)
        The stack, where the list names none.
    row : ndarray of int, shape (N,)
        In the list of its kind, from 0; -1 for corrections and for the derived.
    part : ndarray of str, shape (N,)
        'train', 'validation' or 'test'.
    picture : ndarray of str, shape (N,), or None
        The PNG file below ClassBin, where there is one.
    """

    kind: np.ndarray
    source: np.ndarray
    where: np.ndarray
    micrograph: np.ndarray
    row: np.ndarray
    part: np.ndarray
    picture: np.ndarray | None

    def __len__(self):  # noqa: D105
        return len(self.kind)

    @property
    def label(self) -> np.ndarray:
        """1 for good, 0 for all others: int (N,)."""
        return (self.kind == "good").astype(int)

    @property
    def listed(self) -> np.ndarray:
        """Whether a list of particles holds it: bool (N,)."""
        return self.row >= 0

    @property
    def derived(self) -> np.ndarray:
        """Whether it was added: bool (N,)."""
        return ~np.isin(self.kind, KINDS)

    @property
    def blank(self) -> np.ndarray:
        """Whether it is a place far from all that is listed: bool (N,)."""
        return self.kind == "empty"

    @property
    def corrected(self) -> np.ndarray:
        """Whether it is a correction: bool (N,)."""
        return ~self.listed & ~self.derived

    @property
    def weight(self) -> np.ndarray:
        """How much each counts in training: float64 (N,).

        A correction counts for CORRECTION, or for less, down to 1, where all would otherwise count
        for more than what is listed: they are chosen for being hard, and most picks are not.
        """
        most = self.listed.sum() / max(1, self.corrected.sum())
        return np.where(self.corrected, np.clip(most, 1, CORRECTION), 1.0)

    def name(self, index, folder) -> str:
        """Return what people call a window: its picture below ``folder``, else its place."""
        if self.picture is not None:
            return os.path.join(folder, self.picture[index])
        if self.where.ndim == 1:
            return f"{self.where[index] + 1:06d}@{self.source[index]}"
        return "{:.1f},{:.1f}@{}".format(*self.where[index], self.source[index])


def write(path, found, stacked, picture=None):
    """Write a list of windows.

    Parameters
    ----------
    path : path-like
        Written whole or not at all.
    found : iterable of windows.Window
    stacked : bool
        Whether they are sections of stacks; else places of micrographs.
    picture : callable, optional
        Of a window: the path of its PNG below ClassBin.
    """
    labels = [relion.IMAGE] if stacked else [relion.X, relion.Y]
    labels = [relion.MICROGRAPH, *labels, KIND, ROW, *([PICTURE] if picture else [])]

    def cells(one):
        place = [f"{one.where + 1:06d}@{one.source}"] if stacked else map(repr, one.where)
        row = [one.micrograph, *place, one.derived or one.kind, str(one.row + 1)]
        return [*row, picture(one)] if picture else row

    star.write_rows(path, "windows", labels, map(cells, found))


def read(classbin, dataset) -> Samples:
    """Read the lists that belong to a data set's record: first those for training.

    Raises
    ------
    ApbcError
        If one is missing, damaged, or does not hold as many windows as the record says.
    """
    parts = [_read(classbin.samples(part), part, dataset) for part in PARTS]
    return Samples(
        *(None if pair[0] is None else np.concatenate(pair) for pair in zip(*parts, strict=True))
    )


def _read(path, part, dataset):
    """Return the columns of one list, in the order of `Samples`."""
    if not path.exists():
        raise ApbcError(f"{path}: not there; run gen_data.py again")
    block = relion.table(path, KIND, "window")
    text = block.read(relion.MICROGRAPH, KIND, *([] if dataset["files"] else [PICTURE]))
    kind = text[KIND].to_numpy(object)
    counts = dataset["counts"][part]
    found = {"good": int((kind == "good").sum()), "bad": int((kind != "good").sum())}
    if found != counts:
        raise ApbcError(
            f"{path}: {found['good']} good and {found['bad']} bad windows, dataset.json says "
            f"{counts['good']} and {counts['bad']}; run gen_data.py again"
        )
    micrograph = text[relion.MICROGRAPH].to_numpy(object)
    if dataset["source"] == "stack":
        stacks, stack, where = relion.image_names(block)
        source, parts = np.array(stacks, object)[stack], np.full(len(kind), part, object)
    else:
        source, where = micrograph, block.numbers(relion.X, relion.Y)
        unknown = sorted(set(source) - dataset["micrographs"].keys())
        if unknown:
            raise ApbcError(
                f"{path}: {relion.first(unknown)} is not in dataset.json; run gen_data.py again"
            )
        parts = np.array([dataset["micrographs"][name]["part"] for name in source], object)
    row = block.numbers(ROW)[:, 0].astype(int) - 1
    picture = None if dataset["files"] else text[PICTURE].to_numpy(object)
    return kind, source, where, micrograph, row, parts, picture


def divide(samples, count, seed, watched=None) -> list[dict]:
    """Split the windows that are not for testing, for each of ``count`` networks.

    One alone watches the micrographs that the lists name for validation, or, where they name none,
    VALIDATION_SHARE of each kind. Several watch one part of the micrographs each: those that each
    has ``watched`` before, so that it was never taught them, where that is known.

    Returns
    -------
    list of dict
        'training' and 'validation': ndarrays of int.

    Raises
    ------
    ApbcError
        As `folds`, and if there is none of what one has watched.
    """
    taught = samples.part != "test"
    if count > 1 and watched:
        held = [taught & np.isin(samples.micrograph, names) for names in watched]
        if not all(part.any() for part in held):
            raise ApbcError(
                f"one of the model's {count} networks was taught all micrographs to learn from; "
                "none is left to judge it by; train anew"
            )
    elif count > 1:
        fold = folds(samples, count, seed, f"--members {count}")
        held = [fold == number for number in range(count)]
    elif "validation" in samples.part:
        held = [samples.part == "validation"]
    else:
        held = [np.zeros(len(samples), bool)]
        for label in (0, 1):
            rows = np.flatnonzero(taught & (samples.label == label))
            order = np.random.default_rng([seed, label]).permutation(rows)
            held[0][order[: round(VALIDATION_SHARE * len(rows))]] = True
    return [
        {"training": np.flatnonzero(taught & ~part), "validation": np.flatnonzero(part)}
        for part in held
    ]


def folds(samples, count, seed, option) -> np.ndarray:
    """Part the windows that are not for testing, by micrograph: fold of each, -1 for testing.

    Each fold has about the same share of good and of bad.

    Raises
    ------
    ApbcError
        If good particles lie on fewer micrographs than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = np.flatnonzero(samples.part != "test")
    groups, label = samples.micrograph[rows], samples.label[rows]
    found = len(set(groups[label == 1]))
    if found < count:
        raise ApbcError(
            f"{option}: {count} parts of the micrographs are left out in turn, but only {found} "
            "have good particles to learn from"
        )
    fold = np.full(len(samples), -1)
    split = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(split.split(rows, label, groups)):
        fold[rows[held]] = number
    return fold


def pixels(project, folder, dataset, samples) -> np.ndarray:
    """Read or cut the windows.

    They lie in a temporary file without a name, gone with the process: the system keeps of it in
    memory what fits.

    Parameters
    ----------
    project : pathlib.Path
    folder : pathlib.Path
        Of the data set.
    dataset : dict
        Its record.
    samples : Samples

    Returns
    -------
    ndarray of uint8, shape (N, size, size)

    Raises
    ------
    ApbcError
        If pictures, stacks or micrographs are missing, damaged, or others than gen_data.py saw.
    OSError
        If the disk is full.
    """
    shape = (len(samples), *2 * [dataset["window_px"]])
    with tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk would kill us later
        out = np.memmap(file, np.uint8, "r+", shape=shape)
    if samples.picture is None:
        check_files(project, dataset)
    work, bad = _by_source(samples.source), []
    for name, rows in cli.progress(work, "windows", len(samples), lambda one: len(one[1])):
        if samples.picture is None:
            out[rows] = cut(project, dataset, name, samples.where[rows])
        else:
            bad += _read_pictures(folder, samples.picture, rows, out)
    if bad:
        raise ApbcError(
            f"{len(bad)} of {len(samples)} windows can't be read: {relion.first(bad)}; "
            "make them again with gen_data.py -c"
        )
    return out


def recut(project, dataset, samples, rows, out):
    """Cut some of the windows anew, where they are now, into ``out`` of `pixels`."""
    work = _by_source(samples.source[rows])
    for name, some in cli.progress(work, "windows", len(rows), lambda one: len(one[1])):
        out[rows[some]] = cut(project, dataset, name, samples.where[rows[some]])


def _by_source(source):
    """Return each stack or micrograph and the rows that have it."""
    return relion.rows_of(*pd.factorize(source)).items()


def _read_pictures(folder, pictures, rows, out):
    """Read some of the pictures; return the paths of the damaged."""
    bad = []
    for row in rows:
        window = png.decode(folder / pictures[row])
        if window is None or window.shape != out.shape[1:]:
            bad.append(os.fspath(folder / pictures[row]))
        else:
            out[row] = window
    return bad


def cut(project, dataset, name, where) -> np.ndarray:
    """Cut windows of one stack or micrograph as the data set's record says: uint8 (N, size, size).

    Raises
    ------
    ApbcError
        As `windows.cut_stack` and `windows.cut_micrograph`.
    """
    geometry = windows.Geometry(*(dataset[n] for n in ("window_px", "window_angst", "box_angst")))
    if dataset["source"] == "stack":
        return np.array(list(windows.cut_stack(project / name, where.tolist(), geometry)))
    apix = dataset["micrographs"][name]["apix"]
    return windows.cut_micrograph(project / name, apix, where, geometry)


def stamp(path) -> list[int]:
    """Return what tells a file from a later one of its name: bytes, and when it was written, ns."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def check_files(project, dataset):
    """Raise ApbcError if stacks or micrographs of a record moved or changed since."""
    changed = []
    for name, known in dataset["files"].items():
        try:
            if stamp(project / name) != known:
                changed.append(f"{name} was written since")
        except OSError as err:
            changed.append(f"{name}: {err.strerror}")
    if changed:
        raise ApbcError(
            f"{len(changed)} of {len(dataset['files'])} files that the windows are cut from "
            f"moved or changed: {relion.first(changed)}; run gen_data.py -c again"
        )
