"""An App as an ASGI application, under a scripted host."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.asgi import hosting, http_scope, websocket_scope
from tests.support.serving import all_tasks
from trio_ws import (
    App,
    ASGIApp,
    BlockingWebSocket,
    ClientConnection,
    HTTPResponse,
    Options,
    Request,
    WebSocket,
    WebSocketHandler,
)
from trio_ws.codecs.base import Request as Call
from trio_ws.codecs.packets import TrioWSCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


def text_of(event: dict[str, Any]) -> str:
    assert event["type"] == "websocket.send", event
    text: str = event["text"]
    return text


async def ask(app: Any, scope: dict[str, Any], body: bytes = b"") -> tuple[int, dict[bytes, bytes], bytes]:
    """What a plain HTTP request is answered with."""
    async with hosting(app, scope) as host:
        await host.send_event("http.request", body=body, more_body=False)
    start, *parts = host.sent
    assert [part["more_body"] for part in parts] == [*[True] * (len(parts) - 1), False]
    return start["status"], dict(start["headers"]), b"".join(part["body"] for part in parts)


async def test_routes_parameters_and_middleware(autojump_clock: MockClock) -> None:
    app = App()
    seen: list[str] = []

    @app.middleware
    async def note(ws: WebSocket) -> AsyncIterator[None]:
        seen.append(ws.path)
        yield
        seen.append("left")

    @app.websocket("/rooms/{room_id:int}", subprotocols=["chat"])
    async def room(ws: WebSocket, room_id: int) -> None:
        await ws.accept()
        await ws.send(f"{room_id + 1} {ws.subprotocol}")

    async with hosting(app, websocket_scope("/x/rooms/7", root_path="/x", subprotocols=["chat"])) as host:
        pass
    assert text_of(host.sent[1]) == "8 chat"
    assert seen == ["/rooms/7", "left"]
    async with hosting(app, websocket_scope("/rooms/no")) as host:
        assert (await host.receive_event("websocket.http.response.start"))["status"] == 404


async def test_a_plain_function_runs_in_a_thread() -> None:
    app = App()

    @app.websocket("/echo")
    def echo(ws: BlockingWebSocket) -> None:
        for message in ws:
            ws.send(message)

    async with hosting(app, websocket_scope("/echo")) as host:
        await host.send_event("websocket.receive", text="hello")
        assert (await host.receive_event("websocket.accept"))["subprotocol"] is None
        assert text_of(await host.receive_event("websocket.send")) == "hello"
        await host.send_event("websocket.disconnect", code=1000)


async def test_plain_http(autojump_clock: MockClock) -> None:
    app = App()

    @app.http("/items/{item:int}", methods=["GET", "POST"])
    async def items(request: Request, item: int) -> Any:
        if request.method == "POST":
            return HTTPResponse(201, {"X-Made": "yes"}, request.json())
        return {"item": item, "query": request.query_params}

    status, headers, body = await ask(app, http_scope("/items/3", query_string=b"a=1"))
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert body == b'{"item":3,"query":{"a":["1"]}}'
    assert headers[b"content-length"] == b"%d" % len(body)
    assert b"connection" not in headers

    status, headers, body = await ask(app, http_scope("/items/3", method="HEAD"))
    assert (status, headers[b"content-length"], body) == (200, b"21", b"")

    status, headers, body = await ask(
        app, http_scope("/items/3", method="POST"), b"[" + b"1," * 30_000 + b"1]"
    )
    assert (status, headers[b"x-made"], len(body)) == (201, b"yes", 60_003)

    assert (await ask(app, http_scope("/items/3", method="POST"), b"{"))[0] == 400
    assert (await ask(app, http_scope("/items/3", method="PUT")))[0] == 405
    assert (await ask(app, http_scope("/nothing")))[0] == 404


async def test_the_lifespan_is_the_hosts(autojump_clock: MockClock) -> None:
    app = App()
    events: list[str] = []

    @app.lifespan
    async def live(app: App) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            events.append("up")
            app.state.nursery = nursery
            yield
            nursery.cancel_scope.cancel()
        events.append("down")

    @app.websocket("/")
    async def use(ws: WebSocket) -> None:
        app.state.nursery.start_soon(trio.sleep_forever)
        await ws.send("used")
        async for _ in ws:
            pass
        events.append("left")

    before = all_tasks()
    async with hosting(app, {"type": "lifespan"}) as life:
        await life.send_event("lifespan.startup")
        await life.receive_event("lifespan.startup.complete")
        for _ in range(2):
            async with hosting(app, websocket_scope()) as host:
                await host.receive_event("websocket.accept")
                await host.send_event("websocket.disconnect", code=1000)
        assert events == ["up", "left", "left"]
        async with hosting(app, websocket_scope()) as host:
            await host.receive_event("websocket.accept")
            await life.send_event("lifespan.shutdown")
            await life.receive_event("lifespan.shutdown.complete")
        assert events == ["up", "left", "left", "left", "down"]
    assert all_tasks() <= before


async def test_a_lifespan_that_fails_is_told_to_the_host(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    for phase in ("startup", "shutdown"):
        app = App()

        def add(app: App, phase: str) -> None:
            @app.lifespan
            async def live(app: App) -> AsyncIterator[None]:
                if phase == "startup":
                    raise LookupError("no database")
                yield
                raise LookupError("no database")

        add(app, phase)
        with caplog.at_level(logging.ERROR):
            async with hosting(app, {"type": "lifespan"}) as life:
                await life.send_event("lifespan.startup")
                if phase == "shutdown":
                    await life.receive_event("lifespan.startup.complete")
                    await life.send_event("lifespan.shutdown")
                event = await life.receive_event(f"lifespan.{phase}.failed")
        assert event["message"] == "LookupError: no database"
    assert len(caplog.records) == 2


async def test_an_app_without_a_host_that_runs_its_lifespan(autojump_clock: MockClock) -> None:
    app, inner = App(), App()
    lived: list[App] = []

    @inner.lifespan
    async def live(app: App) -> AsyncIterator[None]:
        lived.append(app)
        yield

    @inner.websocket("/")
    async def hello(ws: WebSocket) -> None:
        await ws.send("hello")

    app.mount("/inner", inner)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match=r"async with app\.run_lifespan\(\)")):
        async with hosting(app, websocket_scope("/inner")):
            pass
    async with app.run_lifespan():
        async with hosting(app, websocket_scope("/inner")) as host:
            pass
        assert text_of(host.sent[1]) == "hello"
    assert lived == [inner]


async def test_options_are_those_of_an_asgiapp(autojump_clock: MockClock) -> None:
    app = App()

    @app.http("/", methods=["POST"])
    async def post(request: Request) -> None: ...

    small = ASGIApp(app, options=Options(max_body_bytes=3))
    assert (await ask(small, http_scope(method="POST"), b"1234"))[0] == 413
    assert (await ask(app, http_scope(method="POST"), b"1234"))[0] == 204


async def test_plain_requests_count_as_connections(autojump_clock: MockClock) -> None:
    app = App()
    begun, go_on = trio.Event(), trio.Event()

    @app.http("/")
    async def wait(request: Request) -> str:
        begun.set()
        await go_on.wait()
        return "done"

    one = ASGIApp(app, options=Options(max_connections=1))
    async with hosting(one, http_scope()) as first:
        await first.send_event("http.request", body=b"", more_body=False)
        await begun.wait()
        assert (await ask(one, http_scope()))[0] == 503
        go_on.set()
    assert first.sent[0]["status"] == 200


async def test_a_page_and_a_websocket_at_one_path(autojump_clock: MockClock) -> None:
    app = App()

    @app.http("/")
    async def page(request: Request) -> str:
        return "a page"

    @app.websocket("/")
    async def talk(ws: WebSocket) -> None:
        await ws.send("a message")

    assert (await ask(app, http_scope()))[2] == b"a page"
    async with hosting(app, websocket_scope()) as host:
        pass
    assert text_of(host.sent[1]) == "a message"


async def test_a_handler_calls_its_client_through_the_host(autojump_clock: MockClock) -> None:
    """The host makes the frames, so a request is a message as it is."""
    results: list[Any] = []

    class Asking(WebSocketHandler[Any]):
        async def on_connect(self, connection: ClientConnection[Any]) -> None:
            await connection.accept()
            results.append(await connection.call("twice", 21))

    codec = TrioWSCodec()
    async with hosting(ASGIApp(Asking), websocket_scope(subprotocols=["trio-ws.v1"])) as host:
        await host.receive_event("websocket.accept")
        asked = codec.decode((await host.receive_event("websocket.send"))["bytes"]).rpc
        assert isinstance(asked, Call)
        assert (asked.method, asked.args) == ("twice", [21])
        await host.send_event("websocket.receive", bytes=codec.result(asked, 42))
        await host.send_event("websocket.receive", bytes=codec.request("1", "missing", (1,)))
        await host.receive_event("websocket.send")
        await host.send_event("websocket.disconnect", code=1000)
    assert results == [42]
