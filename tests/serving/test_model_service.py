"""The service answers with the model that is there, says when it cannot, and takes no more."""

import asyncio
import io

import numpy as np
import onnx
import pytest
from fastapi import UploadFile
from starlette.exceptions import HTTPException

from alzmri.inference.predictor import Predictor
from alzmri.serving.middleware import Limits
from alzmri.serving.model_service import ModelService, _engine, load


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
            async with asyncio.timeout(30):
                while service._pending < 2:
                    await asyncio.sleep(0)
            with pytest.raises(HTTPException, match="busy"):
                await service.explain(upload())
            gate.set()
            assert len((await waiting).images) == 2
            await service.explain(upload())
            await service.ping()

    asyncio.run(main())


def test_an_exported_model_that_says_something_else_is_not_used(workplace, servers, tmp_path):
    (kept,) = (workplace / "cache").rglob("model.onnx")
    predictor = Predictor.load(workplace / "models")
    changed = onnx.load(kept)
    for weights in changed.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            weights.CopyFrom(onnx.numpy_helper.from_array(1.01 * values, weights.name))
    given = tmp_path / "model.onnx"
    for content, used in (
        (kept.read_bytes(), given),
        (kept.read_bytes()[:1000], kept),
        (changed.SerializeToString(), kept),
    ):
        given.write_bytes(content)
        assert _engine(tmp_path, kept, predictor, 1).path == used
