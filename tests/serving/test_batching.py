"""Batches form by themselves while the model is busy, and nobody's trouble is another's."""

import asyncio
import threading
from contextlib import closing

import pytest

from alzmri.serving.batching import FEW, Batcher

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
        assert self.gate.acquire(timeout=30)
        self.batches.append((len(items), threads))
        if UNUSABLE in items:
            raise ValueError("unusable")
        return list(items)


async def _until(condition):
    async with asyncio.timeout(30):
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


def test_what_arrives_meanwhile_goes_together_and_every_answer_finds_its_asker():
    async def scenario(model, batcher, submit):
        tasks = [submit(2, 3), submit(4), submit(5, 6)]
        await _until(lambda: batcher.waiting == 5)
        model.gate.release(3)
        assert [await task for task in tasks] == [[2, 3], [4], [5, 6]]
        # The third request would not have fitted into the second batch.
        assert model.batches == [(1, 1), (3, 1), (2, 1)]

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
        model.gate.release(2)
        assert [await task for task in few] == [[2], [3]]
        assert [await task for task in tasks] == [[value] for value in range(10, 10 + many)]
        assert model.batches == [(1, 2), (2, 2), (FEW, 1), (FEW, 1)]

    _with(scenario, threads=2, batch=32)


def test_a_free_thread_leaves_to_the_others_their_share_of_what_waits():
    many = 2 * FEW

    async def scenario(model, batcher, submit):
        tasks = [submit(value) for value in range(10, 10 + many)]
        await _until(lambda: batcher.waiting == many)
        model.gate.release(1)
        # Two batches of half of them; as many again wait.
        await _until(lambda: model.begun == 3)
        tasks += [submit(value) for value in range(50, 50 + many)]
        await _until(lambda: batcher.waiting == many)
        model.gate.release(1)
        await _until(lambda: model.begun == 4)
        # One runs FEW; of what it and the free thread have to do, each does half.
        assert batcher.waiting == many - (FEW + many) // 2
        model.gate.release(3)
        await asyncio.gather(*tasks)

    _with(scenario, threads=2, batch=32)


def test_the_next_batch_does_not_wait_for_the_event_loop():
    async def scenario(model, batcher, submit):
        second = submit(2)
        await _until(lambda: batcher.waiting)
        model.gate.release(1)
        # Without giving way: the event loop stands still meanwhile.
        assert all(model.began.acquire(timeout=30) for _ in range(2))
        model.gate.release(1)
        assert await second == [2]

    _with(scenario)


def test_one_large_request_takes_all_threads():
    async def scenario(model, batcher, submit):
        large = submit(*range(2, 2 + 4 * FEW))
        await _until(lambda: batcher.waiting)
        model.gate.release(2)
        await large
        assert model.batches == [(1, 2), (4 * FEW, 2)]

    _with(scenario, threads=2, batch=32)


def test_whoever_gave_up_is_left_out_and_a_failure_stays_with_its_batch():
    async def scenario(model, batcher, submit):
        gone, unusable, later = submit(2), submit(3, UNUSABLE, 4), submit(5, 6)
        await _until(lambda: batcher.waiting == 6)
        gone.cancel()
        model.gate.release(3)
        with pytest.raises(ValueError, match="unusable"):
            await unusable
        assert await later == [5, 6]
        assert model.batches == [(1, 1), (3, 1), (2, 1)]

    _with(scenario)
