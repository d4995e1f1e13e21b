"""Limits for every request, so that no client can stop the server for others; headers; logs.

The JSON log lines and the metrics for Prometheus contain nothing that a client sent.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Histogram
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alzmri.inference import NOTICE
from alzmri.serving.answers import Problem, busy, refusal


@dataclass(frozen=True)
class Limits:
    """Limits, each of which the server enforces before the work that it bounds."""

    body: int = 32 * 2**20  # bytes of one request
    images: int = 64  # of one request
    requests: int = 128  # at a time
    bytes: int = 512 * 2**20  # of all requests together
    queue: int = 256  # images that wait for the model
    volumes: int = 4  # in reading or waiting for it
    seconds: float = 30  # to receive a request, and again to answer it
    decoding: float = 5  # seconds to decode an image
    reading: float = 20  # seconds to read a volume and find its slices
    ping: float = 1.5  # seconds in which a working model answers
    drain: int = 8  # seconds to finish running requests after SIGTERM


HEAD = 2**16  # bytes of a request besides its content: head, trailers, frames of chunks
HEAD_SECONDS = 15  # to receive a head
SLOW = 2**16  # bytes per second: a full server ends requests that arrive slower
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_INLINE = _POLICY.replace("'self';", "'self' 'unsafe-inline';", 2)  # Swagger UI starts by a script
_HEADERS = {  # of every response: no browser or proxy may keep an answer about a subject
    "X-Notice": NOTICE,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_GONE = 499  # status when the client left before its request was complete
SECONDS = Histogram("alzmri_request_seconds", "Requests answered.", ["route", "status"])


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, but with limits for heads, and refusals as JSON."""

    _beside = 0  # bytes of a request that are not its content

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._beside = 0
        self._timer.cancel()
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._timer.cancel()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def _late(self) -> None:
        if self.cycle and not self.cycle.response_complete:  # the answer before comes first
            self._await_head()
        else:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        # Subtract the content and the largest frames of its chunks from the bytes received.
        self._beside -= len(body) + len(body) // 8
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        self._beside += len(data)
        super().data_received(data)
        idle = self.cycle and self.cycle.response_complete and not self.timeout_keep_alive_task
        if idle and self._timer.cancelled():  # this was no head, but ended uvicorn's own timer
            self._await_head()
        if self._beside > HEAD and not self.transport.is_closing():
            limit = f"a request's headers are limited to {HEAD >> 10} KiB"
            self._refuse("431 Request Header Fields Too Large", limit)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - quotes nothing
        self._refuse("400 Bad Request", "this is not an HTTP request")

    def _refuse(self, status: str, reason: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            content = Problem(error=reason).model_dump_json()
            self.transport.write(
                f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n{content}".encode()
            )
        self.transport.close()


class RequestGuard:
    """ASGI middleware that reads a POST whole, within limits, before anything else sees it.

    GET requests do not count, because a busy server must still answer ``/ping``. Requests to the
    ``loopback`` must name it as their host, or a web page could reach the server by a name that
    points at this machine. Only the paths ``routes`` appear in logs and metrics, because another
    path may contain a name.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, routes: Collection[str] = (), loopback: bool = False
    ) -> None:
        self._app, self._limits, self._routes, self._loopback = app, limits, routes, loopback
        self._accepted: dict[asyncio.Timeout, int] = {}  # bytes that each request may have
        self._arriving: dict[asyncio.Timeout, bytearray] = {}
        # Without details, which quote what the client sent.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, now = time.perf_counter(), datetime.now(UTC).isoformat(timespec="milliseconds")
        identity = secrets.token_hex(8)
        route = scope["path"] if scope["path"] in self._routes else "other"
        status = _GONE

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = _INLINE if route == "/docs" else _POLICY
                own = {"X-Request-ID": identity, "Content-Security-Policy": policy}
                MutableHeaders(scope=message).update({**_HEADERS, **own})
            try:
                await send(message)
            except RuntimeError as error:
                if "closed" not in str(error):
                    raise
                # The client left before its requests were answered.
                status = _GONE
                raise ClientDisconnect from None

        try:
            with suppress(ClientDisconnect):
                await self._answer(scope, receive, named)
        except HTTPException as error:
            with suppress(ClientDisconnect):
                await refusal(error)(scope, receive, named)
        except Exception:
            logging.getLogger("uvicorn.error").exception("%s failed", route)
            failure = HTTPException(500, "the server failed; its log says why")
            with suppress(ClientDisconnect):
                await refusal(failure)(scope, receive, named)
        finally:
            seconds = time.perf_counter() - begin
            SECONDS.labels(route, str(status)).observe(seconds)
            line = {"time": now, "id": identity, "method": scope["method"], "route": route}
            line |= {"status": status, "ms": round(1000 * seconds, 2)}
            print(json.dumps(line), flush=True)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, limits = Request(scope, receive), self._limits
        hosts = request.headers.getlist("host")
        if self._loopback and (len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0])):
            raise HTTPException(400, "the request names another host than this machine")
        if request.method != "POST":
            await self._app(scope, receive, send)
            return
        # Without a length, a request reserves the maximum. The server has already refused a header
        # that is not a number.
        length = int(request.headers.get("content-length", limits.body))
        self._check_size(length)
        if self._full(length):
            self._end_slow()
            if self._full(length):
                raise busy()
        timeout = asyncio.timeout(limits.seconds)
        self._accepted[timeout] = length
        try:
            messages = [{"type": "http.request", "body": await self._read(request, timeout)}]

            async def replay() -> Message:
                return messages.pop() if messages else await receive()

            async with asyncio.timeout(limits.seconds):
                await self._app(scope, replay, send)
        except TimeoutError:
            raise busy() from None
        finally:
            self._accepted.pop(timeout, None)

    def _full(self, length: int) -> bool:
        reserved = self._accepted.values()
        limits = self._limits
        return len(reserved) >= limits.requests or sum(reserved) + length > limits.bytes

    def _end_slow(self) -> None:
        """End requests that began to arrive over a second ago, and arrive slower than ``SLOW``."""
        now = asyncio.get_running_loop().time()
        for timeout, body in self._arriving.items():
            seconds = now - (timeout.when() or now) + self._limits.seconds
            if seconds > max(1, len(body) / SLOW) and not timeout.expired():
                timeout.reschedule(now)
                self._accepted.pop(timeout, None)

    def _check_size(self, size: int) -> None:
        if size > self._limits.body:
            limit = f"{self._limits.body >> 20} MiB"
            raise HTTPException(413, f"the request is larger than {limit}: send fewer images")

    async def _read(self, request: Request, timeout: asyncio.Timeout) -> bytes:
        """The body; raises ClientDisconnect when the client has left."""
        body = self._arriving[timeout] = bytearray()
        try:
            async with timeout:
                async for part in request.stream():
                    body += part
                    self._check_size(len(body))
        except TimeoutError:
            raise HTTPException(408, "the request arrives too slowly: try again") from None
        finally:
            del self._arriving[timeout]
        return bytes(body)
