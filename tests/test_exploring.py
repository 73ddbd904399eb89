"""explore, and the fixtures of pytest."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.serving import echo
from trio_ws.testing import MemoryListener, MemoryServer, explore

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


async def talk(listener: MemoryListener) -> None:
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):
        async with trio_ws.connect("ws://test/", stream=listener.connect) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"


async def test_all_of_a_good_test(autojump_clock: MockClock) -> None:
    explored = await explore(talk, faults=("cut", "clean cut"))
    assert explored.checkpoints > 10
    assert explored.carried > 300
    assert explored.cases == 1 + explored.checkpoints + 2 * explored.carried


async def test_partitions_are_waited_for(autojump_clock: MockClock) -> None:
    explored = await explore(talk, faults=("partition",), every=20)
    assert explored.cases < explored.carried / 5


async def test_a_task_that_a_cancellation_leaves(autojump_clock: MockClock) -> None:
    stops: list[trio.Event] = []

    async def forgetful(listener: MemoryListener) -> None:
        stops.append(trio.Event())
        trio.lowlevel.spawn_system_task(stops[-1].wait, name="forgotten")
        await trio.sleep(1)
        stops[-1].set()

    with pytest.raises(AssertionError, match="cancelled at checkpoint 1: tasks are left: forgotten"):
        await explore(forgetful)
    stops[-1].set()


async def test_a_stream_that_a_fault_leaves_open(autojump_clock: MockClock) -> None:
    async def careless(listener: MemoryListener) -> None:
        link = await listener.open_link()
        try:
            await link.client.send_all(b"x")
            assert await link.server.receive_some() == b"x"
        except trio.BrokenResourceError:
            return  # and nothing is closed
        with trio.CancelScope(shield=True):
            await link.client.aclose()
            await link.server.aclose()

    with pytest.raises(AssertionError, match=r"^cut at byte 0: the client's end of link 1 was not closed"):
        await explore(careless, only="cut at byte 0")
    with pytest.raises(AssertionError, match=r"^cancelled at checkpoint \d: the client's end of link 1"):
        await explore(careless)


async def test_exceptions_that_a_fault_may_raise(autojump_clock: MockClock) -> None:
    async def strict(listener: MemoryListener) -> None:
        try:
            await talk(listener)
        except trio_ws.ConnectionClosedError as exc:
            raise LookupError("not here") from exc

    with pytest.raises(AssertionError, match=r"^cut at byte \d+: LookupError: not here") as caught:
        await explore(strict)
    assert isinstance(caught.value.__cause__, LookupError)
    name = str(caught.value).partition(":")[0]
    with pytest.raises(AssertionError, match=f"^{name}: "):
        await explore(strict, only=name)
    assert (await explore(strict, only=name, allowed=(LookupError,))).cases == 2


async def test_a_test_that_does_not_end(autojump_clock: MockClock) -> None:
    async def wait(listener: MemoryListener) -> None:
        await trio.sleep(7200)

    with pytest.raises(AssertionError, match=r"^as it is: it has not ended in 3600.0 seconds"):
        await explore(wait)
    assert (await explore(wait, time_limit=10_000)).carried == 0


async def test_a_test_that_fails_by_itself(autojump_clock: MockClock) -> None:
    async def fail(listener: MemoryListener) -> None:
        raise KeyError("k")

    with pytest.raises(AssertionError, match=r"^as it is: KeyError"):
        await explore(fail)


async def test_arguments(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="every must be 1 or more"):
        await explore(talk, every=0)
    for name in ("cut at byte 100000", "cancelled at checkpoint 100000"):
        with pytest.raises(ValueError, match="the test has no case"):
            await explore(talk, only=name)
    with pytest.raises(ValueError, match="'some other' is not the name of a case"):
        await explore(talk, only="some other")


# -- fixtures ---------------------------------------------------------------------------------------

FIXTURES = """
import trio
import trio_ws
from trio_ws.testing import MemoryServer, RawPeer

async def echo(ws):
    async for message in ws:
        await ws.send(message)

class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def add(self, connection, a: int, b: int) -> int:
        return a + b

async def test_server(trio_ws_server, autojump_clock):
    server = await trio_ws_server(echo, max_connections=1)
    assert isinstance(server, MemoryServer)
    server.latency = 0.5
    async with server.connect("/path?x=1") as ws:
        await ws.send("hello")
        assert await ws.receive_text() == "hello"
        assert ws.path == "/path"
        assert trio.current_time() == 2
        [connection] = server.server.connections
        assert connection.query_params == {"x": ["1"]}
        server.links[0].cut()

async def test_client(trio_ws_server, trio_ws_client, autojump_clock):
    client = await trio_ws_client(await trio_ws_server(Calculator))
    assert await client.call("add", 1, 2) == 3

async def test_link(trio_ws_server, trio_ws_link, autojump_clock):
    link = await trio_ws_link(await trio_ws_server(echo), latency=0.25)
    peer = await RawPeer.connect(link.client, "/")
    assert trio.current_time() == 0.5
    await peer.send_text("raw")
    assert (await peer.receive_frame()).payload == b"raw"
    link.cut()

async def test_explore(trio_ws_explore):
    async def test(listener):
        async with trio_ws.WebSocketServer(echo, listeners=[listener]):
            async with trio_ws.connect("ws://test/", stream=listener.connect) as ws:
                await ws.send("x")
                await ws.receive_text()
    assert (await trio_ws_explore(test, every=50)).cases > 5

def test_that_is_not_trios():
    pass
"""


def test_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_fixtures.py").write_text(FIXTURES)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "trio_ws.testing.pytest_plugin"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "5 passed" in done.stdout, done.stdout + done.stderr


async def test_a_server_by_itself(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]) as running:
        server: Any = MemoryServer(running, listener)
        async with server.connect() as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"
        assert len(server.links) == 1


async def test_a_server_in_memory_opens_the_streams_itself(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]) as running:
        server = MemoryServer(running, listener)
        with pytest.raises(TypeError, match=r"leave out stream="):
            server.client(stream=server.dial)
        with pytest.raises(TypeError, match=r"leave out stream="):
            server.connect(stream=server.dial)
