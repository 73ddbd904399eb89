"""trio_ws in asyncio programs. Each test is run by `asyncio.run`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.asgi import http_scope, websocket_scope
from tests.support.subprocesses import run_asyncio
from trio_ws import App, ASGIApp, guest
from trio_ws.hosting.guest import guest_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

GUARD = 60
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run asyncio, and check that no task is left on its loop."""
    result = run_asyncio(main, GUARD)
    assert not trio.lowlevel.in_trio_run()
    gc.collect()
    return result


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def talk(url: str) -> str:
    """A trio client."""
    async with trio_ws.connect(url) as ws:
        await ws.send("hä")
        return await ws.receive_text()


def test_a_server_in_an_asyncio_program() -> None:
    async def main() -> None:
        async with guest.serve(echo) as server:
            assert await guest.run_trio(talk, server.url) == "hä"
            assert await asyncio.to_thread(trio.run, talk, server.url) == "hä"
        # Once more on the same loop, on another run of trio's.
        async with guest.serve(echo) as server:
            assert await guest.run_trio(talk, server.url) == "hä"

    run(main)


def test_handlers_call_asyncio_functions() -> None:
    lock_holders: list[str] = []

    async def query(text: str) -> str:
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)
        lock_holders.append(text)
        return text.upper()

    async def ask(ws: trio_ws.WebSocket) -> None:
        async for message in ws:
            await ws.send(await guest.call_asyncio(query, message.text or ""))

    async def main() -> None:
        async with guest.serve(ask) as server:
            assert await guest.run_trio(talk, server.url) == "HÄ"

    run(main)
    assert lock_holders == ["hä"]


def test_beside_a_database_driver_of_asyncios() -> None:
    aiosqlite = pytest.importorskip("aiosqlite", reason="aiosqlite is not installed; the extra `test` has it")

    async def main() -> None:
        async with aiosqlite.connect(":memory:") as db:

            async def count(text: str) -> int:
                await db.execute("insert into said values (?)", (text,))
                async with db.execute("select count(*) from said") as cursor:
                    (row,) = await cursor.fetchone()
                    return int(row)

            async def store(ws: trio_ws.WebSocket) -> None:
                async for message in ws:
                    await ws.send(str(await guest.call_asyncio(count, message.text)))

            await db.execute("create table said (text)")
            async with guest.serve(store) as server:
                assert await guest.run_trio(talk, server.url) == "1"
                assert await guest.run_trio(talk, server.url) == "2"

    run(main)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("k"), trio.TooSlowError()])
def test_errors_go_across_as_they_are(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async def there_and_back() -> None:
        await guest.call_asyncio(fail)

    async def main() -> None:
        for function in (fail, there_and_back):
            with pytest.raises(type(error)) as caught:
                await guest.run_trio(function)
            assert caught.value is error

    run(main)


async def a_cancelled_of_an_earlier_scope() -> None:
    kept: BaseException | None = None
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept = exc
    assert kept is not None
    raise kept


def a_stop_iteration() -> Any:
    raise StopIteration


async def a_scope_left_open() -> None:
    scope = trio.CancelScope()
    scope.__enter__()
    scope.cancel()


KEPT: list[object] = []


async def a_nursery_left_open() -> None:
    KEPT.append(trio.open_nursery())
    nursery = await KEPT[-1].__aenter__()  # type: ignore[attr-defined]
    nursery.start_soon(trio.sleep_forever)
    raise KeyError


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (a_cancelled_of_an_earlier_scope, trio.Cancelled),
        (a_stop_iteration, RuntimeError),
        (a_scope_left_open, RuntimeError),
        (a_nursery_left_open, KeyError),
    ],
)
def test_a_function_that_misuses_trio_fails_alone(
    function: Callable[[], Any], error: type[BaseException]
) -> None:
    async def main() -> None:
        async with guest.serve(echo) as server:
            other = asyncio.create_task(guest.run_trio(trio.sleep, 0.1))
            with pytest.raises(error):
                await guest.run_trio(function)
            await other
            assert await guest.run_trio(talk, server.url) == "hä"

    run(main)
    KEPT.clear()


def test_context_variables_go_along() -> None:
    async def look() -> str:
        return variable.get()

    async def there_and_back() -> str:
        variable.set("trio's")
        return await guest.call_asyncio(look)

    async def main() -> None:
        variable.set("asyncio's")
        assert await guest.run_trio(look) == "asyncio's"
        assert await guest.run_trio(there_and_back) == "trio's"

    run(main)


