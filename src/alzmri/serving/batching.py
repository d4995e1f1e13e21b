"""Requests that arrive while the model is busy go through it together."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Asked = tuple[Sequence[Item], asyncio.Future[Sequence[Answer]]]

FEW = 8
"""Items for each thread, below which all threads work on one batch: it is done the sooner."""


class Batcher(Generic[Item, Answer]):
    """Runs a model in threads of its own.

    Nothing waits for a batch to fill: an idle model starts at once, and what arrives while it runs
    makes up the next batches. Under load batches grow by themselves; alone, a request pays nothing.

    A few items run as one batch, for which the model takes all ``threads``. Many are shared out
    evenly among batches of one thread each: those need not wait for one another, nor for a thread
    that the rest of the server keeps from running. A thread that is done takes its next batch
    itself: the event loop, which reads requests meanwhile, would let it wait.

    Args:
        run: the model: items, and the number of threads it may take, to an answer for each item.
        threads: there are, for all batches together.
        batch: items in one run at most; a single larger submission still runs whole.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], int], Sequence[Answer]],
        *,
        threads: int,
        batch: int,
    ) -> None:
        self._run, self._threads, self._batch = run, threads, batch
        # Of all that follows: the model's threads change it too.
        self._lock = threading.Lock()
        self._asked: deque[_Asked[Item, Answer]] = deque()
        self._waiting = self._running = 0
        self._free = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="model")

    def close(self) -> None:
        """Finish what runs; what waits gets no answer."""
        with self._lock:
            self._asked.clear()
            self._waiting = 0
        self._pool.shutdown()

    @property
    def waiting(self) -> int:
        """Items that wait for the model."""
        return self._waiting

    async def submit(self, items: Sequence[Item]) -> Sequence[Answer]:
        """What the model says of ``items``."""
        answer: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._asked.append((items, answer))
            self._waiting += len(items)
            self._start()
        return await answer

    def _start(self) -> None:
        """Give what waits to the threads that are free. Whoever calls holds the lock."""
        while self._asked and self._free:
            few = self._waiting < FEW * self._threads or len(self._asked) < self._threads
            if few and self._free == self._threads:
                threads, share = self._threads, self._waiting
            else:
                threads, share = 1, -(-(self._waiting + self._running) // self._threads)
            taken = self._take(min(share, self._batch))
            if not taken:
                return
            items = [item for some, _ in taken for item in some]
            self._free -= threads
            self._running += len(items)
            self._pool.submit(self._serve, taken, items, threads)

    def _serve(
        self, taken: Sequence[_Asked[Item, Answer]], items: Sequence[Item], threads: int
    ) -> None:
        """One batch, in a thread of the pool."""
        answers: Sequence[Answer] | Exception
        try:
            answers = self._run(items, threads)
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            answers = error
        with self._lock:
            self._free += threads
            self._running -= len(items)
            self._start()
        taken[0][1].get_loop().call_soon_threadsafe(_hand_out, taken, answers)

    def _take(self, size: int) -> Sequence[_Asked[Item, Answer]]:
        """The next batch of about ``size`` items, without those whose asker has gone."""
        taken: list[_Asked[Item, Answer]] = []
        found = 0
        while self._asked:
            items, answer = self._asked[0]
            if taken and found + len(items) > size:
                break
            self._asked.popleft()
            self._waiting -= len(items)
            if not answer.done():
                taken.append((items, answer))
                found += len(items)
        return taken


def _hand_out(taken: Sequence[_Asked[Item, Answer]], answers: Sequence[Answer] | Exception) -> None:
    """Give each asker the answers to its own items."""
    start = 0
    for items, answer in taken:
        if answer.done():
            pass
        elif isinstance(answers, Exception):
            answer.set_exception(answers)
        else:
            answer.set_result(answers[start : start + len(items)])
        start += len(items)
