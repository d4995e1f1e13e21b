"""A request takes no more time or memory than it may, to arrive or to be answered."""

import asyncio
import json

import pytest
import uvicorn
from uvicorn.server import ServerState

from alzmri.serving import middleware
from alzmri.serving.middleware import BoundedProtocol, Limits, RequestGuard

from ..processes import limit

SCOPE = {"type": "http", "method": "POST", "path": "/predict", "headers": []}


async def _for_ever(*_):
    await asyncio.Event().wait()


async def _body():
    return {"type": "http.request", "body": b"content", "more_body": False}


def _send(app, receive):
    """The status and error that a client gets."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(RequestGuard(app, Limits(seconds=0.05))(SCOPE, receive, send))
    start, body = sent
    return start["status"], json.loads(body["body"])["error"]


async def _fails(*_):
    raise RuntimeError("secret")


def test_a_failure_is_a_sentence_for_the_client_and_a_traceback_for_the_operator(caplog):
    assert _send(_fails, _body) == (500, "the server failed; its log says why")
    assert "secret" in caplog.text


def test_a_client_that_has_left_is_no_failure(caplog, capsys):
    """As uvicorn says it of one that pipelined requests."""

    async def closed(_):
        raise RuntimeError("the handler is closed")

    for app, limits in ((_slow, Limits()), (_for_ever, Limits(seconds=0.05))):
        asyncio.run(RequestGuard(app, limits)({**SCOPE, "path": "/"}, _body, closed))
    assert capsys.readouterr().out.count('"status": 499') == 2
    assert not caplog.text


def test_a_body_that_never_ends_and_an_answer_that_never_comes_are_given_up():
    error = "the request arrives too slowly: try again"
    assert _send(_for_ever, _for_ever) == (408, error)
    assert _send(_for_ever, _body) == (503, "the server is busy: try again in a second")


def _posts(limits, *sizes):
    """The statuses of requests of so many bytes that all are held until the last has come."""

    async def main():
        held = asyncio.Event()

        async def app(scope, receive, send):
            assert len((await receive())["body"]) in sizes
            await held.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        bounded = RequestGuard(app, limits)

        async def post(size):
            sent = []

            async def receive():
                return {"type": "http.request", "body": b"x" * size, "more_body": False}

            async def send(message):
                sent.append(message)

            scope = {**SCOPE, "headers": [(b"content-length", str(size).encode())]}
            await bounded(scope, receive, send)
            return sent[0]["status"]

        async def all_at_once():
            held.clear()
            tasks = [asyncio.create_task(post(size)) for size in sizes]
            for _ in range(10):
                await asyncio.sleep(0)
            held.set()
            return await asyncio.gather(*tasks)

        # Again: what the first ones held is free by then.
        return [await all_at_once() for _ in range(3)]

    return asyncio.run(main())


def test_so_many_requests_of_so_many_bytes_are_answered_at_a_time_and_no_more():
    assert _posts(Limits(requests=2), 1, 1, 1) == [[200, 200, 503]] * 3
    assert _posts(Limits(bytes=10), 6, 4, 1) == [[200, 200, 503]] * 3
    assert _posts(Limits(bytes=10), 6, 5) == [[200, 503]] * 3
    assert _posts(Limits(body=8), 8, 9) == [[200, 413]] * 3


@pytest.mark.parametrize("limits", [Limits(requests=2), Limits(bytes=20)])
def test_a_full_server_ends_slow_bodies_for_a_new_request(limits):
    """Two clients declare a body and send little of it; one that sends enough is not ended."""

    async def main():
        guard, answered = RequestGuard(_answers, limits), []

        async def post(size, pieces):
            async def receive():
                part, seconds = pieces.pop(0) if pieces else (b"", 600)
                await asyncio.sleep(seconds)
                return {"type": "http.request", "body": part, "more_body": bool(part != b"whole")}

            async def send(message):
                if message["type"] == "http.response.start":
                    answered.append(message["status"])

            scope = {**SCOPE, "headers": [(b"content-length", str(size).encode())]}
            await guard(scope, receive, send)

        slow = [asyncio.create_task(post(10, [(b"a", 0)])) for _ in range(2)]
        await asyncio.sleep(0.1)
        await post(5, [(b"whole", 0)])
        assert answered == [503]  # they may be only just arriving
        await asyncio.sleep(1.2)
        await post(5, [(b"whole", 0)])
        await asyncio.gather(*slow)
        assert sorted(answered[1:]) == [200, 408, 408]
        assert not guard._accepted
        assert not guard._arriving

    asyncio.run(main())


async def _answers(scope, receive, send):
    assert (await receive())["body"] == b"whole"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("head", [b"", b"GET /ping HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n\r\nGET"])
def test_a_head_that_does_not_arrive_ends_its_connection(monkeypatch, head):
    monkeypatch.setattr(middleware, "HEAD_SECONDS", 0.2)

    async def main():
        config = uvicorn.Config(_slow, http=BoundedProtocol, lifespan="off", timeout_keep_alive=600)

        def protocol():
            return BoundedProtocol(config, ServerState(), {})

        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(head)
        async with asyncio.timeout(limit(10)):
            assert (await reader.read()).count(b"200 OK") == head.count(b"\r\n\r\n")
        writer.close()
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /slow HTTP/1.1\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(limit(10)):  # one that arrives may take longer to be answered
            assert b"200 OK" in await reader.read()
        writer.close()
        server.close()

    asyncio.run(main())


async def _slow(scope, receive, send):
    await asyncio.sleep(0.4 if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
