#!/usr/bin/env python3
"""Draw a micrograph with its picks as circles.

Writes ClassBin/pngs/<micrograph>_<list>.png, oriented as RELION shows it.

Example: show_picks.py -p . -m MotionCorr/job002/Movies/a.mrc -s ClassBin/particles_true.star
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from apbc_common import ApbcError, cli
from apbc_common.classbin import ClassBin

SCREEN = 1400  # pixels that a picture is at least, and less than twice that
PERCENTILES = (0.5, 99.5)  # of the binned micrograph, black and white
DPI = 100


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("show_picks.py", __doc__)
    parser.add_argument(
        "-m",
        "--image",
        type=cli.ProjectFile,
        required=True,
        metavar="MRC",
        help="the micrograph",
    )
    parser.add_argument(
        "-s",
        "--star",
        type=cli.ProjectFile,
        required=True,
        metavar="STAR",
        help="its picks: a particle list or a coordinate file",
    )
    parser.add_argument(
        "-z",
        "--binfactor",
        type=cli.positive,
        metavar="Z",
        help="binning of the extraction, 4 for 256 to 64 (default: from the pixel sizes)",
    )
    parser.add_argument(
        "-x",
        "--boxsize",
        type=cli.positive,
        metavar="BOX",
        help="diameter of the circles in pixels of the micrograph; needed for coordinate files",
    )
    return parser


def show(project, image, star, binfactor, box, out):
    """Draw the picks of one list on one micrograph."""
    from apbc_common import mrc, relion

    name = os.path.relpath(image, project)
    if name.startswith(os.pardir):
        raise ApbcError(f"{image}: not in the project {Path(project).resolve()}; link it in")
    xy, scores = relion.read_coordinates(star, name, os.path.abspath(image))
    box = box or box_of(project, star, image, binfactor)
    picture = mrc.image(image)
    if not 1 <= box <= 2 * max(picture.shape):
        raise ApbcError(
            f"circles of {box:g} px on a micrograph of {picture.shape[1]} x {picture.shape[0]}; "
            "give -x BOX, in its pixels"
        )
    classbin = ClassBin(project, out)
    target = classbin.picture(relion.rest(name), name_of(project, star, classbin.folder))
    outside = ((xy < 0) | (xy >= picture.shape[::-1])).any(axis=1)
    if outside.any():
        cli.warn(f"{star}: {outside.sum()} of {len(xy)} picks lie outside {name}")
    draw(target, picture, xy, box, f"{name}   {os.path.relpath(star, project)}: {len(xy)} picks")
    print(f"{len(xy)} picks, {outside.sum()} of them outside, circles of {box:.0f} px -> {target}")


def name_of(project, star, pictures):
    """Return what tells a list's picture from that of another: 'true' for particles_true.star.

    Lists that lie elsewhere than the pictures get their folder's name in front.
    """
    last, folder = Path(star).stem.rpartition("_")[2], Path(star).resolve().parent
    for home in (pictures.resolve(), ClassBin(project).folder.resolve()):
        if folder.is_relative_to(home):
            return last
    return "_".join([*Path(os.path.relpath(folder, project)).parts, last])


def box_of(project, star, image, binfactor):
    """Return the edge, in pixels of the micrograph, of the boxes of a particle list.

    Raises
    ------
    ApbcError
        For a coordinate file, which knows no box, or if no pixel size is to be found.
    """
    from apbc_common import relion

    if relion.IMAGE not in relion.table(star, relion.X, "coordinate").labels:
        raise ApbcError(f"{star}: a coordinate file, which has no box; give -x BOX")
    particles = relion.read_particles(project, star)
    optics = particles.optics[particles.group[0]]
    if binfactor is None:
        binfactor = optics.apix / micrograph_apix(project, particles, image)
    return optics.box * binfactor


def micrograph_apix(project, particles, image):
    """Return A a pixel of a micrograph: from the Extract job's list, else from its header."""
    from apbc_common import mrc, relion

    star = relion.extract_micrographs(project, particles.stacks[0])
    if star:
        listed = relion.read_micrographs(star)
        apix = listed.apix_by_name().get(os.path.relpath(image, project))
        if apix:
            return apix
    if not (apix := mrc.size(image).apix):
        raise ApbcError(f"{image}: its header has no pixel size; give the binning with -z")
    return apix


def draw(target, picture, xy, box, title):
    """Write a PNG of a micrograph, binned for the screen, with circles.

    Parameters
    ----------
    target : path-like
    picture : ndarray of float32, shape (ny, nx)
    xy : ndarray, shape (N, 2)
        Centres in pixels of ``picture``.
    box : float
        Diameter of the circles in the same pixels.
    title : str
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt
    from matplotlib.collections import EllipseCollection

    from apbc_common import files

    factor = min(max(1, max(picture.shape) // SCREEN), *picture.shape)
    ny, nx = (length // factor * factor for length in picture.shape)
    small = picture[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor).mean(axis=(1, 3))
    low, high = np.percentile(small, PERCENTILES)
    caption = 40
    width, height = small.shape[1], small.shape[0] + caption
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, small.shape[0] / height))
    edges = (-0.5, nx - 0.5, ny - 0.5, -0.5)  # the centre of the first pixel is 0,0
    axes.imshow(small, cmap="gray", vmin=low, vmax=high, extent=edges, interpolation="nearest")
    sizes = np.full(len(xy), box)
    axes.add_collection(
        EllipseCollection(
            sizes,
            sizes,
            np.zeros(len(xy)),
            units="xy",
            offsets=xy,
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors="#35e04a",
            linewidths=1.2,
        )
    )
    axes.set(xlim=edges[:2], ylim=edges[2:])
    axes.axis("off")
    figure.text(0.005, 1 - caption / 2 / height, title, va="center", fontsize=16)
    with files.atomic(target) as part:
        figure.savefig(part)
    plt.close(figure)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        show,
        args.projpath,
        args.image,
        args.star,
        args.binfactor,
        args.boxsize,
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
