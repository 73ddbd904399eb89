"""Hub: delivery in order and once, subscribing and unsubscribing, invalid messages, and statistics."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.inspect import channels_of
from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    Compression,
    IsEqual,
    Options,
    PacketError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.channels import channel as channel_module
from trio_ws.channels import fanout
from trio_ws.websocket import fair_turn

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_names_globs_and_everyone(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        exact = await Listener.join(nursery, memory, "exact", "news.tech")
        glob = await Listener.join(nursery, memory, "glob", "news.*")
        both = await Listener.join(nursery, memory, "both", "news.tech,news.*,n?ws.[st]*")
        none = await Listener.join(nursery, memory, "none", "sports")
        assert handler.publish("news.tech", 1) == 3
        assert handler.publish("news.art", 2) == 2
        assert handler.publish("nobody", 3) == 0
        assert handler.broadcast(4) == 4
        await wait_all_tasks_blocked()
        assert exact.got == [1, 4]
        assert glob.got == [1, 2, 4]
        assert both.got == [1, 2, 4]
        assert none.got == [4]
        assert exact.packets == [
            {"source": 2, "data": 1, "channel": "news.tech"},
            {"source": 1, "data": 4},
        ]
        nursery.cancel_scope.cancel()


async def test_exclude_and_predicate(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [await Listener.join(nursery, memory, name, "room") for name in "abc"]
        connection_of(handler, "b").region = "eu"
        assert handler.publish("room", 1, exclude=[connection_of(handler, "a")]) == 2
        assert handler.publish("room", 2, predicate=IsEqual("region", "eu")) == 1
        assert (
            handler.publish("room", 3, predicate=lambda c: c.name != "b", exclude=iter(handler.clients)) == 0
        )
        assert handler.broadcast(4, predicate=~IsEqual("region", "eu")) == 2
        assert handler.publish("room", 5) == 3
        await wait_all_tasks_blocked()
        assert [one.got for one in listeners] == [[4, 5], [1, 2, 5], [1, 4, 5]]
        nursery.cancel_scope.cancel()


async def test_messages_keep_their_order_whatever_their_channels(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x,y,z*")
        for number in range(100):
            if number % 4 == 3:
                handler.broadcast(number)
            else:
                handler.publish(("x", "y", f"z{number}")[number % 4], number)
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert listener.got == list(range(100))
        nursery.cancel_scope.cancel()


async def test_unsubscribing_takes_effect_for_what_is_published_after_it(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x,x*")
        connection = connection_of(handler, "a")
        handler.publish("x", 1)
        connection.unsubscribe("x")
        assert handler.publish("x", 2) == 1, "the glob still stands"
        connection.unsubscribe(["x*", "never held"])
        assert handler.publish("x", 3) == 0
        assert connection.subscribed_channel == set()
        connection.subscribe("x")
        handler.publish("x", 4)
        await wait_all_tasks_blocked()
        assert listener.got == [1, 2, 4]
        nursery.cancel_scope.cancel()


async def test_a_copy_of_the_set_is_a_copy(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a", "x")
        connection = connection_of(handler, "a")
        connection.subscribed_channel.add("y")
        assert connection.subscribed_channel == {"x"}
        nursery.cancel_scope.cancel()


async def test_messages_for_subscriptions_of_on_connect_wait_for_it(
    autojump_clock: MockClock,
) -> None:
    class Early(Rooms):
        async def on_connect(self, connection: ClientConnection) -> None:
            await super().on_connect(connection)
            assert self.publish("x", "early") == 1
            await trio.sleep(1)

    handler = Early()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x")
        await trio.sleep(2)
        handler.publish("x", "later")
        await wait_all_tasks_blocked()
        assert listener.got == ["early", "later"]
        nursery.cancel_scope.cancel()


async def test_each_dialect_is_encoded_once_and_each_compression_framed_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, bool]] = []
    original = channel_module.PublishedMessage._make_frame

    def count(self: Any, dialect: Any, deflate: Any) -> Any:
        made.append((dialect.name, deflate is not None))
        return original(self, dialect, deflate)

    monkeypatch.setattr(channel_module.PublishedMessage, "_make_frame", count)
    handler = Rooms()
    options = Options(compression=Compression(threshold=20))
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        msgpack = (("Sec-WebSocket-Protocol", "trio-ws.v1"),)
        plain = [await Listener.join(nursery, memory, f"p{i}", "x") for i in range(3)]
        packed = [await Listener.join(nursery, memory, f"m{i}", "x", headers=msgpack) for i in range(3)]
        async with WebSocketClient(
            "ws://test/c/x", stream=(await memory.stream()), options=options
        ) as first, WebSocketClient(
            "ws://test/c/x", stream=(await memory.stream()), options=options
        ) as second:  # fmt: skip
            text = "all work and no play " * 20
            for number in range(3):
                handler.publish("x", [text, number])
                # A call in between: its answer is compressed with the connection's own window.
                await first.send_rpc("nobody")
            for client in (first, second):
                for number in range(3):
                    packet = await client.recv()
                    assert packet is not None
                    assert packet.data == [text, number]
        await wait_all_tasks_blocked()
        for listener in (*plain, *packed):
            assert listener.got == [[text, 0], [text, 1], [text, 2]]
        assert sorted(made) == sorted([("json", False), ("trio-ws.v1", False), ("trio-ws.v1", True)] * 3)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("data", [object(), {1, 2, object()}, 2**70])
async def test_data_that_cannot_be_encoded_raises_in_the_publisher_and_is_not_sent(
    data: object, autojump_clock: MockClock
) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x")
        async with handler.channels.subscribe("x") as subscription:
            with pytest.raises(PacketError):
                handler.publish("x", data)
            with pytest.raises(PacketError):
                handler.broadcast(data)
            with pytest.raises(PacketError):
                handler.publish("nobody", data)
            handler.publish("x", "fine")
            assert (await subscription.receive()).data == "fine"
        await wait_all_tasks_blocked()
        assert listener.got == ["fine"]
        nursery.cancel_scope.cancel()


async def test_publishing_raises_if_a_json_client_cannot_get_it(autojump_clock: MockClock) -> None:
    handler = Rooms()
    data = {(1, 2): "a tuple is no key in JSON"}
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        msgpack = (("Sec-WebSocket-Protocol", "trio-ws.v1"),)
        packed = await Listener.join(nursery, memory, "m", "x", headers=msgpack)
        packed.scope.cancel()  # msgspec itself cannot take such a key out again
        handler.publish("x", data)
        text = await Listener.join(nursery, memory, "t", "x")
        with pytest.raises(PacketError, match="json"):
            handler.publish("x", data)
        handler.publish("x", 1)
        await wait_all_tasks_blocked()
        assert text.got == [1]
        nursery.cancel_scope.cancel()


async def test_subscriptions_of_the_servers_tasks(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler):
        data = {"list": [1]}
        async with handler.channels.subscribe(["a", "b*"]) as subscription:
            assert handler.publish("a", data) == 1
            assert handler.publish("b1", 2) == 1
            data["list"].append(2)
            first, second = await subscription.receive(), await subscription.receive()
            assert (first.channel, first.data) == ("a", {"list": [1]}), "as it was when it was published"
            assert (second.channel, second.data) == ("b1", 2)
        assert handler.publish("a", 3) == 0
        with pytest.raises(trio.ClosedResourceError):
            await subscription.receive()


async def test_a_subscription_that_blocks_loses_nothing(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x")
        async with handler.channels.subscribe("x", policy="block", max_items=1) as subscription:
            handler.publish("x", 0)
            with pytest.raises(trio.WouldBlock):
                handler.publish("x", "nobody gets this")
            with trio.move_on_after(1):
                await handler.channels.publish_wait("x", "nor this")
            got: list[object] = []

            async def take() -> None:
                for _ in range(3):
                    await trio.sleep(1)
                    got.append((await subscription.receive()).data)

            nursery.start_soon(take)
            began = trio.current_time()
            for number in (1, 2):
                assert await handler.channels.publish_wait("x", number) == 2
            assert trio.current_time() == began + 2
            await trio.sleep(5)
            assert got == [0, 1, 2]
        assert listener.got == [0, 1, 2]
        nursery.cancel_scope.cancel()


async def test_subscriptions_of_the_server_count_bytes(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler), handler.channels.subscribe("x", max_bytes=1000) as subscription:
        for number in range(5):
            handler.publish("x", [number, b"." * 600])
        assert [(await subscription.receive()).data[0] for _ in range(2)] == [3, 4]
        assert subscription.dropped == 3
        async with handler.channels.subscribe("x", policy="block", max_bytes=1000) as blocking:
            handler.publish("x", b"." * 1000)
            with pytest.raises(trio.WouldBlock):
                handler.publish("x", "nobody gets this")
            await blocking.receive()
            assert handler.publish("x", "both get this") == 2
    for wrong in (0, True):
        with pytest.raises((ValueError, TypeError), match="max_bytes"):
            async with handler.channels.subscribe("x", max_bytes=wrong):
                raise AssertionError


async def test_subscribing_a_client_by_the_client(autojump_clock: MockClock) -> None:
    class Asked(WebSocketHandler):
        client_globs = True

        async def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return name.startswith("open.")

    handler = Asked()
    options = Options(max_subscribed_channels=2)
    async with serving_in_memory(handler, options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("__subscribe__", ["open.a", "open.*"]) is True
            assert (await client.send_rpc("__subscribe__", ["open.b", "secret"])).error is not None
            assert await client.call("__subscribe__", ["open.b"]) is False, "the limit"
            assert (await client.send_rpc("__subscribe__", [""])).error is not None
            assert handler.publish("open.a", 1) == 1
            packet = await client.recv()
            assert packet is not None
            assert (packet.channel, packet.data) == ("open.a", 1)
            assert await client.call("__unsubscribe__", ["open.a", "open.*", "other"]) is True
            assert handler.publish("open.a", 2) == 0
        assert "__subscribe__" not in handler.rpc_methods


async def test_a_handler_has_channels_without_a_server() -> None:
    handler = Rooms()
    assert handler.publish("x", 1) == 0
    assert handler.broadcast(1) == 0
    async with handler.channels.subscribe("x") as subscription:
        assert handler.publish("x", 2) == 1
        assert (await subscription.receive()).data == 2


async def test_counters(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a", "x")
        leaver = await Listener.join(nursery, memory, "b", "x,y")
        async with handler.channels.subscribe("x", max_items=1):
            handler.publish("x", 1)
            assert handler.channels.statistics().channels["x"].log_length == 1
            handler.publish("x", 2)
            handler.publish("y", 3)
            await wait_all_tasks_blocked()
            found = handler.channels.statistics()
            assert found.channels["x"] == (3, 6, 1, 0)
            assert found.channels["y"] == (1, 1, 0, 0)
            assert found[1:] == (3, 7, 1, 0, 0)
            await leaver.leave()
            await wait_all_tasks_blocked()
            after = handler.channels.statistics()
            assert set(after.channels) == {"x"}
            assert after.delivered == 7, "also those of channels that are gone"
        nursery.cancel_scope.cancel()


async def test_a_burst_from_code_that_never_waits_is_written_on_the_way(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "_LOG_ITEMS", 1024)
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x", capacity=1 << 30)
        longest = 0
        for number in range(5000):
            handler.publish("x", number)
            channel = handler.channels.statistics().channels.get("x")
            longest = max(longest, channel.log_length if channel is not None else 0)
        assert longest <= fanout._LOG_ITEMS // 2 + 1
        await wait_all_tasks_blocked()
        # What came after the socket was full is subject to the bound of a connection that stalls.
        assert listener.closed == 1013
        assert listener.got == list(range(len(listener.got)))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [0, 500])
async def test_where_the_flusher_does_not_keep_up_each_publish_does_a_share(
    size: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is a number of messages, or of bytes. No publish visits all members at once."""
    monkeypatch.setattr(fanout, "_LOG_ITEMS", 64 if not size else 1 << 20)
    monkeypatch.setattr(fanout, "_LOG_BYTES", 1 << 20 if not size else 64 * 1000)
    handler = Rooms()
    count = 400
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [
            await Listener.join(nursery, memory, f"l{number}", "x", capacity=1 << 20) for number in range(40)
        ]
        most_written = most_kept = kept_bytes = 0
        channel = channels_of(handler.channels)["x"]
        for number in range(count):
            before = dict(channel.cursors)
            assert handler.publish("x", [number, "x" * size]) == 40
            written = sum(before[member] != position for member, position in channel.cursors.items())
            most_written = max(most_written, written)
            most_kept = max(most_kept, len(channel.log))
            kept_bytes = max(kept_bytes, channel.log_bytes)
        assert 0 < most_written <= 4
        assert most_kept <= (64 if not size else 1 << 20)
        assert size == 0 or kept_bytes <= 64 * 1000 + 2000
        await wait_all_tasks_blocked()
        for one in listeners:
            assert [got for got, _ in one.got] == list(range(count))
        nursery.cancel_scope.cancel()


