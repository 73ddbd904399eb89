"""Run third-party servers as processes on free ports.

Invariants: they listen on 127.0.0.1, and have exited at the end of the block.
"""

from __future__ import annotations

import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

__all__ = ["said_port", "taking_a_port"]

_TRIES_FOR_A_PORT = 5


@asynccontextmanager
async def taking_a_port(command: Callable[[int], Sequence[str]]) -> AsyncIterator[int]:
    """Run a program that takes a port as its argument, and yield the port once the program listens there.

    If another program takes the free port first, another one is tried.
    """
    for _ in range(_TRIES_FOR_A_PORT):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        run = partial(
            trio.run_process,
            list(command(port)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            deliver_cancel=_kill,  # a graceful shutdown would only take longer
        )
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            with trio.fail_after(guard()):
                listens = await _listens(process, port)
            if listens:
                yield port
                nursery.cancel_scope.cancel()
                return
    pytest.fail(f"{command(0)[0]} did not start")


async def _kill(process: trio.Process) -> None:
    process.kill()


async def _listens(process: trio.Process, port: int) -> bool:
    while process.poll() is None:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            await trio.lowlevel.checkpoint()
        else:
            return True
    return False


@contextmanager
def said_port(command: Sequence[str]) -> Iterator[int]:
    """Run a program that chooses a free port and prints it, and yield the port."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"{command} did not start"
            yield int(line)
        finally:
            process.kill()
