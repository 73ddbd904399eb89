"""A WebSocket on a stream that the caller has accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import trio_ws
from tests.support.serving import all_tasks, guard, request
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def no_hang() -> AsyncIterator[None]:
    with trio.fail_after(guard()):
        yield


async def test_both_ends_on_streams_of_ones_own(autojump_clock: trio.testing.MockClock) -> None:
    link = Link()
    before = all_tasks()

    async def serve() -> None:
        async with trio_ws.wrap_stream(link.server) as ws:
            assert ws.path == "/chat"
            assert not ws.accepted
            await ws.send(f"hello {await ws.receive_text()}")
            assert (await ws.recv()) is None

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with trio_ws.connect("ws://test/chat", stream=link.client) as ws:
            await ws.send("ada")
            assert await ws.receive_text() == "hello ada"
    await trio.testing.wait_all_tasks_blocked()
    assert all_tasks() == before


@pytest.mark.parametrize("cut", [0, 1, 40, None], ids=["none", "a byte", "some", "all"])
async def test_a_request_that_was_read_already(
    cut: int | None, autojump_clock: trio.testing.MockClock
) -> None:
    link = Link()
    head = request(target="/x")
    await link.client.send_all(head[cut:] if cut is not None else b"")
    async with trio_ws.wrap_stream(link.server, head[:cut]) as ws:
        assert ws.path == "/x"
        await ws.send("over")
    answer = await link.client.receive_some()
    assert answer.startswith(b"HTTP/1.1 101")


async def test_leaving_closes_with_1000(autojump_clock: trio.testing.MockClock) -> None:
    link = Link()

    async def serve() -> None:
        async with trio_ws.wrap_stream(link.server) as ws:
            await ws.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        peer = await RawPeer.connect(link.client)
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()


async def test_an_exception_closes_with_1011_and_leaves_as_it_was_raised(
    autojump_clock: trio.testing.MockClock,
) -> None:
    link = Link()
    seen: list[tuple[int, str] | None] = []

    async def play() -> None:
        peer = await RawPeer.connect(link.client)
        seen.append(await peer.receive_until_close())
        await peer.send_close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(play)
        with pytest.raises(KeyError, match="mine"):
            async with trio_ws.wrap_stream(link.server) as ws:
                await ws.accept()
                raise KeyError("mine")
    assert seen == [(1011, "")]


async def test_leaving_without_accepting_rejects(autojump_clock: trio.testing.MockClock) -> None:
    link = Link()
    await link.client.send_all(request())
    async with trio_ws.wrap_stream(link.server):
        pass
    assert (await link.client.receive_some()).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", request(leave_out=["upgrade"])])
async def test_an_invalid_opening_request(said: bytes, autojump_clock: trio.testing.MockClock) -> None:
    link = Link()
    await link.client.send_all(said)
    await link.client.send_eof()
    with pytest.raises(trio_ws.ConnectionFailedError, match="the stream did not become a WebSocket"):
        async with trio_ws.wrap_stream(link.server):
            raise AssertionError


async def test_a_client_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    link = Link()
    start = trio.current_time()
    with pytest.raises(trio_ws.ConnectionFailedError):
        async with trio_ws.wrap_stream(link.server, options=trio_ws.Options(open_timeout=3)):
            raise AssertionError
    assert 3 <= trio.current_time() - start < 15
