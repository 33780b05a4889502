#!/usr/bin/env python3
"""Extract particles as relion_preprocess does, for machines without RELION.

Example: extract.py -p Demo -i micrographs_ctf.star --coord-dir LoG/ --o Extract/job005/
--coord-suffix _autopick.star --box 216 --scale 64

Pixels and list are those of relion_preprocess --extract --norm --invert_contrast (tests compare).
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apbc_common import cli


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
    from apbc_common import extraction, mrc, relion

    extraction.check(micrographs_star)
    micrographs = relion.read_micrographs(micrographs_star)
    out = out or project / "Extract"
    cutting = extraction.Extraction(micrographs.apix[0] * box, scale)
    done, count = [], 0
    for name, apix in cli.progress(micrographs.apix_by_name().items(), "micrographs"):
        rest = relion.rest(name)
        picks, stack = coord_dir / f"{rest}{suffix}", out / f"{rest}.mrcs"
        xy = relion.read_coordinates(picks)[0] if picks.is_file() else ()
        if not len(xy):
            continue
        if not stack.exists():
            mrc.write(stack, cutting.cut(project / name, apix, xy), cutting.particle_apix(apix))
        done.append((name, picks, stack))
        count += len(xy)
    cutting.write_particles(out / "particles.star", project, micrographs_star, done)
    print(f"{count} particles of {len(micrographs.names)} micrographs -> {out}")


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
