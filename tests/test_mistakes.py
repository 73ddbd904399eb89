"""Common mistakes with blocks and with asyncio: each error shows the correct code."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.serving import serving_in_memory
from trio_ws._blocks import Block
from trio_ws.testing import Link, record, replay

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "ws://127.0.0.1:1/"

#: Objects that are entered by ``async with``, and the code in their errors.
BLOCKS: dict[str, tuple[Callable[[], Any], str]] = {
    "connect": (lambda: trio_ws.connect(URL), "async with trio_ws.connect(...) as ws:"),
    "session": (lambda: trio_ws.session(URL), "async with trio_ws.session(...) as feed:"),
    "connections": (
        lambda: trio_ws.connections(URL),
        "async with trio_ws.connections(...) as rounds: async for ws in rounds: ...",
    ),
    "wrap_stream": (
        lambda: trio_ws.wrap_stream(Link().server),
        "async with trio_ws.wrap_stream(...) as ws:",
    ),
    "client": (
        lambda: trio_ws.WebSocketClient(URL),
        "async with trio_ws.WebSocketClient(...) as client:",
    ),
    "server": (
        lambda: trio_ws.WebSocketServer(trio_ws.WebSocketHandler, 0),
        "async with trio_ws.WebSocketServer(...) as server:",
    ),
    "publisher": (
        lambda: trio_ws.Publisher("redis://127.0.0.1:1"),
        "async with trio_ws.Publisher(...) as publisher:",
    ),
    "channels.subscribe": (
        lambda: trio_ws.WebSocketHandler[None]().channels.subscribe("news"),
        "async with channels.subscribe(...) as subscription: async for packet in subscription: ...",
    ),
    "client.batch": (
        lambda: trio_ws.WebSocketClient(URL).batch(),
        "async with client.batch() as batch:",
    ),
    "client.notifications": (
        lambda: trio_ws.WebSocketClient(URL).notifications("news"),
        "async with client.notifications(...) as stream: async for params in stream: ...",
    ),
    "record": (lambda: record(URL, "file"), "async with trio_ws.testing.record(...) as stream:"),
    "replay": (lambda: replay("file"), "async with trio_ws.testing.replay(...) as server:"),
    "client.subscribe": (
        lambda: trio_ws.WebSocketClient(URL).subscribe("news"),
        "async with client.subscribe(...) as subscription: async for packet in subscription: ...",
    ),
    "client.presence": (
        lambda: trio_ws.WebSocketClient(URL).presence("news"),
        "async with client.presence(...) as present:",
    ),
}
every_block = pytest.mark.parametrize(("make", "usage"), BLOCKS.values(), ids=BLOCKS)


@every_block
async def test_a_block_is_not_awaited(make: Callable[[], Any], usage: str) -> None:
    with pytest.raises(TypeError, match="is a block and cannot be awaited") as caught:
        await make()
    assert str(caught.value).endswith(f"write: {usage}")


@every_block
async def test_a_block_needs_async_with(make: Callable[[], Any], usage: str) -> None:
    with pytest.raises(TypeError, match="needs 'async with'") as caught:
        with make():
            pytest.fail("it was entered")
    assert str(caught.value).endswith(f"write: {usage}")


@every_block
async def test_a_block_is_entered_before_its_loop(make: Callable[[], Any], usage: str) -> None:
    made = make()
    if not isinstance(made, Block):
        return  # a client is iterated over in its block, a server and a publisher never
    with pytest.raises(TypeError, match="to be entered before its loop") as caught:
        async for _ in made:  # type: ignore[attr-defined]
            pytest.fail("it was entered")
    assert str(caught.value).endswith(f"write: {usage}")
    with pytest.raises(TypeError, match="is a block"):
        for _ in made:  # type: ignore[attr-defined]
            pytest.fail("it was entered")
    assert usage in repr(made)


async def test_attributes_need_the_block_to_be_entered() -> None:
    made: Any = trio_ws.connect(URL)
    with pytest.raises(AttributeError, match=r"may have 'send'; write: async with trio_ws\.connect"):
        await made.send("hello")
    assert not hasattr(made, "_anything")


async def test_a_client_that_is_not_entered_says_so() -> None:
    client = trio_ws.WebSocketClient(URL)
    with pytest.raises(RuntimeError, match="async with WebSocketClient"):
        await client.call("add", 1, 2)
    with pytest.raises(RuntimeError, match="async with WebSocketClient"):
        async for _ in client:
            pytest.fail("it is not connected")


async def test_streams_are_blocks() -> None:
    async with serving_in_memory(trio_ws.WebSocketHandler) as server:
        stream = await server.stream()
        async with trio_ws.WebSocketClient("ws://test/", stream=stream) as client:
            made: Any = client.stream("count")
            with pytest.raises(TypeError, match=r"write: async with client\.stream"):
                await made
            with pytest.raises(TypeError, match=r"write: async with client\.stream"):
                async for _ in made:
                    pytest.fail("it was entered")


@every_block
def test_under_asyncio_an_error_tells_of_trio(make: Callable[[], Any], usage: str) -> None:
    async def main() -> None:
        async with make():
            pytest.fail("it was entered")

    with pytest.raises(RuntimeError, match=r"needs trio, but this is an asyncio program.*trio\.run\(main\)"):
        asyncio.run(main())


@pytest.mark.parametrize(
    "function",
    [
        lambda: trio_ws.serve(trio_ws.WebSocketHandler, 0),
        lambda: trio_ws.serve_processes("examples.demo:app", 0),
    ],
    ids=["serve", "serve_processes"],
)
def test_under_asyncio_servers_tell_of_trio(function: Callable[[], Any]) -> None:
    async def main() -> None:
        await function()

    with pytest.raises(RuntimeError, match=r"serve\w*\(\) needs trio, but this is an asyncio program"):
        asyncio.run(main())


def test_under_asyncio_signals_tell_of_trio() -> None:
    async def main() -> None:
        with trio_ws.cancel_on_signals():
            pytest.fail("it was entered")

    with pytest.raises(RuntimeError, match=r"cancel_on_signals\(\) needs trio"):
        asyncio.run(main())


def test_an_app_does_not_run_in_an_event_loop() -> None:
    async def main() -> None:
        trio_ws.App().run(0)

    with pytest.raises(RuntimeError, match=r"App\.run\(\) starts a loop of its own.*trio_ws\.guest\.serve"):
        asyncio.run(main())
    with pytest.raises(RuntimeError, match=r"App\.run\(\) starts a loop of its own.*await trio_ws\.serve"):
        trio.run(main)


def test_without_any_loop_an_error_tells_of_trio() -> None:
    entering = trio_ws.connect(URL).__aenter__()
    with pytest.raises(RuntimeError, match=r"connect\(\) needs trio: call it in an async function"):
        entering.send(None)
