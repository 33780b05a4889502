#!/usr/bin/env python3
"""Measure how well micrographs are picked, against truth that no picker has seen.

Example: python tests/bench/accuracy.py simulated --dir Bench --presets standard --seeds 1 2 3
python tests/bench/accuracy.py real --dir Bench --data ../shared/data/empiar-10017

simulated: of 20 micrographs of a preset, 12 are learnt from and 8 are picked. Labels: RELION's LoG
candidates sorted by the truth with 5 % of them wrong, and origins as 2D classification gives them,
5 A off; at most 5000, for few 600.
real: seven micrographs, each picked by what the other six taught. Labels: LoG candidates sorted by
the CryoPPP centres, none wrong, or the sparse manual ones (--labels manual).

Columns: `off` is the expected calibration error of all candidates' chances, `false5` the share of
false picks at the threshold of gen_picks.py --fdr 0.05; both against the truth.

Every step keeps what it made in DIR, so that a run that was stopped goes on. Needs RELION 3.1.
"""

import argparse
import contextlib
import io
import itertools
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE = ROOT / "beta-galactosidase"
sys.path[:0] = [str(ROOT), str(EXAMPLE)]

import numpy as np  # noqa: E402
import score  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

import gen_data  # noqa: E402
import gen_model  # noqa: E402
import gen_picks  # noqa: E402
from apbc_common import classbin, decision, mrc, relion, results  # noqa: E402

APIX = 1.77
DIAMETER = {"standard": 180, "hard": 180, "few": 270}  # A
BOX = {"standard": 216, "hard": 216, "few": 324}  # px
LOG_RANGE = {180: (120, 200), 270: (220, 320)}  # A
LABELS = {"standard": 5000, "hard": 5000, "few": 600}
LEARN, TEST = 12, 8  # micrographs of a simulated set
CENTRING = 5  # A, error of an origin's x and y
LISTS = "-g Select/good/particles.star -b Select/bad/particles.star -m learn.star".split()
WAYS = {
    "plain": (),
    "rounds": ("--rounds", 2),
    "members": ("--members", 5),
    "both": ("--members", 5, "--rounds", 2),
}  # how gen_model.py is told to learn
SAID = "said.txt"  # what gen_model.py printed
COLUMNS = "precision recall f1 best_f1 ap doubles off false5 distance".split()
FDR = 0.05


def shell(log, *command, cwd):
    """Run a command, its output to a log; stop with the log's end if it fails."""
    with open(log, "a") as out:
        done = subprocess.run([str(c) for c in command], cwd=cwd, stdout=out, stderr=out)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{log.read_text()[-2000:]}")


def ours(module, project, *args):
    """Run one of the scripts in this process; what it prints goes to a log, and is returned."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = module.main(["-p", str(project), *map(str, args)])
    with open(project / "log.txt", "a") as log:
        log.write(text.getvalue())
    if code:
        sys.exit(f"{module.__name__} failed:\n{text.getvalue()[-2000:]}")
    return text.getvalue()


def log_candidates(project, star, folder, diameter):
    """Pick with RELION's Laplacian of Gaussian; where it has been done, nothing is done."""
    low, high = LOG_RANGE[diameter]
    shell(
        project / "log.txt", "relion_autopick", "--i", star, "--odir", folder, "--pickname",
        "autopick", "--LoG", "--LoG_diam_min", low, "--LoG_diam_max", high, "--shrink", 0,
        "--lowpass", 20, "--LoG_upper_threshold", 5, "--only_do_unfinished", cwd=project,
    )  # fmt: skip


def extract(project, star, coordinates, suffix, job, box):
    """Extract with RELION, as its GUI would: scaled to 64 px, normalised, inverted."""
    if not (project / job / "particles.star").exists():
        shell(
            project / "log.txt", "relion_preprocess", "--i", star, "--coord_dir", coordinates,
            "--coord_suffix", suffix, "--part_dir", job, "--part_star", f"{job}particles.star",
            "--extract", "--extract_size", box, "--scale", 64, "--norm", "--bg_radius", 24,
            "--invert_contrast", cwd=project,
        )  # fmt: skip


