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
    """call(item) of each item, in their order. While one result is in use, threads work on the next ones, `most` at a
    time; so many items are taken, and so many results kept. An error of a call is raised in the place of its result.
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
