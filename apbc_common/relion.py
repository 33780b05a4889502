"""What RELION means by its files: particles, optics, micrographs, coordinates, names, jobs.

Forms of 3.0 (one table, magnification) and of 3.1, 4 and 5 (optics and particles or micrographs).
Coordinates are pixels of the micrograph, x along a row of the MRC file, first pixel 0,0.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from . import ApbcError, files, mrc, star

IMAGE = "rlnImageName"
MICROGRAPH = "rlnMicrographName"
X, Y = "rlnCoordinateX", "rlnCoordinateY"
ORIGIN_ANGST = "rlnOriginXAngst", "rlnOriginYAngst"
ORIGIN_30 = "rlnOriginX", "rlnOriginY"  # in pixels of the particle; 3.0 only
SCORE = "rlnAutopickFigureOfMerit"
CLASS, PSI = "rlnClassNumber", "rlnAnglePsi"
COLUMNS = [X, Y, CLASS, PSI, SCORE]  # of a coordinate file, as RELION's own pickers write it
GROUP = "rlnOpticsGroup"
DEFOCUS = "rlnDefocusU"
IMAGE_APIX, IMAGE_SIZE = "rlnImagePixelSize", "rlnImageSize"
DIMENSIONS = "rlnImageDimensionality"
MICROGRAPH_APIX = "rlnMicrographPixelSize"
DETECTOR_PIXEL, MAGNIFICATION = "rlnDetectorPixelSize", "rlnMagnification"  # um; 3.0 only

FILES = "rlnMicrographCoordinates"  # a micrograph's coordinate file; 4.0 and 5.0
SUFFIX = "coords_suffix"  # how the name starts of the file that RELION 3.1 finds coordinates by
JOB = re.compile(r"(?:^|/)job\d{3,}/")


class NoPicks(ApbcError):
    """A list of picks that has none of the micrograph asked for."""


@dataclass(frozen=True)
class Optics:
    """One kind of particle image: its group's name, A a pixel, and box in its own pixels."""

    group: str
    apix: float
    box: int

    @property
    def box_angst(self):
        """Edge of the box in A."""
        return self.apix * self.box


@dataclass(frozen=True)
class Particles:
    """A particle list; every array runs over its rows, in the order of the file.

    ``stack``, ``micrograph`` and ``group`` (int32) are indices into ``stacks``, ``micrographs``
    (names relative to the project) and ``optics``; ``section`` (int32) counts from 0 in its stack;
    ``xy`` is float64 (N, 2). ``micrograph`` and ``xy`` are None where the list has no such columns.
    ``row`` counts from 0 in the file, which has more where these are `some` of a list.
    """

    block: star.Block
    optics: list[Optics]
    group: np.ndarray
    stacks: list[str]
    stack: np.ndarray
    section: np.ndarray
    micrographs: list[str]
    micrograph: np.ndarray | None
    xy: np.ndarray | None
    row: np.ndarray

    def __len__(self):  # noqa: D105
        return len(self.section)

    def name(self, row):
        """Return the rlnImageName of a row, as RELION spells it."""
        return f"{self.section[row] + 1:06d}@{self.stacks[self.stack[row]]}"

    def moved(self, by, apix):
        """Return the coordinates moved by so many A: float64 (N, 2), in pixels.

        ``by`` is (N, 2) or (2,), ``apix`` the A a pixel of each of ``micrographs``.
        """
        return self.xy + by / np.asarray(apix, float)[self.micrograph, None]

    def some(self, which):
        """Return some of the particles, bool (N,); those of the file stay as they are."""
        arrays = "group", "stack", "section", "micrograph", "xy", "row"
        of_these = {name: getattr(self, name) for name in arrays}
        return replace(self, **{name: a if a is None else a[which] for name, a in of_these.items()})


