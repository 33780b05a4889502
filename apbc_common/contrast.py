"""Hold extracted windows against their micrographs: contrast, coordinates, box and pixel size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import ApbcError, images, mrc, relion

UNDERSTOOD = 0.5  # least correlation at which a window cut anew is the one in the stack
MICROGRAPHS, EACH = 5, 4  # so many are cut anew


@dataclass(frozen=True)
class Contrast:
    """What was found: 1 as in the micrographs, -1 inverted, None unknown; and how."""

    sign: int | None
    how: str

    def __str__(self):  # noqa: D105
        words = {1: "as in the micrographs", -1: "inverted from the micrographs", None: "unknown"}
        return f"{words[self.sign]} ({self.how})"


def measure(project, particles, micrographs_star=None) -> Contrast:
    """Cut some windows of a particle list from the micrographs and correlate them with its stacks.

    Parameters
    ----------
    project : path-like
    particles : relion.Particles
    micrographs_star : path-like, optional
        The micrographs' list (default: that of the Extract job, if it is to be found).

    Returns
    -------
    Contrast
        Its sign is None where the micrographs can't be read, or nothing fits: then coordinates,
        box or pixel sizes are not what the lists say, or the stacks were changed since.

    Raises
    ------
    ApbcError, OSError
        If a list or micrographs given by name can't be used.
    """
    star = micrographs_star or relion.extract_micrographs(project, particles.stacks[0])
    if star is None or particles.xy is None or particles.micrograph is None:
        return Contrast(None, "no micrographs: give -m MICROGRAPHS.star to have it checked")
    try:
        found = _correlations(Path(project), particles, relion.read_micrographs(star))
    except (ApbcError, OSError) as err:
        if micrographs_star:
            raise
        return Contrast(None, f"not checked: {err}")
    if not found:
        return Contrast(None, f"no micrograph of the particles is in {star}, or readable")
    middle = float(np.median(found))
    how = f"{len(found)} windows cut anew from the micrographs, median correlation {middle:.2f}"
    if abs(middle) < UNDERSTOOD:
        return Contrast(None, f"{how}: coordinates, box or pixel size are not what the lists say")
    return Contrast(1 if middle > 0 else -1, how)


def _correlations(project, particles, listed):
    apix = listed.apix_by_name()
    known = [
        index
        for index, name in enumerate(particles.micrographs)
        if apix.get(name) and (project / name).is_file()
    ]
    found = []
    for index in known[:: max(1, len(known) // MICROGRAPHS)][:MICROGRAPHS]:
        name = particles.micrographs[index]
        picture = mrc.image(project / name)
        for row in np.flatnonzero(particles.micrograph == index)[:EACH]:
            optics = particles.optics[particles.group[row]]
            pixels = optics.box_angst / apix[name]
            if not 2 <= pixels <= 2 * max(picture.shape):
                raise ApbcError(
                    f"{name}: a box of {optics.box_angst:g} A on {picture.shape[1]} x "
                    f"{picture.shape[0]} px of {apix[name]:g} A: a pixel size is wrong"
                )
            box = images.even(pixels)
            anew = images.extract(picture, particles.xy[row], box, optics.box, invert=False)[0]
            stack = mrc.Stack(project / particles.stacks[particles.stack[row]])
            kept = stack.read([particles.section[row]])[0]
            stack.close()
            if not any(images.faults(np.stack([kept, anew]))):
                found.append(np.corrcoef(anew.ravel(), kept.ravel())[0, 1])
    return found
