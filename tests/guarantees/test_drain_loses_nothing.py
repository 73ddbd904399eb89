"""Data that a peer sent before it saw our Close frame arrives. Calls that crossed it say whether they ran."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from tests.support.serving import serving, serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    Options,
    Packet,
    RPCCancelledError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock


class Handler(WebSocketHandler):
    """Records the received packets and the calls."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.got: list[Any] = []
        self.ran: list[int] = []
        self.cut: list[Any] = []
        self.disconnected = 0

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cut.append(packet.data)
            raise
        self.got.append(packet.data)

    async def on_disconnect(self, connection: ClientConnection) -> None:
        self.disconnected += 1

    @rpc_method()
    async def do(self, connection: ClientConnection, number: int) -> int:
        self.ran.append(number)
        return number

    @rpc_method()
    async def ticks(self, connection: ClientConnection) -> AsyncIterator[int]:
        while True:
            yield 1
            await trio.sleep(0.3)

    @rpc_method()
    async def wait(self, connection: ClientConnection, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json", "jsonrpc"])
@pytest.mark.parametrize("seconds", [0, 0.01, 0.15])
async def test_packets_that_cross_the_close_arrive(
    seconds: float, dialect: str, autojump_clock: MockClock
) -> None:
    """In order, even if on_receive is slow, within drain_timeout and close_timeout."""
    handler = Handler(seconds)
    sent: list[int] = []
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect) as client:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def talk() -> None:
                    with pytest.raises(ConnectionClosedError):
                        for number in range(10_000):
                            await client.send(number)
                            sent.append(number)
                            await trio.sleep(0.1)

                await trio.sleep(5)
                report = await memory.server.drain()
        assert report.cancelled == 0
    assert len(sent) > 50
    assert handler.got == sent
    assert handler.cut == []
    assert handler.disconnected == 1


@pytest.mark.parametrize("shared", [False, True])
async def test_drain_over_sockets(shared: bool) -> None:
    """With and without the shared reader."""
    handler = Handler()
    sent = 0
    async with serving(handler) as server:
        async with trio.open_nursery() as nursery:
            stopping = trio.Event()

            async def talk(*, task_status: trio.TaskStatus[None]) -> None:
                nonlocal sent
                async with WebSocketClient(server.url, proxy=None) as client:
                    task_status.started()
                    with pytest.raises(ConnectionClosedError):
                        while True:
                            await client.send(0)
                            sent += 1
                            if sent > 300:
                                stopping.set()
                            await trio.lowlevel.checkpoint()  # the Close is sent by this program

            for _ in range(12 if shared else 2):
                await nursery.start(talk)
            await stopping.wait()
            report = await server.drain()
    assert report.cancelled == 0
    assert len(handler.got) == sent


@pytest.mark.parametrize("code", [1000, 4000])
async def test_messages_of_a_client_that_closes_immediately_are_received(
    code: int, autojump_clock: MockClock
) -> None:
    handler = Handler(0.1)
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(latency=0.1)) as client:
            for number in range(20):
                await client.send(number)
            client._live.close_soon(code, "")
        await trio.sleep(5)
        assert handler.got == list(range(20))
        assert handler.disconnected == 1
        assert not memory.server.connections


async def test_messages_after_a_close_are_handled_for_close_timeout_at_most(
    autojump_clock: MockClock,
) -> None:
    handler = Handler(1)
    async with serving_in_memory(handler, options=Options(close_timeout=5)) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for number in range(20):
                await client.send(number)
        await trio.sleep(7)
        assert len(handler.got) in (4, 5)
        assert handler.cut == [len(handler.got)]
        assert handler.disconnected == 1


async def test_a_cut_connection_delivers_no_more(autojump_clock: MockClock) -> None:
    handler = Handler(1)
    async with serving_in_memory(handler) as memory:
        link = await memory.listener.open_link()
        async with WebSocketClient("ws://test/", stream=link.client) as client:
            for number in range(20):
                await client.send(number)
            await trio.sleep(0.5)
            link.cut()
            await trio.sleep(0.1)
            assert handler.cut == [0]
            assert handler.disconnected == 1


async def test_an_echo_that_meets_the_close_ends_only_for_that_packet(autojump_clock: MockClock) -> None:
    class Echo(Handler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            self.got.append(packet.data)
            await connection.send(packet.data)

    handler = Echo()
    sent: list[int] = []
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream) as client:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def talk() -> None:
                    with pytest.raises(ConnectionClosedError):
                        while True:
                            await client.send(len(sent))
                            sent.append(len(sent))
                            await trio.sleep(0.1)

                await trio.sleep(5)
                await memory.server.drain()
            assert client.websocket.close_code == 1001
    assert handler.got == sent


