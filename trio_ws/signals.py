"""Signals: cancel a scope on a signal of the operating system, without a task that waits for it.

Invariants: a signal handler only asks trio's loop to do something, which it then does between two steps of
tasks. When the block ends, the previous signal handlers are restored.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from trio_ws._blocks import check_trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["cancel_on_signals", "in_main_thread", "on_signals"]


@contextmanager
def cancel_on_signals(*signals: signal.Signals) -> Iterator[trio.CancelScope]:
    """Cancel a block on the first of these signals, so that its contents end in order.

    ::

        async def main() -> None:
            with trio_ws.cancel_on_signals():
                await trio_ws.serve(handler, 8000)  # drains, and the program continues after the block

    Only the first signal of each kind is handled. A second one has its usual effect, so that an impatient
    user can end the program. The block provides its `trio.CancelScope`, whose ``cancelled_caught`` tells
    whether a signal ended it.

    Args:
        signals: default SIGTERM and SIGINT (Ctrl+C).

    Raises:
        RuntimeError: outside of the main thread, the only one that receives signals, or outside of trio.
    """
    check_trio("cancel_on_signals()")
    chosen = signals or (signal.SIGTERM, signal.SIGINT)
    with trio.CancelScope() as scope, on_signals(dict.fromkeys(chosen, scope.cancel), once=True):
        yield scope


def in_main_thread() -> bool:
    """Whether signals can be handled in this thread."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def on_signals(
    callbacks: Mapping[signal.Signals, Callable[[], object]], *, once: bool = False
) -> Iterator[None]:
    """Call functions from trio's loop on signals for the duration of a block.

    Args:
        callbacks: plain functions; trio's loop calls them in the main thread.
        once: handle only the first signal of each kind, and then restore the previous handler.

    Raises:
        RuntimeError: outside of the main thread.
    """
    if not in_main_thread():
        raise RuntimeError("only the main thread receives signals; run trio there")
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
            if handler is not None:  # otherwise C code has set it, and Python cannot restore it
                signal.signal(number, handler)
