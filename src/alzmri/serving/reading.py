"""Files from outside are decoded in processes that can be ended, and are when they take too long.

A decoder that hangs, crashes or takes all memory costs its sender an answer, others nothing.
"""

import asyncio
import io
import multiprocessing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from pebble import ProcessExpired, ProcessPool
from PIL import Image

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.inference import ventricles, volumes
from alzmri.inference.confined import confine
from alzmri.serving.answers import Refusal, busy

MEMORY = 3 * 2**30
"""Bytes that a process may take: a volume of the largest size needs two thirds."""
QUICK = 2**18, 2**20
"""Bytes and pixels up to which an image costs milliseconds to decode, whatever is in it."""

R = TypeVar("R")


def quick_image(content: bytes, side: int, fit: Literal["pad", "stretch"]) -> Pixels | None:
    """:func:`image` of a small JPEG or PNG, in a thread of the server; None for all else."""
    if len(content) > QUICK[0]:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as found:
            if found.width * found.height > QUICK[1]:
                return None
    except Exception:  # noqa: BLE001 - a damaged file can make Pillow raise anything
        return None
    return image(content, side, fit)


def image(content: bytes, side: int, fit: Literal["pad", "stretch"]) -> Pixels:
    """The image file ``content`` as uint8 ``[side, side]``; :class:`images.Unreadable` if none."""
    return images.fit(images.decode_bytes(content).pixels, side, fit)


def volume(
    content: bytes, count: int, side: int, fit: Literal["pad", "stretch"]
) -> list[tuple[int, Pixels]]:
    """Depth in mm and uint8 ``[side, side]`` of ``count`` slices of the volume ``content``."""
    chosen = ventricles.choose(volumes.read_stream(io.BytesIO(content)), count)
    return [(depth, images.fit(pixels, side, fit)) for depth, pixels in chosen]


class Reader:
    """Processes for one kind of work.

    Args:
        processes: that work at a time.
        waiting: calls at a time, those that wait included; more are refused.
        seconds: for one, from when a process takes it.
    """

    def __init__(self, processes: int, waiting: int, seconds: float) -> None:
        # Each is forked from a small process that has imported this module: milliseconds.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pool = ProcessPool(processes, initializer=confine, initargs=[MEMORY], context=context)
        self._calls, self._waiting, self._seconds = 0, waiting, seconds
        # Now, or the first file would wait for all that they import.
        self._pool.schedule(str)

    async def run(self, work: Callable[..., R], *arguments: Any) -> R:
        """``work(*arguments)`` in a process.

        Raises:
            Refusal: it took too long, or too much memory, or too many wait.
            Exception: what ``work`` raises.
        """
        if self._calls >= self._waiting:
            raise busy()
        self._calls += 1
        try:
            future: Any = self._pool.schedule(work, list(arguments), timeout=self._seconds)
            # A caller that is cancelled ends the process.
            result: R = await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refusal(
                400, f"the file took more than {self._seconds:g} seconds to read and was given up"
            ) from None
        except (ProcessExpired, MemoryError):
            raise Refusal(400, "the file takes too much memory to read, or is damaged") from None
        finally:
            self._calls -= 1
        return result

    def close(self) -> None:
        """End the processes, whatever they do."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
