"""What clients may do with channels: publish, and stay subscribed for a time; and hooks of handlers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.network import Network
from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    PacketError,
    RPCAccessDeniedError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer
    from trio_ws.rpc.timetable import Timetable


class Rooms(WebSocketHandler):
    client_globs = True

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.right: Any = 10
        self.demand: list[tuple[str, str]] = []

    async def may_subscribe(self, connection: ClientConnection, name: str) -> Any:
        self.asked.append(trio.current_time())
        if isinstance(self.right, Exception):
            raise self.right
        return self.right

    async def may_publish(self, connection: ClientConnection, name: str, data: Any) -> bool:
        return name.startswith("open") and data != "no"

    def on_first_subscriber(self, name: str) -> None:
        self.demand.append(("first", name))

    def on_last_unsubscribed(self, name: str) -> None:
        self.demand.append(("last", name))
        if name == "broken":
            raise ValueError("as it is")


def client_of(memory: MemoryServer, **kwargs: Any) -> WebSocketClient:
    return WebSocketClient("ws://test/", stream=Network(memory.listener), **kwargs)


def timetable_of(handler: WebSocketHandler) -> Timetable[Any]:
    """When the rights of its clients end."""
    return handler._channel_methods.rights.timetable


async def test_a_right_that_goes_on(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        async with client_of(memory) as client, client.subscribe(["a", "b*"]) as subscription:
            began = trio.current_time()
            await trio.sleep(35)
            assert [round(time - began) for time in handler.asked] == [0, 0, 10, 10, 20, 20, 30, 30]
            handler.right = True
            await trio.sleep(10)
            count = len(handler.asked)
            await trio.sleep(100)
            assert len(handler.asked) == count
            handler.publish("a", 1)
            assert (await subscription.receive()).data == 1
        await wait_all_tasks_blocked()
        assert len(timetable_of(handler)) == 0
        assert not timetable_of(handler).running


@pytest.mark.parametrize("right", [False, 0, None, ValueError("as it is")])
@pytest.mark.parametrize("recover", [False, True])
async def test_a_right_that_ends(autojump_clock: MockClock, right: Any, recover: bool) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, client_of(memory) as client:
        async with client.subscribe("a", recover=recover) as subscription, client.subscribe("b") as other:
            handler.right = right
            handler.publish("a", "before")
            await trio.sleep(11)
            handler.right = 10
            handler.publish("a", "after")
            assert (await subscription.receive()).data == "before"
            with pytest.raises(RPCAccessDeniedError, match="'a' has ended"):
                await subscription.receive()
            with pytest.raises(RPCAccessDeniedError, match="'b' has ended"):
                await other.receive()
        (connection,) = handler.clients
        assert connection.subscribed_channel == set()
        async with client.subscribe("a") as subscription:
            handler.publish("a", "again")
            assert (await subscription.receive()).data == "again"


class AsksTheClient(WebSocketHandler):
    """Asks a client itself whether it may stay, and refuses the channel "secret" from some time on."""

    def __init__(self) -> None:
        self.refusing = False

    async def may_subscribe(self, connection: ClientConnection, name: str) -> float:
        if not self.refusing:
            return 5
        if "slow" in connection.request.target:
            await trio.sleep_forever()
        return 0 if name == "secret" else 5


async def test_a_client_that_delays_the_answer_gains_no_time(autojump_clock: MockClock) -> None:
    handler = AsksTheClient()
    async with serving_in_memory(handler) as memory:
        slow = WebSocketClient("ws://test/?slow", stream=Network(memory.listener))
        names = [*(f"a{n}" for n in range(50)), "secret"]
        async with slow, client_of(memory) as quick:
            async with (
                slow.subscribe(names) as delayed,
                quick.subscribe("open"),
                quick.subscribe("secret") as subscription,
            ):
                handler.refusing = True
                began = trio.current_time()
                with pytest.raises(RPCAccessDeniedError, match="'secret' has ended"):
                    await subscription.receive()
                assert trio.current_time() - began <= 6  # whatever the other one does
                with pytest.raises(RPCAccessDeniedError, match="has ended"):
                    await delayed.receive()
                await wait_all_tasks_blocked()
                assert trio.current_time() - began <= 16
                held = {one.request.target: one.subscribed_channel for one in handler.clients}
                assert held == {"/?slow": set(), "/": {"open"}}


async def test_rights_of_clients_that_have_gone(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        for _ in range(3):
            async with client_of(memory) as client, client.subscribe("a"):
                pass
        await trio.sleep(100)
        assert len(handler.asked) == 3
        assert len(timetable_of(handler)) == 0
        assert not timetable_of(handler).running


async def test_rights_outlive_another_server_of_the_handler(autojump_clock: MockClock) -> None:
    handler = Rooms()
    leave = trio.Event()

    async def serve_for_a_while(*, task_status: trio.TaskStatus[None]) -> None:
        async with serving_in_memory(handler) as memory, client_of(memory) as other, other.subscribe("a"):
            task_status.started()
            await leave.wait()

    async with trio.open_nursery() as nursery, serving_in_memory(handler) as memory:
        await nursery.start(serve_for_a_while)
        async with client_of(memory) as client, client.subscribe("b"):
            leave.set()
            await trio.sleep(1)
            handler.asked.clear()
            await trio.sleep(10)
            assert len(handler.asked) == 1
            assert timetable_of(handler).running


async def test_rights_that_are_replaced_or_left_behind_are_dropped(autojump_clock: MockClock) -> None:
    handler = Rooms()
    handler.right = 1_000_000
    async with serving_in_memory(handler) as memory:
        async with client_of(memory) as client, client.subscribe("kept"):
            for _ in range(300):
                await trio.sleep(0.001)
                await client.call("__subscribe__", ["a"])
            for _ in range(100):
                async with client_of(memory) as other, other.subscribe(["a", "b"]):
                    pass
            assert 2 <= len(timetable_of(handler)) <= 80


async def test_a_client_publishes(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        for dialect in ("trio-ws.v1", "trio-ws.v1.json", "jsonrpc", "webshocket.v1"):
            async with (
                client_of(memory, dialect=dialect) as client,
                client_of(memory) as other,
                other.subscribe("open.1") as subscription,
                handler.channels.subscribe("open.1", policy="block", max_items=2) as slow,
            ):
                await client.publish("open.1", {"by": dialect})
                assert (await subscription.receive()).data == {"by": dialect}
                for name, data in (("closed", 1), ("open", "no")):
                    with pytest.raises(Exception, match="denied") as caught:
                        await client.publish(name, data)
                    assert dialect.startswith(("jsonrpc", "webshocket")) or isinstance(
                        caught.value, RPCAccessDeniedError
                    )
                with pytest.raises(RPCInvalidParamsError):
                    await client.publish("x" * 300, 1)
                with pytest.raises(PacketError):
                    await client.publish("open", object())
                await client.publish("open.1", 2)
                with trio.move_on_after(5) as scope:
                    await client.publish("open.1", 3)  # until the slow one has room
                assert scope.cancelled_caught
                assert slow.statistics().waiting == 2


async def test_clients_may_not_publish_by_default(autojump_clock: MockClock) -> None:
    async with serving_in_memory(WebSocketHandler()) as memory, client_of(memory) as client:
        with pytest.raises(RPCAccessDeniedError):
            await client.publish("a", 1)


async def test_hooks_of_the_first_and_the_last(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, client_of(memory) as client:
        async with client.subscribe(["a", "b*"]):
            async with handler.channels.subscribe(["a", "c"]):
                pass
            assert handler.demand == [("first", "a"), ("first", "b*"), ("first", "c"), ("last", "c")]
        await wait_all_tasks_blocked()
        assert sorted(handler.demand[4:]) == [("last", "a"), ("last", "b*")]
        with caplog.at_level(logging.ERROR):
            async with handler.channels.subscribe("broken"):
                pass
        assert "a hook of 'broken' failed" in caplog.text
        async with client.subscribe("a"):
            handler.demand.clear()
            (connection,) = handler.clients
            await connection.close()
            await wait_all_tasks_blocked()
            assert handler.demand == [("last", "a")]
