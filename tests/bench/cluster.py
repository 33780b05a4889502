#!/usr/bin/env python3
"""Measure picking on a Dask cluster: what it costs, what a second worker brings, and kills.

Example: python tests/bench/cluster.py --dir Bench

Scheduler and workers are processes of their own on the loopback address. In `throughput` each
worker has a core of its own (taskset) and one thread, so that TensorFlow takes one thread too; a
micrograph of 4096 x 4096 px takes the difference of two lists' times over that of their lengths. In
`overhead` -j 1, one worker with all cores, stands against the command without -j, in turn. In
`kills` 200 micrographs of 512 x 512 px are picked by -j 4, a worker is killed at 10 random moments,
and all files are compared with those of a run in one process. DIR keeps the project of the others.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import conftest  # noqa: E402
import direct_way  # noqa: E402

FEW, MANY = 2, 18
LONG = 4, 44  # micrographs, since a few per cent are asked about
TINY, JOBS, KILLS = 200, 4, 10
BENCHES = "throughput", "overhead", "kills"


@contextlib.contextmanager
def dask(folder, cores):
    """Give the address of a scheduler that has a worker on each of some cores."""
    file = folder / "scheduler.json"
    file.unlink(missing_ok=True)
    module = (sys.executable, "-m", "dask")
    quiet = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file)
    started = [subprocess.Popen([*module, *scheduler, "--dashboard-address", ":0"], **quiet)]
    try:
        while not file.exists():
            time.sleep(0.1)
        for core in cores:
            worker = ("worker", "--scheduler-file", file, "--nthreads", "1", "--no-nanny")
            line = ["taskset", "-c", str(core), *module, *worker, "--no-dashboard"]
            started.append(subprocess.Popen(line, **quiet))
        yield file
    finally:
        for process in started:
            process.terminate()
            process.wait()


def bench_throughput(folder, runs):
    """Print what a micrograph takes with one worker and with two, and the ratio."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    found = {1: [], 2: []}
    for _ in range(runs):
        for workers, times in found.items():
            with dask(folder, cores[:workers]) as scheduler:
                wall = []
                for length in (FEW, FEW, MANY):  # the first loads the model
                    told = ("--scheduler", scheduler)
                    wall.append(direct_way.pick(folder, f"list{length}.star", *told)[0])
                times.append((wall[2] - wall[1]) / (MANY - FEW))
    one, two = (statistics.median(times) for times in found.values())
    for name, seconds in (("one worker", one), ("two workers", two)):
        direct_way.row(f"{name}, {MANY - FEW} micrographs, each", seconds, unit=" s")
    held = "" if one / two >= 1.7 else ", MISSED"
    print(f"throughput of two workers to that of one: {one / two:.2f} (bound: 1.7{held})")


def bench_overhead(folder, runs):
    """Print what Dask adds to a micrograph."""
    found = {(): [], ("-j", 1): []}
    for _ in range(runs):
        for options, times in found.items():
            few, many = (
                direct_way.pick(folder, f"list{length}.star", *options)[0] for length in LONG
            )
            times.append((many - few) / (LONG[1] - LONG[0]))
    alone, dasked = (statistics.median(times) for times in found.values())
    direct_way.row("without Dask, a micrograph", alone, unit=" s")
    direct_way.row("-j 1, a micrograph", dasked, unit=" s")
    direct_way.row("-j 1 to without", dasked / alone, 3, 1.05)


def bench_kills(folder, seed):
    """Kill workers while a list is picked; stop unless all files are those of a quiet run."""
    project = conftest.make_project(folder)
    for step in (
        ("gen_data", "-g", project.good, "-b", project.bad, "--from-micrographs"),
        ("gen_model", "--epochs", 30, "--batch", 16),
    ):
        with contextlib.redirect_stdout(sys.stderr):
            if project.call(*step):
                sys.exit(f"{step[0]} failed")
    conftest.more(project, TINY - 3)
    line = [sys.executable, direct_way.ROOT / "gen_picks.py", "-i", project.micrographs]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    quiet = conftest.contents(project / "ClassBin/picks")
    shutil.rmtree(project / "ClassBin/picks")

    dice, start = random.Random(seed), time.monotonic()
    with subprocess.Popen(
        [*line, "-j", str(JOBS)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        killed = 0
        picks = project / "ClassBin/picks/Micrographs"
        while not any(picks.rglob("*_autopick.star")) and process.poll() is None:
            time.sleep(0.1)
        while killed < KILLS:
            time.sleep(dice.uniform(0.1, 2))
            if process.poll() is not None:
                sys.exit(f"the run ended after {killed} kills: {process.stderr.read().decode()}")
            killed += kill_one(process.pid, dice)
        _, err = process.communicate()
    if process.returncode:
        sys.exit(err.decode())
    found = conftest.contents(project / "ClassBin/picks")
    other = [name for name in quiet.keys() | found if quiet.get(name) != found.get(name)]
    spent = time.monotonic() - start
    print(
        f"{TINY} micrographs, -j {JOBS}, {killed} workers killed, {spent:.0f} s: {len(quiet)} "
        f"files, {len(other)} differ {other[:3] or ''}"
    )
    if other:
        sys.exit(1)


def kill_one(parent, dice):
    """Kill one of a process's workers; return whether there was one."""
    if workers := conftest.workers_of(parent):
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(workers), signal.SIGKILL)
            return True
    return False


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="cluster.py", description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="of the project (default: one that is not kept)")
    parser.add_argument("--runs", type=int, default=3, help="of each in turn (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: 0)")
    parser.add_argument("--only", choices=BENCHES, help="one of them")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.resolve()
        wanted = [args.only] if args.only else BENCHES
        if wanted != ["kills"]:
            if not direct_way.ClassBin(folder).model.exists():
                direct_way.make_project(folder, "270")
            direct_way.link(folder, (FEW, MANY, *LONG))
        if "throughput" in wanted:
            bench_throughput(folder, args.runs)
        if "overhead" in wanted:
            bench_overhead(folder, args.runs)
        if "kills" in wanted:
            tiny = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tiny"
            bench_kills(tiny, args.seed)


if __name__ == "__main__":
    main()
