"""Picking on a Dask cluster: scheduler and workers are processes of their own, on the loopback."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
from conftest import ROOT, contents, count_picked, picked_whole

from apbc_common import cluster, devices, grid

NAMES = [f"Micrographs/sub{i % 2}/mic_a.{i}.mrc" for i in range(3)]
PICK = ("-i", "CtfFind/job003/micrographs_ctf.star")
PICKS = "ClassBin/picks"
ELSEWHERE = """
import pathlib
from apbc_common import files


def digest(path):
    raise FileNotFoundError(2, "No such file or directory", str(path))


files.digest = digest
"""


FULL = """
import errno
from apbc_common import relion


def write(path, *_):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


relion.write_coordinates = write
"""


class Cluster:
    """A scheduler and its workers, each a process with a group of its own."""

    def __init__(self, folder):
        self.folder, self.processes = folder, {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.file = folder / "scheduler.json"

    def start(self, name, command, *args, **environment):
        with open(self.folder / f"{name}.log", "w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", command, *map(str, args)],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_scheduler(self):
        self.file.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2]
        self.start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard",
            "--dashboard-address", "127.0.0.1:0", "--scheduler-file", self.file,
        )  # fmt: skip
        wait_until(self.file.exists)

    def start_worker(self, name, *args, **environment):
        self.start(
            name, "worker", self.address, "--no-dashboard", "--local-directory", self.folder,
            "--memory-limit", 0, "--death-timeout", 60, *args, **environment,
        )  # fmt: skip

    def kill(self, name):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()


def wait_until(true):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def dask(tmp_path):
    """A cluster whose scheduler has started."""
    (tmp_path / "dask").mkdir()
    found = Cluster(tmp_path / "dask")
    found.start_scheduler()
    yield found
    for name in found.processes:
        found.kill(name)


@pytest.fixture(scope="module")
def _many(_taught, tmp_path_factory):
    """A list of 30 micrographs, and the files of a run in one process."""
    return picked_whole(_taught.copy(tmp_path_factory.mktemp("many") / "p"), 27)


@pytest.fixture
def many(_many, tmp_path):
    project, expected = _many
    return project.copy(tmp_path / "many", os.link), expected


def differing(project, expected):
    """Name the files that differ; to show how would take minutes."""
    found = contents(project / PICKS)
    return [n for n in sorted(found.keys() | expected) if found.get(n) != expected.get(n)]


@contextlib.contextmanager
def meanwhile(action):
    """Do something in a thread beside the block."""
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_workers_elsewhere_give_the_same_files(many, dask, capsys):
    project, expected = many
    for name in "ab":
        dask.start_worker(name, "--nthreads", 2, "--no-nanny")
    assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 0
    assert differing(project, expected) == []
    capsys.readouterr()
    shutil.rmtree(project / PICKS)
    assert project.call("gen_picks", *PICK, "--scheduler", dask.file) == 0
    assert f"{dask.file}: 2 workers, 4 threads" in capsys.readouterr().err
    assert differing(project, expected) == []


def test_workers_elsewhere_give_the_same_particles(trained, dask, monkeypatch, capsys):
    lists = ("-i", "Extract/job005/particles.star", "--batch", 7)
    assert trained.call("gen_picks", *lists) == 0
    expected = {path.name: path.read_bytes() for path in trained.path.glob("ClassBin/*.star")}
    capsys.readouterr()
    monkeypatch.setattr(grid, "PART", 20)
    dask.start_worker("a", "--nthreads", 2, "--no-nanny")
    told = ("--scheduler", dask.address)
    assert trained.call("gen_picks", *lists, *told, "-c") == 0
    found = {path.name: path.read_bytes() for path in trained.path.glob("ClassBin/*.star")}
    assert [name for name in expected if found[name] != expected[name]] == []
    assert not list(trained.path.glob("ClassBin/.*"))

    def spread(job, items, *_):
        for number, item in enumerate(items):
            yield item, cluster.Killer() if number else job(item)

    monkeypatch.setattr(cluster, "spread", spread)
    assert trained.call("gen_picks", *lists, *told, "-c") == 1
    assert "particles.star: 3 processes ended at its rows 21 to 40; what is" in last_line(capsys)


def test_a_worker_lost_for_good_loses_nothing(many, dask):
    project, expected = many
    for name in "ab":
        dask.start_worker(name, "--nthreads", 1, "--no-nanny")

    def lose():
        wait_until(lambda: count_picked(project) > 3)
        dask.kill("a")

    with meanwhile(lose):
        assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 0
    assert differing(project, expected) == []


def test_a_scheduler_that_comes_back_loses_nothing(many, dask, capsys):
    project, expected = many
    dask.start_worker("a", "--nthreads", 1, "--no-nanny")

    def restart():
        wait_until(lambda: count_picked(project) > 3)
        dask.kill("scheduler")
        dask.kill("a")
        dask.start_scheduler()
        dask.start_worker("b", "--nthreads", 1, "--no-nanny")

    with meanwhile(restart):
        assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 0
    assert differing(project, expected) == []
    assert "the scheduler was lost; " in capsys.readouterr().err


def test_after_a_scheduler_that_is_gone_the_same_command_goes_on(many, dask, capsys, monkeypatch):
    project, expected = many
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    dask.start_worker("a", "--nthreads", 1, "--no-nanny")

    def stop():
        wait_until(lambda: count_picked(project) > 3)
        dask.kill("scheduler")

    with meanwhile(stop):
        assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    assert last_line(capsys).startswith(
        f"gen_picks.py: error: --scheduler {dask.address}: no Dask scheduler answers"
    )
    assert 3 < count_picked(project) < 30
    assert project.call("gen_picks", *PICK) == 0
    assert differing(project, expected) == []


def deadly(item):
    """A job of which two items end their process, with what is beside them."""
    time.sleep(0.1)
    if item in ("item 3", "item 7"):
        os._exit(1)
    time.sleep(0.2)
    return item.upper()


def test_only_what_ends_its_process_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)  # so that two are in a process
    items = [f"item {i}" for i in range(12)]
    (tmp_path / "run.json").touch()
    found = dict(cluster.spread(deadly, items, cluster.Where(1), tmp_path / "run.json"))
    killers = {item for item, result in found.items() if result == cluster.Killer()}
    assert killers == {"item 3", "item 7"} and len(found) == 12
    assert all(found[item] == item.upper() for item in items if item not in killers)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_micrograph_that_was_set_aside_is_told_of(many, capsys, monkeypatch):
    project, expected = many

    def spread(job, items, *_):
        for item in items[2:]:
            yield item, job(item)
        yield items[1], cluster.Killer()

    monkeypatch.setattr(cluster, "spread", spread)
    assert project.call("gen_picks", *PICK, "-j", 2) == 1
    said = capsys.readouterr().err.splitlines()
    path = project / NAMES[1]
    assert f"warning: {path}: 3 processes ended at work on it; skipped" in said
    assert "1 micrographs were skipped: " in said[-1] and count_picked(project) == 28
    monkeypatch.undo()
    assert project.call("gen_picks", *PICK) == 0  # its record has another order
    assert differing(project, expected) == ["run_gen_picks.json"]


@pytest.mark.parametrize(
    ("preload", "said"),
    [
        pytest.param(
            ELSEWHERE,
            "does not see {picks}/run_gen_picks.json (No such file or directory); workers need the",
            id="without the project",
        ),
        pytest.param(FULL, ".star: No space left on device (on {host})", id="with a full disk"),
    ],
)
def test_a_worker_with_other_disks_is_told_of(many, dask, capsys, preload, said):
    project, _ = many
    (dask.folder / "preload.py").write_text(preload)
    preloaded = ("--preload", dask.folder / "preload.py")
    dask.start_worker("a", "--no-nanny", *preloaded, PYTHONPATH=str(ROOT))
    assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    assert said.format(picks=project / PICKS, host=socket.gethostname()) in last_line(capsys)
    assert count_picked(project) == 0


def test_a_model_that_changes_meanwhile_is_told_of(many, dask, capsys):
    project, _ = many
    model = project / "ClassBin/model.h5"
    data = model.read_bytes()

    def change():
        wait_until((project / PICKS / ".tries").exists)
        model.unlink()  # a link
        model.write_bytes(data + b"0")
        dask.start_worker("a", "--no-nanny")

    with meanwhile(change):
        assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    assert f"{model}: not the model that its record describes" in last_line(capsys)
    assert count_picked(project) == 0


def test_each_gpu_has_a_worker(monkeypatch):
    asked = dict.fromkeys(("jobs", "cores", "scheduler"))
    monkeypatch.setattr(devices, "gpus", lambda: ["one", "other"])
    assert cluster.Where.of(asked) == cluster.Where(2)
    assert cluster.Where.of(asked | {"jobs": 1}) == cluster.Where(1)
    used, shared = [], []
    monkeypatch.setattr(devices, "use", used.append)
    monkeypatch.setattr(devices, "share_cores", shared.append)
    worker = types.SimpleNamespace(name=3, state=types.SimpleNamespace(nthreads=5))
    monkeypatch.setattr(cluster, "_worker", lambda: worker)
    cluster.settle()
    assert used == [1] and shared == [5]
    monkeypatch.setattr(devices, "gpus", lambda: ["one"])
    assert cluster.Where.of(asked) is None


def test_a_worker_with_another_program_is_told_of(many, dask, capsys):
    project, _ = many
    other = shutil.copytree(ROOT / "apbc_common", dask.folder / "other/apbc_common")
    with open(other / "peaks.py", "a") as file:
        file.write("# of another version\n")
    dask.start_worker("a", "--no-nanny", PYTHONPATH=str(other.parent))
    assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    assert f"its Autopick-BC ({other}) is another one than that of this" in last_line(capsys)
    assert count_picked(project) == 0


def test_a_worker_that_lacks_a_library_is_told_of(many, dask, capsys):
    project, _ = many
    (dask.folder / "mrcfile.py").write_text("raise ImportError('no such library')\n")
    dask.start_worker("a", "--no-nanny", PYTHONPATH=str(dask.folder))
    assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    assert f"{ROOT}: a worker can't use it (no such library); workers need" in last_line(capsys)


def test_other_versions_are_told_of(many, dask, capsys, monkeypatch):
    project, _ = many
    found = iter(["Python 3.11, Dask 1", "Python 3.9, Dask 1"])  # ours, the scheduler's
    monkeypatch.setattr(cluster, "_versions", lambda one: next(found))
    assert project.call("gen_picks", *PICK, "--scheduler", dask.address) == 1
    said = "the scheduler has Python 3.9, Dask 1, this command Python 3.11, Dask 1; start all"
    assert said in last_line(capsys)


def test_no_scheduler(many, capsys, monkeypatch):
    project, _ = many
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    assert project.call("gen_picks", *PICK, "--scheduler", "tcp://127.0.0.1:9") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in last_line(capsys)
    (project / "s.json").write_text(json.dumps({"type": "Worker"}))
    assert project.call("gen_picks", *PICK, "--scheduler", "s.json") == 1
    assert f"{project / 's.json'}: not the file of a Dask scheduler" in last_line(capsys)
    assert project.call("gen_picks", *PICK, "--scheduler", "nowhere.json") == 2
    assert "--scheduler: nowhere.json: no such file in the project" in last_line(capsys)
