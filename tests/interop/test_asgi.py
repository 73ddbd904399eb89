"""ASGIApp under hypercorn's trio worker, for real: HTTP/1.1, WebSockets over HTTP/2, and mounted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from hypercorn.trio import serve
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from trio.testing import wait_all_tasks_blocked
from wsproto.events import BytesMessage, CloseConnection, TextMessage

import trio_ws
from tests.support.http2 import connect_http2
from tests.support.serving import all_tasks, echo, guard
from trio_ws import App, ASGIApp, Options, WebSocket, WebSocketClient, WebSocketHandler, connect
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

MIB = 1024 * 1024


class Hypercorn:
    """A running hypercorn.

    Attributes:
        port: where it listens on 127.0.0.1.
        stop: ends it as SIGTERM would.
        stopped: set once it has ended.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self.url = f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def under_hypercorn(app: Any, **config: Any) -> AsyncIterator[Hypercorn]:
    """Run an application under hypercorn's trio worker, and check that nothing of it remains."""
    settings = Config()
    settings.bind = ["127.0.0.1:0"]
    settings.errorlog = settings.accesslog = None
    settings.graceful_timeout = 0.1
    for name, value in config.items():
        setattr(settings, name, value)
    before = all_tasks()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            server = Hypercorn(0)

            async def run(*, task_status: trio.TaskStatus[list[str]]) -> None:
                await serve(app, settings, shutdown_trigger=server.stop.wait, task_status=task_status)
                server.stopped.set()

            binds: list[str] = await nursery.start(run)
            server.port = int(binds[0].rpartition(":")[2])
            server.url = f"ws://127.0.0.1:{server.port}"
            yield server
            server.stop.set()
    assert all_tasks() <= before


class Calculator(WebSocketHandler):
    def __init__(self) -> None:
        self.left = trio.Event()
        self.closed = trio.Event()

    async def on_disconnect(self, connection: trio_ws.ClientConnection) -> None:
        self.left.set()

    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        try:
            for i in range(n):
                yield i
        finally:
            self.closed.set()

    @trio_ws.rpc_method()
    async def remember(self, connection: trio_ws.ClientConnection, name: str) -> str:
        before: str = connection.get("name", "nobody")
        connection.name = name
        return before


# -- HTTP/1.1 ---------------------------------------------------------------------------------------


async def test_messages_over_http_1() -> None:
    async with under_hypercorn(ASGIApp(echo)) as server, connect(server.url) as ws:
        for payload in ("hä", "", b"", b"\x00\xff", "x" * 70_000, b"y" * 900_000):
            await ws.send(payload)
            message = await ws.recv()
            assert message is not None
            assert message.payload == payload


async def test_the_request_as_the_client_sent_it() -> None:
    async def tell(ws: WebSocket) -> None:
        await ws.send_json(
            {
                "path": ws.path,
                "target": ws.request.target,
                "query": ws.query_params,
                "headers": ws.headers.get_all("x-test"),
                "host": ws.request.host,
                "port": ws.remote_address[1],
            }
        )

    async with under_hypercorn(ASGIApp(tell)) as server:
        headers = [("X-Test", "a"), ("X-Test", "b")]
        async with connect(f"{server.url}/r%C3%B6m/a%2Fb?x=1&x=%20", headers=headers) as ws:
            assert await ws.receive_json() == {
                "path": "/röm/a/b",
                "target": "/r%C3%B6m/a%2Fb?x=1&x=%20",
                "query": {"x": ["1", " "]},
                "headers": ["a", "b"],
                "host": f"127.0.0.1:{server.port}",
                "port": ws.local_address[1],
            }


async def test_subprotocol_and_headers_of_the_answer() -> None:
    async def accept(ws: WebSocket) -> None:
        await ws.accept(headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])

    app = ASGIApp(accept, subprotocols=["chat.v2", "chat.v1"])
    async with under_hypercorn(app) as server:
        async with connect(server.url, subprotocols=["chat.v1", "chat.v2"]) as ws:
            assert ws.subprotocol == "chat.v2"
            assert ws.response_headers is not None
            assert ws.response_headers.get_all("set-cookie") == ["a=1", "b=2"]


async def test_a_rejection_has_its_status_headers_and_body() -> None:
    async def reject(ws: WebSocket) -> None:
        await ws.reject(451, [("X-Why", "the law")], "not here")

    async with under_hypercorn(ASGIApp(reject)) as server:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with connect(server.url):
                pass
    assert (caught.value.status, caught.value.body) == (451, b"not here")
    assert caught.value.headers.get("X-Why") == "the law"


async def test_a_page_from_elsewhere_is_refused() -> None:
    async with under_hypercorn(ASGIApp(echo)) as server:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with connect(server.url, headers=[("Origin", "https://evil.example")]):
                pass
        assert caught.value.status == 403
        async with connect(server.url, headers=[("Origin", "http://127.0.0.1")]) as ws:
            assert ws.connected


