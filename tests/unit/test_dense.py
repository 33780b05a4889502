"""The dense form of a network gives each window's own score."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from apbc_common import ApbcError, cli, decision, direct, network

CHECKED = 40  # windows


class Net:
    """A network with random weights, whose scores are neither all 0 nor all 1."""

    def __init__(self, size, finish=lambda model: model):
        keras = network.keras()
        keras.utils.set_random_seed(size)
        self.size, self.model = size, network.build_model(size)
        rng = np.random.default_rng(1)
        for layer in self.model.layers:
            if layer.name.startswith(("convolution", "dense")):
                kernel, bias = layer.get_weights()
                layer.set_weights([kernel * 1.5, rng.normal(0, 0.1, bias.shape)])
        self.model = finish(self.model)
        self._scorer = network.Scorer(self.model, CHECKED)
        names = {layer.name for layer in self.model.layers}
        last = network.CALIBRATION if network.CALIBRATION in names else "score"
        self._logits = keras.Model(self.model.input, self.model.get_layer(last).output)

    def score(self, grey, corners):
        """What `Scorer` and the layer of the logit say of the windows with these first pixels."""
        cut = np.stack([grey[i:, j:][: self.size, : self.size] for i, j in corners])
        logits = self._logits(cut[..., None].astype(np.float32)).numpy().ravel()
        return self._scorer(cut), logits


def two(model):
    """A model of two networks, all ways, calibrated."""
    other = network.build_model(model.input_shape[1])
    return network.calibrate(network.all_ways(model, other), 4.0, -1.3)


@pytest.fixture(scope="module", params=[(64,), (48,), (64, network.all_ways), (64, two)])
def net(request):
    return Net(*request.param)


def micrograph(ny, nx):
    """Grey noise, fine and coarse, as uint8."""
    rng = np.random.default_rng(ny * nx)
    coarse = np.kron(rng.integers(0, 200, (ny // 9 + 1, nx // 9 + 1)), np.ones((9, 9)))[:ny, :nx]
    return (coarse + rng.integers(0, 56, (ny, nx))).astype(np.uint8)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_the_dense_score_is_that_of_the_window(net, monkeypatch, stride):
    monkeypatch.setattr(network, "TILE", 32)  # several, of unequal sizes
    score = network.Dense(net.model, stride)
    for extra in ((0, 0), (1, 7), (15, 42), (73, 38)):
        grey = micrograph(net.size + extra[0], net.size + extra[1])
        dense = score(grey)
        assert dense.dtype == np.float32
        assert dense.shape == tuple(more // stride + 1 for more in extra)
        last = np.array(dense.shape) - 1
        drawn = np.random.default_rng(0).integers(0, last + 1, (CHECKED - 2, 2))
        places = np.concatenate([[(0, 0), last], drawn])
        found = dense[*places.T]
        probabilities, logits = net.score(grey, places * stride)
        assert found == pytest.approx(logits, abs=1e-5)
        assert 1 / (1 + np.exp(-found)) == pytest.approx(probabilities, abs=1e-5)
    assert probabilities.std() > 0.01


def test_a_model_of_several_networks_is_split_into_them():
    models = [Net(64).model, network.build_model(64)]
    window = micrograph(64, 64)[None, ..., None].astype(np.float32)
    apart = [network.all_ways(model)(window) for model in models]
    model = network.calibrate(network.all_ways(*models), 0.7, -1.3)
    found = [one(window) for one in network.split(model)]
    assert np.allclose(found, apart, atol=1e-6) and abs(apart[0] - apart[1]) > 1e-3
    odds = np.mean([np.log(p / (1 - p)) for p in apart])
    before = float(network.uncalibrated(model)(window)[0, 0])
    assert before == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)
    assert float(model(window)[0, 0]) == pytest.approx(1 / (1 + np.exp(1.3 - 0.7 * odds)), abs=1e-6)


def test_a_quarter_turn_changes_no_score():
    grey = micrograph(64, 64)
    ways = [np.ascontiguousarray(np.rot90(grey, turn)) for turn in range(4)]
    alone = [Net(64).score(way, [(0, 0)])[1] for way in ways]
    assert min(abs(one - alone[0]) for one in alone[1:]) > 0.01
    together = Net(64, network.all_ways)
    for way in ways:
        assert together.score(way, [(0, 0)])[1] == pytest.approx(np.mean(alone), abs=1e-5)


def test_tiles_do_not_show(net, monkeypatch):
    grey = micrograph(131, 174)
    whole = network.Dense(net.model, 4)(grey)
    for tile in (8, 40, 53):
        monkeypatch.setattr(network, "TILE", tile)
        assert network.Dense(net.model, 4)(grey) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    "error", [MemoryError("OOM when allocating a tensor"), RuntimeError("No BLAS for stream.")]
)  # the first makes a ResourceExhaustedError
def test_where_memory_is_short_tiles_are_smaller(error, net, monkeypatch, capsys):
    cli.warn_once.cache_clear()
    grey, room = micrograph(431, 574), [10_000]
    dense = network._dense

    def check(shape):
        if shape[1] > room[0]:
            raise error

    def tight(model, found, stride):
        with tf.control_dependencies([tf.py_function(check, [tf.shape(found)], [])]):
            return dense(model, tf.identity(found), stride)

    monkeypatch.setattr(network, "_dense", tight)
    whole = network.Dense(net.model, 4)(grey)
    room[0] = 300
    for _ in range(2):
        score = network.Dense(net.model, 4)
        for _ in range(2):
            assert score(grey) == pytest.approx(whole, abs=1e-5)
    assert capsys.readouterr().err.splitlines() == [
        "warning: out of memory with tiles of 800 pixels; going on with 400",
        "warning: out of memory with tiles of 400 pixels; going on with 200",
    ]
    room[0] = net.size
    least = {48: 50, 64: 100}[net.size]
    with pytest.raises(ApbcError, match=f"^out of memory with tiles of {least} pixels; make room "):
        score(grey)


def test_where_no_window_fits_there_is_no_score(net):
    for shape in ((1, 1), (40, 40), (47, 300), (300, 30)):
        dense = network.Dense(net.model, 4)(micrograph(*shape))
        assert dense.size == 0 and dense.ndim == 2 and dense.dtype == np.float32


def test_a_pick_has_the_probability_of_the_window_about_it(net):
    taught = {"window_px": net.size, "window_angst": 2.0 * net.size, "box_angst": 2.0 * net.size}
    taught["diameter_angst"] = 0.0  # nothing is smoothed
    picker = direct.Picker(net.model, taught, 10, net.size, 0.001, 1)
    grey = micrograph(140, 151)
    xy, found = picker.find((grey, np.array([1.0, 1.0]), 2.0))
    corners = np.rint(xy[:, ::-1] - (net.size - 1) / 2).astype(int)
    probabilities, _ = net.score(grey, corners[:CHECKED])
    assert 5 < len(xy) and (np.diff(found) <= 0).all()
    assert found[:CHECKED] == pytest.approx(probabilities, abs=6e-5)  # four decimals


def test_picks_are_evened_and_the_least_of_them_are_left_out_before(net):
    taught = {"window_px": net.size, "window_angst": 2.0 * net.size, "box_angst": 2.0 * net.size}
    taught["diameter_angst"] = 20.0
    prepared = micrograph(140, 151), np.array([1.0, 1.0]), 2.0

    def find(floor, **evening):
        return direct.Picker(net.model, taught, 10, net.size, floor, 1, **evening).find(prepared)

    every, raw = find(1e-4)
    odds = special.logit(np.clip(raw, 1e-4, 1 - 1e-4))
    low = odds[len(odds) // 2 : -2]
    least = low[(gap := np.diff(-low)).argmax()] - gap.max() / 2
    evening = decision.Evening(odds.max() / 2 - 1, 0.6)
    xy, found = find(special.expit(least), evening=evening)
    kept = odds >= least
    assert 1 < kept.sum() < len(raw)
    assert xy.tolist() == every[kept].tolist()
    assert found == pytest.approx(special.expit(evening.even(odds))[kept], abs=2e-3)
