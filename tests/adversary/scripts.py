"""The actions of a random attacker, as data that hypothesis can generate, shrink and print.

A `Script` is an opening and a list of steps. `encode` returns the bytes of a step in the attacker's dialect.
Some are intentionally invalid in every dialect.

Invariant: the same script always has the same bytes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from hypothesis import strategies as st

from tests.adversary.hostile import BINARY, CLOSE, MORE, PING, PONG, TEXT, deflated, frame

if TYPE_CHECKING:
    import random

__all__ = ["DIALECTS", "Script", "Step", "answers", "encode", "random_steps", "scripts", "steps"]

Step = tuple[Any, ...]

DIALECTS = ("trio-ws.v1", "webshocket.v1", "jsonrpc", "json")
#: Ids as both sides generate them, and invalid ones.
IDS = (
    "1",
    "2",
    "3",
    "s1",
    "s2",
    "s3",
    "1/0",
    "2/0",
    "s1/0",
    "",
    "x" * 300,
    1,
    2,
    1.0,
    1.5,
    True,
    None,
    -1,
    "r1",
    '"1"',
)
METHODS = (
    *("echo", "plain", "wait", "page", "pages", "keep", "total", "fail", "ask", "tell", "numbers"),
    *("nobody", "", "x" * 300, "__abort__", "__credit__", "__subscribe__", "__unsubscribe__", "__methods__"),
    *("__deadline__", "rpc.cancel", "rpc.item", "rpc.data", "rpc.channel", "__other__"),
)
#: Values that are small when encoded and large in Python, as bytes of msgpack and JSON.
MANY = {
    "maps": (b"\x80", b"{}"),
    "lists": (b"\x90", b"[]"),
    "nulls": (b"\xc0", b"null"),
    "texts": (b"\xa2ab", b'"ab"'),
}
NAMES = ["a", "b", "room", "a*", "*", "[", "?", "x" * 256, "x" * 257, ""]
VALUES: tuple[Any, ...] = (
    *(
        None,
        0,
        1,
        -1,
        2**63,
        1.5,
        math.inf,
        math.nan,
        "",
        "1",
        "s1",
        "a",
        "\U0001f600" * 20,
        "x" * 500,
        b"\0\xff",
    ),
    *([], {}, [1], ["s1"], ["1/0"], [[[[[]]]]], {"a": {"b": 1}}, NAMES[:4], NAMES[:7] * 60, NAMES),
)
TIMES = (None, 0, 1e-9, 0.5, 3, 1e9, 1e308, -1, math.inf, math.nan, "1")
CREDITS = (None, 0, 1, 3, 1000, 2**31 - 1, 2**31, -1, 2**60, "1", 1.5)
STREAMS = (
    None,
    {},
    *(
        {str(place): stream}
        for place in (0, 1, 7, "items", "value")
        for stream in ("1/0", "s1/0", "x", "1", "")
    ),
    {"0": "1/0", "1": "1/0"},
    {"0": "1/0", "items": "2/0"},
    {str(i): f"1/{i}" for i in range(40)},
)
ERRORS: tuple[Any, ...] = (
    None,
    None,
    None,
    -32000,
    -32001,
    -32004,
    0,
    2**70,
    "1",
    1.5,
    True,
    {"code": -1},
    {"message": "x"},
    {},
)


def mixed(*kinds: tuple[int, st.SearchStrategy[Step]]) -> st.SearchStrategy[Step]:
    """Return a strategy that selects one of these, with the given weights."""
    every = [kind for times, kind in kinds for _ in range(times)]
    return st.integers(0, len(every) - 1).flatmap(every.__getitem__)


ids, values = st.sampled_from(IDS), st.sampled_from(VALUES)
small = st.integers(0, 4)

calls = st.tuples(
    st.just("call"),
    st.sampled_from(METHODS),
    st.lists(values, max_size=2),
    ids,
    st.sampled_from(TIMES),
    st.sampled_from(CREDITS),
    st.sampled_from(STREAMS),
    st.booleans(),
)
# Valid calls, so that later steps find running ones.
plain_calls = st.tuples(
    st.just("call"),
    st.sampled_from(METHODS[:11]),
    st.lists(values, max_size=1),
    st.sampled_from(IDS[:7]),
    st.none(),
    st.sampled_from([None, 1, 1000]),
    st.sampled_from([None, {"0": "1/0"}, {"items": "2/0"}]),
    st.just(False),
)
#: Responses to calls, and items and ends of streams, whether these exist or not.
answers = st.tuples(st.just("answer"), ids, values, st.sampled_from(ERRORS), st.booleans(), st.booleans())
packets = st.tuples(st.just("packet"), st.sampled_from([1, 2, 3, 4, 5, 0, 6, "4", None]), values)
amplified = st.tuples(
    st.just("many"),
    st.sampled_from(["echo", "wait", "nobody", "data", "answer", "__subscribe__"]),
    st.sampled_from(sorted(MANY)),
    ids,
)
batches = st.tuples(
    st.just("batch"), st.lists(calls | plain_calls | answers, max_size=3), st.sampled_from([1, 3, 40])
)
nested = st.tuples(st.just("nested"), st.sampled_from([1, 2, 30, 1500]))
frames = st.tuples(
    st.just("frame"),
    st.sampled_from([MORE, TEXT, BINARY, CLOSE, PING, PONG, 3, 11, 15]),
    st.sampled_from(
        [
            b"",
            b"x",
            b"\xff",
            b"{}",
            b"[]",
            b"\x80",
            b"\xc1",
            b"\x03\xe8",
            b"\x03\xeebye",
            b"x" * 126,
            b"x" * 3000,
        ]
    ),
    st.sampled_from([True, True, False]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([True, True, True, True, False]),
)
fragments = st.tuples(
    st.just("fragments"),
    st.sampled_from([b"", b"x", b"\xc3", b"x" * 100]),
    st.sampled_from([1, 5, 300]),
    st.booleans(),
)
deflate = st.tuples(st.just("deflated"), st.sampled_from(["text", "bomb", "blocks", "garbage"]))
lengths = st.tuples(st.just("length"), st.sampled_from([0, 127, 2**16, 2**31, 2**63 - 1, 2**64 - 1]))
raw = st.tuples(st.just("raw"), st.binary(max_size=40))

# Steps that cost an attacker little: short calls with long responses, or without a response.
cheap_calls = st.tuples(
    st.just("call"),
    st.sampled_from(
        ["page", "page", "fail", "nobody", "wait", "wait", "plain", "__subscribe__", "__methods__"]
    ),
    st.sampled_from([[], ["a"]]),
    st.sampled_from(["", "", "", "1", "1/0"]),
    st.none(),
    st.none(),
    st.none(),
    st.booleans(),
)
civil = mixed((3, plain_calls), (1, cheap_calls), (1, calls), (1, answers), (1, amplified), (1, batches))
wild = mixed(
    *((2, calls), (1, answers), (1, packets), (1, amplified), (1, batches), (1, nested), (2, frames)),
    *((1, fragments), (1, deflate), (1, lengths), (1, raw)),
)
flooded = mixed((5, cheap_calls), (2, plain_calls), (1, calls), (1, answers), (1, amplified), (1, batches))
wildly_flooded = mixed((1, packets), (2, frames), (1, calls), (1, answers))
times = st.sampled_from([5, 60, 400])
moves = mixed(
    (3, st.tuples(st.just("read"), st.booleans())),
    (3, st.tuples(st.just("wait"), st.sampled_from([0, 0.1, 1.0, 6.0]))),
    (1, st.tuples(st.just("eof"))),
    (1, st.tuples(st.just("reset"))),
)
#: The steps of an attacker that avoids immediate disconnection, and of one that does not.
civil_step = mixed((4, civil), (4, st.tuples(st.just("flood"), flooded, times)), (1, moves))
wild_step = mixed((2, civil), (4, wild), (1, st.tuples(st.just("flood"), wildly_flooded, times)), (1, moves))
steps = st.lists(civil_step, min_size=1, max_size=10) | st.lists(wild_step, min_size=1, max_size=10)

PATHS = (*["/calls"] * 7, "/", "/", "/nowhere", "/page")
HEADS = (
    b"GET / HTTP/1.1\r\n",
    b"GET /\r\n\r\n",
    b"\r\n" * 40,
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 5000,
    b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\r\n",
    b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\nGET /page HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\nhello",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nA\r\n" * 600,
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    + b"e" * 3000
    + b"\r\nA\r\n0\r\n\r\n",
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n"
    + b"a: b\r\n" * 300,
    b"POST /post HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"CONNECT / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


@dataclass(frozen=True)
class Script:
    """One attacker.

    Attributes:
        dialect: the offered subprotocol, or None.
        speaks: the dialect of its packets, usually the same.
        head: the data that it sends instead of an opening handshake, or None.
        path: the requested path.
        deflate: whether it offers compression.
        reads: whether it reads, until a step changes that.
        steps: the steps after the opening.
        cut: the number of bytes after which its connection breaks, or None.
        clean: whether the break looks like an end of stream.
        max_read: maximum number of bytes that the server receives at a time.
        latency: seconds in one direction.
        capacity: maximum number of bytes in the network.
        ends: how it disconnects: ``"close"``, ``"reset"`` or ``"stays"``.
    """

    dialect: str | None
    speaks: str
    head: bytes | None
    path: str
    deflate: bool
    reads: bool
    steps: list[Step]
    cut: int | None
    clean: bool
    max_read: int | None
    latency: float
    capacity: int
    ends: str


_dialects = st.sampled_from(
    [
        *((name, name) for name in DIALECTS),
        (None, "json"),
        (None, "jsonrpc"),
        ("trio-ws.v1", "json"),
        ("jsonrpc", "trio-ws.v1"),
    ]
)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Generate an attacker."""
    dialect, speaks = draw(_dialects)
    return Script(
        dialect=dialect,
        speaks=speaks,
        head=draw(st.sampled_from(HEADS)) if draw(small) == 0 else None,
        path=draw(st.sampled_from(PATHS)),
        deflate=draw(st.booleans()),
        reads=draw(st.booleans()),
        steps=draw(steps),
        cut=draw(st.integers(0, 3000)) if draw(small) == 0 else None,
        clean=draw(st.booleans()),
        max_read=draw(st.sampled_from([None, None, None, None, 50, 7])),
        latency=draw(st.sampled_from([0.0, 0.0, 0.05])),
        capacity=draw(st.sampled_from([400, 1500, 4000])),
        ends=draw(st.sampled_from(["close", "reset", "stays"])),
    )


