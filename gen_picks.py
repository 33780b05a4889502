#!/usr/bin/env python3
"""Classify particles with the CNN of gen_model.py: which are true, which are false.

Writes particles_true.star and particles_false.star to ClassBin: the rows of the list as they
are, with the probability of a true particle as rlnAutopickFigureOfMerit.

Example: gen_picks.py -p . -i Extract/job014/particles.star
"""

from __future__ import annotations

import sys
from pathlib import Path

from apbc_common import ApbcError, cli
from apbc_common.classbin import ClassBin, Run, read_model_record

TOLERANCE = 0.01  # by which the box may differ from the model's, in A
OPEN_STACKS = 16  # kept mapped, since lists may be sorted by anything


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_picks.py", __doc__)
    parser.add_argument(
        "-i",
        "--imagestar",
        type=cli.ProjectFile,
        required=True,
        metavar="STAR",
        help="the particles, extracted with the box that the model was trained with",
    )
    parser.add_argument(
        "--model",
        type=cli.ProjectFile,
        metavar="FILE",
        help="the model (default: ClassBin/model.h5)",
    )
    parser.add_argument(
        "--threshold",
        type=cli.probability,
        default=0.5,
        metavar="P",
        help="probability from which a particle is true (default: 0.5)",
    )
    parser.add_argument(
        "--min-distance",
        type=cli.positive,
        metavar="A",
        help="also write particles_unique.star: the best of the true ones less than A apart",
    )
    parser.add_argument(
        "-m",
        "--micrographs",
        type=cli.ProjectFile,
        metavar="STAR",
        help="the micrographs, to check the contrast, and for --min-distance "
        "(default: the Extract job's)",
    )
    parser.add_argument(
        "--batch",
        type=cli.batch,
        default=256,
        metavar="N",
        help="windows scored at a time (default: 256)",
    )
    cli.add_clear(parser, "--clear")
    return parser


def generate(project, star, model_file, threshold, min_distance, micrographs, batch, out, clear):
    """Check, score what has no score yet, and write the lists."""
    from apbc_common import network, relion

    classbin = ClassBin(project, out)
    model_file = model_file or ClassBin(project).model
    record = read_model_record(model_file)
    particles = relion.read_particles(project, star)
    check_box(particles, model_file, record["dataset"])
    check_contrast(project, particles, micrographs, model_file, record["dataset"])
    apart = distances_px(project, particles, micrographs, min_distance)
    model = network.load_model(model_file, record)
    run = Run(
        classbin.record("gen_picks"),
        project,
        {"particles": star, "model": model_file, "micrographs": micrographs},
        {"threshold": threshold, "min_distance": min_distance},
        clear,
    )
    lists = ["true", "false", *(["unique"] if min_distance else [])]
    outputs = [classbin.particles(name) for name in lists]
    if run.finished(outputs):
        print(f"finished before: nothing to do -> {', '.join(map(str, outputs))}")
        return
    with run.writing([*outputs, classbin.scores]):
        scores = score(project, particles, network.Scorer(model, batch), classbin.scores)
        keep = select(particles, scores, threshold, apart)
        values = [f"{value:.4f}" for value in scores.tolist()]
        for name in lists:
            relion.copy_particles(particles, classbin.particles(name), keep[name], values)
        classbin.scores.unlink()
        counts = {name: int(keep[name].sum()) for name in lists}
        run.finish({"particles": len(particles), **counts})
    if apart and counts["unique"] == counts["true"]:
        cli.warn(f"--min-distance {min_distance:g}: no two true windows are nearer than that")
    unique = f", {counts['unique']} unique ({min_distance:g} A apart)" if min_distance else ""
    print(
        f"{len(particles)} particles: {counts['true']} true (from {threshold:g}), "
        f"{counts['false']} false, 0 skipped{unique} -> {classbin.folder}"
    )


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


def check_contrast(project, particles, micrographs_star, model_file, taught):
    """Raise ApbcError if the windows' contrast is known, and is not that of the model's."""
    from apbc_common import contrast

    if taught.get("contrast") is None:
        return
    found = contrast.measure(project, particles, micrographs_star)
    if found.sign not in (None, taught["contrast"]):
        raise ApbcError(
            f"{particles.block.path}: contrast {found}, not as in the windows that {model_file} "
            "was trained with; extract with that contrast"
        )