@dataclass(frozen=True)
class Micrographs:
    """A micrograph list: names relative to the project, and A a pixel (None where not told).

    ``defocus`` is rlnDefocusU in A, or None where the list has no such column.
    """

    path: Path
    names: list[str]
    apix: list[float | None]
    defocus: list[float] | None = None

    def apix_by_name(self) -> dict[str, float | None]:
        """Return A a pixel of each micrograph."""
        return dict(zip(self.names, self.apix, strict=True))

    def apix_of(self, names) -> np.ndarray:
        """Return A a pixel of some micrographs: float64 (N,); raise ApbcError where not told."""
        known = self.apix_by_name()
        unknown = [name for name in names if not known.get(name)]
        if unknown:
            raise ApbcError(
                f"{self.path}: no pixel size ({MICROGRAPH_APIX}) of {len(unknown)} of {len(names)} "
                f"micrographs: {first(unknown)}"
            )
        return np.array([known[name] for name in names])

    def spread(self, names, most) -> list[str]:
        """Return at most so many of ``names``, spread evenly over defocus, or else over the list.

        In the order of ``names``.
        """
        if len(names) <= most:
            return names
        order = range(len(names))
        if self.defocus:
            defocus = dict(zip(self.names, self.defocus, strict=True))
            order = sorted(order, key=lambda i: defocus[names[i]])
        at = np.linspace(0, len(order) - 1, most).round().astype(int)
        return [names[i] for i in sorted(order[j] for j in at.tolist())]


def table(path, label, what) -> star.Block:
    """Scan a STAR file and return its one table with a column ``label``.

    Raises
    ------
    StarError
        As `star.scan` does, and where no table, or more than one, has that column.
    """
    return _table_and_optics(path, label, what)[0]


def _table_and_optics(path, label, what):
    """Return the table with a column, and the optics table or None."""
    blocks = star.scan(path)
    found = [block for name, block in blocks.items() if label in block.labels and name != "optics"]
    labels = {label for block in blocks.values() for label in block.labels}
    if not found and MICROGRAPH in labels and not {X, IMAGE} & labels:
        raise star.StarError(f"{path}: no column {label}; a list of micrographs, not a {what} list")
    if len(found) != 1:
        tables = ", ".join(f"data_{name}" for name in blocks)
        raise star.StarError(
            f"{path}: {len(found)} {what} tables (with a column {label}) among {tables}, expected 1"
        )
    if not found[0].loop:
        raise star.StarError(f"{path}: data_{found[0].name} is no loop_; write it as one")
    return found[0], blocks.get("optics")


def read_particles(project, path) -> Particles:
    """Read a particle list and hold it against the headers of its stacks.

    Parameters
    ----------
    project : path-like
        The folder that names inside the list are relative to.
    path : path-like
        ``particles.star``, ``run_itNNN_data.star`` and the like, of RELION 3.0 to 5.0.

    Raises
    ------
    StarError
        For what `star.scan` refuses, no particle table, a missing column or optics group, an image
        named twice, no particle at all.
    ApbcError
        If stacks are missing, damaged, short or of another size: their count and the first three.
    """
    block, groups = _table_and_optics(path, IMAGE, "particle")
    if not block.rows:
        raise star.StarError(f"{path}: data_{block.name} has no particles")
    stacks, stack, section = image_names(block)
    micrographs, micrograph = _codes(block, MICROGRAPH)
    xy = block.numbers(X, Y) if {X, Y} <= set(block.labels) else None
    optics, group = _particle_optics(block, groups)
    found = Particles(
        block, optics, group, stacks, stack, section, micrographs, micrograph, xy,
        np.arange(block.rows),
    )  # fmt: skip
    return replace(found, optics=_check_stacks(Path(project), found))


def origins(particles) -> np.ndarray | None:
    """Return how far each particle's centre lies before its coordinate, in A: float64 (N, 2).

    The centre is the coordinate less this (getCoordinateMetaDataTable of RELION 3.1). None where
    the list has never been aligned.

    Raises
    ------
    StarError
        If one of a pair of columns is missing, or a cell is no number.
    """
    block = particles.block
    for pair in (ORIGIN_ANGST, ORIGIN_30):
        if set(pair) & set(block.labels):
            block.require(*pair)
            found = block.numbers(*pair)[particles.row]
            if pair == ORIGIN_30:
                apix = np.array([kind.apix for kind in particles.optics])
                found = found * apix[particles.group, None]
            return found
    return None


def image_names(block):
    """Return the stacks that a list names, and of each row the stack's index and section from 0.

    Raises
    ------
    StarError
        For a name that is not one of RELION's, or an image named twice.
    """
    stacks = {}
    stack, section = np.empty((2, block.rows), np.int32)
    names = (name for piece in block.pieces(IMAGE) for name in piece[IMAGE])
    for row, name in enumerate(names):
        index, at, path = name.partition("@")  # the first one, as FileName::decompose
        if not at:
            index, path = "1", name
        number = int(index) if index.isascii() and index.isdecimal() and len(index) < 20 else 0
        if not 0 < number < 1 << 31 or not path:
            raise star.StarError(
                f"{block.path}:{block.line + row}: {IMAGE} is {name!r}, expected 000001@stack.mrcs"
            )
        stack[row] = stacks.setdefault(path, len(stacks))
        section[row] = number - 1
    _check_twice(block, list(stacks), stack, section)
    return list(stacks), stack, section