def random_steps(rng: random.Random) -> list[Step]:
    """Generate steps without hypothesis, for a long-running program."""

    def one(most: int) -> Step:
        match rng.randrange(most):
            case 0 | 1 | 2:
                args = [rng.choice(VALUES) for _ in range(rng.randrange(3))]
                streams = rng.choice([None, None, *STREAMS])
                timeout, room, nested = rng.choice(TIMES), rng.choice(CREDITS), rng.random() < 0.5
                call_id = rng.choice(IDS)
                return ("call", rng.choice(METHODS), args, call_id, timeout, room, streams, nested)
            case 3:
                error = rng.choice(ERRORS)
                return (
                    "answer",
                    rng.choice(IDS),
                    rng.choice(VALUES),
                    error,
                    rng.random() < 0.5,
                    rng.random() < 0.5,
                )
            case 4:
                return ("packet", rng.choice([1, 2, 3, 4]), rng.choice(VALUES))
            case 5:
                what = rng.choice(sorted(MANY))
                return ("many", rng.choice(["echo", "wait", "data"]), what, rng.choice(IDS))
            case 6:
                return ("batch", [one(5) for _ in range(2)], rng.choice([1, 30]))
            case 7:
                return ("read", rng.random() < 0.5)
            case _:
                pass
        return (
            "frame",
            rng.choice([PING, PONG, TEXT, MORE]),
            rng.choice([b"", b"{}", b"\xff"]),
            True,
            False,
            True,
        )

    steps = [one(9) for _ in range(rng.randrange(1, 8))]
    return [
        step if rng.random() < 0.7 or step[0] == "read" else ("flood", step, rng.choice([5, 100]))
        for step in steps
    ]


