#!/usr/bin/env python3
"""Measure what picking costs, hold a model of it against that, and say what a facility will need.

Example: python tests/bench/cost.py --dir Bench

The model: a command takes START, and each micrograph READ for each million of its pixels, and PLACE
for each million of places scored and each network of an ensemble. A place is one of the model's
pixels by the stride. The three are fitted to what FITTED took, and held against HELD, which they
have not seen. Micrographs are noise, of one file under many names. Run it alone: other work on the
machine is in the times. DIR keeps the project.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import direct_way  # noqa: E402
import numpy as np  # noqa: E402
from watch import watch  # noqa: E402

from apbc_common import classbin, files, mrc, network  # noqa: E402

FEW, MANY = 2, 10
# Pixels along an edge, stride, networks.
FITTED = [(2048, 4, 1), (4096, 4, 1), (4096, 2, 1), (4096, 8, 1), (4096, 4, 5)]
HELD = [(5760, 4, 1), (2048, 4, 5)]
LENGTHS = 1, 4, 16, 64  # of lists of 4096 x 4096 px
FACILITY, WORKERS = 20_000, (1, 8, 64)


def make_models(folder):
    """Train one network a little, and make an ensemble of it; return {networks: model}."""
    if not classbin.ClassBin(folder).model.exists():
        direct_way.make_project(folder, "270")
    one = classbin.ClassBin(folder).model
    five = folder / "five/model.h5"
    if not five.exists():
        record = classbin.read_model_record(one)
        nets = network.single(network.load_model(one, record))
        with files.atomic(five) as part:
            network.save_model(network.all_ways(*nets * 5), part)
        classbin.write_json(classbin.model_record(five), record | {"sha256": files.digest(five)})
    return {1: one, 5: five}


def make_lists(folder, size, lengths):
    """Write lists of so many names of one micrograph of noise."""
    noise = folder / f"Noise/{size}.mrc"
    if not noise.exists():
        rng = np.random.default_rng(0)
        mrc.write(noise, rng.standard_normal((size, size), np.float32), direct_way.APIX)
    names = [f"Noise/{size}_{i}.mrc" for i in range(max(lengths))]
    for name in names:
        (folder / name).unlink(missing_ok=True)
        os.link(noise, folder / name)
    for length in lengths:
        direct_way.write_list(folder, f"noise{size}_{length}.star", names[:length])


def pick(folder, model, size, stride, length):
    """Return the seconds and the MB of a run."""
    shutil.rmtree(folder / "Picked", ignore_errors=True)
    script = (sys.executable, direct_way.ROOT / "gen_picks.py", "-i", f"noise{size}_{length}.star")
    options = ("--model", model, "--stride", stride, "--threshold", 0.9, "--o", "Picked")
    wall, _, memory = watch(folder, *script, *options)
    return wall, memory


def parts(taught, size, stride, networks):
    """Return the millions of pixels read, and of places scored times networks."""
    apix = taught["window_angst"] / taught["window_px"]
    return size**2 / 1e6, (size * direct_way.APIX / apix / stride) ** 2 / 1e6 * networks


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="cost.py", description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, help="of the project (default: one that is not kept)")
    parser.add_argument("--runs", type=int, default=1, help="of each in turn (default: 1)")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        report(folder.resolve(), args.runs)


def report(folder, runs):
    """Measure, fit, compare and extrapolate; print it all."""
    models = make_models(folder)
    taught = classbin.read_model_record(models[1])["dataset"]
    for size in {size for size, _, _ in FITTED + HELD}:
        make_lists(folder, size, (FEW, MANY, *(LENGTHS if size == 4096 else ())))

    def measured(size, stride, networks):
        few, many = (
            statistics.median(
                pick(folder, models[networks], size, stride, length)[0] for _ in range(runs)
            )
            for length in (FEW, MANY)
        )
        return (many - few) / (MANY - FEW)

    found = {case: measured(*case) for case in FITTED + HELD}
    wanted = np.array([parts(taught, *case) for case in FITTED])
    times = np.array([found[case] for case in FITTED])
    # By ratio: what is slow shall not count for more.
    read, place = np.linalg.lstsq(wanted / times[:, None], np.ones(len(times)), rcond=None)[0]
    lists = {n: pick(folder, models[1], 4096, 4, n) for n in LENGTHS}
    each = float(np.dot(parts(taught, 4096, 4, 1), (read, place)))
    start = lists[LENGTHS[0]][0] - each
    print(f"START {start:.1f} s, READ {read:.4f} s, PLACE {place:.3f} s ({os.cpu_count()} cores)")
    print("size stride networks   measured    model   (s a micrograph)")
    for case in FITTED + HELD:
        model = float(np.dot(parts(taught, *case), (read, place)))
        print(
            f"{case[0]:4} {case[1]:6} {case[2]:8} {found[case]:10.2f} {model:8.2f}",
            "" if case in FITTED else "  not fitted",
        )
    print("micrographs of 4096 x 4096 px   measured    model        memory")
    for count, (wall, memory) in lists.items():
        print(f"{count:31} {wall:8.1f} s {start + count * each:6.1f} s {memory:10.0f} MB")
    for workers in WORKERS:
        hours = (start + FACILITY * each / workers) / 3600
        print(f"{FACILITY} micrographs, {workers} workers as this machine: {hours:.2f} h")


if __name__ == "__main__":
    main()
