"""What TensorFlow computes on; the GPUs here are made up."""

import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pytest
import tensorflow as tf

from apbc_common import ApbcError, devices

H100 = {"device_name": "NVIDIA H100 80GB HBM3"}
P100 = {"device_name": "Tesla P100-PCIE-16GB"}


class Gpu(NamedTuple):
    name: str
    details: dict


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Give TensorFlow some GPUs, and the driver some."""

    def equip(*details, driver=()):
        known = [Gpu(f"/physical_device:GPU:{i}", one) for i, one in enumerate(details)]
        seen = {"GPU": known}
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: known)
        monkeypatch.setattr(tf.config, "get_visible_devices", seen.get)
        see = lambda some, kind: seen.update({kind: some})  # noqa: E731
        monkeypatch.setattr(tf.config, "set_visible_devices", see)
        details_of = lambda gpu: gpu.details  # noqa: E731
        monkeypatch.setattr(tf.config.experimental, "get_device_details", details_of)
        lines = "\n".join(f"GPU {i}: {name} (UUID: GPU-{i})" for i, name in enumerate(driver))
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\n[ -z '{lines}' ] && echo failed && exit 9\necho '{lines}'\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(devices, "cores", lambda: 2)

    return equip


def test_a_process_sees_the_gpu_it_is_to_use(machine):
    machine(H100, P100, {})
    assert devices.gpus() == [H100["device_name"], P100["device_name"], "/physical_device:GPU:2"]
    devices.use(1)
    assert devices.gpus() == [P100["device_name"]]
    devices.use(0)  # the number is that of all there are
    assert devices.gpus() == [H100["device_name"]]


def test_without_gpus_there_is_nothing_to_use(machine):
    machine()
    devices.use(1)
    assert devices.gpus() == []


@pytest.mark.parametrize("wanted, seen", [("all", 3), (3, 3), (2, 2), (1, 1), ("none", 0)])
def test_so_many_are_seen_as_are_wanted(machine, wanted, seen):
    machine(H100, H100, H100)
    devices.choose(wanted)
    assert len(devices.gpus()) == seen


@pytest.mark.parametrize(
    "there, text", [((), "no GPU"), ((H100,), "1 GPU"), ((H100,) * 2, "2 GPUs")]
)
def test_more_than_there_are_is_refused(machine, there, text):
    machine(*there)
    with pytest.raises(ApbcError, match=rf"^--gpus 3: {text} seen; give a number of those, all, "):
        devices.choose(3)
    assert len(devices.gpus()) == len(there)


def test_no_gpus_are_wanted_where_there_are_none(machine):
    machine()
    devices.choose("none")
    devices.choose("all")
    assert devices.gpus() == []


@pytest.mark.parametrize("there, driver, text", [
    ((), (), "on the CPU: 2 cores, no GPU seen"),
    ((H100,), ("NVIDIA H100",), "on 1 GPU: NVIDIA H100 80GB HBM3"),
    ((H100, H100), (), "on 2 GPUs: NVIDIA H100 80GB HBM3"),
    ((P100, H100, P100), (), "on 3 GPUs: NVIDIA H100 80GB HBM3, Tesla P100-PCIE-16GB"),
    ((), ("NVIDIA H100",), "on the CPU: 2 cores, though the driver has 1 GPU (NVIDIA H100) and "
     "TensorFlow sees none: bash build.sh --gpu"),
    ((), ("NVIDIA H100",) * 2, "on the CPU: 2 cores, though the driver has 2 GPUs (NVIDIA H100) "
     "and TensorFlow sees none: bash build.sh --gpu"),
])  # fmt: skip
def test_it_is_said_what_it_runs_on(machine, there, driver, text):
    machine(*there, driver=driver)
    assert devices.said() == f"running {text}"


def test_gpus_left_alone_are_said(machine):
    machine(H100, H100, driver=["NVIDIA H100"] * 2)
    devices.choose("none")
    assert devices.said() == "running on the CPU: 2 cores, 2 GPUs left alone"


@pytest.mark.parametrize("value, told", [("", False), ("-1", False), ("0", True)])
def test_who_hides_the_gpus_is_not_told_to_install_for_them(machine, monkeypatch, value, told):
    machine(driver=["NVIDIA H100"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert ("build.sh --gpu" in devices.said()) == told


def test_a_script_refuses_gpus_that_are_not_there_in_one_line(machine, trained, capsys):
    machine(H100)
    capsys.readouterr()
    assert trained.call("gen_model", "-s", "--gpus", 2) == 1
    said = [one for one in capsys.readouterr().err.splitlines() if not one.endswith("/s]")]
    assert said == [
        "gen_model.py: error: --gpus 2: 1 GPU seen; give a number of those, all, or none"
    ]


@pytest.mark.parametrize("options", [("-s",), ("-c", "--epochs", 1), ("--continue", "--epochs", 1)])
def test_a_script_says_what_it_runs_on(trained, capsys, options):
    capsys.readouterr()
    assert trained.call("gen_model", *options, "--batch", 16, "--gpus", "none") == 0
    out, err = capsys.readouterr()
    assert len(re.findall("^running on the CPU: ", err, re.M)) == 1 and "running on" not in out


def test_a_run_goes_on_with_other_gpus(trained, capsys):
    """They are no part of its record."""
    assert trained.call("gen_model", "--epochs", 15, "--batch", 16, "--gpus", "none") == 0
    assert "nothing to do" in capsys.readouterr().out


def threads(cores):
    """Return the numbers of threads, between and in operations, of a process with so many cores."""
    devices.share_cores(cores)
    return (
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.threading.get_intra_op_parallelism_threads(),
    )


@pytest.mark.parametrize("cores, most", [(1, (1, 1)), (2, (2, 1)), (16, (16, 4))])
def test_a_process_uses_the_cores_it_is_given(cores, most):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(threads, cores).result() == most
        assert pool.submit(threads, None).result()[0] == devices.cores()
