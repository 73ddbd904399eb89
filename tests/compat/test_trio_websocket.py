"""Programs written for trio-websocket, with only their import changed."""

from __future__ import annotations

import inspect
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trio_websocket as original
import trustme

import trio_ws
from tests.support.serving import guard
from trio_ws.compat import trio_websocket as compat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def no_hang() -> AsyncIterator[None]:
    with trio.fail_after(guard()):
        yield


async def echo(request: compat.WebSocketRequest) -> None:
    if request.path == "/refused":
        await request.reject(418, extra_headers=[(b"X-Why", b"teapot")], body=b"no")
        return
    subprotocol = request.proposed_subprotocols[0] if request.proposed_subprotocols else None
    ws = await request.accept(subprotocol=subprotocol, extra_headers=[(b"X-Seen", request.path.encode())])
    while True:
        try:
            message = await ws.get_message()
        except compat.ConnectionClosed:
            return
        await ws.send_message(message)


async def serve(nursery: trio.Nursery, handler: Any = echo, **settings: Any) -> compat.WebSocketServer:
    server: compat.WebSocketServer = await nursery.start(
        partial(compat.serve_websocket, handler, "127.0.0.1", 0, None, **settings)
    )
    return server


async def test_every_public_name_of_the_original_is_there() -> None:
    names = {name for name in vars(original) if not name.startswith("_")}
    assert names <= set(compat.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "open_websocket",
        "connect_websocket",
        "serve_websocket",
        "wrap_client_stream",
        "wrap_server_stream",
        "WebSocketServer",
    ],
)
async def test_parameters_and_defaults_are_those_of_the_original(name: str) -> None:
    ours = inspect.signature(getattr(compat, name)).parameters
    theirs = inspect.signature(getattr(original, name)).parameters
    described = [(one.name, one.kind, one.default) for one in theirs.values()]
    assert [(one.name, one.kind, one.default) for one in ours.values()] == described


