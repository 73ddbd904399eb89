"""A reconnecting client: which operations wait, fail or continue, and its state."""

from __future__ import annotations

import math
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.inspect import abort, fail_writing
from tests.support.network import Network, refusal
from tests.support.serving import all_tasks, guard, serving, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionFailedError,
    HandshakeRejectedError,
    InvalidURIError,
    Options,
    Packet,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    connect,
    rpc_method,
)
from trio_ws.testing import MemoryListener, RawPeer
from trio_ws.testing.exploring import cancelled_at

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.called: list[Any] = []

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send(packet.data)

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any) -> Any:
        self.called.append(value)
        return value

    @rpc_method()
    async def say(self, connection: ClientConnection, value: Any) -> None:
        await connection.send(value)

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        await trio.sleep_forever()

    @rpc_method()
    async def bye(self, connection: ClientConnection, code: int) -> None:
        await connection.close(code, "bye")

    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
            await trio.sleep(1)

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    @rpc_method()
    async def ask(self, connection: ClientConnection, method: str) -> Any:
        return await connection.call(method)


@asynccontextmanager
async def reconnecting(
    target: Any = None, backoff: Backoff | None = None, **kwargs: Any
) -> AsyncIterator[tuple[WebSocketClient, Network, MemoryServer]]:
    """Connect a client to a server in memory; it reconnects after one second."""
    async with serving_in_memory(Handler() if target is None else target) as memory:
        network = Network(memory.listener)
        backoff = backoff or Backoff(initial=1, factor=1, jitter=False)
        async with WebSocketClient("ws://test/", stream=network, reconnect=backoff, **kwargs) as client:
            yield client, network, memory


# -- calls ------------------------------------------------------------------------------------------


async def test_calls_made_while_down_wait_and_go_on(autojump_clock: MockClock) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    class API:
        async def echo(self, value: int) -> int:
            raise NotImplementedError

    async with reconnecting() as (client, network, _):
        math_of = client.proxy(API)
        network.plan = [OSError("unplugged")] * 3
        network.cut()
        await trio.sleep(0.5)
        results: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def one(function: Any) -> None:
                results.append(await function())
                assert trio.current_time() >= 4

            async def items() -> list[Any]:
                async with client.stream("count", 2) as stream:
                    return [item async for item in stream]

            async def packets() -> list[Any]:
                return [packet.data async for packet in client.stream_rpc("count", 2)]

            async def said() -> Any:
                await client.send("hello")
                packet = await client.recv()
                assert packet is not None
                return packet.data

            nursery.start_soon(one, lambda: client.call("echo", 1))
            nursery.start_soon(one, lambda: client.call("total", numbers()))
            nursery.start_soon(one, lambda: math_of.echo(5))
            nursery.start_soon(one, items)
            nursery.start_soon(one, packets)
            nursery.start_soon(one, said)
            nursery.start_soon(one, client.ping)
        assert sorted(results, key=str) == sorted([1, 3, 5, [0, 1], [0, 1], "hello", 0.0], key=str)
        response = await client.send_rpc("nobody")
        assert isinstance(response.error, RPCError)


async def test_a_call_waits_under_its_own_cancel_scope(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with reconnecting(handler) as (client, network, _):
        network.plan = [OSError("unplugged")] * 9
        network.cut()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(3):
                await client.call("echo", "too late")
        assert trio.current_time() == 3
        assert await client.call("echo", "in time") == "in time"
        assert handler.called == ["in time"]


async def test_a_call_says_whether_it_may_have_run(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with reconnecting(handler, options=Options(send_high_water=1000)) as (client, network, _):
        network.links[0].partition(direction="to_server")
        errors: dict[str, ConnectionClosedError] = {}

        async def call(name: str, *args: Any) -> None:
            try:
                await client.call("echo", name, *args)
            except ConnectionClosedError as exc:
                errors[name] = exc
                assert trio.current_time() == 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "sent")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, "too long for the link", "x" * 200_000)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call, "not even begun")
            await trio.sleep(1)
            network.cut()
        assert {name: error.may_have_run for name, error in errors.items()} == {
            "sent": True,
            "too long for the link": False,
        }
        assert handler.called == ["not even begun"]


