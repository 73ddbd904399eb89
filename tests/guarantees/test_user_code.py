"""An exception of user code costs one connection or one request, and all others continue."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.faults import FAULTS, KINDS, Faults, Panic, app_of, handlers, kept_cancelled
from tests.support.serving import body_of, exchange, request, serving_in_memory, status_of
from trio_ws import (
    App,
    ClientConnection,
    ConnectionClosedError,
    Headers,
    HTTPResponse,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.errors import check_close
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.serving import MemoryServer
    from trio_ws import Packet, Request

DATA = b'{"jsonrpc":"2.0","method":"rpc.data","params":{"data":1}}'
CALL = b'{"jsonrpc":"2.0","method":"m","id":1}'
SUBSCRIBE = b'{"jsonrpc":"2.0","method":"__subscribe__","params":[["a"]],"id":1}'


FUNCTIONS = ["Handler", "HandlerBeforeAccept", "HandlerWithANursery", "Middleware", "MiddlewareThatLeaves"]
HOOKS = list(handlers(Faults(Panic())))


async def end_of_client(memory: MemoryServer, path: str, said: bytes) -> None:
    """Be a client until an error, a result or a valid Close frame, which must arrive within 2 seconds."""
    with trio.fail_after(2):
        async with RawPeer(await memory.stream(), client=True) as peer:
            await peer.send_raw(request("Sec-WebSocket-Protocol: jsonrpc", target=path))
            status = status_of(await peer.receive_head())
            if status != 101:
                assert status in (403, 500)
                return
            if said:
                await peer.send_text(said.decode())
            while True:
                frame = await peer.receive_frame()
                assert frame is not None, "no Close"
                if frame.opcode == 8:
                    check_close(int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode())
                    return
                if {"error", "result"} & json.loads(frame.payload).keys():
                    return


@pytest.mark.parametrize("place", FUNCTIONS + HOOKS)
async def test_whatever_leaves_user_code_costs_one_connection(
    place: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(await kept_cancelled())
    said = {"OnReceive": DATA, "OnReceiveThatWaits": DATA}.get(place, CALL if place in HOOKS else b"")
    if place.startswith("MaySubscribe"):
        said = SUBSCRIBE
    async with serving_in_memory(app_of(faults)) as memory, memory.connect("/echo") as innocent:
        for kind in KINDS:
            if "unprintable" in kind and place.endswith("Nursery"):
                continue  # trio's nursery inspects the exception, and fails itself
            caplog.clear()
            await end_of_client(memory, f"/{place}?what={kind}", said)
            await innocent.send("still here?")
            assert await innocent.receive_text() == "still here?"
            with trio.fail_after(2):
                while len(memory.server.connections) > 1:
                    await trio.sleep(0.01)
            if kind != "kept_cancelled" or not place.endswith("Nursery"):  # the nursery absorbs it
                assert len(caplog.records) == 1, (kind, caplog.text)
    assert faults.connected == faults.disconnected


@pytest.mark.parametrize("place", ["HTTP", "HTTPThread"])
async def test_whatever_leaves_an_http_function_costs_one_request(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(await kept_cancelled())
    async with serving_in_memory(app_of(faults)) as memory, memory.connect("/echo") as innocent:
        for kind in KINDS:
            caplog.clear()
            asked = b"GET /%s?what=%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (place.encode(), kind.encode())
            answer = await exchange(await memory.stream(), asked)
            assert (status_of(answer), body_of(answer)) == (500, b"internal server error\n")
            await innocent.send("still here?")
            assert await innocent.receive_text() == "still here?"
            (record,) = caplog.records
            assert record.levelno == logging.ERROR


RESPONSES: dict[str, Callable[[HTTPResponse], object]] = {
    "header": lambda response: setattr(response, "headers", Headers([("Location", "/\r\nSet-Cookie: a=b")])),
    "framing": lambda response: setattr(response, "headers", Headers([("Content-Length", "7")])),
    "no_headers": lambda response: setattr(response, "headers", None),
    "status_without_body": lambda response: setattr(response, "status", 204),
    "status_of_text": lambda response: setattr(response, "status", "200 OK\r\nX: y"),
    "informational": lambda response: setattr(response, "status", 101),
    "body_of_text": lambda response: setattr(response, "body", "text"),
    "body_of_a_number": lambda response: setattr(response, "body", 5),
    "no_status": lambda response: delattr(response, "status"),
}


@pytest.mark.parametrize("change", RESPONSES)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_response_that_was_changed_into_one_that_cannot_be_sent_is_a_500(
    change: str, method: bytes, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.http("/")
    async def changed(request: Request) -> HTTPResponse:
        response = HTTPResponse(200, body="x")
        RESPONSES[change](response)
        return response

    async with serving_in_memory(app) as memory:
        for _ in range(2):
            caplog.clear()
            asked = method + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            answer = await exchange(await memory.stream(), asked)
            assert status_of(answer) == 500
            assert b"Set-Cookie" not in answer
            assert answer.endswith(b"internal server error\n" if method == b"GET" else b"\r\n\r\n")
            assert len(caplog.records) == 1


async def test_the_body_of_a_response_may_be_changed_into_other_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = App()

    @app.http("/")
    async def changed(request: Request) -> HTTPResponse:
        response = HTTPResponse(200, body="x")
        response.body = memoryview(b"12345678").cast("I")  # type: ignore[assignment]
        return response

    async with serving_in_memory(app) as memory:
        answer = await exchange(await memory.stream(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert body_of(answer) == b"12345678"


@pytest.mark.parametrize("debug", [False, True])
async def test_an_error_that_cannot_be_printed_is_answered_with_debug_too(
    debug: bool, autojump_clock: trio.testing.MockClock
) -> None:
    app = App(debug=debug)

    @app.http("/")
    async def fail(request: Request) -> str:
        exc = FAULTS[request.query_params["what"][0]]()
        raise exc

    async with serving_in_memory(app) as memory:
        for kind in FAULTS:
            asked = f"GET /?what={kind} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            answer = await exchange(await memory.stream(), asked.encode())
            assert status_of(answer) == 500
            body_of(answer)


@pytest.mark.parametrize("program_end", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("place", ["Handler", "MethodThatWaits", "PlainMethod", "OnReceive", "HTTP"])
async def test_exceptions_that_end_the_program_pass(
    place: str, grouped: bool, program_end: BaseException, autojump_clock: trio.testing.MockClock
) -> None:
    faults = Faults(Panic())
    raised = BaseExceptionGroup("g", [program_end, KeyError()]) if grouped else program_end
    faults.made["end"] = lambda: raised
    said = {"Handler": b"", "OnReceive": DATA}.get(place, CALL)
    with pytest.raises(type(raised)) as info:
        async with serving_in_memory(app_of(faults)) as memory:
            if place == "HTTP":
                await exchange(
                    await memory.stream(), b"GET /HTTP?what=end HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
            else:
                await end_of_client(memory, f"/{place}?what=end", said)
            await memory.server.serve_forever()
    assert info.value is raised or getattr(info.value, "exceptions", ()) == raised.exceptions  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_clients_own_handler_costs_its_connection_and_not_its_block(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(await kept_cancelled())

    class Mine(WebSocketHandler):
        @rpc_method()
        async def fail(self, connection: ClientConnection) -> None:
            exc = faults.made[kind]()
            raise exc

        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            exc = faults.made[kind]()
            raise exc

    class Theirs(WebSocketHandler):
        @rpc_method()
        async def turn_round(self, connection: ClientConnection) -> None:
            with pytest.raises((RPCError, ConnectionClosedError)):
                await connection.call("fail")
            await connection.send("data")

    async with serving_in_memory(Theirs) as memory:
        async with WebSocketClient("ws://test", handler=Mine, stream=await memory.stream()) as client:
            with contextlib.suppress(ConnectionClosedError):
                await client.call("turn_round")
            with trio.fail_after(2):
                async for state in client.watch_state():
                    if state == "disconnected":
                        break
            await trio.sleep(1)  # the block is not cancelled
        async with WebSocketClient("ws://test", stream=await memory.stream()):
            pass
