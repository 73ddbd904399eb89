"""The ticks of a guest run: without a thread if possible, and otherwise in trio's own guest mode."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_ws.hosting.guest import guest_run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

GUARD = 60


class NoReaders(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, as that of Windows."""

    def add_reader(self, *_: Any) -> None:  # type: ignore[override]
        raise NotImplementedError


def make_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed; the extra `bench` has it")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": make_uvloop,
    "without readers": NoReaders,
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Run an async function of asyncio's, on each kind of loop."""

    def run_it(main: Callable[[], Awaitable[Any]]) -> Any:
        async def guarded() -> Any:
            async with asyncio.timeout(GUARD):
                ticks = guest_run().ticks
                assert ticks.direct is (request.param != "without readers")
                result = await main()
                await guest_run().aclose()
                return result

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(guarded())

    return run_it


def test_no_thread_waits(run: Any) -> None:
    def waiting() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]

    async def main() -> None:
        await guest_run().run(trio.sleep, 0.01)
        before = threading.active_count()
        await guest_run().run(trio.sleep, 0.01)
        if guest_run().ticks.direct:
            assert threading.active_count() <= before, waiting()

    run(main)


def test_deadlines_are_kept(run: Any) -> None:
    async def nap(seconds: float) -> float:
        began = trio.current_time()
        await trio.sleep(seconds)
        return trio.current_time() - began

    async def short_and_long() -> list[str]:
        ended: list[str] = []

        async def sleep(name: str, seconds: float) -> None:
            await trio.sleep(seconds)
            ended.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep, "long", 0.2)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(sleep, "short", 0.01)
        return ended

    async def main() -> None:
        assert await guest_run().run(nap, 0.05) >= 0.05
        assert await guest_run().run(short_and_long) == ["short", "long"]

    run(main)


def test_sockets_are_read_in_trio(run: Any) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)
        await stream.aclose()

    async def talk() -> bytes:
        ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, theirs)
            for number in range(100):
                await ours.send_all(b"%d" % number)
                assert await ours.receive_some() == b"%d" % number
            await ours.send_eof()
            last = await ours.receive_some()
            await ours.aclose()
        return bytes(last)

    async def main() -> None:
        assert await guest_run().run(talk) == b""

    run(main)


def test_threads_come_back(run: Any) -> None:
    async def in_thread() -> list[int]:
        return [await trio.to_thread.run_sync(abs, -number) for number in range(20)]

    async def main() -> None:
        assert await guest_run().run(in_thread) == list(range(20))

    run(main)


def test_any_code_of_the_loop_may_wake_a_task(run: Any) -> None:
    """Also code that knows nothing of ticks, while trio has nothing to do."""

    async def main() -> None:
        event, scope = trio.Event(), trio.CancelScope()
        into, out = trio.open_memory_channel[int](10)

        async def wait() -> str:
            await event.wait()
            assert await out.receive() == 1
            with scope:
                await trio.sleep_forever()
            return "cancelled"

        task = asyncio.create_task(guest_run().run(wait))
        for action in (event.set, lambda: into.send_nowait(1), scope.cancel):
            await asyncio.sleep(0.02)
            assert not task.done()
            action()
        assert await task == "cancelled"

    run(main)


def test_an_earlier_deadline_may_come_from_the_loop(run: Any) -> None:
    async def main() -> None:
        scope = trio.CancelScope(deadline=trio.current_time() + 1000)

        async def wait() -> bool:
            with scope:
                await trio.sleep_forever()
            return scope.cancelled_caught

        task = asyncio.create_task(guest_run().run(wait))
        await asyncio.sleep(0.02)
        scope.deadline = trio.current_time() + 0.01
        assert await task is True

    run(main)


def test_trio_and_asyncio_take_turns(run: Any) -> None:
    """Neither a busy trio task nor a busy asyncio task keeps the other from running."""

    async def main() -> None:
        stop = False
        turns = {"trio": 0, "asyncio": 0}

        async def busy_in_trio() -> None:
            while not stop:
                turns["trio"] += 1
                await trio.lowlevel.checkpoint()

        task = asyncio.create_task(guest_run().run(busy_in_trio))
        while turns["trio"] < 100:
            turns["asyncio"] += 1
            await asyncio.sleep(0)
        stop = True
        await task
        if guest_run().ticks.direct:  # otherwise the duration depends on a thread
            assert turns["asyncio"] < 10 * turns["trio"] + 100
        assert turns["trio"] < 10 * turns["asyncio"] + 100

    run(main)


def test_an_internal_error_of_trio_is_told(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        first = guest_run()

        async def fail() -> None:
            raise KeyError("a system task that fails")

        async def wait() -> None:
            trio.lowlevel.spawn_system_task(fail)
            await trio.sleep_forever()

        with pytest.raises(asyncio.CancelledError, match="the trio run of this event loop ends"):
            await first.run(wait)
        while not first.ended:
            await asyncio.sleep(0.001)
        assert "the trio run of this loop failed" in caplog.text

    run(main)


def test_deadlines_that_are_almost_due(run: Any) -> None:
    """uvloop has no timer for delays that round to no millisecond."""

    async def main() -> None:
        woken = trio.Event()

        async def wait() -> None:
            with trio.move_on_after(0.0004):
                await woken.wait()
                await trio.sleep_forever()

        for _ in range(20):
            woken = trio.Event()
            task = asyncio.create_task(guest_run().run(wait))
            await asyncio.sleep(0)
            woken.set()
            await task

    run(main)
