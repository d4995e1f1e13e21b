"""Load the model and answer requests with it; the routes are methods of the service."""

import asyncio
import base64
import hashlib
import multiprocessing
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import File, Request, UploadFile
from filelock import FileLock
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from alzmri import params, terminal
from alzmri.data.images import Pixels, Unreadable
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.inference import NOTICE, explain, onnx_export
from alzmri.inference.onnx_export import Engine
from alzmri.inference.predictor import Predictor, interpret
from alzmri.serving import answers, known_slices, workers
from alzmri.serving.middleware import Limits

BATCH = 32  # images per run: larger runs are not faster on a CPU, and let others wait
VOLUME_SLICES = 6  # slices per volume, as in `alzmri predict`


@dataclass(frozen=True)
class LoadedModel:
    """A model with everything that the server reads once, at its start."""

    folder: Path
    predictor: Predictor
    engine: Engine  # the model, with all threads for one batch
    narrow: Engine  # the same with one thread
    known: known_slices.KnownSlices | None
    absent: str | None  # reason why there are no known slices


def load(folder: Path, threads: int) -> LoadedModel:
    """Load the model in ``folder``, and compute known slices if data/prepared is its own data.

    The user's cache keeps the results. Raises :class:`UserError` without a usable model.
    """
    predictor = Predictor.load(folder)
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alzmri/serve"
    cache = root / hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]
    with ExitStack() as stack:
        # One of several servers that start together computes. A container may be unable to write,
        # and needs no lock.
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(cache / "lock"))
        engine = _engine(folder, cache / "model.onnx", predictor, threads)
        narrow = engine if threads == 1 else Engine(engine.path, 1)
        known = absent = None
        try:
            prepared = Prepared.open(params.load())
            if prepared.digest != predictor.card.data_sha256:
                raise UserError("the model was not trained on this data/prepared")
        except UserError as error:
            absent = str(error)
        else:
            temperature, kept = predictor.card.temperature, cache / "known.npz"
            with terminal.progress("comparing with known slices") as update:
                known = known_slices.compare(prepared, engine, temperature, kept, update)
    return LoadedModel(folder, predictor, engine, narrow, known, absent)


def _engine(folder: Path, kept: Path, predictor: Predictor, threads: int) -> Engine:
    """``folder/model.onnx`` or ``kept`` if it predicts like ``predictor``; else a new export."""
    for path in (folder / "model.onnx", kept):
        with suppress(Exception):  # a damaged file can make the runtime raise anything
            engine = Engine(path, threads)
            same = engine.about["weights"] == predictor.detector.weights
            if same and onnx_export.difference(predictor, engine) < onnx_export.TOLERANCE:
                return engine
    terminal.say(f"exporting the model to {kept} (once for each training)")
    # In another process, because the exporter's modules would stay in the server's memory.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(onnx_export.write, folder, kept).result()
    return Engine(kept, threads)


@dataclass(frozen=True)
class ImageResult:
    """The model's outputs for one image."""

    image: Pixels  # the model's input, [side, side]
    probabilities: NDArray[np.float64]  # calibrated, [classes]
    ood_score: float  # how unlike the training slices; above 1 is out of distribution
    features: NDArray[np.float32]  # [width]

    @property
    def in_distribution(self) -> bool:
        return self.ood_score <= 1


