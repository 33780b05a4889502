#!/usr/bin/env python3
"""Train the CNN on the windows of gen_data.py, and test it on those it has never seen.

Writes ClassBin/model.h5 with its record, model.json, the history of the training
(training_log.txt), what it says of the listed test particles (testing_results.txt), both JSON, and
a picture of curves and results (train_and_test_results.png); with --members also suspects.star and
particles_rescued.star, with --search search.csv, search.png and settings.json.

Example: gen_model.py -p .
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from apbc_common import ApbcError, __version__, cli
from apbc_common.classbin import (
    ClassBin,
    Run,
    model_record,
    read_dataset_record,
    read_model_record,
    write_json,
)

MOST = 20  # members, rounds
MOST_SETTINGS = 200  # of a search
METRICS = {"loss", "accuracy", "val_loss", "val_accuracy"}
SHARES = 0.2, 0.1, 0.05, 0.02, 0.01  # of false picks, to say from where they are expected
LEAST_AREA = 0.7  # under the ROC curve of the test windows, of a model worth picking with
MOST_MICROGRAPHS = 20  # that one network's threshold is chosen on; that test peaks are judged on


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
        help="with -s and --continue: the model (default: that in the folder of --o; with -s, if "
        "there is none, ClassBin's)",
    )
    parser.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with the model that is there, on the windows as they are now, with "
        "corrections for instance, for a fifth of the epochs (or --epochs), at a lower rate",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--search",
        type=whole(2, MOST_SETTINGS),
        metavar="N",
        help="try N settings of learning on parts of the micrographs, and learn with the best",
    )
    how.add_argument(
        "--settings",
        type=cli.ProjectFile,
        metavar="FILE",
        help="learn with the settings that a search found (settings.json)",
    )
    parser.add_argument(
        "--epochs",
        type=cli.positive_int,
        metavar="N",
        help="passes over the windows (default: 100,000 windows in all, 10 to 60 passes, but at "
        "least 600 steps)",
    )
    parser.add_argument(
        "--members",
        type=whole(1, MOST),
        default=1,
        metavar="N",
        help="networks whose scores are averaged, each taught without another part of the "
        "micrographs (default: 1)",
    )
    parser.add_argument(
        "--rounds",
        type=whole(1, MOST),
        default=1,
        metavar="N",
        help="of training: between two, good particles move towards where they are found; of "
        "windows from micrographs (default: 1)",
    )
    parser.add_argument(
        "--batch",
        type=cli.batch,
        default=64,
        metavar="N",
        help="windows a step (default: 64); where memory is short, half as many and so on",
    )
    parser.add_argument(
        "--gpus",
        type=cli.gpus,
        default="all",
        metavar="all|N|none",
        help="GPUs to train with: a batch is shared among them (default: all that are there)",
    )
    parser.add_argument(
        "--seed",
        type=cli.natural,
        default=0,
        metavar="N",
        help="of the split into training and validation (of stacks, of --members and --search), "
        "the weights and the augmentation (default: 0)",
    )
    cli.add_clear(parser, "--clear")
    return parser


def whole(low, high):
    """Return an argparse type: a whole number from ``low`` to ``high``."""
    wanted = f"a whole number from {low} to {high}"
    return lambda text: cli.number(text, int, lambda n: low <= n <= high, wanted)


def generate(project, data, out, settings_file, options, gpus, clear):
    """Train, test and write everything."""
    from apbc_common import learning, rounds, samples, search, suspects

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset = read_dataset_record(source.dataset)
    if options["rounds"] > 1 and dataset["source"] == "stack":
        raise ApbcError(
            f"--rounds {options['rounds']}: the windows of {source.folder} are from stacks, where "
            "nothing can move; cut them from the micrographs with gen_data.py --from-micrographs"
        )
    settings = search.read(settings_file) if settings_file else learning.Settings()
    windows = samples.read(source, dataset)
    inputs = {"dataset": source.dataset, "settings": settings_file}
    run = Run(target.record("gen_model"), project, inputs, options, clear)
    trained, outputs = outputs_of(target)
    if run.finished(outputs):
        print(f"finished before: nothing to do -> {target.model}")
        return
    parts = samples.divide(windows, options["members"], options["seed"])
    check_micrographs(project, dataset, windows, parts)
    if run.finished(trained):  # only what tells of the model is missing
        test(project, data, target.model, out, options["batch"], gpus)
        return
    fold = search.folds(windows, options) if options["search"] else None
    pixels = samples.pixels(project, source.folder, dataset, windows)
    optional = [target.suspects, target.particles("rescued")]
    optional += [target.search_table, target.search_picture, target.settings]
    if options["members"] > 1:
        suspects.check(project, dataset)
    networks = rounds.kept(target, options)
    run_on(gpus)
    with run.writing([*outputs, *optional, *networks]):
        said = []
        if options["search"]:
            settings, line = search.search(pixels, windows, fold, options, target)
            said.append(line)
        models, logs, windows, revised = rounds.learn(
            project, dataset, pixels, windows, parts, options, settings, target
        )
        about = {"options": options | {"settings": asdict(settings)}}
        place, taught = (project, source, target), (dataset, pixels, windows, parts)
        scores, decided, suspected = conclude(place, taught, models, logs, about)
        for path in networks:
            path.unlink()
        run.finish(counts(scores))
    report(target, windows, logs, scores, decided, [*said, *revised, *suspected])


def run_on(gpus):
    """Let TensorFlow see so many GPUs, and say what it runs on.

    They are no option of the run's record: a training may go on elsewhere.
    """
    from apbc_common import devices

    devices.choose(gpus)
    cli.say(devices.said())


def outputs_of(target):
    """Return the files of a training: those that it makes first, and all."""
    trained = [target.model, model_record(target.model), target.training_log]
    return trained, [*trained, target.testing_results, target.training_picture]


def go_on(project, data, model_file, out, options, gpus, clear):
    """Go on with a model, on the data set as it is now, and write everything anew.

    A model that is replaced lies aside until all is there: a run that was killed starts from it.
    """
    from apbc_common import files, learning, network, rounds, samples, suspects

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset = read_dataset_record(source.dataset)
    start, aside = model_file or target.model, target.continued
    network.check_file(start)
    replaced = target.model.exists() and target.model.samefile(start)
    if replaced and clear:
        raise ApbcError(f"-c: it would clear {start}, which --continue goes on with")
    inputs = {"dataset": source.dataset, "model": None if replaced else start}
    run = Run(target.record("gen_model"), project, inputs, options, clear, follows=replaced)
    trained, outputs = outputs_of(target)
    if run.finished(outputs):
        print(f"finished before: nothing to do -> {target.model}")
        return
    if run.finished(trained):  # only what tells of the model is missing
        test(project, data, target.model, out, options["batch"], gpus)
        return
    run_on(gpus)
    if replaced and run.unfinished and aside.exists():
        start = aside
    record = read_model_record(start)
    windows = samples.read(source, dataset)
    network.keras().utils.set_random_seed(options["seed"])  # of the dropout that is read
    models = network.single(network.load_model(start, record))
    check_goes_on(start, record, dataset, len(models))
    known = {"members": len(models), "seed": record["options"]["seed"]}
    parts = samples.divide(windows, *known.values(), record.get("watched"))
    check_micrographs(project, dataset, windows, parts)
    if len(models) > 1:
        suspects.check(project, dataset)
    settings = learning.Settings(**record["options"].get("settings", {}))
    pixels = samples.pixels(project, source.folder, dataset, windows)
    kept = [aside, model_record(aside)]
    with run.writing([*outputs, target.suspects, target.particles("rescued"), *kept]):
        if replaced and start != aside:
            files.copy(model_record(start), model_record(aside))
            files.copy(start, aside)
        models, logs = rounds.go_on(pixels, windows, parts, models, options, settings)
        about = {"options": options | known | {"settings": asdict(settings)}}
        about["continued_from"] = record["sha256"]
        place, taught = (project, source, target), (dataset, pixels, windows, parts)
        scores, decided, said = conclude(place, taught, models, logs, about)
        for path in kept:
            path.unlink(missing_ok=True)
        run.finish(counts(scores))
    report(target, windows, logs, scores, decided, said)


def conclude(place, taught, models, logs, about):
    """Write the model, its record with more ``about`` it, and the results.

    Returns the scores of each part, what was decided, and lines on the suspects.
    """
    from apbc_common import network, suspects

    (project, source, target), (dataset, pixels, windows, parts) = place, taught
    model = network.all_ways(*models)
    scores = score(model, pixels, windows, parts, about["options"]["batch"])
    model, decided, doubts = decide(project, model, dataset, windows, parts, scores)
    scores |= judge(project, model, dataset, windows, decided)
    if len(models) > 1:
        about["watched"] = [sorted({*windows.micrograph[part["validation"]]}) for part in parts]
    write_model(target, model, dataset, decided, about)
    write_json(target.training_log, logs)
    write_results(project, source, target, windows, scores, logs, decided)
    if len(models) == 1:
        return scores, decided, []
    return scores, decided, suspects.report(project, target, dataset, windows, *doubts)


def counts(scores):
    """Return how many windows, or peaks, each part has."""
    return {part: len(one["label"]) for part, one in scores.items()}


def report(target, windows, logs, scores, decided, said):
    """Print how training went, and what came out."""
    for log in logs:
        last = {name: values[-1] for name, values in log.items()}
        print(f"{len(log['loss'])} epochs; loss {last['loss']:.3f}, val {last['val_loss']:.3f}")
    print_results(windows, scores, decided)
    print_decision(decided)
    print("\n".join([*said, f"model, results and picture -> {target.folder}"]))


def test(project, data, model_file, out, batch, gpus):
    """Test the model that is there, and write the results anew."""
    from apbc_common import network, samples

    source, target = ClassBin(project, data), ClassBin(project, out)
    dataset = read_dataset_record(source.dataset)
    windows = samples.read(source, dataset)
    path = model_file or (target if target.model.exists() else ClassBin(project)).model
    record = read_model_record(path)
    check_same_windows(path, record["dataset"], dataset)
    if record["dataset"] != dataset:
        cli.warn(f"{path}: trained with another data set; it may have seen these test windows")
    if target.folder != Path(path).parent and target.testing_results.exists():
        raise ApbcError(f"{target.testing_results}: already there; write elsewhere with --o DIR")
    logs = read_logs(Path(path).with_name(target.training_log.name))
    network.check_model(path, record)
    pixels = samples.pixels(project, source.folder, dataset, windows)
    run_on(gpus)
    whole = network.load_model(path, record)
    model = network.uncalibrated(whole)
    watched = record.get("watched") if record["dataset"] == dataset else None
    parts = samples.divide(windows, len(network.split(model)), record["options"]["seed"], watched)
    scores = score(model, pixels, windows, parts, batch)
    scores |= judge(project, whole, dataset, windows, record)
    write_results(project, source, target, windows, scores, logs, record)
    print_results(windows, scores, record)
    print(f"results and picture -> {target.folder}")


def check_micrographs(project, dataset, windows, parts):
    """Raise ApbcError or OSError if the threshold can't be chosen later: after the training."""
    from apbc_common import mrc

    if dataset["source"] == "micrograph":
        for name in sorted({name for part in parts for name in windows.source[part["validation"]]}):
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


