"""Channels of a client: the packets on the wire, delivery, and the effect of a lost connection.

The test plays the server packet by packet, so it sees each request and their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.network import Network
from tests.support.serving import all_tasks, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    ConnectionFailedError,
    Options,
    Packet,
    PacketError,
    PacketSource,
    RPCAccessDeniedError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    Subscription,
    SubscriptionError,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.codecs.base import Request
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.testing.exploring import cancelled_at

if TYPE_CHECKING:
    from trio.testing import MockClock

DIALECT = TrioWSCodec()


class Channels:
    """A server of channels for one client at a time.

    Attributes:
        requests: the method and the first argument of each request.
        refuse: for each name, the response to a subscription: False or a code.
        silent: whether requests are not answered.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.refuse: dict[str, Any] = {}
        self.silent = False
        self.held: set[str] = set()
        self.ws: WebSocket | None = None

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept("trio-ws.v1")
        self.ws = ws
        self.held = set()
        async for message in ws:
            assert message.data is not None
            packet = DIALECT.decode(message.data)
            request = packet.rpc
            if not isinstance(request, Request):
                await ws.send(message)
                continue
            self.requests.append((request.method, request.args[0] if request.args else None))
            if not self.silent:
                await ws.send(self.answer(request))

    def answer(self, request: Request) -> bytes:
        if request.method == "__subscribe__":
            for name in request.args[0]:
                refusal = self.refuse.get(name)
                if refusal is False:
                    return DIALECT.result(request, False)
                if refusal is not None:
                    return DIALECT.error(request, refusal, f"{name} is refused")
            self.held.update(request.args[0])
            return DIALECT.result(request, True)
        if request.method == "__unsubscribe__":
            self.held.difference_update(request.args[0])
            return DIALECT.result(request, True)
        return DIALECT.result(request, request.args[0])

    async def publish(self, channel: str, *values: Any) -> None:
        assert self.ws is not None
        for value in values:
            await self.ws.send(DIALECT.data(value, source=PacketSource.CHANNEL, channel=channel))
        await trio.testing.wait_all_tasks_blocked()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def waiting(subscription: Subscription) -> list[Any]:
    """Return the data of all waiting packets."""
    got = []
    while True:
        try:
            got.append(subscription.receive_nowait().data)
        except trio.WouldBlock:
            return got


