"""Work spread over processes: those of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import NamedTuple

from . import ApbcError, classbin, cli, devices, files

TRIES = 3  # that an item has: one that ends its process each time is set aside
TIMEOUT = 10  # s to answer, for a scheduler
PATIENCE = 60  # s for one that was lost to come back
# Dask has malloc give memory back at once, and looks 100 times a second at what workers do.
LEAN = {"distributed.nanny.pre-spawn-environ": {}, "distributed.worker.profile.enabled": False}
TOGETHER = 2  # items in a process: one is made ready while the other is worked on


class Where(NamedTuple):
    """Which processes work: ``jobs`` of this machine, or the workers of a scheduler."""

    jobs: int
    scheduler: str | Path | None = None  # its address, or a file that tells it

    @classmethod
    def of(cls, options):
        """Return what options of gen_picks.py ask for, or one for each GPU; None: this one."""
        jobs, cores = options["jobs"], options["cores"] or 1  # RELION's
        if options["scheduler"] or jobs or cores > 1:
            return cls(jobs or cores, options["scheduler"])
        count = len(devices.gpus())
        return cls(count) if count > 1 else None


class Killer(NamedTuple):
    """What came of an item whose process ended, in each of TRIES."""


def spread(job, items, where, record):
    """Yield (item, what ``job`` returns of it), in the order in which they are done.

    A worker that is lost loses nothing: what it was at is done by another. So is all that is left
    when the scheduler comes back within PATIENCE.

    Parameters
    ----------
    job : callable
        Of an item. What it raises ends all.
    items : list
        Job and items can be pickled, and name files by absolute paths.
    where : Where
    record : pathlib.Path
        Of the run: every worker must see it as it is here, or it has other files than we. Beside it
        is kept what is being worked on.

    Yields
    ------
    item, result
        The result is `Killer` of an item that ended its process TRIES times.

    Raises
    ------
    ApbcError
        If there is no scheduler, its workers can't work for us, or a job raised it or an OSError.
    """
    record = Path(os.path.abspath(record))
    tries = classbin.tries(record)
    order = pickle.dumps((job, tries, record, files.digest(record), code()))
    todo = functools.partial(_carrier(os.fspath(Path(__file__).parents[1])), order)
    left = dict(enumerate(items))
    tries.mkdir()
    try:
        with _cluster(where, len(left)) as address:
            patience = TIMEOUT
            while left:
                with _client(*address, where, patience) as client:
                    yield from _submitted(client, todo, left)
                if left:
                    cli.warn(f"{where.scheduler}: the scheduler was lost; {len(left)} are left")
                    patience = PATIENCE
    finally:
        shutil.rmtree(tries, ignore_errors=True)


def settle():
    """Take this process's part of the machine, before TensorFlow begins.

    A worker has as many cores as threads, and of GPUs one, by its number.
    """
    worker = _worker()
    devices.share_cores(worker and worker.state.nthreads)
    if worker and isinstance(worker.name, int) and (count := len(devices.gpus())) > 1:
        devices.use(worker.name % count)


@functools.cache
def code() -> str:
    """Return the digest of this program's modules, as they were when it was first asked for."""
    return files.digest_all(sorted(Path(__file__).parent.glob("*.py")))


# --- on a worker ---------------------------------------------------------------------------------


class _Seats:
    """TOGETHER items at a time in a process, or one alone."""

    def __init__(self):
        self._change, self._taken = threading.Condition(), 0

    @contextlib.contextmanager
    def taken(self, alone):
        wanted = TOGETHER if alone else 1
        with self._change:
            self._change.wait_for(lambda: self._taken + wanted <= TOGETHER)
            self._taken += wanted
        try:
            yield
        finally:
            with self._change:
                self._taken -= wanted
                self._change.notify_all()


_seats, _loading = _Seats(), threading.Lock()


def attempt(order, entry):
    """Do one item, unless it ended its process too often; return its result, pickled.

    Of that its file tells, which has a byte for each try that has begun and not ended. What was
    begun once is tried again alone: the one beside it may have been the one at fault.
    """
    with _loading:  # two threads that import one module, which fails, confuse each other
        job, tries, record, digest, theirs = pickle.loads(order)
    _check_here(record, digest, theirs)
    index, item = entry
    path = tries / str(index)
    before = path.stat().st_size if path.exists() else 0
    if before >= TRIES:
        return pickle.dumps(Killer())
    with _seats.taken(alone=before > 0):
        with open(path, "ab") as file:
            file.write(b".")
        try:
            return pickle.dumps(job(pickle.loads(item)))
        except OSError as err:  # a disk may be full there, and not here
            raise ApbcError(f"{cli.explain(err)} (on {socket.gethostname()})") from err
        finally:
            path.unlink(missing_ok=True)


def kept(make, shipped):
    """Return what ``make`` makes of pickled bytes; made once on a worker, and kept for the next."""
    with _loading:
        return _made(make, shipped)


@functools.lru_cache(2)
def _made(make, shipped):
    return make(pickle.loads(shipped))