def check_goes_on(path, record, dataset, members):
    """Raise ApbcError if a model can't go on with windows; warn if they flatter it."""
    taught = record["dataset"]
    check_same_windows(path, taught, dataset)
    if any(taught[name] != dataset[name] for name in ("source", "contrast")):
        raise ApbcError(
            f"{path}: trained with windows of another source or contrast ({taught['source']}, "
            f"{taught['contrast']}; these: {dataset['source']}, {dataset['contrast']})"
        )
    if members > 1 and "watched" not in record:
        raise ApbcError(
            f"{path}: its record does not say which micrographs each of its {members} networks was "
            "taught; train anew"
        )
    judges = {"test"} if members > 1 else {"test", "validation"}
    was = {name: one["part"] for name, one in taught.get("micrographs", {}).items()}
    now = {name: one["part"] for name, one in dataset.get("micrographs", {}).items()}
    seen = [n for n in now if now[n] in judges and was.get(n, now[n]) not in judges]
    lists = ("sha256", "seed")
    if seen or (not now and any(taught.get(name) != dataset.get(name) for name in lists)):
        cli.warn(f"{path}: trained with another split of the data; it may have seen what tests it")


def score(model, pixels, windows, parts, batch):
    """Score the windows: {part: {'index', 'label', 'probability'}}.

    Of several members, one that was taught a window tells of it in 'training', the one that was
    not in 'validation', and each has a row of its own on the test windows. Those that no list holds
    are 'corrected', which were chosen for being hard, or 'derived'.
    """
    import numpy as np

    from apbc_common import learning, network

    testing = windows.part == "test"
    kinds = {name: getattr(windows, name) for name in ("listed", "corrected", "derived")}
    tested = {name: np.flatnonzero(testing & which) for name, which in kinds.items()}
    listed = tested.pop("listed")
    models = network.split(model)
    held = [part["validation"] for part in parts]
    taught = held if len(parts) > 1 else [parts[0]["training"]]
    work = {
        "training": list(zip([*models[1:], models[0]], taught, strict=True)),
        "validation": list(zip(models, held, strict=True)),
        "testing": [(model, listed)],
    }
    work |= {name: [(model, rows)] for name, rows in tested.items() if len(rows)}
    if len(models) > 1:
        work |= {f"member {number}": [(one, listed)] for number, one in enumerate(models, 1)}
    scores = {}
    for part, found in work.items():
        index = np.concatenate([index for _, index in found])
        probability = [learning.score(one, pixels, index, batch) for one, index in found]
        scores[part] = {
            "index": index,
            "label": windows.label[index],
            "probability": np.concatenate(probability),
        }
    return scores


