"""Where training windows come from: RELION's stacks, or the micrographs themselves.

Both kinds of source list their windows, cut those of one file, and describe themselves for
dataset.json. The script that writes them need not know which it has.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import ApbcError, images, mrc, peaks, relion
from .classbin import KINDS

TEST_SHARE = 0.2  # of the particles; of micrographs, of their good ones
VALIDATION_SHARE = 0.2  # of what is not for testing
CHUNK = 1 << 24  # pixels conditioned at a time
AVERAGED = 500  # good particles, about, in the average that is measured
REACH = 0.2  # of the box, that a good particle may move
DRAWN = 30  # averages of other particles, to say how sure their middle is
SURE = 3  # deviations that it must be off, to be believed
OFFCENTRE = (0.2, 0.5)  # of the box: how far from a good particle's centre
PER_GOOD = {"offcentre": 1, "empty": 1}  # derived windows a good particle
PER_BAD = 1  # windows beside a bad particle: shifted, it is as bad
BESIDE = (0.02, 0.25)  # of the box: how far from a bad particle's
FAR = 0.5  # of the box: how far empty places are from any listed particle
TRIES = 20  # places drawn for each that is wanted


@dataclass(frozen=True)
class Geometry:
    """Windows of ``size`` px that cover ``window`` A of boxes of ``box`` A."""

    size: int
    window: float
    box: float

    @property
    def apix(self):
        """A a pixel of the windows."""
        return self.window / self.size

    @property
    def box_px(self):
        """Edge of the whole box in pixels of the windows: even, as RELION's scaling has it."""
        return images.even(self.box / self.apix)


class Window(NamedTuple):
    """A window to be written: ``where`` is a section of a stack, or x, y of a micrograph."""

    source: str  # stack or micrograph
    where: int | tuple[float, float]
    stem: str
    number: int
    part: str
    kind: str
    micrograph: str  # the stack, where the list names none
    row: int = -1  # in the list of its kind; of a correction and of the derived -1
    derived: str = ""

    @property
    def corrected(self):
        """Whether it is a correction."""
        return self.row < 0 and not self.derived


class Packed:
    """Windows of one file, in a third of the memory that a list of them takes."""

    def __init__(self, found):
        columns = zip(*found, strict=True)
        self._columns = [np.array(c, object if isinstance(c[0], str) else None) for c in columns]

    def __len__(self):  # noqa: D105
        return len(self._columns[0])

    def __iter__(self) -> Iterator[Window]:  # noqa: D105
        source, where, *rest = (column.tolist() for column in self._columns)
        where = map(tuple, where) if isinstance(where[0], list) else where
        return map(Window, source, where, *rest)


def from_stack(stack, sections, geometry) -> np.ndarray:
    """Return the windows (N, size, size) uint8 of sections of an open stack.

    Raises
    ------
    ApbcError
        If an image is constant or not finite.
    """
    boxes = stack.read(sections)
    for section, fault in zip(sections, images.faults(boxes), strict=True):
        if fault:
            raise ApbcError(
                f"{section + 1:06d}@{stack.path}: the image is {fault}; take it out of the list"
            )
    return images.condition(boxes, geometry.box_px, geometry.size)


