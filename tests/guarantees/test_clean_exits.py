"""`break`, `raise` and cancellation inside every iterator and block are clean (PEP 789).

That is: no task is left, no stream is open, the garbage collector reports nothing, unread messages are still
available, and the cancellation or exception arrives where it belongs.
"""

from __future__ import annotations

import gc
import sys
import warnings
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.inspect import link_of
from tests.support.serving import all_tasks, echo, serving, serving_in_memory
from trio_ws import ConnectionClosedError, WebSocketServer, connect
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator

    from trio.testing import MockClock

    from trio_ws import WebSocket
    from trio_ws.testing import LinkStream


class MineError(Exception):
    """An exception of the user."""


@contextmanager
def clean() -> Generator[None, None, None]:
    """Fail if the block leaves a task, or an object whose finalizer reports a problem."""
    before = all_tasks()
    complaints: list[object] = []
    hooks = sys.unraisablehook, sys.get_asyncgen_hooks().finalizer
    sys.unraisablehook = complaints.append
    finalizer = hooks[1]

    def noted(generator: AsyncGenerator[object, object]) -> None:
        complaints.append(f"{generator!r} was left to the garbage collector")
        if finalizer is not None:
            finalizer(generator)

    sys.set_asyncgen_hooks(finalizer=noted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hooks[0]
        sys.set_asyncgen_hooks(finalizer=finalizer)
    assert not complaints
    left = all_tasks() - before
    assert not left


@asynccontextmanager
async def connected(*, sockets: bool) -> AsyncIterator[WebSocket]:
    """Connect a client to an echo server."""
    if sockets:
        async with serving() as server, connect(server.url) as ws:
            yield ws
    else:
        async with serving_in_memory() as memory, memory.connect() as ws:
            yield ws


OVER = pytest.mark.parametrize("sockets", [False, True], ids=["memory", "sockets"])


# -- leaving an iteration ---------------------------------------------------------------------------


@OVER
async def test_break_out_of_the_messages_and_go_on(sockets: bool) -> None:
    with clean():
        async with connected(sockets=sockets) as ws:
            for n in range(4):
                await ws.send(str(n))
            async for message in ws:
                assert message.text == "0"
                break
            async for message in ws:
                assert message.text == "1"
                break
            assert await ws.receive_text() == "2"
            assert (await ws.receive()).text == "3"


@OVER
async def test_raise_out_of_the_messages(sockets: bool) -> None:
    with clean():
        async with connected(sockets=sockets) as ws:
            await ws.send("0")
            await ws.send("1")
            with pytest.raises(MineError):
                async for _ in ws:
                    raise MineError
            assert await ws.receive_text() == "1"
            with pytest.raises(MineError):
                async with connected(sockets=sockets) as other:
                    await other.send("0")
                    async for _ in other:
                        raise MineError


@OVER
async def test_cancel_in_the_body_and_in_the_wait_for_messages(sockets: bool) -> None:
    with clean():
        async with connected(sockets=sockets) as ws:
            await ws.send("0")
            with trio.CancelScope() as body:
                async for _ in ws:
                    body.cancel()
                    await trio.lowlevel.checkpoint()
            assert body.cancelled_caught
            with trio.CancelScope() as wait:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cancel_it() -> None:
                        await trio.testing.wait_all_tasks_blocked()
                        wait.cancel()

                    async for _ in ws:
                        pytest.fail("a message from nowhere")
            assert wait.cancelled_caught
            await ws.send("1")
            assert await ws.receive_text() == "1"


@OVER
async def test_a_scope_around_one_turn_of_the_iteration_is_the_users_own(sockets: bool) -> None:
    # With a generator that yields inside its own scope, the scopes would end in the wrong order.
    with clean():
        async with connected(sockets=sockets) as ws:
            for n in range(3):
                await ws.send(str(n))
            messages = aiter(ws)
            got = []
            for _ in range(3):
                with trio.CancelScope() as scope:
                    got.append((await anext(messages)).text)
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
                assert scope.cancelled_caught
            assert got == ["0", "1", "2"]


async def fragments(memory_stream: LinkStream) -> RawPeer:
    """Return a raw client that has sent the first two of three fragments."""
    peer = await RawPeer.connect(memory_stream)
    await peer.send_frame(1, b"one ", fin=False)
    await peer.send_frame(0, b"two ", fin=False)
    return peer


@asynccontextmanager
async def half_a_message() -> AsyncIterator[tuple[WebSocket, RawPeer]]:
    async with serving_in_memory(None) as memory:
        peer = await fragments(await memory.stream())
        yield await memory.server.accept(), peer


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
async def test_leave_recv_streaming_and_take_it_up_again(how: str, autojump_clock: MockClock) -> None:
    with clean():
        async with half_a_message() as (ws, peer):
            got = []
            with trio.CancelScope() as scope:
                try:
                    async for part in ws.recv_streaming():
                        got.append(part)
                        if how == "raise":
                            raise MineError
                        if how == "break":
                            break
                        scope.cancel()
                except MineError:
                    assert how == "raise"
            assert scope.cancelled_caught == (how == "cancel")
            gc.collect()
            await peer.send_frame(0, b"three")
            got += [part async for part in ws.recv_streaming()]
            assert "".join(str(part) for part in got) == "one two three"
            await peer.send_text("next")
            assert await ws.receive_text() == "next"
            await peer.send_close()


async def test_a_recv_streaming_that_is_never_begun_or_just_dropped(autojump_clock: MockClock) -> None:
    with clean():
        async with half_a_message() as (ws, peer):
            ws.recv_streaming()
            begun = ws.recv_streaming()
            assert await anext(aiter(begun))
            del begun
            gc.collect()
            await peer.send_close()


# -- leaving a block --------------------------------------------------------------------------------


async def leave(how: str, scope: trio.CancelScope) -> None:
    if how == "raise":
        raise MineError
    scope.cancel()
    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", ["raise", "cancel"])
@pytest.mark.parametrize("inside", ["connect", "server", "both", "iteration", "streaming"])
@OVER
async def test_leave_the_blocks(how: str, inside: str, sockets: bool) -> None:
    with clean(), trio.CancelScope() as scope:
        try:
            if inside == "server":
                async with WebSocketServer(echo, host="127.0.0.1"):
                    await leave(how, scope)
            async with connected(sockets=sockets) as ws:
                await ws.send("x")
                if inside == "connect":
                    await leave(how, scope)
                async with connected(sockets=sockets) as other:
                    if inside == "both":
                        await leave(how, scope)
                    await other.send("x")
                    if inside == "iteration":
                        async for _ in other:
                            await leave(how, scope)
                    async for _ in other.recv_streaming():
                        await leave(how, scope)
        except MineError:
            assert how == "raise"
    assert scope.cancelled_caught == (how == "cancel")


async def test_break_and_return_and_continue_leave_the_blocks(autojump_clock: MockClock) -> None:
    async def first() -> str | None:
        async with connected(sockets=False) as ws:
            await ws.send("first")
            async for message in ws:
                return message.text
        return None

    with clean():
        assert await first() == "first"
        for n in range(3):
            async with connected(sockets=False):
                if n == 0:
                    continue
                break


async def test_a_block_inside_an_async_generator_that_is_closed_early(autojump_clock: MockClock) -> None:
    # PEP 789 advises against a generator with a nursery inside. If it is closed properly, nothing remains.
    async def messages() -> AsyncGenerator[str | None, None]:
        async with connected(sockets=False) as ws:
            await ws.send("x")
            async for message in ws:
                yield message.text

    with clean():
        generator = messages()
        assert await anext(generator) == "x"
        await generator.aclose()


async def test_a_handler_is_cancelled_inside_every_iterator(autojump_clock: MockClock) -> None:
    async def iterate(ws: WebSocket) -> None:
        if ws.path == "/messages":
            async for _ in ws:
                pass
        elif ws.path == "/parts":
            async for _ in ws.recv_streaming():
                pass
        else:
            await ws.send(endless())

    ended: list[str] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "x"
                await trio.sleep(1)
        finally:
            ended.append("endless")

    with clean():
        async with serving_in_memory(iterate) as memory:
            for path in ("/messages", "/parts", "/send"):
                await RawPeer.connect(await memory.stream(), path)
            await trio.sleep(2.5)
            await memory.server.drain(timeout=0)
        assert ended == ["endless"]


# -- async iterables that we iterate over ------------------------------------------------------------


class Source:
    """An async generator that records how it ended.

    Args:
        stay: whether it waits after its three items, instead of ending.
    """

    def __init__(self, *, stay: bool = False) -> None:
        self.stay = stay
        self.ended = "not begun"
        self.waits = trio.Event()

    async def __call__(self) -> AsyncGenerator[str, None]:
        self.ended = "not yet"
        try:
            for n in range(3):
                yield str(n)
                await trio.lowlevel.checkpoint()
            if self.stay:
                self.waits.set()
                await trio.sleep_forever()
            self.ended = "finished"
        except BaseException as exc:
            self.ended = type(exc).__name__
            raise


@OVER
async def test_a_generator_that_is_sent_is_finished(sockets: bool) -> None:
    with clean():
        source = Source()
        async with connected(sockets=sockets) as ws:
            await ws.send(source())
            assert await ws.receive_text() == "012"
        assert source.ended == "finished"


@OVER
async def test_a_generator_is_closed_when_its_send_is_cancelled(sockets: bool) -> None:
    with clean():
        source = Source(stay=True)
        async with connected(sockets=sockets) as ws:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.send, source())
                await source.waits.wait()
                nursery.cancel_scope.cancel()
            assert source.ended == "Cancelled"


