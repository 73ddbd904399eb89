"""record: write the messages between clients and a server to a file, until a signal ends it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

import trio_ws
from trio_ws.cli.errors import OK, USAGE, Failure
from trio_ws.cli.server import announce
from trio_ws.testing.recording import Recorder

if TYPE_CHECKING:
    from trio_ws.cli.output import Output
    from trio_ws.cli.target import ServerTarget
    from trio_ws.client.config import ConnectSettings

__all__ = ["record"]

#: It passes on everything that the two could send to each other directly. The hosts are those of the address
#: that it listens on: a page that uses DNS rebinding must not connect with the headers of the command.
_OPTIONS = trio_ws.Options(
    max_message_size=256 * 1024 * 1024, hosts=("localhost", "*.localhost", "127.0.0.1")
)


async def record(place: ServerTarget, path: str, port: int, out: Output) -> int:
    """Listen for clients, and pass on all messages between them and the server, until SIGTERM or Ctrl+C.

    Raises:
        Failure: the file exists or cannot be made, or the port cannot be had.
    """
    settings: ConnectSettings = {**place.settings(), "options": _OPTIONS}
    try:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        recorder = Recorder(place.url, path, None, settings)
    except FileExistsError as exc:
        raise Failure(f"{path} exists already; name another file", USAGE) from exc
    except OSError as exc:
        raise Failure(str(exc), USAGE) from exc
    number = listeners[0].socket.getsockname()[1]
    try:
        with trio_ws.cancel_on_signals(signal.SIGINT, signal.SIGTERM):
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, recorder.relay, listeners)
                announce(out, place.url, f"ws://127.0.0.1:{number}/", file=path)
    finally:
        recorder.close()
    return OK
