"""The peers of the interop tests, and how their processes are started and ended."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Peer:
    """One library, and its features.

    Attributes:
        module: its script in peers/.
        library: what has to be installed.
        deflate: it compresses.
        fragments: it can send a message in fragments.
        echoes_code: it answers a Close with the code that it got (RFC 6455 section 5.5.1), and not with 1000.
        answers_close: its server answers every Close. That of websockets.trio 17.4 at times ends TCP instead:
            on a busy machine a quarter of the closings of a bare socket got no answer.
    """

    module: str
    library: str
    deflate: bool
    fragments: bool
    echoes_code: bool = True
    answers_close: bool = True

    def command(self, *arguments: str) -> list[str]:
        """The command line of its process."""
        return [sys.executable, "-m", f"tests.interop.peers.{self.module}", *arguments]


PEERS = [
    Peer("websockets_asyncio", "websockets", deflate=True, fragments=True),
    Peer("websockets_trio", "websockets.trio.server", deflate=True, fragments=True, answers_close=False),
    Peer("trio_websocket", "trio_websocket", deflate=False, fragments=False),
    Peer("aiohttp", "aiohttp", deflate=True, fragments=False, echoes_code=False),
    Peer("picows", "picows", deflate=False, fragments=True),
    Peer("picows_websockets", "picows.websockets", deflate=True, fragments=True),
]


async def run_client(peer: Peer, url: str, compression: str) -> dict[str, Any]:
    """Run a peer's client against ``url``, and return its report. If cancelled, the client is killed."""
    done = await trio.run_process(peer.command("client", url, compression), capture_stdout=True, cwd=ROOT)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def run_server(peer: Peer) -> Iterator[str]:
    """Run a peer's server for the duration of a block, and yield its URL."""
    command = peer.command("server")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"{peer.module} did not start"
            yield f"ws://127.0.0.1:{json.loads(line)}"
        finally:
            # It would exit at the end of its stdin, but killing it is faster.
            process.kill()
