"""Programs for the statements of VelociPy's page on WebSockets."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import trio_ws
from tests.coming_from.forms import in_another_form, unchanged
from tests.support.serving import guard, serving_in_memory
from trio_ws import App, WebSocket, WebSocketException

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def client_of(
    function: Callable[..., Awaitable[None]],
    path: str = "/ws",
    at: str = "/ws",
    app: App | None = None,
    **more: Any,
) -> AsyncIterator[WebSocket]:
    app = app or App()
    app.websocket(path)(function)
    async with serving_in_memory(app) as server, server.connect(at, **more) as ws:
        yield ws


@unchanged
async def test_v01_echo() -> None:
    """A handler accepts, receives and sends text in a loop, and closes when an exception ends it."""
    ended = trio.Event()

    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                message = await ws.receive_text()
                await ws.send_text(f"echo: {message}")
        except Exception:  # noqa: BLE001 - as the page has it
            await ws.close()
            ended.set()

    async with client_of(echo) as ws:
        await ws.send("hi")
        assert await ws.receive_text() == "echo: hi"
        await ws.close()
        with trio.fail_after(guard()):
            await ended.wait()


@unchanged
async def test_v02_path_and_headers() -> None:
    """`ws.path_params["name"]` and `ws.header(name, default=...)` return parts of the request."""

    async def room(ws: WebSocket) -> None:
        await ws.accept()
        room_id = ws.path_params["room_id"]
        client_name = ws.header("x-client-name", default="stranger")
        await ws.send_text(f"joined room {room_id} as {client_name}")

    async with client_of(room, "/rooms/{room_id}", "/rooms/7") as ws:
        assert await ws.receive_text() == "joined room 7 as stranger"
    async with client_of(room, "/rooms/{room_id}", "/rooms/7", headers=[("X-Client-Name", "ada")]) as ws:
        assert await ws.receive_text() == "joined room 7 as ada"


@unchanged
async def test_v03_headers() -> None:
    """`ws.headers` is a mapping: `[...]`, `in`, `.get`, `.keys()`, `.items()`, in any case of names."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        headers = ws.headers
        assert headers["x-name"] == headers["X-Name"] == "ada"
        assert "x-name" in headers
        assert headers.get("x-none") is None
        assert headers.get("x-none", "nothing") == "nothing"
        assert "X-Name" in headers.keys()  # noqa: SIM118 - what the page does
        assert ("X-Name", "ada") in headers.items()
        assert "ada" in headers.values()
        assert dict(headers)["X-Name"] == "ada"
        with pytest.raises(KeyError):
            headers["x-none"]
        await ws.send_text("fine")

    async with client_of(handler, headers=[("X-Name", "ada"), ("x-name", "bob")]) as ws:
        assert await ws.receive_text() == "fine"


@unchanged
async def test_v04_query_and_state() -> None:
    """`ws.query_string` is the raw query; `ws.accepted` and `ws.closed` are the state."""
    states: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        states.append((ws.query_string, ws.accepted, ws.closed))
        await ws.accept()
        states.append((ws.accepted, ws.closed))
        await ws.close()
        states.append((ws.accepted, ws.closed))

    async with client_of(handler, at="/ws?room=7&x=%20") as ws:
        assert await ws.recv() is None
    assert states == [("room=7&x=%20", False, False), (True, False), (True, True)]


