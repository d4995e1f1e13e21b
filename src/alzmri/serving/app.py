"""The routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, File, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from markdown_it import MarkdownIt
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route

from alzmri import __version__, registry
from alzmri.inference import NOTICE
from alzmri.serving.answers import (
    ExplainAnswer,
    ModelAnswer,
    SliceAnswer,
    SlicesAnswer,
    VolumeAnswer,
    document,
    refusal,
)
from alzmri.serving.middleware import LOOPBACK, Bounded, Limits, Observed
from alzmri.serving.model_service import Loaded, ModelService

PAGE = Path(__file__).parent / "page"
_BINARY = {
    "requestBody": {
        "required": True,
        "content": {kind: {} for kind in ("image/jpeg", "image/png", "application/octet-stream")},
    }
}
_REFUSED = document(400, 408, 413, 415, 422, 503)
_READ = document(400)  # on the loopback, a request that names another host


def create(loaded: Loaded, host: str, limits: Limits, threads: int) -> FastAPI:
    """The application; ``host`` is the address that it will be bound to."""
    service = ModelService(loaded, limits, threads)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPIOffline(
        title="alzmri",
        version=__version__,
        description=NOTICE,
        redoc_url=None,
        lifespan=lifespan,
        static_url="/docs-static",
    )
    about = _about(loaded)
    routes: set[str] = set()
    # What is added last sees a request first.
    app.add_middleware(Bounded, limits=limits, loopback=host in LOOPBACK)
    app.add_middleware(Observed, routes=routes)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def misformed(request: Request, _: RequestValidationError) -> Response:
        field = {"/explain": "image", "/volume": "volume"}.get(request.url.path, "images")
        reason = f"send files as multipart/form-data, in the field `{field}`"
        return refusal(HTTPException(422, reason))

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return refusal(HTTPException(500, "the server failed; its log says why"))

    @app.get("/ping", responses=document(400, 503))
    async def ping() -> dict[str, str]:
        """For SageMaker and load balancers: 200 when the model has just answered, or else 503."""
        await service.ping()
        return {"status": "ok", "notice": NOTICE}

    @app.post("/invocations", openapi_extra=_BINARY, responses=_REFUSED)
    async def invocations(request: Request) -> SliceAnswer:
        """One image file as the body: what a SageMaker endpoint sends."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind.startswith("image/") or kind == "application/octet-stream"):
            raise HTTPException(415, "send an image file as the body, as image/jpeg or image/png")
        return await service.one(await request.body())

    @app.post("/predict", responses=_REFUSED)
    async def predict(images: Annotated[list[UploadFile], File(min_length=1)]) -> SlicesAnswer:
        """One or many image files, as a form with a field `images` for each."""
        return await service.many([await image.read() for image in images])

    @app.post("/explain", responses=_REFUSED)
    async def explain(image: Annotated[UploadFile, File()]) -> ExplainAnswer:
        """One image file: where the model looked, and what is known of similar slices."""
        return await service.explain(await image.read())

    @app.post("/volume", responses=_REFUSED)
    async def volume(volume: Annotated[UploadFile, File()]) -> VolumeAnswer:
        """A volume (.nii, .nii.gz, .mgz): the slices that the model was made for."""
        return await service.slices_of(await volume.read())

    @app.get("/model", responses=_READ)
    async def model() -> ModelAnswer:
        """Which model answers, and its card."""
        return about

    @app.get("/metrics", response_class=Response, responses=_READ)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    routes |= {route.path for route in app.routes if isinstance(route, Route)}
    return app


def _about(loaded: Loaded) -> ModelAnswer:
    card = loaded.predictor.card
    path = loaded.folder / "MODEL_CARD.md"
    text = "No model card here."
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n"):  # the YAML head is for programs
            text = text.partition("\n---\n")[2]
    if version := registry.version(loaded.folder):
        text = f"Registered as `{version}`.\n\n{text}"
    # No HTML of the card's own reaches the page.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    return ModelAnswer(
        name=card.architecture["name"],
        classes=card.classes,
        image_size=card.architecture["image_size"],
        weights=loaded.predictor.detector.weights,
        simulated=card.parameters["data"]["source"] == "phantom",
        leaks=card.parameters["split"]["unit"] == "slice",
        reference=loaded.absent,
        card=markdown.render(text),
    )
