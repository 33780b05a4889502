"""The CNN. The only module that knows its layers."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from . import ApbcError, files

FILTERS = (16, 32, 64, 64)  # of the four convolutions
DENSE = (128, 64)  # units of the two fully connected layers
DROPOUT = 0.5
LOGIT = "logit"  # the layer before the sigmoid; peaks are ranked by it, since sigmoids tie at 1


def keras():
    """Import and return Keras on TensorFlow, without its start-up messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _quiet_stderr():
        import keras
        import tensorflow  # noqa: F401  the messages come now, not later
    return keras


def build_model(size):
    """Return the network, untrained: grey windows in, one probability of "good" out.

    Four convolutions (5 x 5, then 3 x 3, no padding), each with 2 x 2 pooling: 64-60-30-28-14-12-
    6-4-2. The two fully connected layers are convolutions of what is left, so that the same
    weights serve a whole micrograph.

    Parameters
    ----------
    size : int
        Edge of the windows in pixels: a multiple of 16, at least 48.

    Returns
    -------
    keras.Model
        Input (N, size, size, 1), grey values 0..255; output (N, 1). Not compiled.
    """
    k = keras()
    layers = k.layers
    windows = k.Input((size, size, 1), name="windows")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="grey")(windows)
    for i, filters in enumerate(FILTERS, 1):
        x = layers.Conv2D(filters, 5 if i == 1 else 3, activation="relu", name=f"convolution{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pooling{i}")(x)
    x = layers.Conv2D(DENSE[0], x.shape[1], activation="relu", name="dense1")(x)
    x = layers.Dropout(DROPOUT, name="dropout")(x)
    x = layers.Conv2D(DENSE[1], 1, activation="relu", name="dense2")(x)
    x = layers.Conv2D(1, 1, name=LOGIT)(x)
    x = layers.Flatten(name="score")(x)
    return k.Model(windows, layers.Activation("sigmoid", name="probability")(x))


def recipe(model) -> list[str]:
    """Say the layers of a model, one line each, for its record."""
    return [
        f"{layer.name}: {type(layer).__name__} {tuple(layer.output.shape[1:])}"
        for layer in model.layers
    ]


def load_model(path, record):
    """Read a model and hold it against its record (`classbin.read_model_record`).

    Raises
    ------
    ApbcError
        If it is missing, damaged, of Keras 2, or another one than the record's.
    """
    path = Path(path)
    if not path.is_file():
        raise ApbcError(f"{path}: no model there; run gen_model.py first, or name one with --model")
    _check_version(path)
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
        raise ApbcError(
            f"{path}: not the model that its record describes (windows of {size} px, sha256 "
            f"{record['sha256'][:12]}...); train anew with gen_model.py"
        )
    return model


def _check_version(path):
    import h5py

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


class Scorer:
    """Scores windows in batches of one shape, so that a score depends on the window alone."""

    def __init__(self, model, batch):
        import tensorflow as tf

        size = model.input_shape[1]
        signature = tf.TensorSpec((batch, size, size, 1), tf.uint8)
        self.batch, self.size = batch, size
        self._shape = (batch, size, size, 1)
        self._score = tf.function(
            lambda windows: model(tf.cast(windows, tf.float32), training=False),
            input_signature=[signature],
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
        """
        padded = np.zeros(self._shape, dtype=np.uint8)
        padded[: len(windows), :, :, 0] = windows
        return self._score(padded).numpy()[: len(windows), 0]


class _quiet_stderr:
    """Keep native libraries from writing to stderr, which Python's own settings don't reach."""

    def __enter__(self):
        self._kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_):
        os.dup2(self._kept, 2)
        os.close(self._kept)