def part_of_list(source, target, first, last):
    """Write a micrograph list with some of the rows of another."""
    lines, row = [], 0
    for line in source.read_text().splitlines():
        is_row = line.strip().startswith("Micrographs/")
        row += is_row
        if not is_row or first < row <= last:
            lines.append(line)
    target.write_text("\n".join(lines) + "\n")


def make_simulated(project, preset, seed):
    """Simulate, pick candidates, extract and label."""
    if (project / "Select").exists():
        return
    log = project / "log.txt"
    project.mkdir(parents=True, exist_ok=True)
    shell(
        log, sys.executable, EXAMPLE / "simulate.py", project, "--preset", preset, "--seed", seed,
        "--micrographs", LEARN + TEST, cwd=ROOT,
    )  # fmt: skip
    part_of_list(project / "micrographs_ctf.star", project / "learn.star", 0, LEARN)
    part_of_list(project / "micrographs_ctf.star", project / "test.star", LEARN, LEARN + TEST)
    for name in relion.read_micrographs(project / "test.star").names:
        truth = project / "truth" / f"{Path(name).stem}.csv"
        (project / "truth_test").mkdir(exist_ok=True)
        shutil.copy(truth, project / "truth_test")
    for part in ("learn", "test"):
        log_candidates(project, f"{part}.star", f"AutoPick/{part}/", DIAMETER[preset])
    extract(
        project, "learn.star", "AutoPick/learn/", "_autopick.star", "Extract/job005/", BOX[preset]
    )
    label(project, preset, seed)


def label(project, preset, seed, *errors):
    """Sort the candidates as a user would; ``errors`` are options of label.py."""
    shell(
        project / "log.txt", sys.executable, EXAMPLE / "label.py", "-i",
        "Extract/job005/particles.star", "--truth", "truth", "--diameter", DIAMETER[preset],
        "--apix", APIX, "--seed", seed, "--labels", LABELS[preset], "--centring", CENTRING, *errors,
        cwd=project,
    )  # fmt: skip


def reference_picks(project, diameter):
    """Pick with RELION's template matching, the template the average of the good list."""
    if (project / "AutoPick/ref").exists():
        return
    good = relion.read_particles(project, project / "Select/good/particles.star")
    total = np.zeros((good.optics[0].box,) * 2)
    for index, name in enumerate(good.stacks):
        stack = mrc.Stack(project / name)
        total += stack.read(good.section[good.stack == index]).sum(axis=0)
        stack.close()
    mrc.write(project / "average.mrcs", (total / len(good))[None], good.optics[0].apix)
    shell(
        project / "log.txt", "relion_autopick", "--i", "test.star", "--odir", "AutoPick/ref/",
        "--pickname", "autopick", "--ref", "average.mrcs", "--angpix_ref", good.optics[0].apix,
        "--invert", "--ang", 360, "--lowpass", 20, "--particle_diameter", diameter, "--shrink", 0,
        "--threshold", 0, "--min_distance", diameter / 2, cwd=project,
    )  # fmt: skip


def cut_windows(project, folder, seed, *options):
    """Make a data set in a folder."""
    ours(gen_data, project, "--o", folder, "--seed", seed, "--no-png", *options)


def from_micrographs(diameter, box, times):
    """Return the options of windows from micrographs: so many diameters wide, or the box."""
    angst = box * APIX if times == "box" else float(times) * diameter
    return "--from-micrographs", "--diameter", diameter, "--window", f"{angst:.1f}"


def cut_simulated(project, preset, seed, times="1.5"):
    """Make the data set of windows from the micrographs of a simulated set; return its folder."""
    data = project / f"micrographs_{times}"
    options = from_micrographs(DIAMETER[preset], BOX[preset], times)
    cut_windows(project, data, seed, *LISTS, *options)
    return data


def pick(project, model, star, folder):
    """Pick micrographs with a model; return the lists of picks and of candidates."""
    ours(gen_picks, project, "-i", star, "--model", model, "--o", folder)
    return folder / "picks.star", folder / "candidates.star"


def teach_and_pick(project, data, way, seed, star, folder):
    """Do both in a folder, in a way of WAYS, from a data set; where that is done, nothing is."""
    lists = folder / "picks/picks.star", folder / "picks/candidates.star"
    if not lists[1].exists():
        said = ours(gen_model, project, "--data", data, "--o", folder, "--seed", seed, *WAYS[way])
        (folder / SAID).write_text(said)
        pick(project, folder / "model.h5", star, folder / "picks")
    return lists


