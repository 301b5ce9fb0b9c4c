"""Work on blocks in threads, results in order.

Torch's own threads meet at a barrier after every operation. On blocks that fit into a processor's cache that
costs more than it gains, and on a busy machine many times more; whole blocks a thread have no barrier at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["cache_rows", "items_in_flight", "map_in_order"]

_CACHE_BYTES = 1 << 20  # half of a common second-level cache
_MAX_WORKERS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def cache_rows(dim: int, bytes_per_number: int) -> int:
    """Choose how many rows are worked on at once, so that they stay in the processor's cache.

    Args:
        dim: Width of the rows.
        bytes_per_number: Bytes of all buffers together, for each number of a row.

    Returns:
        Rows, at least 8.
    """
    return max(8, min(1024, _CACHE_BYTES // (dim * bytes_per_number)))


def items_in_flight() -> int:
    """Count the items that `map_in_order` holds at once, the one being used by the caller included.

    Returns:
        Size of a ring of buffers that is never overwritten too early.
    """
    return _workers() + 2


def _workers() -> int:
    return min(torch.get_num_threads(), _MAX_WORKERS)


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply a function to items in as many threads as torch has, each running torch on one.

    Args:
        work: The function; it must not depend on other items.
        items: Read one after another in the calling thread, a few ahead of the results.

    Yields:
        The results in the order of the items, so that sums of them do not depend on the number of threads.
    """
    threads = torch.get_num_threads()
    workers = _workers()
    torch.set_num_threads(1)
    pending: deque[Future[Result]] = deque()
    try:
        with ThreadPoolExecutor(workers) as pool:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads)
