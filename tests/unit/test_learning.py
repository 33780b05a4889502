"""Training: what is done to windows."""

import numpy as np
import pytest
import tensorflow as tf

from apbc_common import ApbcError, cli, learning, network


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


def test_noise_of_other_places_is_laid_over_a_share_of_the_windows():
    """Over stripes across: what is left of those along says how much was laid over."""
    along, across = np.indices((48, 48)) % 2
    found, noise = (
        tf.constant(np.repeat((107 + 40 * one)[None, :, :, None], 3000, axis=0).astype(np.uint8))
        for one in (along, across)
    )
    generator, (share, most) = tf.random.Generator.from_seed(0), learning.OVERLAY
    for strength in (1.0, 0.5):
        out = learning.overlay(found, noise, generator, strength).numpy()[..., 0] - 127.5
        own, other = ((out * (2 * one - 1)).mean(axis=(1, 2)) / 20 for one in (along, across))
        assert own**2 + other**2 == pytest.approx(1, abs=0.05)  # the deviation stays
        much = (other / own)[np.abs(other) > 1e-3]
        assert len(much) / 3000 == pytest.approx(share, abs=0.03)
        spread = np.array([0, 0.25, 0.5, 0.75, 1])
        assert np.quantile(much, spread) == pytest.approx(strength * most * spread, abs=0.07)
    assert learning.overlay(found, noise, generator, 0.0).numpy() == pytest.approx(found.numpy())


def test_only_what_is_shown_often_is_laid_over_and_only_by_what_is_learnt_from(monkeypatch):
    pixels = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((48, 48), np.uint8)
    label, rows, seen, strengths = np.arange(60) % 2, np.arange(60), set(), []
    overlay = learning.overlay

    def watched(found, noise, generator, strength):
        def keep(noise, strength):
            seen.update(noise.numpy()[:, 0, 0, 0].tolist())
            strengths.append(float(strength))

        tf.py_function(keep, [noise, strength], [])
        return overlay(found, noise, generator, strength)

    monkeypatch.setattr(learning, "overlay", watched)
    how = 20, 0, "", None, 1.0, learning.Settings(), None
    for epochs in (learning.FRESH, 25):
        assert not seen
        learning.train(pixels, label, rows[:40], rows[40:], epochs, *how, rows % 3 == 0)
    assert seen == set(range(0, 40, 3))
    falling = np.maximum(0, 1 - np.arange(25) / 20)  # nothing from four fifths on
    assert np.array(strengths) == pytest.approx(np.repeat(falling, 2))  # of two batches each
    seen.clear()
    learning.train(pixels, label, rows[:40], rows[40:], 25, *how)  # none is known to be blank
    assert not seen


def test_both_kinds_weigh_the_same_however_much_some_windows_count():
    label, weight = np.array([1, 0, 0, 0, 1, 0]), np.array([8, 1, 8, 1, 1, 1.0])
    found = learning.balanced(label, weight, np.array([0, 1, 2, 3]))
    assert found.tolist() == pytest.approx([2, 0.2, 1.6, 0.2, 0.25, 0.2])
    assert found[:4].mean() == pytest.approx(1)


WARNING = "warning: out of memory with {} windows a step; starting again with {}\n"


SHORT = {
    "tensor": MemoryError("OOM when allocating a tensor"),  # ResourceExhaustedError of it
    "algorithm": RuntimeError("No algorithm worked! RESOURCE_EXHAUSTED: Out of memory while"),
    "library": RuntimeError("No BLAS for stream."),
}  # what a GPU of little memory was seen to end in


@pytest.fixture(params=("tensor", "library"))
def memory(request, monkeypatch):
    """Let memory be too short for so many windows a step, once so many steps have fitted."""
    augment = learning.augment

    def short(beyond, fits=0):
        steps = []

        def check(count):
            steps.append(count)
            if count > beyond and len(steps) > fits:
                raise SHORT[request.param]

        def tight(found, *how):
            with tf.control_dependencies([tf.py_function(check, [tf.shape(found)[0]], [])]):
                return augment(tf.identity(found), *how)

        monkeypatch.setattr(learning, "augment", tight)

    return short


def train(batch, model=None, epochs=2):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 48, 48)).astype(np.uint8)
    label, rows = np.arange(60) % 2, np.arange(60)
    found, _ = learning.train(pixels, label, rows[:40], rows[40:], epochs, batch, 3, "", model)
    return found


def test_where_memory_is_short_training_starts_again_with_half_the_batch(memory, capsys):
    wanted = train(10).get_weights()
    capsys.readouterr()
    memory(beyond=12)
    found = train(40).get_weights()
    said = capsys.readouterr().err
    assert said.startswith(WARNING.format(40, 20) + WARNING.format(20, 10))
    assert said.count("warning") == 2
    for one, other in zip(found, wanted, strict=True):
        assert (one == other).all()


def test_what_goes_on_starts_again_from_where_it_was(memory, capsys):
    """Memory is too short in the last epoch only; nothing is left out, which goes by the call."""
    start, again = (network.build_model(48, dropout=0.0) for _ in range(2))
    again.set_weights([np.array(one) for one in start.get_weights()])
    wanted = train(20, start, 4).get_weights()
    memory(beyond=20, fits=3)
    found = train(40, again, 4).get_weights()
    assert WARNING.format(40, 20) in capsys.readouterr().err
    for one, other in zip(found, wanted, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("batch, least", [(40, 10), (15, 15), (4, 4)])
def test_where_memory_is_shorter_still_it_ends_in_a_line(memory, batch, least):
    memory(beyond=1)
    with pytest.raises(ApbcError, match=f"^out of memory with {least} windows a step; make room "):
        train(batch)


class Tight:
    """A model that has memory for so many windows."""

    input_shape = (None, 48, 48, 1)

    def __init__(self, room, error):
        self.model, self.room, self.error = network.build_model(48), room, error

    def __call__(self, found, training):
        if found.shape[0] > self.room:
            raise self.error
        return self.model(found, training=training)


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor"),
        tf.errors.NotFoundError(None, None, str(SHORT["algorithm"])),
        tf.errors.InternalError(None, None, str(SHORT["library"])),
    ],
)
def test_where_memory_is_short_fewer_windows_are_scored_at_a_time(error, capsys):
    """Said once, whoever scores; so that not all is lost when others leave, each tries all."""
    cli.warn_once.cache_clear()
    pixels = np.random.default_rng(0).integers(0, 256, (150, 48, 48)).astype(np.uint8)
    model = Tight(20, error)
    wanted = learning.score(model.model, pixels, np.arange(150), 64)
    for _ in range(2):
        found = learning.score(model, pixels, np.arange(150), 64)
        assert found == pytest.approx(wanted, abs=1e-5)
    assert capsys.readouterr().err.splitlines() == [
        "warning: out of memory with 64 windows at a time; going on with 32",
        "warning: out of memory with 32 windows at a time; going on with 16",
    ]
    model.room = 64
    assert learning.score(model, pixels, np.arange(150), 64) == pytest.approx(wanted, abs=1e-5)
    assert capsys.readouterr().err == ""
    model.room = 7
    with pytest.raises(ApbcError, match="^out of memory with 8 windows at a time; make room on "):
        learning.score(model, pixels, np.arange(150), 64)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model = Tight(20, tf.errors.InternalError(None, None, "the GPU has fallen off the bus"))
    pixels = np.zeros((64, 48, 48), np.uint8)
    with pytest.raises(tf.errors.InternalError, match="off the bus"):
        learning.score(model, pixels, np.arange(64), 64)
