"""A server in its own process, with its memory use and a check that it still serves.

Invariants: the process exits with the block, and if this process exits.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.adversary.hostile import opening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["ATTACKER", "INNOCENT", "MIB", "Probe", "Target", "dial", "probing", "running", "upgrade"]

ATTACKER, INNOCENT = "127.0.0.1", "127.0.0.2"
MIB = 1024 * 1024
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_PATIENCE = 30.0


def environment(product: Path) -> dict[str, str]:
    """Return the environment of a process that imports trio_ws from this folder."""
    path = os.pathsep.join(
        [str(Path(product).resolve()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@dataclass
class Target:
    """A running server.

    Attributes:
        port: its port on 127.0.0.1.
        process: its process.
        log: the file of its log.
    """

    port: int
    process: trio.Process
    log: Path
    _lines: trio.abc.ReceiveStream
    _buffer: bytearray

    @property
    def rss(self) -> float:
        """Bytes of resident memory; infinite if the process has exited."""
        try:
            status = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()
        except OSError:
            return math.inf
        return float(int(status[1]) * os.sysconf("SC_PAGE_SIZE")) if self.process.poll() is None else math.inf

    @property
    def descriptors(self) -> int:
        """The number of open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def held(self, seconds: float) -> float:
        """Return the least memory within some seconds, to exclude memory that is used only for a moment."""
        least = self.rss
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            await trio.sleep(0.05)
            least = min(least, self.rss)
        return least

    async def ask(self, question: str) -> Any:
        """Return the answer of target.py to a question."""
        assert isinstance(self.process.stdin, trio.abc.SendStream)
        await self.process.stdin.send_all(question.encode() + b"\n")
        return json.loads(await self.line())

    async def line(self) -> str:
        """Return the next line of its stdout."""
        while b"\n" not in self._buffer:
            data = await self._lines.receive_some()
            if not data:
                raise RuntimeError(f"the server ended: {self.log.read_text(encoding='utf-8')[-3000:]}")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line.decode()

    async def serves(self, path: str = "/", *, tls: bool = False) -> bool:
        """Whether a new client from another address can connect."""
        with trio.move_on_after(_PATIENCE):
            try:
                stream = await dial(self.port, INNOCENT, tls=tls)
                async with stream:
                    return await upgrade(stream, opening(path))
            except (OSError, trio.BrokenResourceError):
                return False
        return False


@asynccontextmanager
async def running(
    kind: str, *, product: str | None = None, traced: bool = False, program: str = "target.py"
) -> AsyncIterator[Target]:
    """Run a server of target.py for the duration of a block."""
    folder = Path(product or _ROOT)
    handle, name = tempfile.mkstemp(suffix=".log")
    command = [sys.executable, str(_HERE / program), kind, *(["--traced"] if traced else [])]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=handle, env=environment(folder)
    )
    os.close(handle)
    try:
        assert process.stdout is not None
        target = Target(0, process, Path(name), process.stdout, bytearray())
        with trio.fail_after(_PATIENCE):
            port, _, module = (await target.line()).partition(" ")
        assert Path(module).is_relative_to(folder), f"{module} is not of {folder}"
        target.port = int(port)
        yield target
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.unlink(name)  # noqa: PTH108 - local and instant


async def dial(port: int, source: str = ATTACKER, *, tls: bool = False) -> trio.abc.Stream:
    """Connect from this address, and return the stream before any data."""
    sock = trio.socket.socket()
    try:
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    stream = trio.SocketStream(sock)
    if not tls:
        return stream
    import ssl  # noqa: PLC0415 - of this branch alone

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = trio.SSLStream(stream, context, https_compatible=True)
    try:
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure


async def upgrade(stream: trio.abc.Stream, request: bytes) -> bool:
    """Send an opening request, read the head of the response, and return whether it is a 101."""
    await stream.send_all(request)
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some(65536)
        if not data:
            return False
        head += data
    return b" 101 " in head.split(b"\r\n")[0]


@dataclass
class Probe:
    """The result of probe.py: the longest time until a pong in seconds, and the number of pongs."""

    worst: float = math.inf
    count: int = 0


@asynccontextmanager
async def probing(port: int, *, path: str = "/", tls: bool = False) -> AsyncIterator[Probe]:
    """Run probe.py for the duration of a block. The result is set at its end."""
    command = [sys.executable, str(_HERE / "probe.py"), str(port), "tls" if tls else "plain", path]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    result = Probe()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.fail_after(_PATIENCE):
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
        yield result
        await process.stdin.aclose()
        with trio.move_on_after(2 * _PATIENCE):
            async for piece in process.stdout:
                said += piece
        if len(lines := said.splitlines()) > 1:
            result.worst, result.count = json.loads(lines[1])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
