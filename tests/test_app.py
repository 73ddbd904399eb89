"""`trio_ws.app` with WebSockets: routes, mounts, middleware, lifespans, and `App.run`."""

from __future__ import annotations

import functools
import logging
import signal
import subprocess
import sys
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import (
    all_tasks,
    body_of,
    echo,
    exchange,
    guard,
    request,
    serving_in_memory,
    status_of,
)
from trio_ws import (
    App,
    ClientConnection,
    CloseConnection,
    HandshakeRejectedError,
    Options,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    connect,
    rpc_method,
    serve,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus, MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws import WebSocket


class Rooms(WebSocketHandler):
    @rpc_method()
    def where(self, connection: ClientConnection) -> list[Any]:
        return [connection.request.path, connection.path_params, connection.request.path_params]


async def report(ws: WebSocket) -> None:
    """Send the parameters of the path."""
    await ws.send(repr(ws.path_params))


async def said(app: App, path: str, **kwargs: Any) -> str:
    """The first text that a client at a path gets."""
    async with serving_in_memory(app) as memory, memory.connect(path, **kwargs) as ws:
        return await ws.receive_text()


async def refusal(app: App, path: str) -> tuple[int, bytes]:
    """How a handshake at a path is refused."""
    async with serving_in_memory(app) as memory:
        with pytest.raises(HandshakeRejectedError) as info:
            async with memory.connect(path):
                pytest.fail("it was let in")
    return info.value.status, info.value.body


# -- routes -----------------------------------------------------------------------------------------


async def test_parameters_are_attributes_and_arguments(autojump_clock: MockClock) -> None:
    app = App()

    @app.websocket("/rooms/{room_id:int}/{seat:uuid}/{rest:path}")
    async def room(ws: WebSocket, room_id: int, *, rest: str) -> None:
        assert ws.request.path_params == ws.path_params
        await ws.send_json([room_id, rest, {name: repr(value) for name, value in ws.path_params.items()}])

    seat = uuid.UUID(int=7)
    async with serving_in_memory(app) as memory, memory.connect(f"/rooms/-5/{seat}/a%20b/c") as ws:
        expected = {"room_id": "-5", "seat": repr(seat), "rest": "'a b/c'"}
        assert await ws.receive_json() == [-5, "a b/c", expected]


@pytest.mark.parametrize("path", ["/nothing", "/rooms/x", "/rooms", "/rooms/1/2", "/", "/page"])
async def test_paths_without_a_route_get_404(
    path: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    app.websocket("/rooms/{room_id:int}")(echo)
    app.http("/page")(page)
    assert await refusal(app, path) == (404, b"no WebSocket at this path\n")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def page(request: object) -> str:
    return "a page"


async def test_a_slash_at_the_end_makes_no_difference(autojump_clock: MockClock) -> None:
    app = App()
    app.websocket("/a/{x}")(report)
    assert await said(app, "/a/1/?q=1") == await said(app, "/a/1") == "{'x': '1'}"


async def test_a_plain_request_at_a_websocket_gets_426_and_another_method_405(
    autojump_clock: MockClock,
) -> None:
    app = App()
    app.websocket("/ws")(echo)
    plain = ("upgrade", "connection", "sec-websocket-key", "sec-websocket-version")
    for method, target, status in [("GET", "/ws", 426), ("POST", "/ws", 405), ("GET", "/nothing", 404)]:
        async with serving_in_memory(app) as memory:
            data = request(method=method, target=target, leave_out=plain)
            assert status_of(await exchange(await memory.stream(), data)) == status


@pytest.mark.parametrize(
    ("line", "status"),
    [("Origin: http://elsewhere.example", 403), ("Sec-WebSocket-Version: 8", 426), ("X: y", 101)],
)
async def test_the_rules_of_a_handshake_hold_on_a_route(
    line: str, status: int, autojump_clock: MockClock
) -> None:
    app = App()
    app.websocket("/ws")(report)
    leave_out = [line.split(":", maxsplit=1)[0].lower()]
    async with serving_in_memory(app) as memory:
        stream = await memory.stream()
        await stream.send_all(request(line, target="/ws", leave_out=leave_out))
        assert status_of(bytes(await stream.receive_some())) == status


async def test_subprotocols_are_of_the_route_else_of_the_server(autojump_clock: MockClock) -> None:
    app = App()
    app.websocket("/own", subprotocols=["b"])(echo)
    app.websocket("/none", subprotocols=[])(echo)
    app.websocket("/servers")(echo)
    app.mount("/rpc", Rooms)
    app.mount("/old", Rooms, subprotocols=["json"])
    offered = ["a", "b", "trio-ws.v1", "json"]
    async with serving_in_memory(app, subprotocols=["a"]) as memory:
        agreed = {}
        for path in ("/own", "/none", "/servers", "/rpc", "/old"):
            async with memory.connect(path, subprotocols=offered) as ws:
                await ws.ping()
                agreed[path] = ws.subprotocol
    assert agreed == {"/own": "b", "/none": None, "/servers": "a", "/rpc": "trio-ws.v1", "/old": "json"}


async def test_a_route_ends_as_a_target_does(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.websocket("/code")
    async def code(ws: WebSocket) -> None:
        await ws.accept()
        raise CloseConnection(4000, "as said")

    @app.websocket("/bug")
    async def bug(ws: WebSocket) -> None:
        await ws.accept()
        raise ValueError("a bug")

    @app.websocket("/untouched")
    async def untouched(ws: WebSocket) -> None:
        pass

    async with serving_in_memory(app) as memory:
        for path, expected in (("/code", 4000), ("/bug", 1011)):
            async with memory.connect(path) as ws:
                await ws.wait_closed()
                assert ws.close_code == expected
        with pytest.raises(HandshakeRejectedError, match="403"):
            async with memory.connect("/untouched"):
                pass
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "/bug" in record.getMessage()


@pytest.mark.parametrize("whose", ["the app's", "the server's"])
async def test_debug_lets_an_exception_out_of_the_server(whose: str, autojump_clock: MockClock) -> None:
    app = App(debug=whose == "the app's")
    error = ValueError("a bug")

    @app.websocket("/")
    async def bug(ws: WebSocket) -> None:
        await ws.accept()
        raise error

    with pytest.raises(ValueError, match="a bug") as info:
        async with serving_in_memory(app, debug=whose == "the server's") as memory, memory.connect() as ws:
            await ws.recv()
            await trio.sleep_forever()
    assert info.value is error


# -- mounts -----------------------------------------------------------------------------------------


async def test_a_mounted_handler_answers_calls_and_is_to_be_found(autojump_clock: MockClock) -> None:
    app, inner, other = App(), App(), Rooms()
    inner.mount("/{room:int}", Rooms)
    app.mount("/rooms", inner)
    app.mount("/one", other)
    assert set(app.handlers) == {"/rooms/{room:int}", "/one"}
    assert app.handlers["/one"] is other
    assert app.handlers["/rooms/{room:int}"] is inner.handlers["/{room:int}"]
    async with serving_in_memory(app) as memory:
        for path, params in (("/rooms/7", {"room": 7}), ("/one", {})):
            stream = await memory.stream()
            async with WebSocketClient(f"ws://test{path}", stream=stream) as client:
                assert await client.call("where") == [path, params, params]
            (connection,) = memory.server.connections or [None]
            assert connection is None or connection.closed
    assert not other.clients


async def test_a_mounted_app_keeps_its_routes_below_the_path(autojump_clock: MockClock) -> None:
    app, tenant, deep = App(), App(), App()
    tenant.websocket("/")(report)
    app.mount("/t/{tenant}/", tenant)
    tenant.mount("/deep", deep)
    # Routes that are added later are served too.
    deep.websocket("/{x:int}")(report)
    assert await said(app, "/t/ada") == await said(app, "/t/ada/") == "{'tenant': 'ada'}"
    assert await said(app, "/t/ada/deep/5") == "{'tenant': 'ada', 'x': 5}"
    assert await said(tenant, "/deep/5") == "{'x': 5}"
    assert (await refusal(app, "/deep/5"))[0] == 404


async def test_an_app_mounted_at_the_root_and_twice(autojump_clock: MockClock) -> None:
    app, inner = App(), App()
    app.mount("/", inner)
    app.mount("/again", inner)
    inner.websocket("/x")(report)
    for path in ("/x", "/again/x"):
        assert await said(app, path) == "{}"


async def test_channels_of_mounted_handlers_work_and_share_a_broker(autojump_clock: MockClock) -> None:
    class News(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.accept()
            connection.subscribe("x")

    def make() -> App:
        app, inner = App(), App()
        inner.mount("/{n:int}", News)
        app.mount("/news", inner)
        app.mount("/other", News)
        return app

    apps = [make(), make()]
    hub = InMemoryBus()
    async with (
        serving_in_memory(apps[0], broker=InMemoryBroker(hub)) as one,
        serving_in_memory(apps[1], broker=InMemoryBroker(hub)),
    ):
        async with WebSocketClient("ws://test/news/5", stream=await one.stream()) as client:
            for app in apps:
                app.handlers["/other"].publish("x", "not for these")
                app.handlers["/news/{n:int}"].publish("x", "news")
            packets = [await client.recv() for _ in apps]
            assert [packet.data for packet in packets if packet] == ["news"] * 2
            with trio.move_on_after(1):
                pytest.fail(f"there was another: {await client.recv()}")


# -- middleware -------------------------------------------------------------------------------------


async def test_middleware_surrounds_a_connection_from_the_outermost_app_inwards(
    autojump_clock: MockClock,
) -> None:
    app, inner = App(), App()
    events: list[str] = []

    def context(name: str) -> Callable[[WebSocket], AsyncIterator[None]]:
        async def around(ws: WebSocket) -> AsyncIterator[None]:
            assert not ws.accepted
            events.append(f"{name} in")
            try:
                yield
            finally:
                events.append(f"{name} out")

        return around

    @app.add_middleware
    async def wrapper(ws: WebSocket, call_next: Callable[[WebSocket], Awaitable[None]]) -> None:
        events.append("wrapper in")
        await call_next(ws)
        events.append("wrapper out")

    inner.middleware(context("inner"))
    app.middleware(asynccontextmanager(context("second")))
    inner.websocket("/x")(report)
    app.mount("/in", inner)
    app.mount("/rpc", Rooms)
    assert await said(app, "/in/x") == "{}"
    order = ["wrapper", "second", "inner"]
    assert events == [f"{one} in" for one in order] + [f"{one} out" for one in order[::-1]]
    events.clear()
    async with serving_in_memory(app) as memory:
        async with WebSocketClient("ws://test/rpc", stream=await memory.stream()) as client:
            assert (await client.call("where"))[0] == "/rpc"
    assert events == ["wrapper in", "second in", "second out", "wrapper out"]


@pytest.mark.parametrize("way", ["reject", "raise", "silence", "reject in a wrapper"])
async def test_middleware_may_refuse_a_client(way: str, autojump_clock: MockClock) -> None:
    app = App()
    called: list[str] = []

    @app.websocket("/")
    async def never(ws: WebSocket) -> None:
        called.append("the route")

    async def door(ws: WebSocket) -> AsyncIterator[None]:
        if way == "raise":
            raise CloseConnection(1008)
        await ws.reject(401, [("WWW-Authenticate", "Basic")], "who are you?")
        yield
        called.append("behind")

    async def wrapper(ws: WebSocket, call_next: Callable[[WebSocket], Awaitable[None]]) -> None:
        if way != "silence":
            await ws.reject(401, body="who are you?")
            await call_next(ws)

    if "wrapper" in way or way == "silence":
        app.add_middleware(wrapper)
    else:
        app.middleware(door)
    expected = {
        "silence": (403, b"the handler returned without accepting the client\n"),
        "raise": (403, b""),
    }
    assert await refusal(app, "/") == expected.get(way, (401, b"who are you?"))
    assert called == (["behind"] if way == "reject" else [])


async def test_middleware_sees_what_a_route_raises(autojump_clock: MockClock) -> None:
    app = App()

    @app.websocket("/")
    async def bug(ws: WebSocket) -> None:
        await ws.accept()
        raise KeyError("x")

    @app.middleware
    async def translate(ws: WebSocket) -> AsyncIterator[None]:
        try:
            yield
        except KeyError as exc:
            raise CloseConnection(4004, "no such thing") from exc

    async with serving_in_memory(app) as memory, memory.connect() as ws:
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4004, "no such thing")


# -- lifespan ---------------------------------------------------------------------------------------


async def test_a_lifespan_is_entered_before_listening_and_left_after_draining(
    autojump_clock: MockClock,
) -> None:
    app, inner = App(), App()
    events: list[str] = []

    @app.lifespan
    async def first(given: App) -> AsyncIterator[None]:
        assert given is app
        given.state.word = "from the lifespan"
        await trio.sleep(1)
        events.append(f"up, {memory_server.state}")
        yield
        await trio.sleep(1)
        events.append(f"down, {memory_server.state}")

    @inner.lifespan
    @asynccontextmanager
    async def second(given: App) -> AsyncIterator[None]:
        assert given is inner
        events.append("inner up")
        yield
        events.append("inner down")

    @app.websocket("/")
    async def slow(ws: WebSocket) -> None:
        await ws.send(app.state.word)
        async for _ in ws:
            pass
        await trio.sleep(1)
        events.append("handler done")

    app.mount("/a", inner)
    app.mount("/b", inner)
    listener = MemoryListener()
    memory_server = WebSocketServer(app, listeners=[listener])
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with memory_server:
                assert events == ["up, new", "inner up"]
                ws = await nursery.start(hold, listener)
                assert await ws.receive_text() == "from the lifespan"
    assert events[2:] == ["handler done", "inner down", "down, closed"]


async def hold(listener: MemoryListener, *, task_status: trio.TaskStatus[WebSocket]) -> None:
    async with connect("ws://test/", stream=await listener.connect()) as ws:
        task_status.started(ws)
        await ws.wait_closed()


async def test_a_cancelled_server_lets_its_lifespan_end_in_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    events: list[str] = []

    @app.lifespan
    async def background(app: App) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()
        await trio.sleep(9)
        events.append("down")

    before = all_tasks()
    with trio.move_on_after(5) as scope:
        await serve(app, 0, listeners=[MemoryListener()])
    assert scope.cancelled_caught
    assert trio.current_time() == 14
    assert events == ["down"]
    assert all_tasks() == before
    assert not caplog.records


async def test_a_lifespan_that_does_not_end_is_cut_at_close_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.lifespan
    async def stuck(app: App) -> AsyncIterator[None]:
        yield
        await trio.sleep_forever()

    async with serving_in_memory(app, options=Options(close_timeout=3)):
        pass
    assert trio.current_time() == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the lifespan did not end within close_timeout (3 seconds)"
    ]


@pytest.mark.parametrize("when", ["at start", "while serving", "at the end", "at the end of a failed block"])
async def test_exceptions_of_a_lifespan_leave_the_server_unchanged(
    when: str, autojump_clock: MockClock
) -> None:
    app = App()
    error = ValueError("from the lifespan")
    closed: list[MemoryListener] = []

    async def crash() -> None:
        await trio.sleep(1)
        raise error

    @app.lifespan
    async def bad(app: App) -> AsyncIterator[None]:
        if when == "at start":
            raise error
        if when == "while serving":
            async with trio.open_nursery() as nursery:  # raised by the user, as is its group
                nursery.start_soon(crash)
                yield
        yield
        raise error

    listener = MemoryListener()
    with pytest.raises(ValueError if when != "while serving" else ExceptionGroup) as info:
        async with WebSocketServer(app, listeners=[listener]):
            closed.append(listener)
            if when == "while serving":
                await trio.sleep_forever()
            if when == "at the end of a failed block":
                raise KeyError("the block's own")
    if when == "while serving":
        assert isinstance(info.value, ExceptionGroup)
        assert info.value.exceptions == (error,)
    else:
        assert info.value is error
    if when == "at the end of a failed block":
        assert isinstance(error.__context__, KeyError)
    assert bool(closed) == (when != "at start")
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_the_exception_of_a_block_leaves_as_it_was_raised(autojump_clock: MockClock) -> None:
    app = App()
    events: list[str] = []

    @app.lifespan
    async def fine(app: App) -> AsyncIterator[None]:
        yield
        events.append("down")

    error = ExceptionGroup("the user's", [KeyError("x")])
    with pytest.raises(ExceptionGroup) as info:
        async with serving_in_memory(app):
            raise error
    assert info.value is error
    assert events == ["down"]


async def test_ctrl_c_in_a_lifespan_leaves_the_server_as_it_is(autojump_clock: MockClock) -> None:
    app = App()

    @app.lifespan
    async def struck(app: App) -> AsyncIterator[None]:
        yield
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with serving_in_memory(app):
            pass


async def test_a_server_cancelled_while_its_lifespan_starts(autojump_clock: MockClock) -> None:
    app = App()

    @app.lifespan
    async def slow(app: App) -> AsyncIterator[None]:
        await trio.sleep(10)
        yield

    before = all_tasks()
    with trio.move_on_after(1) as scope:
        await serve(app, 0, listeners=[MemoryListener()])
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert all_tasks() == before


# -- run --------------------------------------------------------------------------------------------

RUN = """
import logging, sys, trio, trio_ws
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
app = trio_ws.App()

@app.lifespan
async def lifespan(app):
    yield
    print("down", flush=True)

app.run(int(sys.argv[1]))
print("after", flush=True)
"""


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_a_signal_and_drains(sign: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving at ws://localhost:")
        process.send_signal(sign)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert err == ""
    assert out.splitlines() == ["down", *(["stopped by Ctrl+C"] if sign == signal.SIGINT else []), "after"]
    assert process.returncode == 0


async def test_run_says_which_port_is_in_use() -> None:
    async with WebSocketServer(echo, host="127.0.0.1") as server:
        text = f"cannot listen on port {server.port} of 127.0.0.1: Address already"
        with pytest.raises(OSError, match=text):
            await trio.to_thread.run_sync(functools.partial(App().run, server.port, host="127.0.0.1"))


# -- bad input --------------------------------------------------------------------------------------


async def room(ws: WebSocket, room: int) -> None: ...
async def http_room(request: object, room: int) -> None: ...


class NoHandler:
    """A class."""


async def one_argument(ws: WebSocket) -> None: ...
async def no_arguments() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("add", "error", "text"),
    [
        (
            lambda app: app.websocket("/taken/{y:int}/")(echo),
            ValueError,
            r"a route for WebSocket /taken/\{x:int",
        ),
        (
            lambda app: app.mount("/taken/{y:int}", Rooms),
            ValueError,
            "<locals>.taken; use another path for Rooms",
        ),
        (
            lambda app: app.http("/page", ["PUT", "GET"])(page),
            ValueError,
            "already a route for GET/HEAD /page",
        ),
        (lambda app: app.mount("/taken", app_with("/{y:int}")), ValueError, "use another path for report"),
        (lambda app: app.websocket("rooms")(echo), ValueError, "must begin with a slash"),
        (lambda app: app.websocket("/{x:number}")(echo), ValueError, "is not a converter"),
        (
            lambda app: app.websocket("/{room}")(room),
            TypeError,
            "annotates room as int, but its path",
        ),
        (lambda app: app.http("/")(http_room), TypeError, "requires parameter 'room', but"),
        (lambda app: app.websocket("/")(no_arguments), TypeError, "the handler no_arguments contains yield"),
        (
            lambda app: app.http("/")(lambda: None),
            TypeError,
            "its first one must be the Request",
        ),
        (lambda app: app.websocket("/")(page(None)), TypeError, "pass it without calling it"),
        (lambda app: app.websocket("/rpc")(Rooms), TypeError, r"use app.mount\('/rpc', Rooms\)"),
        (lambda app: app.websocket("/", subprotocols="chat"), TypeError, r"use subprotocols=\['chat'\]"),
        (lambda app: app.mount("/x", echo), TypeError, r"for a function use app.websocket\(\)"),
        (lambda app: app.mount("/x", NoHandler), TypeError, "a WebSocketHandler or an App, not <class"),
        (lambda app: app.mount("/x", App(), subprotocols=["a"]), TypeError, "omit the argument"),
        (lambda app: app.mount("/x", app), ValueError, "an App cannot be mounted in itself"),
        (lambda app: app_below(app).mount("/x", app), ValueError, "an App cannot be mounted in itself"),
        (lambda app: app.http("/", methods="GET"), TypeError, r"use methods=\['GET'\]"),
        (lambda app: app.http("/", methods=[]), ValueError, "methods is empty"),
        (
            lambda app: app.http("/", methods=["get"]),
            ValueError,
            "'get' is not an HTTP method; use",
        ),
        (lambda app: app.middleware(one_argument), TypeError, "must be an async context manager function"),
        (
            lambda app: app.middleware(no_arguments),
            TypeError,
            "no_arguments must be a function of one WebSocket",
        ),
        (lambda app: app.lifespan(no_arguments), TypeError, "no_arguments must be a function of one App"),
        (lambda app: app.lifespan(one_argument), TypeError, "use async def with one yield"),
        (lambda app: app.add_middleware(one_argument), TypeError, r"must be a function of \(ws, call_next\)"),
        (lambda app: app.add_middleware(print), TypeError, r"is not an async function of \(ws, call_next\)"),
    ],
)
def test_invalid_routes_are_refused_when_added(
    add: Callable[[App], object], error: type[Exception], text: str
) -> None:
    app = App()

    @app.websocket("/taken/{x:int}")
    async def taken(ws: WebSocket) -> None: ...

    app.http("/page")(page)
    routes = app._routes()
    with pytest.raises(error, match=text):
        add(app)
    assert app._routes() == routes


def app_with(path: str) -> App:
    app = App()
    app.websocket("/free")(report)
    app.websocket(path)(report)
    return app


def app_below(app: App) -> App:
    below = App()
    app.mount("/below", below)
    return below


def test_a_route_of_a_mounted_app_that_clashes_above_is_added_nowhere() -> None:
    app, inner = App(), App()
    app.websocket("/in/x")(report)
    app.mount("/in", inner)
    with pytest.raises(
        ValueError, match=r"already a route for WebSocket /in/x, report; use another path for .*echo"
    ):
        inner.websocket("/x")(echo)
    assert not inner._routes()
    inner.http("/x")(page)  # a path may have plain HTTP and a WebSocket
    assert len(app._routes()) == 2


async def test_an_app_on_an_adverse_stream(autojump_clock: MockClock) -> None:
    app = App()
    app.websocket("/ws")(report)
    async with serving_in_memory(app) as memory:
        response = await exchange(await memory.stream(), request(target="/%ff%00%2f..%2f"))
        assert (status_of(response), body_of(response)) == (404, b"no WebSocket at this path\n")
        response = await exchange(await memory.stream(), b"nonsense\r\n\r\n")
        assert status_of(response) == 400
        stream = await memory.stream(max_read=1)
        async with connect("ws://test/ws", stream=stream) as ws:
            assert await ws.receive_text() == "{}"
