"""`passed_checkpoint` agrees with trio about who is cancelled, in C and in Python."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest
import trio
from trio._core._run import GLOBAL_RUN_CONTEXT, CancelStatus, Runner
from trio.testing import assert_no_checkpoints

from tests.support.serving import request, serving
from tests.support.wire import frame
from trio_ws.protocol.frames import BINARY, CLOSE
from trio_ws.protocol.masking import extension
from trio_ws.websocket._checkpoint import passed_checkpoint, python_passed_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws import WebSocket

    Check = Callable[[], bool]

with_each = pytest.mark.parametrize(
    "passed", [python_passed_checkpoint, passed_checkpoint], ids=["python", "selected"]
)


async def trio_passes() -> bool:
    """Whether trio lets the current task pass."""
    try:
        await trio.lowlevel.checkpoint_if_cancelled()
    except trio.Cancelled:
        return False
    return True


@pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
def test_the_extension_is_used() -> None:
    assert passed_checkpoint is extension.passed_checkpoint  # type: ignore[union-attr]


@with_each
async def test_cancelled_and_shielded_scopes(passed: Check) -> None:
    seen: list[tuple[bool, bool]] = []

    async def look() -> None:
        seen.append((passed(), await trio_passes()))

    await look()
    with trio.CancelScope() as outer:
        await look()
        with trio.CancelScope() as shield:
            outer.cancel()
            await look()
            shield.shield = True
            await look()
            with trio.CancelScope() as inner:
                inner.cancel()
                await look()
            await look()
        await look()
    await look()
    assert seen == [(one, one) for one in (True, True, False, True, False, True, False, True)]


@with_each
async def test_a_cancellation_by_another_task_and_by_a_deadline(passed: Check) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):  # noqa: ASYNC100 - it is about what happens without waiting
                nursery.cancel_scope.cancel()
                assert passed()
            assert not passed()
        assert passed()
        scope.deadline = -float("inf")
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            assert passed()
        assert not passed()


@with_each
async def test_it_counts_as_what_trio_counts(passed: Check) -> None:
    with pytest.raises(AssertionError, match="yielded"), assert_no_checkpoints():
        assert passed()
    with trio.CancelScope() as scope:  # noqa: ASYNC100 - it is about what happens without waiting
        scope.cancel()
        with assert_no_checkpoints():
            assert not passed()


@with_each
def test_each_thread_has_its_own_task(passed: Check) -> None:
    async def cancelled() -> None:
        with trio.CancelScope() as scope:  # noqa: ASYNC100 - it is about what happens without waiting
            scope.cancel()
            assert not passed()
            in_thread(lambda: trio.run(free))
            assert not passed()

    async def free() -> None:
        assert passed()
        in_thread(lambda: trio.run(cancelled) if threading.active_count() < 4 else None)
        assert passed()

    def in_thread(run: Callable[[], object]) -> None:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                assert not passed()  # no task runs here
                run()
                assert not passed()
            except BaseException as exc:  # noqa: BLE001 - raised again in the other thread
                failures.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    assert not passed()
    trio.run(free)
    assert not passed()


@with_each
def test_an_interrupt_of_the_main_task(passed: Check) -> None:
    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        assert passed()
        signal.raise_signal(signal.SIGINT)
        assert not passed()
        with pytest.raises(KeyboardInterrupt):
            await trio.lowlevel.checkpoint_if_cancelled()
        assert passed()

    trio.run(main)


@pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
async def test_other_classes_than_trio_had() -> None:
    class OtherTask:
        __slots__ = ("_cancel_points", "_cancel_status", "_runner")

    class OtherStatus:
        effectively_cancelled = False

    assert extension is not None
    usual = (trio.lowlevel.Task, CancelStatus, Runner)
    context = GLOBAL_RUN_CONTEXT
    try:
        assert not extension.watch_task(context, OtherTask, OtherStatus, Runner)  # no slot
        assert not extension.passed_checkpoint()
        assert not extension.watch_task(context, OtherTask, 5, Runner)
        assert extension.watch_task(context, OtherTask, CancelStatus, Runner)
        assert not extension.passed_checkpoint()  # the current task has another class
        with pytest.raises(TypeError):
            extension.watch_task(context)
    finally:
        assert extension.watch_task(context, *usual)
    assert extension.passed_checkpoint()


@pytest.mark.parametrize("iterating", [False, True])
async def test_each_receive_and_send_of_a_burst_can_be_cancelled(iterating: bool) -> None:
    payloads = [b"%02d" % number for number in range(20)]
    received: list[bytes | str] = []

    async def handler(ws: WebSocket) -> None:
        while len(received) < len(payloads):
            with trio.CancelScope() as scope:
                scope.cancel()
                await (anext(ws) if iterating else ws.recv())
            assert scope.cancelled_caught
            for cancelled in (True, False):
                message = await (anext(ws) if iterating else ws.recv())
                assert message is not None
                received.append(message.payload)
                with trio.CancelScope() as scope:
                    if cancelled:
                        scope.cancel()
                    await ws.send(message)
                assert scope.cancelled_caught is cancelled

    async with serving(handler) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            # The frames come in one read, together with the request or after it.
            await stream.send_all(
                request() + b"".join(frame(BINARY, data) for data in payloads) + frame(CLOSE, b"\x03\xe8")
            )
            reply = b""
            while chunk := await stream.receive_some():
                reply += chunk
    assert received == payloads
    echoes = b"".join(b"\x82\x02" + data for data in payloads[1::2])
    assert reply.endswith(b"\r\n\r\n" + echoes + b"\x88\x02\x03\xe8")
