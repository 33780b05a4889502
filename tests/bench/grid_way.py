#!/usr/bin/env python3
"""Measure the grid way: speed against bare loops in the same run, and peak memory.

Example: python tests/bench/grid_way.py

Prints ratios (medians of runs in turn, so that a noisy machine weighs on both sides) beside the
bounds that they are held to, and the peak memory of each script at two sizes. Nothing is kept. Long
lists are for tables.py.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

import mrcfile  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from watch import watch  # noqa: E402

import gen_data  # noqa: E402
from apbc_common import grid, images, learning, mrc, network, relion, samples, star  # noqa: E402
from apbc_common.classbin import ClassBin, read_dataset_record  # noqa: E402

PER_STACK, SIZE, APIX = 300, 64, 6.0
OPTICS = {
    "rlnOpticsGroupName": "opticsGroup1",
    "rlnOpticsGroup": "1",
    "rlnImagePixelSize": str(APIX),
    "rlnImageSize": str(SIZE),
    "rlnImageDimensionality": "2",
}


def make_project(folder, count, seed=0):
    """Write ``count`` particles in stacks of 300, every other one good (with a dark disc)."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    k = np.arange(SIZE) - SIZE // 2
    disc = 2.0 * np.exp(-(k[:, None] ** 2 + k**2) / (2 * 8.0**2))
    rows = {"good": [], "bad": []}
    for at in range(0, count, PER_STACK):
        number = min(PER_STACK, count - at)
        boxes = rng.normal(0, 1, (number, SIZE, SIZE)).astype(np.float32)
        boxes[::2] += disc.astype(np.float32)
        stack = f"Extract/job005/m{at // PER_STACK:04d}.mrcs"
        mrc.write(folder / stack, boxes, APIX)
        for i in range(number):
            rows["bad" if i % 2 else "good"].append((f"{i + 1:06d}@{stack}", "1"))
    optics = pd.DataFrame([OPTICS])
    lists = {**rows, "all": sorted(rows["good"] + rows["bad"], key=lambda row: row[0][7:] + row[0])}
    for kind, table in lists.items():
        particles = pd.DataFrame(table, columns=["rlnImageName", "rlnOpticsGroup"], dtype=str)
        star.write(folder / f"{kind}.star", {"optics": optics, "particles": particles})


def timed(job):
    """Return how long a call takes, in s; what it prints is thrown away."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        job()
    return time.perf_counter() - start


def compare(name, ours, other, units, bound, runs):
    """Time two jobs in turn; print units a second of both and the ratio of the medians."""
    times = [(timed(ours), timed(other)) for _ in range(runs)]
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name}: {units / a:.0f} a second, bare {units / b:.0f} a second: "
        f"{b / a:.2f} times as fast (bound: {bound})",
        flush=True,
    )


def naive_windows(folder, out):
    """Write the windows as the earlier program did: the stack opened anew for each particle."""
    for kind in ("good", "bad"):
        particles = relion.read_particles(folder, folder / f"{kind}.star")
        (out / kind).mkdir(parents=True, exist_ok=True)
        for row in range(len(particles)):
            stack = folder / particles.stacks[particles.stack[row]]
            with mrcfile.open(stack, permissive=True) as file:
                box = file.data[particles.section[row]].astype(np.float32)
            window = images.condition(box[None], SIZE)[0]
            Image.fromarray(window).save(out / kind / f"{row:06d}.png")


def bench_help(runs):
    """How soon --help answers."""
    for script in ("gen_data", "gen_model", "gen_grid", "gen_picks", "show_picks"):
        command = (ROOT / f"{script}.py", "--help")
        seconds = statistics.median(peak(*command)[1] for _ in range(runs))
        print(f"{script} --help: {seconds:.2f} s (bound: 0.3)", flush=True)


def bench_data(folder, count, runs, where):
    """gen_data's whole work against the naive loop."""
    fresh = iter(range(10**6))

    def ours():
        lists = {kind: folder / f"{kind}.star" for kind in ("bad", "good")}
        out = folder / f"ours{next(fresh)}"
        options = {"from_micrographs": False, "size": SIZE, "seed": 0}
        options |= {"window": None, "diameter": None, "no_png": False}
        gen_data.generate(folder, lists, None, options, out, False)

    def naive():
        naive_windows(folder, folder / f"naive{next(fresh)}")

    compare(f"gen_data, windows {where}", ours, naive, count, "8", runs)


