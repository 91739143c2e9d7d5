"""Threads that compute results before they are asked for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def prefetch(
    call: Callable[[Item], Found], items: Iterable[Item], threads: int, most: int
) -> Generator[Found, None, None]:
    """call(item) for each item, in order. While one result is in use, threads compute the next ones; at most `most`
    items are taken in advance, and as many results kept. An error in a call is raised in place of its result.
    """
    waiting: deque[Future[Found]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