async def test_a_generator_is_closed_when_its_send_is_cancelled_in_a_wait_for_room(
    autojump_clock: MockClock,
) -> None:
    ended: list[float] = []

    async def flood() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 10_000
        finally:
            ended.append(trio.current_time())

    with clean():
        async with serving_in_memory(None) as memory:
            await RawPeer.connect(await memory.stream(capacity=1000))
            ws = await memory.server.accept()
            with trio.move_on_after(2) as scope:
                await ws.send(flood())
            assert scope.cancelled_caught
            assert ended == [2]


async def test_a_generator_is_closed_when_the_connection_goes_under_it(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def tick() -> AsyncGenerator[str, None]:
        try:
            while True:
                yield "tick"
                await trio.sleep(1)
        finally:
            ended.append(trio.current_time())

    with clean():
        async with serving_in_memory(None) as memory:
            peer = await RawPeer.connect(await memory.stream())
            ws = await memory.server.accept()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send() -> None:
                    with pytest.raises(ConnectionClosedError):
                        await ws.send(tick())

                await trio.sleep(2.5)
                await peer.aclose()
        assert ended == [3]


@pytest.mark.parametrize("bad", [[1], ["text", b"bytes"]], ids=["no text", "a mixture"])
async def test_a_generator_of_the_wrong_things_is_closed(bad: list[Any], autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def generate() -> AsyncGenerator[Any, None]:
        try:
            for item in bad:
                yield item
        finally:
            ended.append("closed")

    with clean():
        async with connected(sockets=False) as ws:
            with pytest.raises(TypeError, match="fragment"):
                await ws.send(generate())
        assert ended == ["closed"]


async def test_a_generator_that_raises_gives_its_own_error(autojump_clock: MockClock) -> None:
    async def generate() -> AsyncGenerator[str, None]:
        yield "half a"
        raise MineError

    with clean():
        async with connected(sockets=False) as ws:
            with pytest.raises(MineError):
                await ws.send(generate())
            # The message cannot be finished.
            with pytest.raises(ConnectionClosedError):
                await ws.send("x")
            assert ws.close_sent is not None
            assert ws.close_sent.code == 1011


async def test_a_generator_that_is_refused_before_its_start_is_closed_too(autojump_clock: MockClock) -> None:
    with clean():
        source = Source()
        async with connected(sockets=False) as ws:
            await ws.close()
            with pytest.raises(ConnectionClosedError):
                await ws.send(source())
        assert source.ended == "not begun"


async def test_an_iterable_other_than_a_generator_needs_no_aclose(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[str](3)
    for word in ("a", "b", "c"):
        send.send_nowait(word)
    send.close()
    with clean():
        async with receive, connected(sockets=False) as ws:
            await ws.send(receive)
            assert await ws.receive_text() == "abc"


# -- everything at once -----------------------------------------------------------------------------


def blow_up_later() -> Callable[[WebSocket], Any]:
    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            if message.text == "bang":
                raise MineError

    return handler


async def test_many_connections_that_end_in_every_way_leave_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = MemoryListener()

    async def client(n: int) -> None:
        with trio.CancelScope() as scope:
            try:
                async with connect("ws://test", stream=await listener.connect(latency=0.01)) as ws:
                    await ws.send("bang" if n % 5 == 0 else "x")
                    async for _ in ws:
                        if n % 5 == 1:
                            raise MineError
                        if n % 5 == 2:
                            scope.cancel()
                        elif n % 5 == 3:
                            break
                        elif n % 5 == 4:
                            link_of(ws).cut()
            except (MineError, ConnectionClosedError):
                assert n % 5 in (0, 1, 4)

    with clean():
        async with WebSocketServer(blow_up_later(), listeners=[listener]), trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(client, n)
    assert len(caplog.records) == 10
