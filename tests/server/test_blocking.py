"""`trio_ws.blocking`: handlers without trio, over real sockets and in real threads."""

from __future__ import annotations

import functools
import logging
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import trio_ws
from tests.support.serving import all_tasks, exchange, guard, request, serving, status_of
from trio_ws import (
    App,
    BlockingWebSocket,
    CloseConnection,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    HandshakeRejectedError,
    MessageError,
    Options,
    WebSocketMessage,
    WebSocketServer,
    connect,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws import WebSocket


class Move(msgspec.Struct):
    x: int


def echo(ws: BlockingWebSocket) -> None:
    while True:
        message = ws.recv()
        if message is None:
            break
        ws.send(message)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true that a thread changes."""
    while not condition():
        await trio.sleep(0.005)


# -- talking ----------------------------------------------------------------------------------------


async def test_a_blocking_loop_echoes_and_ends_when_the_client_goes() -> None:
    ended: list[str] = []

    def handler(ws: BlockingWebSocket) -> None:
        echo(ws)
        ended.append(threading.current_thread().name)

    before = all_tasks()
    async with serving(handler) as server:
        for _ in range(3):
            async with connect(server.url) as ws:
                for message in ("text", b"binary", ""):
                    await ws.send(message)
                    assert (await ws.receive()).payload == message
        await until(lambda: len(ended) == 3)
        assert threading.main_thread().name not in ended
    assert all_tasks() == before


async def test_route_with_a_parameter() -> None:
    app = App()

    @app.websocket("/rooms/{room:int}")
    def handler(ws: BlockingWebSocket, room: int) -> None:
        assert ws.path_params == {"room": room}
        ws.send_json(room)

    async with serving(app) as server, connect(f"{server.url}/rooms/7") as ws:
        assert await ws.receive_json() == 7


async def test_iteration_ends_with_the_client_and_raises_where_it_broke() -> None:
    ends: list[object] = []

    def handler(ws: BlockingWebSocket) -> None:
        try:
            ends.append([message.text for message in ws])
        except ConnectionClosedError as exc:
            ends.append(exc.code)
            raise

    async with serving(handler) as server:
        async with connect(server.url) as ws:
            await ws.send("a")
            await ws.send("b")
        await until(lambda: len(ends) == 1)
        async with connect(server.url) as ws:
            await ws.send("c")
            await ws.close(4001, "away")
        await until(lambda: len(ends) == 2)
    assert ends == [["a", "b"], 4001]


async def test_all_ways_to_send_and_receive() -> None:
    failures: list[object] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.accept("b", headers=[("X-Y", "z")])
        failures.append([ws.receive_text(), ws.receive_bytes(), ws.receive_json(), ws.receive_json(Move)])
        with pytest.raises(MessageError, match="expected a text message"):
            ws.receive_text()
        with pytest.raises(TypeError, match=r"use send_json\(\)"):
            ws.send(5)  # type: ignore[arg-type]
        ws.send_text("t")
        ws.send_binary(b"b")
        ws.send_bytes(b"c")
        ws.send_json({"x": 1})
        ws.send(WebSocketMessage.text("m"))
        assert ws.ping() > 0
        assert ws.latency is not None
        ws.close(4000, "done")
        assert (ws.close_code, ws.close_reason, ws.closed, ws.connected) == (4000, "", True, False)
        failures.append("none")

    async with serving(handler) as server, connect(server.url, subprotocols=["a", "b"]) as ws:
        assert ws.response_headers is not None
        assert ws.response_headers.get("X-Y") == "z"
        for message in ("t", b"b", "[1]", '{"x":2}', b"no text"):
            await ws.send(message)
        assert await payloads_until_close(ws) == ["t", b"b", b"c", '{"x":1}', "m"]
        assert (ws.close_code, ws.close_reason) == (4000, "done")
        await until(lambda: len(failures) == 2)
    assert failures == [["t", b"b", [1], Move(2)], "none"]


async def payloads_until_close(ws: WebSocket) -> list[object]:
    payloads: list[object] = []
    with pytest.raises(ConnectionClosedError):
        while True:
            payloads.append((await ws.receive()).payload)
    return payloads


#: What a plain function has no use for, or what only tasks can do.
ONLY_FOR_TASKS = {
    *("aclose", "receive", "recv_streaming", "send_nowait", "wait_closed", "on_ping", "on_pong"),
    "response_headers",
}


def test_it_has_what_a_websocket_has() -> None:
    names = {name for name in dir(trio_ws.WebSocket) if not name.startswith("_")}
    assert names - set(dir(BlockingWebSocket)) == ONLY_FOR_TASKS


async def test_attributes_are_those_of_the_websocket() -> None:
    names = [
        *("offered_subprotocols", "offered_extensions", "extensions", "buffered_bytes", "cookies"),
        *("close_sent", "close_received", "peer_closed_first"),
    ]
    seen: list[dict[str, object]] = []

    def handler(ws: BlockingWebSocket) -> None:
        seen.append({name: getattr(ws, name) for name in names})
        assert ws.recv() is None
        seen.append({name: getattr(ws, name) for name in names})

    headers = {"Cookie": "a=b"}
    async with serving(handler) as server:
        async with connect(server.url, subprotocols=["x", "y"], headers=headers) as ws:
            await ws.ping()
            await ws.close(1000, "done")
        await until(lambda: len(seen) == 2)
    before, after = seen
    assert before == {
        "offered_subprotocols": ["x", "y"],
        "offered_extensions": [],
        "extensions": [],
        "buffered_bytes": 0,
        "cookies": {"a": "b"},
        "close_sent": None,
        "close_received": None,
        "peer_closed_first": False,
    }
    assert after["close_received"] == trio_ws.CloseFrame(1000, "done")
    assert after["peer_closed_first"] is True
    assert after["close_sent"] is not None


@pytest.mark.parametrize("end", ["cut", "error code", "cancelled"])
async def test_no_message_when_the_connection_is_lost(end: str) -> None:
    received: list[WebSocketMessage | None] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.send(b"text", text=True)
        received.append(ws.recv(none_when_lost=True))
        received.append(ws.recv(none_when_lost=True))

    async with serving(handler) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            async with connect("ws://127.0.0.1/", stream=stream) as ws:
                assert await ws.receive_text() == "text"
                if end == "error code":
                    await ws.close(4000, "no more")
                elif end == "cut":
                    await trio.aclose_forcefully(stream)
                else:
                    await server.drain(timeout=0)
        await until(lambda: len(received) == 2)
    assert received == [None, None]


async def test_attributes() -> None:
    seen: dict[str, object] = {}

    def handler(ws: BlockingWebSocket) -> None:
        for name in ("accepted", "connected", "closed", "close_code", "close_reason", "path", "path_params"):
            seen[name] = getattr(ws, name)
        for name in ("query_string", "query_params", "subprotocol", "latency", "remote_address"):
            seen[name] = getattr(ws, name)
        seen["header"] = [ws.header("X-y"), ws.header("z", "none"), ws.headers.get("x-y"), ws.request.method]
        seen["local port"] = ws.local_address[1]
        seen["repr"] = re.sub(" [0-9]+ server ", " NUMBER server ", repr(ws))
        ws.accept()

    async with serving(handler) as server:
        async with connect(f"{server.url}/a%20b?q=1", headers={"X-Y": "z"}) as ws:
            address = ws.local_address
            await ws.wait_closed()
        port = server.port
    assert seen == {
        **dict.fromkeys(("accepted", "connected", "closed"), False),
        **dict.fromkeys(("close_code", "close_reason", "subprotocol", "latency")),
        "path": "/a b",
        "path_params": {},
        "query_string": "q=1",
        "query_params": {"q": ["1"]},
        "remote_address": address,
        "header": ["z", "none", "z", "GET"],
        "local port": port,
        "repr": f"<BlockingWebSocket NUMBER server connecting '/a b' peer={address!r}>",
    }


async def test_a_timeout_raises_and_loses_nothing() -> None:
    errors: list[str] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.accept()
        for receive in (ws.recv, ws.receive_text, ws.receive_bytes, ws.receive_json):
            try:
                receive(timeout=0.001)
            except TimeoutError as exc:
                errors.append(str(exc))
        ws.send("now")
        ws.send(ws.receive_text(timeout=30))

    async with serving(handler) as server, connect(server.url) as ws:
        assert await ws.receive_text() == "now"
        await ws.send("here")
        assert await ws.receive_text() == "here"
    assert errors == ["no message arrived within 0.001 seconds"] * 4


async def test_other_threads_may_use_it_too_but_not_that_of_trio() -> None:
    kept: list[BlockingWebSocket] = []

    def handler(ws: BlockingWebSocket) -> None:
        kept.append(ws)

        def write(number: int) -> None:
            for _ in range(20):
                ws.send(str(number))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
            ws.send(f"got {ws.receive_text()}")

    async with serving(handler) as server, connect(server.url) as ws:
        numbers = [await ws.receive_text() for _ in range(80)]
        assert sorted(numbers) == sorted([str(number) for number in range(4)] * 20)
        with pytest.raises(RuntimeError, match="this is a blocking function; call it from a thread"):
            kept[0].recv()
        await ws.send("x")
        assert await ws.receive_text() == "got x"


async def test_more_handlers_block_than_trio_has_threads_by_default() -> None:
    inside = 0
    lock = threading.Lock()
    everyone = threading.Event()

    def handler(ws: BlockingWebSocket) -> None:
        nonlocal inside
        ws.accept()
        with lock:
            inside += 1
            if inside == 60:
                everyone.set()
        assert everyone.wait(30)
        ws.send("all here")

    async with serving(handler) as server, trio.open_nursery() as nursery:

        async def one() -> None:
            async with connect(server.url) as ws:
                assert await ws.receive_text() == "all here"

        for _ in range(60):
            nursery.start_soon(one)


# -- ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "code"),
    [("return", 1000), ("exception", 4000), ("bug", 1011), ("coroutine", 1011), ("gone", 4002)],
)
async def test_ends_like_an_async_function(way: str, code: int, caplog: pytest.LogCaptureFixture) -> None:
    async def coroutine() -> None:
        pytest.fail("it ran")

    def handler(ws: BlockingWebSocket) -> Any:
        ws.accept()
        match way:
            case "exception":
                raise CloseConnection(4000, "as said")
            case "bug":
                raise KeyError("x")
            case "coroutine":
                return coroutine()
            case "gone":
                ws.close(4002)
                ws.send("too late")
            case _:
                pass
        return None

    async with serving(handler) as server:
        async with connect(server.url) as ws:
            await ws.wait_closed()
            assert ws.close_code == code
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(errors) == (code == 1011)
    if way == "coroutine":
        assert errors[0].exc_info is not None
        assert "use async def" in str(errors[0].exc_info[1])


@pytest.mark.parametrize(("touched", "status"), [(False, 403), (True, 418)])
async def test_rejecting(touched: bool, status: int) -> None:
    def handler(ws: BlockingWebSocket) -> None:
        if touched:
            ws.reject(418, body="a teapot")

    async with serving(handler) as server:
        with pytest.raises(HandshakeRejectedError) as info:
            async with connect(server.url):
                pytest.fail("it was let in")
    said = b"a teapot" if touched else b"the handler returned without accepting the client\n"
    assert (info.value.status, info.value.body) == (status, said)


async def test_debug_lets_its_exception_out_of_the_server() -> None:
    error = KeyError("x")

    def handler(ws: BlockingWebSocket) -> None:
        raise error

    with pytest.raises(KeyError) as info:
        async with serving(handler, debug=True) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                assert status_of(await exchange(stream, request())) == 500
                await trio.sleep_forever()
    assert info.value is error


async def test_leaving_the_server_ends_a_loop_that_waits() -> None:
    ends: list[str] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.send("here")
        echo(ws)
        ends.append("in order")

    before = all_tasks()
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with WebSocketServer(handler, host="127.0.0.1") as server:
                await nursery.start(hold, server.url)
            assert ends == ["in order"]
    assert all_tasks() == before


async def hold(url: str, *, answer: bool = True, task_status: trio.TaskStatus[None]) -> None:
    """A client that receives one message, and stays. Without ``answer`` it does not answer a Close frame."""
    if answer:
        async with connect(url) as ws:
            await ws.receive_text()
            task_status.started()
            await ws.wait_closed()
        return
    host, port = url.removeprefix("ws://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(request())
        await stream.receive_some()
        task_status.started()
        await trio.sleep_forever()


async def test_a_cancelled_handler_finds_out_in_the_call_that_it_waits_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends: list[object] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.send("here")
        entered.set()
        try:
            ws.recv()  # from a client that sends nothing, not even a Close frame
        except ConnectionClosedLocallyError as exc:
            ends.append(str(exc))
            with pytest.raises(ConnectionClosedLocallyError):
                ws.send("again")
            ends.append("again")
            raise

    entered = threading.Event()
    before = all_tasks()
    options = Options(drain_timeout=0.05, close_timeout=20, ping_interval=None)
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with WebSocketServer(handler, host="127.0.0.1", options=options) as server:
                await nursery.start(functools.partial(hold, server.url, answer=False))
                await until(entered.is_set)
                report = await server.drain(timeout=0)
            assert report.cancelled == 1
            assert len(ends) == 2
            nursery.cancel_scope.cancel()
    assert all_tasks() == before
    assert [record.getMessage() for record in caplog.records] == [
        "drain: cancelling 1 handlers after drain_timeout (0 seconds)"
    ]


async def test_a_thread_that_calls_nothing_is_left_behind_after_close_timeout(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = threading.Event()
    ends: list[object] = []

    def handler(ws: BlockingWebSocket) -> None:
        ws.send("here")
        release.wait(30)
        try:
            ws.send("far too late")
        except ConnectionClosedLocallyError as exc:
            ends.append(exc.reason)
            raise KeyError("nobody waits for it") from exc

    options = Options(drain_timeout=0.01, close_timeout=0.05)
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            async with WebSocketServer(handler, host="127.0.0.1", options=options) as server:
                await nursery.start(hold, server.url)
    assert server.state == "closed"
    assert not ends
    assert "its thread is abandoned" in caplog.records[-1].getMessage()
    release.set()
    await until(lambda: len(caplog.records) == 3)
    assert ends == ["the handler has ended, or was cancelled with its server"]
    assert "failed after it was cancelled" in caplog.records[-1].getMessage()


async def test_the_calls_of_other_threads_end_with_the_handler() -> None:
    ends: list[object] = []
    threads: list[threading.Thread] = []
    kept: list[BlockingWebSocket] = []

    def read_on(ws: BlockingWebSocket) -> None:
        try:
            ws.recv()
        except ConnectionClosedLocallyError as exc:
            ends.append(exc.reason)

    def handler(ws: BlockingWebSocket) -> None:
        ws.accept()
        kept.append(ws)
        threads.append(threading.Thread(target=read_on, args=(ws,)))
        threads[0].start()
        while not ws._calls._running:  # until the other thread waits for a message
            threads[0].join(0.005)

    before = all_tasks()
    async with serving(handler) as server, connect(server.url) as ws:
        await ws.wait_closed()
        assert ws.close_code == 1000
    await until(lambda: bool(ends))
    assert ends == ["the handler has ended, or was cancelled with its server"]
    with pytest.raises(ConnectionClosedLocallyError):
        kept[0].recv()
    assert all_tasks() == before


LEFT_BEHIND = """
import threading, time, trio, trio_ws

trio_is_over, thread_is_over = threading.Event(), threading.Event()

def handler(ws):
    ws.send("here")
    if ws.path == "/long":
        time.sleep(3600)
    trio_is_over.wait()
    try:
        ws.recv()
    except trio_ws.ConnectionClosedLocallyError as exc:
        print(exc.reason)
    threading.Timer(0.1, thread_is_over.set).start()

async def main():
    options = trio_ws.Options(drain_timeout=0.01, close_timeout=0.01)
    async with trio_ws.WebSocketServer(handler, host="127.0.0.1", options=options) as server:
        for path in ("/short", "/long"):
            async with trio_ws.connect(server.url + path) as ws:
                print(await ws.receive_text())

trio.run(main)
print("out")
trio_is_over.set()
thread_is_over.wait()
"""


def test_a_program_ends_without_a_thread_that_was_left_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=60, check=False
    )
    reason = "the handler has ended, or was cancelled with its server"
    assert (done.stdout.splitlines(), done.returncode) == (["here", "here", "out", reason], 0)
    assert done.stderr.count("its thread is abandoned") == 2


KEPT = """
import threading, trio, trio_ws

kept = []

def handler(ws):
    ws.accept()
    kept.append(ws)

async def main():
    async with trio_ws.WebSocketServer(handler, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ws:
            await ws.wait_closed()

trio.run(main)
try:
    kept[0].recv()
except trio_ws.ConnectionClosedLocallyError as exc:
    print(exc.reason)
"""


def test_a_websocket_that_outlived_the_event_loop_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("the handler has ended, or was cancelled with its server\n", "")
