"""Malformed packets are answered, or the connection is closed with a code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Options, WebSocketHandler, rpc_method
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

pack = msgspec.msgpack.encode
OPTIONS = Options(ping_interval=None)


class Handler(WebSocketHandler):
    @rpc_method()
    async def ok(self, connection: ClientConnection) -> str:
        return "ok"


def request(**changes: Any) -> dict[str, Any]:
    rpc = {"type": "request", "method": "ok", "args": [], "kwargs": {}, "call_id": "1", **changes}
    return {"source": 5, "rpc": {key: value for key, value in rpc.items() if value is not ...}}


#: Malformed packets with a usable call_id, and those without one.
ANSWERED = {
    "method is a number": request(method=7),
    "no method": request(method=...),
    "a huge method": request(method="x" * 10_000),
    "args is a string": request(args="xy"),
    "kwargs is a list": request(kwargs=[1]),
    "kwargs has numbers for names": request(kwargs={1: 2}),
    "a wrong source": {**request(), "source": 77},
    "a text for a source": {**request(), "source": "5"},
}
CLOSED = {
    "not a map": [1, 2, 3],
    "nothing": None,
    "no source": {"data": 1},
    "source without rpc": {"source": 5},
    "a call_id that is a number": request(call_id=1),
    "a huge call_id": request(call_id="x" * 10_000),
    "an unknown type": request(type="question"),
    "no type": request(type=...),
}


async def meet(memory: Any, subprotocol: str | None) -> RawPeer:
    headers = [] if subprotocol is None else [("Sec-WebSocket-Protocol", subprotocol)]
    return await RawPeer.connect(await memory.stream(), headers=headers)


@pytest.mark.parametrize(
    ("subprotocol", "what"),
    [
        (subprotocol, what)
        for subprotocol in ("trio-ws.v1", "webshocket.v1", None)
        for what in ANSWERED
        if subprotocol is not None or what != "kwargs has numbers for names"  # JSON has only string keys
    ],
)
async def test_packets_with_an_id_are_answered(
    what: str, subprotocol: str | None, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        peer = await meet(memory, subprotocol)
        for packet, error in ((ANSWERED[what], -32602), (request(), None)):
            if subprotocol is None:
                await peer.send_frame(1, json.dumps(packet).encode())
            else:
                await peer.send_frame(2, pack(packet))
            frame = await peer.receive_frame()
            assert frame is not None
            rpc = (json.loads if subprotocol is None else msgspec.msgpack.decode)(frame.payload)["rpc"]
            assert (rpc["call_id"], rpc.get("error")) == ("1", error)
        await peer.send_close()


@pytest.mark.parametrize("subprotocol", ["trio-ws.v1", "webshocket.v1"])
@pytest.mark.parametrize("what", CLOSED)
async def test_packets_without_an_id_close_with_1007(
    what: str, subprotocol: str, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        peer = await meet(memory, subprotocol)
        await peer.send_frame(2, pack(CLOSED[what]))
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == 1007
        assert closed[1]
        await peer.send_close()


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"",
        b"\x81",
        pack(request()) + b"x",
        b"\x91" * 5000 + b"\xc0",
        b"\x82\xa6source\x05\xa3rpc" + b"\x81\xa1x" * 5000 + b"\xc0",
        b"\x81\xa6source\xa3\xff\xfe\xfd",
        b"\xdf\xff\xff\xff\xff",
    ],
)
async def test_invalid_msgpack(payload: bytes, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        peer = await meet(memory, "trio-ws.v1")
        await peer.send_frame(2, payload)
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == 1007
        await peer.send_close()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"jsonrpc": "2.0", "method"', -32700),
        (b'{"jsonrpc": "2.0"}', -32600),
        (b"[]", -32600),
        (b'[1, 2, {"jsonrpc": "2.0"}]', -32600),
        (b'{"jsonrpc": "1.0", "method": "ok", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "ok", "id": [1]}', -32600),
        (b'{"jsonrpc": "2.0", "method": "ok", "id": true}', -32600),
        (b"[" * 5000, -32700),
    ],
)
async def test_json_rpc_answers_all_and_lives(payload: bytes, code: int, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        peer = await meet(memory, "jsonrpc")
        await peer.send_frame(1, payload)
        frame = await peer.receive_frame()
        assert frame is not None
        answers = json.loads(frame.payload)
        for answer in answers if isinstance(answers, list) else [answers]:
            assert answer["error"]["code"] == code
            assert answer["id"] in (None, 1)
        await peer.send_frame(1, b'{"jsonrpc": "2.0", "method": "ok", "id": 2}')
        frame = await peer.receive_frame()
        assert frame is not None
        assert json.loads(frame.payload)["result"] == "ok"
        await peer.send_close()


@examples(150)
@given(
    st.sampled_from(["trio-ws.v1", "webshocket.v1", "jsonrpc", None]),
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=60)), max_size=5),
)
@example(None, [(1, b"[")])
def test_no_bytes_leave_a_dead_socket(subprotocol: str | None, messages: list[tuple[int, bytes]]) -> None:
    """After random data, the connection still answers, or was closed with a code."""

    async def main() -> None:
        async with serving_in_memory(Handler(), options=OPTIONS) as memory:
            peer = await meet(memory, subprotocol)
            try:
                for opcode, payload in messages:
                    text = payload if opcode == 2 else payload.decode("latin-1").encode()
                    await peer.send_frame(opcode, text)
                good: Any = request(call_id="still there")
                if subprotocol in ("trio-ws.v1", "webshocket.v1"):
                    await peer.send_frame(2, pack(good))
                if subprotocol is None:
                    await peer.send_frame(1, json.dumps(good).encode())
                if subprotocol in ("jsonrpc", None):  # the data may have selected JSON-RPC
                    await peer.send_frame(1, b'{"jsonrpc": "2.0", "method": "ok", "id": "still there"}')
            except trio.BrokenResourceError:
                pass
            while True:
                frame = await peer.receive_frame()
                assert frame is not None
                if frame.opcode == 8 or b"still there" in frame.payload:
                    break
            await peer.send_close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
