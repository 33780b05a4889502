"""Training: what is done to windows."""

import numpy as np
import pytest
import tensorflow as tf

from apbc_common import learning


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_contrast_and_brightness_are_changed_by_so_much(jitter):
    """Windows of rings, which turns and flips leave as they are."""
    y, x = np.mgrid[:48, :48] - 24.0
    ring = 127.5 + 30 * np.cos(np.hypot(x, y) / 3)
    found = np.repeat(ring[None, :, :, None].astype(np.uint8), 2000, axis=0)
    out = learning.augment(tf.constant(found), tf.random.Generator.from_seed(0), jitter)
    middle = out.numpy()[:, 8:40, 8:40, 0]
    factor = np.log(middle.std(axis=(1, 2)))
    step = middle.mean(axis=(1, 2))
    assert factor.std() == pytest.approx(jitter, abs=0.02)
    assert step.std() == pytest.approx(127.5 / 4 * jitter, abs=0.5)
    assert step.mean() == pytest.approx(found[0, 8:40, 8:40].mean(), abs=1)


def test_both_kinds_weigh_the_same_however_much_some_windows_count():
    label, weight = np.array([1, 0, 0, 0, 1, 0]), np.array([8, 1, 8, 1, 1, 1.0])
    found = learning.balanced(label, weight, np.array([0, 1, 2, 3]))
    assert found.tolist() == pytest.approx([2, 0.2, 1.6, 0.2, 0.25, 0.2])
    assert found[:4].mean() == pytest.approx(1)
