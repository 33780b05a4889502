"""The CNN. The only module that knows its layers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from . import ApbcError, cli, files, images

FILTERS = (16, 32, 64, 128)  # of the four convolutions
DENSE = (256, 64)  # units of the two fully connected layers
DROPOUT = 0.5
TILE = 800  # pixels of a micrograph scored at a time, along each axis
LEAST_BATCH = 8  # windows at a time, however little memory there is
CALIBRATION = "calibration"  # the layer that `calibrate` adds
TURNS = 4  # of a window, all scored
SHORT = "RESOURCE_EXHAUSTED", "No BLAS for stream", "No DNN"  # of a GPU too full for its libraries
LOGIT = "logit"  # the layer before the sigmoid; peaks are ranked by it, since sigmoids tie at 1


def keras():
    """Import and return Keras on TensorFlow, without its start-up messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # others work there too
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _quiet_stderr():
        import keras
        import tensorflow as tf  # the messages come now, not later
    tf.config.experimental.enable_tensor_float_32_execution(False)  # GPUs score as CPUs do
    return keras


def build_model(size, width=1.0, dropout=DROPOUT):
    """Return the network, untrained: grey windows in, one probability of "good" out.

    Four convolutions (5 x 5, then 3 x 3, no padding), each with 2 x 2 pooling: 64-60-30-28-14-12-
    6-4-2. The two fully connected layers are convolutions of what is left, so that the same
    weights serve a whole micrograph.

    Parameters
    ----------
    size : int
        Edge of the windows in pixels: a multiple of 16, at least 48.
    width : float
        How many times FILTERS and DENSE the layers have.
    dropout : float
        Share of the first fully connected layer that each step of training leaves out.

    Returns
    -------
    keras.Model
        Input (N, size, size, 1), grey values 0..255; output (N, 1). Not compiled.
    """
    k = keras()
    layers = k.layers
    filters, dense = ([max(1, round(width * n)) for n in counts] for counts in (FILTERS, DENSE))
    windows = k.Input((size, size, 1), name="windows")
    x = layers.Rescaling(1 / images.MIDDLE, offset=-1, name="grey")(windows)
    for i, count in enumerate(filters, 1):
        x = layers.Conv2D(count, 5 if i == 1 else 3, activation="relu", name=f"convolution{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pooling{i}")(x)
    x = layers.Conv2D(dense[0], x.shape[1], activation="relu", name="dense1")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    x = layers.Conv2D(dense[1], 1, activation="relu", name="dense2")(x)
    x = layers.Conv2D(1, 1, name=LOGIT)(x)
    x = layers.Flatten(name="score")(x)
    return k.Model(windows, layers.Activation("sigmoid", name="probability")(x))


def all_ways(*models):
    """Return a model that averages what networks say of a window and of its quarter turns.

    Of each network there are TURNS, of the same weights, with their kernels turned. The average
    has no direction of its own: its score of a symmetric particle is highest where the particle is
    centred, at (size - 1) / 2.

    Parameters
    ----------
    models : keras.Model
        Of `build_model`, trained, of one size.

    Returns
    -------
    keras.Model
        Input and output as `build_model`.
    """
    k = keras()
    nets = []
    for number, model in enumerate(models, 1):
        for turn in range(TURNS):
            turned = k.Model.from_config(model.get_config())  # as a clone, but not compiled
            turned.set_weights(
                [np.rot90(w, turn) if w.ndim == 4 else w for w in model.get_weights()]
            )
            score = turned.get_layer("score").output
            nets.append(k.Model(turned.input, score, name=f"network{number}turn{turn}"))
    return _average(nets)


def calibrate(model, slope, offset):
    """Return a model whose logit is ``slope`` times that of ``model``, plus ``offset``.

    Parameters
    ----------
    model : keras.Model
        Of `all_ways`.
    slope, offset : float

    Returns
    -------
    keras.Model
        Input and output as `build_model`.
    """
    k = keras()
    line = k.layers.Rescaling(slope, offset, name=CALIBRATION)
    score = line(model.get_layer("score").output)
    return k.Model(model.input, k.layers.Activation("sigmoid", name="probability")(score))


def uncalibrated(model):
    """Return the model before `calibrate`, for windows: a calibration is that of peaks."""
    calibrated = any(layer.name == CALIBRATION for layer in model.layers)
    return _average(_members(model)) if calibrated else model


def split(model):
    """Return the models of one network each, all ways, whose logits a model averages."""
    nets = _members(model)
    return [_average(nets[start : start + TURNS]) for start in range(0, len(nets), TURNS)]


def single(model):
    """Return the networks that `all_ways` made a model of, to be trained on: as `build_model`."""
    k = keras()
    nets = _members(model)[::TURNS]
    return [
        k.Model(n.input, k.layers.Activation("sigmoid", name="probability")(n.output)) for n in nets
    ]


