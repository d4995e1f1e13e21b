"""What one client may ask of the server, so that no client can stop it for the others."""

import asyncio
import re
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from alzmri.serving.answers import Problem, Refusal, busy


@dataclass(frozen=True)
class Limits:
    """Each is enforced before the work that it bounds.

    Attributes:
        body: bytes of one request.
        images: in one request.
        requests: that are being answered at a time,
        bytes: and what they may hold together.
        queue: images that wait for the model.
        volumes: that are read or wait for it.
        seconds: to receive a request, and again to answer it.
        decoding: seconds to decode an image,
        reading: and to read a volume and find its slices.
        ping: seconds in which a model that can be used answers.
        drain: seconds to finish what has begun, after SIGTERM.
    """

    body: int = 32 * 2**20
    images: int = 64
    requests: int = 128
    bytes: int = 512 * 2**20
    queue: int = 256
    volumes: int = 4
    seconds: float = 30
    decoding: float = 5
    reading: float = 20
    ping: float = 1.5
    drain: int = 8


HEAD = 2**16
"""Bytes of a request beside its content: its head, its trailers, the frames of its chunks."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.ASCII)


class Protocol(HttpToolsProtocol):
    """uvicorn's, which takes heads of any size and refuses in plain text, with neither."""

    _beside = 0

    def on_message_begin(self) -> None:
        """A new request."""
        self._beside = 0
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """A part of its content, and what a chunk's frame may take of the bytes received."""
        self._beside -= len(body) + len(body) // 8
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        self._beside += len(data)
        super().data_received(data)
        if self._beside > HEAD and not self.transport.is_closing():
            reason = f"a request's headers are limited to {HEAD >> 10} KiB"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - quotes nothing
        """What is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, "this is no HTTP request")

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            content = Problem(error=reason).model_dump_json().encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + content)
        self.transport.close()


class Bounded:
    """ASGI middleware: a POST is read whole, within bounds, before anything looks at it.

    What only reads (the page, ``/ping``, ``/metrics``) needs no place among the requests: a busy
    server must still say that it lives.

    Args:
        loopback: whether the server is bound to it. A request must then name it as its host, or a
            web page elsewhere could talk to the server by a name that points at this machine.
    """

    def __init__(self, app: ASGIApp, limits: Limits, loopback: bool = False) -> None:
        self._app, self._limits, self._loopback = app, limits, loopback
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._loopback:
            hosts = Headers(scope=scope).getlist("host")
            if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):
                refusal = Refusal(400, "the request names another host than this machine")
                await refusal.response()(scope, receive, send)
                return
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        # Whoever does not say how much will come may send the most. The server has parsed the
        # header already and refused what is no number.
        length = int(Headers(scope=scope).get("content-length", self._limits.body))
        if length > self._limits.body:
            await self._too_large().response()(scope, receive, send)
            return
        full = self._requests >= self._limits.requests
        if full or self._bytes + length > self._limits.bytes:
            await busy().response()(scope, receive, send)
            return
        self._requests += 1
        self._bytes += length
        try:
            await self._answer(scope, receive, send)
        except Refusal as refused:
            await refused.response()(scope, receive, send)
        finally:
            self._requests -= 1
            self._bytes -= length

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._read(receive)
        if body is None:
            return
        begun = False

        async def once() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, once, watched)
        except TimeoutError:
            if begun:
                raise
            raise busy() from None

    def _too_large(self) -> Refusal:
        mebibytes = self._limits.body >> 20
        return Refusal(413, f"the request is larger than {mebibytes} MiB: send fewer images")

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None when the client has gone."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.body:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(
                408, f"the request did not arrive within {self._limits.seconds:g} seconds"
            ) from None
