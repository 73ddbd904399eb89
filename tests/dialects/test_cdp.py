"""The Chrome DevTools Protocol, with a scripted browser; tests/interop/test_devtools.py has a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.simulated_server import SimulatedServer, simulated_server
from trio_ws import ConnectionClosedError, PacketError, RPCError, RPCMethodNotFoundError, RPCNotification
from trio_ws.dialects import CDP, CDPSession

if TYPE_CHECKING:
    from trio.testing import MockClock


async def answer(server: SimulatedServer, expected: dict[str, Any], **outcome: Any) -> None:
    message = await server.receive()
    number = message.pop("id")
    assert message == expected
    await server.send({"id": number, **outcome})


async def test_commands_and_their_failures(autojump_clock: MockClock) -> None:
    async with simulated_server(dialect=CDP()) as (client, server), trio.open_nursery() as nursery:

        async def browser() -> None:
            await answer(server, {"method": "Browser.getVersion"}, result={"product": "x"})
            await answer(server, {"method": "A.b", "params": {"c": 1}}, result={})
            await answer(server, {"method": "A.b", "params": {"returns": 1}}, result={})
            error = {"code": -32601, "message": "'X.y' wasn't found"}
            await answer(server, {"method": "X.y"}, error=error)
            error = {"code": -32000, "message": "No target", "data": "d"}
            await answer(server, {"method": "Y.z"}, error=error)

        nursery.start_soon(browser)
        assert await client.call("Browser.getVersion") == {"product": "x"}
        assert await client.call("A.b", c=1) == {}
        assert await client.call("A.b", {"returns": 1}) == {}
        with pytest.raises(RPCMethodNotFoundError, match="wasn't found"):
            await client.call("X.y")
        with pytest.raises(RPCError, match="No target") as info:
            await client.call("Y.z")
        assert (info.value.code, info.value.data) == (-32000, "d")
        with pytest.raises(PacketError, match="by name"):
            await client.call("A.b", 1, 2)
        with pytest.raises(PacketError, match="no notifications"):
            await client.notify("A.b")


async def test_sessions_have_commands_and_events_of_their_own(autojump_clock: MockClock) -> None:
    async with simulated_server(dialect=CDP()) as (client, server), trio.open_nursery() as nursery:

        async def browser() -> None:
            attach = {"method": "Target.attachToTarget", "params": {"targetId": "T", "flatten": True}}
            await answer(server, attach, result={"sessionId": "S"})
            await answer(server, {"method": "Page.enable", "sessionId": "S"}, result={})
            event = {"method": "Page.loaded", "params": {"at": 5}}
            await server.send(event, {**event, "sessionId": "R"}, {**event, "sessionId": "S"})
            detach = {"method": "Target.detachFromTarget", "params": {"sessionId": "S"}}
            await answer(server, detach, error={"code": -32000, "message": "it has gone"})

        nursery.start_soon(browser)
        async with client.notifications() as every, CDPSession.attach(client, "T") as session:
            async with session.notifications("Page.loaded", items=dict[str, int]) as loaded:
                await session.call("Page.enable")
                assert await loaded.receive() == {"at": 5}
                with pytest.raises(trio.WouldBlock):
                    loaded.receive_nowait()
            found = [await every.receive() for _ in range(3)]
        assert [one.method for one in found] == ["Page.loaded", "R/Page.loaded", session.name("Page.loaded")]
        assert found[0] == RPCNotification("Page.loaded", {"at": 5})


async def test_a_cancelled_block_detaches_and_a_lost_browser_raises_no_second_error(
    autojump_clock: MockClock,
) -> None:
    async with simulated_server(dialect=CDP()) as (client, server), trio.open_nursery() as nursery:

        async def browser() -> None:
            attach = {"method": "Target.attachToTarget", "params": {"targetId": "T", "flatten": True}}
            detach = {"method": "Target.detachFromTarget", "params": {"sessionId": "S"}}
            await answer(server, attach, result={"sessionId": "S"})
            await answer(server, detach, result={})
            await answer(server, attach, result={"sessionId": "S"})
            await server.peer.send_close(1001)

        nursery.start_soon(browser)
        with trio.move_on_after(5):
            async with CDPSession.attach(client, "T"):
                await trio.sleep_forever()
        with pytest.raises(ConnectionClosedError):
            async with CDPSession.attach(client, "T") as session:
                await session.call("Page.enable")


@pytest.mark.parametrize("message", [{}, {"params": {}}, {"id": "1"}, {"id": 1, "error": "text"}, []])
async def test_invalid_messages(message: Any, autojump_clock: MockClock) -> None:
    async with simulated_server(dialect=CDP()) as (client, server):
        await server.send(message)
        assert (await server.receive())[0] in (1002, 1007)
        assert not client.connected
