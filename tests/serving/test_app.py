"""The service says when the model does not answer, and takes no more than it may."""

import asyncio
import io

import pytest
from fastapi import UploadFile
from starlette.exceptions import HTTPException

from alzmri.serving.app import ModelService
from alzmri.serving.loaded_model import load
from alzmri.serving.middleware import Limits

from ..processes import limit


def test_a_load_balancer_hears_when_the_model_does_not_answer(
    workplace, servers, files, monkeypatch
):
    """And more images than may wait are refused."""
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("XDG_CACHE_HOME", str(workplace / "cache"))
    service = ModelService(load(workplace / "models", 1), Limits(ping=0.2, queue=2), 1)

    async def main():
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()
        run = service._run

        def held(images, threads):
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
            return run(images, threads)

        monkeypatch.setattr(service, "_run", held)
        async with service.running():
            with pytest.raises(HTTPException, match=r"503: .* busy"):
                await service.ping()

            def upload():
                return UploadFile(io.BytesIO(files[0].read_bytes()))

            waiting = asyncio.create_task(service.predict([upload(), upload()]))
            async with asyncio.timeout(limit(30)):
                while service._pending < 2:
                    await asyncio.sleep(0)
            with pytest.raises(HTTPException, match="busy"):
                await service.explain(upload())
            gate.set()
            assert len((await waiting).images) == 2
            await service.explain(upload())
            await service.ping()

    asyncio.run(main())
