"""The JavaScript client in Node, with our server: the guarantees of calls that apply there."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.node import install_client, node_command, run_program
from tests.support.npm import npm_package
from tests.support.serving import serving
from trio_ws import ClientConnection, Packet, RPCError, WebSocket, WebSocketHandler, rpc_method
from trio_ws.channels.names import matcher

PROGRAMS = Path(__file__).parent / "programs"


class Handler(WebSocketHandler):
    """The methods that the programs call. It records how the calls ended."""

    client_globs = True

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []
        self.ended = trio.Event()

    async def _record_end(self, what: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.log.append(what)
            self.ended.set()

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int = 1) -> int:
        return a + b

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any) -> Any:
        return value

    @rpc_method()
    async def reverse(self, connection: ClientConnection, data: bytes) -> bytes:
        return data[::-1]

    @rpc_method()
    async def refuse(self, connection: ClientConnection) -> None:
        raise RPCError("no, thanks", code=-31000, data={"until": "tomorrow"})

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        self.log.append("waiting")
        await self._record_end("wait cancelled")

    @rpc_method()
    async def seen(self, connection: ClientConnection) -> list[Any]:
        """The log, once something has ended."""
        await self.ended.wait()
        return self.log

    @rpc_method()
    async def progress(self, connection: ClientConnection) -> list[Any]:
        return self.log

    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @rpc_method()
    async def texts(self, connection: ClientConnection, n: int, size: int) -> AsyncIterator[str]:
        for number in range(n):
            yield chr(0x20AC + number % 5) * size

    @rpc_method()
    async def endless(self, connection: ClientConnection) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                self.log = [number]
                yield number
                number += 1
        finally:
            self.log.append("closed")
            self.ended.set()

    @rpc_method()
    async def fails_after(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise RPCError("no more")

    @rpc_method()
    async def total(self, connection: ClientConnection, numbers: AsyncIterator[int]) -> int:
        total = 0
        async for number in numbers:
            total += number
        return total

    @rpc_method()
    async def sizes(
        self, connection: ClientConnection, *, chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[int]:
        async for chunk in chunks:
            yield len(chunk)

    @rpc_method()
    async def take_one(self, connection: ClientConnection, numbers: AsyncIterator[int]) -> int:
        async for number in numbers:
            return number
        return -1

    @rpc_method()
    async def call_back(self, connection: ClientConnection, method: str, args: list[Any]) -> Any:
        return await connection.call(method, *args)

    @rpc_method()
    async def call_back_named(self, connection: ClientConnection) -> Any:
        return await connection.call("named", 1, b=2)

    @rpc_method()
    async def stream_back(self, connection: ClientConnection, n: int) -> list[Any]:
        async with connection.stream("numbers", n, items=int) as numbers:
            return [number async for number in numbers]

    @rpc_method()
    async def look_back(self, connection: ClientConnection) -> int:
        async with connection.stream("numbers", 1_000_000, items=int) as numbers:
            async for number in numbers:
                if number == 100:
                    break
        return 100

    @rpc_method()
    async def upload_back(self, connection: ClientConnection) -> Any:
        async def numbers() -> AsyncIterator[int]:
            for number in range(500):
                yield number

        return await connection.call("total", numbers())

    @rpc_method()
    async def give_up(self, connection: ClientConnection, seconds: float) -> str:
        with trio.move_on_after(seconds):
            await connection.call("sleep")
        return "given up"

    @rpc_method()
    async def abort_back(self, connection: ClientConnection) -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.call, "sleep")
            await connection.call("begun")
            nursery.cancel_scope.cancel()
        return "aborted"

    async def on_connect(self, connection: ClientConnection) -> None:
        if "refuse" in connection.request.query_params:
            await connection.reject(403)

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool | float:
        self.log.append(name)
        if name == "short":
            return 0.01 if self.log.count("short") == 1 else False
        return name != "secret"

    def may_publish(self, connection: ClientConnection, name: str, data: Any) -> bool:
        return name == "room"

    def may_refresh(self, connection: ClientConnection, token: Any) -> bool | float:
        return 60.5 if token == "good" else False

    @rpc_method()
    async def be_present(self, connection: ClientConnection, name: str, info: Any) -> AsyncIterator[None]:
        async with connection.present(name, info):
            yield
            await trio.sleep_forever()

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send({"you said": packet.data})

    @rpc_method()
    def publish_it(self, connection: ClientConnection, channel: str, data: Any) -> int:
        return self.publish(channel, data)

    @rpc_method()
    def held(self, connection: ClientConnection) -> list[str]:
        return sorted(connection.subscribed_channel)

    @rpc_method()
    def subscribe_me(self, connection: ClientConnection, channel: str) -> None:
        connection.subscribe(channel)

    @rpc_method()
    async def send_packet(self, connection: ClientConnection, data: Any) -> None:
        await connection.send(data)

    @rpc_method()
    async def hang_up(self, connection: ClientConnection) -> None:
        await connection.close(4001, "good bye")


async def play(folder: Path, program: str, *args: str) -> Any:
    """Run a program with its own server, and return its output."""
    node_command()
    async with serving(Handler()) as server:
        return await run_program(folder, PROGRAMS / f"{program}.mjs", server.url, *args)


async def test_calls(tmp_path: Path) -> None:
    seen = await play(tmp_path, "calls")
    assert seen == [
        3, 7, 6, 11, "€😀\0", None, {"a": [1.5, None, True]}, [255, 2, 1], [255, 2, 1, 0], True
    ]  # fmt: skip


async def test_requests_are_written_alike_with_and_without_a_deadline(tmp_path: Path) -> None:
    """Most requests have neither deadlines nor streams, and are written by code of their own."""
    node_command()
    seen = await run_program(tmp_path, PROGRAMS / "requests.mjs")
    expected = {
        "type": "request",
        "method": '"\\\0\u20ac\N{GRINNING FACE}',
        "args": ['"', "1970-01-01T00:00:00.000Z"],
    }
    assert seen[:3] == [[], 20, True]
    assert json.loads(seen[3]) == expected


async def test_errors(tmp_path: Path) -> None:
    seen = await play(tmp_path, "errors")
    assert seen == [
        ["RPCError", -31000, "no, thanks", {"until": "tomorrow"}],
        ["RPCError", -32601, "there is no method 'nobody'", None],
        ["RPCError", -32602, "a: Expected `int`, got `str`", {"path": "$.a"}],
        "TypeError",
        ["RPCError", -32001, "count is a stream; use stream()", None],
        ["RPCError", -32001, "the method is not a stream; use call()", None],
        ["RPCError", -32601, "there is no method 'nobody'", None],
        ["value", 2],
    ]


async def test_streams(tmp_path: Path) -> None:
    seen = await play(tmp_path, "streams")
    assert seen == [
        1000, True, [0, 1, 2], ["RPCError", -32001, "no more", None], {"done": True}, {"done": True},
        [{"done": False, "value": 0}, {"done": False, "value": 1}, {"done": True}],
    ]  # fmt: skip


async def test_a_stream_of_text_that_is_not_ascii_does_not_stall(tmp_path: Path) -> None:
    """Both sides count the bytes of UTF-8, and never drift apart. Items may be larger than the window."""
    seen = await play(tmp_path, "windows")
    assert seen == [800, 400_000]


async def test_a_slow_consumer_suspends_the_producer(tmp_path: Path) -> None:
    seen = await play(tmp_path, "slow_consumer")
    made = seen[0]
    # 20 were consumed, 8 are the window, and the producer waits at the yield of one more.
    assert 20 <= made <= 28
    assert seen[1:] == [[made, "closed"], {"done": True}]


@pytest.mark.parametrize("how", ["break", "dispose", "abort", "throw"])
async def test_leaving_a_stream_cancels_its_generator(how: str, tmp_path: Path) -> None:
    seen = await play(tmp_path, "leaving_a_stream", how)
    assert seen == ["closed", 0, True]


async def test_an_abort_signal_cancels_the_method(tmp_path: Path) -> None:
    seen = await play(tmp_path, "abort_signal")
    assert seen == [["AbortError"], ["AbortError"], ["waiting", "wait cancelled"], 0]


async def test_a_deadline_is_kept_on_both_sides(tmp_path: Path) -> None:
    seen = await play(tmp_path, "deadlines")
    assert seen[0] == seen[2] == seen[4] == ["RPCError", -32003]
    assert seen[1] == ["waiting", "wait cancelled"]
    assert seen[3] == 2


async def test_uploads(tmp_path: Path) -> None:
    seen = await play(tmp_path, "uploads")
    assert seen == [499_500, [1, 70_000, 3], ["RangeError"], 0, ["AbortError"], 2, True, 0, 0]


async def test_the_server_calls(tmp_path: Path) -> None:
    seen = await play(tmp_path, "server_calls")
    assert seen[2] == list(range(300))
    assert seen[:2] + seen[3:] == [
        42, [1, 2], ["RPCError", -31001, "not now", {"why": "sleep"}], -32601, 42,
        sum(range(500)), "aborted", "given up", ["sleep", "sleep"], 100, "AQI=", 2, 0,
    ]  # fmt: skip


async def test_a_method_that_fails_tells_little(tmp_path: Path) -> None:
    seen = await play(tmp_path, "failing_methods")
    assert seen == [
        ["RPCError", -32603, "internal error", None],
        ["RPCError", -32603, "the result cannot be sent as JSON", None],
        ["trio-ws: the method broken failed"],
    ]


async def test_a_lost_connection_fails_calls_and_comes_back(tmp_path: Path) -> None:
    seen = await play(tmp_path, "lost_connection")
    assert seen == [
        2, "ConnectionLostError", 4001, "the connection ended: 4001 good bye", 4, [2, 2],
        ["connected", "waiting", "connecting", "connected", "closed"],
        ["ConnectionLostError", 1006, "the client is closed", None], None,
    ]  # fmt: skip


async def test_each_connection_asks_for_its_url_and_token(tmp_path: Path) -> None:
    """The second server is another one, at another port."""
    node_command()
    tokens: list[str] = []

    class Gate(Handler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await super().on_connect(connection)
            nonlocal tokens
            tokens += connection.request.query_params["token"]
            if tokens[-1] == "bad":
                await connection.reject(401)

    async with serving(Gate()) as one, serving(Gate()) as two:
        seen = await run_program(tmp_path, PROGRAMS / "tokens.mjs", one.url, two.url)
    assert seen == 4
    assert tokens == ["bad", "a b&c", "second"]


async def test_giving_up(tmp_path: Path) -> None:
    seen = await play(tmp_path, "giving_up")
    assert seen == [
        ["ConnectionLostError", 1006], "closed", ["ConnectionLostError", 1006], 3, "closed",
        ["ConnectionLostError", 4001], "closed", 4001,
        ["ConnectionLostError", 1006, "the client is closed"], -31000,
        ["ConnectionLostError", 1006, "the client is closed", None],
    ]  # fmt: skip


async def test_nothing_keeps_the_program_alive_after_close(tmp_path: Path) -> None:
    """Timers of calls and of waits are gone: the program ends by itself, which run_module waits for."""
    seen = await play(tmp_path, "close")
    assert seen == [["ConnectionLostError", 1000], ["ConnectionLostError", 1006]]


async def test_channels(tmp_path: Path) -> None:
    seen = await play(tmp_path, "channels")
    assert seen == {
        "first": [["news.tech: 1"], ["news.tech: 1", "news.sport: 2", "weather: 3"]],
        "second": [["news.tech: 4"], True],
        "third": [["news.tech: 5"], ["gap", "news.tech: 5"]],
        "refused": ["RPCError", -32002, "access to the channel 'secret' denied", None],
        "aborted": [{"done": True}, "AbortError"],
        "flood": [
            ["flood: 7", "flood: 8", "flood: 9"], 7, ["flood: 0", "flood: 1", "flood: 2"], 7, ["flood: 9"]
        ],
        "others": ['"plain"', '"unasked"', '{"you said":{"any":["data"]}}'],
        "held": ["flood", "mine", "n?ws.[s-u]ech", "news.*", "news.tech", "weather"],
        "after": "ConnectionLostError",
    }  # fmt: skip


async def test_globs_mean_what_they_mean_to_the_server(tmp_path: Path) -> None:
    globs = [
        "a*c", "*", "?", "a?c", "[abc]x", "[!abc]x", "[a-c]x", "[]x]y", "[!]]y", "[a", "[]", "[!]", "a[.]b",
        "a.b*", "[z-a]x", "(a)*", "^a*", "a$?", "[^a]x", "[a\\]x", "\\*", "a{2}*", "[[]x", "a|b*", "[-a]x",
        "[a-]x",
    ]  # fmt: skip
    names = [
        "abc", "a\nc", "", "a", "\N{GRINNING FACE}", "a\N{GRINNING FACE}c", "ax", "dx", "bx", "]y", "xy",
        "[a",
        "[]", "[!]", "a.b", "aXb", "a.bc", "zx", "(a)b", "^ab", "a$b", "^x", "\\x", "\\ab", "aa", "a{2}c",
        "[x",
        "a|bc", "-x",
    ]  # fmt: skip
    seen = await play(tmp_path, "globs", json.dumps([globs, names]))
    expected = [[matcher(glob)(name) is not None for name in names] for glob in globs]
    assert dict(zip(globs, seen, strict=True)) == dict(zip(globs, expected, strict=True))


async def test_waits_are_drawn_from_a_bound_that_doubles(tmp_path: Path) -> None:
    node_command()
    seen = await run_program(tmp_path, PROGRAMS / "backoff.mjs")
    delays = [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]
    assert seen == ["ConnectionLostError", 1006, "the client is closed", 10, delays]


async def test_silence_ends_a_connection(tmp_path: Path) -> None:
    node_command()

    async def accept_and_say_nothing(ws: WebSocket) -> None:
        await ws.accept(subprotocol="trio-ws.v1.json")
        await ws.recv()
        await trio.sleep_forever()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, serving(accept_and_say_nothing) as silent:
        dumb = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}"
        seen = await run_program(tmp_path, PROGRAMS / "silence.mjs", dumb, silent.url)
    assert seen == [
        ["ConnectionLostError", 1006],
        ["ConnectionLostError", 1006, "the connection ended: 1006 the server is silent", None],
    ]


async def test_a_server_is_asked_only_when_it_is_silent(tmp_path: Path) -> None:
    node_command()
    seen = await run_program(tmp_path, PROGRAMS / "heartbeat.mjs")
    # Every other time, since the answer is something that was heard; then once without an answer.
    assert seen == [[5, "connected", 0], 6, ["__subscribe__", [[]]], 1, "the server is silent", 0]


async def test_with_the_class_of_a_package(tmp_path: Path) -> None:
    """A Node without a built-in WebSocket, which is removed here."""
    install_client(tmp_path)
    shutil.copytree(npm_package("ws"), tmp_path / "node_modules" / "ws")
    assert await play(tmp_path, "ws_package") == [
        "TypeError",
        ["\u20ac\u20ac", "\u20ad\u20ad", "\u20ae\u20ae"],
        ["ConnectionLostError", 4001],
        3,
        ["ConnectionLostError", 1006],
    ]


async def test_publishing_presence_and_rights_that_end(tmp_path: Path) -> None:
    assert await play(tmp_path, "presence") == {
        "stays": [60.5, ["RPCError", -32002]],
        "published": ["mine", ["RPCError", -32002]],
        "seen": [[], [{"name": "ada"}], [], []],
        "hidden": ["RPCError", -32002],
        "ended": ["RPCError", -32002],
        "done": True,
    }