def judge(truth, diameter, picks, candidates, model=None):
    """Score picks at their own cut; the best cut and the AP are of the candidates."""
    wanted = score.read_truth(truth)
    found, others = (score.read_picks(score.files_of(str(path))) for path in (picks, candidates))
    at_cut = figures(wanted, diameter, found, others)
    return at_cut | (chances(*judged(model, wanted, others, diameter / APIX)) if model else {})


def figures(wanted, diameter, found, others):
    """Return the scores of picks; the best cut and the AP of the others, among which they are."""
    at_cut, of_all = (score.score(each, wanted, diameter / APIX) for each in (found, others))
    at_cut |= {name: of_all[name] for name in ("best_f1", "ap")}
    at_cut["distance"] *= APIX
    at_cut["doubles"] = doubles(found, wanted, diameter / APIX) / max(at_cut["picks"], 1)
    return at_cut


def judged(model, truth, candidates, diameter):
    """Return of candidates: chance, whether it is right, whether it is a pick at --fdr FDR."""
    expected = classbin.read_model_record(model)["calibration"]["expected"]
    told = np.concatenate(list(score.judge_each(candidates, truth, diameter).values()))
    level = decision.level(expected, FDR)
    least = level["from"] if level else np.inf
    return told[:, 0], np.isfinite(told[:, 1]), told[:, 0] >= least


def chances(chance, right, sure):
    """Return how far the chances of candidates are off, and what is false at --fdr FDR."""
    return {
        "off": results.reliability({"label": right, "probability": chance})[2],
        "false5": float(1 - right[sure].mean()) if sure.any() else float("nan"),
    }


def doubles(picks, truth, diameter):
    """Count the picks on a particle, within half its diameter, less one for each particle."""
    count = 0
    for stem, one in truth.items():
        if stem in picks and len(one.good):
            distance, nearest = cKDTree(one.good).query(picks[stem][:, :2])
            near = nearest[distance <= diameter / 2]
            count += len(near) - len(set(near.tolist()))
    return count


def simulated(folder, preset, seed, args):
    """Yield (row's name, scores) of one preset and seed."""
    project, diameter = folder / f"{preset}{seed}", DIAMETER[preset]
    make_simulated(project, preset, seed)
    reference_picks(project, diameter)
    truth = project / "truth_test"
    for name, place in (("RELION LoG", "AutoPick/test"), ("RELION --ref", "AutoPick/ref")):
        yield name, judge(truth, diameter, project / place, project / place)
    for times, way in itertools.product(args.windows, args.ways):
        data = cut_simulated(project, preset, seed, times)
        picks = teach_and_pick(project, data, way, seed, "test.star", data / way)
        unit = "" if times == "box" else " d"
        found = judge(truth, diameter, *picks, data / way / "model.h5")
        yield f"from micrographs, {times}{unit}, {way}", found
    if args.crossings:
        data = project / "stacks"
        cut_windows(project, data, seed, *LISTS, "--diameter", diameter)
        picks = teach_and_pick(project, data, "plain", seed, "test.star", data / "plain")
        yield "from stacks, picks micrographs", judge(truth, diameter, *picks)
        yield from grid_picks(project, preset, args.windows[0], truth, diameter)


def grid_picks(project, preset, times, truth, diameter):
    """Yield what the models of both sources make of the grid."""
    if not (project / "Grid").exists():
        import gen_grid

        ours(gen_grid, project, "-i", "test.star", "-x", BOX[preset], "--o", project / "Grid")
    extract(project, "test.star", "Grid/", "_grid.star", "Extract/job014/", BOX[preset])
    for source, of in (("micrographs", f"micrographs_{times}"), ("stacks", "stacks")):
        out = project / f"grid_{of}"
        ours(
            gen_picks, project, "-i", "Extract/job014/particles.star", "-m", "test.star",
            "--model", project / of / "plain/model.h5", "--o", out,
        )  # fmt: skip
        lists = [out / "particles_true.star"] * 2
        yield f"from {source}, sorts the grid", judge(truth, diameter, *lists)


