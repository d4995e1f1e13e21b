"""A request takes no more time or memory than it may, to arrive or to be answered."""

import asyncio
import json

from alzmri.serving.middleware import Bounded, Limits

SCOPE = {"type": "http", "method": "POST", "headers": []}


async def _for_ever(*_):
    await asyncio.Event().wait()


async def _body():
    return {"type": "http.request", "body": b"content", "more_body": False}


def _send(app, receive):
    """The status and error that a client gets."""
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Bounded(app, Limits(seconds=0.05))(SCOPE, receive, send))
    start, body = sent
    return start["status"], json.loads(body["body"])["error"]


def test_a_body_that_never_ends_and_an_answer_that_never_comes_are_given_up():
    error = "the request did not arrive within 0.05 seconds"
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

        bounded = Bounded(app, limits)

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
