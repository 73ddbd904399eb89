"""The fast path for plain calls reads and writes the same as the general code, for any bytes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.codecs.base import DecodeError, Packet, PacketSource, PlainCalls, Request, Response
from trio_ws.codecs.packets import TrioWSCodec, TrioWSJSONCodec, WebshocketCodec
from trio_ws.protocol._accel import whole_frame
from trio_ws.protocol.framing import server_frame
from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from trio_ws._types import Value

ONLY_C = pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")

CODEC = TrioWSCodec()
encode = msgspec.msgpack.encode

names = st.text(min_size=1, max_size=20) | st.text(alphabet="aé€😀", min_size=60, max_size=64)
ids = names.filter(lambda text: "/" not in text)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=255)
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
#: Maps with the keys of packets, and with any values. Few of them are packets.
nearly = st.dictionaries(
    st.sampled_from(["source", "rpc", "data"]),
    st.just(5)
    | scalars
    | st.dictionaries(
        st.sampled_from(
            [
                *("type", "method", "args", "kwargs", "call_id", "response", "error", "nested"),
                *("is_stream", "is_end", "error_data"),
            ]
        ),
        st.sampled_from(["request", "response", "add", None, False]) | trees,
        max_size=9,
    ),
    max_size=3,
)


def plain_calls() -> PlainCalls:
    assert CODEC.plain_calls is not None
    return CODEC.plain_calls


def agrees(payload: bytes) -> bool:
    """Check that a payload is not plain, or is the same in general. Returns whether it is plain."""
    found = plain_calls().read(payload)
    if found is None:
        return False
    method, value, call_id = found
    rpc = Response(call_id, value) if method is None else Request(method, value, {}, call_id)
    assert CODEC.decode(payload) == Packet(PacketSource.RPC, rpc=rpc)
    # 1, 1.0 and True are equal.
    decoded = CODEC.decode(payload).rpc
    if isinstance(decoded, Request):
        assert list(map(type, decoded.args)) == list(map(type, value))
    else:
        assert decoded is not None
        assert type(decoded.response) is type(value)
    return True


@ONLY_C
@given(names, st.lists(scalars, max_size=15), ids)
def test_a_call_with_scalar_arguments_is_plain(method: str, args: list[Value], call_id: str) -> None:
    for codec in CODEC, WebshocketCodec():
        assert agrees(codec.request(call_id, method, args))
    rpc = {"kwargs": {}, "call_id": call_id, "method": method, "args": args, "type": "request"}
    assert agrees(encode({"rpc": rpc, "source": 5}))


@ONLY_C
@given(ids, scalars)
def test_a_response_with_a_scalar_is_plain(call_id: str, value: Value) -> None:
    payload = CODEC.result(Request("", call_id=f"{call_id}/1"), value)
    assert agrees(payload)
    assert not agrees(payload[:-1])


@ONLY_C
@given(ids, scalars)
def test_a_response_of_webshocket_is_plain(call_id: str, value: Value) -> None:
    """webshocket 0.5.2 writes the fields of a response that have their defaults, too."""
    rpc = {"type": "response", "call_id": call_id, "response": value}
    assert agrees(encode({"source": 5, "rpc": rpc | {"error": None, "is_stream": False, "is_end": False}}))
    for different in {"error": 1}, {"is_stream": True}, {"is_end": True}, {"is_stream": None}:
        payload = encode({"source": 5, "rpc": rpc | different})
        assert plain_calls().read(payload) is None


@given(names, st.lists(trees, min_size=1, max_size=4), ids)
def test_a_request_is_written_as_its_packet(method: str, args: list[Value], call_id: str) -> None:
    packet = Packet(PacketSource.RPC, rpc=Request(method, args, {}, call_id))
    assert CODEC.request(call_id, method, args) == CODEC.packet(packet)
    assert CODEC.request(call_id, method, tuple(args)) == CODEC.packet(packet)


@ONLY_C
@given(nearly)
def test_anything_else_is_left_to_the_general_code(packet: object) -> None:
    agrees(encode(packet))


@ONLY_C
@given(st.binary(max_size=80))
@example(b"\x82\xa6source\x05\xa6source\x05")
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m" * 257, "call_id": "1"}}))
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m", "call_id": "1/2"}}))
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m", "call_id": ""}}))
@example(encode({"source": 5, "rpc": {"type": "response", "method": "m", "call_id": "1"}}))
@example(encode({"source": 5, "rpc": {"type": "response", "args": [], "call_id": "1"}}))
@example(encode({"source": 5, "rpc": {"type": "response", "call_id": "1", "is_stream": True}}))
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m", "response": 1, "call_id": "1"}}))
@example(encode({"source": 4, "rpc": {"type": "request", "method": "m", "call_id": "1"}}))
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m", "call_id": "1", "nested": True}}))
@example(encode({"source": 5, "rpc": {"type": "request", "method": "m", "call_id": "1", "args": [[]]}}))
def test_bytes_that_are_no_plain_call(payload: bytes) -> None:
    assert not agrees(payload)


@ONLY_C
@given(names, st.lists(scalars, max_size=4), ids, st.data())
def test_a_changed_call_is_read_as_in_general_or_not_at_all(
    method: str, args: list[Value], call_id: str, data: st.DataObject
) -> None:
    payload = CODEC.request(call_id, method, args)
    cut = data.draw(st.integers(0, len(payload) - 1))
    assert not agrees(payload[:cut])
    assert not agrees(payload + payload[cut:])
    changed = bytearray(payload)
    changed[cut] = data.draw(st.integers(0, 255))
    agrees(bytes(changed))


@ONLY_C
def test_a_text_that_is_not_utf8_is_left_to_the_general_code() -> None:
    payload = CODEC.request("1", "add", ["ab"]).replace(b"ab", b"\xff\xff")
    assert plain_calls().read(payload) is None
    with pytest.raises(DecodeError):
        CODEC.decode(payload)


@ONLY_C
@given(ids, trees.filter(lambda value: value is not None))
@example("i" * 256, "x" * 70_000)
@example("1", "x" * 200)
def test_a_result_is_framed_as_in_general(call_id: str, value: Value) -> None:
    plain = plain_calls()
    general = CODEC.result(Request("", call_id=call_id), value)
    assert plain.frame(call_id, plain.encode(value)) == server_frame(0x82, general)


@ONLY_C
@given(names, st.lists(trees, min_size=1, max_size=4).map(tuple), ids, st.sampled_from([b"", b"key!"]))
@example("m" * 256, ("x" * 70_000,), "1", b"key!")
@example("m" * 40, (1,), "i" * 256, b"")
def test_a_request_is_framed_as_in_general(method: str, args: tuple[Value], call_id: str, key: bytes) -> None:
    plain = plain_calls()
    general = CODEC.request(call_id, method, args)
    assert plain.request_frame(method, plain.encode(args), call_id, key) == whole_frame(0x82, general, key)


class Pending:
    """A call that waits."""

    value: Response


others = st.sampled_from(
    [
        "text",
        b"",
        CODEC.request("1", "add", (1,)),
        CODEC.result(Request("", call_id="unknown"), 1),
        CODEC.result(Request("", call_id="2"), [1]),
        CODEC.result(Request("", call_id="3"), "x" * 1000),
        CODEC.error(Request("", call_id="1"), -32000, "failed"),
        CODEC.item(Request("", call_id="1"), 1),
    ]
)
answers = st.builds(
    lambda number, value: CODEC.result(Request("", call_id=str(number)), value), st.integers(1, 6), scalars
)


@ONLY_C
@given(st.lists(answers | others, max_size=12), st.integers(0, 14))
def test_responses_are_taken_up_to_the_first_that_is_not_plain_and_pending(
    messages: list[str | bytes], most: int
) -> None:
    waiting = deque(messages)
    calls = {str(number): Pending() for number in range(1, 6)}
    pending = dict(calls)
    taken = plain_calls().take_responses(waiting, pending, Response, 1000, most)
    assert len(taken) <= most
    assert list(waiting) == messages[len(taken) :]
    gone = []
    for message, call in zip(messages, taken, strict=False):
        response = CODEC.decode(message).rpc
        assert isinstance(response, Response)
        assert call is calls[response.call_id]
        assert repr(call.value) == repr(response)
        gone.append(response.call_id)
    assert len(set(gone)) == len(gone)
    assert pending.keys() == calls.keys() - set(gone)
    if waiting and len(taken) < most:
        found = plain_calls().read(waiting[0]) if len(waiting[0]) < 1000 else None
        assert found is None or found[0] is not None or found[2] not in pending


@ONLY_C
def test_no_response_is_lost_where_a_call_cannot_take_it() -> None:
    """The first that fails raises; after others, they are returned, and the next call raises."""
    payloads = [CODEC.result(Request("", call_id=str(number)), 1) for number in range(3)]
    pending: dict[str, Any] = {"0": Pending(), "1": object(), "2": Pending()}
    waiting = deque[str | bytes](payloads)
    take = plain_calls().take_responses
    assert len(take(waiting, pending, Response, 1000, 9)) == 1
    with pytest.raises(AttributeError):
        take(waiting, pending, Response, 1000, 9)
    assert list(waiting) == payloads[1:]
    assert list(pending) == ["1", "2"]
    with pytest.raises(TypeError):
        take(waiting, [], Response, 1000, 9)  # type: ignore[arg-type]


@ONLY_C
@pytest.mark.parametrize(
    "arguments",
    [
        (0x82, b"", b"", b"", b"", "m", b"", "1"),
        (0x82, b"", b"", b"", b"", "m", b"", "1", b"key"),
        (0x82, b"", b"", b"", b"", "m", b"", "1", ""),
        (0x82, b"", b"", b"", b"", b"m", b"", "1", b""),
        (0x82, b"", b"", b"", b"", "m", "", "1", b""),
    ],
)
def test_wrong_arguments_of_requests_are_refused(arguments: tuple[object, ...]) -> None:
    assert extension is not None
    with pytest.raises(TypeError):
        extension.request_frame(*arguments)


@ONLY_C
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (0x82, b"", b"", b"", "1"),
        (0x82, "", b"", b"", "1", b""),
        (0x82, b"", b"", b"", b"1", b""),
        (0x82, b"", b"", b"", "1", "1"),
        ("", b"", b"", b"", "1", b""),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[object, ...]) -> None:
    assert extension is not None
    with pytest.raises(TypeError):
        extension.result_frame(*arguments)
    with pytest.raises(ValueError, match="too long"):
        extension.result_frame(0x82, b"", b"", b"", "i" * 65_536, b"")


@ONLY_C
def test_text_messages_are_not_plain() -> None:
    assert plain_calls().read("text") is None
    assert TrioWSJSONCodec().plain_calls is None


def test_without_the_extension_there_is_no_fast_path() -> None:
    assert (CODEC.plain_calls is None) is (extension is None)