def _average(nets):
    k = keras()
    windows = k.Input(nets[0].input_shape[1:], name="windows")
    mean = k.layers.Average(name="score")([net(windows) for net in nets])
    return k.Model(windows, k.layers.Activation("sigmoid", name="probability")(mean))


def _members(model):
    """Return the networks whose logits a model averages: itself, if it is one."""
    return [layer for layer in model.layers if hasattr(layer, "layers")] or [model]


def recipe(model) -> list[str]:
    """Say the layers of a model, one line each, for its record."""
    return [
        f"{member.name}/{layer.name}: {type(layer).__name__} {tuple(layer.output.shape[1:])}"
        for member in _members(model)
        for layer in member.layers
    ]


def check_model(path, record):
    """Hold a model's file against its record, at once: TensorFlow stays asleep.

    Raises
    ------
    ApbcError
        If it is missing, no HDF5 file, of Keras 2, or another one than the record's.
    """
    check_file(Path(path))
    if files.digest(path) != record["sha256"]:
        raise _another(path, record)


def load_model(path, record):
    """Read a model and hold it against its record (`classbin.read_model_record`).

    Raises
    ------
    ApbcError
        As `check_model`, and if it is damaged.
    """
    path = Path(path)
    check_file(path)
    k = keras()
    try:
        model = k.models.load_model(path, compile=False)
    except Exception as err:  # whatever a damaged file makes Keras or HDF5 raise
        reason = " ".join(str(err).split())[:120]
        raise ApbcError(f"{path}: damaged ({reason}); train anew with gen_model.py") from err
    size = record["dataset"]["window_px"]
    if (
        files.digest(path) != record["sha256"]
        or tuple(model.input_shape[1:]) != (size, size, 1)
        or tuple(model.output_shape[1:]) != (1,)
    ):
        raise _another(path, record)
    return model


def _another(path, record):
    return ApbcError(
        f"{path}: not the model that its record describes (windows of "
        f"{record['dataset']['window_px']} px, sha256 {record['sha256'][:12]}...); "
        "train anew with gen_model.py"
    )


def check_file(path):
    """Raise ApbcError if there is no model of Keras 3 at a path."""
    import h5py

    if not path.is_file():
        raise ApbcError(f"{path}: no model there; run gen_model.py first, or name one with --model")
    open(path, "rb").close()  # what can't be read is not damaged
    try:
        with h5py.File(path) as file:
            version = file.attrs.get("keras_version", "none")
    except OSError as err:
        raise ApbcError(f"{path}: damaged, not an HDF5 file; train anew with gen_model.py") from err
    version = version.decode() if isinstance(version, bytes) else str(version)
    if version.split(".")[0] != "3":
        raise ApbcError(f"{path}: written by Keras {version}, expected 3; train anew")


def save_model(model, path):
    """Write a model as HDF5, at the path given (use `files.atomic`).

    Raises
    ------
    ApbcError
        If it cannot be written: the disk is full.
    """
    with warnings.catch_warnings(), _quiet_stderr():  # Keras calls the format legacy
        warnings.simplefilter("ignore")
        try:
            model.save(path)
        except RuntimeError as err:  # what HDF5 makes of the system's error
            raise ApbcError(f"{path}: {err}") from err


def raise_unless_short(err):
    """Raise an error of TensorFlow again, unless it comes of too little memory."""
    import tensorflow as tf

    if isinstance(err, tf.errors.ResourceExhaustedError) or any(text in str(err) for text in SHORT):
        return
    raise err


def _less(count, least, what):
    """Return half of what was too much for memory at a time, and say so; raise ApbcError.

    The latter if it is below the least. Others may leave, so the next that scores tries all again.
    """
    much = f"out of memory with {what.format(count)}"
    if count // 2 < least:
        raise ApbcError(
            f"{much}; make room on the GPU or the machine, or leave the GPU alone "
            "(CUDA_VISIBLE_DEVICES=-1)"
        )
    cli.warn_once(f"{much}; going on with {count // 2}")
    return count // 2