def _check_twice(block, stacks, stack, section):
    """Raise StarError for images that are named twice."""
    key = _image_keys(stack, section)
    again = np.flatnonzero(pd.Series(key).duplicated())
    if len(again):
        lines = ((np.argmax(key == key[row]) + block.line, row + block.line) for row in again)
        names = (f"{section[row] + 1:06d}@{stacks[stack[row]]}" for row in again)
        both = (f"{n} (lines {a} and {b})" for n, (a, b) in zip(names, lines, strict=True))
        raise star.StarError(
            f"{block.path}: {len(again)} images named a second time: {first(both)}; remove them"
        )


def _image_keys(stack, section):
    """Return one number for each image: int64 (N,), negative where its stack is."""
    return stack.astype(np.int64) << 32 | section


def shared(particles, others) -> np.ndarray:
    """Return which of the particles have an image that others have too: bool (N,)."""
    index = {name: number for number, name in enumerate(others.stacks)}
    stack = np.array([index.get(name, -1) for name in particles.stacks])[particles.stack]
    theirs = _image_keys(others.stack, others.section)
    return pd.Series(_image_keys(stack, particles.section)).isin(theirs).to_numpy()


def rows_of(codes, names) -> dict:
    """Return the rows (ndarray of int, growing) of each name that has any, by their first row.

    ``codes`` are indices into ``names``.
    """
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    found = zip(codes[order[starts]].tolist(), np.split(order, starts[1:]), strict=False)
    return {names[code]: rows for code, rows in sorted(found, key=lambda one: one[1][0])}


def _codes(block, label):
    """Return the distinct cells of a column and the index of each row's, or no and None."""
    if label not in block.labels:
        return [], None
    codes, names = pd.factorize(block.read(label)[label])
    return list(names), codes.astype(np.int32)


def _particle_optics(block, groups):
    """Return the optics groups with box 0 where it is not told, and the index of each row's."""
    if GROUP not in block.labels:
        apix, group = np.unique(_apix_30(block), return_inverse=True)
        return [Optics("", float(value), 0) for value in apix], group.astype(np.int32)
    if groups is None:
        raise star.StarError(f"{block.path}: data_{block.name} has {GROUP}, but no data_optics")
    groups.require(GROUP, IMAGE_APIX)
    known, used = groups.read()[GROUP].tolist(), block.read(GROUP)[GROUP]
    _check_groups(block, known, used)
    rows = groups.read()
    in_use = set(used.unique())
    if DIMENSIONS in groups.labels:
        for name, dimensions in zip(known, rows[DIMENSIONS], strict=True):
            if name in in_use and dimensions != "2":
                raise star.StarError(f"{block.path}: {DIMENSIONS} {dimensions}, expected 2")
    boxes = groups.numbers(IMAGE_SIZE)[:, 0] if IMAGE_SIZE in groups.labels else [0] * len(known)
    optics = [
        Optics(name, float(apix), int(box))
        for name, apix, box in zip(known, groups.numbers(IMAGE_APIX)[:, 0], boxes, strict=True)
    ]
    for kind in optics:
        if kind.apix <= 0 and kind.group in in_use:
            raise star.StarError(f"{block.path}: {IMAGE_APIX} {kind.apix:g} of group {kind.group}")
    return optics, pd.Categorical(used, categories=known).codes.astype(np.int32)


def _check_groups(block, known, used):
    """Raise StarError for a group that the optics table has twice, or lacks where rows name it."""
    again = sorted({group for group in known if known.count(group) > 1})
    if again:
        raise star.StarError(
            f"{block.path}: {GROUP} {first(again)} is in data_optics more than once"
        )
    unknown = sorted(set(used.unique()) - set(known))
    if unknown:
        raise star.StarError(
            f"{block.path}: {GROUP} {first(unknown)} of data_{block.name} is not in data_optics"
        )


def _apix_30(block):
    """Return A a pixel of each row, from the detector's pixel (um) and the magnification."""
    pixel, magnification = block.numbers(DETECTOR_PIXEL, MAGNIFICATION).T
    apix = np.divide(1e4 * pixel, magnification, out=np.zeros(len(pixel)), where=magnification > 0)
    bad = np.flatnonzero(apix <= 0)
    if len(bad):
        raise star.StarError(
            f"{block.path}:{block.line + bad[0]}: {DETECTOR_PIXEL} {pixel[bad[0]]:g} and "
            f"{MAGNIFICATION} {magnification[bad[0]]:g} give no pixel size"
        )
    return apix


