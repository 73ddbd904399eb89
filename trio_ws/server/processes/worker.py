"""A worker: a fresh interpreter that serves on the listening sockets of its parent.

Invariants:

- It exits with its parent, however that dies: the control channel ends, and the worker drains.
- SIGTERM drains, and interrupts the start before the worker serves. Ctrl+C and a closed terminal signal all
  processes of a terminal at once. Workers ignore them; the parent handles them and tells its workers.
- Every reason not to serve is reported on the control channel, as one line of text.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.logs import logger_for
from trio_ws.server.access_log import enable_access_log
from trio_ws.server.client_task import count_clients
from trio_ws.server.processes import control, targets
from trio_ws.server.processes.client_counts import WorkerCount
from trio_ws.server.processes.control import READY, STOP, read_config
from trio_ws.server.server import WebSocketServer, add_pages
from trio_ws.systems import HANGUP_SIGNALS

if TYPE_CHECKING:
    import ssl

    from trio_ws.server.processes.control import WorkerConfig

__all__ = ["main"]

logger = logger_for("trio_ws.processes")

#: Seconds for clients to finish their opening handshake before a worker drains.
_ACCEPTED_SECONDS = 3.0


def main(fd: int) -> None:
    """Run a worker. ``fd`` is the control channel to the parent."""
    for number in (signal.SIGINT, *HANGUP_SIGNALS):
        # Not SIG_IGN, which child processes of the target would inherit.
        signal.signal(number, lambda *_: None)
    control.in_worker = True
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as line:
        config = read_config(line)
        if config is not None:
            _work(config, line)


def _work(config: WorkerConfig, line: socket.socket) -> None:
    try:
        target = targets.load(config.target)
        context = targets.load_ssl_context(config.ssl_certfile, config.ssl_keyfile, config.ssl_context)
        logging.basicConfig(
            level=config.log_level, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"
        )
        if config.access_log:
            enable_access_log()
        trio.run(_serve, target, context, config, line)
    except BaseException as exc:
        text = " ".join(f"{type(exc).__name__}: {exc}".split())
        with suppress(OSError):  # the parent is gone, or was told "ready" and no longer reads
            line.sendall(f"{text}\n".encode(errors="replace"))
        raise


async def _serve(
    target: Any, context: ssl.SSLContext | None, config: WorkerConfig, line: socket.socket
) -> None:
    line.setblocking(False)
    stop = trio.Event()
    starting = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()

    def on_sigterm(*_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(on_stop)

    def on_stop() -> None:
        stop.set()
        if not ready:
            starting.cancel()

    # Permanent: a second SIGTERM must not kill a process that is about to exit.
    signal.signal(signal.SIGTERM, on_sigterm)
    ready = False
    server = WebSocketServer(
        target,
        listeners=[_listener(fd) for fd in config.listeners],
        ssl_context=context,
        subprotocols=config.subprotocols,
        debug=config.debug,
        options=config.options,
        broker=config.broker,
    )
    if config.pages is not None:
        add_pages(server, targets.load(config.pages, "pages"), config.target)
    os.set_inheritable(config.client_counts, False)
    with starting, WorkerCount(config.client_counts, config.slot) as count:
        count_clients(server, count)
        async with server:
            ready = True
            line.send(READY)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_set_on_command, line, stop)
                await stop.wait()
                nursery.cancel_scope.cancel()
            count_clients(server, None)  # another worker may have the slot already
            # If the whole group stops, new clients get 503. Otherwise they are accepted by another worker or,
            # after the parent's death, by the next server on this port.
            if not _received_stop(line):
                with trio.move_on_after(_ACCEPTED_SECONDS):
                    await server.stop_listening()


def _listener(fd: int) -> trio.SocketListener:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def _set_on_command(line: socket.socket, stop: trio.Event) -> None:
    await trio.lowlevel.wait_readable(line)
    stop.set()


def _received_stop(line: socket.socket) -> bool:
    try:
        return STOP in line.recv(16)
    except OSError:  # no command was sent; the signal came from elsewhere
        return False
