#!/usr/bin/env python3
"""Write a long particles.star as a RELION 3.1 Refine or Class2D job leaves it: 26 columns.

Example: make_star.py /tmp/particles.star --rows 1000000
"""

import argparse
import sys
from pathlib import Path

import numpy as np

PER_MICROGRAPH, BOX = 200, 64  # particles, px
MICROGRAPH = "MotionCorr/job002/Movies/micrograph_{mic:06d}.mrc"
STACK = "Extract/job012/Movies/micrograph_{mic:06d}.mrcs"
OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnImagePixelSize #7
_rlnImageSize #8
_rlnImageDimensionality #9
opticsGroup1 1 0.885000 300.000000 2.700000 0.100000 3.540000 64 2
opticsGroup2 2 0.885000 300.000000 2.700000 0.100000 3.540000 64 2

"""
# Label and the cell's format; the fields are those of `_chunk`.
COLUMNS = {
    "rlnCoordinateX": "{x:12.6f}",
    "rlnCoordinateY": "{y:12.6f}",
    "rlnAutopickFigureOfMerit": "{u:12.6f}",
    "rlnClassNumber": "{klass:12d}",
    "rlnAnglePsi": "{angle:12.6f}",
    "rlnImageName": "{section:06d}@" + STACK,
    "rlnMicrographName": MICROGRAPH,
    "rlnOpticsGroup": "{group:12d}",
    "rlnCtfMaxResolution": "{u:12.6f}",
    "rlnCtfFigureOfMerit": "{u:12.6f}",
    "rlnDefocusU": "{x:12.6f}",
    "rlnDefocusV": "{y:12.6f}",
    "rlnDefocusAngle": "{angle:12.6f}",
    "rlnCtfBfactor": "    0.000000",
    "rlnCtfScalefactor": "    1.000000",
    "rlnPhaseShift": "    0.000000",
    "rlnGroupNumber": "{mic:12d}",
    "rlnAngleRot": "{angle:12.6f}",
    "rlnAngleTilt": "{angle:12.6f}",
    "rlnOriginXAngst": "{u:12.6f}",
    "rlnOriginYAngst": "{u:12.6f}",
    "rlnNormCorrection": "{u:12.6f}",
    "rlnLogLikeliContribution": "{x:12.6e}",
    "rlnMaxValueProbDistribution": "{u:12.6f}",
    "rlnNrOfSignificantSamples": "{klass:12d}",
    "rlnRandomSubset": "{half:12d}",
}
ROWS = 10_000  # formatted at a time


def make_star(path, rows, seed=0):
    """Write ``rows`` particles of two optics groups, PER_MICROGRAPH of them on each micrograph.

    The stacks that they name are not made. 10^6 rows are 412 MB.

    Parameters
    ----------
    path : path-like
        Overwritten.
    rows, seed : int
    """
    rng = np.random.default_rng(seed)
    line = " ".join(COLUMNS.values()) + " \n"
    labels = "".join(f"_{label} #{number} \n" for number, label in enumerate(COLUMNS, 1))
    with open(path, "w", encoding="ascii") as out:
        out.write(f"{OPTICS}\n# version 30001\n\ndata_particles\n\nloop_ \n{labels}")
        for start in range(0, rows, ROWS):
            index = np.arange(start, min(start + ROWS, rows))
            out.writelines(line.format(**cells) for cells in _chunk(rng, index))
        out.write(" \n")


def _chunk(rng, index):
    """Return the fields of the rows ``index``: a dict for each."""
    count = len(index)
    fields = {
        "mic": index // PER_MICROGRAPH + 1,
        "section": index % PER_MICROGRAPH + 1,
        "x": rng.uniform(100, 3900, count),
        "y": rng.uniform(100, 3900, count),
        "u": rng.random(count),
        "angle": rng.uniform(-180, 180, count),
        "klass": rng.integers(1, 51, count),
        "group": 1 + index * 2 // (index.max() + 1),
        "half": 1 + index % 2,
    }
    columns = [values.tolist() for values in fields.values()]
    return [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="make_star.py", description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--rows", type=int, default=1_000_000, help="(default: 1000000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args(argv)
    make_star(args.target, args.rows, seed=args.seed)
    print(f"{args.rows} particles, {args.target.stat().st_size / 1e6:.0f} MB -> {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