def table(rows):
    """Print the median over seeds of each row, and F1 of each seed."""
    print(f"{'':34}", *(f"{name:>9}" for name in COLUMNS), "  F1 of each")
    for name, found in rows.items():
        cells = [statistics.median(one.get(column, np.nan) for one in found) for column in COLUMNS]
        numbers = [f"{value:9.3f}" for value in cells[:-1]] + [f"{cells[-1]:9.1f}"]
        print(f"{name:34}", *numbers, "  " + " ".join(f"{one['f1']:.3f}" for one in found))


def run_simulated(args):
    """Print a table for each preset."""
    tables(args, lambda preset, seed: simulated(args.dir, preset, seed, args))


def tables(args, measure):
    """Print a table for each preset of what ``measure`` yields of it and a seed."""
    for preset in args.presets:
        rows = {}
        for seed in args.seeds:
            for name, found in measure(preset, seed):
                rows.setdefault(name, []).append(found)
                print(f"{preset} {seed} {name}: F1 {found['f1']:.3f}", file=sys.stderr, flush=True)
        print(f"\n{preset}: seeds {args.seeds}; F1 at the default threshold, distance in A")
        table(rows)


def make_real(project, data):
    """Write the real micrographs as a project; extract LoG candidates and the manual labels."""
    if (project / "Manual/bad").exists():
        return
    project.mkdir(parents=True, exist_ok=True)
    log, star = project / "log.txt", "micrographs_ctf.star"
    shell(log, sys.executable, data / "make_project.py", project, cwd=project)
    log_candidates(project, star, "AutoPick/log/", 180)
    extract(project, star, "AutoPick/log/", "_autopick.star", "Extract/job005/", 216)
    shell(
        log, sys.executable, EXAMPLE / "label.py", "-i", "Extract/job005/particles.star", "--truth",
        "truth", "--diameter", 180, "--apix", APIX, "--wrong", 0, "--o", "LoG", cwd=project,
    )  # fmt: skip
    for kind in ("good", "bad"):
        extract(project, star, f"Labels/{kind}/", "_manual.star", f"Manual/{kind}/", 216)


def leave_one_out(project, truth, labels, seed, times, way):
    """Pick each micrograph with what the others taught.

    Return picks and candidates of all, and `chances`.
    """
    picks, candidates, said = {}, {}, []
    names = relion.read_micrographs(project / "micrographs_ctf.star").names
    for number, name in enumerate(names):
        fold = project / f"{labels}{seed}_{times}_{number}"
        make_fold(project, fold, labels, name)
        lists = "-g", fold / "good.star", "-b", fold / "bad.star", "-m", "micrographs_ctf.star"
        cut_windows(project, fold, seed, *lists, *from_micrographs(180, 216, times))
        made = teach_and_pick(project, fold, way, seed, fold / "left_out.star", fold / way)
        found, others = (score.read_picks([path]) for path in made)
        picks |= found
        candidates |= others
        said.append(judged(fold / way / "model.h5", truth, others, 180 / APIX))
        print(f"seed {seed}: {number + 1} of {len(names)} picked", file=sys.stderr, flush=True)
    return picks, candidates, chances(*map(np.concatenate, zip(*said, strict=True)))


def make_fold(project, fold, labels, left_out):
    """Write the lists without one micrograph, and the list of that one."""
    if (fold / "left_out.star").exists():
        return
    fold.mkdir()
    for kind in ("good", "bad"):
        particles = relion.read_particles(project, project / labels / kind / "particles.star")
        keep = particles.micrograph != particles.micrographs.index(left_out)
        relion.copy_particles(particles, fold / f"{kind}.star", keep, {})
    text = (project / "micrographs_ctf.star").read_text().splitlines()
    kept = [line for line in text if "Micrographs/" not in line or left_out in line]
    (fold / "left_out.star").write_text("\n".join(kept) + "\n")


def bootstrap(measure, stems, count=1000):
    """Return the 95 % interval of a measure over micrographs drawn with replacement."""
    rng = np.random.default_rng(0)
    values = [measure(rng.choice(stems, len(stems))) for _ in range(count)]
    return np.percentile(values, (2.5, 97.5))


