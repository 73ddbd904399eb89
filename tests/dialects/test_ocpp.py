"""OCPP-J with trio_ws on both sides; tests/interop/test_ocpp.py has the package ocpp on each side."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.serving import serving_in_memory
from tests.support.simulated_server import simulated_server
from trio_ws import (
    ClientConnection,
    RPCAccessDeniedError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.dialects import OCPP16, OCPP201, OCPPError

if TYPE_CHECKING:
    from trio.testing import MockClock


class CentralSystem(WebSocketHandler[Any]):
    dialects = (OCPP201(), OCPP16())

    @rpc_method("BootNotification")
    async def boot(self, connection: ClientConnection[Any], /, **payload: Any) -> dict[str, Any]:
        # A call within a call: both sides have one under way.
        status = await connection.call("GetStatus", limit=5)
        return {"status": status["status"], "payload": payload, "interval": 300}

    @rpc_method("Authorize")
    def authorize(self, connection: ClientConnection[Any], idTag: str) -> dict[str, str]:  # noqa: N803
        if idTag == "stolen":
            raise OCPPError("SecurityError", "x" * 300, {"why": "stolen"})
        if idTag == "denied":
            raise RPCAccessDeniedError("no")
        return {"status": "Accepted"}

    @rpc_method("Heartbeat")
    def heartbeat(self, connection: ClientConnection[Any]) -> None: ...

    @rpc_method("Fail")
    def fail(self, connection: ClientConnection[Any]) -> None:
        raise ZeroDivisionError


class ChargePoint(WebSocketHandler[Any]):
    @rpc_method("GetStatus")
    async def status(self, connection: ClientConnection[Any], limit: int) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {"status": "Accepted"}


class Boot(msgspec.Struct):
    vendor: str
    returns: int = 1


@pytest.mark.parametrize("dialect", [OCPP16(), OCPP201(), [OCPP16(), OCPP201()]])
async def test_both_sides_call(dialect: Any, autojump_clock: MockClock) -> None:
    async with serving_in_memory(CentralSystem) as memory:
        stream = await memory.stream()
        async with WebSocketClient(
            "ws://test/CP_1", dialect=dialect, handler=ChargePoint, stream=stream
        ) as client:
            assert client.dialect == ("ocpp1.6" if isinstance(dialect, OCPP16) else "ocpp2.0.1")
            answer = await client.call("BootNotification", Boot("v"))
            assert answer == {
                "status": "Accepted",
                "payload": {"vendor": "v", "returns": 1},
                "interval": 300,
            }
            assert await client.call("Heartbeat") == {}
            assert await client.call("Authorize", idTag="x") == {"status": "Accepted"}


@pytest.mark.parametrize(
    ("action", "payload", "kind", "code"),
    [
        ("Nothing", {}, RPCMethodNotFoundError, "NotImplemented"),
        ("Authorize", {"idTag": 5}, RPCInvalidParamsError, "PropertyConstraintViolation"),
        ("Authorize", {}, RPCInvalidParamsError, "PropertyConstraintViolation"),
        ("Authorize", {"idTag": "stolen"}, RPCError, "SecurityError"),
        ("Authorize", {"idTag": "denied"}, RPCError, "SecurityError"),
        ("Fail", {}, RPCInternalError, "InternalError"),
    ],
)
async def test_failures_have_the_codes_of_ocpp(
    action: str,
    payload: dict[str, Any],
    kind: type[RPCError],
    code: str,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "trio_ws.rpc")
    async with serving_in_memory(CentralSystem) as memory:
        async with WebSocketClient("ws://test", dialect=OCPP16(), stream=await memory.stream()) as client:
            with pytest.raises(RPCError) as info:
                await client.call(action, payload)
            assert type(info.value) is kind
            assert info.value.data["code"] == code
            assert len(info.value.message) <= 255
            if payload.get("idTag") == "stolen":
                assert info.value.data["details"] == {"why": "stolen"}


async def test_messages_on_the_wire(autojump_clock: MockClock) -> None:
    async with simulated_server("ocpp1.6", dialect=OCPP16(), handler=ChargePoint) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "Heartbeat")
            assert await server.receive() == [2, "1", "Heartbeat", {}]
            nursery.start_soon(client.call, "StatusNotification")  # waits for its turn
            await server.send([2, "a/1", "GetStatus", {"limit": 1}], [2, "/", "Nothing", {}], [2, "b"])
            answers = {message[1]: message for message in [await server.receive() for _ in range(3)]}
            assert answers["a/1"] == [3, "a/1", {"status": "Accepted"}]
            assert answers["/"][:3] == [4, "/", "NotImplemented"]
            assert answers["b"][:3] == [4, "b", "FormationViolation"]
            await server.send([3, "1", {"currentTime": "now"}])
            assert (await server.receive())[2] == "StatusNotification"
            await server.send([3, "2", {}])

        async def fail() -> None:
            _, number, _, _ = await server.receive()
            await server.send([4, number, "GenericError"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            with pytest.raises(RPCError, match="GenericError"):
                await client.call("Heartbeat")


@pytest.mark.parametrize("message", [[], [2], [5, "1"], [3, 1, {}], [3, "1"], [4, "1", 5, 5, 5, 5], {}, "x"])
async def test_invalid_messages(message: Any, autojump_clock: MockClock) -> None:
    async with simulated_server("ocpp1.6", dialect=OCPP16()) as (client, server):
        await server.send(message)
        assert (await server.receive())[0] in (1002, 1007)
        assert not client.connected
