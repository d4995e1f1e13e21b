"""From the bytes that came in to what is answered, whatever the route."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alzmri import params, terminal
from alzmri.data.images import Unreadable
from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import explain
from alzmri.inference.engine import Engine
from alzmri.inference.predictor import Predictor, interpret
from alzmri.serving import exported, reading, reference
from alzmri.serving.answers import (
    Chosen,
    Explained,
    Predicted,
    Refusal,
    Slice,
    Slices,
    Volume,
    busy,
)
from alzmri.serving.batching import Batcher
from alzmri.serving.limits import Limits
from alzmri.serving.telemetry import Metrics

BATCH = 32
"""Images in one run: larger ones are no faster on a CPU and make the others wait."""

VOLUME_SLICES = 6
"""Of a volume, as `alzmri predict` takes."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Found:
    """What the model says of one image.

    Attributes:
        image: what it saw, uint8 ``[side, side]``.
        probabilities: calibrated, float64 ``[classes]``.
        ood_score: how unlike the training slices; above 1 is out of distribution.
        features: float32 ``[width]``.
    """

    image: Pixels
    probabilities: NDArray[np.float64]
    ood_score: float
    features: NDArray[np.float32]

    @property
    def in_distribution(self) -> bool:
        """Whether the probabilities mean anything."""
        return self.ood_score <= 1


@dataclass(frozen=True)
class Loaded:
    """What is read once at the start.

    Attributes:
        engine: the model, with all threads for one batch.
        narrow: the same with one thread.
        reference: what the model makes of known slices; None when there are none,
        absent: for this reason.
    """

    folder: Path
    predictor: Predictor
    engine: Engine
    narrow: Engine
    reference: reference.Reference | None
    absent: str | None


