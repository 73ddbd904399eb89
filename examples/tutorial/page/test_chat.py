from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from chat import Chat

import trio_ws
from trio_ws.testing import LinkStream, MemoryListener


class Town:
    """A chat server in memory, and those who talk there."""

    def __init__(self) -> None:
        self.listener = MemoryListener()
        self.streams: list[LinkStream] = []

    async def dial(self) -> LinkStream:
        stream = await self.listener.connect(latency=0.1)
        self.streams.append(stream)
        return stream

    def person(self, name: str, room: str = "cats") -> trio_ws.WebSocketClient:
        url = f"ws://town/rooms/{room}?name={name}"
        return trio_ws.WebSocketClient(url, stream=self.dial, reconnect=trio_ws.Backoff())


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    town = Town()
    app = trio_ws.App()
    app.mount("/rooms/{room}", Chat)
    async with trio_ws.WebSocketServer(app, listeners=[town.listener]):
        yield town


async def test_bob_hears_ada(autojump_clock: trio.abc.Clock) -> None:
    async with open_town() as town, town.person("ada") as ada, town.person("bob") as bob:
        assert await ada.call("say", "meow") == 2
        packet = await bob.recv()
        assert packet is not None
        assert packet.data == {"name": "ada", "text": "meow"}


async def test_an_empty_line_is_refused(autojump_clock: trio.abc.Clock) -> None:
    async with open_town() as town, town.person("ada") as ada:
        with pytest.raises(trio_ws.RPCInvalidParamsError, match="text"):
            await ada.call("say", "")


async def test_who_talks_too_much_has_to_wait(autojump_clock: trio.abc.Clock) -> None:
    async with open_town() as town, town.person("ada") as ada:
        for _ in range(5):
            await ada.call("say", "meow")
        with pytest.raises(trio_ws.RateLimitError) as caught:
            await ada.call("say", "meow")
        await trio.sleep(caught.value.retry_after)  # up to ten seconds, which take no time
        await ada.call("say", "meow")


async def test_ada_comes_back(autojump_clock: trio.abc.Clock) -> None:
    async with open_town() as town, town.person("ada") as ada:
        await ada.call("say", "meow")
        town.streams[0].link.cut()
        async for state in ada.watch_state():
            if state == "waiting":  # she has noticed
                break
        assert await ada.call("last") == [{"name": "ada", "text": "meow"}]
        assert len(town.streams) == 2


async def test_there_is_no_such_room(autojump_clock: trio.abc.Clock) -> None:
    async with open_town() as town:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with town.person("ada", room="birds"):
                pass
        assert caught.value.status == 404
