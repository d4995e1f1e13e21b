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
class Found:
    """What the model says of one image.

    Attributes:
        image: what it saw, uint8 ``[side, side]``.
        probabilities: calibrated, float64 ``[classes]``.
        scope: how unlike the training slices; above 1 is out of scope.
        features: float32 ``[width]``.
    """

    image: Pixels
    probabilities: NDArray[np.float64]
    scope: float
    features: NDArray[np.float32]

    @property
    def in_scope(self) -> bool:
        """Whether the probabilities mean anything."""
        return self.scope <= 1


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
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start and stop the threads."""
        batcher: Batcher[bytes, Found | UserError] = Batcher(
            self._run, threads=self._threads, batch=BATCH, capacity=self._limits.queue
        )
        self._metrics.waiting.set_function(lambda: batcher.waiting)
        async with batcher:
            self._batcher = batcher
            yield
        self._explaining.shutdown()

    async def one(self, content: bytes) -> Slice:
        """The answer to one image file."""
        (found,) = await self._find([content])
        return Slice(**self._judged(found))

    async def many(self, contents: Sequence[bytes]) -> Slices:
        """The answer to several image files."""
        if len(contents) > self._limits.images:
            raise Refusal(413, f"more than {self._limits.images} images: send fewer at a time")
        found = await self._find(contents)
        inside = [one.probabilities for one in found if one.in_scope]
        mean = self._by_class(np.mean(inside, axis=0)) if inside else None
        return Slices(images=[Judged(**self._judged(one)) for one in found], mean=mean)

    async def slices_of(self, content: bytes, name: str) -> Volume:
        """The slices of a NIfTI volume that the model judges; ``name`` tells the format."""
        loop = asyncio.get_running_loop()
        chosen = await loop.run_in_executor(self._explaining, self._choose, content, name)
        return Volume(slices=[Chosen(depth=depth, slice=_png(image)) for depth, image in chosen])

    async def explain(self, content: bytes) -> Explained:
        """The answer to one image file, with all that is known about it."""
        (found,) = await self._find([content])
        heat = await asyncio.get_running_loop().run_in_executor(
            self._explaining, self._heat, found.image, int(found.probabilities.argmax())
        )
        known, classes = self.loaded.reference, self.loaded.predictor.classes
        calibration = nearest = None
        if known and found.in_scope:
            observed = known.observed(found.probabilities)
            calibration = {
                name: CameTrue(**asdict(value))
                for name, value in zip(classes, observed, strict=True)
            }
        if known:
            neighbours = known.nearest(found.features)
            nearest = Nearest(
                classes=[classes[label] for label in neighbours.labels],
                similarity=neighbours.similarity,
                people=neighbours.people,
            )
        return Explained(
            **self._judged(found),
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
        try:
            answers = await self._batcher.submit(contents)
        except Overloaded:
            raise BUSY from None
        for number, answer in enumerate(answers, start=1):
            if isinstance(answer, UserError):
                which = f"image {number}" if len(contents) > 1 else "the image"
                reason = str(answer).removeprefix("the image: ")
                raise Refusal(400, f"{which} cannot be used: {reason}")
        return [answer for answer in answers if isinstance(answer, Found)]

    def _run(self, contents: Sequence[bytes], threads: int) -> Sequence[Found | UserError]:
        """One batch, in a thread of the batcher: a file that cannot be used costs only itself."""
        predictor = self.loaded.predictor
        images: list[Pixels | UserError] = []
        for content in contents:
            try:
                images.append(predictor.prepare(content))
            except UserError as error:
                images.append(error)
        usable = [image for image in images if not isinstance(image, UserError)]
        if not usable:
            return [image for image in images if isinstance(image, UserError)]
        engine = self.loaded.narrow if threads == 1 else self.loaded.engine
        logits, features = engine.run(np.stack(usable))
        self._metrics.batches.observe(len(usable))
        said = interpret(logits, features, predictor.card, predictor.detector)
        rows = iter(zip(said.probabilities, said.scope.tolist(), features, strict=True))
        return [
            image if isinstance(image, UserError) else Found(image, *next(rows)) for image in images
        ]

    def _judged(self, found: Found) -> dict[str, Any]:
        """The fields of :class:`answers.Judged`; counts the prediction."""
        classes = self.loaded.predictor.classes
        predicted = classes[int(found.probabilities.argmax())] if found.in_scope else None
        self._metrics.predictions.labels(predicted or "out of scope").inc()
        return {
            "predicted": predicted,
            "probabilities": self._by_class(found.probabilities),
            "in_scope": found.in_scope,
            "scope": found.scope,
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
