"""Requests that arrive while the model is busy go through it together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_Asked = tuple[Sequence[Item], asyncio.Future[Sequence[Answer]]]

FEW = 8
"""Items for each thread, below which all threads work on one batch: it is done the sooner."""


class Overloaded(Exception):
    """More items wait already than can be answered soon."""


class Batcher(Generic[Item, Answer]):
    """Runs a model in threads of its own.

    Nothing waits for a batch to fill: an idle model starts at once, and what arrives while it runs
    makes up the next batches. Under load batches grow by themselves; alone, a request pays nothing.

    A few items run as one batch, for which the model takes all ``threads``. Many are shared out
    among batches of one thread each: those need not wait for one another, nor for a thread that
    the rest of the server keeps from running.

    Args:
        run: the model: items, and the number of threads it may take, to an answer for each item.
        threads: there are, for all batches together.
        batch: items in one run at most; a single larger submission still runs whole.
        capacity: items that may wait.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], int], Sequence[Answer]],
        *,
        threads: int,
        batch: int,
        capacity: int,
    ) -> None:
        self._run, self._threads = run, threads
        self._batch, self._capacity = batch, capacity
        self._waiting: deque[_Asked[Item, Answer]] = deque()
        self._free = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="model")

    async def __aenter__(self) -> "Batcher[Item, Answer]":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.clear()
        self._pool.shutdown()

    @property
    def waiting(self) -> int:
        """Items that wait for the model."""
        return sum(len(items) for items, _ in self._waiting)

    async def submit(self, items: Sequence[Item]) -> Sequence[Answer]:
        """What the model says of ``items``.

        Raises:
            Overloaded: at once, when they would not fit among those that wait.
        """
        if self.waiting + len(items) > self._capacity:
            raise Overloaded
        answer: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, answer))
        self._start()
        return await answer

    def _start(self) -> None:
        """Give what waits to the threads that are free."""
        while self._waiting and self._free:
            waiting, threads = self.waiting, 1
            few = waiting < FEW * self._threads or len(self._waiting) < self._threads
            if few and self._free == self._threads:
                threads = self._threads
            share = -(-waiting * threads // self._free)
            taken = self._take(min(share, self._batch))
            if not taken:
                return
            self._free -= threads
            items = [item for some, _ in taken for item in some]
            running = asyncio.get_running_loop().run_in_executor(
                self._pool, self._run, items, threads
            )
            running.add_done_callback(partial(self._finish, taken, threads))

    def _finish(
        self,
        taken: Sequence[_Asked[Item, Answer]],
        threads: int,
        done: asyncio.Future[Sequence[Answer]],
    ) -> None:
        """Hand out the answers; a failure belongs to those who asked."""
        self._free += threads
        self._start()
        if done.cancelled():
            return
        error, start = done.exception(), 0
        for items, answer in taken:
            if answer.done():
                pass
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result()[start : start + len(items)])
            start += len(items)

    def _take(self, size: int) -> Sequence[_Asked[Item, Answer]]:
        """The next batch of about ``size`` items, without those whose asker has gone."""
        taken: list[_Asked[Item, Answer]] = []
        found = 0
        while self._waiting:
            items, answer = self._waiting[0]
            if taken and found + len(items) > size:
                break
            self._waiting.popleft()
            if not answer.done():
                taken.append((items, answer))
                found += len(items)
        return taken
