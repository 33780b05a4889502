"""Training: windows in, a network out. It knows no files and no layers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from . import ApbcError, cli, devices, images, network, optimizer

WARM = 0.05  # of the steps: learning rises to its rate, then falls as a cosine
SHOWN = 100_000  # windows in a training, each as often as that gives, within EPOCHS
EPOCHS = 10, 60
LEAST = 600  # steps, however few the windows: kernels start at random and turn slowly
FRESH = 20  # passes after which windows are shown in the noise of other places, too
OVERLAY = 0.5, 1.5  # share of them; how strong that noise is at most, to the window's own
CLEAR = 0.8  # of the passes: until then it falls to nothing, as picking meets windows as they are


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Parameters
    ----------
    rate : float
        The highest rate of learning.
    width : float
        Of the network's layers: how many times `network.FILTERS` and `network.DENSE`.
    dropout : float
        Share of the first fully connected layer's units that are left out of a step.
    jitter : float
        Deviation of the windows' contrast (a factor's logarithm) and brightness (in deviations of
        a window) in training.
    """

    rate: float = 2e-3
    width: float = 1.0
    dropout: float = network.DROPOUT
    jitter: float = 0.0


def train(
    pixels,
    label,
    training,
    validation,
    epochs,
    batch,
    seed,
    note="",
    model=None,
    share=1.0,
    settings=Settings(),
    weight=None,
    blank=None,
):
    """Train a network, or go on with it, on what this process sees: the GPUs, or the CPU.

    The last weights are kept: as the rate has fallen to nothing, they are better than those of the
    least validation loss, which is that of few particles and was lucky. Where memory is short the
    batch is halved, and the network starts again.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (N, size, size)
    label : ndarray of int, shape (N,)
        1 good, 0 bad.
    training, validation : ndarray of int
        Which windows to learn from, and to watch.
    epochs : int or None
        None: `usual_epochs`.
    batch : int
        Windows a step, on all GPUs together.
    seed : int
    note : str
        What comes first in a line of progress.
    model : keras.Model, optional
        To go on with (default: a new one).
    share : float
        Of the epochs, to do now.
    settings : Settings
    weight : ndarray of float, shape (N,), optional
        How much each window counts among those of its kind (default: all alike).
    blank : ndarray of bool, shape (N,), optional
        Which windows show nothing but noise: those to train with are laid over others that are
        shown more than FRESH times (default: none).

    Returns
    -------
    model : keras.Model
        As `network.build_model` makes it.
    log : dict of str to list of float
        Each metric of each epoch.

    Raises
    ------
    ApbcError
        If memory is too short for `network.LEAST_BATCH` windows a step.
    """
    network.keras()
    import tensorflow as tf

    weight = balanced(label, np.ones(len(label)) if weight is None else weight, training)
    data = pixels, label, training, validation, weight
    start = [np.array(one) for one in model.get_weights()] if model else []
    while True:
        passes = epochs or usual_epochs(len(training), batch)
        now = max(1, round(share * passes))
        laid = training[blank[training]] if passes > FRESH and blank is not None else ()
        try:
            return _learn(*data, laid, now, batch, seed, note, model, settings)
        except tf.errors.OpError as err:
            network.raise_unless_short(err)
        # by now what it held is free
        if batch // 2 < network.LEAST_BATCH:
            raise ApbcError(
                f"out of memory with {batch} windows a step; make room on the GPU or the machine, "
                "or train on the CPU (--gpus none)"
            )
        batch //= 2
        cli.warn(f"out of memory with {2 * batch} windows a step; starting again with {batch}")
        if model:
            model.set_weights(start)


