"""What TensorFlow computes on: the GPUs, or the cores, that this process may use.

Its memory on a GPU grows as it is needed (`network.keras`), since others work there too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

from . import ApbcError, network

ALL, NONE = "all", "none"  # of the GPUs


def gpus() -> list[str]:
    """Return the names of the GPUs that this process sees, as "NVIDIA H100 80GB HBM3"."""
    return [_details(gpu).get("device_name", gpu.name) for gpu in _seen()]


def use(*numbers):
    """Make this process see these GPUs only, by their number; none if none is given.

    Without GPUs it does nothing. Call it before TensorFlow has begun.

    Raises
    ------
    RuntimeError
        If TensorFlow has begun.
    """
    network.keras()
    import tensorflow as tf

    if known := tf.config.list_physical_devices("GPU"):
        tf.config.set_visible_devices([known[number] for number in numbers], "GPU")


def choose(wanted):
    """Make this process see ALL of the GPUs, NONE, or the first so many; as `use`.

    Raises
    ------
    ApbcError
        If there are fewer.
    """
    if wanted == ALL:
        return
    wanted, seen = 0 if wanted == NONE else wanted, gpus()
    if wanted > len(seen):
        there = f"{len(seen)} GPU{'s' * (len(seen) > 1)}" if seen else "no GPU"
        raise ApbcError(f"--gpus {wanted}: {there} seen; give a number of those, all, or none")
    use(*range(wanted))


def cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def share_cores(count=None):
    """Let this process score with so many cores (default: `cores`); call it before it does.

    The TURNS of `network.all_ways` are computed at a time, each with its part of the threads:
    threads that outnumber the cores wait for one another, most of all while another micrograph is
    made ready.
    """
    network.keras()
    import tensorflow as tf

    count = count or cores()
    with contextlib.suppress(RuntimeError):  # TensorFlow has begun: it keeps what it has
        tf.config.threading.set_inter_op_parallelism_threads(count)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, count // network.TURNS))


def strategy():
    """Return how to train: on all GPUs that are seen, or, with one or none, as TensorFlow does.

    Returns
    -------
    tf.distribute.Strategy
    """
    import tensorflow as tf

    return mirrored() if len(_seen()) > 1 else tf.distribute.get_strategy()


def mirrored(names=None):
    """Return what trains on some of TensorFlow's devices at once (default: the GPUs seen).

    Gradients are summed by plain copies, as they are small. Collective operations, the usual way,
    fail with a network of another shape than the one before, and may not survive an error.

    Returns
    -------
    tf.distribute.MirroredStrategy
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names, tf.distribute.ReductionToOneDevice())


def said() -> str:
    """Return one line on what this process computes with."""
    if names := gpus():
        count = f"{len(names)} GPUs" if len(names) > 1 else "1 GPU"
        return f"running on {count}: {', '.join(sorted(set(names)))}"
    import tensorflow as tf

    count = f"{cores()} cores" if cores() > 1 else "1 core"
    if left := len(tf.config.list_physical_devices("GPU")):
        return f"running on the CPU: {count}, {left} GPU{'s' * (left > 1)} left alone"
    if driven := _driven():
        return (
            f"running on the CPU: {count}, though the driver has {len(driven)} GPU"
            f"{'s' * (len(driven) > 1)} ({driven[0]}) and TensorFlow sees none: "
            "bash build.sh --gpu"
        )
    return f"running on the CPU: {count}, no GPU seen"


def _seen():
    network.keras()
    import tensorflow as tf

    return tf.config.get_visible_devices("GPU")


def _details(gpu):
    import tensorflow as tf

    return tf.config.experimental.get_device_details(gpu)


def _driven():
    """Return the names of the GPUs of NVIDIA's driver that nobody hid; [] where there is none."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    if hidden or not shutil.which("nvidia-smi"):
        return []
    try:
        command = ["nvidia-smi", "-L"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [row for row in listed.splitlines() if row.startswith("GPU ")]
    return [row.split(": ", 1)[-1].split(" (UUID")[0] for row in rows]
