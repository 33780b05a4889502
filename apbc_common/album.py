"""What is to be shown: picks of lists of any kind, by micrograph, and how large they are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import ApbcError, exports, mrc, names, overlay, relion
from .classbin import picked_by, read_model_record, read_picking

EMAN = ".box"
REGION = 3  # diameters over which contrast is made even


class LookError(ApbcError):
    """The options make no picture of any micrograph."""


class Look(NamedTuple):
    """How pictures are to be: binning, diameter in pixels, A; None where not said."""

    binfactor: float | None = None
    box: float | None = None
    lowpass: float | None = None


class PickList:
    """The picks of one list, read once.

    Parameters
    ----------
    project : path-like
    path : path-like
        A coordinate file or an EMAN box file, whose picks are those of any micrograph; a node of
        coordinate files, or a list of picks or particles.
    wanted : list of str
        The micrographs, relative to the project, whose picks will be asked for.
    look : Look
        With a diameter, what would tell it may be missing.

    Attributes
    ----------
    picking : dict or None
        The record of the run of gen_picks.py that wrote the list.
    diameter : float or None
        Of the particle, in A.
    micrographs : path or None
        The list of micrographs that the picks or particles are from.
    known : collection of str or None
        The micrographs that it names.

    Raises
    ------
    ApbcError
        If it can't be used, or the model or the stacks can't that tell the diameter.
    """

    def __init__(self, project, path, wanted, look):
        self.path, self.picking = Path(path), read_picking(path)
        self._picked = picked_by(self.picking) if self.picking else ()
        self.diameter = self.micrographs = self._angst = self._px = None
        self._files = self._rows = self._scores = None
        if self.path.suffix == EMAN:
            self._xy, self._px = exports.read_box(path)
        else:
            self._files = relion.coordinate_files(project, path)
            if self._files is None:
                self._xy, self._scores, self._rows = relion.read_all_coordinates(path)
        self.known = self._rows if self._files is None else self._files
        self._meant = names.match(wanted, self.known or ())
        for name, meant in self._meant.items():
            if not meant and (path := os.path.abspath(Path(project) / name)) in (self.known or ()):
                self._meant[name] = path
        with contextlib.suppress(ApbcError) if look.box else contextlib.nullcontext():
            self._learn_size(Path(project), look.binfactor)

    def _learn_size(self, project, binfactor):
        if self.picking:
            self.micrographs = project / self.picking["growing"]["list"]["path"]
        if self.picking and binfactor is None:
            try:
                taught = read_model_record(project / self.picking["inputs"]["model"]["path"])
            except ApbcError as err:
                raise ApbcError(f"{err}; or give -x BOX") from err
            self.diameter = self._angst = taught["dataset"]["diameter_angst"]
        elif self._rows is not None and relion.names_particles(self.path):
            particles = relion.read_particles(project, self.path)
            optics = particles.optics[particles.group[0]]
            self.micrographs = relion.extract_micrographs(project, particles.stacks[0])
            if binfactor is None:
                self._angst = optics.box_angst
            else:
                self._px = optics.box * binfactor

    def files(self, name) -> list[Path]:
        """Return the files that tell the picks of a micrograph."""
        meant = self._files and self._meant[name]
        return [self.path, self._files[meant]] if meant else [self.path]

    def has_any(self) -> bool:
        """Say whether there are picks, or were to be, of any micrograph wanted."""
        return any(
            meant or relion.rest(name) in self._picked for name, meant in self._meant.items()
        )

    def of(self, name):
        """Return the picks of a micrograph as `relion.read_coordinates`.

        Where the run that wrote the list found none, there are none.

        Raises
        ------
        relion.NoPicks
            If the list names micrographs, but not this one.
        """
        if self.known is None:
            return self._xy, self._scores
        meant = self._meant[name]
        if meant and self._files:
            return relion.read_coordinates(self._files[meant])
        if meant:
            rows = self._rows[meant]
            return self._xy[rows], None if self._scores is None else self._scores[rows]
        if relion.rest(name) in self._picked:
            return np.empty((0, 2)), np.empty(0)
        raise relion.no_picks(self.path, name, self.known)

    @property
    def tells_size(self) -> bool:
        """Say whether `size` returns one."""
        return bool(self._angst or self._px)

    def size(self, image, apix):
        """Return the diameter of a pick in pixels of a micrograph; None if the list tells none.

        That of the particle where gen_picks.py picked, else the box.

        Raises
        ------
        ApbcError
            If it takes the micrograph's A a pixel, and there is none.
        """
        if self._angst and not apix:
            raise ApbcError(f"{image}: its header has no pixel size; give -x BOX")
        return self._angst / apix if self._angst else self._px

    def sort(self, scores, count):
        """Return which of so many picks lie below the threshold, or None, and what to call them."""
        counted = f"{count} picks"
        if not self.picking or scores is None:
            return None, counted
        threshold = self.picking["options"]["threshold"]
        below = scores < threshold
        if below.any():
            counted = f"{count} candidates, {below.sum()} of them below {threshold:g} (dashed)"
        return below, counted


class Page(NamedTuple):
    """What there is to draw on a micrograph, all but its pixels; one of each for each list.

    ``outside`` are the numbers of picks beyond the edges, ``lacking`` the errors of lists that
    should name the micrograph and don't (else None). ``apix`` is its A a pixel, 0 if not to be had;
    ``region`` as `overlay.draw` takes it.
    """

    layers: list[overlay.Circles]
    outside: list[int]
    lacking: list[relion.NoPicks | None]
    apix: float
    region: float


class Album:
    """The pictures of some lists' picks.

    Parameters
    ----------
    project : path-like
    stars : list of path-like
    wanted : list of str
        The micrographs, relative to the project.
    look : Look
    listed : relion.Micrographs, optional
        A list that knows their pixel sizes, before any other.

    Attributes
    ----------
    lists : list of PickList
    shown : list of str
        Their names for people.

    Raises
    ------
    ApbcError
        As `PickList`, and if neither a list nor ``look`` tells how large circles are.
    """

    def __init__(self, project, stars, wanted, look, listed=None):
        self.look = look
        self.lists = [PickList(project, star, wanted, look) for star in stars]
        self.shown = [shown(project, star) for star in stars]
        if not look.box and not any(one.tells_size for one in self.lists):
            raise ApbcError(
                f"{stars[0]}: coordinates, which have no box; give -x BOX, the circles' diameter "
                "in pixels of the micrograph"
            )
        told = dict.fromkeys(one.micrographs for one in self.lists if one.micrographs)
        told = [relion.read_micrographs(path) for path in told if path.is_file()]
        self._apix = {}
        for one in [listed, *told] if listed else told:
            for name, apix in one.apix_by_name().items():
                self._apix[name] = self._apix.get(name) or apix

    def page(self, name, image) -> Page:
        """Gather what there is to draw on a micrograph.

        Raises
        ------
        ApbcError, OSError
            If its header or a file of its picks can't be read, or it takes its pixel size and there
            is none.
        LookError
            If circles or lowpass are too large or small.
        """
        size = mrc.size(image)
        apix = self._apix.get(name) or size.apix
        rows, boxes = [], self._boxes(image, apix, size)
        for one, label, box in zip(self.lists, self.shown, boxes, strict=True):
            try:
                (xy, scores), lacking = one.of(name), None
            except relion.NoPicks as err:
                (xy, scores), lacking = (np.empty((0, 2)), None), err
            below, counted = one.sort(scores, len(xy))
            layer = overlay.Circles(xy, box, label, counted, scores, below)
            beyond = ((xy < 0) | (xy >= (size.nx, size.ny))).any(axis=1)
            rows.append((layer, int(beyond.sum()), lacking))
        diameter = next((one.diameter for one in self.lists if one.diameter), None)
        region = REGION * (diameter if diameter and apix else boxes[0] * (apix or 1))
        self._check_lowpass(image, apix, region)
        return Page(*map(list, zip(*rows, strict=True)), apix, region)

    def _boxes(self, image, apix, size):
        """Return the diameter of each list's circles, in pixels of a micrograph."""
        told = [self.look.box or one.size(image, apix) for one in self.lists]
        boxes = [box or next(filter(None, told)) for box in told]
        for box in boxes:
            if not 1 <= box <= 2 * max(size.nx, size.ny):
                raise LookError(
                    f"circles of {box:g} px on a micrograph of {size.nx} x {size.ny}; give -x BOX, "
                    "in its pixels"
                )
        return boxes

    def _check_lowpass(self, image, apix, region):
        if self.look.lowpass and not apix:
            raise ApbcError(f"{image}: its header has no pixel size, which --lowpass needs")
        if self.look.lowpass and self.look.lowpass >= region:
            raise LookError(
                f"--lowpass {self.look.lowpass:g}: contrast is made even over {region:.0f} A, and "
                "nothing so coarse is left; give less"
            )

    def draw(self, target, name, picture, page):
        """Write the picture of a micrograph, float32 (ny, nx), by `overlay.draw`."""
        title = name if len(page.layers) > 1 else f"{name}   {page.layers[0].label}"
        how = page.region, page.apix, self.look.lowpass, self._remark(page)
        overlay.draw(target, picture, page.layers, title, *how)

    def is_drawn(self, target, name, image, page) -> bool:
        """Say whether a picture is there, so drawn, and no older than what it shows."""
        if not target.is_file():
            return False
        sources = {image, *(path for one in self.lists for path in one.files(name))}
        newest = max(os.stat(path).st_mtime_ns for path in sources)
        return target.stat().st_mtime_ns >= newest and overlay.has_remark(
            target, self._remark(page)
        )

    def _remark(self, page):
        """Say how a page is drawn: a picture with another remark is another one."""
        lists = [f"{layer.label}, circles of {layer.box:.1f} px" for layer in page.layers]
        return "; ".join([*lists, f"lowpass {self.look.lowpass or 0:g} A"])


def shown(project, path) -> str:
    """Return a list's name as its user has given it: relative to the project, or not."""
    path = Path(path)
    return os.fspath(path.relative_to(project) if path.is_relative_to(project) else path)
