#!/usr/bin/env python3
"""Draw a micrograph with its picks as circles, coloured by score.

Writes ClassBin/pngs/<micrograph>_<list>.png, oriented as RELION shows it. Candidates below the
threshold that picked are dashed.

Example: show_picks.py -p . -m MotionCorr/job002/Movies/a.mrc
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from apbc_common import ApbcError, cli
from apbc_common.classbin import ClassBin, read_model_record, read_picking

SCREEN = 1400  # pixels that a picture is at least, and less than twice that
PERCENTILES = (0.5, 99.5)  # of the binned micrograph, black and white
DPI = 100
CAPTION = 40  # pixels above the picture
BAR = 160  # pixels of the caption that show which colour is which score
PLAIN = "#35e04a"  # of circles without a score


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("show_picks.py", __doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "-m",
        "--image",
        type=cli.ProjectFile,
        metavar="MRC",
        help="the micrograph",
    )
    which.add_argument(
        "--report",
        action="store_true",
        help="write ClassBin/report.html: micrographs with their picks, a threshold to choose, "
        "boxes to correct, and what is known of the model",
    )
    parser.add_argument(
        "-s",
        "--star",
        "--in_coords",
        type=cli.ProjectFile,
        metavar="STAR",
        help="its picks: a coordinate file, a list of many micrographs' files, picks or particles "
        "(default: ClassBin/picks/picks.star)",
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
        help="diameter of the circles in pixels of the micrograph (default: the particle's for "
        "what gen_picks.py picked, the box for other particles); needed for other coordinate files",
    )
    return parser


def tell(project, star, out):
    """Write the report on a run of direct picking."""
    from apbc_common import report

    target = ClassBin(project, out).report
    shown, read = report.write(project, star or default_list(project, out), target)
    print(f"{shown} of {read} micrographs shown, {target.stat().st_size / 1e6:.1f} MB -> {target}")


def show(project, image, star, binfactor, box, out):
    """Draw the picks of one list on one micrograph."""
    from apbc_common import mrc, relion

    name = os.path.relpath(image, project)
    if name.startswith(os.pardir):
        raise ApbcError(f"{image}: not in the project {Path(project).resolve()}; link it in")
    star = star or default_list(project, out)
    picking = read_picking(star)
    xy, scores = read_picks(project, star, name, image, picking)
    other = Path(image).with_name(Path(star).stem.rpartition("_")[0] + Path(image).suffix)
    if other != Path(image) and other.is_file():
        cli.warn(f"{star}: by its name of {other.name}, drawn on {name}")
    box = box or box_of(project, star, picking, image, binfactor)
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
    counted, below = f"{len(xy)} picks", None
    if picking and scores is not None:
        threshold = picking["options"]["threshold"]
        below = scores < threshold
        if below.any():
            counted = f"{len(xy)} candidates, {below.sum()} of them below {threshold:g} (dashed)"
    title = f"{name}   {os.path.relpath(star, project)}: {counted}"
    draw(target, picture, xy, box, title, scores, below)
    print(f"{counted}, {outside.sum()} of them outside, circles of {box:.0f} px -> {target}")


def read_picks(project, star, name, image, picking):
    """Return places and scores as `relion.read_coordinates`: none, where the run found none."""
    import numpy as np

    from apbc_common import names, relion

    files = relion.coordinate_files(project, star)
    if files is not None:
        meant = names.match([name], files)[name]
        if meant is None:
            raise relion.NoPicks(
                f"{star}: no picks of {name} among {len(files)} micrographs ({relion.first(files)})"
            )
        return relion.read_coordinates(files[meant])
    try:
        spelt = names.match([name], relion.micrographs_named(star))[name] or name
        return relion.read_coordinates(star, spelt, os.path.abspath(image))
    except relion.NoPicks:
        if picking and f"{relion.rest(name)}_autopick.star" in picking["outputs"]:
            return np.empty((0, 2)), np.empty(0)
        raise


def default_list(project, out):
    """Return the list of all direct picks, of ``out`` first; raise ApbcError if there is none."""
    for place in (out, None):
        star = ClassBin(project, place).all_picks("picks")
        if star.is_file():
            return star
    raise ApbcError(f"{star}: not there; pick with gen_picks.py first, or name a list with -s")


def name_of(project, star, pictures):
    """Return what tells a list's picture from that of another: 'true' for particles_true.star.

    Lists that lie elsewhere than the pictures get their folder's name in front.
    """
    last, folder = Path(star).stem.rpartition("_")[2], Path(star).resolve().parent
    for home in (pictures.resolve(), ClassBin(project).folder.resolve()):
        if folder.is_relative_to(home):
            return last
    return "_".join([*Path(os.path.relpath(folder, project)).parts, last])


def box_of(project, star, picking, image, binfactor):
    """Return the diameter of the circles, in pixels of the micrograph.

    That of the particle where ``picking`` is the record of the run that wrote the list, else the
    box of a particle list.

    Raises
    ------
    ApbcError
        For a coordinate file of another program, which knows neither, or if no pixel size is to be
        found.
    """
    from apbc_common import relion

    if picking and binfactor is None:
        model = Path(project) / picking["inputs"]["model"]["path"]
        listed = Path(project) / picking["growing"]["list"]["path"]
        try:
            taught = read_model_record(model)["dataset"]
        except ApbcError as err:
            raise ApbcError(f"{err}; or give -x BOX") from err
        return taught["diameter_angst"] / micrograph_apix(project, listed, image)
    if relion.IMAGE not in relion.table(star, relion.X, "coordinate").labels:
        raise ApbcError(
            f"{star}: coordinates, which have no box; give -x BOX, the circles' diameter in pixels "
            "of the micrograph"
        )
    particles = relion.read_particles(project, star)
    optics = particles.optics[particles.group[0]]
    if binfactor is None:
        listed = relion.extract_micrographs(project, particles.stacks[0])
        binfactor = optics.apix / micrograph_apix(project, listed, image)
    return optics.box * binfactor


def micrograph_apix(project, listed, image):
    """Return A a pixel of a micrograph: from a list of micrographs, else from its header."""
    from apbc_common import mrc, relion

    if listed and os.path.isfile(listed):
        known = relion.read_micrographs(listed).apix_by_name()
        if apix := known.get(os.path.relpath(image, project)):
            return apix
    if not (apix := mrc.size(image).apix):
        raise ApbcError(f"{image}: its header has no pixel size; give -x BOX")
    return apix


def draw(target, picture, xy, box, title, scores=None, below=None):
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
    scores : ndarray, shape (N,), optional
        Show as colours if they are probabilities, all from 0 to 1.
    below : ndarray of bool, shape (N,), optional
        Which circles to dash.
    """
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot as plt

    from apbc_common import files

    factor = min(max(1, max(picture.shape) // SCREEN), *picture.shape)
    ny, nx = (length // factor * factor for length in picture.shape)
    small = picture[:ny, :nx].reshape(ny // factor, factor, nx // factor, factor).mean(axis=(1, 3))
    low, high = np.percentile(small, PERCENTILES)
    width, height = small.shape[1], small.shape[0] + CAPTION
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, small.shape[0] / height))
    edges = (-0.5, nx - 0.5, ny - 0.5, -0.5)  # the centre of the first pixel is 0,0
    axes.imshow(small, cmap="gray", vmin=low, vmax=high, extent=edges, interpolation="nearest")
    axes.set(xlim=edges[:2], ylim=edges[2:])
    axes.axis("off")
    colours = None
    if scores is not None and len(scores) and 0 <= scores.min() <= scores.max() <= 1:
        # Lightness grows with the score, for those who tell no hues; the darkest is left out.
        shades = matplotlib.colormaps["plasma"](np.linspace(0.3, 1, 256))
        colours = matplotlib.colors.ListedColormap(shades)
    add_circles(axes, xy, box, PLAIN if colours is None else colours(scores), below)
    add_caption(figure, title, colours)
    with files.atomic(target) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may have letters that the font has not
        figure.savefig(part)
    plt.close(figure)


def add_circles(axes, xy, box, colours, below):
    """Draw circles, the first on top; those ``below`` dashed and thinner."""
    import numpy as np
    from matplotlib import patheffects
    from matplotlib.collections import EllipseCollection

    below = np.zeros(len(xy), bool) if below is None else below
    sizes = np.full(len(xy), box)
    circles = EllipseCollection(
        sizes,
        sizes,
        np.zeros(len(xy)),
        units="xy",
        offsets=xy[::-1],
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors=colours if isinstance(colours, str) else colours[::-1],
        linestyles=np.where(below, "--", "-")[::-1].tolist() or "-",
        linewidths=np.where(below, 1.4, 2)[::-1],
    )
    # A dark rim: no colour stands out from every grey.
    circles.set_path_effects([patheffects.withStroke(linewidth=3, foreground="black")])
    axes.add_collection(circles)


def add_caption(figure, title, colours):
    """Write the title above the picture, and beside it what the colours mean, if any do."""
    import numpy as np

    width, height = figure.get_size_inches() * DPI
    middle, bar = 1 - CAPTION / 2 / height, BAR if colours else 0
    points = min(16, (width - bar) / len(title) / (0.62 * DPI / 72))  # so that it fits
    figure.text(5 / width, middle, title, va="center", fontsize=points, parse_math=False)
    if colours:
        left, across = 1 - 0.85 * BAR / width, 0.7 * BAR / width
        axes = figure.add_axes((left, middle - 8 / height, across, 16 / height))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
        axes.axis("off")
        for x, text, side in ((left, "0 ", "right"), (left + across, " 1", "left")):
            figure.text(x, middle, text, va="center", ha=side, fontsize=12)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    if args.report:
        return cli.run(parser.prog, tell, args.projpath, args.star, args.out, job=args.job)
    return cli.run(
        parser.prog,
        show,
        args.projpath,
        args.image,
        args.star,
        args.binfactor,
        args.boxsize,
        args.out,
        job=args.job,
    )


if __name__ == "__main__":
    sys.exit(main())