def centred_distance(picks, truth):
    """Return the median distance of right picks less their mean offset, A."""
    away = []
    for stem, rows in picks.items():
        distance, nearest = cKDTree(truth[stem].good).query(rows[:, :2])
        right = distance <= 0.3 * 180 / APIX
        away.append(rows[right, :2] - truth[stem].good[nearest[right]])
    away = np.concatenate(away)
    return float(np.median(np.hypot(*(away - away.mean(axis=0)).T)) * APIX)


def run_real(args):
    """Print F1 and AP with intervals for each seed, and the medians."""
    project = args.dir / "real"
    make_real(project, args.data.resolve())
    truth = score.read_truth(project / "truth")
    labels, found = {"log": "LoG", "manual": "Manual"}[args.labels], []
    print(f"seven denoised micrographs, each picked by what six taught; labels: {args.labels},")
    print("sorted by the truth; F1 at the default threshold, 95 % intervals over micrographs")
    for seed in args.seeds:
        how = labels, seed, args.window, args.way
        picks, candidates, said = leave_one_out(project, truth, *how)

        def measure(stems, of, name):
            chosen = {f"{i}": stem for i, stem in enumerate(stems)}
            return score.score(
                {i: of[stem] for i, stem in chosen.items() if stem in of},
                {i: truth[stem] for i, stem in chosen.items()},
                180 / APIX,
            )[name]

        stems = sorted(truth)
        row = {
            "f1": measure(stems, picks, "f1"),
            "best_f1": measure(stems, candidates, "best_f1"),
            "ap": measure(stems, candidates, "ap"),
            "distance": centred_distance(picks, truth),
            **said,
        }
        f1 = bootstrap(lambda some: measure(some, picks, "f1"), stems)  # noqa: B023
        ap = bootstrap(lambda some: measure(some, candidates, "ap"), stems)  # noqa: B023
        found.append(row)
        print(
            f"seed {seed}: F1 {row['f1']:.3f} ({f1[0]:.3f} to {f1[1]:.3f}), at the best cut "
            f"{row['best_f1']:.3f}, AP {row['ap']:.3f} ({ap[0]:.3f} to {ap[1]:.3f}), "
            f"distance {row['distance']:.1f} A, chances off by {row['off']:.3f}, "
            f"{row['false5']:.3f} false where {FDR:g} is expected",
            flush=True,
        )
    print("median:", *(f"{n} {statistics.median(r[n] for r in found):.3f}" for n in found[0]))


def new_parser(prog, doc):
    """Return a parser that a script's docstring describes."""
    title, _, rest = doc.partition("\n\n")
    return argparse.ArgumentParser(
        prog=prog,
        description=title,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def build_parser():
    """Return the parser."""
    parser = new_parser("accuracy.py", __doc__)
    sub = parser.add_subparsers(required=True)
    one = sub.add_parser("simulated", help="the simulated presets")
    one.add_argument("--presets", nargs="+", choices=DIAMETER, default=list(DIAMETER))
    one.add_argument("--windows", nargs="+", default=["1.5"], metavar="TIMES",
                     help="of the diameter, or box (default: 1.5)")  # fmt: skip
    one.add_argument("--ways", nargs="+", choices=WAYS, default=["plain"],
                     help="to learn (default: plain)")  # fmt: skip
    one.add_argument("--crossings", action="store_true", help="stack-trained models, and the grid")
    one.set_defaults(run=run_simulated)
    two = sub.add_parser("real", help="the seven real micrographs")
    two.add_argument("--data", type=Path, required=True, help="the folder empiar-10017")
    two.add_argument("--labels", choices=("log", "manual"), default="log")
    two.add_argument("--window", default="1.5", metavar="TIMES", help="as above (default: 1.5)")
    two.add_argument("--way", choices=WAYS, default="plain", help="to learn (default: plain)")
    two.set_defaults(run=run_real)
    for each in (one, two):
        each.add_argument("--dir", type=Path, required=True, help="where everything is kept")
        each.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    return parser


if __name__ == "__main__":
    arguments = build_parser().parse_args()
    arguments.dir = arguments.dir.resolve()
    arguments.run(arguments)
