"""Workers for requests: threads run the model in batches, processes decode files.

A decoder that hangs, crashes or takes all memory is ended, which affects only its own request.
"""

import asyncio
import io
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool
from PIL import Image
from starlette.exceptions import HTTPException

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.inference import ventricles, volumes
from alzmri.serving.answers import busy

MEMORY = 3 * 2**30  # bytes of a process; the largest volumes need two thirds
QUICK = 2**18, 2**20  # bytes and pixels up to which decoding takes milliseconds
FEW = 8  # with fewer items per thread, all threads work on one batch, which is faster

Fit = Literal["pad", "stretch"]
R = TypeVar("R")
_Asked = tuple[Sequence[Any], Future[Sequence[Any]]]  # items, and their future answers


def quick_image(content: bytes, side: int, fit: Fit) -> Pixels | None:
    """:func:`image` of a small JPEG or PNG, for a thread of the server; None for other files."""
    if len(content) > QUICK[0]:  # even its header may take seconds
        return None
    quick = False
    # A damaged file can make Pillow raise anything.
    with suppress(Exception), Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as found:
        quick = found.width * found.height <= QUICK[1]
    return image(content, side, fit) if quick else None


def image(content: bytes, side: int, fit: Fit) -> Pixels:
    """Decode an image file to uint8 ``[side, side]``; raises :class:`images.Unreadable`."""
    return images.fit(images.decode_bytes(content).pixels, side, fit)


def volume(content: bytes, side: int, fit: Fit) -> list[tuple[int, Pixels]]:
    """Depth in mm and uint8 ``[side, side]`` of the slices of the volume ``content``."""
    chosen = ventricles.choose(volumes.read_stream(io.BytesIO(content)), ventricles.SLICES)
    return [(depth, images.fit(pixels, side, fit)) for depth, pixels in chosen]


class ProcessReader:
    """Processes for one kind of work."""

    def __init__(self, processes: int, waiting: int, seconds: float, each: int = 0) -> None:
        """Allow ``waiting`` calls at a time; each ends ``seconds`` after a process takes it.

        After ``each`` calls a process is replaced, which gives back its memory (0: never).
        """
        # A small process that has imported this module forks each one within milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "nibabel.processing"])
        self._pool = ProcessPool(
            processes, each, initializer=volumes.confine, initargs=[MEMORY], context=context
        )
        self._calls, self._waiting, self._seconds = 0, waiting, seconds
        self._pool.schedule(str)  # starts them, or the first file would wait for their imports

    @property
    def active(self) -> bool:
        """False once somebody, such as a kernel short of memory, killed a process without work."""
        return self._pool.active

    async def run(self, work: Callable[..., R], *arguments: Any) -> R:
        """Run ``work(*arguments)`` in a process; also raises HTTPException at a limit."""
        if self._calls >= self._waiting:
            raise busy()
        self._calls += 1
        try:
            future = self._pool.schedule(work, list(arguments), timeout=self._seconds)
            return await asyncio.wrap_future(future)  # a cancelled caller ends the process
        except TimeoutError:
            limit = f"{self._seconds:g} seconds"
            raise HTTPException(400, f"the file took more than {limit} to read") from None
        except (ProcessExpired, MemoryError):
            raise HTTPException(400, "the file takes too much memory, or is damaged") from None
        finally:
            self._calls -= 1

    def close(self) -> None:
        """End the processes at once."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


class Batcher:
    """Runs a model in ``threads`` of its own.

    An idle model starts at once. Items that arrive while it runs form the next batches, of at most
    ``batch`` items unless one caller has more. A few items run as one batch, for which the model
    uses all threads. Many are divided evenly among batches of one thread each, which do not wait
    for each other. A thread takes its next batch itself: the event loop would delay it.
    """

    def __init__(
        self, run: Callable[[Sequence[Any], int], Sequence[Any]], *, threads: int, batch: int
    ) -> None:
        """``run`` takes items and a number of threads, and returns an answer for each item."""
        self._run, self._threads, self._batch = run, threads, batch
        self._lock = threading.Lock()  # for the attributes below, which the threads change too
        self._asked: deque[_Asked] = deque()
        self.waiting = self._running = 0  # items
        self._free = threads
        self._pool = ThreadPoolExecutor(threads)

    def close(self) -> None:
        """Finish running batches; waiting items get no answer."""
        with self._lock:
            self._asked.clear()
        self._pool.shutdown()

    async def submit(self, items: Sequence[Any]) -> Sequence[Any]:
        """The answers for ``items``."""
        answer: Future[Sequence[Any]] = Future()
        with self._lock:
            self._asked.append((items, answer))
            self.waiting += len(items)
            self._start()
        return await asyncio.wrap_future(answer)

    def _start(self) -> None:
        """Give waiting items to free threads. The caller holds the lock."""
        while self._asked and self._free:
            few = self.waiting < FEW * self._threads or len(self._asked) < self._threads
            if few and self._free == self._threads:
                threads, share = self._threads, self.waiting
            else:
                threads, share = 1, -(-(self.waiting + self._running) // self._threads)
            taken: list[_Asked] = []
            items: list[Any] = []
            size = min(share, self._batch)
            while self._asked and not (taken and len(items) + len(self._asked[0][0]) > size):
                some, answer = self._asked.popleft()
                self.waiting -= len(some)
                if answer.set_running_or_notify_cancel():  # False if the caller has left
                    taken.append((some, answer))
                    items += some
            if taken:
                self._free -= threads
                self._running += len(items)
                self._pool.submit(self._serve, taken, items, threads)

    def _serve(self, taken: Sequence[_Asked], items: Sequence[Any], threads: int) -> None:
        answers: Sequence[Any] = ()
        failure = None
        try:
            answers = self._run(items, threads)
        except Exception as error:  # noqa: BLE001 - the callers get it
            failure = error
        with self._lock:
            self._free += threads
            self._running -= len(items)
            self._start()
        for some, answer in taken:
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(answers[: len(some)])
                answers = answers[len(some) :]