def bench_picks(folder, count, runs):
    """gen_picks' reading, conditioning and scoring against the network alone."""
    model = network.build_model(SIZE)
    particles = relion.read_particles(folder, folder / "all.star")
    windows = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 1)).astype(np.uint8)
    scorer = network.Scorer(model, 256)
    work = types.SimpleNamespace(batch=256, scorer=lambda: scorer)  # traced once
    journal, edge = folder / "journal", SIZE * APIX
    taught = {"window_px": SIZE, "window_angst": edge, "box_angst": edge}
    read = grid.Windows(folder, particles, taught, invert=False)

    def ours():
        journal.unlink(missing_ok=True)
        grid.score(read, work, None, journal, None)

    def bare():
        model.predict(windows, batch_size=256, verbose=0)

    ours(), bare()  # traced once
    compare("gen_picks, windows", ours, bare, count, "0.8", runs)


def bench_training(folder, count, runs):
    """An epoch of gen_model's pipeline against one on an array in memory."""
    import tensorflow as tf

    keras = network.keras()
    model = network.build_model(SIZE)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    classbin = ClassBin(folder, folder / "ours0")
    dataset = read_dataset_record(classbin.dataset)
    windows = samples.read(classbin, dataset)
    unpictured = replace(windows, picture=None)

    def read(which):
        with contextlib.redirect_stderr(io.StringIO()):  # lines of progress
            return samples.pixels(folder, classbin.folder, dataset, which)

    pixels = read(windows)
    both = lambda: read(unpictured), lambda: read(windows)
    compare("gen_model, windows from stacks, and from PNGs", *both, len(windows), "1", runs)
    index = samples.divide(windows, 1, 0)[0]["training"]
    array, labels = np.array(pixels[index])[..., None], windows.label[index]
    generator = tf.random.Generator.from_seed(0)
    in_memory = (
        tf.data.Dataset.from_tensor_slices((array, labels[:, None].astype("float32")))
        .shuffle(len(labels))
        .batch(64)
        .map(lambda x, y: (learning.augment(x, generator), y))
        .prefetch(tf.data.AUTOTUNE)
    )
    ours = learning.training_windows(pixels, windows.label, index, 64, 0)

    def fit(data):
        keras.utils.set_random_seed(0)
        model.fit(data, epochs=1, shuffle=False, verbose=0)

    fit(ours), fit(in_memory)
    compare(
        "gen_model, windows", lambda: fit(ours), lambda: fit(in_memory), len(labels), "0.9", runs
    )


def peak(*command):
    """Run a Python command; return its peak memory (MB) and its wall time (s)."""
    seconds, _, memory = watch(None, sys.executable, *command)
    return memory, seconds


def bench_memory(folder, sizes):
    """Peak memory of three scripts at two sizes."""
    found = {}
    for count in sizes:
        project = folder / str(count)
        make_project(project, count)
        for script, *options in (
            ("gen_data", "-g", "good.star", "-b", "bad.star"),
            ("gen_model", "--epochs", 1),
            ("gen_picks", "-i", "all.star"),
        ):
            command = (ROOT / f"{script}.py", "-p", project, *options)
            found.setdefault(script, []).append(peak(*command)[0])
    for script, memory in found.items():
        both = " and ".join(f"{value:.0f} MB" for value in memory)
        print(f"{script}: peak memory at {' and '.join(map(str, sizes))} particles: {both}")


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="grid_way.py", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each in turn (default: 5)")
    parser.add_argument("--particles", type=int, default=6000, help="timed (default: 6000)")
    args = parser.parse_args(argv)
    network.keras()
    bench_help(args.runs)
    # A disk takes as long for a small file of ours as for the other's, and how long may change by
    # ten from one second to the next: in memory one sees what the program itself does.
    if Path("/dev/shm").is_dir():
        with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
            make_project(Path(name), args.particles)
            bench_data(Path(name), args.particles, args.runs, "to memory (tmpfs)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder, args.particles)
        bench_data(folder, args.particles, args.runs, "to the disk")
        bench_picks(folder, args.particles, args.runs)
        bench_training(folder, args.particles, args.runs)
        bench_memory(folder, (2_000, 20_000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