@functools.cache
def _check_here(path, wanted, theirs):
    """Raise ApbcError if this worker has other files, or another program, than its client."""
    who = f"worker {_worker().address}"
    if theirs != code():
        raise ApbcError(
            f"{who}: its Autopick-BC ({Path(__file__).parent}) is another one than that of this "
            "command; start workers with the same"
        )
    try:
        same = files.digest(path) == wanted
    except OSError as err:
        raise ApbcError(
            f"{who}: does not see {path} ({err.strerror}); workers need the project's file system, "
            "at the same path"
        ) from err
    if not same:
        raise ApbcError(f"{who}: sees another {path}; workers need the project's file system")


def _carrier(root):
    """Return what a worker can run before it knows this program, which lies in ``root``."""

    def carry(order, entry):
        import sys

        try:
            from apbc_common import cluster
        except ImportError:
            sys.path.insert(0, root)
            from apbc_common import cluster
        return cluster.attempt(order, entry)

    return carry


def _worker():
    from distributed import get_worker

    with contextlib.suppress(ValueError):
        return get_worker()
    return None


# --- on this side --------------------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(where, most):
    """Give the address of a scheduler, and the keys to it: of a cluster of our own, if need be."""
    if where.scheduler:
        yield _address(where.scheduler), None
        return
    with _local(min(where.jobs, most)) as cluster:
        yield cluster.scheduler_address, cluster.security


def _local(jobs):
    """Start a cluster of processes here; they share the cores."""
    import dask
    from distributed import LocalCluster

    preload = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is for this process
    threads = max(1, devices.cores() // jobs)
    cli.say(f"{jobs} processes, each with {threads} of {devices.cores()} cores")
    try:
        for _ in range(TRIES):
            try:
                with dask.config.set(LEAN):
                    return LocalCluster(
                        n_workers=jobs,
                        threads_per_worker=threads,
                        memory_limit=None,
                        security=True,  # other users of the machine could send it code
                        dashboard_address=None,
                        silence_logs=logging.CRITICAL,
                        preload=[preload],
                    )
            except RuntimeError as err:  # one ended before it had begun
                reason = err
        raise ApbcError(f"{jobs} processes don't start ({reason}); give fewer --jobs")
    finally:
        signal.signal(signal.SIGINT, before)


def _address(scheduler):
    """Return the address of a scheduler, which a file of its own may tell."""
    if not isinstance(scheduler, Path):
        return scheduler
    try:
        return json.loads(scheduler.read_text())["address"]
    except (ValueError, KeyError, TypeError) as err:
        raise ApbcError(
            f"{scheduler}: not the file of a Dask scheduler, which `dask scheduler "
            "--scheduler-file` writes"
        ) from err


@contextlib.contextmanager
def _client(address, security, where, patience):
    """Connect to a scheduler, and see that it and its workers are of our kind."""
    from distributed import Client

    end = time.monotonic() + patience
    while True:
        try:
            client = Client(address, security=security, timeout=TIMEOUT, set_as_default=False)
            break
        except (OSError, ValueError) as err:
            if isinstance(err, ValueError) or time.monotonic() > end:
                raise ApbcError(
                    f"--scheduler {where.scheduler}: no Dask scheduler answers at {address} "
                    f"({' '.join(str(err).split())[:120]}); what is done stays, the same command "
                    "goes on once there is one"
                ) from err
            time.sleep(1)
    with client:
        if where.scheduler:
            _check_versions(client, where)
        yield client


def _check_versions(client, where):
    """Raise ApbcError if scheduler or workers have another Python or Dask; say what there is."""
    found = client.get_versions()
    ours, theirs = _versions(found["client"]), {"the scheduler": found["scheduler"]}
    theirs |= {f"worker {address}": one for address, one in found["workers"].items()}
    for who, one in theirs.items():
        if (has := _versions(one)) != ours:
            raise ApbcError(
                f"{where.scheduler}: {who} has {has}, this command {ours}; start all "
                "with the environment that build.sh made"
            )
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    threads = sum(one["nthreads"] for one in workers)
    said = f"{len(workers)} workers, {threads} threads" if workers else "no workers yet; waiting"
    cli.say(f"{where.scheduler}: {said}")


def _versions(one):
    """Name what must be the same everywhere."""
    python = ".".join(map(str, one["host"]["python"].split(".")[:2]))
    return f"Python {python}, Dask {one['packages']['distributed']}"


def _submitted(client, todo, left):
    """Yield (item, result) of what is ``left``, by index, and take it out; stop if all is lost."""
    from distributed import KilledWorker, as_completed

    def submit(indices):
        # Bytes, since a scheduler that lacks this program has to read them too.
        sent = [(index, pickle.dumps(left[index])) for index in indices]
        return dict(zip(client.map(todo, sent, pure=False), indices, strict=True))

    waiting = submit(list(left))
    try:
        done = as_completed(list(waiting), loop=client.loop)
        for future in done:
            index = waiting.pop(future)
            try:
                result = pickle.loads(future.result())
            except ImportError as err:
                raise ApbcError(
                    f"{Path(__file__).parents[1]}: a worker can't use it ({err}); workers need "
                    "this folder, and the environment that build.sh made"
                ) from err
            except KilledWorker:  # but perhaps by what was beside it: its file of tries decides
                again = submit([index])
                waiting |= again
                done.update(again)
                continue
            except (CancelledError, OSError):  # the connection: jobs raise no OSError
                return
            future.release()
            yield left.pop(index), result
    finally:
        client.cancel(list(waiting))