async def test_the_reply_to_the_packet_of_now_goes_out_first(autojump_clock: MockClock) -> None:
    class Replies(Handler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await trio.sleep(2)
            await connection.send(packet.data)

    async with serving_in_memory(Replies()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for number in range(5):
                await client.send(number)
            await trio.sleep(1)
            await memory.server.drain()
            packet = await client.recv()
            assert packet is not None
            assert packet.data == 0
            assert await client.recv() is None


@pytest.mark.parametrize("busy", [False, True])
async def test_calls_that_cross_the_close_say_that_they_did_not_run(
    busy: bool, autojump_clock: MockClock
) -> None:
    """They are refused while others run. Then the server sends the ids of the calls that it has started."""
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream) as client:
            done: list[int] = []
            refused: list[int] = []
            lost: dict[int, bool] = {}

            async def call(number: int) -> None:
                try:
                    done.append(await client.call("do", number))
                except RPCCancelledError:
                    refused.append(number)
                except ConnectionClosedError as exc:
                    lost[number] = exc.may_have_run

            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def talk() -> None:
                    for number in range(100):
                        nursery.start_soon(call, number)
                        await trio.sleep(0.1)

                if busy:
                    nursery.start_soon(client.call, "wait", 6)
                await trio.sleep(5)
                report = await memory.server.drain()
            assert report.cancelled == 0
            assert sorted([*done, *refused, *lost]) == list(range(100))
            assert handler.ran == done
            assert len(done) >= 30
            assert bool(refused) is busy
            assert len(lost) > 10
            assert not any(lost.values())


async def test_calls_that_are_cut_say_that_they_ran(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=Options(drain_timeout=2)) as memory:
        stream = await memory.stream(latency=0.1)
        async with WebSocketClient("ws://test/", stream=stream) as client:
            lost: list[bool] = []

            async def call() -> None:
                with pytest.raises(ConnectionClosedError) as info:
                    await client.call("wait", 1000)
                lost.append(info.value.may_have_run)

            async def follow() -> None:
                with pytest.raises(ConnectionClosedError) as info:
                    async for _ in client.stream_rpc("ticks"):
                        pass
                lost.append(info.value.may_have_run)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(call)
                    nursery.start_soon(follow)
                await trio.sleep(1)
                report = await memory.server.drain()
            assert report.cancelled == 1
            assert lost == [True] * 6


async def test_a_server_that_says_nothing_of_it_may_have_run_the_call(autojump_clock: MockClock) -> None:
    listener = MemoryListener()

    async def silent(ws: Any) -> None:
        await ws.recv()
        await ws.close(1001)

    async with WebSocketServer(silent, listeners=[listener], subprotocols=["trio-ws.v1"]):
        async with WebSocketClient("ws://test/", stream=await listener.connect()) as client:
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("do", 1)
            assert info.value.may_have_run


async def test_a_response_that_crosses_the_close_arrives(autojump_clock: MockClock) -> None:
    """A server calls its client while it is stopping."""
    answers: list[int] = []

    class Asks(Handler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await connection.send("ready")

        async def ask(self) -> None:
            (connection,) = self.clients
            answers.append(await connection.call("do", 7, returns=int))

    handler = Asks()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, handler=Handler()) as client:
            await client.call("do", 1)
            nursery.start_soon(handler.ask)
            await trio.sleep(0.5)
            await memory.server.drain()
    assert answers == [7]


@pytest.mark.parametrize("fails", [False, True])
async def test_calls_of_a_server_that_cross_the_leaving_of_its_client(
    fails: bool, autojump_clock: MockClock
) -> None:
    """The client has started one of them, and reports its id."""
    lost: list[tuple[str, bool]] = []
    mine = Handler()

    class Asks(Handler):
        async def ask(self, method: str, value: int) -> None:
            (connection,) = self.clients
            with pytest.raises(ConnectionClosedError) as info:
                await connection.call(method, value)
            lost.append((method, info.value.may_have_run))

    handler = Asks()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        stream = await memory.stream(latency=1)
        with pytest.raises(ValueError, match="of the block") if fails else contextlib.nullcontext():
            async with WebSocketClient("ws://test/", stream=stream, handler=mine) as client:
                await client.call("do", 1)
                nursery.start_soon(handler.ask, "wait", 100)
                await trio.sleep(5)
                nursery.start_soon(handler.ask, "do", 7)
                await trio.sleep(0.5)
                if fails:
                    raise ValueError("of the block")
        await trio.sleep(5)
    assert mine.ran == []
    assert sorted(lost) == [("do", False), ("wait", True)]


async def test_the_goaway_packet_before_the_close(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.server.drain)
            frame = await peer.receive_frame()
            assert frame is not None
            assert msgspec.msgpack.decode(frame.payload)["rpc"] == {
                "type": "request",
                "method": "__goaway__",
                "args": [[]],
            }
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.payload == (1001).to_bytes(2, "big")
            await peer.send_close(1001)


@pytest.mark.parametrize("args", [[], [1], [[1]], [["1"], ["2"]], [{"1": 2}]])
async def test_an_invalid_goaway_packet_closes_the_connection(
    args: list[Any], autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with memory.connect(subprotocols=["trio-ws.v1"]) as ws:
            await ws.send(TrioWSCodec().request("", "__goaway__", args))
            with pytest.raises(ConnectionClosedError) as info:
                await ws.recv()
            assert info.value.code == 1008