async def test_one_name(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with client.subscribe("news") as subscription:
                assert server.held == {"news"}
                await server.publish("news", 1, 2)
                packet = await subscription.receive()
                assert packet == Packet(PacketSource.CHANNEL, 1, "news")
                assert waiting(subscription) == [2]
            with pytest.raises(trio.ClosedResourceError):
                await subscription.receive()
            await client.call("echo", 1)
            assert server.held == set()
            assert client._live.transport.read_demand.count == 0
        assert server.requests == [("__subscribe__", ["news"]), ("__unsubscribe__", ["news"]), ("echo", 1)]


async def test_names_are_counted(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with client.subscribe("a") as first:
                async with client.subscribe(["a", "b", "a"]) as second:
                    async with client.subscribe("a"):
                        pass
                    await server.publish("a", 1)
                    await server.publish("b", 2)
                    assert waiting(first) == [1]
                    assert waiting(second) == [1, 2]
                await settle()
                assert server.held == {"a"}
            await settle()
        assert server.requests == [
            ("__subscribe__", ["a"]),
            ("__subscribe__", ["b"]),
            ("__unsubscribe__", ["b"]),
            ("__unsubscribe__", ["a"]),
        ]


async def test_globs_and_one_copy_for_each_subscription(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with (
                client.subscribe(["news.*", "news.tech", "*.tech"]) as many,
                client.subscribe("news.tech") as one,
                client.subscribe("?ews.[a-s]*") as other,
            ):
                await server.publish("news.tech", 1)
                await server.publish("news.art", 2)
                await server.publish("none", 3)
                assert waiting(many) == [1, 2]
                assert waiting(one) == [1]
                assert waiting(other) == [2]
                # Nobody listens to this one here, so it is a packet like others.
                packet = await client.recv()
                assert packet is not None
                assert (packet.channel, packet.data) == ("none", 3)


async def test_other_packets_go_where_they_went(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with client.subscribe("*") as subscription:
                assert server.ws is not None
                await server.ws.send(DIALECT.data("to all", source=PacketSource.BROADCAST))
                await server.ws.send(DIALECT.data("plain"))
                await server.ws.send(DIALECT.data("nameless", source=PacketSource.CHANNEL))
                got = [packet.data for packet in [await client.recv() for _ in range(3)] if packet]
                assert got == ["to all", "plain", "nameless"]
                assert waiting(subscription) == []


async def test_the_clients_handler_gets_what_no_subscription_listens_to(autojump_clock: MockClock) -> None:
    got: list[Any] = []

    class Mine(WebSocketHandler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            got.append(packet.data)

    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), handler=Mine) as client:
            async with client.subscribe("a") as subscription:
                await server.publish("a", 1)
                await server.publish("b", 2)
                assert waiting(subscription) == [1]
    assert got == [2]


async def test_policies(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with (
                client.subscribe("a", max_items=2) as oldest,
                client.subscribe("a", max_items=2, policy="drop_newest") as newest,
                client.subscribe("a", max_items=2, policy="disconnect") as disconnected,
            ):
                await server.publish("a", 1, 2, 3)
                assert waiting(oldest) == [2, 3]
                assert waiting(newest) == [1, 2]
                assert (oldest.dropped, newest.dropped) == (1, 1)
                assert [(await disconnected.receive()).data for _ in range(2)] == [1, 2]
                with pytest.raises(trio.BrokenResourceError, match="max_items"):
                    await disconnected.receive()
                assert client.connected
                await server.publish("a", 4)
                assert waiting(oldest) == [4]


async def test_wrong_uses(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            subscribe: Any = client.subscribe
            wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
                (
                    ("a",),
                    {"policy": "block"},
                    ValueError,
                    "policy must be one of 'drop_oldest', 'drop_newest'",
                ),
                (("a",), {"policy": "none"}, ValueError, "policy must be one of"),
                (("a",), {"max_items": 0}, ValueError, "max_items must be 1 or more"),
                (("a",), {"max_items": "1"}, TypeError, "max_items must be an int"),
                (("",), {}, ValueError, "1 to 256 characters"),
                (("x" * 257,), {}, ValueError, "1 to 256 characters"),
                (([],), {}, ValueError, "at least one channel"),
                (([1],), {}, TypeError, "a channel name must be a str"),
            ]
            for args, kwargs, error, text in wrong:
                with pytest.raises(error, match=text):
                    async with subscribe(*args, **kwargs):
                        pytest.fail("subscribed")
        assert server.requests == []
        stream = await memory.stream()
    with pytest.raises(RuntimeError, match="not connected"):
        async with WebSocketClient("ws://test/", stream=stream).subscribe("a"):
            pytest.fail("subscribed")


async def test_dialects_without_subscriptions(autojump_clock: MockClock) -> None:
    async with serving_in_memory(WebSocketHandler()) as memory:
        for dialect in ("json", "webshocket.v1"):
            async with WebSocketClient("ws://test/", stream=await memory.stream(), dialect=dialect) as client:
                with pytest.raises(
                    PacketError, match=rf"{dialect} does not support subscriptions; use trio-ws\.v1"
                ):
                    async with client.subscribe("a"):
                        pytest.fail("subscribed")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (False, SubscriptionError),
        (-32002, RPCAccessDeniedError),
        (-32602, RPCInvalidParamsError),
        (-32601, RPCMethodNotFoundError),
    ],
)
async def test_refusals(answer: Any, error: type[Exception], autojump_clock: MockClock) -> None:
    server = Channels()
    server.refuse = {"secret": answer}
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for names in ("secret", ["open", "secret"]):
                with pytest.raises(error, match="secret"):
                    async with client.subscribe(names):
                        pytest.fail("subscribed")
                await settle()
                assert server.held == set()
            assert client._live.transport.read_demand.count == 0
            async with client.subscribe("open") as subscription:
                await server.publish("open", 1)
                assert waiting(subscription) == [1]


async def test_one_that_is_refused_harms_no_other_on_a_good_name(autojump_clock: MockClock) -> None:
    server = Channels()
    server.refuse = {"secret": -32002}
    async with serving_in_memory(server) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream) as client:

            async def greedy() -> None:
                with pytest.raises(RPCAccessDeniedError):
                    async with client.subscribe(["open", "secret"]):
                        pytest.fail("subscribed")

            async def modest() -> None:
                async with client.subscribe("open") as subscription:
                    await trio.sleep(10)
                    await server.publish("open", 1)
                    assert (await subscription.receive()).data == 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(greedy)
                await settle()
                nursery.start_soon(modest)


async def test_a_cancelled_subscriber_harms_no_other(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream) as client:

            async def modest() -> None:
                async with client.subscribe("a") as subscription:
                    await trio.sleep(10)
                    await server.publish("a", 1)
                    assert (await subscription.receive()).data == 1

            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.5):
                    nursery.start_soon(modest)
                    async with client.subscribe(["a", "b"]):
                        pytest.fail("in half the time of a round trip")
            await client.call("echo", 1)
            assert server.held == set()


