"""Packets: encoding and decoding in each dialect, invalid packets, and compatibility with older peers."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import webshocket.packets as theirs
from hypothesis import example, given
from hypothesis import strategies as st
from webshocket.enum import PacketSource as TheirSource
from webshocket.enum import RPCErrorCode

from trio_ws.codecs.base import (
    MAX_NAME,
    Codec,
    DecodeError,
    Packet,
    PacketSource,
    Request,
    Response,
    path_in,
)
from trio_ws.codecs.packets import JSONPacketCodec, TrioWSCodec, TrioWSJSONCodec, WebshocketCodec
from trio_ws.errors import PacketError

if TYPE_CHECKING:
    from collections.abc import Callable

DIALECTS: list[Codec] = [TrioWSCodec(), TrioWSJSONCodec(), WebshocketCodec(), JSONPacketCodec()]
PLAIN: list[Codec] = [WebshocketCodec(), JSONPacketCodec()]
RPC = PacketSource.RPC
CODES = [-32601, -32602, -32603, -32000, -32001, -32002]

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
each_plain_dialect = pytest.mark.parametrize("dialect", PLAIN, ids=lambda dialect: dialect.name)

# Values that both formats encode unchanged: JSON has no bytes, and a smaller range of numbers.
names = st.text(max_size=20)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, width=32) | names
)
values = st.recursive(
    scalars.filter(lambda value: not (isinstance(value, float) and math.isinf(value))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def written(dialect: Codec, value: Any) -> bytes:
    """A packet that no encoder of ours would write."""
    return msgspec.msgpack.encode(value) if dialect.binary else msgspec.json.encode(value)


def read(dialect: Codec, payload: bytes) -> Any:
    """The map itself, without our own idea of a packet."""
    return msgspec.msgpack.decode(payload) if dialect.binary else msgspec.json.decode(payload)


def only(decoded: Packet | list[Packet]) -> Packet:
    assert isinstance(decoded, Packet)
    return decoded


def answer_to(dialect: Codec, payload: str | bytes) -> Any:
    """The response in the answer to a broken packet."""
    with pytest.raises(DecodeError) as caught:
        dialect.decode(payload)
    assert not caught.value.fatal
    assert caught.value.answer is not None
    packet = read(dialect, caught.value.answer)
    assert packet["source"] == 5
    return packet["rpc"]


def assert_fatal(dialect: Codec, payload: str | bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        dialect.decode(payload)
    assert caught.value.fatal
    assert caught.value.answer is None


# ---- The exact form ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (
            {"source": 5, "rpc": {"type": "request", "method": "add", "args": [1, 2], "call_id": "a1"}},
            Packet(RPC, rpc=Request("add", [1, 2], {}, "a1")),
        ),
        ({"source": 5, "rpc": {"type": "request", "method": "add"}}, Packet(RPC, rpc=Request("add"))),
        (
            {
                "source": 5,
                "rpc": {"type": "request", "method": "f", "kwargs": {"x": None}, "new": 1},
                "new": 2,
            },
            Packet(RPC, rpc=Request("f", kwargs={"x": None})),
        ),
        (
            {"source": 5, "rpc": {"type": "response", "call_id": "a", "response": "no", "error": -32601}},
            Packet(RPC, rpc=Response("a", "no", -32601)),
        ),
        (
            {"source": 5, "rpc": {"type": "response", "call_id": "a", "is_stream": True, "is_end": True}},
            Packet(RPC, rpc=Response("a", is_stream=True, is_end=True)),
        ),
        ({"source": 2, "channel": "news", "data": [1]}, Packet(PacketSource.CHANNEL, [1], "news")),
        (
            {"source": 4, "data": "x", "timestamp": 1, "correlation_id": "c"},
            Packet(PacketSource.CUSTOM, "x", timestamp=1.0, correlation_id="c"),
        ),
        ({"source": 1}, Packet(PacketSource.BROADCAST)),
        ({"source": 3, "data": None, "channel": None, "rpc": None}, Packet(PacketSource.UNKNOWN)),
    ],
)
@each_dialect
def test_packets_that_a_peer_may_send(dialect: Codec, packet: dict[str, object], expected: Packet) -> None:
    assert dialect.decode(written(dialect, packet)) == expected


@each_dialect
def test_the_encoded_packets(dialect: Codec) -> None:
    call = Request("f", call_id="7")
    wire = {
        dialect.result(call, 3): {"type": "response", "call_id": "7", "response": 3},
        dialect.result(call, None): {"type": "response", "call_id": "7"},
        dialect.item(call, 3): {"type": "response", "call_id": "7", "response": 3, "is_stream": True},
        dialect.end(call): {"type": "response", "call_id": "7", "is_stream": True, "is_end": True},
        dialect.error(call, -32601, ""): {
            "type": "response",
            "call_id": "7",
            "response": "",
            "error": -32601,
        },
        dialect.error(call, -32603, "x", stream=True): {
            "type": "response",
            "call_id": "7",
            "response": "x",
            "error": -32603,
            "is_stream": True,
            "is_end": True,
        },
        dialect.request("8", "g", (1,), {"k": 2}): {
            "type": "request",
            "call_id": "8",
            "method": "g",
            "args": [1],
            "kwargs": {"k": 2},
        },
        dialect.request("8", "g"): {"type": "request", "call_id": "8", "method": "g"},
        dialect.abort("8"): {"type": "request", "method": "__abort__", "args": ["8"]},
    }
    for payload, expected in wire.items():
        assert payload is not None
        assert read(dialect, payload) == {"source": 5, "rpc": expected}
    assert dialect.dropped(call) is None


@each_dialect
def test_encoding_of_data_packets(dialect: Codec) -> None:
    assert read(dialect, dialect.data({"a": 1})) == {"source": 4, "data": {"a": 1}}
    assert read(dialect, dialect.data("x", source=PacketSource.CHANNEL, channel="c")) == {
        "source": 2,
        "data": "x",
        "channel": "c",
    }
    packet = Packet(PacketSource.BROADCAST, None, timestamp=2.5, correlation_id="i")
    assert read(dialect, dialect.packet(packet)) == {"source": 1, "timestamp": 2.5, "correlation_id": "i"}


def test_bytes_of_the_documentation() -> None:
    request = TrioWSCodec().request("7", "add", (1, 2))
    assert request == (
        b"\x82\xa6source\x05\xa3rpc\x84\xa4type\xa7request\xa6method\xa3add\xa4args\x92\x01\x02\xa7call_id\xa17"
    )
    assert JSONPacketCodec().request("7", "add", (1, 2)) == (
        b'{"source":5,"rpc":{"type":"request","method":"add","args":[1,2],"call_id":"7"}}'
    )


def test_extensions_of_trio_ws() -> None:
    dialect = TrioWSCodec()
    sent = dialect.request("7", "up", (None,), timeout=2.5, credits=64, streams={"0": "7/0"})
    assert read(dialect, sent)["rpc"] == {
        "type": "request",
        "method": "up",
        "args": [None],
        "call_id": "7",
        "timeout": 2.5,
        "credits": 64,
        "streams": {"0": "7/0"},
    }
    request = only(dialect.decode(sent)).rpc
    assert request == Request("up", [None], {}, "7", 2.5, 64, {"0": "7/0"})
    counted = only(dialect.decode(dialect.request("7", "up", credits=64, credit_bytes=4096))).rpc
    assert counted == Request("up", call_id="7", credits=64, credit_bytes=4096)
    assert read(dialect, dialect.credit("7", 32, 4096))["rpc"] == {
        "type": "request",
        "method": "__credit__",
        "args": ["7", 32],
        "kwargs": {"bytes": 4096},
    }
    assert read(dialect, dialect.deadline("7", 4.0))["rpc"] == {
        "type": "request",
        "method": "__deadline__",
        "args": ["7", 4.0],
    }
    assert read(dialect, dialect.goaway(["7"]))["rpc"] == {
        "type": "request",
        "method": "__goaway__",
        "args": [["7"]],
    }
    assert isinstance(request, Request)
    assert read(dialect, dialect.error(request, -32099, "later", {"retry_after": 1.5}) or b"")["rpc"] == {
        "type": "response",
        "call_id": "7",
        "response": "later",
        "error": -32099,
        "is_stream": True,
        "is_end": True,
        "error_data": {"retry_after": 1.5},
    }


def test_no_credit_at_all_is_a_stream_call_too() -> None:
    dialect = TrioWSCodec()
    request = only(dialect.decode(dialect.request("7", "count", credits=0))).rpc
    assert isinstance(request, Request)
    assert request.credits == 0
    assert read(dialect, dialect.error(request, -32601, "no") or b"")["rpc"]["is_end"] is True


@each_plain_dialect
def test_nothing_new_is_taken_from_a_plain_peer(dialect: Codec) -> None:
    packet = {
        "source": 5,
        "rpc": {
            "type": "request",
            "method": "f",
            "timeout": 1,
            "credits": 2,
            "streams": {"0": "s"},
            "credit_bytes": 9,
        },
    }
    assert only(dialect.decode(written(dialect, packet))).rpc == Request("f")


@each_plain_dialect
def test_nothing_new_is_asked_of_a_plain_peer(dialect: Codec) -> None:
    with pytest.raises(PacketError, match="credits"):
        dialect.credit("7", 1, 4096)
    with pytest.raises(PacketError, match="deadlines"):
        dialect.deadline("7", 4.0)
    with pytest.raises(PacketError, match="no goaway"):
        dialect.goaway([])
    with pytest.raises(PacketError, match="stream"):
        dialect.request("7", "f", (None,), streams={"0": "7/0"})


@each_dialect
@given(args=st.lists(values, max_size=4), kwargs=st.dictionaries(names, values, max_size=3), call_id=names)
def test_requests_come_back(
    dialect: Codec, args: list[object], kwargs: dict[str, object], call_id: str
) -> None:
    sent = dialect.request(call_id, "method", args, kwargs)
    assert only(dialect.decode(sent)).rpc == Request("method", args, kwargs, call_id)
    if not dialect.binary:
        assert only(dialect.decode(sent.decode())).rpc == Request("method", args, kwargs, call_id)


@each_dialect
@given(value=values, call_id=names)
def test_answers_come_back(dialect: Codec, value: object, call_id: str) -> None:
    call = Request("f", call_id=call_id)
    assert only(dialect.decode(dialect.result(call, value) or b"")).rpc == Response(call_id, value)
    assert only(dialect.decode(dialect.item(call, value) or b"")).rpc == Response(
        call_id, value, is_stream=True
    )
    assert only(dialect.decode(dialect.end(call) or b"")).rpc == Response(
        call_id, is_stream=True, is_end=True
    )


@given(
    timeout=st.none() | st.floats(0, 1e9),
    credits=st.none() | st.integers(0, 2**31 - 1),
    streams=st.none() | st.dictionaries(names, names, min_size=1, max_size=3),
    data=values,
)
def test_all_of_trio_ws_comes_back(
    timeout: float | None, credits: int | None, streams: dict[str, str] | None, data: object
) -> None:
    dialect = TrioWSCodec()
    sent = dialect.request("7", "f", timeout=timeout, credits=credits, streams=streams)
    request = only(dialect.decode(sent)).rpc
    assert request == Request("f", [], {}, "7", timeout, credits, streams)
    assert isinstance(request, Request)
    stream = credits is not None
    error = only(dialect.decode(dialect.error(request, 5, "text", data) or b"")).rpc
    assert error == Response("7", "text", 5, stream, stream, data)


@each_dialect
@given(
    source=st.sampled_from([source for source in PacketSource if source is not RPC]),
    data=values,
    channel=st.none() | names,
)
def test_data_comes_back(dialect: Codec, source: PacketSource, data: object, channel: str | None) -> None:
    sent = dialect.data(data, source=source, channel=channel)
    assert dialect.decode(sent) == Packet(source, data, channel)


def test_values_that_one_format_writes_in_its_own_way() -> None:
    call = Request("f", call_id="7")
    when = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    number = uuid.UUID(int=7)
    for value, in_msgpack, in_json in [
        (b"\x00\xff", b"\x00\xff", "AP8="),
        (when, msgspec.msgpack.decode(msgspec.msgpack.encode(when)), "2026-01-02T03:04:05Z"),
        (decimal.Decimal("1.50"), "1.50", "1.50"),
        (number, str(number), str(number)),
        ({1: 2}, {1: 2}, {"1": 2}),
        ((1, {2}), [1, [2]], [1, [2]]),
    ]:
        msgpack = read(TrioWSCodec(), TrioWSCodec().result(call, value))["rpc"]["response"]
        json = read(JSONPacketCodec(), JSONPacketCodec().result(call, value))["rpc"].get("response")
        assert json == in_json
        assert msgpack == in_msgpack


def test_json_has_no_number_for_nan() -> None:
    call = Request("f", call_id="7")
    for number in (math.nan, math.inf):
        assert only(JSONPacketCodec().decode(JSONPacketCodec().result(call, number))).rpc == Response(
            "7", None
        )
    answer = only(TrioWSCodec().decode(TrioWSCodec().result(call, math.inf))).rpc
    assert answer == Response("7", math.inf)


# ---- Values that cannot be encoded ---------------------------------------------------------------------


def cycle() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


UNSENDABLE = [object(), cycle(), "\ud800", 1 + 2j, {object(): 1}, [ValueError("x")]]


@each_dialect
@pytest.mark.parametrize("value", UNSENDABLE, ids=lambda value: type(value).__name__)
def test_values_that_cannot_be_sent(dialect: Codec, value: object) -> None:
    call = Request("f", call_id="7")

    attempts: list[Callable[[], object]] = [
        lambda: dialect.result(call, value),
        lambda: dialect.item(call, value),
        lambda: dialect.request("8", "g", (value,)),
        lambda: dialect.data(value),
    ]
    for attempt in attempts:
        with pytest.raises(PacketError, match="cannot be sent") as caught:
            attempt()
        assert caught.value.__cause__ is not None
        assert not isinstance(caught.value, DecodeError)


def test_numbers_past_64_bits() -> None:
    with pytest.raises(PacketError):
        TrioWSCodec().data(2**64)
    assert only(JSONPacketCodec().decode(JSONPacketCodec().data(2**64))).data == 2**64


@each_dialect
@pytest.mark.parametrize("value", UNSENDABLE, ids=lambda value: type(value).__name__)
def test_an_error_is_sent_whatever_is_in_it(dialect: Codec, value: object) -> None:
    call = Request("f", call_id="7")
    sent = dialect.error(call, -32001, "bad \ud800", value)
    assert only(dialect.decode(sent or b"")).rpc == Response("7", "bad ?", -32001)
    sent = dialect.error(call, 2**70, "text", value)
    assert only(dialect.decode(sent or b"")).rpc == Response("7", "text", -32001)


# ---- Malformed packets ---------------------------------------------------------------------------------


def request_with(**fields: object) -> dict[str, object]:
    return {"source": 5, "rpc": {"type": "request", "method": "f", "call_id": "7", **fields}}


@pytest.mark.parametrize(
    ("packet", "path"),
    [
        (request_with(method=5), "$.rpc.method"),
        (request_with(method=None), "$.rpc.method"),
        (request_with(method="x" * (MAX_NAME + 1)), "$.rpc.method"),
        (request_with(args={"a": 1}), "$.rpc.args"),
        (request_with(args=5), "$.rpc.args"),
        (request_with(kwargs=[1]), "$.rpc.kwargs"),
        (request_with() | {"source": 6}, "$.source"),
        (request_with() | {"source": "5"}, "$.source"),
        (request_with() | {"source": 4}, "$.rpc"),
        (request_with() | {"channel": 1}, "$.channel"),
        ({"rpc": request_with()["rpc"]}, "$"),
        ({"source": 5, "rpc": {"type": "request", "call_id": "7"}}, "$.rpc"),
    ],
)
@each_dialect
def test_a_broken_request_is_answered_with_its_path(
    dialect: Codec, packet: dict[str, object], path: str
) -> None:
    response = answer_to(dialect, written(dialect, packet))
    assert response["call_id"] == "7"
    assert response["error"] == -32602
    assert path_in(response["response"]) == path
    assert response.get("error_data") == ({"path": path} if dialect.supports_extensions else None)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"timeout": -1}, "$.rpc.timeout"),
        ({"timeout": math.nan}, "$.rpc.timeout"),
        ({"timeout": "5"}, "$.rpc.timeout"),
        ({"credits": -1}, "$.rpc.credits"),
        ({"credits": 2**31}, "$.rpc.credits"),
        ({"credits": 1.5}, "$.rpc.credits"),
        ({"streams": ["7/0"]}, "$.rpc.streams"),
        ({"streams": {"0": 7}}, "$.rpc.streams[...]"),
        ({"streams": {"0": "x" * (MAX_NAME + 1)}}, "$.rpc.streams[...]"),
    ],
)
def test_a_broken_field_of_trio_ws_is_answered_with_its_path(fields: dict[str, object], path: str) -> None:
    dialect = TrioWSCodec()
    assert answer_to(dialect, written(dialect, request_with(**fields)))["error_data"] == {"path": path}


@pytest.mark.parametrize(
    "packet",
    [
        {"source": 6},
        {"source": 0},
        {"source": True},
        {"source": 4.5},
        {"source": 5},
        {"source": 5, "rpc": {}},
        {"source": 5, "rpc": {"type": "request"}},
        {"source": 5, "rpc": {"type": "query", "call_id": "7"}},
        {"source": 5, "rpc": {"type": "response"}},
        {"source": 5, "rpc": {"type": "response", "call_id": "7", "error": "no"}},
        {"source": 4, "rpc": {"type": "response", "call_id": "7"}},
        {"source": 5, "rpc": {"type": "response", "call_id": "7" * (MAX_NAME + 1)}},
        request_with(call_id="") | {"source": 6},
        request_with(call_id=7),
        request_with(call_id=None),
        request_with(call_id="7" * (MAX_NAME + 1)),
    ],
)
@each_dialect
def test_an_error_that_cannot_be_answered_is_fatal(dialect: Codec, packet: object) -> None:
    assert_fatal(dialect, written(dialect, packet))


@pytest.mark.parametrize("value", [None, 5, "text", [1], {}, {"hello": "world"}, {"rpc": 1}])
def test_json_that_is_not_a_packet_is_data(value: object) -> None:
    for dialect in (TrioWSCodec(), WebshocketCodec()):
        assert_fatal(dialect, written(dialect, value))
    payload = written(JSONPacketCodec(), value)
    assert JSONPacketCodec().decode(payload) == Packet(PacketSource.UNKNOWN, value)
    assert JSONPacketCodec().decode(payload.decode()) == Packet(PacketSource.UNKNOWN, value)


@each_dialect
def test_ids_of_the_longest_length(dialect: Codec) -> None:
    call_id = "\u20ac" * MAX_NAME
    packet = only(dialect.decode(written(dialect, request_with(call_id=call_id, method=call_id))))
    assert packet.rpc == Request(call_id, call_id=call_id)


def test_bytes_that_are_nothing() -> None:
    good_msgpack, good_json = TrioWSCodec().data(1), JSONPacketCodec().data(1)
    deep_msgpack = b"\x82\xa6source\x04\xa4data" + b"\x91" * 100_000 + b"\x01"
    deep_json = b'{"source":4,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for payload in (b"", b"\xc1", good_msgpack[:-1], good_msgpack + b"\x00", deep_msgpack, "text"):
        assert_fatal(TrioWSCodec(), payload)
    bad = (
        b"",
        "",
        b"{",
        "{]",
        good_json[:-1],
        good_json + b"1",
        deep_json,
        b"\xff",
        '{"source":4,"data":"\ud800"}',
    )
    for payload in bad:
        assert_fatal(JSONPacketCodec(), payload)
    assert_fatal(TrioWSCodec(), b"\x82\xa6source\x04\xa4data\xa1\xff")
    assert_fatal(JSONPacketCodec(), b'{"source":4,"data":"\xff"}')
    assert_fatal(JSONPacketCodec(), b'{"source":4,"data":1e999}')


def test_a_request_with_invalid_utf8_is_answered() -> None:
    in_msgpack = TrioWSCodec().request("7", "f", ("ab",)).replace(b"\xa2ab", b"\xa2\xff\xff")
    in_json = JSONPacketCodec().request("7", "f", ("ab",)).replace(b"ab", b"\xff\xff")
    for dialect, payload in [(TrioWSCodec(), in_msgpack), (JSONPacketCodec(), in_json)]:
        response = answer_to(dialect, payload)
        assert (response["call_id"], response["error"]) == ("7", -32602)
        assert "utf-8" in response["response"].lower()  # the text differs between versions of msgspec


def test_an_answer_does_not_quote_much() -> None:
    packet = {"source": 5, "rpc": {"type": "response", "call_id": "7", "is_stream": "x" * 100_000}}
    with pytest.raises(DecodeError) as caught:
        JSONPacketCodec().decode(written(JSONPacketCodec(), packet))
    assert len(str(caught.value)) < 500
    packet = {"source": 5, "rpc": {"type": "x" * 100_000, "call_id": "7"}}
    with pytest.raises(DecodeError) as caught:
        JSONPacketCodec().decode(written(JSONPacketCodec(), packet))
    assert len(str(caught.value)) < 500
    assert path_in(str(caught.value)) == "$.rpc.type"


def try_to_decode(dialect: Codec, payload: str | bytes) -> None:
    try:
        packet = only(dialect.decode(payload))
    except DecodeError as exc:
        assert exc.fatal is (exc.answer is None) or exc.packets
        if exc.answer is not None:
            response = only(dialect.decode(exc.answer)).rpc
            assert isinstance(response, Response)
            assert response.error == -32602
    else:
        assert (packet.rpc is not None) is (packet.source is RPC)


GOOD = [
    TrioWSCodec().request(
        "7", "f", (1, "two", b"3", None), {"k": [1.5]}, timeout=1, credits=2, streams={"0": "7/0"}
    ),
    TrioWSCodec().error(Request("f", call_id="7"), -32602, "text", {"path": "$"}),
    JSONPacketCodec().request("7", "f", (1, "two", None), {"k": [1.5]}),
    JSONPacketCodec().item(Request("f", call_id="7"), "item"),
]


@given(payload=st.binary(max_size=60))
@example(payload=b"\x81\xa6source\xcf\xff\xff\xff\xff\xff\xff\xff\xff")
@example(payload=b"\x82\xa6source\x04\xa4data\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff")
@example(payload=b"\x82\xa6source\x04\xa4data\xc7\x0c\xff" + b"\x7f" * 12)
@example(payload=b"\x82\xa6source\x04\xa4data\xdd\xff\xff\xff\xff")
@example(payload=b"\x82\xa6source\x04\xa4data\x81\x81\x01\x02\x03")
@example(payload=b'{"source":4,"data":' + b"9" * 5000 + b"}")
def test_any_bytes_decode_or_raise_ours(payload: bytes) -> None:
    for dialect in DIALECTS:
        try_to_decode(dialect, payload)


@given(text=st.text(max_size=60))
def test_any_text_decodes_or_raises_ours(text: str) -> None:
    for dialect in DIALECTS:
        try_to_decode(dialect, text)


@given(
    payload=st.sampled_from(GOOD), at=st.integers(0, 200), new=st.binary(max_size=3), gone=st.integers(0, 3)
)
def test_any_damage_to_a_packet_decodes_or_raises_ours(
    payload: bytes, at: int, new: bytes, gone: int
) -> None:
    damaged = payload[:at] + new + payload[at + gone :]
    for dialect in DIALECTS:
        try_to_decode(dialect, damaged)


@given(packet=st.dictionaries(st.sampled_from(["source", "data", "channel", "rpc"]), values))
def test_any_map_decodes_or_raises_ours(packet: dict[str, object]) -> None:
    for dialect in DIALECTS:
        try_to_decode(dialect, written(dialect, packet))


# ---- Peers that support only webshocket.v1 -------------------------------------------------------------

RPC_KEYS = {
    "request": {"type", "method", "args", "kwargs", "call_id"},
    "response": {"type", "call_id", "response", "error", "is_stream", "is_end"},
}


def assert_plain(packet: Any) -> None:
    """Only the keys and codes that webshocket 0.5.2 knows."""
    assert packet.keys() <= {"source", "data", "channel", "rpc", "timestamp", "correlation_id"}
    assert packet["source"] in {1, 2, 3, 4, 5}
    rpc = packet.get("rpc")
    if rpc is not None:
        assert rpc.keys() <= RPC_KEYS[rpc["type"]]
        assert rpc.get("error") in {None, *CODES}


def everything_written(dialect: Codec, value: object, code: int) -> list[bytes]:
    call = Request("f", call_id="7", credits=3)
    written_ones = [
        dialect.result(call, value),
        dialect.item(call, value),
        dialect.end(call),
        dialect.error(call, code, "text", value),
        dialect.request("8", "g", [value], {"k": value}, timeout=2.5, credits=4),
        dialect.abort("8"),
        dialect.data(value),
        dialect.data(value, source=PacketSource.CHANNEL, channel="c"),
        dialect.packet(Packet(PacketSource.BROADCAST, value, timestamp=1.0, correlation_id="i")),
    ]
    return [payload for payload in written_ones if payload is not None]


@each_plain_dialect
@given(value=values, code=st.sampled_from([*CODES, -32003, -32004, -32700]) | st.integers(-(2**70), 2**70))
def test_nothing_new_is_sent_to_a_plain_peer(dialect: Codec, value: object, code: int) -> None:
    for payload in everything_written(dialect, value, code):
        assert_plain(read(dialect, payload))
    try:
        dialect.decode(written(dialect, request_with(args=value)))
    except DecodeError as exc:
        assert exc.answer is not None
        assert_plain(read(dialect, exc.answer))


@each_plain_dialect
@given(value=values, code=st.integers(-(2**70), 2**70))
def test_webshocket_itself_reads_what_we_write(dialect: Codec, value: object, code: int) -> None:
    decode = theirs.deserialize if dialect.binary else theirs._json_decoder.decode
    result, item, end, error, request, abort, *data = (
        cast("Any", decode(payload)) for payload in everything_written(dialect, value, code)
    )
    assert (result.rpc.call_id, result.rpc.response, result.rpc.error) == ("7", value, None)
    assert (result.rpc.is_stream, result.rpc.is_end) == (False, False)
    assert (item.rpc.response, item.rpc.is_stream, item.rpc.is_end) == (value, True, False)
    assert (end.rpc.response, end.rpc.error, end.rpc.is_stream, end.rpc.is_end) == (None, None, True, True)
    assert error.rpc.response == "text"
    assert error.rpc.error is (RPCErrorCode(code) if code in CODES else RPCErrorCode.APPLICATION_ERROR)
    assert (error.rpc.is_stream, error.rpc.is_end) == (True, True)
    assert (request.rpc.method, request.rpc.args, request.rpc.kwargs) == ("g", [value], {"k": value})
    assert request.rpc.call_id == "8"
    assert (abort.rpc.method, abort.rpc.args) == ("__abort__", ["8"])
    assert [packet.data for packet in data] == [value] * 3
    assert (data[1].channel, data[2].timestamp, data[2].correlation_id) == ("c", 1.0, "i")


@each_plain_dialect
@given(value=values)
def test_we_read_what_webshocket_itself_writes(dialect: Codec, value: object) -> None:
    encode = theirs.serialize if dialect.binary else theirs._json_encoder.encode

    def sent(**fields: Any) -> Packet:
        return only(dialect.decode(encode(theirs.Packet(**fields))))

    their_request = theirs.RPCRequest(method="f", args=(value,), kwargs={"k": value})
    source = TheirSource.RPC
    assert sent(source=source, rpc=their_request).rpc == Request(
        "f", [value], {"k": value}, their_request.call_id
    )
    abort = sent(source=source, rpc=theirs.RPCRequest(method="__abort__", args=("7",))).rpc
    assert isinstance(abort, Request)
    assert (abort.method, abort.args) == ("__abort__", ["7"])
    assert sent(source=source, rpc=theirs.RPCResponse(call_id="7", response=value)).rpc == Response(
        "7", value
    )
    failed = theirs.RPCResponse(call_id="7", response="no", error=RPCErrorCode.ACCESS_DENIED)
    assert sent(source=source, rpc=failed).rpc == Response("7", "no", -32002)
    ended = theirs.RPCResponse(call_id="7", is_stream=True, is_end=True)
    assert sent(source=source, rpc=ended).rpc == Response("7", is_stream=True, is_end=True)
    assert sent(source=TheirSource.CUSTOM, data=value) == Packet(PacketSource.CUSTOM, value)
