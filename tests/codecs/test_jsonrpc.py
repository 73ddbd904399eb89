"""JSON-RPC 2.0: the examples of the specification, batches, ids, our extensions, and random bytes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_ws.codecs.base import MAX_NAME, DecodeError, Packet, PacketSource, Request, Response
from trio_ws.codecs.jsonrpc import MAX_BATCH, JSONRPCCodec
from trio_ws.errors import PacketError

if TYPE_CHECKING:
    from collections.abc import Callable

decode_json = msgspec.json.decode
encode_json = msgspec.json.encode

names = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
# Some of these ids are equal, with different spellings.
ids = st.integers(-(10**30), 10**30) | names | st.floats(allow_nan=False, allow_infinity=False)


def decode(payload: str | bytes, dialect: JSONRPCCodec | None = None) -> list[Packet]:
    """The packets of a message, with those of a batch's members."""
    dialect = dialect or JSONRPCCodec()
    decoded = dialect.decode(payload)
    if isinstance(decoded, Packet):
        return [decoded]
    packets: list[Packet] = []
    for member in decoded:
        try:
            found = dialect.decode_member(member)
        except DecodeError as exc:
            exc.packets = [*packets, *exc.packets]
            raise
        packets += [found] if isinstance(found, Packet) else found
    return packets


def requests(payload: str | bytes) -> list[Request]:
    found = []
    for packet in decode(payload):
        assert packet.source is PacketSource.RPC
        assert isinstance(packet.rpc, Request)
        found.append(packet.rpc)
    return found


def one_request(payload: str | bytes) -> Request:
    (found,) = requests(payload)
    return found


def one_response(payload: str | bytes, dialect: JSONRPCCodec | None = None) -> Response:
    (packet,) = decode(payload, dialect)
    assert isinstance(packet.rpc, Response)
    return packet.rpc


def at_once(payload: str | bytes) -> tuple[Any, list[Packet]]:
    """Return the immediate response of decoding, and the packets."""
    with pytest.raises(DecodeError) as caught:
        decode(payload)
    assert not caught.value.fatal
    assert caught.value.answer is not None
    return decode_json(caught.value.answer), list(caught.value.packets)


def refused(payload: str | bytes) -> tuple[int, object]:
    """The code and the id with which a message is refused."""
    answer, packets = at_once(payload)
    assert packets == []
    assert answer.keys() == {"jsonrpc", "error", "id"}
    assert answer["jsonrpc"] == "2.0"
    assert isinstance(answer["error"]["message"], str)
    return answer["error"]["code"], answer["id"]


def sent(payload: bytes | None) -> Any:
    assert payload is not None
    return decode_json(payload)


# ---- The examples of the specification, its section 7 ---------------------------------------------------


def serve(payload: str) -> Any:
    """What a server with the methods of the examples answers, decoded; None for nothing."""

    def subtract(minuend: int, subtrahend: int) -> int:
        return minuend - subtrahend

    def nothing(*args: object) -> None: ...

    methods: dict[str, Callable[..., object]] = {
        "subtract": subtract,
        "sum": lambda *numbers: sum(numbers),
        "update": nothing,
        "notify_hello": nothing,
        "notify_sum": nothing,
        "get_data": lambda: ["hello", 5],
    }
    dialect = JSONRPCCodec()
    answers: list[bytes] = []
    try:
        packets = decode(payload, dialect)
    except DecodeError as exc:
        packets = list(exc.packets)
        answers += [exc.answer] if exc.answer else []
    for packet in packets:
        call = packet.rpc
        assert isinstance(call, Request)
        method = methods.get(call.method)
        if method is None:
            answer = dialect.error(call, -32601, "Method not found")
        else:
            answer = dialect.result(call, method(*call.args, **call.kwargs))
        answers += [] if answer is None else [answer]
    assert len(answers) <= 1
    return decode_json(answers[0]) if answers else None


def result(value: object, request_id: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "result": value, "id": request_id}


def error(code: int, request_id: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "error": code, "id": request_id}


