"""Chromium's WebSocket, from a page, with our server: conversations, and the origin rule of real browsers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import trio

from tests.support.chromium import CHROMIUM, FLAGS, environment
from tests.support.serving import guard, serving
from trio_ws import CloseFrame, ConnectionClosedError, HandshakeRejectedError, Options, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio_ws import WebSocket

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="neither Chromium nor Chrome is installed")

SIZES = (0, 1, 125, 126, 65535, 65536, 1024 * 1024)
PARTS = ["frag", "", "mented € ", "text"]


class PageHandler(SimpleHTTPRequestHandler):
    """Serves the files in this folder, without logging."""

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """Serve page.html over HTTP at 127.0.0.1, and yield the port."""
    handler = partial(PageHandler, directory=str(Path(__file__).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def browsing(url: str, home: Path) -> Iterator[None]:
    """Run Chromium with this URL. All its processes are one group, which is killed."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={home / 'profile'}", url]
    with (
        (home / "chromium.log").open("wb") as log,
        environment() as env,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=env) as process,
    ):
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def reporting(**kwargs: Any) -> AsyncIterator[tuple[str, trio.MemoryReceiveChannel[Any]]]:
    """Run a server for reports, and yield its URL and the reports."""
    put, reports = trio.open_memory_channel[Any](1)

    async def take(ws: WebSocket) -> None:
        await put.send(await ws.receive_json())

    async with serving(take, **kwargs) as server:
        yield server.url, reports


def address(port: int, *, host: str = "127.0.0.1", **parameters: str) -> str:
    return f"http://{host}:{port}/page.html?{urlencode(parameters)}"


@pytest.mark.parametrize("compression", [False, True])
async def test_a_page_and_our_server(page: int, tmp_path: Path, compression: bool) -> None:
    ends: dict[str, Any] = {}

    async def target(ws: WebSocket) -> None:
        if ws.path == "/reject":
            await ws.reject(403)
        elif ws.path == "/echo":
            async for message in ws:
                await ws.send(message)
        elif ws.path == "/fragments":
            await ws.accept()

            async def parts() -> AsyncIterator[str]:
                for part in PARTS:
                    yield part

            await ws.send(parts())
            assert await ws.recv() is None
        elif ws.path == "/ping":
            await ws.accept()
            assert await ws.ping(b"are you there?") < guard()
            await ws.send("the pong came")
            assert await ws.recv() is None
        elif ws.path == "/close":
            await ws.accept()
            await ws.close(4001, "the server says goodbye")
            ends["close"] = ws.close_received
        elif ws.path == "/record":
            with pytest.raises(ConnectionClosedError):
                await ws.recv()
            ends["record"] = ws.close_received

    topics = "messages,many,extensions,fragments,is_pinged,server_closes,client_closes,subprotocol,rejected"
    options = Options(compression=compression)
    async with (
        reporting() as (report, reports),
        serving(target, subprotocols=["chat.v1"], options=options, debug=True) as server,
    ):
        # Page and server differ only in their ports, which the default origin rule accepts.
        url = address(page, server=server.url, report=report, topics=topics)
        with browsing(url, tmp_path):
            seen = await reports.receive()
    sizes = [f"{kind} {size}" for size in SIZES for kind in ("text", "binary")]
    assert seen == {
        "messages": [[*sizes, "blob"], 1005, "", True],
        "many": 200,
        "extensions": "permessage-deflate" if compression else "",
        "fragments": "".join(PARTS),
        "is_pinged": "the pong came",
        "server_closes": [4001, "the server says goodbye", True],
        "client_closes": [4002, "", True],
        "subprotocol": "chat.v1",
        # A page cannot read the status of a rejection.
        "rejected": ["refused", 1006, "", False],
    }
    assert ends == {
        "close": CloseFrame(4001, "the server says goodbye"),
        "record": CloseFrame(4002, "la page s'en va à l'été"),
    }


async def test_a_page_from_elsewhere_is_refused_unless_named(
    page: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    origin = f"http://localhost:{page}"
    # Only the server for reports allows this origin, so the report itself shows that allowing it works.
    async with (
        reporting(options=Options(origins=[origin])) as (report, reports),
        serving() as server,
    ):
        url = address(page, host="localhost", server=server.url, report=report, topics="origin")
        with caplog.at_level(logging.WARNING, "trio_ws"), browsing(url, tmp_path):
            seen = await reports.receive()
        assert seen == {"origin": ["refused", 1006]}
        (record,) = caplog.records
        assert f"Options(origins=['{origin}'])" in record.getMessage()
        # Pages cannot read the status of a rejection, but any other client can.
        with pytest.raises(HandshakeRejectedError) as refused:
            async with connect(server.url, headers={"Origin": origin}):
                pytest.fail("let in")
    assert refused.value.status == 403
