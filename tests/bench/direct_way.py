#!/usr/bin/env python3
"""Measure direct picking: speed against RELION's LoG, overlap, growth, and peak memory.

Example: python tests/bench/direct_way.py

Simulated micrographs of 4096 x 4096 px at 1.77 A, box 216 px, stand under many names in lists of
several lengths; what a micrograph takes is the difference of two lists' times over that of their
lengths, so that starting up does not count. All that are compared are timed in turn, in one run,
and the medians are held against the bounds. On a machine that others use too, wall times say
little; "all cores" is the processors' time. With --dir the project is made there and kept.
"""

import argparse
import contextlib
import csv
import functools
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "beta-galactosidase"), str(HERE)]

import mrcfile  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from watch import watch  # noqa: E402

import gen_data  # noqa: E402
import gen_model  # noqa: E402
from apbc_common import picking, relion, star  # noqa: E402
from apbc_common.classbin import ClassBin, read_json, read_model_record  # noqa: E402

APIX, BOX, DIAMETER = 1.77, 216, 180
SIMULATED = 4  # micrographs; lists of 4, 8, ... names hold the same share of each
LARGE = (8184, 11520)
ALL = "micrographs_ctf.star"
LOG = "--LoG --LoG_diam_min 150 --LoG_diam_max 180 --shrink 0".split()
# RELION then works at 724 px, without it at 4048.
FASTER = ("--lowpass", 20)


def make_project(folder, window):
    """Simulate micrographs, take labels from the truth, and train a little."""
    import extract
    import label
    import simulate

    def step(script, *words):
        with contextlib.redirect_stdout(sys.stderr):
            if script.main([str(word) for word in words]):
                sys.exit(f"{script.__name__} failed")

    if not (folder / ALL).exists():
        step(simulate, folder, "--micrographs", SIMULATED)
    for path in (folder / "truth").iterdir():
        with open(path, newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] in ("good", "broken", "ice")]
        xy = [(float(row["x"]), float(row["y"])) for row in rows]
        relion.write_coordinates(folder / f"Known/Micrographs/{path.stem}_known.star", xy)
    project, particles = ("-p", folder), "Extract/job005/particles.star"
    known = ("--coord-dir", "Known", "--coord-suffix", "_known.star", "--o", "Extract/job005")
    step(extract, *project, "-i", ALL, *known, "--box", BOX, "--scale", 64)
    truth = ("--truth", "truth", "--diameter", DIAMETER, "--apix", APIX)
    step(label, *project, "-i", particles, *truth)
    lists = ("-g", "Select/good/particles.star", "-b", "Select/bad/particles.star")
    cut = ("--from-micrographs", "-m", ALL, "--window", window, "-c")
    step(gen_data, *project, *lists, *cut)
    step(gen_model, *project, "--epochs", 2, "-c")


def write_list(folder, target, names):
    """Write a list of micrographs with the optics of the simulation."""
    optics = star.scan(folder / ALL)["optics"].read()
    columns = {relion.MICROGRAPH: names, relion.GROUP: ["1"] * len(names)}
    star.write(folder / target, {"optics": optics, "micrographs": pd.DataFrame(columns, dtype=str)})


def link(folder, lengths):
    """Write a list of each length, of links to the micrographs simulated."""
    known = relion.read_micrographs(folder / ALL).names
    names = [f"Links/m{i:04d}.mrc" for i in range(max(lengths))]
    shutil.rmtree(folder / "Links", ignore_errors=True)
    (folder / "Links").mkdir()
    for i, name in enumerate(names):
        (folder / name).symlink_to(Path("..") / known[i % len(known)])
    for length in lengths:
        write_list(folder, f"list{length}.star", names[:length])


def pick(folder, listed, *options):
    """Pick a list from the start."""
    shutil.rmtree(folder / "Picked", ignore_errors=True)
    script = (sys.executable, ROOT / "gen_picks.py")
    return watch(folder, *script, "-i", listed, "--o", "Picked", *options)


def pick_log(folder, listed, *options):
    """Pick a list with RELION's Laplacian of Gaussian."""
    shutil.rmtree(folder / "LoG", ignore_errors=True)
    return watch(folder, "relion_autopick", "--i", listed, "--odir", "LoG/", *LOG, *options)


def row(name, value, digits=2, bound=None, unit=""):
    """Print what was measured, and what it is held to."""
    held = f" (bound: {bound}{unit}{'' if value <= bound else ', MISSED'})" if bound else ""
    print(f"{name}: {value:.{digits}f}{unit}{held}", flush=True)


