"""Training particles whose label the networks of the other micrographs contradict."""

from __future__ import annotations

import numpy as np

from . import ApbcError, files, relion, star
from .classbin import KINDS
from .labels import LIKELY
from .samples import KIND, ROW

WRONG = "apbcWrong"  # the column of the chance that a label is wrong
FEWEST = 20  # particles of a class that something is said of
NOTED = 0.1  # share of a class that looks wrong


def check(project, dataset):
    """Check, before anything is learnt, that `report` can read the lists.

    Raises
    ------
    ApbcError
        If a list is not what it was when the data set was made, or its stacks can't be used.
    """
    for kind in KINDS:
        path = project / dataset[kind]
        if not path.exists() or files.digest(path) != dataset["sha256"][kind]:
            raise ApbcError(f"{path}: moved or changed since gen_data.py read it; run that again")
        relion.read_particles(project, path)


def report(project, classbin, dataset, samples, rows, wrong) -> list[str]:
    """Write the suspects, the rescued particles, and say how many labels are wrong.

    Parameters
    ----------
    project : pathlib.Path
    classbin : classbin.ClassBin
        Where to write.
    dataset : dict
        Record of the data set; its lists are read again (`check` them before).
    samples : samples.Samples
    rows : ndarray of int
        The listed particles that were asked about.
    wrong : ndarray of float64
        Chance of each that its label is wrong.

    Returns
    -------
    list of str
        Lines for people.
    """
    shares, said, found = {}, [], []
    for kind in reversed(KINDS):
        mine = samples.kind[rows] == kind
        particles = relion.read_particles(project, project / dataset[kind])
        chance = np.zeros(len(particles))
        chance[samples.row[rows[mine]]] = wrong[mine]
        asked = np.zeros(len(particles), bool)
        asked[samples.row[rows[mine]]] = True
        shares[kind] = round(float(wrong[mine].mean()), 4) if mine.any() else 0.0
        said += _by_class(particles, kind, chance, asked)
        found += [(chance[row], kind, row, particles) for row in np.flatnonzero(chance >= LIKELY)]
        if kind == "bad":
            relion.copy_particles(particles, classbin.particles("rescued"), chance >= LIKELY, {})
            rescued = int((chance >= LIKELY).sum())
    found.sort(key=lambda one: (-one[0], one[1:3]))
    _write(classbin.suspects, found)
    both = ", ".join(f"{shares[kind]:.1%} of the {kind}" for kind in reversed(KINDS))
    said.insert(0, f"wrong labels, as it seems: {both}; {len(found)} suspects, {rescued} rescued")
    return said


def _by_class(particles, kind, chance, asked):
    """Return a line for each class of a list that looks wrong to a good part, the worst first."""
    if relion.CLASS not in particles.block.labels:
        return []
    classes = particles.block.numbers(relion.CLASS)[:, 0].astype(int)
    look = {"good": "bad", "bad": "good"}[kind]
    lines = []
    for number in np.unique(classes[asked]):
        here = asked & (classes == number)
        share = chance[here].mean()
        if here.sum() >= FEWEST and share >= NOTED:
            lines.append((share, f"class {number} of the {kind}: {share:.0%} look {look}"))
    return [line for _, line in sorted(lines, reverse=True)]


def _write(path, found):
    """Write the suspects, the surest first: which particle, its label, and the chance."""
    has = [
        label
        for label in (relion.IMAGE, relion.MICROGRAPH, relion.X, relion.Y, relion.CLASS)
        if all(label in particles.block.labels for _, _, _, particles in found)
    ]
    tables = {id(one[3]): one[3].block.read(*has).to_numpy() for one in found}

    def cells(one):
        chance, kind, row, particles = one
        return [*tables[id(particles)][row], kind, str(row + 1), f"{chance:.4f}"]

    star.write_rows(path, "suspects", [*has, KIND, ROW, WRONG], map(cells, found))
