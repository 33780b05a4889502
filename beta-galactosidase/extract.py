#!/usr/bin/env python3
"""Extract particles as relion_preprocess does, for machines without RELION.

Example: extract.py -p Demo -i micrographs_ctf.star --coord-dir LoG/ --o Extract/job005/
--coord-suffix _autopick.star --box 216 --scale 64

The pixels are those of relion_preprocess --extract --norm --invert_contrast (a test compares), and
the list has the columns that the next steps and RELION's readers need.
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apbc_common import cli

AT_ONCE = 200  # boxes


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("extract.py", __doc__, out="Extract")
    add = functools.partial(parser.add_argument, required=True)
    add("-i", "--imagestar", type=cli.ProjectFile, metavar="STAR", help="the micrographs")
    add("--coord-dir", type=cli.ProjectFolder, metavar="DIR", help="of the coordinate files")
    add("--coord-suffix", metavar="TEXT", help="of their names, such as _autopick.star")
    add("--box", type=cli.even, metavar="PX", help="edge in pixels of the micrograph")
    add("--scale", type=cli.even, metavar="PX", help="edge in pixels of the particles")
    return parser


def extract(project, micrographs_star, coord_dir, suffix, box, scale, out):
    """Write a stack for each micrograph with picks, then the list of all."""
    import pandas as pd

    from apbc_common import relion, star

    micrographs = relion.read_micrographs(micrographs_star)
    out = out or project / "Extract"
    rows, apix = [], micrographs.apix[0]
    for name in cli.progress(micrographs.names, "micrographs"):
        picks = coord_dir / f"{relion.rest(name)}{suffix}"
        if picks.is_file():
            rows += extract_micrograph(project, name, picks, apix, box, scale, out)
    optics = star.scan(micrographs_star)["optics"].read().drop(columns=relion.MICROGRAPH_APIX)
    optics[relion.IMAGE_APIX] = f"{apix * box / scale:.6f}"
    optics[relion.IMAGE_SIZE], optics[relion.DIMENSIONS] = str(scale), "2"
    labels = [relion.IMAGE, relion.MICROGRAPH, relion.X, relion.Y, relion.SCORE, relion.GROUP]
    tables = {"optics": optics, "particles": pd.DataFrame(rows, columns=labels, dtype=str)}
    star.write(out / "particles.star", tables)
    print(f"{len(rows)} particles of {len(micrographs.names)} micrographs -> {out}")


def extract_micrograph(project, name, picks, apix, box, scale, out):
    """Write the stack of one micrograph; return its rows."""
    import numpy as np

    from apbc_common import images, mrc, relion

    xy, scores = relion.read_coordinates(picks)
    target = out / f"{relion.rest(name)}.mrcs"
    if len(xy) and not target.exists():
        picture = mrc.image(project / name)
        parts = [
            images.extract(picture, xy[at : at + AT_ONCE], box, scale)
            for at in range(0, len(xy), AT_ONCE)
        ]
        mrc.write(target, np.concatenate(parts), apix * box / scale)
    stack = target.relative_to(project)
    return [
        (f"{i:06d}@{stack}", name, f"{x:.6f}", f"{y:.6f}", f"{score:.6f}", "1")
        for i, ((x, y), score) in enumerate(zip(xy, scores, strict=True), 1)
    ]


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(
        parser.prog,
        extract,
        args.projpath,
        args.imagestar,
        args.coord_dir,
        args.coord_suffix,
        args.box,
        args.scale,
        args.out,
    )


if __name__ == "__main__":
    sys.exit(main())