# -- bytes ----------------------------------------------------------------------------------------------


def encode(step: Step, speaks: str, *, masked: bool = True) -> bytes:
    """Return the bytes of a step that sends data."""
    text = speaks in ("json", "jsonrpc")
    match step:
        case ("call" | "answer" | "packet", *_):
            return frame(TEXT if text else BINARY, _payload(step, speaks), masked=masked)
        case ("many", method, what, call_id):
            return frame(TEXT if text else BINARY, _many(method, what, call_id, speaks), masked=masked)
        case ("batch", members, count):
            payloads = [_payload(member, speaks) for member in members] * count
            if text:
                return frame(TEXT, b"[" + b",".join(payloads) + b"]", masked=masked)
            return b"".join(frame(BINARY, payload, masked=masked) for payload in payloads)
        case ("nested", depth):
            return frame(
                TEXT if text else BINARY,
                (b"[" if text else b"\x91") * depth + (b"]" * depth if text else b"\xc0"),
                masked=masked,
            )
        case ("frame", opcode, payload, fin, rsv1, honest):
            return frame(opcode, payload, fin=fin, rsv1=rsv1, masked=masked is honest)
        case ("fragments", payload, count, ends):
            first = frame(TEXT, payload, fin=False, masked=masked)
            middle: bytes = frame(MORE, payload, fin=False, masked=masked) * count
            return first + middle + (frame(MORE, b"", masked=masked) if ends else b"")
        case ("deflated", kind):
            blocks: dict[str, bytes] = {
                "text": deflated(b"hello"),
                "bomb": deflated(bytes(2**20)),
                "blocks": b"\x03\x00" * 2000 + b"\x00",
                "garbage": b"\xff" * 30,
            }
            return frame(BINARY, blocks[kind], rsv1=True, masked=masked)
        case ("length", size):
            return struct.pack("!BBQ", 0x82, masked << 7 | 127, size) + b"\0\0\0\0xyz"
        case ("raw", data):
            return bytes(data)  # from st.binary
        case _:
            pass
    raise AssertionError(step)