def _check_stacks(project, particles):
    """Return the optics with boxes as the stacks have them; raise ApbcError for what is wrong."""
    faults, boxes = [], {}
    count = np.zeros(len(particles.stacks), np.int64)
    np.maximum.at(count, particles.stack, particles.section + 1)
    pairs = np.unique(particles.stack.astype(np.int64) << 32 | particles.group)
    for stack, group in zip((pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist(), strict=True):
        name, needed = particles.stacks[stack], count[stack]
        try:
            size = mrc.size(project / name)
        except (ApbcError, OSError) as err:
            faults.append(f"{name}: {err.strerror}" if isinstance(err, OSError) else str(err))
            continue
        box = particles.optics[group].box or boxes.setdefault(group, size.nx)
        if size.nz < needed:
            faults.append(f"{name}: {size.nz} images, but number {needed} is named")
        elif (size.nx, size.ny) != (box, box):
            faults.append(f"{name}: images of {size.nx} x {size.ny}, expected {box} x {box}")
        elif size.nx % 2:
            faults.append(f"{name}: images of {size.nx} px, expected an even box")
    if faults:
        raise ApbcError(
            f"{particles.block.path}: {len(faults)} of {len(count)} stacks can't be used: "
            f"{first(faults)}"
        )
    used = set(particles.group.tolist())
    return [
        replace(kind, box=kind.box or boxes[i]) if i in used else kind
        for i, kind in enumerate(particles.optics)
    ]


def first(items: Iterable[str], most=3):
    """Join the first few of many faults for one line.

    >>> first(["a", "b", "c", "d"])
    'a; b; c; ...'
    """
    items = list(itertools.islice(items, most + 1))
    return "; ".join(items[:most]) + ("; ..." if len(items) > most else "")


def names_particles(path) -> bool:
    """Say whether a list is one of particles; if not, it should be one of micrographs."""
    return any(IMAGE in block.labels for block in star.scan(path).values())


def read_micrographs(path) -> Micrographs:
    """Read a micrograph list of RELION 3.0 to 5.0, with each one's own pixel size.

    rlnMicrographOriginalPixelSize is the detector's and is never taken for the micrograph's.

    Raises
    ------
    StarError
        For what `star.scan` refuses, no micrograph table, an unknown optics group, no micrograph.
    ApbcError
        If one is named twice, lies above the project (``..``), or two have one name below their
        job folders.
    """
    block, groups = _table_and_optics(path, MICROGRAPH, "micrograph")
    if {X, IMAGE} & set(block.labels):
        raise star.StarError(f"{path}: a list of particles, expected one of micrographs")
    names = block.read(MICROGRAPH)[MICROGRAPH].tolist()
    if not names:
        raise star.StarError(f"{path}: data_{block.name} has no micrographs")
    rests = {}
    for row, name in enumerate(names):
        if ".." in Path(name).parts:
            raise ApbcError(f"{path}:{block.line + row}: {name} lies above the project; link it in")
        if rest(name) == SUFFIX:
            raise ApbcError(
                f"{path}:{block.line + row}: the picks of {name} would be the file by which RELION "
                "finds all picks; rename it"
            )
        other = rests.setdefault(os.path.normpath(rest(name)), row)
        if other != row:
            raise ApbcError(
                f"{path}:{block.line + row}: {names[other]} and {name} would share one file of "
                "picks; keep one"
            )
    apix = _micrograph_apix(block, groups, len(names))
    defocus = block.numbers(DEFOCUS)[:, 0].tolist() if DEFOCUS in block.labels else None
    return Micrographs(Path(path), names, apix, defocus)


def _micrograph_apix(block, groups, count):
    if GROUP in block.labels and groups is not None:
        if MICROGRAPH_APIX not in groups.labels:
            return [None] * count
        groups.require(GROUP)
        known, used = groups.read(GROUP)[GROUP].tolist(), block.read(GROUP)[GROUP]
        _check_groups(block, known, used)
        apix = dict(zip(known, groups.numbers(MICROGRAPH_APIX)[:, 0].tolist(), strict=True))
        return [apix[group] if apix[group] > 0 else None for group in used]
    if {DETECTOR_PIXEL, MAGNIFICATION} <= set(block.labels):
        return _apix_30(block).tolist()
    return [None] * count


def rest(name) -> str:
    """Return RELION's ``<rest>``: the path after ``jobNNN/``, else all of it, less its extension.

    As decomposePipelineFileName of RELION 3.0 to 5.0 does. RELION puts it behind a folder's name as
    text, so that the slash at the start of an absolute path counts for nothing: it goes too.

    >>> rest("MotionCorr/job002/Movies/a.b.mrc")
    'Movies/a.b'
    """
    match = JOB.search(name)
    return os.path.splitext(name[match.end() :] if match else name)[0].lstrip("/")


def coordinate_table(xy, scores=None) -> pd.DataFrame:
    """Return picks as RELION's own pickers write them (class 0, psi 0), every cell text.

    Parameters
    ----------
    xy : ndarray, shape (N, 2)
        Centres in pixels of the micrograph.
    scores : sequence of float, length N, optional
        With four decimals; without them the column is -999, RELION's "unset".
    """
    xy = np.asarray(xy).reshape(-1, 2)
    columns = [[f"{value:.2f}" for value in column] for column in xy.T]
    columns += ["0"] * len(xy), ["0.0"] * len(xy)
    columns.append(["-999.0"] * len(xy) if scores is None else [f"{s:.4f}" for s in scores])
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)), dtype=object)