def codes_only(answer: Any) -> Any:
    """The examples specify the codes only; a server chooses the texts."""
    if isinstance(answer, list):
        return [codes_only(member) for member in answer]
    if isinstance(answer, dict) and "error" in answer:
        return answer | {"error": answer["error"]["code"]}
    return answer


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        ('{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}', result(19, 1)),
        ('{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}', result(-19, 2)),
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
            result(19, 3),
        ),
        (
            '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
            result(19, 4),
        ),
        ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
        ('{"jsonrpc": "2.0", "method": "foobar"}', None),
        ('{"jsonrpc": "2.0", "method": "foobar", "id": "1"}', error(-32601, "1")),
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', error(-32700, None)),
        ('{"jsonrpc": "2.0", "method": 1, "params": "bar"}', error(-32600, None)),
        (
            """[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method" ]""",
            error(-32700, None),
        ),
        ("[]", error(-32600, None)),
        ("[1]", [error(-32600, None)]),
        ("[1,2,3]", [error(-32600, None)] * 3),
        (
            """[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]""",
            [
                error(-32600, None),
                result(7, "1"),
                result(19, "2"),
                error(-32601, "5"),
                result(["hello", 5], "9"),
            ],
        ),
        (
            """[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]""",
            None,
        ),
    ],
)
def test_the_examples_of_the_specification(payload: str, answer: object) -> None:
    assert codes_only(serve(payload)) == answer


# ---- Requests and their answers ------------------------------------------------------------------------


def test_parameters() -> None:
    call = '{"jsonrpc":"2.0","method":"f","id":1%s}'
    for params, args, kwargs in [
        ("", [], {}),
        (',"params":null', [], {}),
        (',"params":[]', [], {}),
        (',"params":{}', [], {}),
        (',"params":[1,[2]]', [1, [2]], {}),
        (',"params":{"a":1,"":2}', [], {"a": 1, "": 2}),
    ]:
        request = one_request(call % params)
        assert (request.method, request.args, request.kwargs) == ("f", args, kwargs)
    for params in ("5", '"bar"', "true"):
        assert refused(call % f',"params":{params}') == (-32600, 1)


def test_answers() -> None:
    dialect = JSONRPCCodec()
    call = one_request('{"jsonrpc":"2.0","method":"f","id":1}')
    assert sent(dialect.result(call, [1])) == result([1], 1)
    assert dialect.result(call, None) == b'{"jsonrpc":"2.0","result":null,"id":1}'
    assert sent(dialect.end(call)) == result(None, 1)
    assert sent(dialect.error(call, 12345, "text")) == {
        "jsonrpc": "2.0",
        "error": {"code": 12345, "message": "text"},
        "id": 1,
    }
    failed = sent(dialect.error(call, -32602, "", {"path": "$.a"}, stream=True))
    assert failed["error"] == {"code": -32602, "message": "", "data": {"path": "$.a"}}
    assert sent(dialect.dropped(call))["error"]["code"] == -32004
    assert sent(dialect.item(call, 5)) == {
        "jsonrpc": "2.0",
        "method": "rpc.item",
        "params": {"id": 1, "item": 5},
    }


def test_nothing_answers_a_notification() -> None:
    dialect = JSONRPCCodec()
    for payload in (
        '{"jsonrpc":"2.0","method":"f"}',
        '[{"jsonrpc":"2.0","method":"f"}]',
    ):
        for end in (
            lambda call: dialect.result(call, 1),
            lambda call: dialect.error(call, -32603, "no"),
            dialect.end,
            dialect.dropped,
        ):
            call = one_request(payload)
            assert call.call_id == ""
            assert dialect.item(call, 1) is None
            assert end(call) is None