@pytest.mark.parametrize("reconnects", [True, False])
async def test_a_call_says_whether_it_may_have_run_over_sockets(reconnects: bool) -> None:
    """The server does not read, so a request that is larger than all buffers was not sent completely."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await RawPeer.accept(stream, [("Sec-WebSocket-Protocol", "trio-ws.v1")])
            await gone.wait()

    gone = trio.Event()
    errors: list[ConnectionClosedError] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def call(size: int) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            await client.call("echo", b"x" * size)
        errors.append(info.value)

    with trio.fail_after(guard()):
        async with trio.open_nursery() as server, listener:
            server.start_soon(trio.serve_listeners, serve, [listener])
            backoff = Backoff(initial=20, jitter=False) if reconnects else None
            async with WebSocketClient(f"ws://127.0.0.1:{port}/", reconnect=backoff) as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call, 1)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(call, 30_000_000)
                    while client.websocket.buffered_bytes < 1_000_000:
                        await trio.sleep(0)
                    gone.set()
            server.cancel_scope.cancel()
    assert sorted(error.may_have_run for error in errors) == [False, True]


async def test_a_stream_in_flight_fails_after_what_has_come(autojump_clock: MockClock) -> None:
    async with reconnecting() as (client, network, _):
        got = []
        with pytest.raises(ConnectionClosedError):
            async with client.stream("count", 10) as items:
                async for item in items:
                    got.append(item)
                    if item == 2:
                        network.cut()
        assert got == [0, 1, 2]
        async with client.stream("count", 3) as items:
            assert [item async for item in items] == [0, 1, 2]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_reconnects_after_every_close_code(code: int, autojump_clock: MockClock) -> None:
    async with reconnecting() as (client, network, _):
        with pytest.raises(ConnectionClosedError) as info:
            await client.call("bye", code)
        assert info.value.code == code
        assert await client.call("echo", 1) == 1
        assert len(network.times) == 2


async def test_a_server_that_closes_and_hangs_is_not_waited_for(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    network = Network(listener)

    async def serve() -> None:
        peer = await RawPeer.accept(await listener.accept(), [("Sec-WebSocket-Protocol", "trio-ws.v1")])
        await peer.send_close(1012)
        second = await RawPeer.accept(await listener.accept(), [("Sec-WebSocket-Protocol", "trio-ws.v1")])
        assert trio.current_time() == 1  # and not after close_timeout
        await second.receive_until_close()
        await second.send_close()
        await second.aclose()

    before = all_tasks()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            backoff = Backoff(initial=1, jitter=False)
            async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
                async for state in client.watch_state():
                    if len(network.times) == 2 and state == "connected":
                        break
    assert all_tasks() == before


@pytest.mark.parametrize("reconnects", [True, False])
async def test_a_connection_that_takes_no_more_and_has_not_ended(
    reconnects: bool, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler()) as memory:
        backoff = Backoff(initial=1, jitter=False) if reconnects else None
        async with WebSocketClient("ws://test/", stream=memory.stream, reconnect=backoff) as client:
            fail_writing(client.websocket, OSError("as a socket says that was shut down"))
            assert client.state == "connected"
            if reconnects:
                assert await client.call("echo", 1) == 1
                assert trio.current_time() == 11  # after close_timeout and the wait
            else:
                with pytest.raises(ConnectionClosedError) as info:
                    await client.call("echo", 1)
                assert not info.value.may_have_run


async def test_a_subclass_has_a_rule_of_its_own(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Mine(Backoff):
        def retries(self, error: Any) -> bool:
            if isinstance(error, ConnectionClosedError):
                if error.code == 4001:
                    raise ValueError("a bug in the rule")
                return error.code != 4000
            return super().retries(error)

    for code in (4000, 4001):
        async with reconnecting(backoff=Mine()) as (client, network, _):
            for _ in range(2):
                with pytest.raises(ConnectionClosedError) as info:
                    await client.call("bye", code)
                assert info.value.code == code
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert client.state == "disconnected"
            assert len(network.times) == 1
    assert "a bug in the rule" in caplog.text


async def test_a_bug_of_the_function_that_gives_streams(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with reconnecting() as (client, network, _):
        network.plan = [KeyError("a bug")]
        network.cut()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionFailedError, match="a bug") as info:
            await client.call("echo", 1)
        assert isinstance(info.value.__cause__, KeyError)
    assert "reconnecting failed" in caplog.text
    network = Network()
    network.plan = [KeyError("a bug")]
    with pytest.raises(KeyError):
        async with WebSocketClient("ws://test/", stream=network, reconnect=Backoff()):
            pytest.fail("connected")


# -- packets ----------------------------------------------------------------------------------------


async def test_packets_go_on_over_connections_and_none_is_lost(autojump_clock: MockClock) -> None:
    async with reconnecting() as (client, network, _):
        for value in range(3):
            await client.call("say", value)
            network.cut()
            await trio.sleep(5)
        await client.call("say", "last")
        got = []
        async for packet in client:
            got.append(packet.data)
            if packet.data == "last":
                break
        assert got == [0, 1, 2, "last"]

        async def lose() -> None:
            await trio.sleep(1)
            network.cut()
            await trio.testing.wait_all_tasks_blocked()
            await client.call("say", "over the next one")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            next_packet = await client.recv()
            assert next_packet is not None
            assert next_packet.data == "over the next one"


async def test_packets_that_wait_are_there_after_it_gave_up(autojump_clock: MockClock) -> None:
    async with reconnecting(backoff=Backoff(attempts=1)) as (client, network, _):
        await client.call("say", 1)
        network.down = True
        network.cut()
        await trio.sleep(100)
        assert client.state == "disconnected"
        packet = await client.recv()
        assert packet is not None
        assert packet.data == 1
        with pytest.raises(ConnectionFailedError):
            await client.recv()


async def test_the_clients_own_methods_are_there_on_each_connection(autojump_clock: MockClock) -> None:
    class Mine(WebSocketHandler):
        def __init__(self) -> None:
            self.got: list[Any] = []
            self.stuck = 0

        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            self.got.append(packet.data)

        @rpc_method()
        async def seven(self, connection: ClientConnection) -> int:
            return 7

    mine = Mine()
    async with reconnecting(handler=mine) as (client, network, _):
        for value in range(3):
            assert await client.call("ask", "seven") == 7
            await client.call("say", value)
            network.cut()
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="on_receive"):
            await client.recv()
    assert mine.got == [0, 1, 2]


# -- state ------------------------------------------------------------------------------------------


def state_of(client: WebSocketClient) -> str:
    """Return the state of a client. Type checkers would otherwise assume that it does not change."""
    return client.state


async def test_state_and_its_changes(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener, latency=0.25)
        network.plan = [OSError("unplugged")]
        backoff = Backoff(initial=1, factor=1, jitter=False)
        client = WebSocketClient("ws://test/", stream=network, reconnect=backoff)
        seen: list[tuple[float, str]] = []

        async def watch() -> None:
            async for state in client.watch_state():
                seen.append((trio.current_time(), state))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            assert state_of(client) == "disconnected"
            async with client:
                assert state_of(client) == "connected"
                assert client.connected
                slow = client.watch_state()
                assert await anext(slow) == "connected"
                await trio.sleep(1)
                network.cut()
                await trio.sleep(0.5)
                assert state_of(client) == "waiting"
                assert not client.connected
                await trio.sleep(0.75)
                assert state_of(client) == "connecting"
                await trio.sleep(1)
                assert await anext(slow) == "connected"  # only the latest state, and none of those in between
                with trio.move_on_after(5):
                    await anext(slow)
            assert state_of(client) == "closed"
            assert await anext(slow) == "closed"
            for _ in range(2):
                with pytest.raises(StopAsyncIteration):
                    await anext(slow)
        assert seen == [
            (0, "disconnected"),
            (0, "waiting"),
            (1, "connecting"),
            (1.5, "connected"),
            (2.5, "waiting"),
            (3.5, "connecting"),
            (4, "connected"),
            (9.75, "closed"),
        ]


async def test_state_without_reconnecting(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        stream = await memory.stream()
        client = WebSocketClient("ws://test/", stream=stream)
        async with client:
            assert state_of(client) == "connected"
            stream.link.cut()
            await trio.testing.wait_all_tasks_blocked()
            assert state_of(client) == "disconnected"
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("echo", 1)
            assert not info.value.may_have_run
        assert state_of(client) == "closed"


# -- leaving ----------------------------------------------------------------------------------------


async def test_leaving_the_block_ends_all_that_waits(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with trio.open_nursery() as nursery:
            failed = 0

            async def wait(method: str) -> None:
                nonlocal failed
                with pytest.raises(ConnectionClosedLocallyError):
                    await (client.recv() if method == "recv" else client.call(method))
                failed += 1
                assert trio.current_time() == 2

            async with WebSocketClient(
                "ws://test/", stream=network, reconnect=Backoff(initial=9, jitter=False)
            ) as client:
                nursery.start_soon(wait, "recv")
                await trio.sleep(1)
                network.cut()
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(wait, "wait")
                await trio.sleep(1)
        assert failed == 2
        with pytest.raises(ConnectionClosedLocallyError, match="left"):
            await client.call("echo", 1)
        with pytest.raises(ConnectionClosedLocallyError):
            await client.connect()


async def test_cancelled_at_every_checkpoint(autojump_clock: MockClock) -> None:
    """Entering with a refusal, a loss, a call that waits, and leaving: nothing is left behind."""
    count = 0
    more = True
    while more:
        count += 1
        before = all_tasks()
        async with serving_in_memory(Handler()) as memory:
            network = Network(memory.listener, latency=0.125)
            network.plan = [refusal(503)]
            backoff = Backoff(initial=1, jitter=False)

            async def script() -> None:
                async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
                    assert await client.call("echo", 1) == 1
                    network.cut()
                    await trio.sleep(0.1)
                    assert await client.call("echo", 2) == 2
                    network.cut()
                    await trio.sleep(0.1)
                    await client.ping()
                    await client.send("x")
                    assert await client.recv() is not None

            more = await cancelled_at(count, script)
            with trio.fail_after(30):
                while memory.server._clients:
                    await memory.server._client_done.wait()
        assert all_tasks() == before
    assert count > 20


# -- connect() --------------------------------------------------------------------------------------


async def test_connect_within_the_block(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, autoconnect=False) as client:
            assert client.state == "disconnected"
            with pytest.raises(RuntimeError, match="connect"):
                await client.call("echo", 1)
            network.plan = [refusal(503)]
            with pytest.raises(HandshakeRejectedError):
                await client.connect()
            assert len(network.times) == 1
            with pytest.raises(HandshakeRejectedError):
                await client.call("echo", 1)
            network.plan = [OSError("unplugged"), refusal(503), refusal(500)]
            await client.connect(retry=True, max_retry_attempt=5, retry_interval=2)
            assert len(network.times) == 5
            assert trio.current_time() <= 2 + 4 + 8
            assert await client.call("echo", 1) == 1
            await client.connect()  # there is one
            assert len(network.times) == 5
            # After a loss, the caller must connect again.
            network.cut()
            await trio.sleep(100)
            assert client.state == "disconnected"
            with pytest.raises(ConnectionClosedError):
                await client.call("echo", 1)
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            await client.connect()
            assert await client.call("echo", 2) == 2
            # The client gives up.
            network.cut()
            network.down = True
            await trio.testing.wait_all_tasks_blocked()
            tried = len(network.times)
            with pytest.raises(ConnectionFailedError, match="nobody is there"):
                await client.connect(retry=True, max_retry_attempt=4)
            assert len(network.times) == tried + 4


async def test_connect_after_a_loss_of_a_client_that_never_reconnects(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network) as client:
            network.cut()
            await trio.sleep(1)
            await client.connect()
            assert await client.call("echo", 1) == 1
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream) as client:
            await client.connect()  # there is one
            stream.link.cut()
            await trio.sleep(1)
            with pytest.raises(RuntimeError, match="a stream serves one connection"):
                await client.connect()


async def test_connect_without_the_block_says_what_to_do(autojump_clock: MockClock) -> None:
    client = WebSocketClient("ws://test/", autoconnect=False)
    with pytest.raises(RuntimeError, match="async with"):
        await client.connect(retry=True, max_retry_attempt=5, retry_interval=2)


async def test_connect_by_several_tasks_dials_once_and_survives_a_cancelled_one(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        network.plan = [OSError("unplugged")] * 3
        async with WebSocketClient("ws://test/", stream=network, autoconnect=False) as client:

            async def cancelled() -> None:
                with trio.move_on_after(0.001):
                    await client.connect(retry=True, max_retry_attempt=9)

            async def patient() -> None:
                await client.connect(retry=True, max_retry_attempt=9)
                assert await client.call("echo", 1) == 1

            async def waits() -> None:
                await trio.sleep(0.0005)
                try:
                    assert await client.call("echo", 1) == 1
                except RuntimeError:
                    pass  # the subscription had no reader for a moment

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancelled)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(patient)
                nursery.start_soon(patient)
                nursery.start_soon(waits)
            assert client.state == "connected"
            assert len(network.times) == 4


@pytest.mark.parametrize("step", [b"", OSError("unplugged")])
async def test_connect_in_a_task_outside_ends_with_the_block(step: Any, autojump_clock: MockClock) -> None:
    network = Network()
    network.plan = [step] * 9
    before = all_tasks()
    async with trio.open_nursery() as nursery:
        ended = 0

        async def elsewhere() -> None:
            nonlocal ended
            with pytest.raises(ConnectionClosedLocallyError):
                await client.connect(retry=True, max_retry_attempt=9, retry_interval=1000)
            ended += 1
            assert trio.current_time() == 1

        async with WebSocketClient("ws://test/", stream=network, autoconnect=False) as client:
            nursery.start_soon(elsewhere)
            nursery.start_soon(elsewhere)
            await trio.sleep(1)
    assert ended == 2
    assert all_tasks() == before
    assert all(link.client._closed for link in network.links)


async def test_connect_after_it_gave_up_begins_anew(autojump_clock: MockClock) -> None:
    async with reconnecting(backoff=Backoff(attempts=2)) as (client, network, _):
        network.down = True
        network.cut()
        await trio.sleep(100)
        with pytest.raises(ConnectionFailedError):
            await client.call("echo", 1)
        network.down = False
        await client.connect()
        assert await client.call("echo", 1) == 1
        await trio.sleep(100)
        network.cut()
        await trio.testing.wait_all_tasks_blocked()
        assert await client.call("echo", 2) == 2


# -- wrong uses -------------------------------------------------------------------------------------


def made(**arguments: Any) -> Backoff:
    return Backoff(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"initial": "1"}, TypeError, "^initial must be a number, not str"),
        ({"initial": -1}, ValueError, "^initial must be finite and at least 0"),
        ({"maximum": math.inf}, ValueError, "^maximum must be finite and at least 0"),
        ({"maximum": True}, TypeError, "^maximum must be a number, not bool"),
        ({"factor": 0.5}, ValueError, "^factor must be finite and at least 1"),
        ({"factor": math.nan}, ValueError, "^factor must be"),
        ({"reset_after": -1}, ValueError, "^reset_after must be finite and at least 0"),
        ({"max_retry_after": -1}, ValueError, "^max_retry_after must be finite and at least 0"),
        ({"max_retry_after": float("inf")}, ValueError, "^max_retry_after must be finite"),
        ({"initial": 31}, ValueError, r"^initial \(31\) must be at most maximum"),
        ({"attempts": 0}, ValueError, "^attempts must be 1 or more, not 0"),
        ({"attempts": 1.5}, TypeError, "^attempts must be an int or None, not float"),
        ({"attempts": True}, TypeError, "^attempts must be an int or None, not bool"),
    ],
)
def test_a_wrong_backoff(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**arguments)


def test_backoff_stays_within_its_bounds_for_ever() -> None:
    backoff = Backoff(initial=0.5, maximum=30, factor=10)
    for wait in (1, 2, 3, 100, 10**6):
        assert 0 <= backoff.delay(wait) <= min(30, 0.5 * 10 ** min(wait - 1, 9))
    assert Backoff(jitter=False).delay(10**6) == 30
    assert Backoff(initial=0, maximum=0).delay(5) == 0


async def test_wrong_uses(autojump_clock: MockClock) -> None:
    reconnect: Any = True
    with pytest.raises(TypeError, match=r"use Backoff\(\.\.\.\)"):
        WebSocketClient("ws://test/", reconnect=reconnect)
    link = await MemoryListener().open_link()
    for arguments in ({"reconnect": Backoff()}, {"autoconnect": False}):
        client: Any = WebSocketClient
        with pytest.raises(ValueError, match="an async function that opens one"):
            client("ws://test/", stream=link.client, **arguments)
    network = Network()
    with pytest.raises(InvalidURIError):
        async with WebSocketClient("http://test/", stream=network, reconnect=Backoff()):
            pytest.fail("connected")
    assert network.times == []
    client = WebSocketClient("ws://test/", reconnect=Backoff())
    with pytest.raises(RuntimeError, match="not connected"):
        await client.call("echo", 1)


async def test_connect_takes_a_function_for_its_stream(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory:
        async with connect("ws://test/", stream=memory.stream) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"
    with pytest.raises(ConnectionFailedError, match="was closed") as info:
        async with connect("ws://test/", stream=memory.stream):
            pytest.fail("connected")
    assert isinstance(info.value.__cause__, ConnectionRefusedError)


# -- the real world ---------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted_is_not_retried() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    tries = 0

    async def dial() -> trio.abc.Stream:
        nonlocal tries
        tries += 1
        return await trio.open_tcp_stream("127.0.0.1", server.port)

    async with serving(Handler(), ssl_context=context) as server:
        with pytest.raises(ConnectionFailedError, match="certificate"):
            async with WebSocketClient("wss://localhost/", stream=dial, reconnect=Backoff()):
                pytest.fail("trusted")
        assert tries == 1
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        async with WebSocketClient(
            "wss://localhost/", stream=dial, ssl_context=trusting, reconnect=Backoff(initial=0.001)
        ) as client:
            assert await client.call("echo", 1) == 1
            (connection,) = server.connections
            changes = client.watch_state()
            assert await anext(changes) == "connected"
            abort(connection)  # as if the cable were cut
            await anext(changes)
            assert await client.call("echo", 2) == 2
        assert tries == 3


SERVER = """
import sys
import trio, trio_ws

