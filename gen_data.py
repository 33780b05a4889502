#!/usr/bin/env python3
"""Make the training and test windows from good and bad particles.

Reads the particles of two RELION selections of 2D classes, splits each 80/20 at random, and
writes the windows as PNG files to ClassBin/train|test/good|bad, with a record, dataset.json.

Example: gen_data.py -p . -g Select/job011/particles.star -b Select/job012/particles.star
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from apbc_common import ApbcError, cli
from apbc_common.classbin import KINDS, PARTS, ClassBin, Run, write_json

TEST_SHARE = 0.2
FEWEST = 10  # particles of a class
TOLERANCE = 0.01  # by which boxes and pixel sizes in A may differ
CHUNK = 1 << 24  # pixels conditioned at a time


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_data.py", __doc__)
    parser.add_argument(
        "-g",
        "--stargood",
        type=cli.ProjectFile,
        required=True,
        metavar="STAR",
        help="particles of the good classes",
    )
    parser.add_argument(
        "-b",
        "--starbad",
        type=cli.ProjectFile,
        required=True,
        metavar="STAR",
        help="particles of the bad classes",
    )
    parser.add_argument(
        "-m",
        "--micrographs",
        type=cli.ProjectFile,
        metavar="STAR",
        help="the micrographs, to check coordinates and contrast (default: the Extract job's)",
    )
    parser.add_argument(
        "--size",
        type=window_size,
        default=64,
        metavar="PX",
        help="edge of the windows, a multiple of 16 from 48 (default: 64)",
    )
    parser.add_argument(
        "--seed", type=cli.natural, default=0, metavar="N", help="of the split (default: 0)"
    )
    cli.add_clear(parser, "--cleardata")
    return parser


def window_size(text) -> int:
    """Argparse type: a multiple of 16, at least 48."""
    return cli.number(
        text, int, lambda px: 48 <= px <= 512 and px % 16 == 0, "a multiple of 16 from 48 to 512"
    )


def generate(project, starred, micrographs_star, size, seed, out, clear):
    """Check both lists, then write the windows that are missing; ``starred`` is by kind."""
    from apbc_common import files, relion

    classbin = ClassBin(project, out)
    lists = {kind: relion.read_particles(project, path) for kind, path in starred.items()}
    check_lists(lists)
    box = describe(lists)
    parts = {kind: split(len(lists[kind]), [seed, label]) for label, kind in enumerate(KINDS)}
    targets = window_paths(classbin, lists, parts)
    run = Run(
        classbin.record("gen_data"),
        project,
        {"good": starred["good"], "bad": starred["bad"], "micrographs": micrographs_star},
        {"size": size, "seed": seed},
        clear,
    )
    outputs = [path for kind in KINDS for path in targets[kind]]
    counts = {part: {kind: int((parts[kind] == part).sum()) for kind in KINDS} for part in PARTS}
    if run.finished([*outputs, classbin.dataset]):
        print(f"finished before: nothing to do. {summary(classbin, counts)}")
        return
    record = {
        **scale_record(box, size),
        "contrast": check_contrast(project, lists, micrographs_star),
        "source": "stack",
        "sha256": {kind: files.digest(path) for kind, path in starred.items()},
        **{kind: os.path.relpath(path, project) for kind, path in starred.items()},
        "split": "random by class",
        "test_share": TEST_SHARE,
        "seed": seed,
        "counts": counts,
    }
    folders = [classbin.windows(part, kind) for part in PARTS for kind in KINDS]
    with run.writing([*outputs, classbin.dataset], folders):
        write_windows(project, lists, targets, size)
        write_json(classbin.dataset, record)
        run.finish(counts)
    print(summary(classbin, counts))


def scale_record(optics, size):
    """Return what dataset.json says of the windows' scale: all of the box, brought to size px."""
    return {
        "window_px": size,
        "window_angst": optics.box_angst,
        "box_angst": optics.box_angst,
        "apix": optics.box_angst / size,
        "image_px": optics.box,
    }


def check_lists(lists):
    """Raise ApbcError for too few particles of a kind, or particles in both lists."""
    from apbc_common import relion

    for kind, particles in lists.items():
        if len(particles) < FEWEST:
            raise ApbcError(
                f"{particles.block.path}: {len(particles)} {kind} particles, "
                f"expected at least {FEWEST}; select more classes"
            )
    good, bad = lists["good"], lists["bad"]
    names = {good.name(row) for row in range(len(good))}
    both = [name for name in map(bad.name, range(len(bad))) if name in names]
    if both:
        raise ApbcError(
            f"{bad.block.path}: {len(both)} of {len(bad)} particles are in "
            f"{good.block.path} too: {relion.first(both)}; a particle is good or bad"
        )