class ModelService:
    """Answers requests within :meth:`running`. OpenAPI shows the docstrings of routes."""

    def __init__(self, loaded: LoadedModel, limits: Limits, threads: int) -> None:
        self.loaded, self._limits, self._threads = loaded, limits, threads
        self._pending = 0
        preprocessing = loaded.predictor.preprocessing
        self._shape = preprocessing.image_size, preprocessing.fit

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the threads and processes; stop them at the end."""
        limits, threads = self._limits, self._threads
        self._batcher = workers.Batcher(self._run, threads=threads, batch=BATCH)
        self._images = workers.ProcessReader(threads, limits.queue, limits.decoding)
        self._volumes = workers.ProcessReader(1, limits.volumes, limits.reading)
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="decode") as self._decoding,
            ThreadPoolExecutor(1, thread_name_prefix="explain") as self._explaining,
        ):
            yield
            self._batcher.close()
        self._images.close()
        self._volumes.close()

    async def ping(self) -> dict[str, str]:
        """For SageMaker and load balancers: 200 if the model answers now, else 503."""
        side, _ = self._shape
        try:
            async with asyncio.timeout(self._limits.ping):
                await self._batcher.submit([np.zeros((side, side), np.uint8)])
        except TimeoutError:
            raise answers.busy() from None
        return {"status": "ok", "notice": NOTICE}

    async def invocations(self, request: Request) -> answers.SliceAnswer:
        """One image file as the body: what a SageMaker endpoint sends."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind.startswith("image/") or kind == "application/octet-stream"):
            raise HTTPException(415, "send an image file as the body, as image/jpeg or image/png")
        (found,) = await self._find([await request.body()])
        return answers.SliceAnswer(**self._said(found))

    async def predict(
        self, images: Annotated[list[UploadFile], File(min_length=1)]
    ) -> answers.SlicesAnswer:
        """One or many image files, as a form with a field `images` for each."""
        if len(images) > self._limits.images:
            limit = f"{self._limits.images} images"
            raise HTTPException(413, f"more than {limit}: send fewer at a time")
        found = await self._find([await image.read() for image in images])
        inside = [one.probabilities for one in found if one.in_distribution]
        mean = self._by_class(np.mean(inside, axis=0)) if inside else None
        return answers.SlicesAnswer(
            images=[answers.PredictedSlice(**self._said(one)) for one in found], mean=mean
        )

    async def volume(self, volume: Annotated[UploadFile, File()]) -> answers.VolumeAnswer:
        """A volume (.nii, .nii.gz, .mgz); returns its slices around the ventricles."""
        asked = workers.volume, await volume.read(), VOLUME_SLICES, *self._shape
        try:
            chosen = await self._volumes.run(*asked)
        except Unreadable as error:
            raise HTTPException(400, f"the volume cannot be used: {error}") from None
        slices = [answers.VolumeSlice(depth=depth, slice=_png(image)) for depth, image in chosen]
        return answers.VolumeAnswer(slices=slices)

    async def explain(self, image: Annotated[UploadFile, File()]) -> answers.ExplainAnswer:
        """One image file; returns where the model looked, and similar known slices."""
        (found,) = await self._find([await image.read()])
        heat = await asyncio.get_running_loop().run_in_executor(
            self._explaining, self._heat, found.image, int(found.probabilities.argmax())
        )
        calibration = nearest = None
        if known := self.loaded.known:
            classes = self.loaded.predictor.classes
            nearest = known.nearest(found.features, classes)
            if found.in_distribution:
                calibration = known.observed(found.probabilities, classes)
        pictures = {"slice": _png(found.image), "heat": heat}
        said = self._said(found)
        return answers.ExplainAnswer(**said, **pictures, calibration=calibration, nearest=nearest)

    async def _find(self, contents: Sequence[bytes]) -> Sequence[ImageResult]:
        """The result for each image file; raises :class:`HTTPException` if one is unusable."""
        if self._pending + len(contents) > self._limits.queue:
            raise answers.busy()
        self._pending += len(contents)
        try:
            async with asyncio.TaskGroup() as group:
                many = len(contents) > 1
                tasks = [
                    group.create_task(self._decoded(content, f"image {n}" if many else "the image"))
                    for n, content in enumerate(contents, start=1)
                ]
            return await self._batcher.submit([task.result() for task in tasks])
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._pending -= len(contents)

    async def _decoded(self, content: bytes, name: str) -> Pixels:
        """The model's input for an image file, uint8 ``[side, side]``."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._decoding, workers.quick_image, content, *self._shape
            )
            if found is None:
                found = await self._images.run(workers.image, content, *self._shape)
        except Unreadable as error:
            raise HTTPException(400, f"{name} cannot be used: {error}") from None
        return found

    def _run(self, images: Sequence[Pixels], threads: int) -> Sequence[ImageResult]:
        predictor = self.loaded.predictor
        engine = self.loaded.narrow if threads == 1 else self.loaded.engine
        logits, features = engine.run(np.stack(images))
        said = interpret(logits, features, predictor.card, predictor.detector)
        rows = zip(images, said.probabilities, said.ood_score.tolist(), features, strict=True)
        return [ImageResult(*row) for row in rows]

    def _said(self, found: ImageResult) -> dict[str, Any]:
        """The fields of :class:`answers.PredictedSlice`."""
        best = self.loaded.predictor.classes[int(found.probabilities.argmax())]
        return {
            "predicted": best if found.in_distribution else None,
            "probabilities": self._by_class(found.probabilities),
            "in_distribution": found.in_distribution,
            "ood_score": found.ood_score,
        }

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.loaded.predictor.classes, values.tolist(), strict=True))

    def _heat(self, image: Pixels, label: int) -> str:
        (evidence,) = explain.grad_cam(self.loaded.predictor, image[None], np.array([label]))
        return _png(cv2.cvtColor(explain.overlay(image, evidence), cv2.COLOR_RGB2BGR))


def _png(image: Pixels) -> str:
    """A PNG of uint8 ``[side, side]`` or BGR ``[side, side, 3]`` as a data URL."""
    _, content = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()
