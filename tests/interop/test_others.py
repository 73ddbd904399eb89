"""Servers and clients in other languages: packages of Debian and npm, and two Go libraries.

Tests of programs that are not installed are skipped. CI installs all of them, see .ci/run: npm's packages, in
the versions of peers/package.json, and the compiled Go program are in .cache/peers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.daemons import said_port, taking_a_port
from tests.support.inspect import deflate_of
from tests.support.npm import CACHE, node, npm_package
from tests.support.serving import echo, guard, serving
from trio_ws import (
    App,
    ClientConnection,
    Compression,
    ConnectionFailedError,
    HandshakeRejectedError,
    HTTPResponse,
    Options,
    RPCError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    connect,
    rpc_method,
)

if TYPE_CHECKING:
    from trio_ws import WebSocket

HERE = Path(__file__).parent

#: The second message of each pair repeats the first at a larger distance than a small window.
FAR = bytes((i * i >> 3 ^ i >> 8) & 255 for i in range(20_000))
MESSAGES = [FAR, FAR, b"short", b"ab" * 30_000, b""]


def program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; on Debian: apt-get install {package}")
    return found


async def talks(url: str, options: Options) -> WebSocket:
    """Send and receive, and return the connection with its negotiated parameters."""
    with trio.fail_after(guard()):
        async with connect(url, options=options) as ws:
            for message in MESSAGES:
                await ws.send(message)
                assert await ws.receive_bytes() == message
            await ws.send("text " * 200)
            assert await ws.receive_text() == "text " * 200
            await ws.ping()
    assert ws.close_code == 1000
    return ws


# -- Debian packages --------------------------------------------------------------------------------


class Downloads(WebSocketHandler[Any]):
    """The methods that aria2 calls."""

    def __init__(self) -> None:
        super().__init__()
        self.done = trio.Event()
        self.begun: list[str] = []

    @rpc_method("aria2.onDownloadStart")
    def begin(self, connection: ClientConnection[Any], event: dict[str, str]) -> None:
        self.begun.append(event["gid"])

    @rpc_method("aria2.onDownloadComplete")
    def complete(self, connection: ClientConnection[Any], event: dict[str, str]) -> None:
        self.done.set()


async def test_aria2(tmp_path: Path) -> None:
    """JSON-RPC without a subprotocol, with its own codes and notifications."""
    aria2c = program("aria2c", "aria2")
    files = App()

    @files.http("/file")
    async def file(request: Any) -> HTTPResponse:
        return HTTPResponse(200, [("Content-Type", "text/plain")], b"hello")

    def command(port: int) -> list[str]:
        options = ["--enable-rpc", f"--rpc-listen-port={port}", "--rpc-secret=s3cret", "--no-conf", "--quiet"]
        return [aria2c, *options, f"--dir={tmp_path}", "--check-certificate=false"]

    with trio.fail_after(guard()):
        async with taking_a_port(command) as port, serving(files) as server:
            handler = Downloads()
            url = f"ws://127.0.0.1:{port}/jsonrpc"
            async with WebSocketClient(url, dialect="jsonrpc", handler=handler, proxy=None) as client:
                token = "token:s3cret"
                assert "version" in await client.call("aria2.getVersion", token)
                for wrong in (client.call("nobody"), client.call("aria2.tellStatus", token, "ffff")):
                    with pytest.raises(RPCError) as info:
                        await wrong
                    assert (type(info.value), info.value.code) == (RPCError, 1)
                address = f"http://127.0.0.1:{server.port}/file"
                gid = await client.call("aria2.addUri", token, [address], returns=str)
                await handler.done.wait()
                assert handler.begun == [gid]
                assert (tmp_path / "file").read_text(encoding="ascii") == "hello"
            with pytest.raises(HandshakeRejectedError) as refused:
                async with connect(f"ws://127.0.0.1:{port}/other", proxy=None):
                    pytest.fail("aria2 serves one path")
            assert refused.value.status == 404


async def test_websocketd() -> None:
    websocketd = program("websocketd", "websocketd")
    with trio.fail_after(guard()):
        async with taking_a_port(
            lambda port: [websocketd, f"--port={port}", "--address=127.0.0.1", "cat"]
        ) as port:
            async with connect(f"ws://127.0.0.1:{port}/", options=Options(compression=True)) as ws:
                for line in ("hello", "ü" * 1000):
                    await ws.send(line)
                    assert await ws.receive_text() == line
            assert ws.close_code == 1000


@pytest.mark.parametrize("compression", [False, True])
async def test_libwebsockets(compression: bool) -> None:
    lws = program("libwebsockets-test-server", "libwebsockets-test-server")
    options = Options(compression=compression)
    with trio.fail_after(guard()):
        async with taking_a_port(lambda port: [lws, f"--port={port}", "-i", "lo"]) as port:
            url = f"ws://127.0.0.1:{port}/"
            async with connect(url, subprotocols=["lws-mirror-protocol"], options=options) as ws:
                await ws.send("hello " * 100)
                assert await ws.receive_text() == "hello " * 100
                await ws.ping()
            assert ws.close_code == 1000
            async with connect(url, subprotocols=["dumb-increment-protocol"], options=options) as ws:
                assert [await ws.receive_text() for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(ConnectionFailedError, match="without a handshake response"):
                async with connect(url, subprotocols=["nobody"], options=options):
                    pytest.fail("it knows no such subprotocol")


# -- Go libraries -----------------------------------------------------------------------------------

WISHES = {
    "default": Compression(threshold=0),
    "small": Compression(server_max_window_bits=9, client_max_window_bits=9),
    "large": Compression(server_max_window_bits=15, client_max_window_bits=15),
    "forgetful": Compression(server_no_context_takeover=True, client_no_context_takeover=True),
}


@pytest.fixture(scope="module")
def go_peer() -> str:
    """The compiled peer of peers/deflate.go."""
    compiled, source = CACHE / "deflate", HERE / "peers" / "deflate.go"
    if not compiled.exists() or compiled.stat().st_mtime < source.stat().st_mtime:
        go = program("go", "golang-go golang-github-gorilla-websocket-dev golang-nhooyr-websocket-dev")
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [go, "build", "-o", compiled, source],
            env={
                **os.environ,
                "GO111MODULE": "off",
                "GOPATH": "/usr/share/gocode",
                "GOCACHE": str(CACHE.parent / "go"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"deflate.go does not compile here: {done.stderr[-300:]}")
    return str(compiled)


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("library", ["gorilla", "nhooyr"])
async def test_a_go_server(go_peer: str, library: str, wish: Compression) -> None:
    with said_port([go_peer, "server", library]) as port:
        if (library, wish) == ("nhooyr", WISHES["small"]):
            # It evaluates only the first offer. Therefore the default offer does not request a server window.
            with pytest.raises(HandshakeRejectedError) as info:
                await talks(f"ws://127.0.0.1:{port}/", Options(compression=wish))
            assert (info.value.status, b"server_max_window_bits=9" in info.value.body) == (400, True)
            return
        ws = await talks(f"ws://127.0.0.1:{port}/", Options(compression=wish))
    assert deflate_of(ws) is not None


@pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)
@pytest.mark.parametrize("library", ["gorilla", "nhooyr"])
async def test_a_go_client(go_peer: str, library: str, wish: Compression) -> None:
    agreed: list[bool] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        agreed.append(deflate_of(ws) is not None)
        await echo(ws)

    async with serving(handler, options=Options(compression=wish)) as server:
        done = await trio.run_process([go_peer, "client", library, server.url], capture_stdout=True)
    assert (done.stdout, agreed) == (b"same\n", [True])


# -- npm packages -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_peer() -> list[str]:
    for name in ("jayson", "rpc-websockets", "ws"):
        npm_package(name)
    return [node(), str(HERE / "peers" / "node_peers.mjs"), str(CACHE)]


#: Values for the option perMessageDeflate of ws.
DEFLATES = [
    "true",
    '{"threshold": 0}',
    '{"serverNoContextTakeover": true, "clientNoContextTakeover": true, "threshold": 0}',
    '{"serverMaxWindowBits": 10, "clientMaxWindowBits": 10, "threshold": 0}',
    '{"serverMaxWindowBits": 15, "clientMaxWindowBits": 15, "threshold": 0}',
    '{"clientMaxWindowBits": 9, "serverNoContextTakeover": false, "threshold": 0}',
    '{"serverNoContextTakeover": false, "clientNoContextTakeover": false, "threshold": 0}',
]


@pytest.mark.parametrize("deflate", ["false", *DEFLATES])
async def test_a_server_of_ws(node_peer: list[str], deflate: str) -> None:
    with said_port([*node_peer[:3], "server", "ws", deflate]) as port:
        for wish in WISHES.values():
            ws = await talks(f"ws://127.0.0.1:{port}/", Options(compression=wish))
            assert (deflate_of(ws) is not None) is (deflate != "false")


@pytest.mark.parametrize("deflate", ["false", *DEFLATES[1:]])
async def test_a_client_of_ws(node_peer: list[str], deflate: str) -> None:
    async with serving(echo, options=Options(compression=True)) as server:
        command = [*node_peer, "client", "ws", deflate, server.url]
        done = await trio.run_process(command, capture_stdout=True)
    seen = json.loads(done.stdout)
    assert (seen["same"], seen["code"]) == ([True] * 5, 1000)
    assert ("permessage-deflate" in seen["extensions"]) is (deflate != "false")


@pytest.mark.parametrize("library", ["rpc-websockets", "jayson"])
async def test_a_server_of_json_rpc(node_peer: list[str], library: str) -> None:
    with said_port([*node_peer, "server", library]) as port, trio.fail_after(guard()):
        url = f"ws://127.0.0.1:{port}/"
        async with WebSocketClient(url, dialect="jsonrpc") as client:
            assert client.dialect == "jsonrpc"
            assert await client.call("add", 1, 2, returns=int) == 3
            with pytest.raises(RPCMethodNotFoundError):
                await client.call("nobody")
            with pytest.raises(RPCError) as info:
                await client.call("fail")
            assert (type(info.value), info.value.code) == (RPCError, -32000)
            if library == "rpc-websockets":
                async with client.notifications("news", items=list[str]) as news:
                    assert await client.call("rpc.on", "news") == {"news": "ok"}
                    assert await client.call("publish", "hello") is True
                    assert await news.receive() == ["hello"]
            async with client.batch() as batch:
                sums = [batch.call("add", number, 1, returns=int) for number in range(3)]
            assert [one.result() for one in sums] == [1, 2, 3]
            await client.notify("add", 1, 2)
            assert await client.call("add", 1, 2) == 3


class Calculator(WebSocketHandler[Any]):
    @rpc_method()
    def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b


@pytest.mark.parametrize("library", ["rpc-websockets", "jayson"])
async def test_a_client_of_json_rpc(node_peer: list[str], library: str) -> None:
    async with serving(Calculator) as server:
        command = [*node_peer, "client", library, server.url]
        done = await trio.run_process(command, capture_stdout=True)
    assert json.loads(done.stdout) == {"add": 3, "named": 2, "error": -32601}
