#!/usr/bin/env python3
"""Stand in for the user who marks 2D classes as good or bad: ask the truth, then err a little.

Example: label.py -p Demo -i Extract/job005/particles.star --truth truth --diameter 180 --apix 1.77

Writes Select/good/particles.star and Select/bad/particles.star. A particle within 0.3 diameters of
a true centre is good; then some labels are turned round at random, as a user's classes hold some
wrong particles (--wrong). Results that rest on such labels must say so.
"""

import csv
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apbc_common import cli

RADIUS = 0.3  # diameters


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
    add("--labels", type=cli.positive_int, metavar="N", help="keep so many (default: all)")
    add("--seed", type=cli.natural, default=0, metavar="N", help="of the errors (default: 0)")
    return parser


def label(project, star, truth, radius, wrong, labels, seed, out):
    """Write the two lists; ``radius`` is in pixels of the micrograph."""
    import numpy as np

    from apbc_common import relion

    particles = relion.read_particles(project, star)
    good = near_truth(particles, truth, radius)
    rng = np.random.default_rng(seed)
    flipped = rng.random(len(good)) < wrong
    kept = np.ones(len(good), bool)
    if labels and labels < len(good):
        kept[rng.permutation(len(good))[labels:]] = False
    classes = np.where(good ^ flipped, "1", "2").tolist()
    folder = out or project / "Select"
    for kind, number in (("good", "1"), ("bad", "2")):
        keep = np.array([value == number for value in classes]) & kept
        relion.copy_particles(
            particles, folder / kind / "particles.star", keep, classes, relion.CLASS
        )
        print(f"{kind}: {keep.sum()}, {(keep & flipped).sum()} of them wrong -> {folder / kind}")


def near_truth(particles, truth, radius):
    """Say of each particle whether a good centre is within ``radius`` px: bool (N,)."""
    import numpy as np

    near = np.zeros(len(particles), bool)
    for index, name in enumerate(particles.micrographs):
        with open(truth / f"{Path(name).stem}.csv", newline="") as file:
            centres = [
                (float(row["x"]), float(row["y"]))
                for row in csv.DictReader(file)
                if (row.get("kind") or "good") == "good"
            ]
        of_this = np.flatnonzero(particles.micrograph == index)
        apart = particles.xy[of_this, None] - np.array(centres).reshape(1, -1, 2)
        near[of_this] = (np.hypot(*apart.transpose(2, 0, 1)) <= radius).any(axis=1)
    return near


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
        args.wrong,
        args.labels,
        args.seed,
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
