"""The steps of weights."""

import numpy as np
import pytest
import tensorflow as tf

from apbc_common import network, optimizer


@pytest.mark.parametrize("shape", [(288, 64), (16, 25)])
def test_singular_values_are_made_nearly_equal(shape):
    """Random ones differ by several times; the directions stay."""
    matrix = np.random.default_rng(0).normal(0, 1e-4, shape).astype(np.float32)
    left, before, right = np.linalg.svd(matrix, full_matrices=False)
    found = optimizer.orthogonal(tf.constant(matrix)).numpy()
    values = left.T @ found @ right.T
    assert before[0] / before[-1] > 2
    assert 0.65 < np.diag(values).min() and np.diag(values).max() < 1.25
    assert values - np.diag(np.diag(values)) == pytest.approx(0, abs=1e-3)


def test_a_first_step_has_the_size_of_adam_s():
    """Whatever the gradient's: for a kernel 0.3 of the rate, root mean square; else Adam's."""
    model = network.build_model(48)
    follow = optimizer.muon(1e-3)
    before = [np.array(weight.numpy()) for weight in model.trainable_variables]
    rng = np.random.default_rng(0)
    gradients = [  # none so near to 0 that Adam's epsilon counts
        (rng.choice((-1, 1), one.shape) * rng.uniform(1e-3, 1e-2, one.shape)).astype(np.float32)
        for one in before
    ]
    follow.apply([tf.constant(one) for one in gradients], model.trainable_variables)
    for weight, start, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        step = weight.numpy() - start
        if "kernel" in weight.path and network.LOGIT not in weight.path:
            assert np.sqrt((step**2).mean()) == pytest.approx(0.3e-3, rel=0.25), weight.path
        else:
            assert step == pytest.approx(-1e-3 * np.sign(gradient), rel=0.1), weight.path
        assert (step * gradient).sum() < 0


def test_momentum_carries_on():
    """A step after a gradient of nothing goes where the one before it went."""
    weight = network.keras().Variable(np.zeros((3, 3, 2, 4)), dtype="float32", name="kernel")
    follow = optimizer.muon(1e-3)
    gradient = np.random.default_rng(0).normal(size=weight.shape).astype(np.float32)
    follow.apply([tf.constant(gradient)], [weight])
    first = np.array(weight.numpy())
    follow.apply([tf.zeros(weight.shape)], [weight])
    second = weight.numpy() - first
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.99
