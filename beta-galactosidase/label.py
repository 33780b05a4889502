#!/usr/bin/env python3
"""Stand in for the user who marks 2D classes as good or bad: ask the truth, then err a little.

Example: label.py -p Demo -i Extract/job005/particles.star --truth truth --diameter 180 --apix 1.77

Writes Select/good/particles.star and Select/bad/particles.star. A particle within 0.3 diameters of
a true centre is good; one that near to a particle of kind edge or aggregate, which may be picked or
left, is in neither list; all others are bad. Then some labels are turned round at random, as a
user's classes hold some wrong particles (--wrong). With --centring it also aligns, as 2D
classification does: rlnOriginXAngst and Y lead from the candidate to the true centre, not quite;
with --shift to a place beside it, the same for all. With --cone particles of some views are bad.
Results that rest on such labels must say so.
"""

import csv
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apbc_common import cli

RADIUS = 0.3  # diameters
UNSURE = {"edge", "aggregate"}


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("label.py", __doc__, out="Select")
    add = parser.add_argument
    needed = functools.partial(add, required=True)
    needed("-i", "--imagestar", type=cli.ProjectFile, metavar="STAR", help="the particles")
    needed("--truth", type=cli.ProjectFolder, metavar="DIR", help="a CSV file a micrograph")
    needed("--diameter", type=cli.positive, metavar="A", help="of the particle")
    needed("--apix", type=cli.positive, metavar="A", help="a pixel of the micrographs")
    add("--wrong", type=cli.probability, default=0.05, metavar="P", help="share (default: 0.05)")
    add(
        "--centring",
        type=cli.positive,
        metavar="A",
        help="write origins, their error's standard deviation along x and y (default: none)",
    )
    add(
        "--shift",
        type=cli.not_negative,
        default=0,
        metavar="A",
        help="with --centring: move all centres along x (default: 0)",
    )
    add(
        "--cone",
        type=cli.not_negative,
        default=0,
        metavar="DEG",
        help="call bad what is seen along its z axis, give or take DEG degrees (default: 0)",
    )
    add("--labels", type=cli.positive_int, metavar="N", help="keep at most so many (default: all)")
    add("--seed", type=cli.natural, default=0, metavar="N", help="of the errors (default: 0)")
    return parser


def label(args):
    """Write the two lists."""
    import numpy as np

    from apbc_common import relion

    particles = relion.read_particles(args.projpath, args.imagestar)
    radius = RADIUS * args.diameter / args.apix
    away, tilt = from_truth(particles, args.truth, {"good"})
    good = np.hypot(*away.T) <= radius
    unsure = np.hypot(*from_truth(particles, args.truth, UNSURE)[0].T) <= radius
    seen_along_z = np.minimum(tilt, 180 - tilt) < args.cone
    rng = np.random.default_rng(args.seed)
    flipped = rng.random(len(good)) < args.wrong
    wrong = flipped ^ (good & seen_along_z)
    kept = good | ~unsure
    if args.labels:
        kept[rng.permutation(np.flatnonzero(kept))[args.labels :]] = False
    classes = np.where(good ^ wrong, "1", "2").tolist()
    columns = {relion.CLASS: classes}
    if args.centring:
        origins = np.where(good[:, None], away * args.apix, 0)
        origins += rng.normal(0, args.centring, away.shape) - (args.shift, 0)
        for name, column in zip(relion.ORIGIN_ANGST, origins.T.tolist(), strict=True):
            columns[name] = [f"{value:.6f}" for value in column]
    folder = args.out or args.projpath / "Select"
    for kind, number in (("good", "1"), ("bad", "2")):
        keep = np.array([value == number for value in classes]) & kept
        relion.copy_particles(particles, folder / kind / "particles.star", keep, columns)
        print(f"{kind}: {keep.sum()}, {(keep & wrong).sum()} of them wrong -> {folder / kind}")


def from_truth(particles, truth, kinds):
    """Return how far each particle lies from the nearest centre of ``kinds``, and its tilt.

    (N, 2) px and (N,) degrees; inf and nan where there is none.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    away, tilt = np.full((len(particles), 2), np.inf), np.full(len(particles), np.nan)
    for index, name in enumerate(particles.micrographs):
        with open(truth / f"{Path(name).stem}.csv", newline="") as file:
            centres = np.array(
                [
                    (float(row["x"]), float(row["y"]), float(row.get("tilt") or "nan"))
                    for row in csv.DictReader(file)
                    if (row.get("kind") or "good") in kinds
                ]
            )
        of_this = np.flatnonzero(particles.micrograph == index)
        if len(centres):
            xy = particles.xy[of_this]
            nearest = centres[cKDTree(centres[:, :2]).query(xy)[1]]
            away[of_this], tilt[of_this] = xy - nearest[:, :2], nearest[:, 2]
    return away, tilt


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    return cli.run(parser.prog, label, cli.parse(parser, argv))


if __name__ == "__main__":
    sys.exit(main())