class Handler(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def generation(self, connection: trio_ws.ClientConnection) -> str:
        return sys.argv[2]

async def main():
    async with trio_ws.WebSocketServer(Handler, int(sys.argv[1]), host="127.0.0.1") as server:
        print(server.port, flush=True)
        await server.serve_forever()

trio.run(main)
"""


@asynccontextmanager
async def server_process(port: int, generation: str) -> AsyncIterator[tuple[trio.Process, int]]:
    """Run a server in its own process, which is killed at the end of the block."""
    command = [sys.executable, "-c", SERVER, str(port), generation]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        yield process, int(line)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stdout.aclose()


async def test_a_server_that_is_killed_and_comes_back() -> None:
    with trio.fail_after(guard()):
        async with server_process(0, "first") as (process, port):
            backoff = Backoff(initial=0.01, maximum=0.1)
            async with WebSocketClient(f"ws://127.0.0.1:{port}/", reconnect=backoff) as client:
                assert await client.call("generation") == "first"
                changes = client.watch_state()
                process.send_signal(signal.SIGKILL)
                async for state in changes:
                    if state != "connected":
                        break
                async with trio.open_nursery() as nursery:
                    answers: list[str] = []

                    async def call() -> None:
                        answers.append(await client.call("generation", returns=str))

                    for _ in range(5):
                        nursery.start_soon(call)
                    await trio.testing.wait_all_tasks_blocked()
                    assert answers == []
                    async with server_process(port, "second"):
                        while len(answers) < 5:
                            await trio.sleep(0.01)
                assert answers == ["second"] * 5