def decide(project, model, dataset, windows, parts, scores):
    """Choose the threshold on the validation part: windows of stacks, or peaks of micrographs.

    Returns
    -------
    model : keras.Model
        In the latter case calibrated.
    decided : dict
        What its record says of that.
    doubts : tuple of ndarray
        Listed particles that their judge was not taught, and the chance that each label is wrong.
    """
    import numpy as np

    from apbc_common import decision, labels, network, rounds, survey

    held = scores["validation"]
    if dataset["source"] == "stack":
        rows, score, good = held["index"], held["probability"], held["label"] == 1
        line = decision.fit_line(score, good)
        threshold = decision.best_threshold(held["label"], score)
        return (
            model,
            {"threshold": threshold, "calibration": None},
            (rows, line.wrong(score, good)),
        )
    asked = [part["validation"] for part in parts]
    most = MOST_MICROGRAPHS if len(parts) == 1 else None
    work = rounds.work(network.split(model), windows, asked, most)
    found = survey.survey(project, dataset, work)
    listed = windows.listed & np.isin(windows.source, found.names)
    rows = np.flatnonzero(listed)
    label, score = labels.at_peaks(found, windows, rows, dataset)
    fit = decision.calibrate(found.score, label, found.micrograph, len(found.names))
    model = network.calibrate(model, fit.line.slope, fit.line.offset)
    wrong = fit.line.wrong(score, windows.label[rows] == 1)
    return model, {"threshold": fit.threshold, "calibration": fit.record()}, (rows, wrong)