def bench_command(folder, lengths, runs):
    """Time and memory of the whole command, by the length of the list."""
    few, some, many = lengths
    jobs = {("ours", n): lambda n=n: pick(folder, f"list{n}.star") for n in lengths}
    jobs |= {("-j 2", n): lambda n=n: pick(folder, f"list{n}.star", "-j", 2) for n in (few, many)}
    if shutil.which("relion_autopick"):
        for name, options in (("LoG", ()), ("LoG --lowpass 20", FASTER)):
            for n in (few, 2 * few):
                jobs[name, n] = functools.partial(pick_log, folder, f"list{n}.star", *options)
    found = {key: [] for key in jobs}
    for _ in range(runs):
        for key, job in jobs.items():
            found[key].append(job())
    wall, cores, memory = (
        {key: statistics.median(run[i] for run in times) for key, times in found.items()}
        for i in range(3)
    )

    def each(who, a, b, times=wall):
        return (times[who, b] - times[who, a]) / (b - a)

    for who in dict.fromkeys(who for who, _ in jobs):
        last = max(n for one, n in jobs if one == who)
        row(f"{who}, a micrograph, wall", each(who, few, last), unit=" s")
        row(f"{who}, a micrograph, all cores", each(who, few, last, cores), unit=" s")
        if who.startswith("LoG"):
            bound = 0.5 if who == "LoG" else None
            ratio = each("ours", few, many) / each(who, few, last)
            row(f"ours to {who}, wall", ratio, 2, bound)
            ratio = each("ours", few, many, cores) / each(who, few, last, cores)
            row(f"ours to {who}, all cores", ratio)
    if ("LoG", few) not in jobs:
        print("ours to LoG: left out, relion_autopick is not on the PATH")
    for what, times in (("wall", wall), ("all cores", cores)):
        growth = each("ours", some, many, times) / each("ours", few, some, times)
        row(f"growth: {some} to {many} by {few} to {some}, {what}", growth, 2, 1.3)
    row("-j 2 to ours, wall", each("-j 2", few, many) / each("ours", few, many))
    for n in (few, many):
        row(f"peak memory, {n} of 4096 x 4096 px", memory["ours", n], 0, 1500, " MB")
    flat = memory["ours", many] / memory["ours", few]
    row(f"peak memory of {many} to that of {few}", flat, 2, 1.1)


def bench_overlap(folder, lengths, runs):
    """Conditioning alone, the network alone, and both at a time as gen_picks does it."""
    few, some, _ = lengths
    classbin = ClassBin(folder, folder / "Overlap")
    model_file = ClassBin(folder).model
    record = read_model_record(model_file)
    settings = read_json(folder / "Picked/run_gen_picks.json", "gen_picks.py", "options")["options"]
    work = picking.Work(folder, classbin, model_file, record, settings)
    listed = relion.read_micrographs(folder / f"list{some}.star")
    todo = list(listed.apix_by_name().items())
    picker = picking.picker_of(work)

    def timed(job, items):
        start = time.perf_counter()
        made = [job(item) for item in items]
        return (time.perf_counter() - start) / len(items), made

    def both(count):
        start = time.perf_counter(), time.process_time()
        for result in picking.pick_each(work, todo[:count], None):
            if result.fault:
                sys.exit(result.fault)
        return time.perf_counter() - start[0], time.process_time() - start[1]

    found = {"conditioning": [], "network": [], "whole": [], "whole, all cores": []}
    for _ in range(runs):
        seconds, prepared = timed(lambda one: picker.prepare(folder / one[0], one[1])[0], todo)
        found["conditioning"].append(seconds)
        picker.find(prepared[0])  # traced
        found["network"].append(timed(picker.find, prepared)[0])
        for name, a, b in zip(("whole", "whole, all cores"), both(few), both(some), strict=True):
            found[name].append((b - a) / (some - few))
    each = {name: statistics.median(times) for name, times in found.items()}
    for name, seconds in each.items():
        row(f"overlap: {name}, a micrograph", seconds, unit=" s")
    row(
        "overlap: whole to the larger",
        each["whole"] / max(each["conditioning"], each["network"]),
        2,
        1.3,
    )
    # The network alone takes all cores: where they are few, this tells what more could be had.
    cores = len(os.sched_getaffinity(0))
    busy = 100 * each["whole, all cores"] / cores / each["whole"]
    row(f"overlap: share of {cores} cores in use", busy, 0, unit=" %")


def bench_large(folder):
    """Peak memory of one micrograph of 11,520 x 8,184 px."""
    rng = np.random.default_rng(0)
    with mrcfile.new_mmap(folder / "large.mrc", LARGE, mrc_mode=2, overwrite=True) as file:
        for start in range(0, LARGE[0], 256):
            rows = file.data[start : start + 256]
            rows[:] = rng.standard_normal(rows.shape, np.float32)
        file.voxel_size = APIX
    write_list(folder, "large.star", ["large.mrc"])
    seconds, _, memory = pick(folder, "large.star")
    row("one of 11520 x 8184 px, whole command", seconds, 1, unit=" s")
    row("peak memory, one of 11520 x 8184 px", memory, 0, 4000, " MB")
    (folder / "large.mrc").unlink()


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="direct_way.py", description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="of the project (default: one that is not kept)")
    parser.add_argument("--runs", type=int, default=3, help="of each in turn (default: 3)")
    parser.add_argument("--window", default="270", help="A that a window covers (default: 270)")
    parser.add_argument(
        "--lengths",
        type=int,
        nargs=3,
        default=(4, 16, 32),
        metavar="N",
        help="of the lists, growing (default: 4 16 32)",
    )
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = args.dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        if not ClassBin(folder).model.exists():
            make_project(folder, args.window)
        link(folder, {*args.lengths, 2 * args.lengths[0]})
        bench_command(folder, args.lengths, args.runs)
        bench_overlap(folder, args.lengths, args.runs)
        bench_large(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
