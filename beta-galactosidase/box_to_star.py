#!/usr/bin/env python3
"""Make a RELION project of micrographs with EMAN .box labels, such as EMPIAR-10017's.

Example: box_to_star.py -p Project --from /data/empiar-10017

Below the folder given by --from lie NAME.mrc and, at any place, NAME_good.box and NAME_bad.box
(lines "x y width height", the corner, in pixels of the MRC file). Written are links to the
micrographs with labels, micrographs_ctf.star, and Labels/good|bad/Micrographs/NAME_manual.star,
which RELION's Extract takes. The CTF columns are placeholders: nothing in this suite uses them,
so estimate the CTF before anything that does.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from apbc_common import ApbcError, cli

OPTICS = {
    "rlnOpticsGroupName": "opticsGroup1",
    "rlnOpticsGroup": "1",
    "rlnMicrographOriginalPixelSize": "{apix}",
    "rlnVoltage": "300.0",
    "rlnSphericalAberration": "2.0",
    "rlnAmplitudeContrast": "0.1",
    "rlnMicrographPixelSize": "{apix}",
}
PLACEHOLDERS = {
    "rlnOpticsGroup": "1",
    "rlnDefocusU": "15000.0",
    "rlnDefocusV": "15000.0",
    "rlnDefocusAngle": "0.0",
    "rlnCtfImage": "None",
    "rlnCtfMaxResolution": "5.0",
    "rlnCtfFigureOfMerit": "0.1",
}


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("box_to_star.py", __doc__, out="the project")
    add = parser.add_argument
    add("--from", dest="source", type=Path, required=True, metavar="DIR", help="files to convert")
    add("--apix", type=cli.positive, default=1.77, metavar="A", help="a pixel (default: 1.77)")
    return parser


def convert(project, source, apix):
    """Write the project; what is there is replaced only by the same."""
    import pandas as pd

    from apbc_common import star

    micrographs = {path.stem: path for path in sorted(source.rglob("*.mrc"))}
    boxes = {path.stem: path for path in sorted(source.rglob("*.box"))}
    labelled = [stem for stem in micrographs if {f"{stem}_good", f"{stem}_bad"} & boxes.keys()]
    if not labelled:
        raise ApbcError(
            f"{source}: {len(micrographs)} .mrc and {len(boxes)} .box files, but no NAME.mrc with "
            "NAME_good.box or NAME_bad.box"
        )
    counts = {"good": 0, "bad": 0}
    for stem in labelled:
        link = project / "Micrographs" / f"{stem}.mrc"
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(micrographs[stem].resolve())
        for kind in counts:
            if f"{stem}_{kind}" in boxes:
                target = project / f"Labels/{kind}/Micrographs/{stem}_manual.star"
                counts[kind] += write_centres(boxes[f"{stem}_{kind}"], target)
    names = [f"Micrographs/{stem}.mrc" for stem in labelled]
    optics = pd.DataFrame([{label: text.format(apix=apix) for label, text in OPTICS.items()}])
    table = pd.DataFrame({"rlnMicrographName": names, **PLACEHOLDERS}, dtype=str)
    star.write(project / "micrographs_ctf.star", {"optics": optics, "micrographs": table})
    print(
        f"{len(names)} micrographs with {counts['good']} good and {counts['bad']} bad labels, "
        f"{len(micrographs) - len(names)} without labels left out -> {project}"
    )


def write_centres(box, target):
    """Convert one file: the centre is corner + size // 2, as EMAN has it; return how many."""
    from apbc_common import relion

    xy = []
    for number, line in enumerate(box.read_text().splitlines(), 1):
        if line.strip():
            try:
                x, y, width, height = (float(cell) for cell in line.split()[:4])
            except ValueError:
                raise ApbcError(f"{box}:{number}: {line!r}, expected x y width height") from None
            xy.append((x + width // 2, y + height // 2))
    relion.write_coordinates(target, xy)
    return len(xy)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    return cli.run(parser.prog, convert, args.out or args.projpath, args.source, args.apix)


if __name__ == "__main__":
    sys.exit(main())
