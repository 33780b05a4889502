"""The grid way of picking: the windows of a particle list, scored one by one."""

from __future__ import annotations

import functools
import os
import pickle
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import (
    ApbcError,
    cli,
    cluster,
    contrast,
    devices,
    files,
    mrc,
    network,
    parallel,
    peaks,
    relion,
)
from .classbin import what_models_need
from .windows import Geometry, from_stack

TOLERANCE = 0.01  # by which the box may differ from the model's, in A
PART = 4096  # windows that a worker gets at a time
OPEN_STACKS = 16  # kept mapped, since lists may be sorted by anything


def check_box(particles, model_file, taught):
    """Raise ApbcError if a kind of image has another box, in A, than the model was trained with."""
    for group in sorted(set(particles.group.tolist())):
        optics = particles.optics[group]
        if abs(optics.box_angst / taught["box_angst"] - 1) > TOLERANCE:
            raise ApbcError(
                f"{particles.block.path}: the box is {optics.box_angst:.1f} A "
                f"({optics.box} px of {optics.apix:.4g} A), {model_file} was trained with "
                f"{taught['box_angst']:.1f} A; extract with that box or train anew"
            )


def differs(project, particles, micrographs_star, taught):
    """Say whether the windows' contrast is not that of the model's; print it then.

    Where it can't be told it is taken for that of the lists which the model was taught with.
    """
    if taught["contrast"] is None:
        return False
    found = contrast.measure(project, particles, micrographs_star)
    sign = found.sign
    if sign is None:
        inverted = taught.get("extraction", {}).get("invert")
        sign = taught["contrast"] if inverted is None else -1 if inverted else 1
        what = "inverted from" if sign == -1 else "as in"
        cli.warn(
            f"contrast {found}; taken as that of the lists the model learnt from, {what} the "
            "micrographs"
        )
    if sign == taught["contrast"]:
        return False
    print(f"contrast {found}; the model's windows have the other one, so these are turned round")
    return True


def distances_px(project, particles, micrographs_star, min_distance):
    """Return the minimum distance in each micrograph's own pixels, or None if none is asked for.

    Raises
    ------
    ApbcError
        If the list has no coordinates, or a micrograph's pixel size is not to be found.
    """
    if min_distance is None:
        return None
    if particles.xy is None or particles.micrograph is None:
        raise ApbcError(
            f"{particles.block.path}: --min-distance needs columns {relion.MICROGRAPH}, "
            f"{relion.X} and {relion.Y}"
        )
    star = micrographs_star or relion.extract_micrographs(project, particles.stacks[0])
    if star is None:
        raise ApbcError(
            f"{particles.block.path}: --min-distance needs the micrographs' pixel size; "
            "give their list with -m"
        )
    apix = relion.read_micrographs(star).apix_of(particles.micrographs)
    return (min_distance / apix).tolist()


class Rows(NamedTuple):
    """Some rows of a particle list: which sections (N,) of which stacks (N,), by name."""

    stacks: list
    stack: np.ndarray
    section: np.ndarray


class Windows(NamedTuple):
    """The windows of a list, as the model was taught with."""

    project: Path
    particles: relion.Particles | Rows
    taught: dict  # the data set of the model's record
    invert: bool

    def read(self, starts, batch):
        """Yield windows (``batch``, size, size) uint8 in the order of the list, from each start on.

        Raises
        ------
        ApbcError
            If an image is constant or not finite.
        """
        particles = self.particles
        taught = (self.taught[name] for name in ("window_px", "window_angst", "box_angst"))
        geometry = Geometry(*taught)
        opened = functools.lru_cache(OPEN_STACKS)(mrc.Stack)
        for at in starts:
            stacks, sections = particles.stack[at : at + batch], particles.section[at : at + batch]
            edges = np.flatnonzero(np.diff(stacks, prepend=-1, append=-1))
            found = []
            for first, last in zip(edges[:-1], edges[1:], strict=True):
                stack = opened(self.project / particles.stacks[stacks[first]])
                found.append(from_stack(stack, sections[first:last], geometry))
            cut = np.concatenate(found)
            yield 255 - cut if self.invert else cut

    def part(self, start):
        """Return PART of them, for a worker."""
        rows = slice(start, start + PART)
        used, stack = np.unique(self.particles.stack[rows], return_inverse=True)
        names = [self.particles.stacks[i] for i in used]
        return start, Rows(names, stack, np.array(self.particles.section[rows]))