def _learn(
    pixels, label, training, validation, weight, laid, epochs, batch, seed, note, model, settings
):
    """Train a network for so many epochs, as `train`; ``laid`` are rows of windows to lay over.

    One that learns on several GPUs is built for that; what it has learnt is returned in a network
    as any other. All in full precision: half was no faster on a GPU, as the network is small.
    """
    keras = network.keras()
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    strategy = devices.strategy()
    several = strategy.num_replicas_in_sync > 1
    recipe = pixels.shape[1], settings.width, settings.dropout
    steps = -(-len(training) // batch) * epochs
    warm = max(1, round(WARM * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm), warmup_target=settings.rate, warmup_steps=warm
    )
    with strategy.scope():
        learner = network.build_model(*recipe) if several or not model else model
        if model and several:
            learner.set_weights(model.get_weights())
        learner.compile(
            optimizer.muon(rate),
            "binary_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,  # XLA: 45 s to compile on a GPU, and no step is shorter
        )
    even = np.ones(len(label), np.float32)
    with tf.device("CPU"):  # where windows are changed, whatever learns
        strength = tf.Variable(1.0)
    how = batch, seed, settings.jitter, laid, strength
    shown = training_windows(pixels, label, training, *how, weight)
    watched = windows(pixels, label, validation, batch, None, even).prefetch(1)
    ends = {}
    if several:
        ends = {"steps_per_epoch": len(shown), "validation_steps": len(watched)}
        shown, watched = (_shared(strategy, data) for data in (shown, watched))
    history = learner.fit(
        shown,
        validation_data=watched,
        epochs=epochs,
        callbacks=[_lines(keras, epochs, note), _clearing(keras, epochs, strength)],
        shuffle=False,
        verbose=0,
        **ends,
    )
    log = {name: [float(value) for value in values] for name, values in history.history.items()}
    if not several:
        return learner, log
    model = network.build_model(*recipe)
    model.set_weights(learner.get_weights())
    return model, log


def _shared(strategy, batches):
    """Return batches as a strategy takes them."""
    replicas = strategy.num_replicas_in_sync
    return strategy.distribute_datasets_from_function(lambda _: parts(batches, replicas))


def usual_epochs(count, batch) -> int:
    """Return how often to show each of so many windows, by SHOWN, EPOCHS and LEAST.

    >>> usual_epochs(5_000, 64), usual_epochs(500, 64), usual_epochs(100, 64)
    (20, 75, 300)
    """
    shown = min(max(SHOWN // count, EPOCHS[0]), EPOCHS[1])
    return max(shown, -(-LEAST // -(-count // batch)))


def balanced(label, weight, training):
    """Return weights, float32 (N,), of which both labels have half; those to train with mean 1."""
    counts = np.bincount(label[training], weight[training], minlength=2)
    return (weight * len(training) / (2 * np.maximum(counts, 1)[label])).astype(np.float32)


def windows(pixels, label, index, batch, seed=None, *columns):
    """Return a tf.data set of batches: windows (n, size, size, 1) uint8, labels (n, 1) float32.

    In the order of ``index``, or with a seed in another one each epoch; then entries of other
    ``columns``, (n,).
    """
    import tensorflow as tf

    also = [column[index] for column in columns]
    rows = tf.data.Dataset.from_tensor_slices((index, label[index, None].astype("float32"), *also))
    if seed is not None:
        rows = rows.shuffle(len(index), seed=seed)
    return rows.batch(batch).map(lambda at, *others: (_gather(pixels, at), *others))


def _gather(pixels, rows):
    """Return some windows as a tensor of uint8, shape (n, size, size, 1)."""
    import tensorflow as tf

    size = pixels.shape[1]
    found = tf.numpy_function(lambda at: np.asarray(pixels[at])[..., None], [rows], tf.uint8)
    return tf.ensure_shape(found, (None, size, size, 1))


def training_windows(
    pixels, label, index, batch, seed, jitter=0.0, laid=(), strength=1.0, *columns
):
    """Return the tf.data set of training: shuffled anew each epoch, turned, flipped and so on.

    The windows of the rows ``laid`` are laid over some, at so much ``strength``: `overlay`.
    """
    import tensorflow as tf

    with tf.device("CPU"):  # where windows are turned, whatever learns
        generator = tf.random.Generator.from_seed(seed)

    def change(found, *others):
        if len(laid):
            drawn = generator.uniform([tf.shape(found)[0]], 0, len(laid), tf.int32)
            noise = _gather(pixels, tf.gather(laid, drawn))
            found = overlay(found, noise, generator, strength)
        return augment(found, generator, jitter), *others

    return (
        windows(pixels, label, index, batch, seed, *columns).map(change).prefetch(tf.data.AUTOTUNE)
    )


def overlay(found, noise, generator, strength):
    """Lay noise over a share of the windows, up to a strength, as OVERLAY has both.

    A network that sees few windows often learns their noise; so it sees them in that of other
    places. What a window shows gets fainter by that, its deviation stays.

    Parameters
    ----------
    found, noise : tensor of uint8, shape (n, size, size, 1)
    generator : tf.random.Generator
    strength : float or tf.Variable
        Of all: 0 to 1.

    Returns
    -------
    tensor of float32, shape (n, size, size, 1)
    """
    import tensorflow as tf

    share, most = OVERLAY
    shape = [tf.shape(found)[0], 1, 1, 1]
    much = strength * generator.uniform(shape, 0, most)
    much *= tf.cast(generator.uniform(shape) < share, tf.float32)
    found, noise = (tf.cast(one, tf.float32) - images.MIDDLE for one in (found, noise))
    return (found + much * noise) / tf.sqrt(1 + much**2) + images.MIDDLE


def parts(batches, replicas):
    """Cut each batch into parts of one size, one for each replica, epoch after epoch.

    The last window fills up what is short, with no weight; other weights are such that the mean of
    the replicas' mean losses is that of the batch. There is no end: Keras would make a step of
    nothing there, and it fails with parts of two sizes.

    Parameters
    ----------
    batches : tf.data.Dataset
        Of windows, labels and weights.
    replicas : int

    Returns
    -------
    tf.data.Dataset
        Of the same; the parts of a batch follow one another.
    """
    import tensorflow as tf

    def cut(found, label, weight):
        count = tf.shape(label)[0]
        size = -(-count // replicas)
        row = tf.range(size * replicas)

        def split(column):
            filled = tf.gather(column, tf.minimum(row, count - 1))
            return tf.reshape(filled, [replicas, size, *column.shape[1:]])

        share = tf.where(row < count, tf.cast(size * replicas / count, tf.float32), 0.0)
        shares = tf.reshape(share, [replicas, size])
        return tf.data.Dataset.from_tensor_slices(
            (split(found), split(label), shares * split(weight))
        )

    return batches.flat_map(cut).repeat()


def augment(found, generator, jitter=0.0):
    """Turn each window by any angle and flip half of them; change contrast and brightness.

    The first two in one bilinear step about RELION's centre, index size/2; corners are filled by
    reflection.

    Parameters
    ----------
    found : tensor, shape (n, size, size, 1)
    generator : tf.random.Generator
    jitter : float
        As in `Settings`.

    Returns
    -------
    tensor of float32, shape (n, size, size, 1)
    """
    import tensorflow as tf

    count, centre = tf.shape(found)[0], float(found.shape[1] // 2)
    angle = generator.uniform([count], 0, 2 * np.pi)
    flip = tf.where(generator.uniform([count]) < 0.5, -1.0, 1.0)
    cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros([count])
    a, b, c, d = cos * flip, -sin, sin * flip, cos  # from where in the window a pixel is taken
    transforms = tf.stack(
        [a, b, centre * (1 - a - b), c, d, centre * (1 - c - d), zero, zero], axis=1
    )
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(found, tf.float32),
        transforms=transforms,
        output_shape=found.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    if not jitter:
        return turned
    shape = [count, 1, 1, 1]
    factor, step = tf.exp(generator.normal(shape, 0, jitter)), generator.normal(shape, 0, jitter)
    return (turned - images.MIDDLE) * factor + images.MIDDLE + images.DEVIATION * step


def score(model, pixels, index, batch) -> np.ndarray:
    """Return the probability of "good" of some of the windows: float32, (len(index),)."""
    scorer = network.Scorer(model, batch)
    starts = range(0, len(index), batch)
    found = [scorer(np.asarray(pixels[index[start : start + batch]])) for start in starts]
    return np.concatenate([np.empty(0, np.float32), *found])


def _clearing(keras, epochs, strength):
    """Return a callback that lets the strength of what is laid over fall to nothing, by CLEAR."""

    class Clearing(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            strength.assign(max(0.0, 1 - epoch / (CLEAR * epochs)))

    return Clearing()


def _lines(keras, epochs, note):
    """Return a callback that says how training goes: a line an epoch, or one rewritten."""

    class Lines(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.start = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            spent = time.monotonic() - self.start
            left = spent / (epoch + 1) * (epochs - epoch - 1)
            cli.status(
                f"{note}{epoch + 1}/{epochs} loss {logs['loss']:.3f} val {logs['val_loss']:.3f} "
                f"accuracy {logs['accuracy']:.3f} val {logs['val_accuracy']:.3f} "
                f"{spent:.0f}s<{left:.0f}s"
            )

        def on_train_end(self, logs=None):
            cli.status(None)

    return Lines()