async def test_unsubscribing_while_the_server_still_handles_the_subscribe(autojump_clock: MockClock) -> None:
    """Otherwise the server would handle the unsubscribe first, and the client would stay subscribed."""

    class Handler(WebSocketHandler):
        async def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            await trio.sleep(5)
            return True

    handler = Handler()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for taken_anew in (False, True):
                with trio.move_on_after(1):
                    async with client.subscribe("a"):
                        pytest.fail("subscribed")
                if taken_anew:
                    async with client.subscribe("a") as subscription:
                        handler.publish("a", 1)
                        assert (await subscription.receive()).data == 1
                await trio.sleep(10)
                (connection,) = handler.clients
                assert connection.subscribed_channel == set()
                assert not client._subscriptions._leaving


async def test_with_a_server_of_ours(autojump_clock: MockClock) -> None:
    class Handler(WebSocketHandler):
        client_globs = True

        def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return name.startswith("news.")

    handler = Handler()
    async with serving_in_memory(handler, options=Options(max_subscribed_channels=2)) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe(["news.*", "news.tech"]) as subscription:
                for name, error in (("secret", RPCAccessDeniedError), ("news.third", SubscriptionError)):
                    with pytest.raises(error):
                        async with client.subscribe(name):
                            pytest.fail("subscribed")
                for round_ in range(3):
                    handler.publish("news.tech", round_)
                    handler.broadcast("to all")
                    packet = await subscription.receive()
                    assert (packet.channel, packet.data) == ("news.tech", round_)
                    other = await client.recv()
                    assert other is not None
                    assert (other.source, other.data) == (PacketSource.BROADCAST, "to all")
                    with pytest.raises(trio.WouldBlock):
                        subscription.receive_nowait()
                    network.cut()
                    await settle()
                    await client.ping()
                    await settle()
            await settle()
            (connection,) = handler.clients
            assert connection.subscribed_channel == set()


async def test_late_packets_of_an_unsubscribed_name_are_dropped(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream) as client:
            async with client.subscribe(["a", "b.*"]):
                pass
            await server.publish("a", "late")
            await server.publish("b.c", "late")
            await client.call("echo", 1)
            await server.publish("a", "by the server's own will")
            packet = await client.recv()
            assert packet is not None
            assert packet.data == "by the server's own will"


async def test_packets_that_are_not_received_do_not_stop_a_subscription(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        options = Options(max_queue_bytes=1000)
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=options) as client:
            async with client.subscribe("a") as subscription:
                await server.publish("b", *range(100))
                await server.publish("a", 1)
                assert (await subscription.receive()).data == 1
    assert "drops packets" in caplog.text


# -- lost connections -------------------------------------------------------------------------------


async def test_a_lost_connection_ends_the_subscription(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream) as client:
            async with client.subscribe("a") as subscription:
                await server.publish("a", 1)
                stream.link.cut()
                await settle()
                assert (await subscription.receive()).data == 1
                for _ in range(2):
                    with pytest.raises(ConnectionClosedError):
                        await subscription.receive()
            with pytest.raises(ConnectionClosedError):
                async with client.subscribe("b"):
                    pytest.fail("subscribed")


async def test_a_clean_end_ends_the_subscription_cleanly(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            async with client.subscribe("a") as subscription:
                await server.publish("a", 1, 2)
                assert server.ws is not None
                await server.ws.close(1001)
                assert [packet.data async for packet in subscription] == [1, 2]
                with pytest.raises(trio.EndOfChannel):
                    await subscription.receive()


@pytest.mark.parametrize("clean", [True, False])
async def test_a_connection_that_ends_while_the_answer_is_due(clean: bool, autojump_clock: MockClock) -> None:
    server = Channels()
    server.silent = True
    async with serving_in_memory(server) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream) as client:

            async def lose() -> None:
                await settle()
                assert server.ws is not None
                if clean:
                    await server.ws.close()
                else:
                    stream.link.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                with pytest.raises(ConnectionClosedError):
                    async with client.subscribe("a"):
                        pytest.fail("subscribed")


# -- reconnecting -----------------------------------------------------------------------------------

BACKOFF = Backoff(initial=1, factor=1, jitter=False)


async def test_subscriptions_come_back_before_calls_that_waited(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe(["a", "b"]) as first, client.subscribe(["b", "c.*"]) as second:
                await server.publish("b", 1)
                async with client.subscribe("gone"):
                    pass
                await settle()
                server.requests.clear()
                network.cut()
                await settle()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.call, "echo", "waited")
                    await settle()
                    async with client.subscribe("d") as third:
                        assert trio.current_time() == 1
                        await server.publish("d", 4)
                        assert waiting(third) == [4]
                await server.publish("a", 2)
                await server.publish("c.x", 3)
                assert waiting(first) == [1, 2]
                assert waiting(second) == [1, 3]
        assert server.requests[0] == ("__subscribe__", ["a", "b", "c.*"])
        assert sorted(map(str, server.requests[1:3])) == ["('__subscribe__', ['d'])", "('echo', 'waited')"]