def load(folder: Path, threads: int) -> Loaded:
    """Load the model in ``folder`` and compare it with the prepared data, if they are its own.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    predictor = Predictor.load(folder)
    with exported.alone(folder):
        engine = exported.load(folder, predictor, threads)
        narrow = engine if threads == 1 else Engine.load(engine.path, 1)
        try:
            prepared = Prepared.open(params.load())
            if prepared.digest != predictor.card.data_sha256:
                raise UserError("data/prepared is not what the model was trained on")
        except UserError as error:
            return Loaded(folder, predictor, engine, narrow, None, str(error))
        kept = exported.cache(folder) / "reference.npz"
        with terminal.progress("comparing with known slices") as update:
            known = reference.make(prepared, engine, predictor.card.temperature, kept, update)
    return Loaded(folder, predictor, engine, narrow, known, None)


class Service:
    """Answers for as long as :meth:`running` lasts."""

    def __init__(self, loaded: Loaded, limits: Limits, metrics: Metrics, threads: int) -> None:
        self.loaded, self._limits, self._metrics = loaded, limits, metrics
        self._threads = threads
        self._pending = 0
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")
        preprocessing = loaded.predictor.preprocessing
        self._shape = preprocessing.image_size, preprocessing.fit
        self._images = reading.Reader(threads, limits.queue, limits.decoding)
        self._volumes = reading.Reader(1, limits.volumes, limits.reading)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start and stop the threads and the processes."""
        batcher: Batcher[Pixels, Found] = Batcher(self._run, threads=self._threads, batch=BATCH)
        self._batcher = batcher
        self._metrics.waiting.set_function(lambda: batcher.waiting)
        yield
        batcher.close()
        self._explaining.shutdown()
        self._decoding.shutdown()
        self._images.close()
        self._volumes.close()

    async def ping(self) -> None:
        """Have the model answer.

        Raises:
            Refusal: it does not, for now.
        """
        side, _ = self._shape
        try:
            async with asyncio.timeout(self._limits.ping):
                await self._batcher.submit([np.zeros((side, side), np.uint8)])
        except TimeoutError:
            raise busy() from None

    async def one(self, content: bytes) -> Slice:
        """The answer to one image file."""
        (found,) = await self._find([content])
        return Slice(**self._predicted(found))

    async def many(self, contents: Sequence[bytes]) -> Slices:
        """The answer to several image files."""
        if len(contents) > self._limits.images:
            raise Refusal(413, f"more than {self._limits.images} images: send fewer at a time")
        found = await self._find(contents)
        inside = [one.probabilities for one in found if one.in_distribution]
        mean = self._by_class(np.mean(inside, axis=0)) if inside else None
        return Slices(images=[Predicted(**self._predicted(one)) for one in found], mean=mean)

    async def slices_of(self, content: bytes) -> Volume:
        """The slices of a volume that the model was made for."""
        try:
            chosen = await self._volumes.run(reading.volume, content, VOLUME_SLICES, *self._shape)
        except (Unreadable, EnvironmentFault) as error:
            raise Refusal(400, f"the volume cannot be used: {error}") from None
        return Volume(slices=[Chosen(depth=depth, slice=_png(image)) for depth, image in chosen])

    async def explain(self, content: bytes) -> Explained:
        """The answer to one image file, with all that is known about it."""
        (found,) = await self._find([content])
        heat = await asyncio.get_running_loop().run_in_executor(
            self._explaining, self._heat, found.image, int(found.probabilities.argmax())
        )
        known, classes = self.loaded.reference, self.loaded.predictor.classes
        calibration = nearest = None
        if known:
            nearest = known.nearest(found.features, classes)
            if found.in_distribution:
                calibration = known.observed(found.probabilities, classes)
        return Explained(
            **self._predicted(found),
            slice=_png(found.image),
            heat=heat,
            calibration=calibration,
            nearest=nearest,
        )

    async def _find(self, contents: Sequence[bytes]) -> Sequence[Found]:
        """What the model says of each image file.

        Raises:
            Refusal: one of them cannot be used, or too many wait.
        """
        if self._pending + len(contents) > self._limits.queue:
            raise busy()
        self._pending += len(contents)
        try:
            tasks = [asyncio.ensure_future(self._decoded(content)) for content in contents]
            for number, image in enumerate(
                await asyncio.gather(*tasks, return_exceptions=True), start=1
            ):
                if isinstance(image, Unreadable):
                    which = f"image {number}" if len(contents) > 1 else "the image"
                    raise Refusal(400, f"{which} cannot be used: {image}")
                if isinstance(image, BaseException):
                    raise image
            return await self._batcher.submit([task.result() for task in tasks])
        finally:
            self._pending -= len(contents)

    async def _decoded(self, content: bytes) -> Pixels:
        """The model's view of an image file, uint8 ``[side, side]``."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._decoding, reading.quick_image, content, *self._shape
        )
        if found is None:
            found = await self._images.run(reading.image, content, *self._shape)
        return found

    def _run(self, images: Sequence[Pixels], threads: int) -> Sequence[Found]:
        """One batch, in a thread of the batcher."""
        predictor = self.loaded.predictor
        engine = self.loaded.narrow if threads == 1 else self.loaded.engine
        logits, features = engine.run(np.stack(images))
        self._metrics.batches.observe(len(images))
        said = interpret(logits, features, predictor.card, predictor.detector)
        rows = zip(images, said.probabilities, said.ood_score.tolist(), features, strict=True)
        return [Found(*row) for row in rows]

    def _predicted(self, found: Found) -> dict[str, Any]:
        """The fields of :class:`answers.Predicted`; counts the prediction."""
        classes = self.loaded.predictor.classes
        predicted = classes[int(found.probabilities.argmax())] if found.in_distribution else None
        self._metrics.predictions.labels(predicted or "out of distribution").inc()
        return {
            "predicted": predicted,
            "probabilities": self._by_class(found.probabilities),
            "in_distribution": found.in_distribution,
            "ood_score": found.ood_score,
        }

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.loaded.predictor.classes, values.tolist(), strict=True))

    def _heat(self, image: Pixels, label: int) -> str | None:
        """The slice with the evidence for class ``label`` over it; None without the packages."""
        try:
            evidence = explain.grad_cam(self.loaded.predictor, image[None], np.array([label]))
        except EnvironmentFault:
            return None
        return _png(cv2.cvtColor(explain.overlay(image, evidence[0]), cv2.COLOR_RGB2BGR))


def _png(image: Pixels) -> str:
    """A PNG of uint8 ``[side, side]`` or BGR ``[side, side, 3]`` as a data URL."""
    _, content = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()