async def test_close_codes_both_ways() -> None:
    seen: list[int | None] = []

    async def ask(ws: WebSocket) -> None:
        if await ws.receive_text() == "close":
            raise trio_ws.CloseConnection(4001, "as you wish")
        with pytest.raises(trio_ws.ConnectionClosedError):
            await ws.recv()
        seen.append(ws.close_code)

    async with under_hypercorn(ASGIApp(ask)) as server:
        async with connect(server.url) as ws:
            await ws.send("close")
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (4001, "as you wish")
        async with connect(server.url) as ws:
            await ws.send("I will")
            await ws.close(4002)
            assert ws.close_received == (4002, "")
    # hypercorn 0.18 does not pass on the close code of a client; tests/test_asgi.py has a server that does.
    assert seen == [1006]


async def test_calls_streams_and_session_state() -> None:
    calculator = Calculator()
    async with under_hypercorn(ASGIApp(calculator)) as server:
        async with WebSocketClient(server.url) as client:
            assert await client.call("add", 20, 22) == 42
            assert await client.call("remember", "ada") == "nobody"
            assert await client.call("remember", "bob") == "ada"
            async with client.stream("count", 10**9, items=int) as numbers:
                assert [await anext(numbers) for _ in range(200)] == list(range(200))
            await calculator.closed.wait()
            with pytest.raises(trio_ws.RPCMethodNotFoundError):
                await client.call("subtract")
        await calculator.left.wait()
        assert calculator.clients == frozenset()


async def test_a_client_that_goes_away_in_the_middle_of_a_stream() -> None:
    calculator = Calculator()
    async with under_hypercorn(ASGIApp(calculator)) as server:
        peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
        await peer.send_text(
            '{"source":5,"rpc":{"type":"request","method":"count","args":[99],"call_id":"1","credits":5}}'
        )
        for i in range(5):
            frame = await peer.receive_frame()
            assert frame is not None
            assert f'"response":{i}' in frame.payload.decode()
        assert calculator.clients
        await peer.aclose()
        await calculator.closed.wait()
        await calculator.left.wait()


async def test_a_slow_reader_makes_the_sender_wait() -> None:
    sent = 0
    total = 32  # more than the kernel holds

    async def pour(ws: WebSocket) -> None:
        nonlocal sent
        for _ in range(total):
            await ws.send(bytes(MIB))
            sent += 1

    async with under_hypercorn(ASGIApp(pour)) as server:
        async with connect(server.url, options=Options(max_queue_bytes=1)) as ws:
            await wait_all_tasks_blocked(0.2)
            assert 0 < sent < total / 2
            for _ in range(total):
                assert len(await ws.receive_bytes()) == MIB
            assert sent == total


async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with under_hypercorn(ASGIApp(echo, options=Options(max_message_size=1000))) as server:
        async with connect(server.url) as ws:
            await ws.send(bytes(1001))
            await ws.wait_closed()
            assert ws.close_code == 1009


