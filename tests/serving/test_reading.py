"""What decodes a file can be ended, and is: a hostile one costs its sender an answer."""

import asyncio
import os
import time

import psutil
import pytest

from alzmri.data.images import Unreadable
from alzmri.serving import reading
from alzmri.serving.answers import Refusal
from alzmri.serving.limits import Limits
from alzmri.serving.reading import Reader
from alzmri.serving.service import Service, load
from alzmri.serving.telemetry import Metrics

from ..processes import limit


def _status(refused):
    return refused.value.status


def test_work_ends_at_its_limit_and_leaves_no_process_behind():
    async def main():
        own = psutil.Process()
        reader = Reader(1, 2, 2.0)
        with pytest.raises(Unreadable, match="not an image"):
            await reader.run(reading.image, b"nothing", 32, "pad")
        begin = time.monotonic()
        with pytest.raises(Refusal, match="more than 2 seconds") as late:
            await reader.run(time.sleep, 600)
        assert (_status(late), time.monotonic() - begin < limit(10)) == (400, True)
        for work in ((os.abort,), (bytearray, 64 << 30)):
            with pytest.raises(Refusal, match="too much memory") as refused:
                await reader.run(*work)
            assert _status(refused) == 400
        # One works, one waits, the third is refused; those whose client leaves are ended.
        calls = [asyncio.create_task(reader.run(time.sleep, 600)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="busy") as busy:
            await reader.run(os.getpid)
        assert _status(busy) == 503
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        worker = await reader.run(os.getpid)
        assert worker != own.pid
        reader.close()
        assert not psutil.pid_exists(worker)

    asyncio.run(main())


@pytest.fixture(scope="module")
def loaded(workplace):
    """The model, loaded in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
        return load(workplace / "models", 1)


def test_a_load_balancer_hears_when_the_model_does_not_answer(loaded, files, monkeypatch):
    """And more images than may wait are refused."""

    async def main():
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()
        service = Service(loaded, Limits(ping=0.2, queue=2), Metrics(), 1)
        run = service._run

        def held(images, threads):
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
            return run(images, threads)

        monkeypatch.setattr(service, "_run", held)
        async with service.running():
            with pytest.raises(Refusal, match="busy") as refused:
                await service.ping()
            assert _status(refused) == 503
            content = files[0].read_bytes()
            waiting = asyncio.create_task(service.many([content] * 2))
            await asyncio.sleep(0)
            with pytest.raises(Refusal, match="busy"):
                await service.one(content)
            gate.set()
            assert len((await waiting).images) == 2
            await service.one(content)
            await service.ping()

    asyncio.run(main())
