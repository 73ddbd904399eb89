"""The status of a rejection is known from its head, whatever happens to its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import guard, serving
from trio_ws import Backoff, HandshakeRejectedError, Options, connect
from trio_ws.testing import Link

if TYPE_CHECKING:
    from trio.testing import MockClock

#: Seconds within which a body is read, see `HandshakeRejectedError`.
GRACE = 0.1

HEADS = {
    "no length": b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\n\r\n",
    "a length too long": b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 999\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 403 Forbidden\r\nX-Why: no\r\n\r\n",
    "two lengths": b"HTTP/1.1 403 No\r\nContent-Length: 4\r\nX-Why: no\r\nContent-Length: 5\r\n\r\n",
    "a length that is none": b"HTTP/1.1 403 No\r\nX-Why: no\r\nContent-Length: some\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 403 No\r\nX-Why: no\r\nTransfer-Encoding: zip\r\n\r\n",
}


async def refused(link: Link, **options: float) -> HandshakeRejectedError:
    with pytest.raises(HandshakeRejectedError) as info:
        async with connect("ws://test", stream=link.client, options=Options(**options)):  # type: ignore[arg-type]
            pytest.fail("it was refused")
    return info.value


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_connection_that_stays_open(head: bytes, autojump_clock: MockClock) -> None:
    link = Link()
    await link.server.send_all(head + b"nope")
    began = trio.current_time()
    error = await refused(link)
    assert trio.current_time() - began == pytest.approx(GRACE)
    assert (error.status, error.headers.get("x-why"), error.body) == (403, "no", b"nope")
    assert not Backoff().retries(error)


async def test_a_whole_body_is_not_waited_behind(autojump_clock: MockClock) -> None:
    link = Link()
    await link.server.send_all(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nnope")
    began = trio.current_time()
    assert (await refused(link)).body == b"nope"
    assert trio.current_time() == began


async def test_a_body_that_dribbles_in_chunks(autojump_clock: MockClock) -> None:
    link = Link()

    async def dribble() -> None:
        await link.server.send_all(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await link.server.send_all(b"1\r\nx\r\n")
            await trio.sleep(0.03)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        error = await refused(link)
        nursery.cancel_scope.cancel()
    assert error.body == b"xxxx"


async def test_a_body_without_end_is_cut(autojump_clock: MockClock) -> None:
    link = Link()

    async def flood() -> None:
        await link.server.send_all(b"HTTP/1.1 500 Oops\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await link.server.send_all(b"x" * 50_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        error = await refused(link)
    assert len(error.body) == 64 * 1024


async def test_a_connection_that_breaks_in_the_body(autojump_clock: MockClock) -> None:
    link = Link()
    await link.server.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nnope")

    async def cut() -> None:
        await trio.sleep(GRACE / 2)
        link.cut()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        error = await refused(link)
    assert (error.status, error.body) == (403, b"nope")


async def test_a_head_just_before_open_timeout(autojump_clock: MockClock) -> None:
    link = Link()

    async def answer() -> None:
        await trio.sleep(1.95)
        await link.server.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nnope")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert (await refused(link, open_timeout=2)).body == b"nope"


async def test_a_redirect_without_a_length_is_followed() -> None:
    async with serving() as target:

        async def redirect(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            head = f"HTTP/1.1 302 Found\r\nLocation: {target.url}\r\n\r\n"
            await stream.send_all(head.encode())
            await stream.receive_some()

        with trio.fail_after(guard()):
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_tcp, redirect, 0)
                port = listeners[0].socket.getsockname()[1]
                async with connect(f"ws://localhost:{port}") as ws:
                    await ws.send("there")
                    assert await ws.receive_text() == "there"
                nursery.cancel_scope.cancel()
