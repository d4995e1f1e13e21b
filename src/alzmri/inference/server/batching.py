"""Requests that arrive while the model is busy go through it together."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Outputs = tuple[NDArray[Any], ...]


class Overloaded(Exception):
    """More images wait already than can be answered soon."""


class Batcher:
    """Runs a model in a thread of its own, one batch at a time.

    Nothing waits for a batch to fill: an idle model starts at once, and what arrives while it runs
    makes up the next batch. Under load batches grow by themselves; alone, a request pays nothing.

    Args:
        run: the model: uint8 ``[n, side, side]`` to arrays whose first axis is ``n``.
        batch: images in one run at most; a single larger submission still runs whole.
        capacity: images that may wait.
        ran: called with the number of images of each batch.
    """

    def __init__(
        self,
        run: Callable[[Images], Outputs],
        *,
        batch: int,
        capacity: int,
        ran: Callable[[int], object],
    ) -> None:
        self._run, self._batch, self._capacity, self._ran = run, batch, capacity, ran
        self._waiting: deque[tuple[Images, asyncio.Future[Outputs]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def __aenter__(self) -> "Batcher":
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Images that wait for the model."""
        return sum(len(images) for images, _ in self._waiting)

    async def submit(self, images: Images) -> Outputs:
        """What the model says of ``images``, uint8 ``[n, side, side]``.

        Raises:
            Overloaded: at once, when they would not fit among those that wait.
        """
        if self.waiting + len(images) > self._capacity:
            raise Overloaded
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, answer))
        self._arrived.set()
        return await answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            taken = self._take()
            if not taken:
                self._arrived.clear()
                continue
            batch = np.concatenate([images for images, _ in taken])
            try:
                outputs = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:  # noqa: BLE001 - it belongs to those who asked
                for _, answer in taken:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            self._ran(len(batch))
            start = 0
            for images, answer in taken:
                stop = start + len(images)
                if not answer.done():
                    answer.set_result(tuple(output[start:stop] for output in outputs))
                start = stop

    def _take(self) -> list[tuple[Images, "asyncio.Future[Outputs]"]]:
        """The next batch, without those whose asker has gone."""
        taken: list[tuple[Images, asyncio.Future[Outputs]]] = []
        size = 0
        while self._waiting:
            images, answer = self._waiting[0]
            if taken and size + len(images) > self._batch:
                break
            self._waiting.popleft()
            if not answer.done():
                taken.append((images, answer))
                size += len(images)
        return taken