@unchanged
async def test_v05_json() -> None:
    """`receive_json()` and `send_json()` transfer JSON as text."""

    async def game(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                move = await ws.receive_json()
                await ws.send_json({"ack": move, "tick": 42})
        except Exception:  # noqa: BLE001 - as the page has it
            await ws.close()

    async with client_of(game) as ws:
        await ws.send('{"x": 1, "y": 2}')
        message = await ws.recv()
        assert message is not None
        assert message.is_text()
        assert message.json() == {"ack": {"x": 1, "y": 2}, "tick": 42}


@unchanged
async def test_v06_bytes() -> None:
    """`receive_bytes()` and `send_bytes()` transfer binary messages."""

    async def handler(ws: WebSocket) -> None:
        await ws.send_bytes(await ws.receive_bytes())

    async with client_of(handler) as ws:
        await ws.send(b"\x00\xff")
        assert await ws.receive_bytes() == b"\x00\xff"


class Stamped:
    """A library that leaves its mark."""

    @staticmethod
    def dumps(obj: Any) -> str:
        return json.dumps({"stamped": obj})

    @staticmethod
    def loads(text: str | bytes) -> Any:
        return ["stamped", json.loads(text)]


@in_another_form
@pytest.mark.parametrize("library", [json, msgspec.json, Stamped, None])
async def test_v07_adapter(library: Any) -> None:
    """The App's JSON adapter applies to WebSockets and HTTP: `App(json=orjson)`."""
    app = App(json=library)

    @app.http("/echo", methods=["POST"])
    async def post(request: trio_ws.Request) -> Any:
        return {"got": request.json()}

    async def handler(ws: WebSocket) -> None:
        await ws.send_json(await ws.receive_json())
        await ws.receive_json()

    async with client_of(handler, app=app) as ws:
        await ws.send("[1]")
        answer = json.loads(await ws.receive_text())
        assert answer == ({"stamped": ["stamped", [1]]} if library is Stamped else [1])
        await ws.send("{")
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ws.receive_text()
        assert caught.value.code == 1011


@unchanged
async def test_v08_subprotocol() -> None:
    """`accept(subprotocol=...)` selects a subprotocol that the client offers."""

    async def chat(ws: WebSocket) -> None:
        await ws.accept(subprotocol="chat.v1")
        await ws.send_text("protocol accepted")

    async with client_of(chat, subprotocols=["chat.v2", "chat.v1"]) as ws:
        assert await ws.receive_text() == "protocol accepted"
        assert ws.subprotocol == "chat.v1"


@in_another_form
async def test_v09_subprotocol_that_was_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    """One that was not offered raises `SubprotocolError` in the handler; the client gets 400 with the reason."""

    async def chat(ws: WebSocket) -> None:
        await ws.accept(subprotocol="chat.v1")

    with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
        async with client_of(chat, subprotocols=["chat.v2"]):
            pass
    assert caught.value.status == 400
    assert b"subprotocol" in caught.value.body
    (record,) = [one for one in caplog.records if "chat.v1" in one.getMessage()]
    assert "chat.v2" in record.getMessage()
    assert record.exc_info is None


@unchanged
async def test_v10_closing() -> None:
    """`close(code, reason)` closes the connection with this code and reason."""

    async def guard_it(ws: WebSocket) -> None:
        await ws.accept()
        while True:
            text = await ws.receive_text()
            if text == "quit":
                await ws.close(code=1000, reason="client requested exit")
                return
            await ws.send_text(f"ok: {text}")

    async with client_of(guard_it) as ws:
        await ws.send("x")
        assert await ws.receive_text() == "ok: x"
        await ws.send("quit")
        assert await ws.recv() is None
        assert (ws.close_code, ws.close_reason) == (1000, "client requested exit")


@in_another_form
@pytest.mark.parametrize("how", ["clean", "without a code", "cut"])
async def test_v11_closing_with_what_an_exception_says(how: str) -> None:
    """`close(code=exc.code, reason=exc.reason)` accepts the values of a `ConnectionClosedError`, also 1005 and 1006."""
    codes: list[int] = []
    done = trio.Event()
    app = App()

    @app.websocket("/guard")
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        try:
            while True:
                await ws.receive_text()
        except trio_ws.ConnectionClosedError as exc:
            codes.append(exc.code)
            await ws.close(code=exc.code, reason=exc.reason)
            done.set()

    async with serving_in_memory(app) as server:
        link = server.listener.open_link_nowait()
        async with trio_ws.connect("ws://test/guard", stream=link.client) as ws:
            if how == "cut":
                link.cut()
            elif how == "clean":
                await ws.close(4000, "enough")
            else:
                ws._start_application_close(1005, "")
            with trio.fail_after(guard()):
                await done.wait()
    assert codes == [{"clean": 4000, "without a code": 1005, "cut": 1006}[how]]


async def test_a_code_that_is_never_sent_is_refused_while_the_connection_is_open() -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        for code in (1005, 1006, 1015):
            with pytest.raises(ValueError, match="cannot be sent"):
                await ws.close(code)
        await ws.send("fine")

    async with client_of(handler) as ws:
        assert await ws.receive_text() == "fine"


@unchanged
async def test_v12_raising_a_close() -> None:
    """A `WebSocketException(code, reason)` of a handler closes with this code and reason."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        raise WebSocketException(4003, "not you")

    async with client_of(handler) as ws:
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ws.receive_text()
        assert (caught.value.code, caught.value.reason) == (4003, "not you")


@unchanged
@pytest.mark.parametrize("kind", ["text", "bytes"])
async def test_v13_wrong_kind(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A message of the wrong kind closes with 1002 and the reason, unless the handler catches the error."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await (ws.receive_text() if kind == "text" else ws.receive_bytes())

    async with client_of(handler) as ws:
        await ws.send(b"x" if kind == "text" else "x")
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ws.receive_text()
        assert caught.value.code == 1002
        assert "expected" in caught.value.reason
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@unchanged
async def test_v14_unhandled_exception() -> None:
    """Any other exception of a handler closes with 1011."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        raise ZeroDivisionError

    async with client_of(handler) as ws:
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ws.receive_text()
        assert caught.value.code == 1011


@unchanged
async def test_v15_debug() -> None:
    """In debug mode the exception is raised again, so that its traceback is shown."""
    app = App(debug=True)

    @app.websocket("/ws")
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with serving_in_memory(app) as server, server.connect("/ws"):
            await trio.sleep_forever()


@unchanged
async def test_v16_closing_is_not_forgotten() -> None:
    """The connection is closed even if the handler does not do it."""

    async def handler(ws: WebSocket) -> None:
        await ws.accept()

    async with client_of(handler) as ws:
        assert await ws.recv() is None
        assert ws.close_code == 1000


@unchanged
async def test_v17_broadcast() -> None:
    """A broadcast can use a set of open connections; `ws.closed` is true for those that have ended."""
    connections: set[WebSocket] = set()
    app = App()

    @app.websocket("/broadcast")
    async def broadcast(ws: WebSocket) -> None:
        await ws.accept()
        connections.add(ws)
        try:
            while True:
                message = await ws.receive_text()
                for conn in list(connections):
                    if conn is not ws and not conn.closed:
                        await conn.send_text(message)
        finally:
            connections.discard(ws)
            if not ws.closed:
                await ws.close()

    async with serving_in_memory(app) as server:
        async with server.connect("/broadcast") as ada, server.connect("/broadcast") as bob:
            with trio.fail_after(guard()):
                while len(connections) < 2:
                    await trio.sleep(0.001)
            await ada.send("hi")
            assert await bob.receive_text() == "hi"
        with trio.fail_after(guard()):
            while connections:
                await trio.sleep(0.001)