async def test_large_messages_are_written_to_few_connections_in_a_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_turn, "MAX_TURN", 0.0)  # turns are not longer where other tasks need more time

    class Turns(trio.abc.Instrument):
        count = 0

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += task.name == "trio_ws channels"

    handler = Rooms()
    turns = Turns()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [
            await Listener.join(nursery, memory, f"l{number}", "x", capacity=1 << 21) for number in range(6)
        ]
        trio.lowlevel.add_instrument(turns)
        for count in (10, 1 << 20):
            turns.count = 0
            assert handler.publish("x", "x" * count) == 6
            await wait_all_tasks_blocked()
            assert (turns.count >= 6) is (count > 10)
        trio.lowlevel.remove_instrument(turns)
        assert all(one.got == ["x" * 10, "x" * (1 << 20)] for one in listeners)
        nursery.cancel_scope.cancel()


async def test_two_servers_may_share_a_handler(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with trio.open_nursery() as nursery, serving_in_memory(handler) as first:
        one = await Listener.join(nursery, first, "a", "x")
        async with serving_in_memory(handler) as second:
            two = await Listener.join(nursery, second, "b", "x")
            assert handler.publish("x", 1) == 2
            await wait_all_tasks_blocked()
            assert one.got == two.got == [1]
        assert handler.publish("x", 2) == 1
        await wait_all_tasks_blocked()
        assert one.got == [1, 2]
        nursery.cancel_scope.cancel()


async def test_a_method_publishes_and_its_caller_is_left_out(autojump_clock: MockClock) -> None:
    class Chat(Rooms):
        @rpc_method()
        def say(self, connection: ClientConnection, text: str) -> int:
            return self.publish("room", text, exclude=(connection,))

    async with serving_in_memory(Chat()) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "room")
        async with WebSocketClient("ws://test/b/room", stream=await memory.stream()) as client:
            assert await client.call("say", "hello") == 1
            with trio.move_on_after(1) as scope:
                await client.recv()
            assert scope.cancelled_caught
        assert listener.got == ["hello"]
        nursery.cancel_scope.cancel()


async def test_an_invalid_message_from_the_broker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    for payload in (b"", b"\xc1", b"\x90", b"\x92\x01\xa1x", b"\x92\x01\x91\xa1x"):
        handler = Rooms()
        with caplog.at_level(logging.WARNING, "trio_ws.channels"):
            handler.channels.receive("x", payload)
        assert "invalid message from the broker" in caplog.records[-1].message
        caplog.clear()
