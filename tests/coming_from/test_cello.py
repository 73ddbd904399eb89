"""Programs for the statements of Cello's page on WebSockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

import trio_ws
from tests.coming_from.forms import in_another_form, unchanged
from tests.support.serving import MemoryServer, guard, serving_in_memory
from trio_ws import App, Request, WebSocket, WebSocketMessage


async def talk(ws: WebSocket, *messages: str | bytes) -> list[Any]:
    """Send each value, and return the echoes."""
    answers = []
    for message in messages:
        await ws.send(message)
        answer = await ws.recv()
        assert answer is not None
        answers.append(answer.payload)
    return answers


@unchanged
async def test_c01_quick_start() -> None:
    """`@app.websocket("/ws")` serves a function of one `ws`, which sends text and responds in a loop."""
    app = App()

    @app.websocket("/ws")
    async def echo(ws: WebSocket) -> None:
        await ws.send_text("Connected!")
        while True:
            msg = await ws.recv()
            if msg is None or msg.is_close():
                break
            await ws.send_text(f"Echo: {msg.text}")

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        assert await ws.receive_text() == "Connected!"
        assert await talk(ws, "Hello!") == ["Echo: Hello!"]


@unchanged
async def test_c02_plain_def() -> None:
    """A plain `def` handler with blocking calls serves a connection, without `await`."""
    app = App()

    @app.websocket("/ws")
    def echo(ws: trio_ws.BlockingWebSocket) -> None:
        ws.send_text("Connected!")
        while True:
            msg = ws.recv()
            if msg is None or msg.is_close():
                break
            ws.send_text(f"Echo: {msg.text}")

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        assert await ws.receive_text() == "Connected!"
        assert await talk(ws, "Hello!") == ["Echo: Hello!"]


@unchanged
async def test_c03_returning_closes() -> None:
    """The connection is closed when the handler returns."""
    app = App()

    @app.websocket("/ws")
    async def handler(ws: WebSocket) -> None:
        await ws.send_text("bye")

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        assert await ws.receive_text() == "bye"
        assert await ws.recv() is None
        assert ws.close_code == 1000


@unchanged
async def test_c04_sending() -> None:
    """`send_text`, `send_binary`, `send(message)` and `close` send the message that their name says."""
    app = App()

    @app.websocket("/ws")
    async def handler(ws: WebSocket) -> None:
        await ws.send_text("Hello, client!")
        await ws.send_binary(b"\x00\x01\x02\x03")
        await ws.send(WebSocketMessage.text("Structured message"))
        await ws.close()

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        assert [message.payload async for message in ws] == [
            "Hello, client!",
            b"\x00\x01\x02\x03",
            "Structured message",
        ]


@unchanged
async def test_c05_receiving() -> None:
    """`recv()` returns a `WebSocketMessage`, with methods such as `is_text()` for its kind, or None."""
    app = App()
    seen: list[Any] = []

    @app.websocket("/ws")
    async def handler(ws: WebSocket) -> None:
        while True:
            msg = await ws.recv()
            if msg is None:
                break
            if msg.is_text():
                seen.append(msg.text)
            elif msg.is_binary():
                assert msg.data is not None
                seen.append(len(msg.data))
        seen.append(msg)

    async with serving_in_memory(app) as server:
        async with server.connect("/ws") as ws:
            await ws.send("text")
            await ws.send(b"four")
        with trio.fail_after(guard()):
            while len(seen) < 3:
                await trio.sleep(0.001)
    assert seen == ["text", 4, None]


@unchanged
async def test_c06_connected() -> None:
    """`ws.connected` says whether the connection is active."""
    app = App()

    @app.websocket("/ws")
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.send_text(str(ws.connected))
        await ws.close()
        assert not ws.connected

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        assert await ws.receive_text() == "True"


@unchanged
def test_c07_fields_of_a_message() -> None:
    """A message has `msg_type`, `text`, which is None unless it is text, and `data`, which is None for text."""
    text, binary = WebSocketMessage.text("Hello"), WebSocketMessage.binary(b"\x00")
    assert (text.msg_type, text.text, text.data) == ("text", "Hello", None)
    assert (binary.msg_type, binary.text, binary.data) == ("binary", None, b"\x00")


@unchanged
def test_c08_factories() -> None:
    """`WebSocketMessage.text`, `.binary`, `.ping`, `.close` create messages; that of `close()` has no text."""
    messages = [
        WebSocketMessage.text("Hello"),
        WebSocketMessage.binary(b"\x00\x01\x02"),
        WebSocketMessage.ping(),
        WebSocketMessage.close(),
    ]
    assert [one.msg_type for one in messages] == ["text", "binary", "ping", "close"]
    assert [one.is_close() for one in messages] == [False, False, False, True]
    assert messages[-1].text is None
    assert messages[-1].data is None
    assert WebSocketMessage.close(4000, "reason").text is None


@unchanged
async def test_c09_cleanup_runs() -> None:
    """The code after the loop runs when the client has disconnected."""
    app = App()
    left = trio.Event()

    @app.websocket("/ws/lifecycle")
    async def handler(ws: WebSocket) -> None:
        await ws.send_text("Welcome!")
        while True:
            msg = await ws.recv()
            if msg is None or msg.is_close():
                break
            await ws.send_text(f"Got: {msg.text}")
        left.set()

    async with serving_in_memory(app) as server:
        async with server.connect("/ws/lifecycle") as ws:
            assert await ws.receive_text() == "Welcome!"
            assert await talk(ws, "x") == ["Got: x"]
        with trio.fail_after(guard()):
            await left.wait()


@unchanged
async def test_c10_json() -> None:
    """JSON is sent as text, encoded and decoded by the program."""
    app = App()

    @app.websocket("/ws/data")
    async def handler(ws: WebSocket) -> None:
        await ws.send_text(json.dumps({"type": "connected", "status": "ok"}))
        while True:
            msg = await ws.recv()
            if msg is None or msg.is_close():
                break
            try:
                assert msg.text is not None
                await ws.send_text(json.dumps({"got": json.loads(msg.text)}))
            except json.JSONDecodeError:
                await ws.send_text(json.dumps({"error": "Invalid JSON"}))

    async with serving_in_memory(app) as server, server.connect("/ws/data") as ws:
        assert json.loads(await ws.receive_text()) == {"type": "connected", "status": "ok"}
        assert [json.loads(one) for one in await talk(ws, "[1]", "no")] == [
            {"got": [1]},
            {"error": "Invalid JSON"},
        ]


def make_chat(clients: list[WebSocket]) -> App:
    app = App()

    async def broadcast(message: str, exclude: WebSocket | None = None) -> None:
        for client in list(clients):
            if client is not exclude:
                try:
                    await client.send_text(message)
                except trio_ws.ConnectionClosedError:
                    pass

    @app.websocket("/ws/chat")
    async def chat(ws: WebSocket) -> None:
        clients.append(ws)
        await ws.send_text(f"welcome, {len(clients)} online")
        await broadcast("joined", exclude=ws)
        while True:
            msg = await ws.recv(none_when_lost=True)
            if msg is None or msg.is_close():
                break
            await broadcast(f"said {msg.text}")
        clients.remove(ws)
        await broadcast(f"left, {len(clients)} online")

    return app


async def leave(server: MemoryServer, *, cut: bool) -> None:
    link = server.listener.open_link_nowait()
    async with trio_ws.connect("ws://test/ws/chat", stream=link.client) as ws:
        assert await ws.receive_text() == "welcome, 2 online"
        if cut:
            link.cut()


@in_another_form
@pytest.mark.parametrize("cut", [False, True])
async def test_c11_chat(cut: bool) -> None:
    """A chat removes a client that closes or is lost from its list: `recv(none_when_lost=True)`."""
    clients: list[WebSocket] = []
    async with serving_in_memory(make_chat(clients)) as server, server.connect("/ws/chat") as ws:
        assert await ws.receive_text() == "welcome, 1 online"
        await leave(server, cut=cut)
        assert await ws.receive_text() == "joined"
        assert await ws.receive_text() == "left, 1 online"
        assert len(clients) == 1
        assert await talk(ws, "hi") == ["said hi"]


@unchanged
async def test_c12_path_parameters() -> None:
    """A handler `(ws, request)` of `/ws/rooms/{room_id}` has the parameter in `request.params`."""
    app = App()

    @app.websocket("/ws/rooms/{room_id}")
    async def room_handler(ws: WebSocket, request: Request) -> None:
        room_id = request.params["room_id"]
        await ws.send_text(f"Joined room: {room_id}")
        while True:
            msg = await ws.recv()
            if msg is None or msg.is_close():
                break
            await ws.send_text(f"[{room_id}] {msg.text}")

    async with serving_in_memory(app) as server, server.connect("/ws/rooms/7") as ws:
        assert await ws.receive_text() == "Joined room: 7"
        assert await talk(ws, "hi") == ["[7] hi"]


@in_another_form
async def test_c13_python_client() -> None:
    """A Python client connects in a block, sends and receives: `async with trio_ws.connect(url) as ws`."""
    app = App()

    @app.websocket("/ws")
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with serving_in_memory(app) as server, server.connect("/ws") as ws:
        await ws.send("Hello from Python!")
        response = await ws.recv()
        assert response is not None
        assert response.text == "Hello from Python!"


async def test_a_function_of_a_server_takes_the_request_too() -> None:
    async def handler(ws: WebSocket, request: Request) -> None:
        await ws.send_text(request.header("x-name", "nobody"))  # type: ignore[arg-type]

    def blocking(ws: trio_ws.BlockingWebSocket, request: Request) -> None:
        ws.send_text(request.path)

    async with serving_in_memory(handler) as server:
        async with server.connect("/", headers=[("X-Name", "ada")]) as ws:
            assert await ws.receive_text() == "ada"
    async with serving_in_memory(blocking) as server, server.connect("/there") as ws:
        assert await ws.receive_text() == "/there"


def test_a_parameter_of_the_path_comes_before_the_request() -> None:
    app = App()

    @app.websocket("/{request}")
    async def handler(ws: WebSocket, request: str) -> None: ...

    with pytest.raises(TypeError, match="requires parameter 'request'"):

        @app.http("/plain")
        async def plain(page: Request, request: Request) -> None: ...
