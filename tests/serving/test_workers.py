"""The model works in batches that form by themselves; what decodes a file can be ended, and is."""

import asyncio
import os
import signal
import threading
import time
from contextlib import closing

import psutil
import pytest
from starlette.exceptions import HTTPException

from alzmri.data.images import Unreadable
from alzmri.serving import workers
from alzmri.serving.workers import FEW, Batcher, ProcessReader

from ..processes import limit

UNUSABLE = 255


class Gated:
    """A model that waits until it may go on; each item's answer is itself."""

    def __init__(self):
        self.gate = threading.Semaphore(0)
        self.begun = 0
        self.began = threading.Semaphore(0)
        self.batches = []

    def __call__(self, items, threads):
        self.begun += 1
        self.began.release()
        assert self.gate.acquire(timeout=limit(30))
        self.batches.append((len(items), threads))
        if UNUSABLE in items:
            raise ValueError("unusable")
        return list(items)


async def _until(condition):
    async with asyncio.timeout(limit(30)):
        while not condition():
            await asyncio.sleep(0)


def _with(scenario, threads=1, batch=4):
    """Run it with a model that is busy with an item of value 1."""

    async def main():
        model = Gated()
        with closing(Batcher(model, threads=threads, batch=batch)) as batcher:

            def submit(*values):
                return asyncio.create_task(batcher.submit(values))

            first = submit(1)
            await _until(lambda: model.begun)
            await scenario(model, batcher, submit)
            assert await first == [1]

    asyncio.run(main())


def test_what_arrives_meanwhile_goes_together_and_a_failure_stays_with_its_batch():
    async def scenario(model, batcher, submit):
        gone, first, second = submit(9), submit(2, 3), submit(4)
        unusable, later = submit(5, UNUSABLE), submit(6, 7, 8)
        await _until(lambda: batcher.waiting == 9)
        gone.cancel()
        await asyncio.wait([gone])
        # Without giving way: the next batch does not wait for the event loop.
        model.gate.release(2)
        assert all(model.began.acquire(timeout=limit(30)) for _ in range(3))
        model.gate.release(2)
        assert [await first, await second, await later] == [[2, 3], [4], [6, 7, 8]]
        with pytest.raises(ValueError, match="unusable"):
            await unusable
        # The unusable one would not have fitted into the second batch.
        assert model.batches == [(1, 1), (3, 1), (2, 1), (3, 1)]

    _with(scenario)


def test_few_take_all_threads_and_many_are_shared_out_among_them():
    many = 2 * FEW

    async def scenario(model, batcher, submit):
        few = [submit(2), submit(3)]
        await _until(lambda: batcher.waiting == 2)
        model.gate.release(1)
        await _until(lambda: model.begun == 2)
        tasks = [submit(value) for value in range(10, 10 + many)]
        await _until(lambda: batcher.waiting == many)
        model.gate.release(1)
        # Both run at the same time.
        await _until(lambda: model.begun == 4)
        model.gate.release(3)
        assert [await task for task in few] == [[2], [3]]
        assert [await task for task in tasks] == [[value] for value in range(10, 10 + many)]
        assert len(await submit(*range(50, 50 + 4 * FEW))) == 4 * FEW
        assert model.batches == [(1, 2), (2, 2), (FEW, 1), (FEW, 1), (4 * FEW, 2)]

    _with(scenario, threads=2, batch=32)


def test_a_process_is_replaced_after_so_many_calls():
    async def main():
        for each, processes in ((0, 1), (1, 3)):
            with closing(ProcessReader(1, 1, limit(30), each)) as reader:
                assert len({await reader.run(os.getpid) for _ in range(3)}) == processes

    asyncio.run(main())


def test_a_reader_knows_that_a_process_without_work_was_killed():
    """By the kernel, for example, when memory is short: `/ping` then asks for a restart."""

    async def main():
        reader = ProcessReader(1, 1, limit(30))
        os.kill(await reader.run(os.getpid), signal.SIGKILL)
        await _until(lambda: not reader.active)

    asyncio.run(main())


def test_decoding_ends_at_its_limit_and_leaves_no_process_behind():
    async def main():
        own = psutil.Process()
        reader = ProcessReader(1, 2, 2.0)
        with pytest.raises(Unreadable, match="not an image"):
            await reader.run(workers.image, b"nothing", 32, "pad")
        begin = time.monotonic()
        with pytest.raises(HTTPException, match=r"400: .* more than 2 seconds"):
            await reader.run(time.sleep, 600)
        assert time.monotonic() - begin < limit(10)
        for work in ((os.abort,), (bytearray, 64 << 30)):
            with pytest.raises(HTTPException, match=r"400: .* too much memory"):
                await reader.run(*work)
        # One works, one waits, the third is refused; those whose client leaves are ended.
        calls = [asyncio.create_task(reader.run(time.sleep, 600)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match=r"503: .* busy"):
            await reader.run(os.getpid)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        worker = await reader.run(os.getpid)
        assert worker != own.pid
        reader.close()
        assert not psutil.pid_exists(worker)

    asyncio.run(main())