async def test_messages_text_and_binary(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    url = f"ws://127.0.0.1:{server.port}/chat?room=1"
    async with compat.open_websocket_url(url, subprotocols=["a", "b"]) as ws:
        for message in ("text", b"binary"):
            await ws.send_message(message)
            assert await ws.get_message() == message
        assert (ws.path, ws.subprotocol, ws.is_client, str(ws)[:7]) == ("/chat?room=1", "a", True, "client-")
        assert ws.handshake_headers[0] == (b"x-seen", b"/chat?room=1")
        assert isinstance(ws.remote, compat.Endpoint)
        assert (str(ws.remote.address), ws.remote.port) == ("127.0.0.1", server.port)
        assert ws.closed is None
    assert ws.closed is not None
    assert (ws.closed.code, ws.closed.name, ws.closed.reason) == (1000, "NORMAL_CLOSURE", None)
    for use in (ws.get_message, partial(ws.send_message, "x"), ws.ping, ws.pong):
        with pytest.raises(compat.ConnectionClosed) as caught:
            await use()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1000


async def test_a_rejection(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    with pytest.raises(compat.ConnectionRejected) as caught:
        async with compat.open_websocket("127.0.0.1", server.port, "/refused", use_ssl=False):
            raise AssertionError
    assert (caught.value.status_code, caught.value.body) == (418, b"no")
    assert (b"x-why", b"teapot") in caught.value.headers


async def test_a_nursery_of_ones_own(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    async with trio.open_nursery() as mine:
        ws = await compat.connect_websocket_url(mine, f"ws://127.0.0.1:{server.port}/")
        await ws.send_message("x")
        assert await ws.get_message() == "x"
        await ws.ping(b"data")
        await ws.pong()
        assert mine.child_tasks
        await ws.aclose(1001, "done")
    assert ws.closed is not None
    assert (ws.closed.code, ws.closed.reason) == (1001, "done")


async def test_tls(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    client_side = ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    authority.configure_trust(client_side)
    server: Any = await nursery.start(compat.serve_websocket, echo, "127.0.0.1", 0, server_side)
    assert server.listeners[0].is_ssl
    url = f"wss://127.0.0.1:{server.port}/"
    async with compat.open_websocket_url(url, ssl_context=client_side) as ws:
        await ws.send_message("x")
        assert await ws.get_message() == "x"


async def test_the_original_and_this_talk_to_each_other(nursery: trio.Nursery) -> None:
    async def their_echo(request: original.WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message(await ws.get_message())

    ours = await serve(nursery)
    theirs: Any = await nursery.start(original.serve_websocket, their_echo, "127.0.0.1", 0, None)
    async with original.open_websocket("127.0.0.1", ours.port, "/", use_ssl=False) as ws:
        await ws.send_message("x")
        assert await ws.get_message() == "x"
    async with compat.open_websocket("127.0.0.1", theirs.port, "/", use_ssl=False) as other:
        await other.send_message("y")
        assert await other.get_message() == "y"


async def test_failures_to_connect(nursery: trio.Nursery) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with pytest.raises(compat.ConnectionTimeout):
        async with compat.open_websocket("127.0.0.1", port, "/", use_ssl=False, connect_timeout=0.1):
            raise AssertionError
    await listener.aclose()
    with pytest.raises(compat.HandshakeError):
        async with compat.open_websocket("127.0.0.1", port, "/", use_ssl=False):
            raise AssertionError
    with pytest.raises(ValueError, match="scheme must be"):
        compat.open_websocket_url("http://127.0.0.1/")
    with pytest.raises(ValueError, match="SSL context must be None"):
        compat.open_websocket_url("ws://127.0.0.1/", ssl_context=ssl.create_default_context())


async def test_an_exception_of_the_block_leaves_as_it_was_raised(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    mine, cause = KeyError("mine"), ValueError("cause")
    with pytest.raises(KeyError) as caught:
        async with compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
            raise mine from cause
    assert caught.value is mine
    assert caught.value.__cause__ is cause


async def test_too_large_a_message(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    url = f"ws://127.0.0.1:{server.port}/"
    async with compat.open_websocket_url(url, max_message_size=100) as ws:
        await ws.send_message("A" * 101)
        with pytest.raises(compat.ConnectionClosed):
            await ws.get_message()
        assert ws.closed is not None
        assert ws.closed.code == 1009


async def test_streams_of_ones_own(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def handle() -> None:
        request = await compat.wrap_server_stream(nursery, theirs)
        async with await request.accept() as ws:
            await ws.send_message(await ws.get_message())

    nursery.start_soon(handle)
    ws = await compat.wrap_client_stream(nursery, ours, "example.org", "/x")
    async with ws:
        await ws.send_message("over a stream")
        assert await ws.get_message() == "over a stream"
    assert ws.closed is not None


async def test_an_exception_within_a_cancelled_block_is_not_lost(autojump_clock: object) -> None:
    async with trio.open_nursery() as nursery:
        server = await serve(nursery)
        with pytest.raises(ValueError, match="not lost"), trio.move_on_after(1):
            async with compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("not lost")
        nursery.cancel_scope.cancel()


async def test_a_group_that_the_block_raises_is_not_put_into_another_one() -> None:
    failure = KeyError("child")

    async def fail() -> None:
        raise failure

    async with trio.open_nursery() as nursery:
        server = await serve(nursery)
        with pytest.raises(ExceptionGroup) as raised:
            async with (
                compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False),
                trio.open_nursery() as inner,
            ):
                inner.start_soon(fail)
                await trio.sleep_forever()
        assert raised.value.exceptions == (failure,)
        nursery.cancel_scope.cancel()


async def test_an_exception_of_a_handler_is_not_lost_if_the_answer_to_its_client_cancels_the_server() -> None:
    failure = ValueError("before accept")

    async def fail(_: compat.WebSocketRequest) -> None:
        raise failure

    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, fail)
            async with compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
                pass
    assert any(isinstance(exc, compat.ConnectionRejected) for exc in leaves(raised.value))
    assert failure in leaves(raised.value)


def leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for each in exc.exceptions for leaf in leaves(each)]
    return [exc]


async def test_headers_may_be_text(nursery: trio.Nursery) -> None:
    async def handle(request: compat.WebSocketRequest) -> None:
        answer: Any = [("X-Kind", dict(request.headers)[b"x-asked"].decode())]
        await request.accept(extra_headers=answer)

    server = await serve(nursery, handle)
    headers: Any = [("X-Asked", "text")]
    async with compat.open_websocket(
        "127.0.0.1", server.port, "/", use_ssl=False, extra_headers=headers
    ) as ws:
        assert (b"x-kind", b"text") in ws.handshake_headers


async def test_a_handler_that_cannot_connect_elsewhere_fails() -> None:
    async def forward(request: compat.WebSocketRequest) -> None:
        await request.accept()
        async with trio_ws.connect("ws://127.0.0.1:1/"):
            pass

    with pytest.raises(ExceptionGroup) as raised:
        async with trio.open_nursery() as nursery:
            server = await serve(nursery, forward)
            async with compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False):
                await trio.sleep_forever()
    assert isinstance(leaves(raised.value)[0], trio_ws.ConnectionFailedError)


async def test_sending_on_a_stream_that_the_program_has_closed(nursery: trio.Nursery) -> None:
    server = await serve(nursery)
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    ws = await compat.wrap_client_stream(nursery, stream, "127.0.0.1", "/")
    await stream.aclose()
    with pytest.raises(compat.ConnectionClosed) as caught:
        await ws.send_message("x")
    assert caught.value.reason is not None
    assert caught.value.reason.code == 1006


async def test_accept_returns_when_the_stream_has_taken_the_response(nursery: trio.Nursery) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def handle() -> None:
        request = await compat.wrap_server_stream(nursery, theirs)
        await request.accept()
        await theirs.aclose()

    nursery.start_soon(handle)
    ws = await compat.wrap_client_stream(nursery, ours, "example.org", "/")
    with pytest.raises(compat.ConnectionClosed):
        await ws.get_message()


@pytest.mark.parametrize(("size", "answered"), [(1, False), (2, True)])
async def test_a_close_is_answered_while_as_many_messages_wait_as_the_queue_takes(
    nursery: trio.Nursery, size: int, answered: bool, autojump_clock: object
) -> None:
    closed = trio.Event()

    async def send_two(request: compat.WebSocketRequest) -> None:
        ws = await request.accept()
        await ws.send_message("1")
        await ws.send_message("2")
        await ws.aclose()
        closed.set()

    server = await serve(nursery, send_two)
    async with compat.open_websocket(
        "127.0.0.1", server.port, "/", use_ssl=False, message_queue_size=size
    ) as ws:
        with trio.move_on_after(5):
            await closed.wait()
        assert closed.is_set() is answered
        if answered:
            with pytest.raises(compat.ConnectionClosed):
                await ws.send_message("late")
        assert [await ws.get_message(), await ws.get_message()] == ["1", "2"]
        with pytest.raises(compat.ConnectionClosed):
            await ws.get_message()
        await closed.wait()


async def test_a_subclass_sees_what_is_sent(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    original_send = compat.WebSocketConnection._send

    async def send(self: compat.WebSocketConnection, event: Any) -> None:
        if self.is_client:
            sent.append(type(event).__name__)
        await original_send(self, event)

    monkeypatch.setattr(compat.WebSocketConnection, "_send", send)
    server = await serve(nursery)
    async with compat.open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as ws:
        await ws.send_message("x")
        assert await ws.get_message() == "x"
        await ws.pong(b"y")
        with pytest.raises(TypeError, match="does not send str"):
            await ws._send("x")  # type: ignore[arg-type]
    assert sent == ["TextMessage", "Pong", "str", "CloseConnection"]
