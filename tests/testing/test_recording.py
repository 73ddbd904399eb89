"""Sessions that are recorded with one server, and replayed by another in virtual time."""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import trio_ws
from tests.support.serving import serving
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
    WebSocketMessage,
    rpc_method,
)
from trio_ws.testing import mask_secrets, record, replay

if TYPE_CHECKING:
    from pathlib import Path

QUICK = Backoff(initial=0.01, factor=1, jitter=False)


class Exchange:
    """Requires a login, sends three prices, and closes. It rejects the third connection."""

    def __init__(self) -> None:
        self.connections = 0
        self.logins: list[Any] = []

    async def __call__(self, ws: WebSocket) -> None:
        self.connections += 1
        if self.connections == 3:
            await ws.reject(429, [("Retry-After", "3600")], "too many")
            return
        await ws.accept()
        self.logins.append((await ws.receive_json(), ws.headers["Authorization"]))
        await ws.send(WebSocketMessage.ping(b"are you there"))
        for price in range(3):
            await ws.send_json({"price": price + 10 * self.connections})
            await trio.sleep(0.02)
        await ws.send(b"\x00\xff")
        await ws.close(1001, "maintenance")


async def log_in(ws: WebSocket) -> None:
    await ws.send_json({"op": "login", "access_token": "very secret", "user": "ada"})


async def follow(url: str, stream: Any, *, headers: Any = None) -> list[Any]:
    found: list[Any] = []
    async with trio_ws.session(
        url,
        stream=stream,
        on_connection=log_in,
        reconnect=QUICK,
        headers=headers or {"Authorization": "Bearer very secret", "X-Plain": "shown"},
    ) as feed:
        async for message in feed:
            found.append(message.payload)
            if len(found) == 8:
                break
    return found