def test_values_that_cannot_be_encoded() -> None:
    dialect = JSONRPCCodec()
    call = one_request('[{"jsonrpc":"2.0","method":"f","id":1}]')
    attempts: list[Callable[[], object]] = [
        lambda: dialect.result(call, object()),
        lambda: dialect.item(call, "\ud800"),
        lambda: dialect.request("7", "f", (object(),), credits=1),
        lambda: dialect.data(object()),
    ]
    for attempt in attempts:
        with pytest.raises(PacketError, match="cannot be sent"):
            attempt()
    # The call of the batch has not ended, and an error with any data can end it.
    assert sent(dialect.error(call, 1, "\ud800", object())) == [
        {"jsonrpc": "2.0", "error": {"code": 1, "message": "?"}, "id": 1}
    ]
    assert one_response('{"jsonrpc":"2.0","result":1,"id":"7"}', dialect) == Response("7", 1)


@given(args=st.lists(values, max_size=4), call_id=names)
def test_requests_come_back(args: list[object], call_id: str) -> None:
    request = one_request(JSONRPCCodec().request(call_id, "method", args))
    assert (request.method, request.args, request.kwargs) == ("method", args, {})
    assert sent(JSONRPCCodec().result(request, None))["id"] == call_id


@given(kwargs=st.dictionaries(names, values, max_size=4))
def test_requests_with_names_come_back(kwargs: dict[str, object]) -> None:
    request = one_request(JSONRPCCodec().request("7", "method", (), kwargs))
    assert (request.args, request.kwargs) == ([], kwargs)


@given(value=values, code=st.integers(-(2**70), 2**70), text=names, data=values)
def test_answers_come_back(value: object, code: int, text: str, data: object) -> None:
    dialect = JSONRPCCodec()
    call = one_request(dialect.request("7", "f"))
    assert one_response(dialect.result(call, value) or b"") == Response("7", value)
    failed = one_response(dialect.error(call, code, text, data) or b"")
    assert failed == Response("7", text, code, error_data=data)
    assert one_response(dialect.item(call, value) or b"") == Response("7", value, is_stream=True)


def test_bytes_of_the_documentation() -> None:
    dialect = JSONRPCCodec()
    assert dialect.request("7", "add", (1, 2)) == (
        b'{"jsonrpc":"2.0","method":"add","params":[1,2],"id":"7"}'
    )
    assert dialect.request("7", "add") == b'{"jsonrpc":"2.0","method":"add","id":"7"}'
    assert dialect.abort("7") == b'{"jsonrpc":"2.0","method":"rpc.cancel","params":["7"]}'


def test_a_request_has_one_kind_of_arguments_and_no_streams() -> None:
    dialect = JSONRPCCodec()
    with pytest.raises(PacketError, match="not both"):
        dialect.request("7", "f", (1,), {"a": 1})
    with pytest.raises(PacketError, match="stream"):
        dialect.request("7", "f", (None,), streams={"0": "7/0"})
    with pytest.raises(PacketError, match="credits"):
        dialect.credit("7", 1, 4096)
    with pytest.raises(PacketError, match="deadlines"):
        dialect.deadline("7", 4.0)
    with pytest.raises(PacketError, match="no goaway"):
        dialect.goaway([])
    assert b"timeout" not in dialect.request("7", "f", timeout=2.5, credits=3)


# ---- Ids -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        "1",
        "0",
        "-1",
        "1.50",
        "1e2",
        "123456789012345678901234567890",
        '"1"',
        '""',
        '"a b"',
        '"\\u0061"',
        '"\\ud834\\udd1e"',
        '"€"',
        "null",
        '"' + "x" * MAX_NAME + '"',
        '"' + "\\u0061" * MAX_NAME + '"',
    ],
)
def test_an_id_is_echoed_as_it_came(raw: str) -> None:
    payload = f'{{"jsonrpc":"2.0","method":"f","id": {raw} }}'
    for form in (payload, payload.encode()):
        request = one_request(form)
        answer = JSONRPCCodec().result(request, 5) or b""
        assert answer.decode() == f'{{"jsonrpc":"2.0","result":5,"id":{raw}}}'


