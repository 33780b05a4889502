"""Training on two devices: in a process that has two CPUs, as it thinks."""

import dataclasses
import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import tensorflow as tf

from apbc_common import devices, learning, network

SIZE = 48
TRAINED, WATCHED = 150, 51  # windows


def two_cpus():
    only = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(only, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="module")
def call():
    """Call a function in that process."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=two_cpus) as pool:
        yield lambda *work: pool.submit(*work).result()


def both():
    return devices.mirrored(["CPU:0", "CPU:1"])


def windows(count):
    """Return grey noise, half of it with a blob in the middle, and which half."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, count)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    blob = 60 * np.exp(-(x**2 + y**2) / 60)
    grey = 127 + rng.normal(0, 30, (count, SIZE, SIZE)) + label[:, None, None] * blob
    return grey.clip(0, 255).astype(np.uint8), label


@dataclasses.dataclass
class Learnt:
    log: dict
    apart: float  # the most that two replicas of a weight differ by
    loss: float  # of the windows to watch, by the network that came out
    accuracy: float
    score: np.ndarray  # of all windows
    usual: bool  # whether that is a network as any other, for one device


@functools.cache
def learn(several, trained=TRAINED, epochs=8, batch=32, exact=False, seed=0):
    """Train a network; exactly: without what is drawn at random."""
    pixels, label = windows(trained + WATCHED)
    rows = np.arange(len(label))
    built, build = [], network.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "build_model", lambda *how: built.append(build(*how)) or built[-1])
        if several:
            patch.setattr(devices, "strategy", both)
        if exact:
            patch.setattr(learning, "augment", lambda found, *_: tf.cast(found, tf.float32))
        patch.setattr(learning, "FRESH", 0)
        how = {
            "settings": learning.Settings(dropout=0.0 if exact else 0.5),
            "weight": 1.0 + rows % 3,
            "blank": None if exact else label == 0,
        }
        todo = rows[:trained], rows[trained:], epochs, batch, seed
        model, log = learning.train(pixels, label, *todo, note=f"{several} ", **how)
    apart = 0.0
    if several:
        local = built[0].distribute_strategy.experimental_local_results
        pairs = [local(one.value) for one in built[0].trainable_variables]
        apart = max(float(abs(one.numpy() - other.numpy()).max()) for one, other in pairs)
    score = learning.score(model, pixels, rows, 64)
    good = label[trained:] == 1
    told = np.where(good, score[trained:], 1 - score[trained:])
    usual = model.distribute_strategy.num_replicas_in_sync == 1
    loss, accuracy = float(-np.log(told).mean()), float((told > 0.5).mean())
    return Learnt(log, apart, loss, accuracy, score, usual)


def test_what_is_learnt_is_the_same_within_noise(call):
    usual, found = call(learn, False), call(learn, True)
    assert found.apart == 0
    assert found.log["loss"][-1] < 0.9 * found.log["loss"][0]
    assert found.accuracy > 0.97 and usual.accuracy > 0.97
    assert found.log["accuracy"][-1] == pytest.approx(usual.log["accuracy"][-1], abs=0.03)
    assert found.log["loss"][-1] == pytest.approx(usual.log["loss"][-1], abs=0.05)
    assert found.usual


def learn_on():
    """Return scores of a network that has learnt, and of what a slow last epoch makes of it."""
    pixels, label = windows(TRAINED)
    rows = np.arange(TRAINED)
    data = pixels, label, rows[:100], rows[100:]
    before, _ = learning.train(*data, 8, 32, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "strategy", both)
        slow = learning.Settings(rate=1e-6)
        after, _ = learning.train(*data, 1, 32, 1, model=before, settings=slow)
    return [learning.score(model, pixels, rows, 64) for model in (before, after)]


def test_a_network_goes_on_on_two_devices(call):
    before, after = call(learn_on)
    assert np.ptp(before) > 0.08
    assert after == pytest.approx(before, abs=0.01)


def test_two_devices_learn_what_one_does_to_rounding(call):
    """Nothing is drawn at random; of 13 windows in a batch one device has 6."""
    how = 13, 20, 16, True
    one, two = call(learn, False, *how), call(learn, True, *how)
    assert np.ptp(one.score) > 0.05
    assert two.score == pytest.approx(one.score, abs=2e-3)
    assert two.log["loss"] == pytest.approx(one.log["loss"], abs=1e-3)


@pytest.mark.parametrize("batch", [16, 64])
def test_what_is_said_of_the_watched_windows_is_true(call, batch):
    """But for one that is counted twice, since they are odd."""
    found = call(learn, True, TRAINED, 2, batch)
    assert found.log["val_loss"][-1] == pytest.approx(found.loss, abs=1e-3)
    assert found.log["val_accuracy"][-1] == pytest.approx(found.accuracy, abs=1 / WATCHED)


def shares(count, batch, epochs):
    """Return what each device is given: rows and weights, by step."""
    pixels, _ = windows(count)
    rows, strategy = np.arange(count), both()
    steps = -(-count // batch)
    how = batch, 0, 0.0, (), 0.0
    shown = learning.training_windows(pixels, rows, rows, *how, np.ones(count, "float32"))
    shared = strategy.distribute_datasets_from_function(lambda _: learning.parts(shown, 2))
    given = []
    for _, (_, label, weight) in zip(range(steps * epochs), shared, strict=False):
        local = strategy.experimental_local_results
        parts = zip(local(label), local(weight), strict=True)
        given.append([(one.numpy().ravel(), two.numpy()) for one, two in parts])
    return given


@pytest.mark.parametrize("count, batch", [(64, 16), (61, 16), (65, 16), (7, 16)])
def test_every_window_is_shown_once_an_epoch(call, count, batch):
    given, steps = call(shares, count, batch, 2), -(-count // batch)
    orders = []
    for epoch in (given[:steps], given[steps:]):
        orders.append(np.concatenate([rows[weight > 0] for step in epoch for rows, weight in step]))
        assert sorted(orders[-1]) == list(range(count))
    assert orders[0].tolist() != orders[1].tolist()
    for (one, first), (two, second) in given:
        assert len(one) == len(two)
        weight = np.concatenate([first, second])  # the mean of means is that of the batch
        total = (weight > 0).sum()
        assert weight[weight > 0] / len(weight) == pytest.approx(1 / total)
        assert len(weight) - total == total % 2
