"""Work beside work: a thread that makes things ready."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


def ahead(items, depth=3):
    """Yield ``items``, made in a thread of their own up to ``depth`` ahead."""
    items = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting = [thread.submit(next, items, None) for _ in range(depth)]
        while (item := waiting.pop(0).result()) is not None:
            waiting.append(thread.submit(next, items, None))
            yield item
