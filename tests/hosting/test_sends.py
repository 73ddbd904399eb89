"""Sends of an application to a host on asyncio: the task that makes them, and their order."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.asgi import websocket_scope
from tests.support.subprocesses import run_asyncio as run
from trio_ws import ASGIApp, Options, guest

if TYPE_CHECKING:
    from collections.abc import Callable

GUARD = 60
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Client:
    """One call of an application. The test sets the number of loop iterations that a send takes."""

    def __init__(self, turns: Callable[[], int]) -> None:
        self.turns = turns
        self.sent: list[Any] = []
        self.tasks: set[Any] = set()
        self.variables: set[str] = set()
        self.under_way = 0
        self.failing: Exception | None = None
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})

    async def send(self, event: Any) -> None:
        assert not self.under_way, "two sends at once"
        self.under_way += 1
        try:
            async with asyncio.timeout(GUARD):  # requires a task
                self.tasks.add(asyncio.current_task())
                self.variables.add(variable.get())
                for _ in range(self.turns()):
                    await asyncio.sleep(0)
                if self.failing is not None:
                    raise self.failing
                self.sent.append(event.get("text") or event["type"])
        finally:
            self.under_way -= 1

    def call(self, app: ASGIApp) -> asyncio.Task[None]:
        variable.set("the call's")
        return asyncio.create_task(app(websocket_scope(), self.events.get, self.send))


async def count(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        for number in range(int(message.text or "")):
            await ws.send(str(number))


@pytest.mark.parametrize("turns", [lambda: 0, lambda: 1, lambda: random.randrange(3)])
def test_sends_are_those_of_the_call_in_order_and_one_at_a_time(turns: Callable[[], int]) -> None:
    async def main() -> None:
        client = Client(turns)
        task = client.call(ASGIApp(count, options=Options(send_high_water=100)))
        for _ in range(3):
            client.events.put_nowait({"type": "websocket.receive", "text": "200"})
        while len(client.sent) < 601:
            await asyncio.sleep(0)
        client.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await task
        assert client.sent == ["websocket.accept", *(str(number) for _ in range(3) for number in range(200))]
        assert client.tasks == {task}
        assert client.variables == {"the call's"}

    run(main)


@pytest.mark.parametrize("turns", [lambda: 0, lambda: 2])
@pytest.mark.parametrize("failure", [OSError("gone"), LookupError("a bug of the host's")])
def test_a_send_that_fails(turns: Callable[[], int], failure: Exception) -> None:
    closed: list[bool] = []

    async def pour(ws: trio_ws.WebSocket) -> None:
        with pytest.raises(trio_ws.ConnectionClosedError):
            while True:
                await ws.send("more")
        closed.append(ws.closed)

    async def main() -> None:
        client = Client(turns)
        task = client.call(ASGIApp(pour, options=Options(close_timeout=0.1)))
        while len(client.sent) < 50:
            await asyncio.sleep(0)
        client.failing = failure
        if isinstance(failure, OSError):
            await task
        else:
            with pytest.raises(LookupError, match="a bug of the host's"):
                await task
        assert client.tasks == {task}

    run(main)
    assert len(closed) == 1


def test_a_burst_is_received_up_to_the_bound() -> None:
    """Messages that a handler does not receive stay at the host, and a violation ends the connection."""

    async def hold(ws: trio_ws.WebSocket) -> None:
        await ws.accept()
        await guest.call_asyncio(released.wait)
        got = 0
        try:
            async for _ in ws:
                got += 1
        except trio_ws.ConnectionClosedError as exc:
            taken.append((got, exc.code))

    taken: list[tuple[int, int]] = []
    released = asyncio.Event()

    async def main() -> None:
        client = Client(lambda: 0)
        options = Options(max_queue_bytes=50_000, max_message_size=10_000)
        task = client.call(ASGIApp(hold, options=options))
        while not client.sent:
            await asyncio.sleep(0)
        for _ in range(20):
            client.events.put_nowait({"type": "websocket.receive", "bytes": bytes(10_000)})
        client.events.put_nowait({"type": "websocket.receive", "bytes": bytes(10_001)})
        while client.events.qsize() > 16:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert 14 <= client.events.qsize() <= 16
        released.set()
        await task

    run(main)
    assert taken == [(20, 1009)]


@pytest.mark.parametrize("turns", [lambda: 0, lambda: 2])
def test_a_call_may_be_cancelled_at_any_turn_of_the_loop(turns: Callable[[], int]) -> None:
    """The call ends, sends at most one Close and nothing after it, and leaves no task in trio."""

    async def main() -> None:
        app = ASGIApp(count, options=Options(drain_timeout=0.1, close_timeout=0.1))
        first = Client(turns)  # keeps the trio run and the server alive
        held = first.call(app)
        while not first.sent:
            await asyncio.sleep(0)
        for turn in range(60):
            client = Client(turns)
            client.events.put_nowait({"type": "websocket.receive", "text": "20"})
            task = client.call(app)
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.sent.count("websocket.close") <= 1
            assert "websocket.close" not in client.sent[:-1]
            assert not client.under_way
            assert len(app.connections) == 1
        first.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await held
        assert app.connections == frozenset()

    run(main)


def test_the_host_is_let_go_of_when_a_call_ends() -> None:
    """Granian closes an RSGI connection when its objects are freed; no garbage collection is needed."""

    async def main() -> None:
        app = ASGIApp(count)
        first = Client(lambda: 0)  # keeps the server alive
        held = first.call(app)
        client = Client(lambda: 0)
        gone = weakref.ref(client)
        task = client.call(app)
        client.events.put_nowait({"type": "websocket.receive", "text": "2"})
        while len(client.sent) < 3:
            await asyncio.sleep(0)
        client.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await task
        del client, task
        assert gone() is None
        first.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await held

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


class Ticks(trio.abc.Instrument):
    """Counts the ticks of trio."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        assert asyncio.current_task() is None
        await ws.send(message)