async def test_a_session_is_recorded_without_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    exchange = Exchange()
    async with serving(exchange) as server:
        url = f"{server.url}/feed?api_key=very-secret&depth=5"
        async with record(url, path) as stream:
            found = await follow(url, stream)
    assert exchange.logins[0] == (
        {"op": "login", "access_token": "very secret", "user": "ada"},
        "Bearer very secret",
    )
    assert found[:5] == ['{"price":10}', '{"price":11}', '{"price":12}', b"\x00\xff", '{"price":20}']
    text = path.read_text(encoding="utf-8")
    assert not re.search("very.secret", text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    head, *events = [json.loads(line) for line in text.splitlines()]
    assert head["url"].endswith("/feed?api_key=***&depth=5")
    first = [event for event in events if event["connection"] == 1]
    assert [(event["side"], event["kind"]) for event in first] == [
        ("client", "open"),
        ("server", "accept"),
        ("client", "text"),
        ("server", "ping"),
        *[("server", "text")] * 3,
        ("server", "binary"),
        ("server", "close"),
    ]
    assert json.loads(first[2]["data"]) == {"op": "login", "access_token": "***", "user": "ada"}
    assert ["X-Plain", "shown"] in first[0]["headers"]
    assert ["Authorization", "***"] in first[0]["headers"]
    assert (first[-1]["code"], first[-1]["data"]) == (1001, "maintenance")
    times = [event["time"] for event in events]
    assert times == sorted(times)
    with pytest.raises(FileExistsError):
        async with record(url, path):
            pytest.fail("it would be overwritten")


RECORDING = [
    {"recording": "trio-ws", "url": "ws://feed.example/"},
    {"time": 0.0, "connection": 1, "side": "client", "kind": "open", "data": "/"},
    {"time": 1.0, "connection": 1, "side": "server", "kind": "accept"},
    {"time": 1.5, "connection": 1, "side": "client", "kind": "text", "data": '{"login":{"token":"***"}}'},
    {"time": 3.5, "connection": 1, "side": "server", "kind": "text", "data": "one"},
    {"time": 3.5, "connection": 1, "side": "server", "kind": "ping", "data": "AA=="},
    {"time": 1003.5, "connection": 1, "side": "server", "kind": "text", "data": "two"},
    {"time": 1003.5, "connection": 1, "side": "server", "kind": "lost"},
    {"time": 1004.0, "connection": 2, "side": "client", "kind": "open", "data": "/"},
    {"time": 1004.0, "connection": 2, "side": "server", "kind": "reject", "code": 429, "data": "no"},
    {"time": 1005.0, "connection": 3, "side": "client", "kind": "open", "data": "/"},
    {"time": 1005.0, "connection": 3, "side": "server", "kind": "accept"},
    {"time": 1006.0, "connection": 3, "side": "client", "kind": "text", "data": '{"login":{"token":"***"}}'},
    {"time": 1006.0, "connection": 3, "side": "server", "kind": "binary", "data": "AAE="},
    {"time": 1007.0, "connection": 3, "side": "server", "kind": "close", "code": 4000, "data": "end"},
]


def write(path: Path, lines: list[Any] = RECORDING) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


async def test_a_recording_is_played_in_virtual_time(tmp_path: Path, autojump_clock: object) -> None:
    async def tell(ws: WebSocket) -> None:
        await ws.send_json({"login": {"token": "another one"}})

    steady = Backoff(initial=1, factor=1, jitter=False)
    async with replay(write(tmp_path / "r.jsonl")) as server:
        assert (server.url, server.connections) == ("ws://feed.example/", 3)
        async with trio_ws.session(
            server.url, stream=server.stream, on_connection=tell, reconnect=steady
        ) as feed:
            assert trio.current_time() == 1  # the server accepts after a second
            found = []
            for _ in range(3):
                message = await feed.recv()
                assert message is not None
                found.append((trio.current_time(), message.payload))
    assert found == [(3, "one"), (1003, "two"), (1005, b"\x00\x01")]
    assert server.opened == 3


async def test_differences_are_reported_at_the_end(tmp_path: Path, autojump_clock: object) -> None:
    async def tell(what: Any, more: bool = False, check: bool = True) -> None:
        async with replay(path, check=check) as server:
            async with trio_ws.connect(server.url, stream=await server.stream()) as ws:
                await ws.send(what)
                assert await ws.receive_text() == "one"
                if more:
                    await ws.send("more")
                    await trio.sleep(2000)

    path = write(tmp_path / "r.jsonl", [*RECORDING[:5]])
    await tell('{ "login": {"token": "x"} }')
    for what, more, text in (
        ('{"login":{"token":"x"},"more":1}', False, "connection 1: .* was said at 1.5 s, not"),
        (b'{"login":{"token":"x"}}', False, "was said at"),
        ("not json", False, "not 'not json'"),
        ('{"login":{"token":"x"}}', True, "nothing more was said, and not 'more'"),
    ):
        with pytest.raises(AssertionError, match=text):
            await tell(what, more)
        await tell(what, more, check=False)


async def test_there_are_no_more_connections_than_were_recorded(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with replay(write(tmp_path / "r.jsonl", RECORDING[:3])) as server:
        async with trio_ws.connect(server.url, stream=await server.stream()) as ws:
            await ws.close()
        with pytest.raises(ConnectionRefusedError, match="only 1 connections"):
            await server.stream()


@pytest.mark.parametrize("text", ["", "{}", "not json\n", '{"recording":"trio-ws","url":"x"}\n{"time":1}\n'])
async def test_a_file_that_is_not_a_recording(text: str, tmp_path: Path, autojump_clock: object) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is not a recording"):
        async with replay(path):
            pytest.fail("there is nothing to play")


class Calls(WebSocketHandler[Any]):
    @rpc_method()
    def login(self, connection: ClientConnection[Any], password: str) -> str:
        return f"hello {password}"

    @rpc_method()
    def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "jsonrpc", "json"])
