"""The web application: routes, their answers and documentation, the page."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
from fastapi import FastAPI, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route

from alzmri import __version__, git
from alzmri.data.images import Pixels, Unreadable
from alzmri.inference import NOTICE, explain
from alzmri.inference.predictor import interpret
from alzmri.serving import answers, workers
from alzmri.serving.loaded_model import LoadedModel
from alzmri.serving.middleware import LOOPBACK, Limits, RequestGuard

BATCH = 32  # images per run: larger runs are not faster on a CPU, and let others wait
PAGE = Path(__file__).parent / "page"
_KINDS = ("image/jpeg", "image/png", "application/octet-stream")
_BINARY = {"requestBody": {"required": True, "content": {kind: {} for kind in _KINDS}}}
_PROBLEM: dict[str, Any] = {"model": answers.Problem}
_REFUSED: dict[int | str, Any] = dict.fromkeys((408, 413, 415, 422, 503), _PROBLEM)


class ImageResult(NamedTuple):
    """The model's outputs for one image."""

    image: Pixels  # the model's input, [side, side]
    probabilities: NDArray[np.float64]  # calibrated, [classes]
    features: NDArray[np.float32]  # [width]
    said: dict[str, Any]  # the fields of answers.PredictedSlice


class ModelService:
    """Answers requests within :meth:`running`. OpenAPI shows the docstrings of routes."""

    def __init__(self, loaded: LoadedModel, limits: Limits, threads: int) -> None:
        self.loaded, self._limits, self._threads = loaded, limits, threads
        self._pending = 0
        predictor = loaded.predictor
        self._shape = predictor.side, predictor.card.preprocessing["fit"]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the threads and processes; stop them at the end."""
        limits, threads = self._limits, self._threads
        self._batcher = workers.Batcher(self._run, threads=threads, batch=BATCH)
        self._images = workers.ProcessReader(threads, limits.queue, limits.decoding)
        self._volumes = workers.ProcessReader(1, limits.volumes, limits.reading, each=1)
        with ThreadPoolExecutor(threads) as self._decoding, ThreadPoolExecutor(1) as self._heating:
            yield
            self._batcher.close()
        self._images.close()
        self._volumes.close()

    async def ping(self) -> dict[str, str]:
        """For SageMaker and load balancers: 200 if the model answers now, else 503."""
        side, _ = self._shape
        if not (self._images.active and self._volumes.active):
            raise HTTPException(503, "a process that reads files was killed: restart the server")
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
        return answers.SliceAnswer(**found.said)

    async def predict(
        self, images: Annotated[list[UploadFile], File(min_length=1)]
    ) -> answers.SlicesAnswer:
        """One or many image files, as a form with a field `images` for each."""
        if len(images) > (limit := self._limits.images):
            raise HTTPException(413, f"more than {limit} images: send fewer at a time")
        found = await self._find([await image.read() for image in images])
        inside = [one.probabilities for one in found if one.said["in_distribution"]]
        mean = None
        if inside:
            classes = self.loaded.predictor.classes
            mean = dict(zip(classes, np.mean(inside, axis=0).tolist(), strict=True))
        return answers.SlicesAnswer(
            images=[answers.PredictedSlice(**one.said) for one in found], mean=mean
        )

    async def volume(self, volume: Annotated[UploadFile, File()]) -> answers.VolumeAnswer:
        """A volume (.nii, .nii.gz, .mgz); returns its slices around the ventricles."""
        content = await volume.read()
        try:
            chosen = await self._volumes.run(workers.volume, content, *self._shape)
        except Unreadable as error:
            raise HTTPException(400, f"the volume cannot be used: {error}") from None
        slices = [answers.VolumeSlice(depth=depth, slice=_png(image)) for depth, image in chosen]
        return answers.VolumeAnswer(slices=slices)

    async def explain(self, image: Annotated[UploadFile, File()]) -> answers.ExplainAnswer:
        """One image file; returns where the model looked, and similar known slices."""
        (found,) = await self._find([await image.read()])
        heat = await asyncio.get_running_loop().run_in_executor(self._heating, self._heat, found)
        known = self.loaded.known
        sure = known if found.said["in_distribution"] else None
        return answers.ExplainAnswer(
            **found.said,
            slice=_png(found.image),
            heat=heat,
            calibration=sure.observed(found.probabilities) if sure else None,
            nearest=known.nearest(found.features) if known else None,
        )

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
        asked, loop = (content, *self._shape), asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._decoding, workers.quick_image, *asked)
            return found if found is not None else await self._images.run(workers.image, *asked)
        except Unreadable as error:
            raise HTTPException(400, f"{name} cannot be used: {error}") from None

    def _run(self, images: Sequence[Pixels], threads: int) -> Sequence[ImageResult]:
        predictor = self.loaded.predictor
        engine = self.loaded.narrow if threads == 1 else self.loaded.engine
        logits, features = engine.run(np.stack(images))
        found = interpret(logits, features, predictor.card, predictor.detector)
        said = found.described(predictor.classes)
        rows = zip(images, found.probabilities, features, said, strict=True)
        return [ImageResult(*row) for row in rows]

    def _heat(self, found: ImageResult) -> str:
        best = np.array([found.probabilities.argmax()])
        (evidence,) = explain.grad_cam(self.loaded.predictor, found.image[None], best)
        return _png(cv2.cvtColor(explain.overlay(found.image, evidence), cv2.COLOR_RGB2BGR))


def _png(image: Pixels) -> str:
    """A PNG of uint8 ``[side, side]`` or BGR ``[side, side, 3]`` as a data URL."""
    _, content = cv2.imencode(".png", image)
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode()


def create(loaded: LoadedModel, host: str, limits: Limits, threads: int) -> FastAPI:
    """The application; ``host`` is the address that the server listens on."""
    service = ModelService(loaded, limits, threads)
    app = FastAPIOffline(
        title="alzmri",
        version=__version__,
        description=NOTICE,
        redoc_url=None,
        lifespan=lambda _: service.running(),
        static_url="/docs-static",
        responses={400: _PROBLEM},  # also when a request to the loopback names another host
    )
    about = _about(loaded)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return answers.refusal(error)

    @app.exception_handler(RequestValidationError)
    async def misformed(request: Request, _: RequestValidationError) -> Response:
        field = {"/explain": "image", "/volume": "volume"}.get(request.url.path, "images")
        reason = f"send files as multipart/form-data, in the field `{field}`"
        return answers.refusal(HTTPException(422, reason))

    app.get("/ping", responses={503: _PROBLEM})(service.ping)
    app.post("/invocations", openapi_extra=_BINARY, responses=_REFUSED)(service.invocations)
    for endpoint in (service.predict, service.explain, service.volume):
        app.post(f"/{endpoint.__name__}", responses=_REFUSED)(endpoint)

    @app.get("/model")
    async def model() -> answers.ModelAnswer:
        """The served model and its card."""
        return about

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    routes = {route.path for route in app.routes if isinstance(route, Route)}
    loopback = host in LOOPBACK
    app.add_middleware(RequestGuard, limits=limits, routes=routes, loopback=loopback)
    return app


def _about(loaded: LoadedModel) -> answers.ModelAnswer:
    card, path = loaded.predictor.card, loaded.folder / "MODEL_CARD.md"
    text = "No model card here."
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n"):  # the YAML head is for programs
            text = text.partition("\n---\n")[2]
    if version := git.version(loaded.folder):
        text = f"Registered as `{version}`.\n\n{text}"
    # HTML in the card does not reach the page.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    return answers.ModelAnswer(
        name=card.architecture["name"],
        classes=card.classes,
        image_size=card.architecture["image_size"],
        weights=loaded.predictor.detector.weights,
        simulated=card.parameters["data"]["source"] == "phantom",
        leaks=bool(loaded.leaks),
        reference=loaded.absent,
        card=markdown.render(text),
    )