def describe(lists):
    """Print the kinds of images of both lists; raise ApbcError if they differ.

    Returns the optics of the first good particle.
    """
    used = {
        kind: [particles.optics[group] for group in sorted(set(particles.group.tolist()))]
        for kind, particles in lists.items()
    }
    for kind in reversed(KINDS):
        images = ", ".join(sorted({_image(optics) for optics in used[kind]}))
        groups = len(used[kind])
        print(f"{kind}: {len(lists[kind])} particles, {groups} optics group(s), {images}")
    first = used["good"][0]
    for kind, group in ((name, group) for name in KINDS for group in used[name]):
        if abs(group.box_angst / first.box_angst - 1) > TOLERANCE:
            raise ApbcError(
                f"{lists[kind].block.path}: {_image(group)}; {lists['good'].block.path} has "
                f"{_image(first)}: extract both lists with one box"
            )
    for kind, other in (KINDS, KINDS[::-1]):
        for group in used[kind]:
            if not any(abs(group.apix / twin.apix - 1) <= TOLERANCE for twin in used[other]):
                raise ApbcError(
                    f"{lists[kind].block.path}: {_image(group)}; {lists[other].block.path} has "
                    f"{_image(used[other][0])}: extract both lists with one pixel size"
                )
    return first


def _image(optics):
    return f"box {optics.box_angst:.1f} A ({optics.box} px of {optics.apix:.4g} A)"


def split(count, seed):
    """Say of each particle whether it is for training or testing.

    Returns an array of 'train' and 'test', shape (count,); a fifth, rounded, is for testing.
    """
    import numpy as np

    parts = np.full(count, "train")
    test = np.random.default_rng(seed).permutation(count)[: round(TEST_SHARE * count)]
    parts[test] = "test"
    return parts


def window_paths(classbin, lists, parts):
    """Return the path of each particle's window, as text: lists in row order by kind.

    A name is the stack's path with ``__`` for ``/``, the image's number in it, and the kind.
    """
    flat = flat_names({name for particles in lists.values() for name in particles.stacks})
    targets = {}
    for kind, particles in lists.items():
        folders = {part: f"{classbin.windows(part, kind)}{os.sep}" for part in PARTS}
        stems = [flat[name] for name in particles.stacks]
        targets[kind] = [
            f"{folders[part]}{stems[stack]}_{section + 1:06d}_{kind}.png"
            for part, stack, section in zip(
                parts[kind].tolist(),
                particles.stack.tolist(),
                particles.section.tolist(),
                strict=True,
            )
        ]
    return targets


def flat_names(stacks):
    """Return a file stem for each stack's path, no two alike even on a disk without case.

    >>> flat_names({"Extract/job005/a.mrcs"})
    {'Extract/job005/a.mrcs': 'Extract__job005__a'}
    """
    flat, taken = {}, set()
    for name in sorted(stacks):
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


def write_windows(project, lists, targets, size):
    """Write each window that is not there; each stack is opened once, for both kinds."""
    work = {}  # stack's path -> (section, target) of both kinds
    for kind, particles in lists.items():
        for stack, section, target in zip(
            particles.stack.tolist(), particles.section.tolist(), targets[kind], strict=True
        ):
            work.setdefault(particles.stacks[stack], []).append((section, target))
    for folder in {os.path.dirname(path) for paths in targets.values() for path in paths}:
        os.makedirs(folder, exist_ok=True)
    total = sum(map(len, work.values()))
    for name, windows in cli.progress(work.items(), "windows", total, lambda item: len(item[1])):
        write_stack(Path(project) / name, windows, size)


def write_stack(path, windows, size):
    """Condition and write the windows of one stack: (section, target) each."""
    from apbc_common import files, images, mrc, png

    windows = [window for window in windows if not os.path.exists(window[1])]
    if not windows:
        return
    stack = mrc.Stack(path)
    step = max(1, CHUNK // stack.size.nx**2)
    for start in range(0, len(windows), step):
        chunk = windows[start : start + step]
        boxes = stack.read([section for section, _ in chunk])
        for (section, _), fault in zip(chunk, images.faults(boxes), strict=True):
            if fault:
                raise ApbcError(
                    f"{section + 1:06d}@{path}: the image is {fault}; take it out of the list"
                )
        for (_, target), window in zip(chunk, images.condition(boxes, size), strict=True):
            files.write_bytes(target, png.encode(window))
    stack.close()


def check_contrast(project, lists, micrographs_star):
    """Print how each list's contrast compares with the micrographs; return 1, -1 or None.

    Raises
    ------
    ApbcError
        If one list is inverted and the other not: the network would learn that.
    """
    from apbc_common import contrast

    found = {kind: contrast.measure(project, lists[kind], micrographs_star) for kind in lists}
    for kind, evidence in found.items():
        print(f"{kind}: contrast {evidence}")
    signs = {evidence.sign for evidence in found.values()} - {None}
    if len(signs) > 1:
        raise ApbcError(
            f"{lists['bad'].block.path}: contrast {found['bad']}; {lists['good'].block.path}: "
            f"{found['good']}: extract both lists alike"
        )
    if not signs:
        cli.warn("the contrast is unknown; make sure that both lists were extracted alike")
    return signs.pop() if signs else None


def summary(classbin, counts):
    """Return the last line: what came out, and where."""
    parts = ", ".join(
        f"{sum(counts[part].values())} {part} windows ({counts[part]['good']} good, "
        f"{counts[part]['bad']} bad)"
        for part in PARTS
    )
    return f"{parts}, 0 skipped -> {classbin.folder}"


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        {"good": args.stargood, "bad": args.starbad},
        args.micrographs,
        args.size,
        args.seed,
        args.out,
        args.clear,
    )


if __name__ == "__main__":
    sys.exit(main())
