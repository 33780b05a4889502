"""Which micrograph of another list a name means: programs and people move and rename files."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from dataclasses import replace

import numpy as np

from . import ApbcError, cli, relion

NUMBER = re.compile(r"^\d{15,}_")  # that cryoSPARC puts in front on import
SHOWN = 5  # names that mean nothing


def match(wanted, known) -> dict:
    """Return what each name means: the known one of its path, else of its file name, else None.

    A file name counts only where no two of either side share it; then without cryoSPARC's number.

    Examples
    --------
    >>> match(["old/a.mrc", "b.mrc", "c.mrc"], ["new/a.mrc", "new/b.mrc", "other/b.mrc"])
    {'old/a.mrc': 'new/a.mrc', 'b.mrc': None, 'c.mrc': None}
    """
    found = dict.fromkeys(wanted)
    for key in (os.path.normpath, os.path.basename, _bare):
        of_known, of_wanted = (_alone(key, names) for names in (known, found))
        for name, path in of_wanted.items():
            if found[path] is None:
                found[path] = of_known.get(name)
    return found


def _bare(name):
    return NUMBER.sub("", os.path.basename(name))


def _alone(key, names):
    """Return names by what ``key`` makes of them, without those that come to the same."""
    names = set(names)
    count = Counter(map(key, names))
    return {key(name): name for name in names if count[key(name)] == 1}


def insist(path, found, listed, allow_missing, consequence):
    """Warn of names that mean nothing, where that may be.

    Parameters
    ----------
    path : path-like
        The list that has the names.
    found : dict
        Of `match`.
    listed : relion.Micrographs
        Those that the names should mean.
    allow_missing : bool
    consequence : str
        What becomes of them.

    Raises
    ------
    ApbcError
        If that may not be, or if no name means anything.
    """
    lost = [name for name, one in found.items() if one is None]
    if not lost:
        return
    shown = []
    for name in lost[:SHOWN]:
        near = difflib.get_close_matches(name, listed.names, 1, 0)
        shown.append(f"{name}{f' (nearest: {near[0]})' if near else ''}")
    line = (
        f"{path}: {len(lost)} of {len(found)} micrographs are not in {listed.path}: "
        f"{relion.first([*shown, *lost[SHOWN:]], SHOWN)}; "
    )
    if len(lost) == len(found):
        raise ApbcError(f"{line}give the list that has them")
    if not allow_missing:
        raise ApbcError(f"{line}give the list that has them, or --allow-missing")
    cli.warn(line + consequence)


def place(particles, listed, allow_missing):
    """Return particles with the names that a list of micrographs has for theirs.

    Parameters
    ----------
    particles : relion.Particles
        With micrographs.
    listed : relion.Micrographs
    allow_missing : bool or None
        Leave out the particles of micrographs that are not listed; None: let these be.

    Raises
    ------
    ApbcError
        If there are such, and they may not be missing; or if none is listed.
    """
    found = match(particles.micrographs, listed.names)
    renamed = replace(particles, micrographs=[found[n] or n for n in particles.micrographs])
    if allow_missing is None:
        return renamed
    insist(particles.block.path, found, listed, allow_missing, "their particles are left out")
    lost = [index for index, name in enumerate(particles.micrographs) if found[name] is None]
    kept = renamed.some(~np.isin(particles.micrograph, lost))
    left, number = np.unique(kept.micrograph, return_inverse=True)
    left = [renamed.micrographs[index] for index in left]
    return replace(kept, micrographs=left, micrograph=number.astype(np.int32))
