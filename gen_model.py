#!/usr/bin/env python3
"""Train the CNN on the windows of gen_data.py, and test it on those it has never seen.

Writes ClassBin/model.h5 with its record, model.json, the history of the training
(training_log.txt), the test windows' predictions (testing_results.txt), both JSON, and a picture
of curves and results (train_and_test_results.png).

Example: gen_model.py -p .
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from apbc_common import ApbcError, __version__, cli
from apbc_common.classbin import (
    KINDS,
    ClassBin,
    Run,
    model_record,
    read_dataset_record,
    read_json,
    read_model_record,
    write_json,
)

VALIDATION_SHARE = 0.2  # of the training windows


def build_parser():
    """Return the parser of the command line."""
    parser = cli.parser("gen_model.py", __doc__)
    parser.add_argument(
        "-s",
        "--skiptraining",
        action="store_true",
        help="test the model that is there",
    )
    parser.add_argument(
        "--data",
        type=cli.ProjectFolder,
        metavar="DIR",
        help="where gen_data.py wrote (default: ClassBin)",
    )
    parser.add_argument(
        "--model",
        type=cli.ProjectFile,
        metavar="FILE",
        help="with -s: the model to test (default: ClassBin/model.h5)",
    )
    parser.add_argument(
        "--epochs",
        type=cli.positive_int,
        metavar="N",
        help="passes over the windows (default: 200,000 windows in all, 10 to 60 passes)",
    )
    parser.add_argument(
        "--batch",
        type=cli.batch,
        default=64,
        metavar="N",
        help="windows a step (default: 64)",
    )
    parser.add_argument(
        "--seed",
        type=cli.natural,
        default=0,
        metavar="N",
        help="of the validation split, the weights and the augmentation (default: 0)",
    )
    cli.add_clear(parser, "--clear")
    return parser


def generate(project, data, out, epochs, batch, seed, clear):
    """Train, test and write everything."""
    from apbc_common import learning, results, samples

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset = read_dataset_record(source.dataset)
    windows = samples.read(source, dataset)
    options = {"epochs": epochs, "batch": batch, "seed": seed}
    run = Run(target.record("gen_model"), project, {"dataset": source.dataset}, options, clear)
    trained = [target.model, model_record(target.model), target.training_log]
    outputs = [*trained, target.testing_results, target.training_picture]
    if run.finished(outputs):
        print(f"finished before: nothing to do -> {target.model}")
        return
    check_micrographs(project, dataset)
    if run.finished(trained):  # only what tells of the model is missing
        test(project, data, target.model, out, batch)
        return
    pixels = samples.pixels(project, source.folder, dataset, windows)
    with run.writing(outputs):
        parts = divide(windows, seed)
        model, log = learning.train(
            pixels, windows.label, parts["training"], parts["validation"], epochs, batch, seed
        )
        scores = score(model, pixels, windows, parts, batch)
        threshold, of_what = choose_threshold(project, model, dataset, windows, scores)
        write_model(target, model, dataset, threshold, options)
        write_json(target.training_log, log)
        write_results(project, source, target, windows, parts, scores, log)
        run.finish({part: len(index) for part, index in parts.items()})
    print(f"{len(log['loss'])} epochs; loss {log['loss'][-1]:.3f}, val {log['val_loss'][-1]:.3f}")
    results.print_table(scores)
    print(f"threshold {threshold:g}: best F1 of {of_what} validation part; the table is at 0.5")
    print(f"model, results and picture -> {target.folder}")


def test(project, data, model_file, out, batch):
    """Test the model that is there, and write the results anew."""
    from apbc_common import network, results, samples

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset = read_dataset_record(source.dataset)
    windows = samples.read(source, dataset)
    path = model_file or ClassBin(project).model
    record = read_model_record(path)
    check_same_windows(path, record["dataset"], dataset)
    if record["dataset"] != dataset:
        cli.warn(f"{path}: trained with another data set; it may have seen these test windows")
    if target.folder != Path(path).parent and target.testing_results.exists():
        raise ApbcError(f"{target.testing_results}: already there; write elsewhere with --o DIR")
    log = read_log(Path(path).with_name(target.training_log.name))
    model = network.load_model(path, record)
    parts = divide(windows, record["options"]["seed"])
    pixels = samples.pixels(project, source.folder, dataset, windows)
    scores = score(model, pixels, windows, parts, batch)
    write_results(project, source, target, windows, parts, scores, log)
    results.print_table(scores)
    print(f"results and picture -> {target.folder}")


def check_micrographs(project, dataset):
    """Raise ApbcError or OSError if the threshold can't be chosen later: after the training."""
    from apbc_common import mrc

    for name, one in dataset.get("micrographs", {}).items():
        if one["part"] == "validation":
            mrc.size(project / name)


