"""Channels of the JavaScript client over lost connections: all messages in order and once, or a gap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio

from tests.support.chromium import chromium
from tests.support.node import node_command, run_program
from tests.support.redis import redis_server
from tests.support.serving import guard, serving
from trio_ws import (
    App,
    ClientConnection,
    History,
    HTTPResponse,
    Publisher,
    RedisBroker,
    Request,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PROGRAMS = Path(__file__).parent / "programs"
COUNT = 3000
RESTARTED_COUNT = 600  # of which each takes a trip to Redis


class Rooms(WebSocketHandler):
    """Publishes numbers, and hangs up again and again meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = trio.Event()
        self.hung_up = 0

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method()
    def start(self, connection: ClientConnection) -> int:
        self.wanted.set()
        return COUNT - 1

    async def play(self) -> None:
        await self.wanted.wait()
        for number in range(COUNT):
            self.publish("room", number)
            if number % 7 == 0:
                await trio.sleep(0)
            if number % 300 == 150:
                while not self.clients:
                    await trio.sleep(0.001)
                for client in self.clients:
                    self.hung_up += 1
                    await client.close(1012, "again")
        while not self.channels_history:  # the last may be missed, too
            await trio.sleep(0.01)
            self.publish("room", COUNT - 1)


class LongRooms(Rooms):
    channels_history: ClassVar = {"room": History(items=COUNT, bytes=1024 * COUNT)}


class ShortRooms(Rooms):
    channels_history: ClassVar = {"room": History(items=5)}


async def play(handler: Rooms, folder: Path) -> list[Any]:
    node_command()
    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(handler.play)
        taken: list[Any] = await run_program(folder, PROGRAMS / "recovery.mjs", server.url)
        nursery.cancel_scope.cancel()
    assert handler.hung_up >= COUNT // 300 - 1
    return taken


async def test_nothing_is_missed_or_comes_twice(tmp_path: Path) -> None:
    assert await play(LongRooms(), tmp_path) == list(range(COUNT))


@pytest.mark.parametrize("handler", [ShortRooms, Rooms])
async def test_a_gap_marks_missing_messages(handler: type[Rooms], tmp_path: Path) -> None:
    """And nowhere else; with a history it says how many they are."""
    expected = missing = gaps = 0
    for one in await play(handler(), tmp_path):
        if isinstance(one, dict):
            gaps += 1
            missing += one["missing"] or 0
            continue
        if not gaps:
            assert one == expected
        elif handler is ShortRooms:
            assert one == expected + missing > expected
        else:
            assert one >= expected
            assert not missing
        expected, missing, gaps = one + 1, 0, 0
    assert expected == COUNT


class Prices(WebSocketHandler):
    channels_history: ClassVar = {"price": History(latest=True)}

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method("publish")
    def publish_price(self, connection: ClientConnection, value: int) -> None:
        self.publish("price", value)


async def test_no_value_comes_that_is_older_than_the_one_it_has(tmp_path: Path) -> None:
    node_command()
    async with serving(Prices()) as server:
        assert await run_program(tmp_path, PROGRAMS / "latest.mjs", server.url) == [3, 3]


class Restarted(WebSocketHandler):
    """One of several servers on the same port, one after the other."""

    channels_history: ClassVar = {"room": History()}
    started = 0

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method()
    def start(self, connection: ClientConnection) -> int:
        Restarted.started += 1
        return RESTARTED_COUNT - 1


async def play_over_restarts(listen: Callable[[str], Awaitable[list[Any]]]) -> list[Any]:
    """Return the messages of a client that gets the URL of the first of several servers.

    Another program publishes them through Redis, also while no server runs.
    """
    Restarted.started = 0
    restarts = 0
    port = 0
    taken: list[Any] | None = None
    over = trio.Event()
    async with redis_server() as redis, trio.open_nursery() as nursery:

        async def publish() -> None:
            async with Publisher(redis.url, path="/") as publisher:
                for number in range(RESTARTED_COUNT):
                    while restarts < number // 100:
                        await trio.sleep(0.001)
                    await publisher.publish("room", number)
            over.set()

        async def take(url: str) -> None:
            nonlocal taken
            taken = await listen(url)

        with trio.fail_after(guard()):
            while taken is None:
                handler = Restarted()
                app = App()
                app.mount("/", handler)
                app.mount_client("/trio-ws.js")
                app.http("/page")(page)
                async with WebSocketServer(
                    app, port, host="127.0.0.1", broker=RedisBroker(redis.url)
                ) as server:
                    if not port:
                        port = server.port
                        nursery.start_soon(take, server.url)
                        while not Restarted.started:
                            await trio.sleep(0.001)
                        nursery.start_soon(publish)
                    else:
                        restarts += 1
                        while not handler.clients and taken is None:
                            await trio.sleep(0.001)
                    if over.is_set():
                        while taken is None:
                            await trio.sleep(0.001)
    assert restarts >= 5
    return taken


def page(request: Request) -> HTTPResponse:
    """A page that takes what the program in Node does."""
    return HTTPResponse(
        headers={"Content-Type": "text/html; charset=utf-8"},
        body=b"""<!doctype html><title>numbers</title><p id=state></p><script type=module>
            import { Client } from "/trio-ws.js"
            const client = new Client("/", { reconnect: { initial: 1, maximum: 5 } })
            const inbox = await client.subscribe("room", { recover: true, maxItems: 100_000 })
            globalThis.connections = 1
            client.addEventListener("state", () => (connections += client.state === "connected"))
            globalThis.taken = []
            const last = await client.call("start")
            for await (const { gap, missing, data } of inbox) {
              taken.push(gap ? { missing } : data)
              if (data === last) break
            }
            document.querySelector("#state").textContent = "done"
            await client.close()
        </script>""",
    )


async def test_nothing_is_missed_over_restarts_of_the_server(tmp_path: Path) -> None:
    node_command()

    async def listen(url: str) -> list[Any]:
        taken: list[Any] = await run_program(tmp_path, PROGRAMS / "recovery.mjs", url)
        return taken

    assert await play_over_restarts(listen) == list(range(RESTARTED_COUNT))


async def test_a_page_misses_nothing_over_restarts_of_the_server(tmp_path: Path) -> None:
    connections = 0

    async def listen(url: str) -> list[Any]:
        nonlocal connections
        async with chromium(tmp_path) as browser:
            opened = await browser.open(url.replace("ws", "http", 1) + "/page")
            await opened.until("document.querySelector('#state').textContent === 'done'")
            connections = await opened.evaluate("connections")
            taken: list[Any] = await opened.evaluate("taken")
            return taken

    assert await play_over_restarts(listen) == list(range(RESTARTED_COUNT))
    assert connections >= 6