async def test_leaving_while_down(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe("stays"):
                async with client.subscribe(["a", "stays"]):
                    network.cut()
                    await settle()
                await client.call("echo", 1)
                assert server.held == {"stays"}
            network.cut()
            await settle()
            await client.call("echo", 1)
            assert server.held == set()


async def test_one_name_that_is_refused_the_second_time(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe(["a", "b"]) as both, client.subscribe("a") as one:
                await server.publish("a", 1)
                server.refuse = {"b": -32002}
                network.cut()
                await settle()
                await client.call("echo", 1)
                await server.publish("a", 2)
                assert waiting(one) == [1, 2]
                assert (await both.receive()).data == 1
                with pytest.raises(RPCAccessDeniedError):
                    while True:
                        await both.receive()
                assert server.held == {"a"}


async def test_a_loss_while_the_answer_is_due(autojump_clock: MockClock) -> None:
    server = Channels()
    server.silent = True
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:

            async def lose() -> None:
                await settle()
                network.cut()
                server.silent = False

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                async with client.subscribe("a") as subscription:
                    await server.publish("a", 1)
                    assert waiting(subscription) == [1]


async def test_many_names_come_back(autojump_clock: MockClock) -> None:
    server = Channels()
    names = [f"room.{number}" for number in range(1000)]
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe(names):
                network.cut()
                await settle()
                await client.call("echo", 1)
                assert server.held == set(names)
            assert [len(names) for method, names in server.requests if method == "__subscribe__"] == [
                1000,
                256,
                256,
                256,
                232,
            ]


async def test_the_end_of_trying_ends_the_subscription(autojump_clock: MockClock) -> None:
    server = Channels()
    async with serving_in_memory(server) as memory:
        network = Network(memory.listener)
        backoff = Backoff(attempts=3)
        async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
            async with client.subscribe("a") as subscription:
                await server.publish("a", 1)
                network.down = True
                network.cut()
                assert (await subscription.receive()).data == 1
                with pytest.raises(ConnectionFailedError):
                    await subscription.receive()


async def test_another_server_that_speaks_another_dialect(autojump_clock: MockClock) -> None:
    server = Channels()

    async def json_only(ws: WebSocket) -> None:
        async for _ in ws:
            pass

    async with serving_in_memory(server) as memory, serving_in_memory(json_only) as other:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:
            async with client.subscribe("a") as subscription:
                network.listener = other.listener
                network.cut()
                with pytest.raises(PacketError, match=r"trio-ws\.v1"):
                    await subscription.receive()


async def test_cancelled_at_every_checkpoint(autojump_clock: MockClock) -> None:
    count = 0
    more = True
    while more:
        count += 1
        before = all_tasks()
        server = Channels()
        async with serving_in_memory(server) as memory:
            network = Network(memory.listener, latency=0.125)
            async with WebSocketClient("ws://test/", stream=network, reconnect=BACKOFF) as client:

                async def script() -> None:
                    async with client.subscribe(["a", "b.*"]) as subscription:
                        await server.publish("a", 1)
                        await subscription.receive()
                        async with client.subscribe("a"):
                            network.cut()
                            await trio.sleep(0.1)
                        await client.call("echo", 1)
                        await server.publish("b.c", 2)
                        await subscription.receive()

                more = await cancelled_at(count, script)
                await trio.sleep(10)
                await client.call("echo", 1)
                assert server.held == set()
                subscriptions = client._subscriptions
                for left in ("_names", "_globs", "_held", "_leaving"):
                    assert not getattr(subscriptions, left)
                peer = client._live
                assert not peer.outgoing.pending_calls
                assert not peer.outgoing.sinks
                assert peer.transport.read_demand.count == 0
        assert all_tasks() == before
    assert count > 5


async def test_decoded_size_of_a_subscription_is_bounded(autojump_clock: MockClock) -> None:
    """An empty map takes one byte when encoded, and at least 64 bytes in Python."""
    server = Channels()
    options = Options(channel_max_bytes=100_000)
    maps: list[dict[str, int]] = [{}] * 1000
    async with serving_in_memory(server) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, options=options) as client:
            async with (
                client.subscribe("a") as subscription,
                client.subscribe("b", policy="drop_newest") as other,
            ):
                await server.publish("a", *[maps] * 20)
                assert subscription.dropped == 18
                await server.publish("b", "small", *[maps] * 20)
                assert other.dropped == 18
                assert waiting(subscription) == [maps] * 2
                assert waiting(other) == ["small", maps, maps]
                await server.publish("a", *range(70))
                assert waiting(subscription) == list(range(6, 70))