def _payload(step: Step, speaks: str) -> bytes:
    plain = _jsonrpc(step) if speaks == "jsonrpc" else _packet(step)
    try:
        return msgspec.json.encode(plain) if speaks in ("json", "jsonrpc") else msgspec.msgpack.encode(plain)
    except (OverflowError, TypeError, ValueError):
        return b"\xc1"  # the step cannot be encoded: neither msgpack nor JSON


def _packet(step: Step) -> dict[str, Any]:
    match step:
        case ("call", method, args, call_id, timeout, credits, streams, nested):
            rpc = {"type": "request", "method": method, "args": args, "call_id": call_id}
            rpc |= {"timeout": timeout, "credits": credits, "streams": streams, "nested": nested or None}
            return {"source": 5, "rpc": {key: value for key, value in rpc.items() if value is not None}}
        case ("answer", call_id, value, error, in_stream, at_end):
            rpc = {"type": "response", "call_id": call_id, "response": value, "error": error}
            return {"source": 5, "rpc": rpc | {"is_stream": in_stream, "is_end": at_end}}
        case ("packet", source, value):
            return {
                "source": source,
                "data": value,
                "channel": "a",
                "timestamp": 1.0,
                "correlation_id": value,
            }
        case _:
            pass
    raise AssertionError(step)


def _jsonrpc(step: Step) -> dict[str, Any]:
    match step:
        case ("call", method, args, call_id, *_):
            return {"jsonrpc": "2.0", "method": method, "params": args} | (
                {} if call_id == "" else {"id": call_id}
            )
        case ("answer", call_id, value, error, in_stream, at_end):
            if in_stream and not at_end:
                return {"jsonrpc": "2.0", "method": "rpc.item", "params": {"id": call_id, "item": value}}
            end = {"result": value} if error is None else {"error": {"code": error, "message": "no"}}
            if isinstance(error, dict):
                end = {"error": error}
            return {"jsonrpc": "2.0", "id": call_id, **end}
        case ("packet", source, value):
            return {"jsonrpc": "2.0", "method": "rpc.data", "params": {"data": value, "source": source}}
        case _:
            pass
    raise AssertionError(step)


def _many(method: str, what: str, call_id: Any, speaks: str) -> bytes:
    element = MANY[what][speaks in ("json", "jsonrpc")]
    count = 900 // (len(element) + 1)
    if speaks in ("json", "jsonrpc"):
        value = msgspec.Raw(b"[" + b",".join([element] * count) + b"]")
    else:
        value = msgspec.Raw(b"\xdc" + count.to_bytes(2, "big") + element * count)
    if method == "data":
        return _payload(("packet", 4, value), speaks)
    if method == "answer":
        return _payload(("answer", call_id, value, None, True, False), speaks)
    return _payload(("call", method, [value], call_id, None, None, None, False), speaks)
