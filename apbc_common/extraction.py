"""Cut picks into stacks and list them, as ``relion_preprocess --extract`` of RELION 3.1.3 does."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from . import ApbcError, images, mrc, relion, star

CHUNK = 1 << 23  # pixels cut at a time
CTF = {  # what a particle gets where the list of micrographs has no such column; None: nothing
    "rlnCtfMaxResolution": None,
    "rlnCtfFigureOfMerit": None,
    relion.DEFOCUS: None,
    "rlnDefocusV": relion.DEFOCUS,
    "rlnDefocusAngle": "0.0",
    "rlnCtfBfactor": "0.0",
    "rlnCtfScalefactor": "1.0",
    "rlnPhaseShift": "0.0",
}


@dataclass(frozen=True)
class Extraction:
    """How picks are cut.

    Parameters
    ----------
    box_angst : float
        Edge of the box in A.
    scale : int
        Edge of the particles in pixels, even.
    norm, invert : bool
        Whether to normalise, and to change the sign then.
    bg_radius : int, optional
        In pixels of the particles: the background lies outside (default: that of RELION's GUI).
    """

    box_angst: float
    scale: int
    norm: bool = True
    bg_radius: int | None = None
    invert: bool = True

    def __str__(self):  # noqa: D105
        norm = f"background outside {self.bg_radius} px" if self.norm else "not normalised"
        contrast = "inverted" if self.invert else "not inverted"
        return f"box {self.box_angst:.1f} A in {self.scale} px, {norm}, {contrast}"

    def box(self, apix) -> int:
        """Return the edge of the box in pixels of a micrograph, even."""
        return images.even(self.box_angst / apix)

    def particle_apix(self, apix) -> float:
        """Return A a pixel of the particles from a micrograph of ``apix``."""
        return apix * self.box(apix) / self.scale

    def cut(self, micrograph, apix, xy) -> np.ndarray:
        """Cut particles from a micrograph: float32, shape (N, scale, scale).

        Parameters
        ----------
        micrograph : path-like
        apix : float
            Its A a pixel.
        xy : ndarray, shape (N, 2)
            Centres in its pixels; N is at least 1.

        Raises
        ------
        ApbcError, OSError
            As `mrc.image`.
        """
        picture, box = mrc.image(micrograph), self.box(apix)
        step = max(1, CHUNK // max(box, self.scale) ** 2)
        how = box, self.scale, self.bg_radius, self.norm, self.invert
        parts = [
            images.extract(picture, xy[at : at + step], *how) for at in range(0, len(xy), step)
        ]
        return np.concatenate(parts)

    def write_particles(self, target, project, micrographs_star, stacks):
        """Write the list of all particles, one micrograph in memory at a time.

        Parameters
        ----------
        target : path-like
            Written whole or not at all.
        project : path-like
            Paths in the list are relative to it.
        micrographs_star : path-like
            As `check` takes it.
        stacks : iterable of (str, path-like, path-like)
            A micrograph's name, its coordinate file, and the stack cut by that.
        """
        optics, labels, cells = self._from_micrographs(micrographs_star)
        header = [*relion.COLUMNS, relion.IMAGE, relion.MICROGRAPH, *labels]
        rows = _rows(project, stacks, cells)
        star.write_rows(target, "particles", header, rows, {"optics": optics})

    def _from_micrographs(self, path):
        """Return the optics table of the particles, labels, and by micrograph cells under them."""
        block, groups = _tables(path)
        optics, rows = groups.read(), block.read()
        apix = groups.numbers(relion.MICROGRAPH_APIX)[:, 0].tolist()
        told = {**optics.set_index(relion.GROUP).loc[rows[relion.GROUP]], **rows}
        number = {group: str(i) for i, group in enumerate(optics[relion.GROUP], 1)}  # as RELION
        columns = {relion.GROUP: rows[relion.GROUP].map(number)}
        for label, default in CTF.items() if relion.DEFOCUS in rows else ():
            if found := label if label in told else default:
                columns[label] = told.get(found, [found] * len(rows))
        optics[relion.GROUP] = list(number.values())
        optics = optics.drop(columns=relion.MICROGRAPH_APIX)
        optics[relion.IMAGE_APIX] = [f"{self.particle_apix(size):.6f}" for size in apix]
        optics[relion.IMAGE_SIZE], optics[relion.DIMENSIONS] = str(self.scale), "2"
        cells = zip(*columns.values(), strict=True)
        return optics, list(columns), dict(zip(rows[relion.MICROGRAPH], cells, strict=True))


def _rows(project, stacks, cells):
    for name, picks, stack in stacks:
        found = relion.table(picks, relion.X, "coordinate").read(*relion.COLUMNS)
        where = os.path.relpath(stack, project)
        picked = zip(*(found[label] for label in relion.COLUMNS), strict=True)
        for i, row in enumerate(picked, 1):
            yield *row, f"{i:06d}@{where}", name, *cells[name]


def check(micrographs_star):
    """Raise ApbcError for a list of micrographs that does not give particles their optics."""
    block, groups = _tables(micrographs_star)
    if groups is None:
        raise ApbcError(
            f"{micrographs_star}: a list of RELION 3.0, without data_optics; --extract needs one "
            "of 3.1 or later: convert it (relion_convert_star), or extract the picks with RELION"
        )
    block.require(relion.GROUP)
    apix = groups.numbers(relion.MICROGRAPH_APIX)
    if apix.min() <= 0:
        raise ApbcError(
            f"{micrographs_star}: {relion.MICROGRAPH_APIX} {apix.min():g} in data_optics, expected "
            "more than 0 of every group"
        )


def _tables(path):
    """Return the micrographs' table, and that of their optics or None."""
    return relion.table(path, relion.MICROGRAPH, "micrograph"), star.scan(path).get("optics")
