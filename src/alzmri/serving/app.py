"""The web application: routes, their documentation, the page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from markdown_it import MarkdownIt
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Route

from alzmri import __version__, git
from alzmri.inference import NOTICE
from alzmri.serving.answers import ModelAnswer, document, refusal
from alzmri.serving.middleware import LOOPBACK, Limits, RequestGuard
from alzmri.serving.model_service import LoadedModel, ModelService

PAGE = Path(__file__).parent / "page"
_BINARY = {
    "requestBody": {
        "required": True,
        "content": {kind: {} for kind in ("image/jpeg", "image/png", "application/octet-stream")},
    }
}
_REFUSED = document(400, 408, 413, 415, 422, 503)
_READ = document(400)  # for a request to the loopback that names another host


def create(loaded: LoadedModel, host: str, limits: Limits, threads: int) -> FastAPI:
    """The application; ``host`` is the address that the server listens on."""
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
    loopback = host in LOOPBACK
    app.add_middleware(RequestGuard, limits=limits, routes=routes, loopback=loopback)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def misformed(request: Request, _: RequestValidationError) -> Response:
        field = {"/explain": "image", "/volume": "volume"}.get(request.url.path, "images")
        reason = f"send files as multipart/form-data, in the field `{field}`"
        return refusal(HTTPException(422, reason))

    app.get("/ping", responses=document(400, 503))(service.ping)
    app.post("/invocations", openapi_extra=_BINARY, responses=_REFUSED)(service.invocations)
    for endpoint in (service.predict, service.explain, service.volume):
        app.post(f"/{endpoint.__name__}", responses=_REFUSED)(endpoint)

    @app.get("/model", responses=_READ)
    async def model() -> ModelAnswer:
        """The served model and its card."""
        return about

    @app.get("/metrics", response_class=Response, responses=_READ)
    async def prometheus() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    routes |= {route.path for route in app.routes if isinstance(route, Route)}
    return app


def _about(loaded: LoadedModel) -> ModelAnswer:
    card = loaded.predictor.card
    path = loaded.folder / "MODEL_CARD.md"
    text = "No model card here."
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n"):  # the YAML head is for programs
            text = text.partition("\n---\n")[2]
    if version := git.version(loaded.folder):
        text = f"Registered as `{version}`.\n\n{text}"
    # HTML in the card does not reach the page.
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
