"""Signals: from an operating system's signal to a cancelled scope, without a task that waits for it.

What always holds: a handler only asks trio's loop to do something, which it then does between two steps of
tasks; when the block ends, the signals mean again what they meant before.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["cancel_on_signals", "in_main_thread", "on_signals"]


@contextmanager
def cancel_on_signals(*signals: signal.Signals) -> Iterator[trio.CancelScope]:
    """Cancel a block at the first of these signals, so that what runs in it ends in order.

    ::

        async def main() -> None:
            with trio_ws.cancel_on_signals():
                await trio_ws.serve(handler, 8000)  # drains, and the program goes on behind the block

    Only the first signal of each kind is taken: a second one does what it does without this block, so that
    whoever is impatient can end the program. The block gives its `trio.CancelScope`, whose
    ``cancelled_caught`` tells afterwards whether a signal ended it.

    Args:
        signals: default SIGTERM and SIGINT (Ctrl+C).

    Raises:
        RuntimeError: outside of the main thread, which alone gets signals.
    """
    chosen = signals or (signal.SIGTERM, signal.SIGINT)
    with trio.CancelScope() as scope, on_signals(dict.fromkeys(chosen, scope.cancel), once=True):
        yield scope


def in_main_thread() -> bool:
    """Whether signals can be handled here."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def on_signals(
    callbacks: Mapping[signal.Signals, Callable[[], object]], *, once: bool = False
) -> Iterator[None]:
    """Let trio call these at their signals for the length of a block.

    Args:
        callbacks: plain functions; trio's loop calls them in the main thread.
        once: for each signal only the first time; then what was set before is set again.

    Raises:
        RuntimeError: outside of the main thread.
    """
    if not in_main_thread():
        raise RuntimeError("only the main thread gets signals; run trio there")
    token = trio.lowlevel.current_trio_token()
    before = {number: signal.getsignal(number) for number in callbacks}

    def handle(number: int, _: object) -> None:
        which = signal.Signals(number)
        if once:
            signal.signal(which, before[which])
        token.run_sync_soon(callbacks[which])

    try:
        for number in callbacks:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it was set by C code, and Python cannot set it again
                signal.signal(number, handler)
