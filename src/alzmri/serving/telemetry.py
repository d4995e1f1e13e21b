"""What the operator sees: a JSON line for each request, and metrics for Prometheus.

Neither holds what was sent: no pixels, no file names, no paths but those that exist here.
"""

import itertools
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("alzmri.serve")

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)
GONE = 499
"""Instead of a status: the client went away before its request was there. No fault of ours."""


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "alzmri_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "alzmri_request_seconds",
            "From the request's head to the end of the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "alzmri_batch_images",
            "Images that went through the model together.",
            buckets=_IMAGES,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "alzmri_waiting_images", "Images that wait for the model.", registry=self.registry
        )
        self.predictions = Counter(
            "alzmri_predictions",
            "Images by predicted class, or out of distribution.",
            ["predicted"],
            registry=self.registry,
        )


class Observed:
    """ASGI middleware: counts, times and logs every request, and gives each answer its headers.

    Args:
        headers: those of a route, names in lower case; an answer's own win.
        routes: paths that exist: one as it was asked for might hold a name.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        headers: Callable[[str], Sequence[tuple[bytes, bytes]]],
        routes: Collection[str],
    ) -> None:
        self._app, self._metrics, self._headers = app, metrics, headers
        self._routes = routes
        self._start, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        identity = f"{self._start}-{next(self._numbers)}"
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = GONE

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                added = (pair for pair in self._headers(route) if pair[0] not in own)
                identified = (b"x-request-id", identity.encode())
                message["headers"] = [*message["headers"], identified, *added]
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception:
            status = 500  # answered further out
            raise
        finally:
            seconds = time.perf_counter() - begin
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            log.info(
                "request",
                extra={
                    "fields": {
                        "id": identity,
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "ms": round(seconds * 1000, 2),
                    }
                },
            )


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)


def start_logging() -> None:
    """Send this server's lines, and uvicorn's warnings, to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    levels = {
        "alzmri.serve": logging.INFO,
        "uvicorn.error": logging.WARNING,
        # Quotes what was sent; the answer says what is wrong with it.
        "python_multipart": logging.CRITICAL,
    }
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
