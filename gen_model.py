#!/usr/bin/env python3
"""Train the CNN on the windows of gen_data.py, and test it on those it has never seen.

Writes ClassBin/model.h5 with its record, model.json, the history of the training
(training_log.txt), the test windows' predictions (testing_results.txt), both JSON, and a picture
of curves and results (train_and_test_results.png).

Example: gen_model.py -p .
"""

from __future__ import annotations

import contextlib
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
RATE = 2e-3  # the highest: learning rises to it over WARM of the steps, then falls as a cosine
WARM = 0.05
SHOWN = 200_000  # windows in a training, each as often as that gives, within EPOCHS
EPOCHS = 10, 60
FLAT = 0.02
RADIUS = 0.3  # of the diameter, within which a peak is a listed particle
MOST_MICROGRAPHS = 20  # that the threshold is chosen on


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
    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset, windows = read_dataset(source)
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
    with run.writing(outputs), damaged_windows(windows):
        parts = divide(windows, dataset, seed)
        model, log = train(parts, dataset["window_px"], epochs, batch, seed)
        results = {part: evaluate(model, parts[part], batch) for part in parts}
        if dataset["source"] == "micrograph":
            threshold, of_what = peak_threshold(project, model, dataset), "picks on the"
        else:
            threshold, of_what = best_threshold(results["validation"]), "windows of the"
        write_model(target, model, dataset, threshold, options)
        write_json(target.training_log, log)
        write_results(project, target, results, log)
        run.finish({part: len(results[part]["label"]) for part in parts})
    print(f"{len(log['loss'])} epochs; loss {log['loss'][-1]:.3f}, val {log['val_loss'][-1]:.3f}")
    print_table(results)
    print(f"threshold {threshold:g}: best F1 of {of_what} validation part; the table is at 0.5")
    print(f"model, results and picture -> {target.folder}")


def test(project, data, model_file, out, batch):
    """Test the model that is there, and write the results anew."""
    from apbc_common import network

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset, windows = read_dataset(source)
    path = model_file or ClassBin(project).model
    record = read_model_record(path)
    check_same_windows(path, record["dataset"], dataset)
    if record["dataset"] != dataset:
        cli.warn(f"{path}: trained with another data set; it may have seen these test windows")
    if target.folder != Path(path).parent and target.testing_results.exists():
        raise ApbcError(f"{target.testing_results}: already there; write elsewhere with --o DIR")
    log = read_log(Path(path).with_name(target.training_log.name))
    model = network.load_model(path, record)
    parts = divide(windows, dataset, record["options"]["seed"])
    with damaged_windows(windows):
        results = {part: evaluate(model, parts[part], batch) for part in parts}
    write_results(project, target, results, log)
    print_table(results)
    print(f"results and picture -> {target.folder}")


def check_micrographs(project, dataset):
    """Raise ApbcError or OSError if the threshold can't be chosen later: after the training."""
    from apbc_common import mrc

    for stem in list(dataset.get("validation_good", {}))[:MOST_MICROGRAPHS]:
        mrc.size(project / dataset["micrographs"][stem]["path"])


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


def read_dataset(classbin):
    """Return dataset.json and the windows' paths: {part: {kind: sorted list}}.

    Raises
    ------
    ApbcError
        If there is no data set, or not as many windows as it says.
    """
    dataset = read_dataset_record(classbin.dataset)
    windows = {
        part: {
            kind: sorted(map(str, classbin.windows(part, kind).glob("[!.]*.png"))) for kind in KINDS
        }
        for part in dataset["counts"]
    }
    for part, kinds in dataset["counts"].items():
        for kind, count in kinds.items():
            found = len(windows[part][kind])
            if found != count:
                raise ApbcError(
                    f"{classbin.windows(part, kind)}: {found} windows, {classbin.dataset.name} "
                    f"says {count}; run gen_data.py again"
                )
    return dataset, windows


