"""Apply a function to many items on several threads, with the results in order."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, with one thread per processor.

    NumPy, Pillow and OpenCV release the GIL while they compute.
    """
    threads = os.cpu_count() or 1
    step = 16 * threads  # limits the results in memory, and the work left when the caller stops
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), step):
            yield from pool.map(function, items[start : start + step])
