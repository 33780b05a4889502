"""Picks held against those that there were before: kept, new, dropped."""

from __future__ import annotations

from collections import Counter

import numpy as np

from . import mrc, names, peaks, relion, star

LABELS = "apbcKept", "apbcNew", "apbcDropped"


class Earlier:
    """The picks or particles that RELION had.

    Parameters
    ----------
    project : pathlib.Path
    path : path-like
        A node of coordinate files (``autopick.star``, ``coords_suffix_autopick.star``), or a list
        that names a micrograph in each row: of picks or particles, which lie where their origins
        say if they have been aligned.
    listed : relion.Micrographs
        Those that may be picked.
    allow_missing : bool
        Whether the earlier ones may lie on others too.

    Raises
    ------
    ApbcError
        If they may not, or if they lie on none of these.
    """

    def __init__(self, project, path, listed, allow_missing):
        self.path, self._project = path, project
        self._files = relion.coordinate_files(project, path)
        self._rows, self._xy, self._class = {}, None, None
        if self._files is None:
            self._read_list()
        found = names.match(self._rows if self._files is None else self._files, listed.names)
        names.insist(path, found, listed, allow_missing, "their picks are left out")
        self._name_of = {one: name for name, one in found.items() if one}
        if self._files is None:
            self._centre(project, listed)

    def _read_list(self):
        block = relion.table(self.path, relion.X, "coordinate")
        block.require(relion.MICROGRAPH)
        micrograph = block.read(relion.MICROGRAPH)[relion.MICROGRAPH]
        self._rows = micrograph.groupby(micrograph).indices
        self._xy = block.numbers(relion.X, relion.Y)
        if relion.CLASS in block.labels:
            self._class = block.read(relion.CLASS)[relion.CLASS].to_numpy()
        self._are_particles = relion.IMAGE in block.labels

    def _centre(self, project, listed):
        """Take the origins off the places of particles."""
        if not self._are_particles:
            return
        particles = relion.read_particles(project, self.path)
        origins = relion.origins(particles)
        if origins is not None:
            apix = listed.apix_by_name()
            apix = {name: apix[micrograph] for micrograph, name in self._name_of.items()}
            self._xy = particles.moved(
                -origins, [apix.get(n, np.nan) for n in particles.micrographs]
            )

    def outside(self, micrographs) -> str:
        """Say how many places lie beyond their micrographs' edges: '' if none does."""
        beyond = total = 0
        there = (name for name in micrographs if (self._project / name).is_file())
        for micrograph in there:
            size, (xy, _) = mrc.size(self._project / micrograph), self.of(micrograph)
            beyond += int(((xy < 0) | (xy >= (size.nx, size.ny))).any(axis=1).sum())
            total += len(xy)
        if not beyond:
            return ""
        return (
            f"{self.path}: {beyond} of {total} lie outside their micrographs; were these of "
            "another size?"
        )

    def __contains__(self, micrograph):
        """Say whether there are earlier picks of a micrograph, or a file for them."""
        return micrograph in self._name_of

    def of(self, micrograph):
        """Return the places on a micrograph, (N, 2) in its pixels, and their classes or None."""
        name = self._name_of.get(micrograph)
        if name is None:
            return np.empty((0, 2)), None
        if self._files is not None:
            return relion.read_coordinates(self._files[name])[0], None
        rows = self._rows[name]
        return self._xy[rows], None if self._class is None else self._class[rows]


def compare(earlier, picked, reach, target):
    """Write for each micrograph how many picks were kept, are new, and were dropped.

    Parameters
    ----------
    earlier : Earlier
    picked : dict of str to path-like
        The coordinate file of each micrograph, best first.
    reach : dict of str to float
        How near two picks are one, in pixels of each micrograph; each is one of one only.
    target : path-like

    Returns
    -------
    new : dict of str to ndarray of bool
        Which of the picks are new.
    said : list of str
        Lines for people: in all, and by class where there are classes.
    """
    new, rows, kept_of, all_of = {}, [], Counter(), Counter()
    for name, path in picked.items():
        xy, _ = relion.read_coordinates(path)
        before, classes = earlier.of(name)
        at = peaks.match(xy, before, reach[name])
        new[name] = at < 0
        kept = int((at >= 0).sum())
        rows.append((name, kept, len(xy) - kept, len(before) - kept))
        if classes is not None:
            all_of.update(classes.tolist())
            kept_of.update(classes[at[at >= 0]].tolist())
    star.write_rows(
        target, "compared", [relion.MICROGRAPH, *LABELS], ([n, *map(str, c)] for n, *c in rows)
    )
    total = np.sum([counts for _, *counts in rows] or [(0, 0, 0)], axis=0)
    said = ["{} kept, {} new, {} dropped of those in {}".format(*total, earlier.path)]
    lacking = [len(new[name]) for name in picked if name not in earlier]
    if lacking:
        said.append(
            f"{len(lacking)} of {len(picked)} micrographs are not in it: "
            f"their {sum(lacking)} picks count as new"
        )
    if len(all_of) > 1:
        said += [
            f"class {number}: {kept_of[number]} of {all_of[number]} kept"
            for number in sorted(all_of, key=lambda text: (len(text), text))
        ]
    return new, said


def copy_new(particles, target, new):
    """Write the new ones of a list of the picks' images.

    Parameters
    ----------
    particles : path-like
        As `extraction.Extraction.write_particles` writes it.
    target : path-like
    new : dict of str to ndarray of bool
        Which of each micrograph's picks.

    Returns
    -------
    int
        How many.
    """
    block = relion.table(particles, relion.IMAGE, "particle")
    micrograph = block.read(relion.MICROGRAPH)[relion.MICROGRAPH].tolist()
    section = relion.image_names(block)[2].tolist()
    keep = np.array([new[n][at] for n, at in zip(micrograph, section, strict=True)], bool)
    star.copy(block, target, keep, {})
    return int(keep.sum())
