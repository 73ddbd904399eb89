"""Signals cancel a block, and nothing else."""

from __future__ import annotations

import os
import signal

import pytest
import trio

import trio_ws
from tests.support.serving import echo, guard


async def test_sigterm_drains_a_server_and_the_program_goes_on() -> None:
    before = signal.getsignal(signal.SIGTERM)
    server: trio_ws.WebSocketServer
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            with trio_ws.cancel_on_signals() as scope:
                async with trio_ws.WebSocketServer(echo, host="127.0.0.1") as server:
                    ws = await nursery.start(_hold, server.url)
                    os.kill(os.getpid(), signal.SIGTERM)
                    await server.serve_forever()
            assert scope.cancelled_caught
            assert ws.close_code == 1001
    assert server.state == "closed"
    assert signal.getsignal(signal.SIGTERM) == before


async def _hold(url: str, *, task_status: trio.TaskStatus[trio_ws.WebSocket]) -> None:
    async with trio_ws.connect(url) as ws:
        task_status.started(ws)
        await ws.wait_closed()


async def test_a_second_ctrl_c_is_what_it_was_before() -> None:
    async def patient() -> None:
        with trio_ws.cancel_on_signals(signal.SIGINT), trio.CancelScope(shield=True):
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep(0)
            assert trio.current_effective_deadline() == float("inf")
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, _raise)
    try:
        with pytest.raises(InterruptedError):
            await patient()
        assert signal.getsignal(signal.SIGINT) is _raise
    finally:
        signal.signal(signal.SIGINT, before)


def _raise(*_: object) -> None:
    raise InterruptedError


async def test_without_a_signal_nothing_happens() -> None:
    with trio_ws.cancel_on_signals(signal.SIGUSR1) as scope:
        await trio.sleep(0)
    assert not scope.cancelled_caught
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


async def test_an_exception_leaves_the_block_as_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        with trio_ws.cancel_on_signals():
            _ = 1 / 0


async def test_another_thread_gets_no_signals() -> None:
    async def main() -> None:
        with trio_ws.cancel_on_signals():
            raise AssertionError("the block ran")

    with pytest.raises(RuntimeError, match="only the main thread receives signals"):
        await trio.to_thread.run_sync(trio.run, main)
