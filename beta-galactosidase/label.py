#!/usr/bin/env python3
"""Stand in for the user who marks 2D classes as good or bad: ask the truth, then err a little.

Example: label.py -p Demo -i Extract/job005/particles.star --truth truth --diameter 180 --apix 1.77

Writes Select/good/particles.star and Select/bad/particles.star. A particle within 0.3 diameters of
a true centre is good; one that near to a particle of kind edge or aggregate, which may be picked or
left, is in neither list; all others are bad. Then some labels are turned round at random, as a
user's classes hold some wrong particles (--wrong). With --centring it also aligns, as 2D
classification does: rlnOriginXAngst and Y lead from the candidate to the true centre, not quite.
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
    add("--labels", type=cli.positive_int, metavar="N", help="keep at most so many (default: all)")
    add("--seed", type=cli.natural, default=0, metavar="N", help="of the errors (default: 0)")
    return parser


def label(project, star, truth, radius, apix, wrong, centring, labels, seed, out):
    """Write the two lists; ``radius`` is in pixels of the micrograph, ``centring`` in A."""
    import numpy as np

    from apbc_common import relion

    particles = relion.read_particles(project, star)
    away = from_truth(particles, truth, {"good"})
    good = np.hypot(*away.T) <= radius
    unsure = np.hypot(*from_truth(particles, truth, UNSURE).T) <= radius
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(good)) < wrong
    kept = good | ~unsure
    if labels:
        kept[rng.permutation(np.flatnonzero(kept))[labels:]] = False
    classes = np.where(good ^ flipped, "1", "2").tolist()
    columns = {relion.CLASS: classes}
    if centring:
        origins = np.where(good[:, None], away * apix, 0) + rng.normal(0, centring, away.shape)
        for name, column in zip(relion.ORIGIN_ANGST, origins.T.tolist(), strict=True):
            columns[name] = [f"{value:.6f}" for value in column]
    folder = out or project / "Select"
    for kind, number in (("good", "1"), ("bad", "2")):
        keep = np.array([value == number for value in classes]) & kept
        relion.copy_particles(particles, folder / kind / "particles.star", keep, columns)
        print(f"{kind}: {keep.sum()}, {(keep & flipped).sum()} of them wrong -> {folder / kind}")


def from_truth(particles, truth, kinds):
    """Return how far each particle lies from the nearest centre of ``kinds``: (N, 2) px, or inf."""
    import numpy as np
    from scipy.spatial import cKDTree

    away = np.full((len(particles), 2), np.inf)
    for index, name in enumerate(particles.micrographs):
        with open(truth / f"{Path(name).stem}.csv", newline="") as file:
            centres = [
                (float(row["x"]), float(row["y"]))
                for row in csv.DictReader(file)
                if (row.get("kind") or "good") in kinds
            ]
        of_this = np.flatnonzero(particles.micrograph == index)
        if centres:
            xy = particles.xy[of_this]
            away[of_this] = xy - np.array(centres)[cKDTree(centres).query(xy)[1]]
    return away


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        label,
        args.projpath,
        args.imagestar,
        args.truth,
        RADIUS * args.diameter / args.apix,
        args.apix,
        args.wrong,
        args.centring,
        args.labels,
        args.seed,
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