def judge(project, model, dataset, windows, decided):
    """Score the peaks of the test micrographs that the lists hold: a part 'peaks' for `score`'s."""
    import numpy as np

    from apbc_common import decision, labels, rounds, survey

    if dataset["source"] == "stack":
        return {}
    tested = np.flatnonzero(windows.part == "test")
    work = rounds.work([model], windows, [tested], MOST_MICROGRAPHS)
    found = survey.survey(project, dataset, work, "test ", decision.Evening.of(decided))
    label, score = labels.at_peaks(found, windows, tested[windows.listed[tested]], dataset)
    known = label >= 0
    return {"peaks": {"label": label[known], "probability": found.score[known]}}


def print_results(windows, scores, decided):
    """Print the table of all parts, and how sure the test windows' figures are."""
    from apbc_common import results

    results.print_table(scores)
    testing = scores["testing"]
    group = windows.micrograph[testing["index"]]
    found = results.intervals(testing, group)
    print(f"testing: {results.say(found)}")
    if found["ROC area"][0] < LEAST_AREA:
        cli.warn(
            f"ROC area {found['ROC area'][0]:.3f}, and 0.5 is that of guessing: this model hardly "
            "tells good from bad. Look at the lists, and at the picture; or give it more --epochs"
        )
    judged, slips = judged_by(scores, decided)
    if count := len(scores[judged]["label"]):
        error = results.reliability(scores[judged], slips)[2]
        what = "peaks of test micrographs" if judged == "peaks" else "test windows"
        print(f"chances are off by {error:.3f} on average: {count} {what}")