def distances_px(project, particles, micrographs_star, min_distance):
    """Return the minimum distance in each micrograph's own pixels, or None if none is asked for.

    Raises
    ------
    ApbcError
        If the list has no coordinates, or a micrograph's pixel size is not to be found.
    """
    from apbc_common import relion

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
    apix = relion.read_micrographs(star).apix_by_name()
    unknown = [name for name in particles.micrographs if not apix.get(name)]
    if unknown:
        raise ApbcError(
            f"{star}: no pixel size of {len(unknown)} micrographs: {relion.first(unknown)}"
        )
    return [min_distance / apix[name] for name in particles.micrographs]


def score(project, particles, scorer, journal):
    """Return the probability of each particle, float32 (N,), rounded to the four decimals written.

    Scores are kept in the file ``journal`` as they come, so that a killed run goes on from there.
    """
    import numpy as np

    done = np.fromfile(journal, np.float32) if journal.exists() else np.empty(0, np.float32)
    done = done[: len(done) // scorer.batch * scorer.batch][: len(particles)]
    scores = np.empty(len(particles), np.float32)
    scores[: len(done)] = done
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "wb") as file:
        done.tofile(file)
        at = len(done)
        windows = ahead(read_windows(project, particles, at, scorer))
        for batch in cli.progress(windows, "windows", len(particles) - at, len):
            scores[at : at + len(batch)] = scorer(batch)
            scores[at : at + len(batch)].tofile(file)
            file.flush()
            at += len(batch)
    return np.round(scores, 4)


def read_windows(project, particles, start, scorer):
    """Yield conditioned windows, a batch at a time, in the order of the list."""
    import functools

    import numpy as np

    from apbc_common import images, mrc

    opened = functools.lru_cache(OPEN_STACKS)(mrc.Stack)
    for at in range(start, len(particles), scorer.batch):
        rows = slice(at, at + scorer.batch)
        stacks, sections = particles.stack[rows], particles.section[rows]
        edges = np.flatnonzero(np.diff(stacks, prepend=-1, append=-1))
        batch = []
        for first, last in zip(edges[:-1], edges[1:], strict=True):
            name = particles.stacks[stacks[first]]
            boxes = opened(Path(project) / name).read(sections[first:last])
            for i, fault in enumerate(images.faults(boxes)):
                if fault:
                    raise ApbcError(
                        f"{particles.name(at + first + i)}: the image is {fault}; "
                        f"take it out of {particles.block.path}"
                    )
            batch.append(images.condition(boxes, scorer.size))
        yield np.concatenate(batch)


def ahead(items, depth=3):
    """Yield ``items``, made in a thread of their own up to ``depth`` ahead."""
    from concurrent.futures import ThreadPoolExecutor

    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(next, items, None) for _ in range(depth)]
        while (item := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item


def select(particles, scores, threshold, apart):
    """Return which rows each list keeps: {'true', 'false'[, 'unique']} to bool (N,)."""
    import numpy as np

    true = scores >= np.float32(threshold)
    keep = {"true": true, "false": ~true}
    if apart is not None:
        keep["unique"] = np.zeros(len(particles), bool)
        rows = np.flatnonzero(true)
        rows = rows[np.lexsort((-scores[rows], particles.micrograph[rows]))]
        starts = np.flatnonzero(np.diff(particles.micrograph[rows], prepend=-1))
        for of_one in np.split(rows, starts[1:]) if len(rows) else ():
            kept = best_apart(particles.xy[of_one], apart[particles.micrograph[of_one[0]]])
            keep["unique"][of_one[kept]] = True
    return keep


def best_apart(xy, distance):
    """Return which of the places, best first, to keep so that none is nearer than ``distance``.

    Parameters
    ----------
    xy : ndarray, shape (N, 2)
    distance : float

    Returns
    -------
    ndarray of bool, shape (N,)

    Examples
    --------
    >>> import numpy as np
    >>> best_apart(np.array([[0, 0], [3, 0], [6, 0]]), 4).tolist()
    [True, False, True]
    """
    import numpy as np

    kept = np.ones(len(xy), bool)
    for i in range(len(xy)):
        if kept[i]:
            near = np.hypot(*(xy[i + 1 :] - xy[i]).T) < distance
            kept[i + 1 :] &= ~near
    return kept


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        args.imagestar,
        args.model,
        args.threshold,
        args.min_distance,
        args.micrographs,
        args.batch,
        args.out,
        args.clear,
    )


if __name__ == "__main__":
    sys.exit(main())