def test_a_cancellation_by_asyncio_ends_the_function_first() -> None:
    steps: list[str] = []

    async def hang(started: trio.Event) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.01)
            steps.append("trio")

    async def main() -> None:
        started = trio.Event()
        task = asyncio.create_task(guest.run_trio(hang, started))
        await guest.run_trio(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps.append("asyncio")

    run(main)
    assert steps == ["trio", "asyncio"]


def test_a_cancellation_by_trio_ends_the_asyncio_function_first() -> None:
    steps: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("asyncio")

    async def bounded() -> None:
        with trio.move_on_after(0.01) as scope:
            await guest.call_asyncio(hang)
        assert scope.cancelled_caught
        steps.append("trio")

    run(lambda: guest.run_trio(bounded))
    assert steps == ["asyncio", "trio"]


def test_a_server_that_fails_ends_its_block() -> None:
    async def fail(ws: trio_ws.WebSocket) -> None:
        await ws.accept()
        raise ValueError("boom")

    async def main() -> None:
        with pytest.raises(ValueError, match="boom"):
            async with guest.serve(fail, debug=True) as server:
                with contextlib.suppress(trio_ws.ConnectionClosedError):
                    await guest.run_trio(talk, server.url)
                await asyncio.Event().wait()
        await asyncio.sleep(0)  # the task is not cancelled any more

    run(main)


def test_a_server_that_cannot_begin() -> None:
    async def main() -> None:
        async with guest.serve(echo) as server:
            with pytest.raises(OSError, match="cannot listen on port"):
                async with guest.serve(echo, server.port, host="127.0.0.1"):
                    raise AssertionError("it has begun")
            assert await guest.run_trio(talk, server.url) == "hä"

    run(main)


def test_the_end_of_the_loop_is_the_end_of_what_runs_in_trio() -> None:
    steps: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            steps.append("ended")

    async def main() -> None:
        asyncio.current_task()
        task = asyncio.create_task(guest.run_trio(hang))
        await guest.run_trio(trio.lowlevel.checkpoint)
        assert not task.done()

    run(main)
    assert steps == ["ended"]


def test_errors_outside_of_asyncio() -> None:
    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async def in_trio() -> None:
        with pytest.raises(RuntimeError, match="trio task already"):
            await guest.run_trio(nothing)
        with pytest.raises(RuntimeError, match="needs an asyncio loop, but none is running"):
            await guest.call_asyncio(nothing)

    trio.run(in_trio)

    async def in_asyncio() -> None:
        with pytest.raises(RuntimeError, match="is for trio tasks"):
            await guest.call_asyncio(nothing)

    run(in_asyncio)


def test_a_loop_that_has_another_guest_already() -> None:
    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), trio.Event()
        ended: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            stop.wait,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        with pytest.raises(RuntimeError, match="trio runs in this thread already"):
            await guest.run_trio(stop.wait)
        said: list[Any] = []

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(event: Any) -> None:
            said.append(event)

        await ASGIApp(echo)({"type": "lifespan"}, receive, send)
        assert [event["type"] for event in said] == ["lifespan.startup.failed"]
        assert "trio runs in this thread already" in said[0]["message"]
        stop.set()
        await ended

    run(main)


