"""Training in rounds: networks learn, say where the particles are, and learn on."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from . import files, labels, learning, network, samples
from . import survey as surveys

SEEDS = 1000  # between those of two members
GO_ON = 0.2, 0.3  # of the usual epochs, and of their rate, with a network that has learnt before


def learn(project, dataset, pixels, windows, parts, options, settings, classbin):
    """Train networks; each is kept as it is after a round, so that a killed training goes on.

    After each round but the last good particles move by what the networks say of micrographs:
    each of those that it was not taught, one alone of all but those to test. Then training goes on.

    Parameters
    ----------
    project : pathlib.Path
    dataset : dict
        Record of the data set.
    pixels : ndarray of uint8, shape (N, size, size)
        Of the windows; those of moved ones are cut anew.
    windows : samples.Samples
    parts : list of dict
        From `samples.divide`: one for each network.
    options : dict
        'rounds', 'epochs' (None: `learning` decides), 'batch', 'seed'.
    settings : learning.Settings
    classbin : classbin.ClassBin
        Where the networks are kept (`kept`).

    Returns
    -------
    models : list of keras.Model
    logs : list of dict
        History of each.
    windows : samples.Samples
        With the good where they are thought to be.
    said : list of str
        Of each revision, for people.
    """
    models, logs, said = [None] * len(parts), [{} for _ in parts], []
    rounds = options["rounds"]
    for number in range(1, rounds + 1):
        for member, part in enumerate(parts):
            path = classbin.network(number, member + 1)
            if path.exists():
                models[member], log = _read(path, pixels.shape[1], settings)
            else:
                where = (number, rounds), (member, len(parts))
                how = models[member], 1 / rounds, settings
                models[member], log = _train(pixels, windows, part, options, where, *how)
                _write(path, models[member], log)
            for name, values in log.items():
                logs[member].setdefault(name, []).extend(values)
        if number < rounds:
            asked = [part["validation"] for part in parts]
            if len(parts) == 1:
                asked = [np.flatnonzero(windows.part != "test")]
            complete = [network.all_ways(model) for model in models]
            found = surveys.survey(project, dataset, work(complete, windows, asked))
            revision = labels.revise(found, windows, dataset)
            windows = revision.samples
            samples.recut(project, dataset, windows, np.flatnonzero(revision.moved), pixels)
            said.append(f"after round {number}: {revision.said}")
    return models, logs, windows, said


def go_on(pixels, windows, parts, models, options, settings):
    """Train networks on, for GO_ON of the usual epochs and of their rate, all in one round.

    Parameters
    ----------
    pixels, windows, parts, options, settings
        As `learn`.
    models : list of keras.Model
        One for each of the parts.

    Returns
    -------
    models : list of keras.Model
    logs : list of dict
    """
    share, slower = GO_ON
    share = 1.0 if options["epochs"] else share
    settings = dataclasses.replace(settings, rate=slower * settings.rate)
    found = [
        _train(pixels, windows, part, options, ((1, 1), (i, len(parts))), model, share, settings)
        for i, (model, part) in enumerate(zip(models, parts, strict=True))
    ]
    return tuple(map(list, zip(*found, strict=True)))


def _train(pixels, windows, part, options, where, model, share, settings):
    """Train one network: the round (from 1) and the member (from 0) of how many is ``where``."""
    (number, rounds), (member, members) = where
    names = (("round", number, rounds), ("member", member + 1, members))
    return learning.train(
        pixels,
        windows.label,
        part["training"],
        part["validation"],
        options["epochs"],
        options["batch"],
        options["seed"] + SEEDS * (member + members * (number - 1)),
        "".join(f"{what} {n}/{count}, " for what, n, count in names if count > 1),
        model,
        share,
        settings,
        windows.weight,
        windows.blank,
    )


def kept(classbin, options) -> list:
    """Return the files that `learn` keeps networks in."""
    return [
        classbin.network(number, member)
        for number in range(1, options["rounds"] + 1)
        for member in range(1, options["members"] + 1)
    ]


def _write(path, model, log):
    weights = {f"weights{i}": array for i, array in enumerate(model.get_weights())}
    with files.atomic(path) as part:
        np.savez(part, log=json.dumps(log), **weights)


def _read(path, size, settings):
    model = network.build_model(size, settings.width, settings.dropout)
    with np.load(path) as found:
        model.set_weights([found[f"weights{i}"] for i in range(len(model.get_weights()))])
        return model, json.loads(str(found["log"]))


def work(models, windows, asked, most=None):
    """Return the micrographs of some windows to ask each model about, as `survey.survey` takes it.

    ``asked`` are indices of windows, for each model; of each at most ``most`` micrographs.
    """
    return [
        (model, sorted(set(windows.source[rows]))[:most])
        for model, rows in zip(models, asked, strict=True)
    ]
