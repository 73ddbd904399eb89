"""A request's body is read only if its method and route need it, and then in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import echo, exchange, read_to_end, request, serving, serving_in_memory, status_of
from trio_ws import App, Options, Request, WebSocket

if TYPE_CHECKING:
    from trio.testing import MockClock

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def posting() -> App:
    app = App()

    @app.http("/", methods=["POST"])
    async def post(request: Request) -> str:
        return f"{len(request.body)} bytes"

    @app.websocket("/ws")
    async def ws(ws: object) -> None:
        raise AssertionError("it was let in")

    return app


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n", 404),
        (b"PUT / HTTP/1.1\r\nHost: localhost\r\n", 405),
        (b"POST /ws HTTP/1.1\r\nHost: localhost\r\n", 405),
        (request(target="/ws")[:-2], 400),
    ],
)
@pytest.mark.parametrize("framing", [b"Content-Length: 60000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
async def test_an_unneeded_body_is_not_waited_for(
    start: bytes, status: int, framing: bytes, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(posting()) as memory:
        stream = await memory.stream()
        await stream.send_all(start + framing)
        assert status_of(await stream.receive_some()) == status
        assert trio.current_time() == 0


async def test_a_server_without_routes_waits_for_no_body(autojump_clock: MockClock) -> None:
    async with serving_in_memory(echo) as memory:
        stream = await memory.stream()
        await stream.send_all(HEAD + b"Content-Length: 60000\r\n\r\n")
        assert status_of(await stream.receive_some()) == 405
        assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
async def test_expect_100_continue_is_answered_at_once(
    framing: bytes, body: bytes, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(posting()) as memory:
        stream = await memory.stream()
        await stream.send_all(HEAD + framing + b"Expect: 100-continue\r\n\r\n")
        assert await stream.receive_some() == CONTINUE
        answer = await exchange(stream, body)
        assert status_of(answer) == 200
        assert answer.endswith(b"5 bytes")
        # A client that does not wait needs no 100 (RFC 9110 section 10.1.1).
        answer = await exchange(
            await memory.stream(), HEAD + framing + b"Expect: 100-continue\r\n\r\n" + body
        )
        assert status_of(answer) == 200
        assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("start", "more", "status"),
    [
        (HEAD, b"Content-Length: 70000\r\n", 413),
        (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n", b"Content-Length: 5\r\n", 404),
        (b"POST / HTTP/1.1\r\nHost: evil.example\r\n", b"Content-Length: 5\r\n", 403),
    ],
)
async def test_expect_100_continue_of_a_refused_request_is_answered_at_once(
    start: bytes, more: bytes, status: int, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(posting(), options=Options(hosts=["localhost"])) as memory:
        stream = await memory.stream()
        await stream.send_all(start + more + b"Expect: 100-continue\r\n\r\n")
        assert status_of(await stream.receive_some()) == status
        assert trio.current_time() == 0


async def test_a_body_after_a_100_has_the_rest_of_open_timeout(autojump_clock: MockClock) -> None:
    async with serving_in_memory(posting(), options=Options(open_timeout=5)) as memory:
        stream = await memory.stream()
        await trio.sleep(2)
        await stream.send_all(HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await stream.receive_some() == CONTINUE
        assert status_of(await read_to_end(stream)) == 408
        assert trio.current_time() == 5


async def test_a_drain_while_a_body_comes(autojump_clock: MockClock) -> None:
    app = posting()

    @app.websocket("/slow")
    async def slow(ws: WebSocket) -> None:
        await ws.wait_closed()
        await trio.sleep(1)  # the drain waits for this handler

    async with serving_in_memory(app) as memory, memory.connect("/slow"):
        stream = await memory.stream()
        await stream.send_all(HEAD + b"Content-Length: 5\r\n\r\nhel")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.server.drain)
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"lo")
            assert status_of(await read_to_end(stream)) == 503


async def test_requests_behind_one_another_get_one_answer(autojump_clock: MockClock) -> None:
    one = HEAD + b"Content-Length: 5\r\n\r\nhello"
    async with serving_in_memory(posting()) as memory:
        answer = await exchange(await memory.stream(), one * 3)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"Connection: close\r\n" in answer


class Turns:
    """Counts how often another task can run."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1


@pytest.mark.repeats
async def test_many_small_chunks_are_many_turns() -> None:
    body = b"1\r\nA\r\n" * 60_000 + b"0\r\n\r\n"
    turns = Turns()
    async with serving(posting()) as server, trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        nursery.start_soon(turns.run)
        before = turns.count
        answer = await exchange(stream, body)
        assert answer.endswith(b"60000 bytes")
        await stream.aclose()
        assert turns.count - before >= len(body) // 1024
        nursery.cancel_scope.cancel()
