#!/usr/bin/env python3
"""Measure how long the report on 12 micrographs takes, and how large it is.

Example: python tests/bench/report.py --dir Bench

Of set `standard`, seed 1, of accuracy.py: the 12 micrographs that were learnt from are picked by
one network (`plain`), or by five (`members`), and show_picks.py --report tells of them. The whole
command is timed, its start included. Run it alone: other work on the machine is in the times.
"""

import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
from watch import watch  # noqa: E402

BOUND = 20, 20  # s, MB


def measure(project, data, way, runs):
    """Pick, then report so often; return the times (s), peak memory and the page's size (MB)."""
    accuracy.teach_and_pick(project, data, way, 1, "test.star", data / way)
    folder = data / way / "report"
    accuracy.pick(project, data / way / "model.h5", "learn.star", folder)
    script = sys.executable, accuracy.ROOT / "show_picks.py", "--report"
    found = [
        watch(project, *script, "-s", folder / "picks.star", "--o", folder) for _ in range(runs)
    ]
    size = (folder / "report.html").stat().st_size / 1e6
    return [one[0] for one in found], max(one[2] for one in found), size


def main():
    """Print a line for each way."""
    parser = accuracy.new_parser("report.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    parser.add_argument("--ways", nargs="+", choices=accuracy.WAYS, default=["plain", "members"])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    project = args.dir.resolve() / "standard1"
    accuracy.make_simulated(project, "standard", 1)
    data = accuracy.cut_simulated(project, "standard", 1)
    for way in args.ways:
        times, memory, size = measure(project, data, way, args.runs)
        each = " ".join(f"{seconds:.1f}" for seconds in times)
        print(
            f"{way}: {accuracy.LEARN} micrographs in {statistics.median(times):.1f} s ({each}; "
            f"bound: {BOUND[0]} s), {memory:.0f} MB of memory, a page of {size:.1f} MB "
            f"(bound: {BOUND[1]} MB)"
        )


if __name__ == "__main__":
    main()
