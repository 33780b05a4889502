#!/usr/bin/env python3
"""Write, for each micrograph, the centres of boxes on a grid, half a box apart.

The files in ClassBin/grid are coordinate files as RELION's Extract job takes them: every place
of a micrograph becomes a window for gen_picks.py to classify.

Example: gen_grid.py -p . -i CtfFind/job003/micrographs_ctf.star -x 216
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from apbc_common import ApbcError, cli, external
from apbc_common.classbin import ClassBin, Run


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_grid.py", __doc__)
    parser.add_argument(
        "-i",
        "--imagestar",
        "--in_mics",
        type=cli.ProjectFile,
        required=True,
        metavar="STAR",
        help="the micrographs",
    )
    parser.add_argument(
        "-x",
        "--boxsize",
        type=cli.even,
        required=True,
        metavar="BOX",
        help="edge of the boxes in pixels of the micrographs, even",
    )
    cli.add_clear(parser, "--clear")
    return parser


def grid_coordinates(width, height, box):
    """Return the centres of half-overlapping boxes lying wholly inside a micrograph.

    Parameters
    ----------
    width, height : int
        Micrograph size in pixels (MRC ``nx``, ``ny``).
    box : int
        Box edge in pixels, even; the step is half of it.

    Returns
    -------
    ndarray of int, shape (N, 2)
        x, y in pixels from the file's first pixel, row by row. Empty if no box fits.

    Examples
    --------
    >>> grid_coordinates(8, 4, box=4).tolist()
    [[2, 2], [4, 2], [6, 2]]
    """
    import numpy as np

    half = box // 2
    x, y = (np.arange(half, length - half + 1, half) for length in (width, height))
    x, y = np.meshgrid(x, y)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def generate(project, micrographs_star, box, out, clear):
    """Write the grid files that are missing, then the lists of all; return RELION's node."""
    from apbc_common import relion

    classbin = ClassBin(project, out)
    micrographs = relion.read_micrographs(micrographs_star)
    sizes = micrograph_sizes(project, micrographs, box)
    targets = [classbin.grid_file(relion.rest(name)) for name in micrographs.names]
    outputs = [*targets, classbin.grid_list, classbin.grid_suffix]
    run = Run(
        classbin.record("gen_grid"),
        project,
        {},
        {"micrographs": os.path.relpath(micrographs_star, project), "box": box},
        clear,
        growing={"list": micrographs_star},
    )
    nodes = [(external.COORDINATES, classbin.grid_suffix, classbin.grid_list)]
    if run.finished(outputs):
        print(f"finished before: nothing to do, {len(targets)} micrographs -> {classbin.grid_dir}")
        return nodes
    with run.writing(outputs):
        boxes, kept = write_grids(sizes, targets, box)
        relion.write_coordinate_lists(
            project,
            micrographs.path,
            dict(zip(micrographs.names, targets, strict=True)),
            classbin.grid_list,
            classbin.grid_suffix,
        )
        run.finish({"micrographs": len(targets), "boxes": boxes, "kept": kept})
    print(
        f"{len(targets)} micrographs, {boxes} boxes of {box} px; "
        f"{kept} files kept from before, 0 micrographs skipped -> {classbin.grid_dir}"
    )
    return nodes


def write_grids(sizes, targets, box):
    """Write the grid files that are missing; return how many boxes in all, and files kept."""
    from apbc_common import relion

    boxes = kept = 0
    for size, target in cli.progress(list(zip(sizes, targets, strict=True)), "micrographs"):
        xy = grid_coordinates(size.nx, size.ny, box)
        boxes += len(xy)
        if target.exists():
            kept += 1
        else:
            relion.write_coordinates(target, xy)
    return boxes, kept


def micrograph_sizes(project, micrographs, box):
    """Return each micrograph's size; raise ApbcError for those that can't hold a grid."""
    from apbc_common import mrc, relion

    sizes, faults = [], []
    for name in micrographs.names:
        try:
            size = mrc.size(Path(project) / name)
        except (ApbcError, OSError) as err:
            faults.append(cli.explain(err))
            continue
        if size.nz != 1:
            faults.append(f"{name}: {size.nz} sections, expected a micrograph, not a movie")
        elif box > min(size.nx, size.ny):
            faults.append(f"{name}: {size.nx} x {size.ny} px, smaller than a box of {box}")
        sizes.append(size)
    if faults:
        raise ApbcError(
            f"{micrographs.path}: {len(faults)} of {len(micrographs.names)} micrographs can't be "
            f"used: {relion.first(faults)}"
        )
    return sizes


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        args.imagestar,
        args.boxsize,
        args.out,
        args.clear,
        job=args.job,
    )


if __name__ == "__main__":
    sys.exit(main())