class Work(NamedTuple):
    """What a process needs to score windows."""

    model_file: Path
    record: dict
    batch: int

    def scorer(self):
        """Load the model."""
        cluster.settle()
        model = network.uncalibrated(network.load_model(self.model_file, self.record))
        return network.Scorer(model, self.batch)


def score(windows, work, where, journal, record):
    """Score every window; a killed run goes on from the file ``journal``, which has scores so far.

    Parameters
    ----------
    windows : Windows
    work : Work
    where : cluster.Where or None
        Which processes do so; None: this one.
    journal, record : Path
        The latter of the run.

    Returns
    -------
    ndarray of float32, shape (N,)
        Probabilities, rounded to the four decimals written.
    """
    count = len(windows.particles.stack)
    if not journal.exists() or journal.stat().st_size != 4 * count:
        with files.atomic(journal) as part:
            np.full(count, np.nan, np.float32).tofile(part)
    scores = np.fromfile(journal, np.float32)
    way, size = (_elsewhere, PART) if where else (_here, work.batch)
    starts = [at for at in range(0, count, size) if np.isnan(scores[at : at + size]).any()]
    left = int(sum(len(scores[at : at + size]) for at in starts))
    with open(journal, "r+b") as file:
        found = way(windows, work, starts, where, record)
        for at, some in cli.progress(found, "windows", left, lambda one: len(one[1])):
            scores[at : at + len(some)] = some
            file.seek(at * scores.itemsize)
            some.tofile(file)
            file.flush()
    return np.round(scores, 4)


def _here(windows, work, starts, *_):
    """Yield (start, scores) of batches."""
    scorer = work.scorer()
    cli.say(devices.said())
    ready = parallel.ahead(windows.read(starts, work.batch))
    for at, cut in zip(starts, ready, strict=True):
        yield at, scorer(cut)


def _elsewhere(windows, work, starts, where, record):
    """Yield (start, scores) of parts, as they come from workers."""
    absolute = Path(os.path.abspath(windows.project)), Path(os.path.abspath(work.model_file))
    needed = what_models_need(work.record)
    shipped = pickle.dumps((absolute, needed, work.batch, windows.invert))
    job = functools.partial(_score_part, shipped)
    for (at, rows), found in cluster.spread(job, map(windows.part, starts), where, record):
        if isinstance(found, cluster.Killer):
            raise ApbcError(
                f"{windows.particles.block.path}: {cluster.TRIES} processes ended at its rows "
                f"{at + 1} to {at + len(rows.stack)}; what is scored stays"
            )
        yield at, found


_scoring = threading.Lock()


def _score_part(shipped, part):
    """Score a part on a worker, which keeps the model for the next."""
    project, taught, invert, scorer = cluster.kept(_received, shipped)
    windows = Windows(project, part[1], taught, invert)
    starts = range(0, len(part[1].stack), scorer.batch)
    with _scoring:
        return np.concatenate(
            [scorer(cut) for cut in parallel.ahead(windows.read(starts, scorer.batch))]
        )


def _received(sent):
    (project, model_file), record, batch, invert = sent
    return project, record["dataset"], invert, Work(model_file, record, batch).scorer()


def select(particles, scores, threshold, apart):
    """Return which rows each list keeps: {'true', 'false'[, 'unique']} to bool (N,)."""
    true = scores >= np.float32(threshold)
    keep = {"true": true, "false": ~true}
    if apart is not None:
        keep["unique"] = np.zeros(len(particles), bool)
        rows = np.flatnonzero(true)
        rows = rows[np.lexsort((-scores[rows], particles.micrograph[rows]))]
        starts = np.flatnonzero(np.diff(particles.micrograph[rows], prepend=-1))
        for of_one in np.split(rows, starts[1:]) if len(rows) else ():
            kept = peaks.best_apart(particles.xy[of_one], apart[particles.micrograph[of_one[0]]])
            keep["unique"][of_one[kept]] = True
    return keep
