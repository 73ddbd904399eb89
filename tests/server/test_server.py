"""`trio_ws.server`: handlers and their clients, limits of connections, `accept`, and addresses."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import (
    all_tasks,
    body_of,
    echo,
    exchange,
    guard,
    read_to_end,
    request,
    serving,
    serving_in_memory,
    status_of,
)
from trio_ws import (
    ConnectionClosedError,
    HandshakeRejectedError,
    Options,
    Request,
    WebSocketServer,
    connect,
    serve,
)
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws import WebSocket


async def answer_of(handler: Callable[[WebSocket], Awaitable[object]], data: bytes) -> bytes:
    """Return the response that a raw client receives from a handler that rejects it."""
    async with serving_in_memory(handler) as memory:
        return await exchange(await memory.stream(), data)


# -- accept and reject ------------------------------------------------------------------------------


async def test_accept_with_a_subprotocol_and_headers(autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        assert not ws.accepted
        await ws.accept("chat.v2", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        assert ws.accepted
        await ws.send(f"{ws.subprotocol}")

    async with (
        serving_in_memory(handler) as memory,
        memory.connect(subprotocols=["chat.v1", "chat.v2"]) as ws,
    ):
        assert await ws.receive_text() == ws.subprotocol == "chat.v2"
        assert ws.response_headers is not None
        assert ws.response_headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize("way", ["send", "recv", "receive_text", "iterate", "stream", "ping", "send_json"])
async def test_a_handler_that_just_goes_ahead_accepts(way: str, autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        match way:
            case "send":
                await ws.send("x")
            case "send_json":
                await ws.send_json("x")
            case "recv":
                await ws.recv()
            case "receive_text":
                await ws.receive_text()
            case "iterate":
                async for _ in ws:
                    break
            case "stream":
                async for _ in ws.recv_streaming():
                    pass
            case _:
                await ws.ping()
        await ws.send("done")

    async with serving_in_memory(handler) as memory, memory.connect() as ws:
        if not way.startswith("send"):
            await ws.send("x")
        async for message in ws:
            if message.text == "done":
                break
        else:
            pytest.fail("the handler did not come to its end")


async def test_a_handler_that_returns_untouched_rejects_with_403(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: WebSocket) -> None:
        pass

    assert status_of(await answer_of(handler, request())) == 403
    assert not caplog.records


async def test_a_handler_that_closes_untouched_rejects_with_403(autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.close(4000, "not an HTTP thing")

    assert status_of(await answer_of(handler, request())) == 403


@pytest.mark.parametrize("body", [b"\0\1\2", "für später"])
async def test_reject_with_status_headers_and_body(body: bytes | str, autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.reject(401, headers=[("WWW-Authenticate", "Basic"), ("X", "1"), ("X", "2")], body=body)
        assert not ws.accepted

    response = await answer_of(handler, request())
    assert status_of(response) == 401
    assert body_of(response) == (body.encode() if isinstance(body, str) else body)
    assert b"\r\nWWW-Authenticate: Basic\r\n" in response
    assert b"\r\nX: 1\r\nX: 2\r\n" in response


async def test_a_rejected_client_gets_all_of_a_long_body_over_a_slow_link(autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.reject(404, body=b"x" * 100_000)

    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(capacity=1000, latency=0.01)
        response = await exchange(stream, request())
    assert body_of(response) == b"x" * 100_000


async def test_a_rejected_client_gets_all_of_a_long_body_over_a_socket() -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.reject(404, body=b"x" * 10_000_000)

    async with serving(handler) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        assert len(body_of(await exchange(stream, request()))) == 10_000_000


async def test_a_client_that_never_reads_its_rejection_is_gone_after_close_timeout(
    autojump_clock: MockClock,
) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.reject(404, body=b"x" * 100_000)

    async with serving_in_memory(handler, options=Options(close_timeout=3)) as memory:
        stream = await memory.stream(capacity=1000)
        await stream.send_all(request())
        await trio.sleep(2.9)
        assert memory.server.connections
        await trio.sleep(0.2)
        assert not memory.server.connections


async def test_actions_that_are_repeated_or_too_late_raise_runtime_error(autojump_clock: MockClock) -> None:
    errors: list[str] = []

    async def note(action: Awaitable[None]) -> None:
        with pytest.raises(RuntimeError) as info:
            await action
        errors.append(str(info.value))

    async def handler(ws: WebSocket) -> None:
        if ws.path == "/reject":
            await ws.reject(404)
        else:
            await ws.accept()
        await note(ws.accept())
        await note(ws.reject())

    async with serving_in_memory(handler) as memory:
        async with memory.connect():
            pass
        with pytest.raises(HandshakeRejectedError):
            async with memory.connect("/reject"):
                pytest.fail("the handshake was accepted")
    assert (
        errors
        == [
            f"{what}() was called too late: the client is accepted or rejected already"
            for what in ("accept", "reject")
        ]
        * 2
    )


async def test_after_a_rejection_there_is_nothing_to_send_on(autojump_clock: MockClock) -> None:
    errors: list[type] = []

    async def handler(ws: WebSocket) -> None:
        await ws.reject(404)
        for action in (ws.send, ws.send_json):
            with pytest.raises(ConnectionClosedError) as info:
                await action("x")
            errors.append(type(info.value))
        with pytest.raises(ConnectionClosedError):
            await ws.receive_text()

    response = await answer_of(handler, request())
    assert body_of(response) == b""
    assert len(errors) == 2
    assert all(issubclass(error, trio.ClosedResourceError) for error in errors)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"subprotocol": "other"}, ValueError, "did not offer the subprotocol 'other'"),
        ({"headers": [("X", "a\nb")]}, ValueError, "the value of the header X contains a control"),
        ({"headers": [("Upgrade", "x")]}, ValueError, "Upgrade is set by trio_ws"),
        ({"headers": {"X": "1"}}, TypeError, "pairs of name and value"),
        ({"headers": [("X", 1)]}, TypeError, "value of the header X must be a str, not int"),
    ],
)
async def test_wrong_arguments_of_accept_leave_the_client_to_be_answered(
    arguments: dict[str, Any], error: type[Exception], message: str, autojump_clock: MockClock
) -> None:
    async def handler(ws: WebSocket) -> None:
        with pytest.raises(error, match=message):
            await ws.accept(**arguments)
        assert not ws.accepted
        await ws.send("accepted after all")

    async with serving_in_memory(handler) as memory, memory.connect(subprotocols=["one"]) as ws:
        assert await ws.receive_text() == "accepted after all"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"status": 101}, ValueError, "101 is not a final HTTP status"),
        ({"status": 204, "body": b"x"}, ValueError, "status 204 cannot have a body"),
        ({"headers": [("Content-Length", "5")]}, ValueError, "Content-Length is set by trio_ws"),
    ],
)
async def test_wrong_arguments_of_reject_leave_the_client_to_be_answered(
    arguments: dict[str, Any], error: type[Exception], message: str, autojump_clock: MockClock
) -> None:
    async def handler(ws: WebSocket) -> None:
        with pytest.raises(error, match=message):
            await ws.reject(**arguments)
        await ws.reject(418)

    assert status_of(await answer_of(handler, request())) == 418


# -- the request ------------------------------------------------------------------------------------


async def test_the_request_as_the_handler_sees_it(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        stream = await memory.stream()
        await stream.send_all(
            request("Cookie: a=1", "X-Tag: one", "x-tag: two", target="/caf%C3%A9%20x?q=1&q=&r=%26&s")
        )
        ws = await memory.server.accept()
        assert ws.path == "/café x"
        assert ws.path_params == {}
        assert ws.query_string == "q=1&q=&r=%26&s"
        assert ws.query_params == {"q": ["1", ""], "r": ["&"], "s": [""]}
        assert ws.header("COOKIE") == "a=1"
        assert ws.header("x-tag") == "one"
        assert ws.header("missing") is None
        assert ws.header("missing", "default") == "default"
        assert ws.headers.get_all("X-Tag") == ["one", "two"]
        assert [name for name, _ in ws.headers][-2:] == ["X-Tag", "x-tag"]
        assert isinstance(ws.request, Request)
        assert ws.request.method == "GET"
        assert ws.response_headers is None
        await stream.aclose()


async def test_frames_right_behind_the_request_are_not_lost(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory:
        stream = await memory.stream()
        await stream.send_all(request() + b"\x81\x82\0\0\0\0hi")
        peer = RawPeer(stream, client=True)
        await peer.receive_head()
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.payload == b"hi"
        await stream.aclose()


async def test_addresses() -> None:
    addresses: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        addresses.extend([ws.local_address, ws.remote_address])

    async with serving(handler) as server, connect(server.url) as ws:
        assert await ws.recv() is None
        assert addresses[0] == ws.remote_address == ("127.0.0.1", server.port)
        assert addresses[1][0] == "127.0.0.1"


# -- accept() of the server -------------------------------------------------------------------------


async def test_accept_hands_out_each_connection_once(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory, trio.open_nursery() as nursery:
        paths: list[str] = []

        async def client(n: int) -> None:
            async with memory.connect(f"/{n}") as ws:
                assert await ws.receive_text() == f"hello /{n}"

        for n in range(5):
            nursery.start_soon(client, n)
        for _ in range(5):
            ws = await memory.server.accept()
            assert ws.accepted
            paths.append(ws.path)
            await ws.send(f"hello {ws.path}")
            await ws.close()
        assert sorted(paths) == [f"/{n}" for n in range(5)]


async def test_a_connection_from_accept_lives_until_it_is_closed(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory, memory.connect() as client:
        ws = await memory.server.accept()
        await trio.sleep(1000)
        await client.send("still here?")
        assert await ws.receive_text() == "still here?"
        assert memory.server.connections == {ws}
        await ws.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not memory.server.connections


async def test_late_accept_receives_messages_of_a_client_that_left(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(None) as memory:
        async with memory.connect() as client:
            await client.send("last words")
            await trio.sleep(1)
        ws = await memory.server.accept()
        assert await ws.receive_text() == "last words"
        assert await ws.recv() is None


async def test_accept_goes_only_without_a_target(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory:
        with pytest.raises(RuntimeError, match="without a target"):
            await memory.server.accept()


async def test_a_cancelled_accept_loses_no_connection(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        with trio.move_on_after(1) as scope:
            await memory.server.accept()
        assert scope.cancelled_caught
        async with memory.connect():
            assert (await memory.server.accept()).connected


# -- admission --------------------------------------------------------------------------------------


async def test_max_connections(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving_in_memory(max_connections=2, options=Options(max_connections=50)) as memory:
        assert memory.server.options.max_connections == 2
        async with memory.connect(), memory.connect() as second:
            response = await exchange(await memory.stream(), request())
            assert status_of(response) == 503
            assert b"\r\nRetry-After: " in response
            (record,) = caplog.records
            assert "max_connections (2)" in record.getMessage()
            await second.close()
            async with memory.connect() as third:
                await third.send("room")
                assert await third.receive_text() == "room"
    assert len(caplog.records) == 1


async def test_rejected_clients_and_failed_handlers_free_their_place(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: WebSocket) -> None:
        if ws.path == "/fail":
            raise KeyError
        await ws.reject(404)

    async with serving_in_memory(handler, max_connections=1, options=Options(max_handshakes=1)) as memory:
        for path, status in [("/fail", 500), ("/", 404)] * 3:
            response = await exchange(await memory.stream(), request(target=path))
            assert status_of(response) == status


# -- the server as an object ------------------------------------------------------------------------


async def test_states_and_addresses() -> None:
    server = WebSocketServer(echo, host="127.0.0.1")
    states: list[str] = [server.state]

    def check_not_running() -> None:
        assert server.listeners == ()
        with pytest.raises(RuntimeError, match="is not running"):
            server.port  # noqa: B018
        with pytest.raises(RuntimeError, match="is not running"):
            server.url  # noqa: B018

    check_not_running()
    with pytest.raises(RuntimeError, match="the server has not started"):
        await server.drain()
    with trio.fail_after(guard()):
        async with server as entered:
            assert entered is server
            states.append(server.state)
            assert server.url == f"ws://127.0.0.1:{server.port}"
            assert len(server.listeners) == 1
            async with connect(server.url) as ws:
                await ws.send("x")
                await ws.recv()
                (other,) = server.connections
                assert other.remote_address == ws.local_address
        states.append(server.state)
        assert states == ["new", "serving", "closed"]
        with pytest.raises(RuntimeError, match="entered only once; make another"):
            await server.__aenter__()
    check_not_running()


@pytest.mark.parametrize(
    ("host", "url"), [("::1", "ws://[::1]:{}"), ("0.0.0.0", "ws://localhost:{}"), (None, "ws://localhost:{}")]
)
async def test_the_url_reaches_the_server(host: str | None, url: str) -> None:
    async with serving(host=host) as server, connect(server.url) as ws:
        assert server.url == url.format(server.port)
        await ws.send("x")
        assert await ws.receive_text() == "x"


async def test_serve_gives_the_server_once_it_listens_and_ends_when_cancelled() -> None:
    before = all_tasks()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                functools.partial(serve, echo, 0, host="127.0.0.1", subprotocols=["a"], max_connections=5)
            )
            assert server.options.max_connections == 5
            async with connect(server.url, subprotocols=["a"]) as ws:
                assert ws.subprotocol == "a"
                await ws.send("x")
                assert await ws.receive_text() == "x"
            nursery.cancel_scope.cancel()
    assert server.state == "closed"
    assert all_tasks() == before


async def test_serve_that_cannot_listen_raises_out_of_start() -> None:
    async with serving() as server:
        with pytest.raises(OSError, match="in use"):
            await serve(echo, server.port, host="127.0.0.1")


class CallableTarget:
    """An object with an async ``__call__``."""

    async def __call__(self, ws: WebSocket) -> None:
        await ws.send("called")

    async def method(self, ws: WebSocket) -> None:
        await ws.send("called")


async def two_arguments(word: str, ws: WebSocket) -> None:
    await ws.send(word)


@pytest.mark.parametrize(
    "target",
    [
        CallableTarget(),
        CallableTarget().method,
        functools.partial(two_arguments, "called"),
        functools.partial(CallableTarget()),
    ],
    ids=["object", "method", "partial", "partial of object"],
)
async def test_targets(target: Any, autojump_clock: MockClock) -> None:
    async with serving_in_memory(target) as memory, memory.connect() as ws:
        assert await ws.receive_text() == "called"


def no_arguments() -> None:
    """Not a handler."""


async def generator(ws: WebSocket) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"target": no_arguments},
            TypeError,
            "no_arguments takes no argument; its first",
        ),
        ({"target": two_arguments}, TypeError, "two_arguments requires parameter 'ws', but"),
        ({"target": generator}, TypeError, "a handler cannot be a generator"),
        ({"target": CallableTarget}, TypeError, "a WebSocketHandler or an App, not <class"),
        ({"target": 7}, TypeError, "a WebSocketHandler or an App, not 7"),
        ({"port": -1}, ValueError, "port must be from 0 to 65535, not -1"),
        ({"port": 65536}, ValueError, "port must be from 0 to 65535, not 65536"),
        ({"port": "8000"}, TypeError, "port must be an int, not str"),
        ({"port": True}, TypeError, "port must be an int, not bool"),
        ({"subprotocols": "chat"}, TypeError, r"use subprotocols=\['chat'\]"),
        ({"listeners": []}, ValueError, "listeners is empty"),
        ({"listeners": [1], "unix_path": "/x"}, ValueError, "unix_path and listeners are mutually exclusive"),
        ({"max_connections": 0}, ValueError, "max_connections must be 1 or more"),
        ({"max_connections": "5"}, TypeError, "max_connections must be an int"),
        ({"options": {"max_connections": 5}}, TypeError, "options"),
        ({"subprotocols": ["a b"]}, ValueError, "not a subprotocol name"),
    ],
)
def test_wrong_arguments_raise_at_once_with_the_fix(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        WebSocketServer(**arguments)


def test_a_handler_that_was_called_instead_of_passed() -> None:
    with pytest.raises(TypeError, match="pass it without calling it"):
        WebSocketServer(echo(None))  # type: ignore[arg-type]


async def test_a_listener_that_is_closed_under_the_server_ends_only_its_own_part(
    autojump_clock: MockClock,
) -> None:
    one, two = MemoryListener(), MemoryListener()
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[one, two]):
            await trio.testing.wait_all_tasks_blocked()
            await one.aclose()
            await trio.testing.wait_all_tasks_blocked()
            peer = await RawPeer.connect(await two.connect())
            await peer.send_text("x")
            assert await peer.receive_frame() is not None
            await peer.send_close()
            await read_to_end(peer.stream)