def test_a_message_alone_is_answered_in_the_step_in_which_it_arrives() -> None:
    async def main() -> None:
        client = Client(lambda: 0)
        task = client.call(ASGIApp(echo))
        turns: list[int] = []
        for number in range(100):
            client.events.put_nowait({"type": "websocket.receive", "text": str(number)})
            turns.append(0)
            while len(client.sent) < number + 2:
                turns[-1] += 1
                await asyncio.sleep(0)
        client.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await task
        assert client.sent[1:] == [str(number) for number in range(100)]
        assert client.tasks == {task}
        # The first message waits for the accept. Fewer and fewer ticks are shared.
        assert turns[3:].count(1) >= 88
        assert max(turns[3:]) <= 2

    run(main)


def test_messages_of_many_connections_share_ticks() -> None:
    async def main() -> None:
        app = ASGIApp(echo)
        clients = [Client(lambda: 0) for _ in range(20)]
        tasks = [client.call(app) for client in clients]
        while not all(client.sent for client in clients):
            await asyncio.sleep(0)
        ticks = Ticks()
        await guest.run_trio(add_instrument, ticks)
        for rounds in range(50):
            for client in clients:
                client.events.put_nowait({"type": "websocket.receive", "text": "all"})
            while not all(len(client.sent) == rounds + 2 for client in clients):
                await asyncio.sleep(0)
        assert 50 <= ticks.count <= 200  # of 1000 messages
        for client in clients:
            client.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.gather(*tasks)

    run(main)


async def add_instrument(ticks: Ticks) -> None:
    trio.lowlevel.add_instrument(ticks)
    await trio.lowlevel.checkpoint()


def test_a_burst_of_one_connection_shares_a_tick() -> None:
    async def main() -> None:
        client = Client(lambda: 0)
        task = client.call(ASGIApp(echo))
        while not client.sent:
            await asyncio.sleep(0)
        ticks = Ticks()
        await guest.run_trio(add_instrument, ticks)
        for burst in range(1, 11):
            for _ in range(30):
                client.events.put_nowait({"type": "websocket.receive", "text": "all"})
            while len(client.sent) < 30 * burst + 1:
                await asyncio.sleep(0)
        assert 10 <= ticks.count <= 60  # of 300 messages
        client.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await task

    run(main)
