"""From the bytes that came in to what is answered, whatever the route."""

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alzmri import params, terminal
from alzmri.data.images import Unreadable
from alzmri.data.prepared import Prepared
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference import explain, ventricles, volumes
from alzmri.inference.engine import Engine
from alzmri.inference.predictor import Predictor, interpret
from alzmri.inference.server import exported, reference
from alzmri.inference.server.answers import (
    CameTrue,
    Chosen,
    Explained,
    Judged,
    Nearest,
    Refusal,
    Slice,
    Slices,
    Volume,
)
from alzmri.inference.server.batching import Batcher, Overloaded
from alzmri.inference.server.limits import BUSY, Limits
from alzmri.inference.server.telemetry import Metrics

BATCH = 32
"""Images in one run: larger ones are no faster on a CPU and make the others wait."""

VOLUME_SLICES = 6
"""Of a volume, as `alzmri predict` takes."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Loaded:
    """What is read once at the start.

    Attributes:
        reference: what the model makes of known slices; None when there are none,
        absent: for this reason.
    """

    folder: Path
    predictor: Predictor
    engine: Engine
    reference: reference.Reference | None
    absent: str | None


def load(folder: Path, threads: int) -> Loaded:
    """Load the model in ``folder`` and compare it with the prepared data, if they are its own.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    predictor = Predictor.load(folder)
    session = exported.load(folder, predictor, threads)
    try:
        prepared = Prepared.open(params.load())
        if prepared.digest != predictor.card.data_sha256:
            raise UserError("data/prepared is not what the model was trained on")
    except UserError as error:
        return Loaded(folder, predictor, session, None, str(error))
    kept = exported.cache(folder) / "reference.npz"
    with terminal.progress("comparing with known slices") as update:
        known = reference.make(prepared, session, predictor.card.temperature, kept, update)
    return Loaded(folder, predictor, session, known, None)


class Service:
    """Answers for as long as :meth:`running` lasts."""

    def __init__(self, loaded: Loaded, limits: Limits, metrics: Metrics, threads: int) -> None:
        self.loaded, self._limits, self._metrics = loaded, limits, metrics
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start and stop the threads."""
        batcher = Batcher(
            self._run,
            batch=BATCH,
            capacity=self._limits.queue,
            ran=self._metrics.batches.observe,
        )
        self._metrics.waiting.set_function(lambda: batcher.waiting)
        async with batcher:
            self._batcher = batcher
            yield
        self._decoding.shutdown()
        self._explaining.shutdown()

    async def one(self, content: bytes) -> Slice:
        """The answer to one image file."""
        judged, _, _ = await self._judge(await self._prepare([content]))
        return Slice(**judged[0].model_dump())

    async def many(self, contents: Sequence[bytes]) -> Slices:
        """The answer to several image files."""
        if len(contents) > self._limits.images:
            raise Refusal(413, f"more than {self._limits.images} images: send fewer at a time")
        judged, probabilities, _ = await self._judge(await self._prepare(contents))
        inside = [answer.in_scope for answer in judged]
        mean = self._by_class(probabilities[inside].mean(axis=0)) if any(inside) else None
        return Slices(images=judged, mean=mean)

    async def slices_of(self, content: bytes, name: str) -> Volume:
        """The slices of a NIfTI volume that the model judges; ``name`` tells the format."""
        loop = asyncio.get_running_loop()
        chosen = await loop.run_in_executor(self._explaining, self._choose, content, name)
        return Volume(slices=[Chosen(depth=depth, slice=_png(image)) for depth, image in chosen])

    async def explain(self, content: bytes) -> Explained:
        """The answer to one image file, with all that is known about it."""
        images = await self._prepare([content])
        (judged,), probabilities, features = await self._judge(images)
        heat = await asyncio.get_running_loop().run_in_executor(
            self._explaining, self._heat, images[0], int(probabilities[0].argmax())
        )
        known, classes = self.loaded.reference, self.loaded.predictor.classes
        calibration = nearest = None
        if known and judged.in_scope:
            observed = known.observed(probabilities[0])
            calibration = {
                name: CameTrue(**asdict(value))
                for name, value in zip(classes, observed, strict=True)
            }
        if known:
            found = known.nearest(features[0])
            nearest = Nearest(
                classes=[classes[label] for label in found.labels],
                similarity=found.similarity,
                people=found.people,
            )
        return Explained(
            **judged.model_dump(),
            slice=_png(images[0]),
            heat=heat,
            calibration=calibration,
            nearest=nearest,
        )

    async def _prepare(self, contents: Sequence[bytes]) -> Pixels:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoding, self._decode, contents)

    def _decode(self, contents: Sequence[bytes]) -> Pixels:
        prepared = []
        for number, content in enumerate(contents, start=1):
            try:
                prepared.append(self.loaded.predictor.prepare(content))
            except UserError as error:
                which = f"image {number}" if len(contents) > 1 else "the image"
                reason = str(error).removeprefix("the image: ")
                raise Refusal(400, f"{which} cannot be used: {reason}") from None
        return np.stack(prepared)

    def _run(self, images: Pixels) -> tuple[NDArray[Any], ...]:
        """One batch, in the model's thread."""
        logits, features = self.loaded.engine.run(images)
        predictor = self.loaded.predictor
        found = interpret(logits, features, predictor.card, predictor.scope)
        return found.probabilities, found.scope, found.in_scope, features

    async def _judge(self, images: Pixels) -> tuple[list[Judged], NDArray[Any], NDArray[Any]]:
        """The answers, and the probabilities and features that belong to them."""
        try:
            probabilities, scope, in_scope, features = await self._batcher.submit(images)
        except Overloaded:
            raise BUSY from None
        judged = [
            Judged(
                predicted=self.loaded.predictor.classes[int(row.argmax())] if inside else None,
                probabilities=self._by_class(row),
                in_scope=bool(inside),
                scope=float(score),
            )
            for row, inside, score in zip(probabilities, in_scope, scope, strict=True)
        ]
        for answer in judged:
            self._metrics.predictions.labels(answer.predicted or "out of scope").inc()
        return judged, probabilities, features

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(self.loaded.predictor.classes, values.tolist(), strict=True))

    def _heat(self, image: Pixels, label: int) -> str | None:
        """The slice with the evidence for class ``label`` over it; None without the packages."""
        try:
            evidence = explain.grad_cam(self.loaded.predictor, image[None], np.array([label]))
        except EnvironmentFault:
            return None
        return _png(cv2.cvtColor(explain.overlay(image, evidence[0]), cv2.COLOR_RGB2BGR))

    def _choose(self, content: bytes, name: str) -> list[tuple[int, Pixels]]:
        suffix = ".nii.gz" if name.lower().endswith(".gz") else ".nii"
        # The reader of NIfTI wants a file, and goes by the end of its name.
        with tempfile.NamedTemporaryFile(suffix=suffix) as file:
            file.write(content)
            file.flush()
            try:
                chosen = ventricles.choose(volumes.read_nifti(Path(file.name)), VOLUME_SLICES)
            except (Unreadable, EnvironmentFault) as error:
                reason = str(error).replace(file.name, "the file")
                raise Refusal(400, f"the volume cannot be used: {reason}") from None
        preprocessing = self.loaded.predictor.preprocessing
        return [(found.depth, preprocessing(found.pixels)) for found in chosen]


def _png(image: Pixels) -> str:
    """A PNG of uint8 ``[side, side]`` or BGR ``[side, side, 3]`` as a data URL."""
    _, content = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()