def judged_by(scores, decided):
    """Return the part that calibration is judged by, and the slips of its labels."""
    line = decided["calibration"]
    if line and "peaks" in scores:
        return "peaks", (line["missed"], line["false"])
    return "testing", (0.0, 0.0)


def print_decision(decided):
    """Say which threshold was chosen, and what other ones would give."""
    print(
        f"threshold {decided['threshold']:g}: best F1 of the validation part; the table is at 0.5"
    )
    if decided["calibration"]:
        from apbc_common import decision

        expected = decided["calibration"]["expected"]
        levels = [(share, decision.level(expected, share)) for share in SHARES]
        said = (
            f"{share:.0%} from {level['from']:g} ({level['picks']:.0f} picks)"
            for share, level in levels
            if level
        )
        print(f"expected false, picks a micrograph: {', '.join(said) or 'unknown'}")


def write_model(target, model, dataset, decided, about):
    """Write model.h5 and the record that the next scripts read, with more ``about`` it."""
    import tensorflow as tf

    from apbc_common import files, network

    with files.atomic(target.model) as part:  # a full disk leaves both as they were
        network.save_model(model, part)
        record = {
            "dataset": dataset,
            **about,
            "layers": network.recipe(model),
            **decided,
            "versions": {
                "apbc": __version__,
                "tensorflow": tf.__version__,
                "keras": network.keras().__version__,
            },
            "sha256": files.digest(part),
        }
        write_json(model_record(target.model), record)


def read_logs(path):
    """Read the history of each member's training; [] where it is missing."""
    if not path.exists():
        return []
    try:
        logs = json.loads(path.read_text(encoding="utf-8"))
        whole = all(METRICS <= log.keys() and all(log.values()) for log in logs)
    except (ValueError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ApbcError(f"{path}: damaged; remove it")
    return logs


def write_results(project, source, target, windows, scores, logs, decided):
    """Write what the model says of the listed test particles, and the picture."""
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
        for index, label, p in zip(*testing.values(), strict=True)
    ]
    write_json(target.testing_results, rows)
    results.draw(target.training_picture, scores, logs, *judged_by(scores, decided))


def main(argv=None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    args = cli.parse(parser, argv)
    if args.model and not (args.skiptraining or args.go_on):
        parser.error("argument --model: only with -s or --continue")
    if args.skiptraining and args.go_on:
        parser.error("argument --continue: not with -s, which trains nothing")
    if args.skiptraining:
        return cli.run(
            parser.prog,
            test,
            args.projpath,
            args.data,
            args.model,
            args.out,
            args.batch,
            args.gpus,
            job=args.job,
        )
    names = "epochs", "batch", "members", "rounds", "search", "seed"
    options = {name: getattr(args, name) for name in names} | {"continue": args.go_on}
    if args.go_on:
        if args.search or args.settings or args.members > 1 or args.rounds > 1:
            parser.error(
                "argument --continue: not with --search, --settings, --members or --rounds: the "
                "model has its own"
            )
        where = args.projpath, args.data, args.model, args.out
        return cli.run(parser.prog, go_on, *where, options, args.gpus, args.clear, job=args.job)
    return cli.run(
        parser.prog,
        generate,
        args.projpath,
        args.data,
        args.out,
        args.settings,
        options,
        args.gpus,
        args.clear,
        job=args.job,
    )


if __name__ == "__main__":
    sys.exit(main())
