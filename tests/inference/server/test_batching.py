"""Batches form by themselves while the model is busy, and nobody's trouble is another's."""

import asyncio
import threading

import numpy as np
import pytest

from alzmri.inference.server.batching import Batcher, Overloaded

UNUSABLE = 255


class Gated:
    """A model that waits until it may go on; each image's answer is its own value."""

    def __init__(self):
        self.gate = threading.Semaphore(0)
        self.begun = 0
        self.batches = []

    def __call__(self, images):
        self.begun += 1
        assert self.gate.acquire(timeout=30)
        self.batches.append(len(images))
        if (images == UNUSABLE).any():
            raise ValueError("unusable")
        return (images[:, 0, 0],)


def _images(*values):
    return np.tile(np.array(values, np.uint8)[:, np.newaxis, np.newaxis], (1, 2, 2))


async def _until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def _with(scenario):
    """Run it with a model that is busy with an image of value 1."""

    async def main():
        model = Gated()
        async with Batcher(model, batch=4, capacity=6, ran=lambda _: None) as batcher:

            def submit(*values):
                return asyncio.create_task(batcher.submit(_images(*values)))

            first = submit(1)
            await _until(lambda: model.begun)
            await scenario(model, batcher, submit)
            assert list((await first)[0]) == [1]

    asyncio.run(main())


def test_what_arrives_meanwhile_goes_together_and_every_answer_finds_its_asker():
    async def scenario(model, batcher, submit):
        tasks = [submit(2, 3), submit(4), submit(5, 6)]
        await _until(lambda: batcher.waiting == 5)
        model.gate.release(3)
        assert [list((await task)[0]) for task in tasks] == [[2, 3], [4], [5, 6]]
        # The third request would not have fitted into the second batch.
        assert model.batches == [1, 3, 2]

    _with(scenario)


def test_more_than_may_wait_is_refused_at_once():
    async def scenario(model, batcher, submit):
        tasks = [submit(2, 3, 4), submit(5, 6, 7)]
        await _until(lambda: batcher.waiting == 6)
        with pytest.raises(Overloaded):
            await batcher.submit(_images(8))
        model.gate.release(3)
        assert [list((await task)[0]) for task in tasks] == [[2, 3, 4], [5, 6, 7]]

    _with(scenario)


def test_whoever_gave_up_is_left_out_and_a_failure_stays_with_its_batch():
    async def scenario(model, batcher, submit):
        gone, unusable, later = submit(2), submit(3, UNUSABLE, 4), submit(5, 6)
        await _until(lambda: batcher.waiting == 6)
        gone.cancel()
        model.gate.release(3)
        with pytest.raises(ValueError, match="unusable"):
            await unusable
        assert list((await later)[0]) == [5, 6]
        assert model.batches == [1, 3, 2]

    _with(scenario)
