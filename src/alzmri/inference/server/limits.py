"""What one client may ask of the server, so that no client can stop it for the others."""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alzmri.inference.server.answers import Refusal


@dataclass(frozen=True)
class Limits:
    """Each is enforced before the work that it bounds.

    Attributes:
        body: bytes of one request.
        images: in one request.
        requests: that are being answered at a time,
        bytes: and what they may hold together.
        queue: images that wait for the model.
        seconds: to receive a request, and again to answer it.
        drain: seconds to finish what has begun when told to stop.
    """

    body: int = 32 * 2**20
    images: int = 64
    requests: int = 128
    bytes: int = 512 * 2**20
    queue: int = 256
    seconds: float = 30
    drain: int = 8


BUSY = Refusal(503, "the server is busy: try again in a second", retry_after=1)


class Bounded:
    """ASGI middleware: a POST is read whole, within bounds, before anything looks at it.

    What only reads (the page, ``/ping``, ``/metrics``) is never refused: a busy server must still
    say that it lives.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await BUSY.response()(scope, receive, send)
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
            raise BUSY from None

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