async def test_calls_are_replayed_as_they_were(dialect: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"

    async def talk(url: str, stream: Any) -> list[Any]:
        async with WebSocketClient(url, stream=stream, dialect=dialect) as client:
            said = await client.call("login", password="very secret")
            return [said, await client.call("add", 1, 2)]

    async with (
        serving(Calls) as server,
        record(server.url, path, mask=lambda t: t.replace("hello", "bye")) as stream,
    ):
        assert await talk(server.url, stream) == ["hello very secret", 3]
    text = path.read_text(encoding="utf-8")
    assert dialect == "trio-ws.v1" or '\\"password\\":\\"***\\"' in text
    async with replay(path) as again:
        assert await talk(again.url, again.stream) == ["bye very secret", 3]


async def test_how_a_connection_fails_is_recorded_too(tmp_path: Path) -> None:
    async def refusing(ws: WebSocket) -> None:
        await ws.reject(401, [("WWW-Authenticate", "Bearer")], "who are you")

    path = tmp_path / "r.jsonl"
    async with serving(refusing) as server, record(server.url, path) as stream:
        with pytest.raises(HandshakeRejectedError) as info:
            async with trio_ws.connect(server.url, stream=stream):
                pytest.fail("it is refused")
        assert (info.value.status, info.value.headers.get("WWW-Authenticate")) == (401, "Bearer")
        assert info.value.body == b"who are you"
    async with record("ws://127.0.0.1:1/", tmp_path / "s.jsonl") as stream:
        with pytest.raises(HandshakeRejectedError, match="502"):
            async with trio_ws.connect("ws://127.0.0.1:1/", stream=stream):
                pytest.fail("nobody is there")
    for name, status in (("r.jsonl", 401), ("s.jsonl", 502)):
        async with replay(tmp_path / name) as again:
            with pytest.raises(HandshakeRejectedError, match=str(status)):
                async with trio_ws.connect(again.url, stream=await again.stream()):
                    pytest.fail("it is refused")


async def test_a_status_that_http_does_not_define_ends_one_connection(tmp_path: Path) -> None:
    async def refusing(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n")

    path = tmp_path / "r.jsonl"
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, refusing, 0)
        url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        async with record(url, path) as stream:
            for _ in range(2):
                with pytest.raises(HandshakeRejectedError, match="502"):
                    async with trio_ws.connect(url, stream=stream):
                        pytest.fail("it is refused")
        nursery.cancel_scope.cancel()
    codes = [json.loads(line).get("code") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert codes == [None, 799, None, 799]
    async with replay(path) as again:
        with pytest.raises(HandshakeRejectedError, match="502"):
            async with trio_ws.connect(again.url, stream=again.stream):
                pytest.fail("it is refused")


@pytest.mark.parametrize("raised", [KeyError("k"), ExceptionGroup("g", [KeyError("k")])])
async def test_an_exception_leaves_the_blocks_as_it_was_raised(
    raised: Exception, tmp_path: Path, autojump_clock: object
) -> None:
    with pytest.raises(type(raised)) as info:
        async with record("ws://test/", tmp_path / "new.jsonl"):
            raise raised
    assert info.value is raised
    with pytest.raises(type(raised)) as info:
        async with replay(write(tmp_path / "r.jsonl")) as server:
            async with trio_ws.connect(server.url, stream=server.stream):
                raise raised
    assert info.value is raised


async def test_a_lost_server_is_lost_for_the_client_too(tmp_path: Path) -> None:
    async def vanishing(stream: trio.SocketStream) -> None:
        async with trio_ws.wrap_stream(stream) as ws:
            await ws.accept()
            await ws.send("hello")
            await ws.recv()
            await trio.aclose_forcefully(stream)

    path = tmp_path / "r.jsonl"
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, vanishing, 0)
        port = listeners[0].socket.getsockname()[1]
        async with record(f"ws://127.0.0.1:{port}/", path) as stream:
            async with trio_ws.connect(f"ws://127.0.0.1:{port}/", stream=stream) as ws:
                assert await ws.receive_text() == "hello"
                await ws.send("go")
                with pytest.raises(ConnectionClosedError):
                    await ws.receive_text()
        nursery.cancel_scope.cancel()
    kinds = [json.loads(line)["kind"] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert kinds == ["open", "accept", "text", "text", "lost"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"token":"a\\"b","x":1}', '{"token":"***","x":1}'),
        ('{"apiKey": 12345, "y": [1]}', '{"apiKey": "***", "y": [1]}'),
        ('{"a":{"my_password":"x"}}', '{"a":{"my_password":"***"}}'),
        ('[{"SECRET":"x"},{"secret":null}]', '[{"SECRET":"***"},{"secret":null}]'),
        ("?token=a&b=c", "?token=***&b=c"),
        ('{"price":1}', '{"price":1}'),
        ('"token"', '"token"'),
    ],
)
def test_masked_secrets(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_masking_takes_no_longer_than_reading() -> None:
    """What would make a careless expression try everything twice over."""
    for text in ('"token' * 20_000, '"' * 50_000, '{"token":"' + "\\" * 50_000, "?token" * 20_000):
        mask_secrets(text)


def test_msgpack_is_masked_by_its_names() -> None:
    from trio_ws.testing.recording import _mask_binary  # noqa: PLC0415 - what is not public

    data = msgspec.msgpack.encode({"token": "x", "a": [{"password": "y", "b": b"\x00"}]})
    assert msgspec.msgpack.decode(_mask_binary(data, mask_secrets)) == {
        "token": "***",
        "a": [{"password": "***", "b": b"\x00"}],
    }
    for same in (b"\xc1\xff", b"", msgspec.msgpack.encode([1, "x"])):
        assert _mask_binary(same, mask_secrets) == same
    assert _mask_binary(b'{"token":"x"}', mask_secrets) == b'{"token":"***"}'