@pytest.mark.parametrize(
    "raw",
    ["true", "[1]", "{}", '"' + "x" * (MAX_NAME + 1) + '"', '"' + "\\u0061" * 300 + '"', "9" * 5000, "1e999"],
)
def test_an_invalid_id_is_refused(raw: str) -> None:
    assert refused(f'{{"jsonrpc":"2.0","method":"f","id":{raw}}}') == (-32600, None)
    assert refused(f'{{"jsonrpc":"2.0","method":5,"id":{raw}}}') == (-32600, None)
    assert refused(f'{{"jsonrpc":"2.0","id":{raw}}}') == (-32600, None)


def test_an_id_with_invalid_utf_8() -> None:
    assert refused(b'{"jsonrpc":"2.0","method":"f","id":"\xff"}') == (-32600, None)


def test_ids_stay_apart() -> None:
    call = '{"jsonrpc":"2.0","method":"f","id":%s}'
    keys = [one_request(call % raw).call_id for raw in ("1", '"1"', "1.0", '"1.0"', '"\\"1\\""')]
    assert len(set(keys)) == len(keys)
    # Nobody has named these, so that the caller of decode() makes up names for them.
    assert one_request(call % "null").call_id == ""
    assert one_request('{"jsonrpc":"2.0","method":"f"}').call_id == ""


@given(request_id=ids)
@example(request_id="")
@example(request_id='\u2028"\\')
@example(request_id=10**15)
@example(request_id=10**16)
def test_a_cancellation_finds_its_call(request_id: object) -> None:
    call = one_request(encode_json({"jsonrpc": "2.0", "method": "f", "id": request_id}))
    cancel = one_request(encode_json({"jsonrpc": "2.0", "method": "rpc.cancel", "params": [request_id]}))
    by_name = one_request(
        encode_json({"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": request_id}})
    )
    assert call.call_id != ""
    assert (cancel.method, cancel.args) == ("__abort__", [call.call_id])
    assert by_name.args == [call.call_id]
    # The same id, written with escapes.
    if isinstance(request_id, str):
        escaped = "".join(f"\\u{ord(c):04x}" for c in request_id if ord(c) < 0x10000)
        plain = "".join(c for c in request_id if ord(c) < 0x10000)
        call = one_request(f'{{"jsonrpc":"2.0","method":"f","id":"{escaped}"}}')
        cancel = one_request(encode_json({"jsonrpc": "2.0", "method": "rpc.cancel", "params": [plain]}))
        assert cancel.args == [call.call_id]


