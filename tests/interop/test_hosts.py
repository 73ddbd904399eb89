"""One unchanged application under our server and under common ASGI servers.

Each server is a process on a Unix socket. docs/asgi.md documents the differences between them.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import trio

from tests.support.serving import guard
from trio_ws import (
    ConnectionClosedError,
    HandshakeRejectedError,
    Options,
    RPCError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    WebSocket,
    WebSocketClient,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
OURS = """
import importlib, sys, trio, trio_ws
module, _, name = sys.argv[2].partition(":")
app = getattr(importlib.import_module(module), name)
async def main():
    with trio_ws.cancel_on_signals():
        await trio_ws.serve(app, 0, unix_path=sys.argv[1])
trio.run(main)
"""


class Host(NamedTuple):
    """How a host is started, and how it differs from others.

    Attributes:
        needs: the module that it is.
        command: arguments of Python, without the application; ``{socket}`` stands for the Unix socket's path.
        prefix: where the application is.
        tells_close_code: the handler sees what a client closed with.
        sends_close_code: the client sees what the handler closed with.
        tells_body: of a rejection.
        bounded: it holds up a sender whose client does not read.
        runs_lifespan: it runs the application's lifespan.
    """

    needs: str
    command: list[str]
    prefix: str = ""
    tells_close_code: bool = True
    sends_close_code: bool = True
    tells_body: bool = True
    bounded: bool = True
    runs_lifespan: bool = True


HOSTS = {
    "ours": Host("trio", ["-c", OURS, "{socket}"]),
    "hypercorn on trio": Host(
        "hypercorn", ["-m", "hypercorn", "-k", "trio", "--bind", "unix:{socket}"], tells_close_code=False
    ),
    "hypercorn on asyncio": Host(
        "hypercorn", ["-m", "hypercorn", "-k", "asyncio", "--bind", "unix:{socket}"],
        tells_close_code=False,
    ),
    "uvicorn": Host("uvicorn", ["-m", "uvicorn", "--uds", "{socket}"]),
    "uvicorn with wsproto": Host("uvicorn", ["-m", "uvicorn", "--ws", "wsproto", "--uds", "{socket}"]),
    "granian": Host("granian", ["-m", "granian", "--interface", "asgi", "--uds", "{socket}"]),
    "granian by RSGI": Host(
        "granian", ["-m", "granian", "--interface", "rsgi", "--uds", "{socket}"],
        tells_close_code=False, sends_close_code=False, tells_body=False,
    ),
    "FastAPI under uvicorn": Host(
        "fastapi", ["-m", "uvicorn", "--uds", "{socket}"], "/ws"
    ),
    "daphne": Host(
        "daphne", ["-m", "daphne", "-u", "{socket}"], tells_body=False, bounded=False, runs_lifespan=False
    ),
}  # fmt: skip


class Running:
    """A running host."""

    def __init__(self, host: Host, socket: Path, process: subprocess.Popen[str]) -> None:
        self.host = host
        self.socket = str(socket)
        self.process = process
        self.uri = f"ws://localhost{host.prefix}"

    def connect(self, path: str, **more: Any) -> Any:
        return connect(self.uri + path, unix_path=self.socket, **more)

    def client(self, path: str = "/rpc", **more: Any) -> WebSocketClient:
        return WebSocketClient(self.uri + path, unix_path=self.socket, **more)

    async def get(self, path: str, body: bytes | None = None) -> Any:
        transport = httpx.AsyncHTTPTransport(uds=self.socket)
        async with httpx.AsyncClient(transport=transport) as client:
            method = "GET" if body is None else "POST"
            answer = await client.request(method, f"http://localhost{path}", content=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

    async def state(self, body: bytes | None = None) -> Any:
        return await self.get(self.host.prefix + "/state", body)

    async def until(self, **wanted: Any) -> None:
        """Wait until the application has this state."""
        while not wanted.items() <= (await self.state()).items():
            await trio.sleep(0.02)


@asynccontextmanager
async def running(name: str, folder: Path, module: str = "hosted_app") -> AsyncIterator[Running]:
    host = HOSTS[name]
    if importlib.util.find_spec(host.needs) is None:
        pytest.skip(f"{host.needs} is not installed; the extra `test` has it")
    if name == "hypercorn on asyncio" and sys.version_info >= (3, 12):
        pytest.skip("hypercorn 0.18 on asyncio does not end on SIGTERM from Python 3.12 on")
    socket, log = folder / "s", folder / "log"
    with log.open("w") as output, trio.fail_after(4 * guard()):
        command = [one.replace("{socket}", str(socket)) if "{socket}" in one else one for one in host.command]
        command.append(f"tests.support.{module}:{'mounted_app' if host.prefix else 'app'}")
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
            [sys.executable, *command],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TRIO_WS_TEST_MOUNTED": "yes" if host.prefix else "",
            },
            start_new_session=True,  # to end a host together with its workers
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        try:
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    await trio.aclose_forcefully(await trio.open_unix_socket(str(socket)))
                    break
                except OSError:
                    await trio.sleep(0.02)
            one = Running(host, socket, process)
            yield one
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                await trio.to_thread.run_sync(process.wait)
        except BaseException:
            sys.stderr.write(log.read_text()[-5000:])
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if module == "hosted_app":
            assert log.read_text().count("entered\n") == 1
            assert log.read_text().count("left\n") == 1
        # Hosts may log errors about tasks that they have cancelled.
        assert f"{ROOT}/trio_ws" not in log.read_text(), log.read_text()


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.runs_lifespan])
async def test_one_application_under_each(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path) as server:
        await messages(server)
        await rejections_and_closes(server)
        await calls(server)
        await channels(server)
        await requests(server)
        if server.host.prefix:
            assert await server.get("/api") == {"from": "fastapi"}
        await drain(server)


async def messages(server: Running) -> None:
    ws: WebSocket
    async with server.connect("/echo") as ws:
        for message in ("hä", "", "x" * 70_000):
            await ws.send(message)
            assert await ws.receive_text() == message
        for blob in (b"\x00", b"y" * 300_000):
            await ws.send(blob)
            assert await ws.receive_bytes() == blob
        for i in range(100):
            await ws.send(str(i))
        assert [await ws.receive_text() for _ in range(100)] == [str(i) for i in range(100)]
        await ws.close(4003, "bye")
        assert ws.close_code == 4003
    while not (found := (await server.state())["closed_with"]):
        await trio.sleep(0.02)
    if server.host.tells_close_code:
        assert found == [4003]


async def rejections_and_closes(server: Running) -> None:
    with pytest.raises(HandshakeRejectedError) as caught:
        async with server.connect("/reject"):
            pass
    assert caught.value.status == 401
    if server.host.tells_body:
        assert caught.value.body == b"show your badge"
    with pytest.raises(HandshakeRejectedError) as caught:
        async with server.connect("/nowhere"):
            pass
    assert caught.value.status == 404
    ws: WebSocket
    async with server.connect("/close") as ws:
        with pytest.raises(ConnectionClosedError):
            await ws.receive_text()
        if server.host.sends_close_code:
            assert ws.close_code == 4001


async def calls(server: Running) -> None:
    async with server.client() as client:
        assert await client.call("add", 1, 2) == 3
        with trio.move_on_after(0.1) as scope:
            await client.call("hang")
        assert scope.cancelled_caught
        await server.until(cancelled=1)
        async with client.stream("count", 1000, items=int) as numbers:
            assert [number async for number in numbers] == list(range(1000))
        # An operation that is not possible raises an error instead of hanging.
        assert "asyncio" in await client.call("sleep_in_asyncio")
        assert await client.call("add", 2, 2) == 4


async def channels(server: Running) -> None:
    async with server.client() as listener, server.client() as speaker:
        await listener.call("join")
        await speaker.call("announce", "hello")
        packet = await listener.recv()
        assert packet is not None
        assert packet.data == "hello"


async def requests(server: Running) -> None:
    assert (await server.state(b"z" * 60_000))["body"] == 60_000


async def drain(server: Running) -> None:
    ws: WebSocket
    async with server.connect("/echo") as ws:
        await ws.send("there")
        assert await ws.receive_text() == "there"
        server.process.send_signal(signal.SIGTERM)
        try:
            assert await ws.recv() is None
        except ConnectionClosedError as exc:
            assert exc.code in (1001, 1006, 1012)
    await trio.to_thread.run_sync(server.process.wait)


@pytest.mark.parametrize("name", [name for name, host in HOSTS.items() if host.bounded])
async def test_a_client_that_does_not_read_holds_up_the_handler(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path) as server:
        options = Options(max_queue_bytes=65536, ping_interval=None)
        async with server.connect("/pour", options=options):
            while not (await server.state())["poured"]:
                await trio.sleep(0.05)


@pytest.mark.parametrize("name", HOSTS)
async def test_the_chat_of_the_tutorial_and_the_calculator_under_each(name: str, tmp_path: Path) -> None:
    async with running(name, tmp_path, "hosted_examples") as server:
        await chat(server)
        await calculator(server)
        async with server.client("/rooms/cats?name=ada") as ada:
            server.process.send_signal(signal.SIGTERM)
            with suppress(ConnectionClosedError):
                assert await ada.recv() is None
        await trio.to_thread.run_sync(server.process.wait)


async def chat(server: Running) -> None:
    async with server.client("/rooms/cats?name=ada") as ada, server.client("/rooms/cats?name=bob") as bob:
        assert await ada.call("say", "meow") == 2
        for client in (ada, bob):
            packet = await client.recv()
            assert packet is not None
            assert (packet.channel, packet.data) == ("cats", {"name": "ada", "text": "meow"})
        with pytest.raises(RPCInvalidParamsError, match="text"):
            await ada.call("say", "")
        for _ in range(3):
            await ada.call("say", "purr")
        with pytest.raises(RPCError, match="rate limit of say exceeded"):
            await ada.call("say", "purr")
        assert len(await bob.call("last")) == 4
    for path, status, body in (
        ("/rooms/birds?name=ada", 404, b"there is no such room\n"),
        ("/rooms/cats", 400, b"say who you are: ?name=ada\n"),
    ):
        with pytest.raises(HandshakeRejectedError) as rejected:
            async with server.client(path):
                pass
        if server.host.tells_body:
            assert (rejected.value.status, rejected.value.body) == (status, body)
        else:
            assert rejected.value.status == (403 if server.host.needs == "daphne" else status)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=server.socket)) as browser:
        page = await browser.get(f"http://localhost{server.host.prefix}/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "<html" in page.text
        script = await browser.get(f"http://localhost{server.host.prefix}/trio-ws.js")
        assert "javascript" in script.headers["content-type"]


async def calculator(server: Running) -> None:
    async with server.client("/calculator") as client:
        assert await client.call("add", 20, 22, returns=int) == 42
        assert await client.call("divide", a=1, b=4) == 0.25
        with trio.move_on_after(0.001):
            await client.call("divide", 1, 3)
        async with client.stream("count_to", 1000, items=int) as numbers:
            assert [number async for number in numbers] == list(range(1, 1001))
        async with client.stream("count_to", 10**9, items=int) as numbers:
            async for number in numbers:
                if number == 100:
                    break
        with pytest.raises(RPCError, match="nothing can be divided by zero"):
            await client.call("divide", 1, 0)
        with pytest.raises(RPCMethodNotFoundError):
            await client.call("power", 2, 3)
        with pytest.raises(RPCInvalidParamsError):
            await client.call("add", 1, "two")