def write_coordinates(path, xy, scores=None):
    """Write one micrograph's picks, whole or not at all, as `coordinate_table` has them."""
    star.write(path, {"": coordinate_table(xy, scores)})


def gather_coordinates(target, parts):
    """Write one list of the picks of many micrographs, one micrograph in memory at a time.

    Parameters
    ----------
    target : path-like
        Written whole or not at all.
    parts : iterable of (str, path-like)
        A micrograph's name and its coordinate file.

    Returns
    -------
    dict of str to int
        How many picks each micrograph has.
    """
    tables = ((name, table(path, X, "coordinate").read(*COLUMNS)) for name, path in parts)
    return gather_tables(target, tables)


def gather_tables(target, tables):
    """Write as `gather_coordinates`, of tables such as `coordinate_table`'s."""
    counts = {}

    def rows():
        for name, cells in tables:
            counts[name] = len(cells)
            for row in zip(*(cells[label] for label in COLUMNS), strict=True):
                yield name, *row

    star.write_rows(target, "particles", [MICROGRAPH, *COLUMNS], rows())
    return counts


def read_coordinates(path, *micrograph):
    """Read picks: of a coordinate file, or a particle list's of one micrograph.

    ``micrograph`` are the spellings of its name that will do: in the project, absolute.

    Returns
    -------
    xy : ndarray of float64, shape (N, 2)
        In pixels of the micrograph.
    scores : ndarray of float64, shape (N,), or None
        rlnAutopickFigureOfMerit where there is one.

    Raises
    ------
    NoPicks
        If a list that names micrographs does not name this one.
    """
    xy, scores, rows = read_all_coordinates(path)
    if micrograph and rows is not None:
        found = [rows[name] for name in micrograph if name in rows]
        if not found:
            raise no_picks(path, micrograph[0], rows)
        of_this = np.sort(np.concatenate(found))
        xy, scores = xy[of_this], scores[of_this] if scores is not None else None
    return xy, scores


def no_picks(path, micrograph, known) -> NoPicks:
    """Return the error for a list that has picks of others, ``known``, but not of this one."""
    return NoPicks(
        f"{path}: no picks of {micrograph} among {len(known)} micrographs ({first(known)})"
    )


def read_all_coordinates(path):
    """Read all picks of a coordinate file, or of a list of picks or particles.

    Returns
    -------
    xy, scores
        As `read_coordinates`.
    rows : dict of str to ndarray of int, or None
        Those of each micrograph, as `rows_of`; None where it names none.
    """
    block = table(path, X, "coordinate")
    xy = block.numbers(X, Y)
    scores = block.numbers(SCORE)[:, 0] if SCORE in block.labels else None
    names, codes = _codes(block, MICROGRAPH)
    if codes is None:
        return xy, scores, None
    return xy, scores, rows_of(codes, names)


def extract_micrographs(project, stack):
    """Find the micrograph list that an Extract job was given: its path, or None.

    Read from the job's ``job.star`` (star_mics; 3.1 and later), else from the command in its
    ``note.txt``.
    """
    options, command = _extract_job(project, stack)
    name = options.get("star_mics") or _option(command, "--i")
    path = Path(project) / name if name else None
    return path if path and os.path.isfile(path) else None


