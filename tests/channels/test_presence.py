"""Presence and users: the members in all processes, joins and leaves, and messages to a user."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.examples import examples
from tests.support.inspect import presence_of
from tests.support.network import Network
from tests.support.serving import serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ClientPresence,
    ConnectionClosedError,
    Options,
    PacketError,
    PacketSource,
    PresenceChange,
    PresenceChanges,
    RPCAccessDeniedError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.channels.presence import PresenceRegistry, updates
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer

LEASE = 9.0


class Rooms(WebSocketHandler):
    presence_lease: ClassVar = LEASE

    async def on_connect(self, connection: ClientConnection) -> None:
        name = connection.request.path[1:]
        connection.name = name
        connection.subscribe("room.7")
        if name:
            connection.set_present("room.7", {"name": name})
            connection.identify(name)

    @rpc_method()
    async def stay(self, connection: ClientConnection, name: str) -> None:
        async with connection.present(name, "stays"):
            await trio.sleep_forever()

    @rpc_method()
    def stay_in(self, connection: ClientConnection, channels: list[str]) -> None:
        for channel in channels:
            connection.set_present(channel, "stays")


def client_of(memory: MemoryServer, name: str = "") -> WebSocketClient:
    network = Network(memory.listener)
    return WebSocketClient(f"ws://test/{name}", stream=network)


async def two_of(changes: PresenceChanges | ClientPresence) -> list[PresenceChange]:
    return [await changes.__anext__() for _ in range(2)]


def names(handler: WebSocketHandler, name: str = "room.7") -> list[str]:
    return sorted(info["name"] for info in handler.channels.presence(name).values())


async def test_the_members_of_a_channel(autojump_clock: MockClock) -> None:
    handler = Rooms()
    presence = handler.channels.presence("room.7")
    changes = presence.changes()
    async with serving_in_memory(handler) as memory:
        assert len(presence) == 0
        async with client_of(memory, "ada"), client_of(memory, "bob"):
            assert names(handler) == ["ada", "bob"]
            (uid,) = [one.uid for one in handler.clients if one.name == "ada"]
            assert uid in presence
            assert presence[uid] == {"name": "ada"}
            assert "2 members" in repr(presence)
            came = [await changes.__anext__() for _ in range(2)]
            assert {(one.joined, one.info["name"]) for one in came} == {(True, "ada"), (True, "bob")}
        await wait_all_tasks_blocked()
        assert names(handler) == []
        gone = [await changes.__anext__() for _ in range(2)]
        assert {(one.joined, one.info["name"]) for one in gone} == {(False, "ada"), (False, "bob")}
        assert changes.next_nowait() is None
    assert presence_of(handler.channels)._members == {}


async def test_presence_is_a_scope(autojump_clock: MockClock) -> None:
    handler = Rooms()
    presence = handler.channels.presence("desk")
    async with (
        serving_in_memory(handler) as memory,
        client_of(memory) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(client.call, "stay", "desk")
        await wait_all_tasks_blocked()
        assert list(presence.values()) == ["stays"]
        with pytest.raises(RPCInternalError):
            await client.call("stay", "desk")  # is present already
        (connection,) = handler.clients
        connection.set_present("desk", "says something else")
        assert list(presence.values()) == ["says something else"]
        nursery.cancel_scope.cancel()
    await wait_all_tasks_blocked()
    assert len(presence) == 0


async def test_the_end_of_a_connection_ends_its_presence(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        async with client_of(memory, "ada") as client:
            assert client.connected
            assert names(handler) == ["ada"]
            (connection,) = handler.clients
            await connection.close()
            await wait_all_tasks_blocked()
            assert names(handler) == []
            with pytest.raises(RuntimeError, match="while it is open"):
                connection.set_present("room.7")
            with pytest.raises(RuntimeError, match="while it is open"):
                connection.identify("ada")
            connection.set_absent("room.7")


async def test_invalid_presence_data(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, client_of(memory) as client:
        assert client.connected
        (connection,) = handler.clients
        for info in (object(), "x" * 5000):
            with pytest.raises(PacketError):
                connection.set_present("room.7", info)
        with pytest.raises(ValueError, match="name"):
            connection.set_present("")
        for user in ("", "x" * 129):
            with pytest.raises(ValueError, match="characters"):
                connection.identify(user)
            with pytest.raises(ValueError, match="characters"):
                handler.channels.send_to_user(user, 1)
        with pytest.raises(TypeError):
            connection.identify(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="close code"):
            handler.channels.disconnect_user("ada", 1006)
        with pytest.raises(PacketError):
            handler.channels.send_to_user("ada", object())
        assert len(handler.channels.presence("room.7")) == 0


async def test_a_client_sees_the_members(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, client_of(memory, "ada"):
        network = Network(memory.listener)
        backoff = Backoff(random=random.Random(1))
        async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
            async with client.presence("room.7") as presence:
                assert [one["name"] for one in presence.values()] == ["ada"]
                (uid,) = presence
                assert presence[uid] == {"name": "ada"}
                async with client_of(memory, "bob"):
                    change = await presence.__anext__()
                    assert (change.joined, change.info) == (True, {"name": "bob"})
                    assert len(presence) == 2
                assert (await presence.__anext__()).joined is False
                network.down = True
                network.cut()
                await wait_all_tasks_blocked()
                (ada,) = [one for one in handler.clients if one.name == "ada"]
                ada.set_absent("room.7")
                ada.set_present("room.8", "elsewhere")
                async with client_of(memory, "cleo"):
                    network.down = False
                    found = [await presence.__anext__() for _ in range(2)]
                    assert {(one.joined, one.info["name"]) for one in found} == {
                        (True, "cleo"),
                        (False, "ada"),
                    }
                    assert "1 members" in repr(presence)
            with pytest.raises(RPCAccessDeniedError):
                async with client.presence("room.8"):
                    pass
            with pytest.raises(RPCInvalidParamsError):
                await client.call("__presence__", "x" * 300)
    await wait_all_tasks_blocked()


async def test_a_client_whose_connection_is_lost_for_good(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        network = Network(memory.listener)
        async with (
            WebSocketClient("ws://test/", stream=network) as client,
            client.presence("room.7") as presence,
        ):
            network.cut()
            with pytest.raises(ConnectionClosedError):
                await presence.__anext__()


async def test_a_slow_watcher_ends_at_the_set_of_now() -> None:
    registry = PresenceRegistry()
    async with aclosing(updates(registry.watched("room"))) as slow:
        assert (await slow.__anext__()).reset
        for number in range(2000):
            registry.enter("room", str(number), number)
            if number % 2:
                registry.leave("room", str(number - 1))
        known: dict[str, Any] = {}
        more = True
        while more:
            update = await slow.__anext__()
            known = {} if update.reset else known
            known.update(update.joined)
            for uid in update.left:
                del known[uid]
            more = update.more
        assert known == {str(number): number for number in range(1, 2000, 2)}
        registry.leave("room", "1")
        registry.enter("room", "x", None)
        update = await slow.__anext__()
        assert (update.joined, update.left, update.reset) == ({"x": None}, ["1"], False)


def test_the_memory_that_a_member_takes() -> None:
    uids = [f"{number:016x}" for number in range(10_000)]
    registry = PresenceRegistry()
    registry.enter("room", "first", {"name": "ada"})
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, uid in enumerate(uids):
            registry.enter("room", uid, {"name": f"user {number}"})
        assert (tracemalloc.get_traced_memory()[0] - before) / len(uids) < 300
    finally:
        tracemalloc.stop()


# -- several processes ------------------------------------------------------------------------------


async def joined(
    stack: AsyncExitStack, bus: InMemoryBus, count: int
) -> tuple[list[Rooms], list[MemoryServer], list[InMemoryBroker]]:
    handlers = [Rooms() for _ in range(count)]
    brokers = [InMemoryBroker(bus) for _ in range(count)]
    servers = [
        await stack.enter_async_context(serving_in_memory(handler, broker=broker))
        for handler, broker in zip(handlers, brokers, strict=True)
    ]
    return handlers, servers, brokers


async def test_in_all_processes(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    async with AsyncExitStack() as stack:
        handlers, servers, brokers = await joined(stack, bus, 2)
        changes = handlers[1].channels.presence("room.7").changes()
        async with client_of(servers[0], "ada"), client_of(servers[1], "bob"):
            assert [names(one) for one in handlers] == [["ada", "bob"]] * 2
            # One that comes later asks for the state.
            late = Rooms()
            async with serving_in_memory(late, broker=InMemoryBroker(bus)):
                assert names(late) == ["ada", "bob"]
                await trio.sleep(10 * LEASE)
                assert names(late) == ["ada", "bob"]
        await wait_all_tasks_blocked()
        assert [names(one) for one in handlers] == [[], []]
        assert sorted(change.info["name"] for change in [await changes.__anext__() for _ in range(4)]) == [
            *["ada"] * 2,
            *["bob"] * 2,
        ]
        assert brokers[0].statistics().losses == 0


async def test_the_members_of_a_process_without_heartbeats_are_removed(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    async with AsyncExitStack() as stack:
        handlers, servers, brokers = await joined(stack, bus, 3)
        async with client_of(servers[0], "ada"), client_of(servers[1], "bob"):
            brokers[0].lose()
            await trio.sleep(LEASE - 4)
            assert names(handlers[1]) == ["ada", "bob"]
            await trio.sleep(5)  # the lease, and a second
            assert [names(one) for one in handlers] == [["ada"], ["bob"], ["bob"]]
            brokers[0].recover()
            assert [names(one) for one in handlers] == [["ada", "bob"]] * 3


async def test_a_process_that_was_stopped_keeps_the_members_of_others(mock_clock: MockClock) -> None:
    bus = InMemoryBus()
    async with AsyncExitStack() as stack:
        handlers, servers, _ = await joined(stack, bus, 2)
        async with client_of(servers[0], "ada"), client_of(servers[1], "bob"):
            changes = [handler.channels.presence("room.7").changes() for handler in handlers]
            for each in changes:
                assert sorted([(await each.__anext__()).info["name"] for _ in range(2)]) == ["ada", "bob"]
            mock_clock.jump(10 * LEASE)  # as after SIGSTOP and SIGCONT: all tasks see it at once
            await wait_all_tasks_blocked()
            for _ in range(30):
                mock_clock.jump(0.5)
                await wait_all_tasks_blocked()
            assert [each.next_nowait() for each in changes] == [None, None]
            assert [names(one) for one in handlers] == [["ada", "bob"]] * 2


async def test_a_process_that_stops_notifies_the_others(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    handler = Rooms()
    async with serving_in_memory(handler, broker=InMemoryBroker(bus)):
        async with serving_in_memory(Rooms(), broker=InMemoryBroker(bus)) as other, client_of(other, "ada"):
            assert names(handler) == ["ada"]
        await wait_all_tasks_blocked()
        assert names(handler) == []
        assert presence_of(handler.channels)._processes == {}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("lose"), st.integers(0, 2)),
        st.tuples(st.just("recover"), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(1, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 20.0])),
    ),
    max_size=40,
)


async def converge(script: list[tuple[Any, ...]]) -> None:
    """Registries on a bus that loses messages and processes; in the end all agree."""
    registries = [PresenceRegistry(LEASE) for _ in range(3)]
    connected = [True] * 3
    to_drop = 0

    def send(source: int, payload: bytes) -> None:
        nonlocal to_drop
        for index, registry in enumerate(registries):
            if index != source and connected[index] and connected[source]:
                if to_drop:
                    to_drop -= 1
                else:
                    registry.receive(payload)

    truth: set[tuple[str, str]] = set()
    async with trio.open_nursery() as nursery:
        for index, registry in enumerate(registries):
            registry.attach(lambda payload, index=index: send(index, payload))  # type: ignore[misc]
            nursery.start_soon(registry.run)
        for step in script:
            match step:
                case ("enter", index, number):
                    registries[index].enter("room", f"{index}.{number}", number)
                    truth.add(("room", f"{index}.{number}"))
                case ("leave", index, number):
                    registries[index].leave("room", f"{index}.{number}")
                    truth.discard(("room", f"{index}.{number}"))
                case ("lose", index):
                    connected[index] = False
                case ("recover", index) if not connected[index]:
                    connected[index] = True
                    registries[index].missed()
                case ("drop", count):
                    to_drop += count
                case ("wait", seconds):
                    await trio.sleep(seconds)
                case _:
                    pass
        to_drop = 0
        for index in range(3):
            if not connected[index]:
                connected[index] = True
                registries[index].missed()
        await trio.sleep(2 * LEASE)
        for registry in registries:
            members = registry.find("room")
            found = {("room", uid) for uid in (members.infos if members is not None else ())}
            assert found == truth
        nursery.cancel_scope.cancel()


@examples(100)
@given(steps)
def test_all_processes_agree_in_the_end(script: list[tuple[Any, ...]]) -> None:
    trio.run(converge, script, clock=trio.testing.MockClock(autojump_threshold=0))


def test_messages_that_are_not_ours() -> None:
    registry = PresenceRegistry()
    registry.attach(lambda _: None)
    for payload in (
        b"",
        b"\xc1",
        b"\x90",
        b"\x93\xa1p\x00\xa3odd",
        b"\x94\xa1p\x01\xa6change\x91\x93\xa1a\xa1b\x05",
    ):
        registry.receive(payload)
    assert registry.rejected == 5
    assert registry._processes == {}


# -- users ------------------------------------------------------------------------------------------


async def test_sending_to_all_connections_of_a_user_in_all_processes(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    async with AsyncExitStack() as stack:
        handlers, servers, _ = await joined(stack, bus, 2)
        phone = await stack.enter_async_context(client_of(servers[0], "ada"))
        laptop = await stack.enter_async_context(client_of(servers[1], "ada"))
        other = await stack.enter_async_context(client_of(servers[1], "bob"))
        assert handlers[0].channels.send_to_user("ada", {"you": "have mail"}) == 1
        assert handlers[0].channels.send_to_user("bob", "for bob") == 0
        for device in (phone, laptop):
            packet = await device.recv()
            assert packet is not None
            assert (packet.source, packet.data) == (PacketSource.CUSTOM, {"you": "have mail"})
        packet = await other.recv()
        assert packet is not None
        assert packet.data == "for bob"
        (connection,) = handlers[0].clients
        connection.identify(None)
        assert handlers[0].channels.send_to_user("ada", "only the laptop") == 0
        connection.identify("ada")
        assert handlers[1].channels.disconnect_user("ada", 4001, "logged out") == 1
        for device in (phone, laptop):
            with pytest.raises(ConnectionClosedError) as caught:
                while await device.recv():
                    pass
            assert (caught.value.code, caught.value.reason) == (4001, "logged out")
        assert other.connected
        await wait_all_tasks_blocked()
        assert set(handlers[0].channels._users._channels) == set()
        handlers[0].channels._users.receive("ada", b"\xc1")
        assert handlers[0].channels._users.rejected == 1


async def test_a_user_is_disconnected_before_on_connect_has_returned(autojump_clock: MockClock) -> None:
    class Slow(Rooms):
        async def on_connect(self, connection: ClientConnection) -> None:
            connection.identify("ada")
            assert self.channels.disconnect_user("ada") == 1

    handler = Slow()
    async with serving_in_memory(handler) as memory, client_of(memory) as client:
        with pytest.raises(ConnectionClosedError, match="disconnected"):
            await client.recv()


def test_a_change_is_a_tuple() -> None:
    assert PresenceChange(True, "uid", None) == (True, "uid", None)


async def test_a_client_is_present_in_as_many_channels_as_it_may_subscribe_to(
    autojump_clock: MockClock,
) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=3)
    async with serving_in_memory(handler, options=options) as memory, client_of(memory) as client:
        await client.call("stay_in", ["a", "b", "c"])
        with pytest.raises(RPCError, match="present in 3 channels already"):
            await client.call("stay_in", ["d"])
        await client.call("stay_in", ["a"])  # replaces its info
        (connection,) = handler.clients
        connection.set_absent("a")
        await client.call("stay_in", ["d"])
        assert {name for name in "abcd" if len(handler.channels.presence(name))} == {"b", "c", "d"}
