"""Clients of a server on this machine, as cheap as they can be: they share its processors."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What is sent, and the status that it deserves."""

    content: bytes
    status: int


def request(route: str, body: bytes, content_type: str, status: int = 200) -> Request:
    """A POST of ``body`` to ``route``, in bytes."""
    head = (
        f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, status)


@dataclass(frozen=True)
class Outcome:
    """What became of many requests.

    Attributes:
        seconds: that all took together.
        latencies: seconds of each.
        wrong: how many were answered by another status than they deserve, or not at all.
    """

    seconds: float
    latencies: list[float]
    wrong: int


def send(port: int, requests: Sequence[Request], count: int, clients: int) -> Outcome:
    """Send ``count`` requests, round and round, ``clients`` at a time, each on one connection."""
    latencies: list[float] = []
    wrong = 0
    numbers = iter(range(count))

    async def client() -> None:
        nonlocal wrong
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            asked = requests[number % len(requests)]
            begin = time.perf_counter()
            writer.write(asked.content)
            head = await reader.readuntil(b"\r\n\r\n")
            found = _LENGTH.search(head)
            assert found, head
            await reader.readexactly(int(found[1]))
            latencies.append(time.perf_counter() - begin)
            wrong += int(head.split(maxsplit=2)[1]) != asked.status
        writer.close()

    async def everyone() -> None:
        await asyncio.gather(*(client() for _ in range(clients)))

    begin = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everyone())
    return Outcome(time.perf_counter() - begin, latencies, wrong + count - len(latencies))
