#!/usr/bin/env python3
"""Measure how long learning takes, in each way, and picking with what was learnt, beside LoG.

Example: python tests/bench/times.py --dir Bench

Of set `standard`, seed 1, of accuracy.py: 5000 particles and their added negatives, more than the
4000 windows that the bounds are for. Learning is the whole gen_model.py; what a micrograph takes is
the difference of two lists' times over that of their lengths, the medians of --runs in turn. Run
it alone: other work on the machine is in the times.
"""

import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
from watch import watch  # noqa: E402

BOUND = {"plain": 180, "members": 480}  # s
LOG = "LoG --lowpass 20"  # as accuracy.py's; direct_way.py has the slower one without
FEW, MANY = 2, accuracy.TEST  # micrographs of the two lists


def learn(project, way):
    """Teach in a way; return wall time (s), that of all cores, and the peak of memory (MB)."""
    script = sys.executable, accuracy.ROOT / "gen_model.py", "--data", "micrographs_1.5"
    return watch(project, *script, "--o", f"times/{way}", "-c", *accuracy.WAYS[way])


def pick(project, way, listed):
    """Pick a list from the start; LoG is a way too; return the wall time (s)."""
    shutil.rmtree(project / "times/picks", ignore_errors=True)
    if way == LOG:
        start = time.monotonic()
        accuracy.log_candidates(project, listed, "times/picks/", accuracy.DIAMETER["standard"])
        return time.monotonic() - start
    script = sys.executable, accuracy.ROOT / "gen_picks.py", "-i", listed
    return watch(project, *script, "--model", f"times/{way}/model.h5", "--o", "times/picks")[0]


def main():
    """Print a line for each way."""
    parser = accuracy.new_parser("times.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=list(accuracy.WAYS))
    parser.add_argument("--runs", type=int, default=3, help="of picking, in turn")
    args = parser.parse_args()
    project = args.dir.resolve() / "standard1"
    accuracy.make_simulated(project, "standard", 1)
    accuracy.cut_simulated(project, "standard", 1)
    accuracy.part_of_list(project / "test.star", project / "few.star", 0, FEW)
    for way in args.ways:
        wall, cores, memory = learn(project, way)
        held = f" (bound: {BOUND[way]} s)" if way in BOUND else ""
        print(f"learning, {way}: {wall:.0f} s{held}, all cores {cores:.0f} s, {memory:.0f} MB")
    found = {(way, n): [] for way in (LOG, *args.ways) for n in (FEW, MANY)}
    for _ in range(args.runs):
        for way, n in found:
            listed = {FEW: "few.star", MANY: "test.star"}[n]
            found[way, n].append(pick(project, way, listed))
    each = {
        way: (statistics.median(found[way, MANY]) - statistics.median(found[way, FEW]))
        / (MANY - FEW)
        for way in (LOG, *args.ways)
    }
    for way, seconds in each.items():
        ratio = f", {seconds / each[LOG]:.2f} of LoG's" if way != LOG else ""
        print(f"picking, {way}: {seconds:.2f} s a micrograph{ratio}")


if __name__ == "__main__":
    main()
