"""Each name of an iterable counts, 0 means no limit, and a client's own ``*`` is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Options, RPCAccessDeniedError, WebSocketClient, WebSocketHandler

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_subscribing_an_iterable_counts_each(autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=3)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        connection = connection_of(handler, "a")
        assert not connection.subscribe(name for name in "abcd")
        assert connection.subscribed_channel == set()
        assert connection.subscribe(("a", "b", "b", "c", "a"))
        assert not connection.subscribe("d")
        connection.unsubscribe(("a", "b"))
        assert connection.subscribe({"d", "e"})
        assert connection.subscribed_channel == {"c", "d", "e"}
        nursery.cancel_scope.cancel()


async def test_0_means_no_limit(autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=0)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        await Listener.join(nursery, memory, "a")
        connection = connection_of(handler, "a")
        for start in range(0, 3000, 1000):
            assert connection.subscribe(str(number) for number in range(start, start + 1000))
        assert len(connection.subscribed_channel) == 3000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_clients_own_star_is_refused_unless_allowed(allowed: bool, autojump_clock: MockClock) -> None:
    class Handler(WebSocketHandler):
        client_globs = allowed

        def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return True

    handler = Handler()
    async with (
        serving_in_memory(handler) as memory,
        WebSocketClient("ws://test/", stream=await memory.stream()) as client,
    ):
        if allowed:
            assert await client.call("__subscribe__", ["*"]) is True
            assert handler.publish("anything", 1) == 1
        else:
            with pytest.raises(RPCAccessDeniedError, match=r"'\*'"):
                await client.call("__subscribe__", ["fine", "*"])
            assert handler.publish("fine", 1) == 0