def test_each_thread_has_its_own() -> None:
    def in_thread() -> None:
        results.append(run(main))

    async def main() -> str:
        async with guest.serve(echo) as server:
            return await guest.run_trio(talk, server.url)

    results: list[str] = []
    threads = [threading.Thread(target=in_thread) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["hä"] * 3


# -- as an ASGI application -------------------------------------------------------------------------


class Call:
    """One call of an application, from asyncio."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.asked = 0
        self.sending = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self) -> dict[str, Any]:
        self.asked += 1
        return await self.events.get()

    async def send(self, event: dict[str, Any]) -> None:
        self.sending.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.put_nowait(event)

    def send_event(self, kind: str, **fields: Any) -> None:
        self.events.put_nowait({"type": kind, **fields})

    async def receive_event(self, kind: str) -> dict[str, Any]:
        event = await self.sent.get()
        assert event["type"] == kind, event
        return event


async def connected(app: Any) -> Call:
    call = Call(app, websocket_scope())
    call.send_event("websocket.connect")
    await call.receive_event("websocket.accept")
    return call


async def settle() -> None:
    """Wait until trio and asyncio both have nothing to do."""
    for _ in range(20):
        await guest.run_trio(trio.lowlevel.checkpoint)
        await asyncio.sleep(0)


def test_without_a_lifespan_calls_are_served_all_the_same() -> None:
    async def main() -> None:
        call = await connected(ASGIApp(echo))
        call.send_event("websocket.receive", text="hä")
        assert (await call.receive_event("websocket.send"))["text"] == "hä"
        call.send_event("websocket.disconnect", code=1000)
        await call.task

    run(main)


def test_a_lifespan_and_the_end_of_the_run() -> None:
    steps: list[str] = []
    app = App()

    @app.lifespan
    async def life(_: App) -> AsyncIterator[None]:
        steps.append("in")
        yield
        await trio.sleep(0.01)
        steps.append("out")

    async def main() -> None:
        call = Call(app, {"type": "lifespan"})
        call.send_event("lifespan.startup")
        await call.receive_event("lifespan.startup.complete")
        trio_run = guest_run()
        call.send_event("lifespan.shutdown")
        await call.receive_event("lifespan.shutdown.complete")
        steps.append("complete")
        await call.task
        assert trio_run.ended

    run(main)
    assert steps == ["in", "out", "complete"]


def test_a_cancelled_call_drains() -> None:
    async def main() -> None:
        call = await connected(ASGIApp(echo))
        call.task.cancel()
        assert (await call.receive_event("websocket.close"))["code"] == 1001
        with pytest.raises(asyncio.CancelledError):
            await call.task

    run(main)


def test_nothing_is_sent_twice_where_a_send_is_cancelled() -> None:
    async def main() -> None:
        call = await connected(ASGIApp(echo))
        call.open.clear()
        call.sending.clear()
        call.send_event("websocket.receive", text="hä")
        await call.sending.wait()
        call.task.cancel()
        await asyncio.sleep(0)
        call.open.set()
        # The host has had the message once, and has given it up.
        assert (await call.receive_event("websocket.close"))["code"] == 1001
        with pytest.raises(asyncio.CancelledError):
            await call.task

    run(main)


def test_backpressure_of_the_host_reaches_the_handler() -> None:
    sent: list[int] = []

    async def pour(ws: trio_ws.WebSocket) -> None:
        await ws.accept()
        while True:
            await ws.send(b"x" * 10_000)
            sent.append(1)

    async def main() -> None:
        call = await connected(ASGIApp(pour))
        call.open.clear()
        before = -1
        while before != len(sent):
            before = len(sent)
            await settle()
        assert before < 100
        call.open.set()
        while len(sent) < 2 * before:
            await call.receive_event("websocket.send")
        call.send_event("websocket.disconnect", code=1001)
        await call.task

    run(main)


def test_a_handler_that_reads_nothing_holds_up_the_host() -> None:
    async def main() -> None:
        done = trio.Event()

        async def wait(ws: trio_ws.WebSocket) -> None:
            await ws.accept()
            await done.wait()

        app = ASGIApp(wait, options=trio_ws.Options(max_queue_bytes=65536))
        call = await connected(app)
        for _ in range(1000):
            call.send_event("websocket.receive", bytes=b"x" * 10_000)
        before = -1
        while before != call.asked:
            before = call.asked
            await settle()
        assert before < 60
        done.set()
        await call.task

    run(main)


def test_a_host_that_fails_to_send_ends_the_connection() -> None:
    async def main() -> None:
        call = await connected(ASGIApp(echo))
        call.failure = ValueError("the host's own")
        for _ in range(3):
            call.send_event("websocket.receive", text="hä")
        with pytest.raises(ValueError, match="the host's own"):
            await call.task

    run(main)


def test_a_request() -> None:
    app = App()

    @app.http("/", methods=["POST"])
    async def answer(request: trio_ws.Request) -> str:
        return f"{len(request.body)} {variable.get()}"

    async def main() -> None:
        variable.set("the host's")
        call = Call(app, http_scope(method="POST", http_version="1.1"))
        call.send_event("http.request", body=b"ab", more_body=True)
        call.send_event("http.request", body=b"c", more_body=False)
        assert (await call.receive_event("http.response.start"))["status"] == 200
        body = b""
        while (event := await call.receive_event("http.response.body"))["more_body"]:
            body += event["body"]
        assert body + event["body"] == b"3 the host's"
        await call.task

    run(main)


def test_neither_trio_nor_asyncio() -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("it is called")

    call = ASGIApp(echo)(websocket_scope(), nothing, nothing)
    with pytest.raises(RuntimeError, match="neither of them runs here"):
        call.send(None)
