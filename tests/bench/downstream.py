#!/usr/bin/env python3
"""Measure what picks are worth further on: RELION's 2D classes and 3D map of each list.

Example: python tests/bench/downstream.py beta-galactosidase/project

Of a project that beta-galactosidase/run.sh made with RELION: its lists of picks of the micrographs
that nothing was learnt from. 2D: 32 px, 8 classes, 10 iterations; a class is kept, as a user would,
if most of its particles are true. 3D: 64 px, D2, one class, from the simulated density filtered to
40 A; once with the whole list, once with as many of each, the best. The resolution is that at which
the map's FSC with the simulated density falls below 0.5, within a sphere.

True is a particle within 0.3 diameters of a whole one, once; those beside edges and in clumps are
left out. Every step keeps what it made in PROJECT/Downstream. Needs RELION 3.1.
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402  (it sets the path for those below)
import mrcfile  # noqa: E402
import numpy as np  # noqa: E402
import score  # noqa: E402
import simulate  # noqa: E402
from scipy import ndimage  # noqa: E402

from apbc_common import mrc, peaks, relion  # noqa: E402

LISTS = {
    "autopick (LoG)": "AutoPick/test",
    "grid": "Classic/particles_true.star",
    "direct": "ClassBin/picks/picks.star",
}
DIAMETER, APIX, BOX = 180, accuracy.APIX, 216
TRUE = 0.3  # diameters
SMALL, LARGE = 32, 64  # px of the particles, for 2D and for 3D
CLASSES, ITERATIONS_2D, ITERATIONS_3D = 8, 10, 8
MASK = 200  # A
FSC = 0.5


def extract(project, picks, folder, scale):
    """Extract picks, {micrograph's stem: (N, 3)}, with RELION; return the particle list."""
    target = project / folder / "particles.star"
    if not target.exists():
        for stem, rows in picks.items():
            path = project / folder / f"Coords/Micrographs/{stem}_autopick.star"
            relion.write_coordinates(path, rows[:, :2], rows[:, 2])
        accuracy.shell(
            project / "log.txt", "relion_preprocess", "--i", "test.star", "--coord_dir",
            f"{folder}Coords/", "--coord_suffix", "_autopick.star", "--part_dir", folder,
            "--part_star", target.relative_to(project), "--extract", "--extract_size", BOX,
            "--scale", scale, "--norm", "--bg_radius", int(0.375 * scale), "--invert_contrast",
            cwd=project,
        )  # fmt: skip
    return target


def inside(rows, shape):
    """Leave out picks whose boxes reach over the border: RELION stops at some of them."""
    xy = rows[:, :2]
    return rows[((xy >= BOX / 2) & (xy < np.array(shape[::-1]) - BOX / 2)).all(axis=1)]


def best(picks, count):
    """Return the picks of the best scores, ``count`` of all."""
    scores = np.sort(np.concatenate([rows[:, 2] for rows in picks.values()]))[::-1]
    return {stem: rows[rows[:, 2] >= scores[count - 1]] for stem, rows in picks.items()}


def truth_of(truth, path):
    """Say of each particle of a list whether it is true: 1, not 0, neither nan."""
    particles = relion.table(path, relion.IMAGE, "particle")
    stems = particles.read(relion.MICROGRAPH)[relion.MICROGRAPH].map(lambda n: Path(n).stem)
    xy, found = particles.numbers(relion.X, relion.Y), np.zeros(particles.rows)
    for stem, one in truth.items():
        here = np.flatnonzero((stems == stem).to_numpy())
        found[here] = peaks.match(xy[here], one.good, TRUE * DIAMETER / APIX) >= 0
        away = peaks.nearest(xy[here], one.ignored)
        excused = away <= score.IGNORED_REACH * DIAMETER / APIX
        found[here[excused & (found[here] == 0)]] = np.nan
    return found


def classify(project, folder, particles):
    """Run a 2D classification; return the last data file."""
    out, last = project / folder / "run", project / folder / f"run_it{ITERATIONS_2D:03d}_data.star"
    if not last.exists():
        (project / folder).mkdir(parents=True, exist_ok=True)
        accuracy.shell(
            project / "log.txt", "relion_refine", "--i", particles, "--o", out, "--K", CLASSES,
            "--iter", ITERATIONS_2D, "--particle_diameter", MASK, "--ctf", "--tau2_fudge", 2,
            "--zero_mask", "--flatten_solvent", "--oversampling", 1, "--psi_step", 12,
            "--offset_range", 5, "--offset_step", 2, "--norm", "--scale", "--pool", 30, "--j", 2,
            "--dont_combine_weights_via_disc", "--random_seed", 1, cwd=project,
        )  # fmt: skip
    return last


def kept_by_class(last, true):
    """Say of each particle whether its class is one that a user keeps."""
    number = relion.table(last, relion.IMAGE, "particle").numbers(relion.CLASS)[:, 0]
    kept = np.zeros(len(true), bool)
    for one in np.unique(number):
        here = number == one
        kept[here] = np.nanmean(np.r_[true[here], 0]) > 0.5
    return kept


def density(scale):
    """Return the simulated particle's density, (scale, scale, scale), z first, and A a pixel."""
    apix = APIX * BOX / scale
    xyz = simulate.tetramer().atoms.reshape(-1, 3)[:, ::-1] / apix + scale // 2
    edges = [np.arange(scale + 1) - 0.5] * 3
    return ndimage.gaussian_filter(np.histogramdd(xyz, edges)[0], 3 / apix), apix


def refine(project, folder, particles):
    """Refine one map from the density at 40 A; return it."""
    out, last = (
        project / folder / "run",
        project / folder / f"run_it{ITERATIONS_3D:03d}_class001.mrc",
    )
    if not last.exists():
        (project / folder).mkdir(parents=True, exist_ok=True)
        truth, apix = density(LARGE)
        mrc.write(project / folder / "reference.mrc", truth.astype(np.float32), apix)
        accuracy.shell(
            project / "log.txt", "relion_refine", "--i", particles, "--o", out, "--ref",
            project / folder / "reference.mrc", "--firstiter_cc", "--ini_high", 40, "--K", 1,
            "--iter", ITERATIONS_3D, "--sym", "D2", "--particle_diameter", MASK, "--ctf",
            "--tau2_fudge", 4, "--zero_mask", "--flatten_solvent", "--oversampling", 1,
            "--healpix_order", 2, "--offset_range", 5, "--offset_step", 2, "--norm", "--scale",
            "--pool", 30, "--j", 2, "--dont_combine_weights_via_disc", "--random_seed", 1,
            cwd=project,
        )  # fmt: skip
    return last


def resolution(path):
    """Return the A at which a map's FSC with the density falls below FSC."""
    truth, apix = density(LARGE)
    z, y, x = np.indices(truth.shape) - LARGE // 2
    sphere = np.sqrt(x**2 + y**2 + z**2) * apix
    mask = np.clip((MASK / 2 + 20 - sphere) / 20, 0, 1)  # falls over 20 A
    f, g = (np.fft.fftn(volume * mask) for volume in (truth, mrcfile.read(path)))
    shell = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(LARGE)] * 3)))
    shell = np.round(shell * LARGE).astype(int).ravel()

    def total(values):
        return np.bincount(shell, values.ravel())[: LARGE // 2]

    curve = total((f * g.conj()).real) / np.sqrt(total(abs(f) ** 2) * total(abs(g) ** 2))
    below = np.flatnonzero(curve < FSC)
    if not len(below):
        return 2 * apix
    last = below[0] - (FSC - curve[below[0]]) / (curve[below[0] - 1] - curve[below[0]])
    return LARGE * apix / last


def main():
    """Print a table."""
    parser = accuracy.new_parser("downstream.py", __doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--no-3d", action="store_true", help="2D classification alone")
    args = parser.parse_args()
    project = args.project.resolve()
    shape = mrc.image(next((project / "Micrographs").glob("*.mrc"))).shape
    truth, lists = score.read_truth(project / "truth_test"), {}
    for name, where in LISTS.items():
        picks = score.read_picks(score.files_of(str(project / where)))
        lists[name] = {stem: inside(picks[stem], shape) for stem in truth}
    least = min(sum(map(len, picks.values())) for picks in lists.values())
    whole = sum(len(one.good) for one in truth.values())
    print(f"{whole} whole particles\n{'list':16} {'particles':>9} {'true':>6} {'min':>5}"
          f" {'kept by 2D':>10} {'true':>6} {'of all':>6}"
          f" {'3D':>7} {'of ' + str(least):>9}")  # fmt: skip
    for name, picks in lists.items():
        folder = f"Downstream/{name.split()[0]}/"
        small = extract(project, picks, f"{folder}small/", SMALL)
        start = time.monotonic()
        last = classify(project, f"{folder}Class2D", small)
        minutes = (time.monotonic() - start) / 60
        true = truth_of(truth, last)
        kept = kept_by_class(last, true)
        cells = f"{len(true):9} {np.nanmean(true):6.3f} {minutes:5.1f} {kept.sum():10}"
        cells += f" {np.nanmean(true[kept]):6.3f} {np.nansum(true[kept]) / whole:6.3f}"
        if not args.no_3d:
            for some, part in ((picks, "all"), (best(picks, least), "equal")):
                part = part if len(true) > least else "all"  # they are the same then
                large = extract(project, some, f"{folder}{part}/", LARGE)
                cells += f" {resolution(refine(project, f'{folder}{part}3D', large)):8.1f} A"
        print(f"{name:16} {cells}", flush=True)


if __name__ == "__main__":
    main()