@contextlib.contextmanager
def damaged_windows(windows):
    """Name the file where TensorFlow can't read a window: ApbcError."""
    from apbc_common import network, relion

    network.keras()  # first: it keeps the start of TensorFlow quiet
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as err:
        paths = [path for kinds in windows.values() for part in kinds.values() for path in part]
        bad = [path for path in paths if not readable(path)]
        if not bad:
            raise
        raise ApbcError(
            f"{len(bad)} of {len(paths)} windows can't be read: {relion.first(bad)}; "
            "make them again with gen_data.py -c"
        ) from err


def readable(path):
    """Say whether a file is a whole picture."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError):  # the latter for a broken PNG
        return False
    return True


def divide(windows, dataset, seed):
    """Split the training windows: by micrograph as the data set says, else 80/20 by class.

    Returns {'training', 'validation', 'testing'[, 'derived']} to (paths, labels): a list and an
    array of 0 (bad) and 1 (good). The test windows that no list holds are 'derived'.
    """
    import numpy as np

    known = dataset.get("micrographs", {})
    parts = {"training": [], "validation": [], "testing": [], "derived": []}
    for label, kind in enumerate(KINDS):
        paths = windows["train"][kind]
        if known:
            held = [part_of(path, known) == "validation" for path in paths]
        else:
            order = np.random.default_rng([seed, label]).permutation(len(paths))
            held = order < round(VALIDATION_SHARE * len(order))
        for path, is_held in zip(paths, held, strict=True):
            parts["validation" if is_held else "training"].append((path, label))
        for path in windows["test"][kind]:
            _, derived = ClassBin.parse_window(os.path.basename(path))
            parts["derived" if derived else "testing"].append((path, label))
    return {
        part: ([path for path, _ in pairs], np.array([label for _, label in pairs]))
        for part, pairs in parts.items()
        if pairs or part != "derived"
    }


def part_of(path, micrographs):
    """Return the part that dataset.json gives a window's micrograph."""
    stem, _ = ClassBin.parse_window(os.path.basename(path))
    return micrographs.get(stem, {}).get("part")


def read_windows(paths, labels, size, seed=None):
    """Return a tf.data set of (window (size, size, 1) uint8, label (1,) float32).

    In order, or with a seed in another one each epoch.
    PNG files are decoded as they are needed, in parallel: memory does not grow with the data.
    """
    import tensorflow as tf

    def read(path, label):
        window = tf.io.decode_png(tf.io.read_file(path), channels=1)
        return tf.ensure_shape(window, (size, size, 1)), label

    names = [os.fsencode(path) for path in paths]  # which need not be UTF-8
    pairs = tf.data.Dataset.from_tensor_slices((names, labels[:, None].astype("float32")))
    if seed is not None:  # names are shuffled: small, so all of them at once
        pairs = pairs.shuffle(len(paths), seed=seed)
    return pairs.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def training_windows(paths, labels, size, batch, seed):
    """Return the tf.data set of training: shuffled anew each epoch, turned and flipped."""
    import tensorflow as tf

    generator = tf.random.Generator.from_seed(seed)
    return (
        read_windows(paths, labels, size, seed)
        .batch(batch)
        .map(lambda windows, label: (augment(windows, generator), label))
        .prefetch(tf.data.AUTOTUNE)
    )


