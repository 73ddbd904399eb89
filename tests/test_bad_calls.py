"""The limits of calls, each exceeded once by a peer; tests/test_bad_input.py has the others."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    Options,
    RateLimitError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.codecs.packets import TrioWSCodec, WebshocketCodec
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import ClientConnection


class Handler(WebSocketHandler):
    """Methods that wait, and count the running calls."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.yielded = 0

    @rpc_method()
    async def wait(self, connection: ClientConnection, seconds: float) -> float:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(seconds)
        finally:
            self.running -= 1
        return seconds

    @rpc_method()
    async def ask_back(self, connection: ClientConnection) -> Any:
        return await connection.call("slow")

    @rpc_method()
    async def numbers(self, connection: ClientConnection) -> AsyncIterator[int]:
        for number in range(10_000):
            self.yielded += 1
            yield number


async def test_max_concurrent_calls_run_and_the_others_wait(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=Options(max_concurrent_calls=3)) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(9):
                    nursery.start_soon(client.call, "wait", 1)
            assert trio.current_time() - began == 3
    assert handler.most == 3


async def test_max_held_bytes_refuses_where_waiting_could_be_for_ever(
    autojump_clock: MockClock,
) -> None:
    """A method waits for the client's answer, which comes behind more requests than may be held."""
    go_on = trio.Event()

    class Slow(WebSocketHandler):
        @rpc_method()
        async def slow(self, connection: ClientConnection) -> str:
            await go_on.wait()
            return "at last"

    options = Options(max_concurrent_calls=1, max_held_bytes=4000)
    refused: list[str] = []
    done: list[Any] = []

    async with serving_in_memory(Handler(), options=options) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, handler=Slow) as client:

            async def call(method: str, *args: Any) -> None:
                response = await client.send_rpc(method, *args)
                if isinstance(response.error, RateLimitError):
                    refused.append(str(response.error))
                else:
                    done.append(response.result())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, "ask_back")
                await trio.sleep(1)
                for _ in range(20):
                    nursery.start_soon(call, "wait", 0)
                await trio.sleep(1)
                assert set(refused) == {"max_held_bytes is reached"}
                held = 20 - len(refused)
                assert 1 <= held <= 12
                assert done == []
                go_on.set()
            assert sorted(done, key=str) == [0.0] * held + ["at last"]


async def test_max_decoded_bytes_refuses_arguments_that_become_too_much(autojump_clock: MockClock) -> None:
    options = Options(max_decoded_bytes=100_000)
    async with serving_in_memory(Handler(), options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(RPCInvalidParamsError, match=r"max_decoded_bytes \(100000\)"):
                await client.call("wait", [{}] * 2000)
            assert await client.call("wait", 0) == 0


@pytest.mark.parametrize("window", [1, 2, 64])
async def test_stream_window_is_all_that_a_producer_sends_ahead(
    window: int, autojump_clock: MockClock
) -> None:
    handler = Handler()
    options = Options(stream_window=window)
    async with serving_in_memory(handler, options=options) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, options=options) as client:
            async with client.stream("numbers", items=int) as numbers:
                await trio.sleep(100)
                assert handler.yielded == window
                assert [await numbers.receive() for _ in range(200)] == list(range(200))
                await trio.sleep(100)
                assert handler.yielded <= 200 + window


@pytest.mark.parametrize("window", [1, 50, 100_000])
async def test_stream_window_bytes_are_all_that_a_producer_sends_ahead(
    window: int, autojump_clock: MockClock
) -> None:
    handler = Handler()
    options = Options(stream_window=10_000, stream_window_bytes=window)
    async with serving_in_memory(handler, options=options) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, options=options) as client:
            async with client.stream("numbers", items=int) as numbers:
                await trio.sleep(100)
                # An item takes some 60 bytes on the wire, and one comes on top. The first window is 64 KiB.
                first = min(window, 65_536)
                assert first // 65 <= handler.yielded <= first // 55 + 1
                assert [await numbers.receive() for _ in range(200)] == list(range(200))


async def test_stream_window_that_a_producer_ignores_ends_the_connection(autojump_clock: MockClock) -> None:
    """A client streams more to the server than the server gave it credit for."""

    class Taker(WebSocketHandler):
        @rpc_method()
        async def take(self, connection: ClientConnection, items: AsyncIterator[int]) -> None:
            await anext(aiter(items))
            await trio.sleep_forever()

    async with serving_in_memory(Taker(), options=Options(stream_window=2)) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        dialect = TrioWSCodec()
        await peer.send_frame(2, dialect.request("1", "take", (None,), streams={"0": "1/0"}))
        frame = await peer.receive_frame()
        assert frame is not None
        assert msgspec.msgpack.decode(frame.payload)["rpc"]["args"] == ["1/0", 2]
        item = {"source": 5, "rpc": {"type": "response", "call_id": "1/0", "response": 1, "is_stream": True}}
        for _ in range(10):
            await peer.send_frame(2, msgspec.msgpack.encode(item))
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == 1008
        assert "credit" in closed[1]
        await peer.send_close()


@pytest.mark.parametrize("binary", [False, True])
async def test_json_in_binary_says_in_which_frames_json_goes(binary: bool, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=Options(json_in_binary=binary)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        request = {"source": 5, "rpc": {"type": "request", "method": "wait", "args": [0], "call_id": "a"}}
        await peer.send_frame(1, msgspec.json.encode(request))
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.opcode == (2 if binary else 1)
        assert msgspec.json.decode(frame.payload)["rpc"]["response"] == 0
        request = {"source": 5, "rpc": {"type": "request", "method": "numbers", "args": [], "call_id": "b"}}
        await peer.send_frame(1, msgspec.json.encode(request))
        for number in range(5):
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.opcode == (2 if binary else 1)
            item = msgspec.json.decode(frame.payload)["rpc"]
            assert (item["call_id"], item["response"], item["is_stream"]) == ("b", number, True)
        await peer.send_close()


@pytest.mark.parametrize("name", ["max_concurrent_calls", "stream_window"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "10", None, True, math.nan])
def test_counts_of_calls_are_checked_at_once(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        Options(**{name: value})


async def test_webshocket_gets_no_code_that_it_does_not_know(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "webshocket.v1")]
        )
        await peer.send_frame(2, WebshocketCodec().request("1", "nobody"))
        frame = await peer.receive_frame()
        assert frame is not None
        assert msgspec.msgpack.decode(frame.payload)["rpc"]["error"] == -32601
        await peer.send_close()
