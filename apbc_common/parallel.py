"""Work beside work: a thread that makes things ready, processes that share a list."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

from . import ApbcError


def ahead(items, depth=3):
    """Yield ``items``, made in a thread of their own up to ``depth`` ahead."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(next, items, None) for _ in range(depth)]
        while (item := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item


def spread(job, shares):
    """Yield what ``job`` yields of each share, every share in a process of its own.

    Parameters
    ----------
    job : callable
        A generator function of one share, which can be pickled.
    shares : iterable

    Raises
    ------
    ApbcError, OSError
        What a job raised; or if a process ended before its time: killed, most often for memory.
    """
    import multiprocessing
    from multiprocessing.connection import wait

    context = multiprocessing.get_context("spawn")
    readers, processes = [], []
    try:
        for share in shares:
            reader, writer = context.Pipe(duplex=False)
            processes.append(context.Process(target=_send, args=(writer, job, share)))
            processes[-1].start()
            writer.close()
            readers.append(reader)
        while readers:
            for reader in wait(readers):
                try:
                    kind, result = reader.recv()
                except EOFError:
                    raise ApbcError(
                        "a process ended too early (out of memory?); what is done stays; run again "
                        "with fewer --jobs"
                    ) from None
                if kind == "error":
                    raise result
                if kind == "item":
                    yield result
                else:
                    readers.remove(reader)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _send(writer, job, share):
    """Send each result of a job to the first process, which alone answers to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for item in job(share):
            writer.send(("item", item))
        writer.send(("end", None))
    except BrokenPipeError:  # the first process is gone
        return
    except (ApbcError, OSError, MemoryError) as err:
        writer.send(("error", err))
