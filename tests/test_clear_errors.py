"""Common mistakes end in one exception that names the cause, where the mistake is made."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_ws
import trio_ws.guest
from tests.support.serving import echo, serving, serving_in_memory
from trio_ws.compat import webshocket
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

URL = "ws://127.0.0.1:1/"


class News(trio_ws.WebSocketHandler[None]):
    def may_subscribe(self, connection: trio_ws.ClientConnection[None], name: str) -> bool:
        return True

    @trio_ws.rpc_method()
    async def total(self, connection: trio_ws.ClientConnection[None], numbers: Any) -> int:
        return sum([number async for number in numbers])

    @trio_ws.rpc_method()
    def count(self, connection: trio_ws.ClientConnection[None], numbers: Any) -> int:
        return len(numbers)


class Methods:
    @trio_ws.rpc_method()
    async def add(self, connection: object, a: int) -> int:
        return a


async def lonely(connection: object) -> int:
    return 1


decorate: Any = trio_ws.rpc_method()
decorate(lonely)


async def takes_nothing() -> None:
    pass


async def yields(ws: trio_ws.WebSocket) -> AsyncIterator[None]:
    yield


# -- what a server is given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("chat:app", "the target is a str, 'chat:app'; import it and pass the object"),
        (trio_ws.App, r"pass an instance: App\(\)"),
        (Methods, r"Methods has @rpc_method\(\), but no base class; write: class Methods\(trio_ws\.Web"),
        (lonely, r"lonely has @rpc_method\(\), so it must be a method of a class"),
        (8000, "a function of one WebSocket, a WebSocketHandler or an App, not 8000"),
    ],
)
def test_targets(target: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        trio_ws.WebSocketServer(target, 0)


async def test_serve_needs_a_target() -> None:
    target: Any = None
    with pytest.raises(TypeError, match=r"serve\(\) needs a target"):
        await trio_ws.serve(target, 0)


@pytest.mark.parametrize("host", ["ws://localhost", "localhost:8000", "[::1]:8000", "localhost/chat", "a:"])
def test_hosts_are_no_urls(host: str) -> None:
    with pytest.raises(ValueError, match=f"a name or an address alone, not '{host}'".replace("[", r"\[")):
        trio_ws.WebSocketServer(echo, 0, host=host)


def test_addresses_of_ipv6_are_hosts() -> None:
    trio_ws.WebSocketServer(echo, 0, host="::1")


def test_one_listener_is_no_list() -> None:
    listeners: Any = MemoryListener()
    with pytest.raises(TypeError, match="listeners must be a list of listeners, not MemoryListener"):
        trio_ws.WebSocketServer(echo, listeners=listeners)


async def test_a_client_learns_that_it_was_not_accepted() -> None:
    async def returns(ws: trio_ws.WebSocket) -> None:
        pass

    async with serving_in_memory(returns) as server:
        with pytest.raises(trio_ws.HandshakeRejectedError, match="403: the handler returned without accept"):
            async with trio_ws.connect("ws://test/", stream=await server.stream()):
                pytest.fail("it was not accepted")


async def test_a_server_without_a_certificate_says_so(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    async with serving(echo, ssl_context=context) as server:
        with pytest.raises(trio_ws.ConnectionFailedError):
            async with trio_ws.connect(server.url):
                pytest.fail("there is no certificate")
        while not caplog.records:
            await trio.sleep(0.01)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith("; has ssl_context a certificate? Use its load_cert_chain()")


# -- apps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("get", r"write: @app\.http\(path\)"),
        ("post", r"write: @app\.http\(path, methods=\['POST'\]\)"),
        ("include_router", r"write: app\.mount\(path, other_app\)"),
        ("nothing", "object has no attribute 'nothing'$"),
    ],
)
def test_apps_name_what_others_have(name: str, write: str) -> None:
    with pytest.raises(AttributeError, match=write):
        getattr(trio_ws.App(), name)


def test_middleware_that_calls_the_rest_is_added() -> None:
    async def timing(ws: trio_ws.WebSocket, call_next: Any) -> None:
        await call_next(ws)

    middleware: Any = trio_ws.App().middleware
    with pytest.raises(TypeError, match=r"timing takes call_next; use app\.add_middleware\(\)"):
        middleware(timing)


# -- handlers ---------------------------------------------------------------------------------------


def test_a_method_does_not_replace_what_the_handler_needs() -> None:
    async def publish(self: object, connection: object, name: str) -> None:
        pass

    decorate(publish)
    with pytest.raises(
        TypeError, match=r"Bad\.publish would replace WebSocketHandler\.publish; write another"
    ):
        type("Bad", (trio_ws.WebSocketHandler,), {"publish": publish})


@pytest.mark.parametrize(("name", "hook"), [("on_message", "on_receive"), ("on_close", "on_disconnect")])
def test_hooks_of_other_libraries_are_not_called(name: str, hook: str) -> None:
    async def function(self: object, connection: object, packet: object = None) -> None:
        pass

    with pytest.warns(trio_ws.HandlerWarning, match=f"{name} is not called by trio_ws; the .* {hook}"):
        type("Others", (trio_ws.WebSocketHandler,), {name: function})
    with warnings.catch_warnings(action="error"):
        type("Both", (trio_ws.WebSocketHandler,), {name: function, hook: function})
        type("Called", (trio_ws.WebSocketHandler,), {name: trio_ws.rpc_method()(function)})


def test_a_stream_yields() -> None:
    async def count_to(self: object, connection: object, n: int) -> AsyncIterator[int]:  # type: ignore[empty-body]
        pass

    decorate(count_to)
    counter = type("Counter", (trio_ws.WebSocketHandler,), {"count_to": count_to})
    with pytest.raises(TypeError, match=r"count_to: the result is annotated .*AsyncIterator.* has no yield"):
        trio_ws.WebSocketServer(counter, 0)


def test_a_default_rate_limit_is_one() -> None:
    limited = type("Limited", (trio_ws.WebSocketHandler,), {"default_rate_limit": 5})
    with pytest.raises(TypeError, match="default_rate_limit must be a RateLimit or None, not 5"):
        trio_ws.WebSocketServer(limited, 0)


def test_codes_of_errors_are_numbers() -> None:
    code: Any = "E1"
    with pytest.raises(TypeError, match="the code of an RPCError must be an int, not str"):
        trio_ws.RPCError("no", code=code)


# -- channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [5, None, b"news"])
async def test_names_of_channels(names: Any) -> None:
    with pytest.raises(TypeError, match="channel names are a str, or several of them, not"):
        async with News().channels.subscribe(names):
            pytest.fail("it was subscribed")


@pytest.mark.parametrize(
    "publish", [lambda news: news.publish("a", 1, exclude=5), lambda news: news.broadcast(1, exclude=5)]
)
def test_exclude_is_a_list(publish: Callable[[News], object]) -> None:
    with pytest.raises(TypeError, match=r"exclude is a list of connections, not int; write exclude=\["):
        publish(News())


async def test_publishing_in_another_thread_fails_and_harms_nothing() -> None:
    news = News()
    async with news.channels.subscribe("news") as subscription, trio.open_nursery() as nursery:
        received: list[object] = []

        async def receive() -> None:
            received.append((await subscription.receive()).data)

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match=r"outside of trio; in another thread, use trio\.from_thread"):
            await trio.to_thread.run_sync(news.publish, "news", "lost")
        assert news.publish("news", "kept") == 1
    assert received == ["kept"]


# -- calls ------------------------------------------------------------------------------------------


async def items() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda client: client.call(5), TypeError, "the name of a method must be a str, not 5"),
        (lambda client: client.call(News.total, 1), TypeError, "the name of a method must be a str, not <f"),
        (lambda client: client.stream_rpc("count"), TypeError, "write: async for packet in client.stream_r"),
        (lambda client: client.call("total", items()), trio_ws.RPCInvalidParamsError, "numbers takes no st"),
        (lambda client: client.call("count", items()), trio_ws.RPCInvalidParamsError, "numbers takes no st"),
        (
            lambda client: client.call("count", [1], returns="int"),
            TypeError,
            "the result of count cannot be validated against 'int'",
        ),
    ],
)
async def test_calls(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    async with serving_in_memory(News) as server:
        stream = await server.stream()
        async with trio_ws.WebSocketClient("ws://test/", stream=stream) as client:
            with pytest.raises(error, match=message) as caught:
                await call(client)
            assert type(caught.value) is error
            assert await client.call("count", [1, 2]) == 2


async def test_packets_of_a_stream_are_a_loop() -> None:
    async with serving_in_memory(News) as server:
        stream = await server.stream()
        async with trio_ws.WebSocketClient("ws://test/", stream=stream) as client:
            packets: Any = client.stream_rpc("count")
            with pytest.raises(TypeError, match="write: async for packet in"):
                async with packets:
                    pytest.fail("it was entered")
            with pytest.raises(TypeError, match="write: async for packet in"):
                for _ in packets:
                    pytest.fail("it was entered")
            async with client.subscribe("news"):
                pass


async def test_calls_of_a_batch_are_not_awaited() -> None:
    async with serving_in_memory(News) as server:
        stream = await server.stream()
        async with trio_ws.WebSocketClient("ws://test/", stream=stream, dialect="jsonrpc") as client:
            async with client.batch() as batch:
                call: Any = batch.call("count", [1, 2])
                with pytest.raises(TypeError, match="a call of a batch is not awaited"):
                    await call
            assert call.result() == 2


# -- connecting -------------------------------------------------------------------------------------


async def test_a_block_is_entered_once() -> None:
    async with serving_in_memory(echo) as server:
        made = trio_ws.connect("ws://test/", stream=await server.stream())
        async with made as ws:
            await ws.send("hello")
        with pytest.raises(RuntimeError, match=r"connect\(\) makes a block that can be entered only once"):
            async with made:
                pytest.fail("it was entered again")


@pytest.mark.parametrize(
    "connect",
    [
        lambda: trio_ws.connect(f"ws://localhost:{closed_port()}/", proxy=None),
        lambda: trio_ws.connect("ws://test/", proxy=f"http://127.0.0.1:{closed_port()}"),
    ],
    ids=["server", "proxy"],
)
async def test_a_refused_connection_is_no_group(connect: Callable[[], Any]) -> None:
    with pytest.raises(trio_ws.ConnectionFailedError, match=r"\[Errno \d+\] Connection refused$") as caught:
        async with connect():
            pytest.fail("nobody listens there")
    assert "Group" not in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_unix_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nobody"
    with pytest.raises(trio_ws.ConnectionFailedError, match=f"could not reach the Unix socket {path}: "):
        async with trio_ws.connect("ws://localhost/", unix_path=path):
            pytest.fail("nobody listens there")


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("headers", ["Authorization: x", ["Authorization: x"], [("A", "b", "c")]])
async def test_headers_are_pairs(headers: Any) -> None:
    with pytest.raises(TypeError, match="headers must be pairs of name and value, such as"):
        async with trio_ws.connect(URL, headers=headers):
            pytest.fail("it was entered")


@pytest.mark.parametrize(
    ("on_connection", "message"),
    [
        (takes_nothing, "cannot be called with one argument: takes_nothing"),
        (yields, r"decorate yields by @contextlib\.asynccontextmanager"),
    ],
)
async def test_on_connection(on_connection: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        async with trio_ws.session(URL, on_connection=on_connection):
            pytest.fail("it was entered")
    with pytest.raises(TypeError, match=message):
        trio_ws.WebSocketClient(URL, on_connection=on_connection)


async def test_on_connection_that_is_not_async_is_not_tried_again() -> None:
    calls: list[object] = []
    plain: Any = calls.append
    async with serving_in_memory(echo) as server:
        with pytest.raises(TypeError, match="on_connection must be async, but returned NoneType"):
            async with trio_ws.session("ws://test/", stream=server.stream, on_connection=plain):
                pytest.fail("it was set up")
    assert len(calls) == 1


@pytest.mark.parametrize("make", [lambda one: trio_ws.connect(URL, stream=one), trio_ws.wrap_stream])
async def test_a_socket_is_no_stream(make: Callable[[Any], Any]) -> None:
    with (
        socket.socket() as sock,
        pytest.raises(TypeError, match=r"stream must be a trio\.abc\.Stream.* so"),
    ):
        async with make(sock):
            pytest.fail("it was entered")


# -- messages ---------------------------------------------------------------------------------------


def test_a_message_is_not_its_text() -> None:
    message: Any = trio_ws.WebSocketMessage.text("quit")
    with pytest.warns(RuntimeWarning, match="never equals a str; compare its text"):
        assert message != "quit"
    with pytest.warns(RuntimeWarning, match="never equals a bytes; compare its data"):
        assert not message == b"quit"  # noqa: SIM201
    with warnings.catch_warnings(action="error"):
        assert message == trio_ws.WebSocketMessage.text("quit")
        assert message != trio_ws.WebSocketMessage.text("go on")
        assert message != 5
        assert len({message, trio_ws.WebSocketMessage.text("quit")}) == 1


# -- asyncio ----------------------------------------------------------------------------------------


async def test_a_guest_needs_a_host() -> None:
    with pytest.raises(RuntimeError, match=r"trio_ws\.guest is for asyncio programs.* trio_ws\.WebSoc"):
        async with trio_ws.guest.serve(echo):
            pytest.fail("it was entered")


def test_serving_as_a_guest_is_a_block() -> None:
    async def main() -> None:
        made: Any = trio_ws.guest.serve(echo)
        with pytest.raises(TypeError, match=r"write: async with trio_ws\.guest\.serve"):
            await made

    asyncio.run(main())


async def test_calls_to_asyncio_need_its_loop() -> None:
    with pytest.raises(RuntimeError, match=r"call_asyncio\(\) needs an asyncio loop, but none is running"):
        await trio_ws.guest.call_asyncio(takes_nothing)


def test_methods_of_a_server_are_trios() -> None:
    async def main() -> None:
        async with trio_ws.guest.serve(echo) as server:
            for method in (server.drain, server.stop_listening, server.accept):
                with pytest.raises(RuntimeError, match=rf"{method.__name__}\(\) needs trio.*run_trio\(\)"):
                    await method()

    asyncio.run(main())


# -- programs of webshocket -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: webshocket.WebSocketServer("127.0.0.1", 0).start(), "start"),
        (lambda: webshocket.WebSocketClient(URL).connect(), "connect"),
        (lambda: webshocket.WebSocketServer("127.0.0.1", 0).__aenter__(), "start"),
        (lambda: webshocket.WebSocketClient(URL).__aenter__(), "connect"),
    ],
)
def test_a_program_that_still_uses_asyncio(make: Callable[[], Any], what: str) -> None:
    async def main() -> None:
        await make()

    with pytest.raises(RuntimeError, match=rf"{what}\(\) needs trio, but this is an asyncio program"):
        asyncio.run(main())


@pytest.mark.parametrize("handler", [webshocket.WebSocketHandler(), echo, News, dict])
def test_handlers_of_webshocket_are_its_classes(handler: Any) -> None:
    with pytest.raises(TypeError, match="clientHandler must be a class that inherits from trio_ws"):
        webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=handler)


async def test_a_callback_of_webshocket_is_async() -> None:
    received: list[object] = []
    plain: Any = received.append
    async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
        with pytest.raises(TypeError, match="on_receive must be async, but returned NoneType; use async def"):
            async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}", plain):
                connection = await server.accept()
                connection.send("hello")
                await trio.sleep_forever()
    assert len(received) == 1


async def test_a_refused_connection_of_webshocket_has_its_public_name() -> None:
    with pytest.raises(webshocket.ConnectionFailedError) as caught:
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{closed_port()}"):
            pytest.fail("nobody listens there")
    assert isinstance(caught.value, ConnectionRefusedError)
    assert "_RefusedError" not in "".join(traceback.format_exception(caught.value))