class Scorer:
    """Scores windows in batches of one shape, so that a score depends on the window alone.

    Where memory is short, it goes on with batches of half as many.

    Parameters
    ----------
    model : keras.Model
    batch : int
        How many it is given at a time.
    """

    def __init__(self, model, batch):
        self.batch, self.size = batch, model.input_shape[1]
        self._model = model
        self._divide(batch)

    def _divide(self, count):
        """Score so many at a time from now on."""
        import tensorflow as tf

        model, self._shape = self._model, (count, self.size, self.size, 1)
        self._score = tf.function(
            lambda windows: model(tf.cast(windows, tf.float32), training=False),
            input_signature=[tf.TensorSpec(self._shape, tf.uint8)],
            autograph=False,
        )

    def __call__(self, windows) -> np.ndarray:
        """Return the probability of "good" of each window.

        Parameters
        ----------
        windows : ndarray of uint8, shape (N, size, size)
            N is at most the batch.

        Returns
        -------
        ndarray of float32, shape (N,)

        Raises
        ------
        ApbcError
            If memory is too short for LEAST_BATCH windows.
        """
        import tensorflow as tf

        while True:
            count = self._shape[0]
            try:
                found = [
                    self._padded(windows[start : start + count])
                    for start in range(0, len(windows), count)
                ]
                return np.concatenate([np.empty(0, np.float32), *found])
            except tf.errors.OpError as err:
                raise_unless_short(err)
            # by now what it held is free
            self._divide(_less(count, LEAST_BATCH, "{} windows at a time"))

    def _padded(self, windows):
        padded = np.zeros(self._shape, dtype=np.uint8)
        padded[: len(windows), :, :, 0] = windows
        return self._score(padded).numpy()[: len(windows), 0]


class Dense:
    """The same network at every ``stride``-th place of a conditioned micrograph.

    Pooling below the stride becomes dilation; the padding is valid, so that the score of a place is
    that of its window to rounding (1e-5), wherever it lies. Where memory is short, it goes on with
    tiles of half the edge.

    Parameters
    ----------
    model : keras.Model
        Of `load_model`, `all_ways` or `build_model`.
    stride : int
        1, 2, 4 or 8 pixels.
    """

    def __init__(self, model, stride):
        import tensorflow as tf

        self.size, self.stride = model.input_shape[1], stride
        self._tile = TILE
        self._logits = tf.function(
            lambda grey: _dense(model, tf.cast(grey, tf.float32), stride)[0, :, :, 0],
            input_signature=[tf.TensorSpec((1, None, None, 1), tf.uint8)],
            autograph=False,
        )

    def __call__(self, grey) -> np.ndarray:
        """Return the logit of each window.

        Parameters
        ----------
        grey : ndarray of uint8, shape (H, W)
            From `images.condition_micrograph`, contrast as in training.

        Returns
        -------
        ndarray of float32, shape ((H - size) // stride + 1, (W - size) // stride + 1)
            Entry (i, j) belongs to the window whose first pixel is (i, j) * stride. Empty where no
            window fits.

        Raises
        ------
        ApbcError
            If memory is too short for a tile about as large as a window.
        """
        import tensorflow as tf

        while True:
            try:
                return self._tiled(grey)
            except tf.errors.OpError as err:
                raise_unless_short(err)
            # by now what it held is free
            self._tile = _less(self._tile, self.size, "tiles of {} pixels")

    def _tiled(self, grey):
        rows, columns = ((length - self.size) // self.stride + 1 for length in grey.shape)
        if min(rows, columns) < 1:
            return np.empty((max(rows, 0), max(columns, 0)), np.float32)
        out = np.empty((rows, columns), np.float32)
        for top, bottom in self._tiles(rows):
            for left, right in self._tiles(columns):
                tile = grey[self._pixels(top, bottom), self._pixels(left, right)]
                out[top:bottom, left:right] = self._logits(tile[None, :, :, None])
        return out

    def _tiles(self, count):
        """Split places into parts of nearly one size: memory does not grow with the micrograph."""
        edges = np.linspace(0, count, -(-count * self.stride // self._tile) + 1).round().astype(int)
        return zip(edges[:-1], edges[1:], strict=True)

    def _pixels(self, first, end):
        return slice(first * self.stride, (end - 1) * self.stride + self.size)


def _dense(model, grey, stride):
    """Logits (1, rows, columns, 1) of what ``model`` computes at every ``stride``-th place."""
    import tensorflow as tf

    logits = [_dense_member(member, grey, stride) for member in _members(model)]
    mean = tf.add_n(logits) / len(logits)
    for layer in model.layers:
        if layer.name == CALIBRATION:
            mean = mean * layer.scale + layer.offset
    return mean


def _dense_member(model, x, stride):
    """As `_dense`, of one network."""
    import tensorflow as tf

    spacing = dilation = 1  # pixels between neighbours in x; neighbours in x between a layer's taps
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Rescaling":
            x = x * layer.scale + layer.offset
        elif kind == "Conv2D":
            x = tf.nn.conv2d(x, layer.kernel, 1, "VALID", dilations=dilation) + layer.bias
            x = tf.nn.relu(x) if layer.name != LOGIT else x
        elif kind == "MaxPooling2D" and spacing < stride:
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            spacing *= 2
        elif kind == "MaxPooling2D":
            x = tf.maximum(x[:, :-dilation], x[:, dilation:])
            x = tf.maximum(x[:, :, :-dilation], x[:, :, dilation:])
            dilation *= 2
    return x


class _quiet_stderr:
    """Keep native libraries from writing to stderr, which Python's own settings don't reach."""

    def __enter__(self):
        self._kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_):
        os.dup2(self._kept, 2)
        os.close(self._kept)