def cut_stack(path, sections, geometry) -> Iterator[np.ndarray]:
    """Yield the windows (size, size) uint8 of sections of a stack; raise as `from_stack`."""
    stack = mrc.Stack(path)
    step = max(1, CHUNK // stack.size.nx**2)
    for start in range(0, len(sections), step):
        yield from from_stack(stack, sections[start : start + step], geometry)
    stack.close()


def cut_micrograph(path, apix, places, geometry) -> np.ndarray:
    """Return the windows at places of a micrograph, as picking sees them.

    Parameters
    ----------
    path : path-like
    apix : float
        A a pixel of the micrograph.
    places : array-like, shape (N, 2)
        Centres in its pixels.
    geometry : Geometry

    Returns
    -------
    ndarray of uint8, shape (N, size, size)

    Raises
    ------
    ApbcError
        As `mrc.image`.
    """
    grey, scale = images.condition_micrograph(mrc.image(path), apix, geometry.apix, geometry.box)
    return images.windows(grey, np.reshape(places, (-1, 2)) / scale, geometry.size)


class Stacks:
    """The particle images as RELION extracted them."""

    coarsest = 0.0  # A a pixel that windows must have at least: stacks may be enlarged

    def __init__(self, project, lists, geometry, seed):
        self.project, self.lists, self.geometry, self.seed = Path(project), lists, geometry, seed

    def narrow(self, angst):
        """Let the windows cover about so much: the box gets a whole number of pixels."""
        size, box = self.geometry.size, self.geometry.box
        self.geometry = Geometry(size, size * box / Geometry(size, angst, box).box_px, box)

    def windows(self) -> Iterator[Window]:
        """Yield every window, stack by stack, good and bad each split at random."""
        flat = flat_names({name for particles in self.lists.values() for name in particles.stacks})
        parts, rows = {}, {}
        for label, kind in enumerate(KINDS):
            particles = self.lists[kind]
            parts[kind] = split(len(particles), [self.seed, label])
            rows[kind] = relion.rows_of(particles.stack, particles.stacks)
        for name in dict.fromkeys(itertools.chain(*rows.values())):
            for kind in KINDS:
                if (here := rows[kind].get(name)) is not None:
                    yield from self._listed(kind, here, parts[kind][here], name, flat[name])

    def _listed(self, kind, rows, parts, name, stem):
        """Yield the windows of some rows of a list, all of one stack."""
        particles = self.lists[kind]
        known, micrograph = particles.micrographs, particles.micrograph
        if micrograph is None:
            known, micrograph = particles.stacks, particles.stack
        arrays = particles.row, particles.section, micrograph
        columns = parts.tolist(), *(array[rows].tolist() for array in arrays)
        for part, row, section, index in zip(*columns, strict=True):
            yield Window(name, section, stem, section + 1, part, kind, known[index], row)

    def cut(self, name, sections) -> Iterator[np.ndarray]:
        """Yield the windows (size, size) uint8 of sections of one stack; raise as `from_stack`."""
        return cut_stack(self.project / name, sections, self.geometry)

    def average(self) -> np.ndarray:
        """Return the mean of good windows, (size, size)."""
        good, rows = self.lists["good"], {}
        for row in np.linspace(0, len(good) - 1, min(len(good), AVERAGED)).astype(int).tolist():
            rows.setdefault(good.stacks[good.stack[row]], []).append(int(good.section[row]))
        cut = [w for name, sections in rows.items() for w in self.cut(name, sections)]
        return np.mean(cut, axis=0)

    def record(self) -> dict:
        """Return what dataset.json says of the source."""
        return {"source": "stack", "split": "random by class"}


def split(count, seed):
    """Say of each particle whether it is for training or testing.

    Returns an array of 'train' and 'test', shape (count,); a fifth, rounded, is for testing.
    """
    parts = np.full(count, "train", object)  # the rows share two strings
    test = np.random.default_rng(seed).permutation(count)[: round(TEST_SHARE * count)]
    parts[test] = "test"
    return parts


class Micrographs:
    """The conditioned micrographs, as picking sees them, and negatives that no list holds.

    Parameters
    ----------
    project : path-like
    lists : dict of str to relion.Particles
        By kind; good particles are moved by the origins of a 2D classification.
    geometry : Geometry
    seed : int
    listed : relion.Micrographs

    Raises
    ------
    ApbcError
        If the lists name no micrographs, or some that have no pixel size or can't be read; if fewer
        than three hold good particles.
    """

    def __init__(self, project, lists, geometry, seed, listed):
        self.project, self.lists, self.geometry, self.seed = Path(project), lists, geometry, seed
        for particles in lists.values():
            if particles.xy is None or particles.micrograph is None:
                raise ApbcError(
                    f"{particles.block.path}: no columns {relion.MICROGRAPH}, {relion.X} and "
                    f"{relion.Y}; cutting from micrographs needs them"
                )
        self.listed, self.apix = listed, listed.apix_by_name()
        self.names = sorted(
            {part.micrographs[i] for part in lists.values() for i in np.unique(part.micrograph)}
        )
        self.sizes = self._read_sizes(self.names, "particles")
        self.coarsest = max(self.apix[name] for name in self.names)
        self.corrected = set()  # micrographs that no list names
        shifts = {"good": relion.origins(lists["good"])}
        self.centred = shifts["good"] is not None
        self._place(shifts)
        self.off, self.moved = np.zeros(2), False
        self.parts = self._split()

    def _read_sizes(self, names, what):
        sizes, faults = {}, []
        for name in names:
            if not self.apix.get(name):
                faults.append(f"{name} has no pixel size ({relion.MICROGRAPH_APIX})")
            else:
                try:
                    sizes[name] = mrc.size(self.project / name)
                except (ApbcError, OSError) as err:
                    faults.append(str(err) if isinstance(err, ApbcError) else f"{name}: not there")
        if faults:
            raise ApbcError(
                f"{self.listed.path}: {len(faults)} of {len(names)} micrographs of the {what} "
                f"can't be used: {relion.first(faults)}"
            )
        return sizes

    def _place(self, shifts):
        """Note where the particles of each kind are; count and leave out what lies outside."""
        self.outside = 0
        self.places = {name: {} for name in self.names}  # kind -> (rows, xy)
        for kind, particles in self.lists.items():
            xy = particles.xy
            if shifts.get(kind) is not None:
                apix = [self.apix.get(name, np.nan) for name in particles.micrographs]
                xy = particles.moved(-shifts[kind], apix)
            of_each = relion.rows_of(particles.micrograph, particles.micrographs)
            for name, rows in of_each.items():
                inside = self._within(name, xy[rows])
                self.outside += int((~inside).sum())
                self.places[name][kind] = rows[inside], xy[rows[inside]]

    def centre(self):
        """Move all good particles to the middle of their average, where that is clearly elsewhere.

        What people or 2D classes have shared in error, no network can see that learns from it.
        Sets ``off``, x and y of that middle, and ``spread``, how far those of averages of other
        particles scatter, in A; and ``moved``.
        """
        good = self._good()
        rng, count = np.random.default_rng(self.seed), len(good)
        averages = [good, *(good[rng.integers(0, count, count)] for _ in range(DRAWN))]
        reach = REACH * self.geometry.size
        found = [images.middle(some.mean(axis=0), reach) for some in averages]
        found = np.array(found) * self.geometry.apix
        self.off, self.spread = found[0], float(np.hypot(*found[1:].std(axis=0)))
        self.moved = bool(np.hypot(*self.off) > SURE * self.spread)
        if self.moved:
            shift = relion.origins(self.lists["good"]) if self.centred else 0
            self._place({"good": shift - self.off})

    def correct(self, corrections, angst):
        """Let corrections rule: listed particles within so many A of one are left out.

        Micrographs that no list names are learnt from.

        Parameters
        ----------
        corrections : dict of str to corrections.Corrected
        angst : float

        Returns
        -------
        outside, ruled : int
            How many lie outside their micrographs, and how many particles were left out.
        """
        fresh = sorted(corrections.keys() - set(self.names))
        self.sizes |= self._read_sizes(fresh, "corrections")
        self.coarsest = max([self.coarsest, *map(self.apix.get, fresh)])
        self.names, self.corrected = [*self.names, *fresh], set(fresh)
        self.places |= {name: {} for name in fresh}
        self.parts |= dict.fromkeys(fresh, "train")
        outside = ruled = 0
        for name, (xy, good) in corrections.items():
            inside = self._within(name, xy)
            outside += int((~inside).sum())
            for label, kind in enumerate(KINDS):
                rows, known = self.places[name].get(kind, (np.empty(0, int), np.empty((0, 2))))
                left = peaks.nearest(known, xy[inside]) > angst / self.apix[name]
                ruled += int((~left).sum())
                here = xy[inside & (good == label)]
                rows = np.concatenate([rows[left], np.full(len(here), -1)])
                self.places[name][kind] = rows, np.concatenate([known[left], here])
        return outside, ruled

    def _within(self, name, xy):
        size = self.sizes[name]
        return ((xy >= 0) & (xy < (size.nx, size.ny))).all(axis=1)

    def _xy(self, name, *kinds):
        found = [self.places[name][kind][1] for kind in kinds if kind in self.places[name]]
        return np.concatenate([np.empty((0, 2)), *found])

    def _split(self):
        """Return the part of each micrograph: by micrograph, as picking meets new ones."""
        good = {name: len(self._xy(name, "good")) for name in self.names}
        order = [n for n in np.random.default_rng(self.seed).permutation(self.names) if good[n]]
        if len(order) < 3:
            raise ApbcError(
                f"{self.lists['good'].block.path}: good particles on {len(order)} micrographs, "
                "expected at least 3: one each to learn from, to decide by and to test with"
                + (f"; {self.outside} particles lie outside theirs" if self.outside else "")
            )
        parts = dict.fromkeys(self.names, "train")
        left = sum(good.values())
        for part, share in (("test", TEST_SHARE), ("validation", VALIDATION_SHARE)):
            wanted, taken = share * left, 0
            while not taken or (taken + good[order[0]] / 2 <= wanted and len(order) > 2):
                name = order.pop(0)
                parts[name] = part
                taken += good[name]
            left -= taken
        return parts

    def windows(self) -> Iterator[Window]:
        """Yield every window, micrograph by micrograph: the listed ones, then those derived."""
        flat = flat_names(self.names)
        for number, name in enumerate(self.names):
            part = "test" if self.parts[name] == "test" else "train"
            for kind, (rows, xy) in self.places[name].items():
                rows = np.where(rows < 0, rows, self.lists[kind].row[rows])
                for i, (row, place) in enumerate(zip(rows.tolist(), xy.tolist(), strict=True), 1):
                    at = tuple(place)
                    yield Window(name, at, flat[name], row + 1 or i, part, kind, name, row)
            rng = np.random.default_rng([self.seed, number])
            drawn = {
                "offcentre": self._beside(rng, name, "good", PER_GOOD["offcentre"], *OFFCENTRE),
                "beside": self._beside(rng, name, "bad", PER_BAD, *BESIDE),
                "empty": self._empty(rng, name),
            }
            for derived, places in drawn.items():
                for i, place in enumerate(places.tolist(), 1):
                    yield Window(
                        name, tuple(place), flat[name], i, part, "bad", name, derived=derived
                    )

    def _beside(self, rng, name, kind, count, near, far):
        """Draw ``count`` places near to far (of the box) from each particle of a kind: (N, 2).

        None is nearer than OFFCENTRE[0] to any good particle; of TRIES places the first that fits
        is taken.
        """
        unit = self.geometry.box / self.apix[name]
        centre = np.repeat(self._xy(name, kind), count * TRIES, axis=0)
        angle, radius = rng.uniform(0, 2 * np.pi, len(centre)), rng.uniform(near, far, len(centre))
        xy = centre + unit * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        away = peaks.nearest(xy, self._xy(name, "good")) >= OFFCENTRE[0] * unit * (1 - 1e-9)
        fits = (self._inside(name, xy) & away).reshape(-1, TRIES)
        first = np.arange(len(fits)) * TRIES + fits.argmax(axis=1)
        return xy[first[fits.any(axis=1)]]

    def _empty(self, rng, name):
        """Draw places far from any listed particle, where a list names the micrograph: (N, 2)."""
        if name in self.corrected:
            return np.empty((0, 2))
        size, listed = self.sizes[name], self._xy(name, *KINDS)
        wanted = PER_GOOD["empty"] * len(self._xy(name, "good"))
        xy = rng.uniform((0, 0), (size.nx - 1, size.ny - 1), (TRIES * wanted, 2))
        far = FAR * self.geometry.box / self.apix[name]
        return xy[peaks.nearest(xy, listed) >= far][:wanted]

    def narrow(self, angst):
        """Let the windows cover so much."""
        self.geometry = Geometry(self.geometry.size, angst, self.geometry.box)

    def _inside(self, name, xy):
        size = self.sizes[name]
        return ((xy >= 0) & (xy <= (size.nx - 1, size.ny - 1))).all(axis=1)

    def cut(self, name, places) -> np.ndarray:
        """Return the windows at places of one micrograph, uint8 (N, size, size)."""
        return cut_micrograph(self.project / name, self.apix[name], places, self.geometry)

    def average(self) -> np.ndarray:
        """Return the mean of good windows, (size, size)."""
        return self._good().mean(axis=0)

    def _good(self) -> np.ndarray:
        """Return good windows of as many micrographs as hold AVERAGED: uint8 (N, size, size)."""
        found, count = [], 0
        for name in self.names:
            if count < AVERAGED and len(good := self._xy(name, "good")):
                found.append(self.cut(name, good))
                count += len(good)
        return np.concatenate(found)

    def record(self) -> dict:
        """Return what dataset.json says of the source."""
        return {
            "source": "micrograph",
            "split": "by micrograph",
            "recentred": self.centred,
            "off_angst": self.off.round(2).tolist(),
            "moved": self.moved,
            "micrographs": {
                name: {"apix": self.apix[name], "part": self.parts[name]} for name in self.names
            },
        }


def flat_names(paths):
    """Return a file stem for each path, no two alike even on a disk without case.

    >>> flat_names({"Extract/job005/a.mrcs"})
    {'Extract/job005/a.mrcs': 'Extract__job005__a'}
    """
    flat, taken = {}, set()
    for name in sorted(paths):
        stem = str(Path(name).with_suffix("")).lstrip("./").replace("/", "__")
        if len(os.fsencode(stem)) > 200:  # of the 255 bytes that a file's name may have
            stem = os.fsencode(stem)[-200:].decode("utf-8", "ignore")
        number, unique = 1, stem
        while unique.lower() in taken:
            number += 1
            unique = f"{stem}.{number}"
        taken.add(unique.lower())
        flat[name] = unique
    return flat
