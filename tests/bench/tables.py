#!/usr/bin/env python3
"""Measure time and memory of long particle lists, from 10^3 to 5*10^6 rows.

Example: python tests/bench/tables.py --dir Bench --sizes 1000 1000000 --score 1000000

The lists are make_star.py's: 26 columns, 200 particles of 64 px a stack; all stacks are one file,
under many names. Each list is read, cut in halves and these are written; the halves are split for
training (gen_data.py --no-png), as two lists and as one out of all; what that wrote is read as
gen_model.py reads it. Lists of up to --score rows are then classified by gen_picks.py, with a
model that has seen one epoch of the shortest. All but the reading are whole commands: wall time,
and the peak of memory. 5*10^6 rows need 6 GB of disk while they last. Run it alone: other work on
the machine is in the times.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
from accuracy import ROOT, new_parser  # noqa: E402
from make_star import BOX, MICROGRAPH, PER_MICROGRAPH, STACK, make_star  # noqa: E402
from watch import watch  # noqa: E402

from apbc_common import mrc, relion  # noqa: E402

BOUND_S = {("filter", 1_000_000): 60, ("filter", 5_000_000): 300}
BOUND_MB = {1_000_000: 2000, 5_000_000: 2500}  # of every step
APIX = 3.54, 0.885  # A a pixel of the stacks, of the micrographs
FILTER = """
import sys
root, folder = sys.argv[1:]
sys.path.insert(0, root)
import numpy as np
from apbc_common import relion
particles = relion.read_particles(folder, folder + "/particles.star")
scores = np.random.default_rng(0).random(len(particles))
for name, keep in ("good", scores < 0.5), ("bad", scores >= 0.5):
    cells = {relion.SCORE: (f"{value:.4f}" for value in scores)}
    relion.copy_particles(particles, f"{folder}/{name}.star", keep, cells)
"""
READ = """
import sys
root, folder = sys.argv[1:]
sys.path.insert(0, root)
from pathlib import Path
from apbc_common import classbin, samples
found = classbin.ClassBin(Path(folder), Path(folder, "Split"))
windows = samples.read(found, classbin.read_dataset_record(found.dataset))
samples.divide(windows, 1, 0)
"""


def make_stacks(folder, count):
    """Write one stack of noise with a dark disc in every image, under the names of ``count``."""
    k = np.arange(BOX) - BOX // 2
    disc = 2 * np.exp(-(k[:, None] ** 2 + k**2) / (2 * 8.0**2))
    noise = np.random.default_rng(0).standard_normal((PER_MICROGRAPH, BOX, BOX))
    first = folder / STACK.format(mic=1)
    if not first.exists():
        mrc.write(first, noise - disc, APIX[0])
    for mic in range(2, count + 1):
        with contextlib.suppress(FileExistsError):
            os.link(first, folder / STACK.format(mic=mic))


def write_micrographs(path, count):
    """Write the list of the micrographs, which need not be there."""
    names = "".join(f"{MICROGRAPH.format(mic=mic)} 1\n" for mic in range(1, count + 1))
    path.write_text(
        f"data_optics\n\nloop_\n_{relion.GROUP}\n_{relion.MICROGRAPH_APIX}\n1 {APIX[1]}\n\n"
        f"data_micrographs\n\nloop_\n_{relion.MICROGRAPH}\n_{relion.GROUP}\n{names}\n"
    )


def measure(folder, rows, what, *words):
    """Run a Python command in the folder; print what it took, and what it is held to."""
    wall, cores, memory = watch(folder, sys.executable, *words)
    seconds, peak = BOUND_S.get((what, rows)), BOUND_MB.get(rows)
    print(
        f"{rows:8} {what:14} {wall:7.1f} s{held(wall, seconds)}, all cores {cores:7.1f} s, "
        f"{memory:5.0f} MB{held(memory, peak)}",
        flush=True,
    )


def held(value, bound):
    """Say what a value is held to, if it is."""
    return f" (bound: {bound}{'' if value <= bound else ', MISSED'})" if bound else ""


def bench(folder, rows, score):
    """Take one list through all steps."""
    count = -(-rows // PER_MICROGRAPH)
    make_stacks(folder, count)
    write_micrographs(folder / "micrographs.star", count)
    make_star(folder / "particles.star", rows)
    measure(folder, rows, "filter", "-c", FILTER, ROOT, folder)
    data = ROOT / "gen_data.py", "-g", "good.star", "--no-png", "--diameter", 60, "-c"
    measure(folder, rows, "gen_data -b", *data, "-b", "bad.star", "--o", "Split")
    measure(folder, rows, "read windows", "-c", READ, ROOT, folder)
    (folder / "bad.star").unlink()  # for the disk's sake
    every = "--all", "particles.star", "-m", "micrographs.star"
    measure(folder, rows, "gen_data --all", *data, *every, "--o", "All")
    model = folder / "Model/model.h5"
    if not model.exists():
        learn = ROOT / "gen_model.py", "--data", "Split", "--o", model.parent, "--epochs", 1
        watch(folder, sys.executable, *learn)
    if rows <= score:
        picks = ROOT / "gen_picks.py", "-i", "particles.star", "--model", model, "--o", "Picks"
        measure(folder, rows, "gen_picks", *picks, "-c")


def main():
    """Print a line for each step of each list."""
    parser = new_parser("tables.py", __doc__)
    parser.add_argument("--dir", type=Path, help="to work in (default: one that is not kept)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1_000, 10_000, 100_000, 1_000_000, 5_000_000],
        metavar="N",
        help="rows of the lists, growing (default: 10^3 to 10^6 by tens, and 5*10^6)",
    )
    parser.add_argument(
        "--score",
        type=int,
        default=1_000_000,
        metavar="N",
        help="classify lists of up to so many rows (default: 10^6)",
    )
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for rows in args.sizes:
            bench(folder.resolve(), rows, args.score)


if __name__ == "__main__":
    main()
