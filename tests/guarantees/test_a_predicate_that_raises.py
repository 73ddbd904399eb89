"""A predicate that raises counts as false and is logged, and one may unsubscribe; the fan-out continues."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, IsEqual

if TYPE_CHECKING:
    from trio.testing import MockClock


def broken_for_b(connection: ClientConnection) -> bool:
    if connection.name == "b":
        raise KeyError("region")
    return True


@pytest.mark.parametrize("way", ["publish", "broadcast"])
async def test_other_subscribers_receive_the_message(
    way: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [await Listener.join(nursery, memory, name, "x") for name in "abc"]
        with caplog.at_level(logging.ERROR):
            if way == "publish":
                assert handler.publish("x", 1, predicate=broken_for_b) == 2
            else:
                assert handler.broadcast(1, predicate=broken_for_b) == 2
        (record,) = caplog.records
        assert "broken_for_b failed, which counts as false" in record.message
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], KeyError)
        await wait_all_tasks_blocked()
        assert [one.got for one in listeners] == [[1], [], [1]]
        nursery.cancel_scope.cancel()


async def test_the_negation_of_a_broken_predicate_is_false(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "b", "x")
        never = IsEqual("name", "somebody") | broken_for_b
        assert handler.publish("x", 1, predicate=never) == 0
        assert handler.publish("x", 1, predicate=~never) == 0
        nursery.cancel_scope.cancel()


async def test_a_predicate_may_unsubscribe_connections(autojump_clock: MockClock) -> None:
    handler = Rooms()

    def not_b(connection: ClientConnection) -> bool:
        if connection.name == "b":
            connection.unsubscribe("x")
        return True

    def nobody(connection: ClientConnection) -> bool:
        for one in handler.clients:
            one.unsubscribe("x")
        return False

    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [await Listener.join(nursery, memory, name, "x") for name in "abc"]
        assert handler.publish("x", 1, predicate=not_b) == 2
        assert handler.publish("x", 2) == 2
        assert handler.publish("x", 3, predicate=nobody) == 0
        assert handler.publish("x", 4) == 0
        await wait_all_tasks_blocked()
        assert [one.got for one in listeners] == [[1, 2], [], [1, 2]]
        nursery.cancel_scope.cancel()


async def test_a_connection_that_a_predicate_subscribes_is_asked_about_too(autojump_clock: MockClock) -> None:
    handler = Rooms()
    asked: list[object] = []

    def let_others_in(connection: ClientConnection) -> bool:
        asked.append(connection.name)
        for one in handler.clients:
            one.subscribe("x")
        return bool(connection.name != "b")

    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listeners = [await Listener.join(nursery, memory, "a", "x")]
        listeners += [await Listener.join(nursery, memory, name, "y") for name in "bc"]
        assert handler.publish("x", 1, predicate=let_others_in) == 2
        await wait_all_tasks_blocked()
        assert sorted(map(str, asked)) == ["a", "b", "c"]
        assert [one.got for one in listeners] == [[1], [], [1]]
        nursery.cancel_scope.cancel()
