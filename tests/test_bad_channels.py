"""Hostile and careless use of channels: names, limits, policies, and subscriptions by clients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    Options,
    RPCAccessDeniedError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    connect,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.mark.parametrize("name", ["", "x" * 257, ["fine", ""]])
async def test_names_that_no_channel_can_have(name: Any, autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        connection = connection_of(handler, "a")
        with pytest.raises(ValueError, match="1 to 256 characters"):
            connection.subscribe(name)
        with pytest.raises(ValueError, match="1 to 256 characters"):
            connection.unsubscribe(name)
        with pytest.raises(ValueError, match="1 to 256 characters"):
            async with handler.channels.subscribe(name):
                pass
        if isinstance(name, str):
            with pytest.raises(ValueError, match="1 to 256 characters"):
                handler.publish(name, 1)
        assert connection.subscribed_channel == set(), "nothing changed"
        with pytest.raises(TypeError, match="str"):
            connection.subscribe([b"bytes"])  # type: ignore[list-item]
        assert connection.subscribe("x" * 256)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_subscribed_channels_and_nothing_changes_at_the_limit(
    limit: int, autojump_clock: MockClock
) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=limit)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        connection = connection_of(handler, "a")
        names = [f"n{number}" for number in range(limit)]
        assert connection.subscribe(iter(names)), "each of an iterable counts"
        assert connection.subscribe(names), "what is held already counts once"
        assert not connection.subscribe("one.*")
        assert not connection.subscribe([names[0], "one more"])
        assert connection.subscribed_channel == set(names)
        assert handler.publish("one more", 1) == 0
        connection.unsubscribe(names[0])
        assert connection.subscribe("one more")
        assert handler.publish("one more", 1) == 1
        nursery.cancel_scope.cancel()


async def test_max_subscribed_channels_of_0_is_no_limit(autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=0)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        assert connection_of(handler, "a").subscribe(f"n{number}" for number in range(5000))
        nursery.cancel_scope.cancel()


async def test_a_client_subscribes_itself_only_to_what_is_allowed(autojump_clock: MockClock) -> None:
    class Open(WebSocketHandler):
        def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return name != "secret"

    for handler, allowed in ((WebSocketHandler(), False), (Open(), True)):
        async with serving_in_memory(handler) as memory:
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
                for name in ("*", "?", "[a]", "secret"):
                    with pytest.raises(RPCAccessDeniedError):
                        await client.call("__subscribe__", ["open", name])
                assert not next(iter(handler.clients)).subscribed_channel
                if allowed:
                    assert await client.call("__subscribe__", ["open"])
                for bad in ([""], ["x" * 300], "open", [1], [["open"]]):
                    with pytest.raises((RPCInvalidParamsError, RPCAccessDeniedError)):
                        await client.call("__subscribe__", bad)


@pytest.mark.parametrize("policy", ["block", "drop", "", None])
async def test_policies_that_cannot_be(policy: Any, autojump_clock: MockClock) -> None:
    wrong: Any = policy
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        if policy is not None:
            with pytest.raises(
                ValueError, match="policy must be one of 'disconnect', 'drop_oldest', 'drop_newest'"
            ):
                connection_of(handler, "a").subscribe("x", policy=policy)
        if policy != "block":
            with pytest.raises(ValueError, match="policy must be one of"):
                async with handler.channels.subscribe("x", policy=wrong):
                    pass
        nursery.cancel_scope.cancel()

    if policy is not None:

        class Wrong(WebSocketHandler):
            channel_policy = policy

        with pytest.raises(ValueError, match="policy must be one of"):
            WebSocketServer(Wrong)


@pytest.mark.parametrize("predicate", [1, "admin", int])
async def test_predicates_that_cannot_be(predicate: Any) -> None:
    with pytest.raises(TypeError):
        Rooms().publish("x", 1, predicate=predicate)


async def test_a_client_side_connection_has_no_channels(autojump_clock: MockClock) -> None:
    seen: list[ClientConnection] = []

    class Callee(WebSocketHandler):
        async def on_receive(self, connection: ClientConnection, packet: object) -> None:
            seen.append(connection)

    class Sender(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()

    handler = Sender()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), handler=Callee):
            await wait_all_tasks_blocked()
            handler.broadcast("hello")
            await wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="connection of a server"):
                seen[0].subscribe("x")
            assert seen[0].subscribed_channel == set()
            (server_side,) = handler.clients
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="while it is open"):
            server_side.subscribe("x")


@pytest.mark.parametrize("what", ["items", "bytes"])
async def test_channel_max_items_and_channel_max_bytes_bound_what_waits(
    what: str, autojump_clock: MockClock
) -> None:
    handler = Rooms()
    options = Options(
        send_high_water=1000,
        channel_max_items=10 if what == "items" else 1000,
        channel_max_bytes=1 << 20 if what == "items" else 5000,
    )
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", capacity=100)
        connection_of(handler, "a").subscribe("x", policy="drop_oldest")
        listener.read(False)
        for number in range(100):
            handler.publish("x", [number, "x" * 100])
            await wait_all_tasks_blocked()
        found = handler.channels.statistics()
        # 104 bytes of msgpack, 141 of a frame with JSON, and 128 that are charged.
        assert found.backlog == (10 if what == "items" else 5000 // 373)
        assert found.stalled == 1
        listener.read(True)
        await wait_all_tasks_blocked()
        dropped = found.channels["x"].dropped
        assert len(listener.got) == 100 - dropped
        assert listener.got[-found.backlog :] == [[n, "x" * 100] for n in range(100 - found.backlog, 100)]
        nursery.cancel_scope.cancel()


async def test_one_message_may_come_on_top_of_channel_max_bytes(autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(send_high_water=100, channel_max_bytes=100)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "x", capacity=100)
        listener.read(False)
        for _ in range(3):  # the first was being read, the second waits to be written
            handler.publish("x", "x" * 10_000)
            await wait_all_tasks_blocked()
        assert handler.channels.statistics().backlog == 1
        listener.read(True)
        await wait_all_tasks_blocked()
        assert listener.got == ["x" * 10_000] * 3
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("channel_max_items", "channel_max_bytes", "max_subscribed_channels")
        for value in (-1, 1.5, "10", None, True, math.nan)
    ]
    + [("channel_max_items", 0), ("channel_max_bytes", 0)],
)
def test_limits_of_channels_are_checked_at_once(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Options(**{name: value})


async def test_a_broker_of_another_type() -> None:
    with pytest.raises(TypeError, match="broker must be a Broker"):
        WebSocketServer(Rooms, broker=object())  # type: ignore[arg-type]


async def test_reserved_methods_cannot_be_defined_by_users(autojump_clock: MockClock) -> None:
    """Packets of channels have no meaning for a plain target."""
    async with serving_in_memory() as memory:
        async with connect("ws://test/", stream=await memory.stream()) as ws:
            await ws.send_json({"source": 5, "rpc": {"type": "request", "method": "__subscribe__"}})
            assert "__subscribe__" in await ws.receive_text()


@pytest.mark.parametrize("name", ["", "x" * 257, "never held", "*"])
async def test_a_client_that_leaves_what_it_never_held(
    name: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with (
        serving_in_memory(Rooms()) as memory,
        WebSocketClient("ws://test/a/x", stream=await memory.stream()) as client,
    ):
        assert await client.call("__unsubscribe__", [name, "x"]) is True
    assert caplog.records == []