def check_same_windows(path, taught, dataset):
    """Raise ApbcError if windows are not of the kind that a model was taught with."""
    if (
        taught["window_px"] != dataset["window_px"]
        or abs(taught["window_angst"] / dataset["window_angst"] - 1) > 0.01
    ):
        raise ApbcError(
            f"{path}: trained with windows of {taught['window_px']} px, "
            f"{taught['window_angst']:.1f} A; these have {dataset['window_px']} px, "
            f"{dataset['window_angst']:.1f} A"
        )


def divide(windows, seed):
    """Split the windows: {'training', 'validation', 'testing'[, 'derived']} to ndarrays of int.

    The micrographs that the lists name for validation are; where they name none, a fifth of each
    kind is. The test windows that no list holds are 'derived'.
    """
    import numpy as np

    held = windows.part == "validation"
    for label in (0, 1):
        rows = np.flatnonzero((windows.part == "train") & (windows.label == label))
        if "validation" not in windows.part:
            order = np.random.default_rng([seed, label]).permutation(rows)
            held[order[: round(VALIDATION_SHARE * len(rows))]] = True
    testing = windows.part == "test"
    chosen = {
        "training": ~testing & ~held,
        "validation": held,
        "testing": testing & windows.listed,
        "derived": testing & ~windows.listed,
    }
    found = {part: np.flatnonzero(rows) for part, rows in chosen.items()}
    return {part: rows for part, rows in found.items() if len(rows) or part != "derived"}


def score(model, pixels, windows, parts, batch):
    """Score the windows: {part: {'label', 'probability'}}."""
    from apbc_common import learning

    return {
        part: {
            "label": windows.label[index],
            "probability": learning.score(model, pixels, index, batch),
        }
        for part, index in parts.items()
    }


def choose_threshold(project, model, dataset, windows, scores):
    """Return the threshold that the validation part asks for, and what of it was looked at."""
    from apbc_common import decision

    if dataset["source"] == "stack":
        return decision.best_threshold(**scores["validation"]), "windows of the"
    held = windows.part == "validation"
    labelled = {
        name: {
            kind: windows.where[held & (windows.source == name) & (windows.kind == kind)]
            for kind in KINDS
        }
        for name in sorted(set(windows.source[held]))
    }
    return decision.peak_threshold(project, model, dataset, labelled), "picks on the"


def write_model(target, model, dataset, threshold, options):
    """Write model.h5 and the record that the next scripts read."""
    import tensorflow as tf

    from apbc_common import files, network

    with files.atomic(target.model) as part:
        network.save_model(model, part)
    record = {
        "dataset": dataset,
        "options": options,
        "layers": network.recipe(model),
        "threshold": threshold,
        "calibration": None,
        "versions": {
            "apbc": __version__,
            "tensorflow": tf.__version__,
            "keras": network.keras().__version__,
        },
        "sha256": files.digest(target.model),
    }
    write_json(model_record(target.model), record)


def read_log(path):
    """Read the history of a training; {} where it is missing."""
    if not path.exists():
        return {}
    log = read_json(path, "gen_model.py", "loss", "accuracy", "val_loss", "val_accuracy")
    if not all(isinstance(values, list) and values for values in log.values()):
        raise ApbcError(f"{path}: damaged; remove it")
    return log


def write_results(project, source, target, windows, parts, scores, log):
    """Write the test windows' predictions and the picture."""
    from apbc_common import results

    folder = os.path.relpath(source.folder, project)
    testing = scores["testing"]
    rows = [
        {
            "file": windows.name(index, folder),
            "label": int(label),
            "probability": float(p),
            "prediction": int(p >= 0.5),
        }
        for index, label, p in zip(
            parts["testing"], testing["label"], testing["probability"], strict=True
        )
    ]
    write_json(target.testing_results, rows)
    results.draw(target.training_picture, results.tabulate(scores), log)


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    if args.model and not args.skiptraining:
        parser.error("argument --model: only with -s, which tests a model")
    if args.skiptraining:
        return cli.run(
            parser.prog, test, args.projpath, args.data, args.model, args.out, args.batch
        )
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        args.data,
        args.out,
        args.epochs,
        args.batch,
        args.seed,
        args.clear,
    )


if __name__ == "__main__":
    sys.exit(main())