async def test_a_server_that_stops_says_1001() -> None:
    ended = trio.Event()

    async def wait(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        ended.set()

    async with under_hypercorn(ASGIApp(wait)) as server, connect(server.url) as ws:
        await ws.send("hello")
        server.stop.set()
        await ws.wait_closed()
        assert ws.close_code == 1001
        await server.stopped.wait()
        assert ended.is_set()


async def test_plain_http_is_told_to_upgrade() -> None:
    async with under_hypercorn(ASGIApp(echo)) as server, httpx.AsyncClient() as client:
        response = await client.get(f"http://127.0.0.1:{server.port}/")
        assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
        response = await client.post(f"http://127.0.0.1:{server.port}/", content=b"x" * 100_000)
        assert response.status_code == 413


# -- HTTP/2, RFC 8441 -------------------------------------------------------------------------------


async def test_websockets_over_http_2() -> None:
    async with under_hypercorn(ASGIApp(echo)) as server, connect_http2(server.port) as connection:
        first = await connection.request("/one")
        second = await connection.request("/two")
        assert (await first.answer(), await second.answer()) == (200, 200)
        await first.send(TextMessage(data="hä"))
        await second.send(BytesMessage(data=b"\x00" * 300_000))
        assert await first.receive() == TextMessage(data="hä")
        assert await second.receive() == BytesMessage(data=b"\x00" * 300_000)


async def test_a_handler_sees_http_2_as_any_other() -> None:
    async def tell(ws: WebSocket) -> None:
        await ws.accept(headers=[("X-More", "yes")])
        await ws.send(f"{ws.path} {ws.query_string} {ws.header('x-test')} {ws.request.host}")
        await ws.close(4003, "enough")

    async with under_hypercorn(ASGIApp(tell, subprotocols=["b"])) as server:
        async with connect_http2(server.port) as connection:
            offer = ("sec-websocket-protocol", "a, b")
            stream = await connection.request("/where?q=1", ("x-test", "t"), offer)
            assert await stream.answer() == 200
            assert stream.headers["sec-websocket-protocol"] == "b"
            assert stream.headers["x-more"] == "yes"
            assert await stream.receive() == TextMessage(data="/where q=1 t localhost")
            assert await stream.receive() == CloseConnection(code=4003, reason="enough")


async def test_a_rejection_over_http_2() -> None:
    async def reject(ws: WebSocket) -> None:
        await ws.reject(401, [("WWW-Authenticate", "Basic")], "who are you?")

    async with under_hypercorn(ASGIApp(reject)) as server, connect_http2(server.port) as connection:
        stream = await connection.request("/")
        assert await stream.answer() == 401
        assert stream.headers["www-authenticate"] == "Basic"
        assert await stream.end() == b"who are you?"


async def test_plain_http_over_http_2() -> None:
    async with under_hypercorn(ASGIApp(echo)) as server, connect_http2(server.port) as connection:
        stream = await connection.request("/", method="GET")
        assert await stream.answer() == 426
        assert "upgrade" not in stream.headers


async def test_an_app_over_http_2() -> None:
    app = App()

    @app.http("/page", methods=["GET"])
    async def page(request: trio_ws.Request) -> dict[str, str]:
        return {"host": request.host}

    @app.websocket("/rooms/{room:int}")
    async def room(ws: WebSocket, room: int) -> None:
        await ws.send(f"room {room}")

    async with under_hypercorn(app) as server, connect_http2(server.port) as connection:
        stream = await connection.request("/page", method="GET")
        assert (await stream.answer(), await stream.end()) == (200, b'{"host":"localhost"}')
        stream = await connection.request("/page", method="HEAD")
        assert (await stream.answer(), await stream.end()) == (200, b"")
        assert stream.headers["content-length"] == "20"
        stream = await connection.request("/rooms/7")
        assert await stream.answer() == 200
        assert await stream.receive() == TextMessage(data="room 7")
        stream = await connection.request("/rooms/x")
        assert await stream.answer() == 404


async def test_a_stream_of_http_2_that_is_reset_ends_its_handler_alone() -> None:
    ended: list[str] = []
    over = trio.Event()

    async def wait(ws: WebSocket) -> None:
        try:
            await ws.send(ws.path)
            async for message in ws:
                await ws.send(message)
        finally:
            ended.append(ws.path)
            over.set()

    async with under_hypercorn(ASGIApp(wait)) as server, connect_http2(server.port) as connection:
        first, second = await connection.request("/one"), await connection.request("/two")
        assert await first.receive() == TextMessage(data="/one")
        assert await second.receive() == TextMessage(data="/two")
        await connection.reset(first)
        await over.wait()
        assert ended == ["/one"]
        await second.send(TextMessage(data="still here"))
        assert await second.receive() == TextMessage(data="still here")


# -- mounted ----------------------------------------------------------------------------------------


async def test_mounted_in_starlette() -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("a page")

    async def tell(ws: WebSocket) -> None:
        await ws.send(ws.request.target)

    app = Starlette(
        routes=[Route("/", page), Mount("/ws/{room}", ASGIApp(tell)), Mount("/rpc", ASGIApp(Calculator))]
    )
    async with under_hypercorn(app) as server:
        async with connect(f"{server.url}/ws/7/a%2Fb?x=1") as ws:
            assert await ws.receive_text() == "/a%2Fb?x=1"
        async with WebSocketClient(f"{server.url}/rpc/") as client:
            assert await client.call("add", 1, 2) == 3
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{server.port}/")).text == "a page"


async def test_an_app_with_a_lifespan_mounted_in_starlette() -> None:
    app = App()

    @app.lifespan
    async def live(app: App) -> AsyncIterator[None]:
        app.state.word = "alive"
        yield

    @app.websocket("/say")
    async def say(ws: WebSocket) -> None:
        await ws.send(app.state.word)

    @app.http("/page")
    async def page(request: trio_ws.Request) -> str:
        return request.target

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app.run_lifespan():
            yield

    routes = [Mount("/app", app)]
    async with under_hypercorn(Starlette(routes=routes, lifespan=lifespan)) as server:
        async with connect(f"{server.url}/app/say") as ws:
            assert await ws.receive_text() == "alive"
        async with httpx.AsyncClient() as http:
            response = await http.get(f"http://127.0.0.1:{server.port}/app/page?x=1")
            assert response.text == "/page?x=1"
    async with under_hypercorn(Starlette(routes=routes)) as server:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with connect(f"{server.url}/app/say"):
                pass
        assert caught.value.status == 500


async def test_beside_quart_trio() -> None:
    quart = QuartTrio("shop")

    @quart.route("/page")
    async def page() -> str:
        return "a page"

    async def tell(ws: WebSocket) -> None:
        await ws.send(ws.path)

    app = TrioDispatcherMiddleware({"/ws": ASGIApp(tell), "": quart})
    async with under_hypercorn(app) as server:
        async with connect(f"{server.url}/ws/room") as ws:
            assert await ws.receive_text() == "/room"
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{server.port}/page")).text == "a page"