def augment(windows, generator):
    """Turn each window by any angle and flip half of them.

    All in one bilinear step about RELION's centre, index size/2; corners are filled by reflection.

    Parameters
    ----------
    windows : tensor, shape (n, size, size, 1)
    generator : tf.random.Generator

    Returns
    -------
    tensor of float32, shape (n, size, size, 1)
    """
    import numpy as np
    import tensorflow as tf

    count, centre = tf.shape(windows)[0], float(windows.shape[1] // 2)
    angle = generator.uniform([count], 0, 2 * np.pi)
    flip = tf.where(generator.uniform([count]) < 0.5, -1.0, 1.0)
    cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros([count])
    a, b, c, d = cos * flip, -sin, sin * flip, cos  # from where in the window a pixel is taken
    transforms = tf.stack(
        [a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), zero, zero], axis=1
    )
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(windows, tf.float32),
        transforms=transforms,
        output_shape=windows.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def train(parts, size, epochs, batch, seed):
    """Train a network; return it, looking at each window both ways, and {metric: [one an epoch]}.

    The last weights are kept: as the rate has fallen to nothing, they are better than those of the
    least validation loss, which is that of few particles and was lucky.
    """
    from apbc_common import network

    keras = network.keras()
    keras.utils.set_random_seed(seed)
    model = network.build_model(size)
    paths, labels = parts["training"]
    epochs = epochs or min(max(SHOWN // len(paths), EPOCHS[0]), EPOCHS[1])
    steps = -(-len(paths) // batch) * epochs
    warm = max(1, round(WARM * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm), warmup_target=RATE, warmup_steps=warm
    )
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    counts = [(labels == label).sum() for label in (0, 1)]
    history = model.fit(
        training_windows(paths, labels, size, batch, seed),
        validation_data=read_windows(*parts["validation"], size).batch(batch).prefetch(1),
        epochs=epochs,
        class_weight={label: len(labels) / (2 * count) for label, count in enumerate(counts)},
        callbacks=[epoch_lines(keras, epochs)],
        shuffle=False,
        verbose=0,
    )
    log = {name: [float(value) for value in values] for name, values in history.history.items()}
    return network.both_ways(model), log


def epoch_lines(keras, epochs):
    """Return a callback that says how training goes: a line an epoch, or one rewritten."""
    import time

    class Lines(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.start = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            spent = time.monotonic() - self.start
            left = spent / (epoch + 1) * (epochs - epoch - 1)
            cli.status(
                f"{epoch + 1}/{epochs} loss {logs['loss']:.3f} val {logs['val_loss']:.3f} "
                f"accuracy {logs['accuracy']:.3f} val {logs['val_accuracy']:.3f} "
                f"{spent:.0f}s<{left:.0f}s"
            )

        def on_train_end(self, logs=None):
            cli.status(None)

    return Lines()


def evaluate(model, pairs, batch):
    """Score windows: {'file', 'label', 'probability'}, in the order given."""
    import numpy as np

    from apbc_common import network

    paths, labels = pairs
    score = network.Scorer(model, batch)
    windows = read_windows(paths, labels, model.input_shape[1]).batch(batch).prefetch(1)
    scores = [score(batch_of[..., 0].numpy()) for batch_of, _ in windows]
    return {"file": paths, "label": labels, "probability": np.concatenate(scores)}


def best_threshold(result):
    """Return the probability that parts good from bad with the best F1."""
    import numpy as np

    order = np.argsort(-result["probability"], kind="stable")
    scores, right = result["probability"][order], result["label"][order].cumsum()
    f1 = 2 * right / (np.arange(1, len(order) + 1) + result["label"].sum())
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a cut lies between two scores, never within a tie
    best = int(f1.argmax())
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return round(float(scores[best] + below) / 2, 4)


def peak_threshold(project, model, dataset):
    """Return the probability at which peaks of the validation micrographs have the best F1."""
    import numpy as np

    from apbc_common import direct, peaks

    diameter = dataset["diameter_angst"]
    picker = direct.Picker(model, dataset, floor=direct.FLOOR, **direct.defaults(dataset))
    scores, listed, particles = [], [], 0
    known = list(dataset["validation_good"].items())[:MOST_MICROGRAPHS]
    for stem, good in cli.progress(known, "validation micrographs"):
        one = dataset["micrographs"][stem]
        prepared, _ = picker.prepare(project / one["path"], one["apix"])
        xy, probability = picker.find(prepared)
        scores.append(probability)
        listed.append(peaks.match(xy, np.array(good), RADIUS * diameter / one["apix"]))
        particles += len(good)
    return best_cut(np.concatenate(scores), np.concatenate(listed), particles)


def best_cut(scores, listed, particles):
    """Return the score at which picks have the best F1, where a list holds some of the particles.

    What a list does not hold is unknown, not wrong: of the peaks above the median of those listed,
    all are taken for particles, which tells what share of them the list holds. From that follow
    the number of particles in all, and how many lie above each score.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Of the peaks.
    listed : ndarray of bool, shape (N,)
        Which of them are a listed good particle.
    particles : int
        Listed good particles, found or not.

    Returns
    -------
    float
        With four decimals: the middle, in log odds, of the scores where F1 is within FLAT of the
        best, since where it is flat the best is chance. 0.5 if no listed particle has a peak.
    """
    import numpy as np

    if not listed.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], listed[order].cumsum()
    peaks = np.arange(1, len(scores) + 1)
    middle = int(np.searchsorted(found, found[-1] / 2))
    share = found[middle] / peaks[middle]
    right = np.minimum(found / share, peaks)
    f1 = 2 * right / (peaks + particles / share)
    flat = np.clip(scores[f1 >= f1.max() - FLAT], 1e-4, 1 - 1e-4)
    odds = np.log(flat / (1 - flat))[[0, -1]].mean()
    return round(float(1 / (1 + np.exp(-odds))), 4)


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


def write_results(project, target, results, log):
    """Write the test windows' predictions and the picture."""
    testing = results["testing"]
    rows = [
        {
            "file": os.path.relpath(file, project),
            "label": int(label),
            "probability": float(p),
            "prediction": int(p >= 0.5),
        }
        for file, label, p in zip(
            testing["file"], testing["label"], testing["probability"], strict=True
        )
    ]
    write_json(target.testing_results, rows)
    draw(target.training_picture, tabulate(results), log)


def tabulate(results):
    """Return the rows of the table: {part: {name: value}}."""
    return {part: figures(result) for part, result in results.items()}


def print_table(results):
    """Print samples, accuracy and so on of each part."""
    table = tabulate(results)
    print(" " * 10, *(f"{name:>6}" for name in table["testing"]))
    for part, row in table.items():
        cells = (f"{cell(value):>{max(6, len(name))}}" for name, value in row.items())
        print(f"{part:>10}", *cells)


def cell(value):
    """Return a figure as text; '-' for one that nothing was there to tell."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return str(value)


def figures(result, threshold=0.5):
    """Return samples, accuracy, TP, TN, FP, FN, precision and recall (nan: none) at a threshold."""
    good, picked = result["label"] == 1, result["probability"] >= threshold
    tp, tn = int((good & picked).sum()), int((~good & ~picked).sum())
    fp, fn = int((~good & picked).sum()), int((good & ~picked).sum())
    return {
        "samples": len(good),
        "accuracy": (tp + tn) / max(len(good), 1),
        "TP": tp,
        "TN": tn,
        "FP": fp,
        "FN": fn,
        "precision": tp / (tp + fp) if tp + fp and good.any() else float("nan"),
        "recall": tp / (tp + fn) if good.any() else float("nan"),
    }


def draw(path, table, log):
    """Draw the curves of loss and accuracy, and the table of results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from apbc_common import files

    figure = plt.figure(figsize=(10, 6.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1.3))
    for column, metric in enumerate(("loss", "accuracy")):
        axes = figure.add_subplot(grid[0, column])
        for name, label in ((metric, "training"), (f"val_{metric}", "validation")):
            values = log.get(name, [])
            axes.plot(range(1, len(values) + 1), values, label=label)
        axes.set(title=metric, xlabel="epoch")
        axes.legend()
    axes = figure.add_subplot(grid[1, :])
    axes.axis("off")
    drawn = axes.table(
        cellText=[list(map(cell, row.values())) for row in table.values()],
        rowLabels=list(table),
        colLabels=list(table["testing"]),
        loc="center",
    )
    drawn.scale(0.9, 1.5)
    with files.atomic(path) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)


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
