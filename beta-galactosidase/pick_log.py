#!/usr/bin/env python3
"""Pick dark blobs by a Laplacian of Gaussian, for machines without RELION.

Example: pick_log.py -p Demo -i micrographs_ctf.star --diameter 200 --min-diameter 120 --o LoG/

Writes DIR/<micrograph>_autopick.star for every micrograph, with the same columns as RELION's own
pickers. The score is the blob's darkness, in standard deviations of the micrograph after binning;
picks are left in down to a low score, so that a cut can be chosen later.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from apbc_common import ApbcError, cli  # noqa: E402

SCALES = 5  # diameters tried from the smallest to the largest
LARGER = (1.5, 2.2)  # times the largest: what answers best to these is ice or carbon
PIXELS = 12  # across the smallest diameter, after binning


def binned(image, factor):
    """Mean over factor x factor pixels; rows and columns left over at the end are dropped."""
    ny, nx = (n // factor for n in image.shape)
    return image[: ny * factor, : nx * factor].reshape(ny, factor, nx, factor).mean(axis=(1, 3))


def flattened(image, smooth):
    """Image less its trend (Gaussian, sigma in px), in robust standard deviations, cut at 5."""
    from scipy import ndimage

    image = image - ndimage.gaussian_filter(image, smooth)
    image /= max(1.4826 * float(np.median(np.abs(image - np.median(image)))), 1e-12)
    return np.clip(image, -5, 5)


def blobs(image, diameters, larger=()):
    """Darkness of blobs at every pixel.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Blobs are dark.
    diameters, larger : sequence of float
        Pixels: the sizes looked for, and sizes that are too large.

    Returns
    -------
    ndarray, shape (H, W)
        Greatest response among `diameters`, sigma^2 times the Laplacian, in units of the image; 0
        where one of `larger` answers better.
    """
    from scipy import ndimage

    def answer(diameter):
        # a disc of diameter d answers best at sigma = d / sqrt(8) (Lindeberg 1998)
        sigma = diameter / 8**0.5
        return sigma**2 * ndimage.gaussian_laplace(image, sigma)

    best = np.max([answer(diameter) for diameter in diameters], axis=0)
    for diameter in larger:
        best[answer(diameter) > best] = 0
    return best


def peaks(response, distance):
    """Return the row, column (N, 2) of maxima that no greater one lies nearer to than distance."""
    from scipy import ndimage

    reach = int(distance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    near = y**2 + x**2 <= distance**2
    highest = ndimage.maximum_filter(response, footprint=near, mode="constant")
    return np.argwhere((response == highest) & (response > 0))


def pick(image, diameters, lower=0.0, upper=None):
    """Pick one micrograph.

    Parameters
    ----------
    image : ndarray, shape (H, W)
        Particles are dark.
    diameters : sequence of float
        Sizes to look for, micrograph pixels, ascending.
    lower, upper : float, optional
        Leave out scores below and above these (noise; ice, carbon).

    Returns
    -------
    xy : ndarray, shape (N, 2)
        Centres in pixels of the micrograph, at least half the smallest diameter from the border.
    scores : ndarray, shape (N,)
    """
    factor = max(1, int(diameters[0] / PIXELS))
    small = flattened(binned(image, factor), 2 * diameters[-1] / factor)
    sizes = np.array(diameters) / factor
    response = blobs(small, sizes, sizes[-1] * np.array(LARGER))
    at = peaks(response, sizes.mean() / 2)
    scores = response[tuple(at.T)]
    xy = (at[:, ::-1] + 0.5) * factor - 0.5  # a binned pixel's centre lies between the old ones
    margin, size = diameters[0] / 2, np.array(image.shape[::-1])
    keep = ((xy >= margin) & (xy <= size - 1 - margin)).all(axis=1)
    keep &= (scores >= lower) & (scores <= (np.inf if upper is None else upper))
    return xy[keep], scores[keep]


def pick_all(project, micrographs_star, out, smallest, largest, lower, upper):
    """Pick every micrograph of a list; diameters in A, scores from ``lower`` to ``upper``."""
    from apbc_common import mrc, relion

    micrographs = relion.read_micrographs(micrographs_star)
    total = 0
    for name, apix in cli.progress(
        list(zip(micrographs.names, micrographs.apix, strict=True)), "micrographs"
    ):
        if not apix:
            raise ApbcError(f"{micrographs_star}: no pixel size ({relion.MICROGRAPH_APIX})")
        diameters = np.geomspace(smallest, largest, SCALES) / apix
        xy, scores = pick(mrc.image(project / name), diameters, lower, upper)
        relion.write_coordinates(out / f"{relion.rest(name)}_autopick.star", xy, scores)
        total += len(xy)
    print(f"{len(micrographs.names)} micrographs, {total} picks -> {out}")


def build_parser():
    """Return the parser."""
    description, _, epilog = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="pick_log.py",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-p", "--projpath", type=pathlib.Path, default=pathlib.Path(), metavar="DIR",
        help="the RELION project (default: the working directory)")  # fmt: skip
    add("-i", "--imagestar", type=cli.ProjectFile, required=True, metavar="STAR",
        help="micrographs STAR file")  # fmt: skip
    add("--diameter", type=cli.positive, required=True, metavar="A", help="largest diameter (A)")
    add("--min-diameter", type=cli.positive, metavar="A",
        help="smallest diameter (A; default: 0.6 of the largest)")  # fmt: skip
    add("--lower", type=cli.positive, default=0.0, metavar="SCORE",
        help="leave out lower scores (noise; default: 0)")  # fmt: skip
    add("--upper", type=cli.positive, metavar="SCORE", help="leave out higher scores (ice)")
    add("--o", dest="out", type=cli.ProjectFolder, default=cli.ProjectFolder("LoG"), metavar="DIR",
        help="folder of the coordinate files (default: LoG)")  # fmt: skip
    return parser


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    smallest = args.min_diameter or 0.6 * args.diameter
    if smallest > args.diameter:
        parser.error("argument --min-diameter: greater than --diameter")
    sizes = smallest, args.diameter
    scores = args.lower, args.upper
    return cli.run(parser.prog, pick_all, args.projpath, args.imagestar, args.out, *sizes, *scores)


if __name__ == "__main__":
    sys.exit(main())