def extract_norm(project, stack, scale) -> dict:
    """Find how an Extract job normalised: from the command in its note.txt, else its job.star.

    Parameters
    ----------
    project : path-like
    stack : str
        A stack of the job.
    scale : int
        Edge of its particles in pixels.

    Returns
    -------
    dict
        ``norm`` (bool); ``bg_radius`` (int), in pixels of the particles; ``known`` (bool): if not,
        these are the defaults of RELION's GUI.
    """
    options, command = _extract_job(project, stack)
    norm = "--norm" in command if command else options.get("do_norm", "Yes") == "Yes"
    found = {"norm": norm, "bg_radius": int(0.75 * scale / 2)}
    with contextlib.suppress(ValueError, KeyError, ArithmeticError):
        if command and norm:
            found["bg_radius"] = int(float(_option(command, "--bg_radius")))
        elif not command and float(options["bg_diameter"]) >= 0:
            ratio = scale / float(options["extract_size"])
            found["bg_radius"] = int(float(options["bg_diameter"]) / 2 * ratio)
    return {**found, "known": bool(command) or "do_norm" in options}


def _extract_job(project, stack):
    """Return a job's options by name, and the words of its last command; nothing where unknown."""
    options, command = {}, []
    if match := JOB.search(stack):
        job = Path(project) / stack[: match.end()]
        with contextlib.suppress(ApbcError, OSError):
            rows = table(job / "job.star", "rlnJobOptionVariable", "job option").read()
            options = dict(
                zip(rows["rlnJobOptionVariable"], rows["rlnJobOptionValue"], strict=True)
            )
        with contextlib.suppress(OSError):
            text = (job / "note.txt").read_text(errors="replace")
            commands = re.findall(r"relion_preprocess\S*\s(.*--i\s+\S.*)", text)
            command = commands[-1].split() if commands else []
    return options, command


def _option(command, name):
    """Return the word behind an option of a command, or ''."""
    return dict(zip(command, command[1:], strict=False)).get(name, "")


def copy_particles(particles, target, keep, columns):
    """Write some rows of a particle list, unchanged but for some columns.

    ``keep`` is bool (N,); ``columns`` are the cells of all N rows, as text, by label; see
    `star.copy`.
    """
    star.copy(particles.block, target, keep, columns)


def write_coordinate_lists(project, micrographs_star, targets, list_file, suffix_file):
    """Write what makes coordinate files a node for RELION: the list of 4 and 5, the suffix of 3.1.

    Parameters
    ----------
    project : path-like
        Paths in the files are relative to it.
    micrographs_star : path-like
    targets : dict of str to path-like
        The coordinate file of each micrograph.
    list_file, suffix_file : pathlib.Path
        ``autopick.star`` and ``coords_suffix_autopick.star``, or of another name.
    """
    columns = {
        MICROGRAPH: list(targets),
        FILES: [os.path.relpath(path, project) for path in targets.values()],
    }
    star.write(list_file, {"coordinate_files": pd.DataFrame(columns, dtype=object)})
    files.write_text(suffix_file, os.path.relpath(micrographs_star, project) + "\n")


def coordinate_files(project, path) -> dict[str, Path] | None:
    """Return the coordinate file of each micrograph by a node of RELION's; None if it is none.

    Parameters
    ----------
    project : path-like
    path : path-like
        A list as RELION 4 and 5 write, ``autopick.star``; or the one line of 3.1,
        ``coords_suffix_autopick.star``, beside which the files lie.

    Raises
    ------
    ApbcError
        If the one line names no list of micrographs.
    """
    path = Path(path)
    if path.name.startswith(SUFFIX):
        listed = Path(project) / path.read_text(errors="surrogateescape").strip()
        if not listed.is_file():
            raise ApbcError(
                f"{path}: names {listed} as the list of micrographs, which is not there"
            )
        end = path.stem.removeprefix(SUFFIX)
        found = {n: path.parent / f"{rest(n)}{end}.star" for n in read_micrographs(listed).names}
        return {name: file for name, file in found.items() if file.is_file()}
    if not any(FILES in block.labels for block in star.scan(path).values()):
        return None
    rows = table(path, FILES, "coordinate file").read(MICROGRAPH, FILES)
    return {n: Path(project) / f for n, f in zip(rows[MICROGRAPH], rows[FILES], strict=True)}