# ---- Malformed messages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("", (-32700, None)),
        ("   ", (-32700, None)),
        ("{", (-32700, None)),
        ("hello", (-32700, None)),
        ('{"jsonrpc":"2.0","method":"f","id":1}x', (-32700, None)),
        ('{"a":' + "[" * 300_000 + "]" * 300_000 + "}", (-32700, None)),
        ('{"jsonrpc":"2.0","method":"\ud800"}', (-32700, None)),
        ("5", (-32600, None)),
        ("null", (-32600, None)),
        ('"text"', (-32600, None)),
        ("{}", (-32600, None)),
        ('{"id":1}', (-32600, 1)),
        ('{"method":"f","id":1}', (-32600, 1)),
        ('{"jsonrpc":"1.0","method":"f","id":1}', (-32600, 1)),
        ('{"jsonrpc":2.0,"method":"f","id":"a"}', (-32600, "a")),
        ('{"jsonrpc":"2.0","id":1}', (-32600, 1)),
        ('{"jsonrpc":"2.0","method":null,"id":1}', (-32600, 1)),
        ('{"jsonrpc":"2.0","method":"' + "f" * (MAX_NAME + 1) + '","id":1}', (-32600, 1)),
        ('{"jsonrpc":"2.0","method":"f","params":[1e999],"id":1}', (-32600, 1)),
        ('{"jsonrpc":"2.0","error":null,"id":"7"}', (-32600, "7")),
        ('{"jsonrpc":"2.0","method":"__abort__","params":["1"],"id":1}', (-32601, 1)),
        ('{"jsonrpc":"2.0","method":"__credit__","params":["1",1],"id":1}', (-32601, 1)),
        ('{"jsonrpc":"2.0","method":"__deadline__","params":["1",1],"id":1}', (-32601, 1)),
        ('{"jsonrpc":"2.0","method":"rpc.cancel","params":[true],"id":1}', (-32602, 1)),
        ('{"jsonrpc":"2.0","method":"rpc.cancel","id":1}', (-32602, 1)),
        ('{"jsonrpc":"2.0","method":"rpc.channel","id":1}', (-32602, 1)),
        ("[" + "1," * MAX_BATCH + "1]", (-32600, None)),
        ("[1,", (-32700, None)),
        ("[" * 300_000, (-32700, None)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refusals(payload: str, expected: tuple[int, object]) -> None:
    assert refused(payload) == expected


def test_a_refusal_names_the_path_and_quotes_little() -> None:
    answer, _ = at_once('{"jsonrpc":"2.0","method":["' + "x" * 1000 + '"],"id":1}')
    assert answer["error"]["data"] == {"path": "$.method"}
    answer, _ = at_once('{"jsonrpc":"' + "x" * 100_000 + '","method":"f","id":1}')
    assert len(answer["error"]["message"]) < 400
    assert answer["error"]["data"] == {"path": "$.jsonrpc"}


@pytest.mark.parametrize(
    "payload",
    [
        '{"jsonrpc":"2.0","method":"rpc.cancel","params":[true]}',
        '{"jsonrpc":"2.0","method":"rpc.cancel"}',
        '{"jsonrpc":"2.0","method":"rpc.channel","params":[]}',
        '{"jsonrpc":"2.0","method":"__abort__","params":["1"]}',
        '{"jsonrpc":"2.0","error":{"code":-32700,"message":"parse error"},"id":null}',
        '{"jsonrpc":"2.0","error":{"code":-32600,"message":"invalid"}}',
        '{"jsonrpc":"2.0","result":1}',
        '{"jsonrpc":"2.0","result":1,"id":1.5}',
        '{"jsonrpc":"2.0","result":1,"id":[1]}',
    ],
)
def test_ignored_payloads(payload: str) -> None:
    assert decode(payload) == []
    assert decode(f"[{payload}]") == []


# ---- Batches -------------------------------------------------------------------------------------------


def batch(*members: object) -> bytes:
    return encode_json(
        [{"jsonrpc": "2.0", **member} if isinstance(member, dict) else member for member in members]
    )


def test_a_batch_is_answered_when_the_last_is_ready() -> None:
    dialect = JSONRPCCodec()
    first, note, second = requests(
        batch({"method": "f", "id": 1}, {"method": "g"}, {"method": "h", "id": "2"})
    )
    assert dialect.item(second, "x") is not None  # items are notifications of their own
    assert dialect.end(second) is None
    assert dialect.result(first, 5) is None
    assert sent(dialect.error(note, -32603, "no")) == [result(None, "2"), result(5, 1)]


def test_an_aborted_call_does_not_hold_its_batch() -> None:
    dialect = JSONRPCCodec()
    first, second = requests(batch({"method": "f", "id": 1}, {"method": "g", "id": 2}))
    assert dialect.result(first, 5) is None
    assert codes_only(sent(dialect.dropped(second))) == [result(5, 1), error(-32004, 2)]


def test_two_batches_do_not_mix() -> None:
    dialect = JSONRPCCodec()
    first, second = (requests(batch({"method": "f", "id": 1}, {"method": "g", "id": 2})) for _ in range(2))
    assert dialect.result(first[0], "a") is None
    assert dialect.result(second[0], "b") is None
    assert sent(dialect.result(second[1], "c")) == [result("b", 1), result("c", 2)]
    assert sent(dialect.result(first[1], "d")) == [result("a", 1), result("d", 2)]


def test_a_batch_with_broken_members_goes_on() -> None:
    dialect = JSONRPCCodec()
    (call,) = requests(batch(1, {"method": "f", "id": 1}, {"method": 5, "id": 2}))
    assert codes_only(sent(dialect.result(call, 5))) == [error(-32600, None), error(-32600, 2), result(5, 1)]
    (note,) = requests(batch(1, {"method": "f"}))
    assert codes_only(sent(dialect.result(note, 5))) == [error(-32600, None)]


def test_a_batch_in_which_nothing_waits_is_answered_at_once() -> None:
    answer, packets = at_once(
        batch(
            1,
            {"method": "rpc.cancel", "params": [1]},
            {"method": "rpc.data", "params": {"data": 2}, "id": 3},
            {"result": 4, "id": "5"},
        )
    )
    assert codes_only(answer) == [error(-32600, None), result(None, 3)]
    assert packets == [
        Packet(PacketSource.RPC, rpc=Request("__abort__", ["1"])),
        Packet(PacketSource.CUSTOM, 2),
        Packet(PacketSource.RPC, rpc=Response("5", 4)),
    ]


def test_the_longest_batch() -> None:
    assert len(requests(batch(*[{"method": "f"}] * MAX_BATCH))) == MAX_BATCH


@given(
    st.lists(st.sampled_from(["call", "note", "broken", "cancel", "data", "response"]), min_size=1), st.data()
)
def test_every_batch_is_answered_once_and_whole(kinds: list[str], data: st.DataObject) -> None:
    makers: dict[str, Callable[[int], object]] = {
        "call": lambda n: {"method": "f", "id": n},
        "note": lambda n: {"method": "f"},
        "broken": lambda n: n,
        "cancel": lambda n: {"method": "rpc.cancel", "params": [n]},
        "data": lambda n: {"method": "rpc.data", "params": [n], "id": n},
        "response": lambda n: {"result": None, "id": "x"},
    }
    dialect = JSONRPCCodec()
    answers = []
    try:
        packets = decode(batch(*(makers[kind](n) for n, kind in enumerate(kinds))), dialect)
    except DecodeError as exc:
        answers.append(exc.answer)
        packets = list(exc.packets)
    assert len(packets) == len(kinds) - kinds.count("broken")
    calls = [packet.rpc for packet in packets if isinstance(packet.rpc, Request)]
    waiting = [call for call in calls if call.method == "f"]
    for call in data.draw(st.permutations(waiting)):
        assert answers == []
        ends: list[Callable[[Request], bytes | None]] = [
            lambda call: dialect.result(call, 1),
            lambda call: dialect.error(call, 1, ""),
            dialect.end,
            dialect.dropped,
        ]
        answer = data.draw(st.sampled_from(ends))(call)
        answers += [] if answer is None else [answer]
    expected = sorted(n for n, kind in enumerate(kinds) if kind in {"call", "data"})
    (answer,) = answers or [None]
    got = [] if answer is None else decode_json(answer)
    assert sorted(member["id"] for member in got if member["id"] is not None) == expected
    assert len(got) == len(expected) + kinds.count("broken")


# ---- Our own calls, and data ---------------------------------------------------------------------------


def test_responses() -> None:
    assert one_response('{"jsonrpc":"2.0","result":null,"id":"7"}') == Response("7")
    assert one_response('{"jsonrpc":"2.0","result":[1],"error":null,"id":"7"}') == Response("7", [1])
    assert one_response('{"jsonrpc":"2.0","error":{"code":5,"message":"m","data":[1]},"id":"7"}') == Response(
        "7", "m", 5, error_data=[1]
    )
    assert one_response('{"jsonrpc":"2.0","result":[1],"id":7}') == Response("7", [1])
    assert one_response('{"jsonrpc":"2.0","result":[1],"id":7.0}') == Response("7", [1])


DEEP = "[" * 300_000 + "]" * 300_000
NO_MESSAGE = "the error of the answer has no message"


@pytest.mark.parametrize(
    ("members", "text", "code", "data"),
    [
        ('"error":{"code":5}', NO_MESSAGE, 5, None),
        ('"error":{"code":5,"message":null,"data":1}', NO_MESSAGE, 5, 1),
        ('"error":{"code":-32000.0,"message":"m"}', "m", -32000, None),
        ('"error":{"code":1e30,"message":"m"}', "m", int(1e30), None),
        ('"error":{"code":"EX","message":"m"}', "m", -32001, {"code": "EX", "message": "m"}),
        ('"error":{"code":true,"message":"m"}', "m", -32001, {"code": True, "message": "m"}),
        ('"error":{"code":1.5,"message":"m"}', "m", -32001, {"code": 1.5, "message": "m"}),
        ('"error":{"message":"m"}', "m", -32001, {"message": "m"}),
        ('"error":"boom"', "boom", -32001, None),
        ('"error":[1]', "the error of the answer is not an object", -32001, [1]),
        ('"error":{"code":1,"message":"m"},"result":null', "m", 1, None),
        ('"error":{"code":1,"message":"m"},"result":2', "m", 1, None),
        ('"error":null', "the answer has neither a result nor an error", -32001, None),
        ('"more":1', "the answer has neither a result nor an error", -32001, None),
        ('"result":1e999', "the answer does not decode: Number out of range", -32700, None),
    ],
)
@pytest.mark.parametrize("form", ['{"jsonrpc":"2.0",%s,"id":"7"}', '{"id":7,%s}', '[{"id":"7",%s}]'])
def test_a_broken_answer_ends_its_call(members: str, text: str, code: int, data: object, form: str) -> None:
    dialect = JSONRPCCodec()
    dialect.request("7", "f")
    assert one_response(form % members, dialect) == Response("7", text, code, error_data=data)
    assert dialect._asked == {}


@pytest.mark.parametrize(
    "form",
    ['{"jsonrpc":"2.0","id":"7","result":%s}', '{"id":7,"result":%s}', '{"result":%s, "id" : "7" }\n'],
)
def test_an_answer_that_is_nested_too_deeply_ends_its_call(form: str) -> None:
    dialect = JSONRPCCodec()
    dialect.request("7", "f")
    response = one_response(form % DEEP, dialect)
    assert (response.call_id, response.error) == ("7", -32700)
    # The second text is that of Python 3.14 and later.
    assert re.search("does not decode: (maximum recursion depth|Stack overflow)", response.response)
    # No call has this id.
    assert refused(form % DEEP) == (-32700, None)


def test_a_call_of_the_peers_ends_none_of_ours() -> None:
    dialect = JSONRPCCodec()
    dialect.request("1", "f")
    for broken in ('{"method":"f","result":1,"id":"1"}', '{"jsonrpc":"2.0","method":5,"id":1}'):
        with pytest.raises(DecodeError) as info:
            dialect.decode(broken)
        assert info.value.answer is not None
        assert not info.value.packets
    assert one_response('{"jsonrpc":"2.0","result":2,"id":"1"}', dialect) == Response("1", 2)


@pytest.mark.parametrize("failed", [False, True])
def test_the_answer_to_a_call_of_ours_that_wants_a_stream_is_its_end(failed: bool) -> None:
    dialect = JSONRPCCodec()
    dialect.request("7", "count", credits=8)
    dialect.request("8", "count")
    item = '{"jsonrpc":"2.0","method":"rpc.item","params":{"id":"7","item":null}}'
    for _ in range(2):
        assert one_response(item, dialect) == Response("7", None, is_stream=True)
    end = '{"jsonrpc":"2.0","result":null,"id":"%s"}'
    if failed:
        end = '{"jsonrpc":"2.0","error":{"code":1,"message":""},"id":"%s"}'
    response = one_response(end % "7", dialect)
    assert (response.is_stream, response.is_end, response.error) == (True, True, 1 if failed else None)
    for call_id in ("7", "8"):
        response = one_response(end % call_id, dialect)
        assert (response.is_stream, response.is_end) == (False, False)


def test_an_aborted_stream_is_forgotten() -> None:
    dialect = JSONRPCCodec()
    dialect.request("7", "count", credits=8)
    dialect.abort("7")
    assert not one_response('{"jsonrpc":"2.0","result":null,"id":"7"}', dialect).is_stream


@given(
    source=st.sampled_from([PacketSource.BROADCAST, PacketSource.CHANNEL, PacketSource.CUSTOM]),
    data=values,
    channel=st.none() | names,
    timestamp=st.none() | st.floats(0, 1e10),
    correlation_id=values,
)
def test_data_comes_back(
    source: PacketSource,
    data: object,
    channel: str | None,
    timestamp: float | None,
    correlation_id: object,
) -> None:
    packet = Packet(source, data, channel, None, timestamp, correlation_id)
    payload = JSONRPCCodec().packet(packet)
    assert "id" not in decode_json(payload)
    assert decode(payload) == [packet]


def test_data_of_a_client_that_knows_json_rpc_only() -> None:
    data = '{"jsonrpc":"2.0","method":"rpc.data"%s}'
    for params, expected in [
        (',"params":{"data":5}', 5),
        (',"params":{"dates":5}', {"dates": 5}),
        (',"params":[1,2]', [1, 2]),
        ("", None),
    ]:
        assert decode(data % params) == [Packet(PacketSource.CUSTOM, expected)]
        answer, packets = at_once(data % (params + ',"id":"a"'))
        assert answer == result(None, "a")
        assert packets == [Packet(PacketSource.CUSTOM, expected)]
    assert sent(JSONRPCCodec().data(5, source=PacketSource.UNKNOWN))["method"] == "rpc.data"


def test_other_names_of_ours_are_methods_like_any_other() -> None:
    for params in ('"params":[1]', '"params":{"id":1,"item":2}', '"params":{"id":"1"}'):
        payload = '{"jsonrpc":"2.0","method":"rpc.item","id":1,' + params + "}"
        assert one_request(payload).method == "rpc.item"
    assert one_request('{"jsonrpc":"2.0","method":"rpc.discover","id":1}').method == "rpc.discover"


# ---- Any bytes -----------------------------------------------------------------------------------------

GOOD = [
    b'{"jsonrpc":"2.0","method":"rpc.item","params":{"id":"7","item":[1,"two",null]},"id":"x"}',
    b'[{"jsonrpc":"2.0","method":"f","id":1},{"jsonrpc":"2.0","result":1,"id":"7"},{"jsonrpc":"2.0"}]',
    b'{"jsonrpc":"2.0","error":{"code":-32601,"message":"no","data":{"a":1e3}},"id":"\\u0061"}',
]


def try_to_decode(payload: str | bytes) -> None:
    dialect = JSONRPCCodec()
    answers: list[bytes | None] = []
    try:
        packets = decode(payload, dialect)
    except DecodeError as exc:
        assert not exc.fatal
        assert exc.answer is not None
        answers.append(exc.answer)
        packets = list(exc.packets)
    for packet in packets:
        assert (packet.rpc is not None) is (packet.source is PacketSource.RPC)
        if isinstance(packet.rpc, Request) and packet.rpc.method != "__abort__":
            answers.append(dialect.result(packet.rpc, None))
    for answer in answers:
        if answer is not None:
            # A trio_ws peer accepts every response, and does not answer it.
            for packet in decode(answer):
                assert isinstance(packet.rpc, Response)


@given(payload=st.binary(max_size=60) | st.text(max_size=60))
def test_any_payload_decodes_or_raises_ours(payload: str | bytes) -> None:
    try_to_decode(payload)


@given(
    payload=st.sampled_from(GOOD), at=st.integers(0, 120), new=st.binary(max_size=3), gone=st.integers(0, 3)
)
def test_any_damage_decodes_or_raises_ours(payload: bytes, at: int, new: bytes, gone: int) -> None:
    try_to_decode(payload[:at] + new + payload[at + gone :])


@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "method", "params", "id", "result", "error"]),
        values | st.sampled_from(["2.0", "rpc.cancel", "rpc.item", "rpc.data", "rpc.channel"]),
    )
)
def test_any_object_decodes_or_raises_ours(message: dict[str, object]) -> None:
    message.setdefault("jsonrpc", "2.0")
    try_to_decode(encode_json(message))
    try_to_decode(encode_json([message, message]))
