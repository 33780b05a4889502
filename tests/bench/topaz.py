#!/usr/bin/env python3
"""Measure Topaz on the simulated sets of accuracy.py: as it comes, and taught with the good list.

Example: python tests/bench/topaz.py --dir Bench --presets standard --seeds 1

Topaz (topaz-em from PyPI, some GB with what it needs) goes into an environment of its own,
DIR/topaz. Micrographs are scaled down by 4, to 7 A a pixel; picks are half a diameter apart at
least. Taught: resnet8 of 32 units, its default, which begins with the weights that Topaz brings,
with the good list's centres, and the number of particles that the share of good candidates lets
expect; Topaz's own number of epochs is 10. F1 is that of the scores from 0 on. What was made is
kept.
"""

import statistics
import sys
import venv
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import accuracy  # noqa: E402
import numpy as np  # noqa: E402
import score  # noqa: E402

from apbc_common import relion  # noqa: E402

TOPAZ = "topaz-em==0.3.20"
SCALE = 4
LIKELY = 0.0  # log odds from which on a pick counts


def environment(folder):
    """Make Topaz's environment; return its command."""
    command = folder / "topaz/bin/topaz"
    if not command.exists():
        venv.create(folder / "topaz", with_pip=True)
        pip = folder / "topaz/bin/pip"
        accuracy.shell(folder / "topaz.log", pip, "install", "-q", TOPAZ, cwd=folder)
    return command


def preprocess(topaz, project, part, device):
    """Scale and normalise the micrographs of a list; return where they are."""
    folder = project / f"topaz_{part}"
    names = relion.read_micrographs(project / f"{part}.star").names
    missing = [name for name in names if not (folder / Path(name).name).exists()]
    if missing:
        accuracy.shell(
            project / "log.txt", topaz, "preprocess", "-s", SCALE, "-d", device, "-o", folder,
            *missing, cwd=project,
        )  # fmt: skip
    return folder


def pick(topaz, project, model, diameter, out, device):
    """Pick the test micrographs; return {stem: x, y, score}."""
    images = preprocess(topaz, project, "test", device)
    if not out.exists():
        part = out.with_suffix(".part")
        apart = round(diameter / 2 / accuracy.APIX / SCALE)
        accuracy.shell(
            project / "log.txt", topaz, "extract", "-r", apart, "-x", SCALE, "-d", device,
            *(["-m", model] if model else []), "-o", part, *sorted(images.glob("*.mrc")),
            cwd=project,
        )  # fmt: skip
        part.rename(out)
    found = {}
    for line in out.read_text().splitlines()[1:]:
        name, *numbers = line.split("\t")
        found.setdefault(name, []).append([float(number) for number in numbers])
    return {name: np.array(rows) for name, rows in found.items()}


def teach(topaz, project, epochs, device):
    """Train with the good list; return the model of the last epoch."""
    images = preprocess(topaz, project, "learn", device)
    folder = project / "topaz_model"
    model = folder / f"model_epoch{epochs}.sav"
    if not model.exists():
        folder.mkdir(exist_ok=True)
        good, bad = (
            relion.read_particles(project, project / f"Select/{kind}/particles.star")
            for kind in ("good", "bad")
        )
        xy = (good.xy - relion.origins(good) / accuracy.APIX) / SCALE
        rows = [
            f"{Path(good.micrographs[index]).stem}\t{x:.0f}\t{y:.0f}"
            for index, (x, y) in zip(good.micrograph, xy, strict=True)
        ]
        (folder / "good.txt").write_text("\n".join(["image_name\tx_coord\ty_coord", *rows, ""]))
        candidates = score.read_picks(score.files_of(str(project / "AutoPick/learn")))
        share = len(good) / (len(good) + len(bad))
        expected = round(share * statistics.mean(map(len, candidates.values())))
        accuracy.shell(
            project / "log.txt", topaz, "train", "-n", expected, "--train-images", images,
            "--train-targets", folder / "good.txt", "-m", "resnet8", "--units", 32,
            "--num-epochs", epochs, "-d", device, "--num-workers", 1,
            "--save-prefix", folder / "model", cwd=project,
        )  # fmt: skip
    return model


def measure(topaz, folder, preset, seed, epochs, device):
    """Yield (row's name, scores) of one preset and seed."""
    project, diameter = folder / f"{preset}{seed}", accuracy.DIAMETER[preset]
    accuracy.make_simulated(project, preset, seed)
    truth = score.read_truth(project / "truth_test")
    for count in (0, epochs):
        model = teach(topaz, project, count, device) if count else None
        every = pick(topaz, project, model, diameter, project / f"topaz_{count}.txt", device)
        sure = {stem: rows[rows[:, 2] >= LIKELY] for stem, rows in every.items()}
        name = f"taught, {count} epochs" if count else "as it comes"
        yield f"Topaz, {name}", accuracy.figures(truth, diameter, sure, every)


def main():
    """Print a table for each preset."""
    parser = accuracy.new_parser("topaz.py", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where accuracy.py keeps its sets")
    presets = list(accuracy.DIAMETER)
    parser.add_argument("--presets", nargs="+", choices=presets, default=presets)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=2, help="to teach it (default: 2)")
    parser.add_argument("--device", type=int, default=-1, help="GPU (default: -1, the CPU)")
    args = parser.parse_args()
    folder = args.dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    topaz = environment(folder)
    more = args.epochs, args.device
    accuracy.tables(args, lambda preset, seed: measure(topaz, folder, preset, seed, *more))


if __name__ == "__main__":
    main()
