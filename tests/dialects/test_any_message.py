"""Whatever a server of others sends: a codec returns packets, or raises DecodeError, and no more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from trio_ws.codecs.base import DecodeError, Packet, Request, Response
from trio_ws.codecs.dialect import DialectCodec
from trio_ws.codecs.jsonrpc import JSONRPCCodec
from trio_ws.dialects import CDP, OCPP16, OCPP201

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.codecs.base import Codec

CODECS: dict[str, Callable[[], Codec]] = {
    "cdp": lambda: DialectCodec(CDP()),
    "ocpp1.6": lambda: DialectCodec(OCPP16()),
    "ocpp2.0.1": lambda: DialectCodec(OCPP201()),
    "jsonrpc": lambda: JSONRPCCodec(foreign=True),
    "jsonrpc, plain": lambda: JSONRPCCodec(foreign=True, extensions=False),
}
LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["1", "2", "2.0", "a", "__abort__", "rpc.cancel", "rpc.item", "rpc.data", "S/x", "x" * 300]
    )
    | st.text(max_size=3)
)
KEYS = st.sampled_from(
    ["id", "method", "params", "result", "error", "jsonrpc", "notification"]
) | st.sampled_from(["sessionId", "code", "message", "data", "item", "channel"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(KEYS | st.text(max_size=2), inner, max_size=6)
    ),
    max_leaves=12,
)
#: Values that look like messages, and values that do not.
MESSAGES = (
    st.dictionaries(KEYS, VALUES, max_size=6).map(json.dumps)
    | st.tuples(st.integers(1, 5), LEAVES, VALUES, VALUES, VALUES).map(list).map(json.dumps)
    | st.lists(st.integers(2, 4) | VALUES, max_size=6).map(json.dumps)
    | VALUES.map(json.dumps)
    | st.text(max_size=30)
    | st.binary(max_size=30)
)


def handled(codec: Codec, decoded: Any) -> None:
    """Handle the decoded packets as a session does: respond to each request once."""
    if isinstance(decoded, list):
        for member in decoded:
            if isinstance(member, Packet):
                handled(codec, member)
                continue
            try:
                handled(codec, codec.decode_member(member))
            except DecodeError as exc:
                handled(codec, list(exc.packets))
        return
    assert isinstance(decoded, Packet)
    rpc = decoded.rpc
    if isinstance(rpc, Request):
        assert type(rpc.method) is str
        assert type(rpc.args) is list
        assert type(rpc.kwargs) is dict
        assert len(rpc.method) <= 256
        if not rpc.method.startswith("__"):
            answer = codec.result(rpc, {"a": 1}) if len(rpc.method) % 2 else codec.error(rpc, -32601, "no")
            assert (answer is None) or json.loads(answer)
            assert not (rpc.is_notification and answer)
    elif isinstance(rpc, Response):
        assert rpc.call_id in {"1", "2"}, "it ends no call of ours"
        assert rpc.error is None or type(rpc.error) is int


@pytest.mark.parametrize("name", CODECS)
@examples(60)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=4))
def test_any_message(name: str, messages: list[str | bytes]) -> None:
    codec = CODECS[name]()
    for number in ("1", "2"):
        codec.request(number, "method")
    ended: list[str] = []
    for message in messages:
        payload = message.encode(errors="surrogatepass") if isinstance(message, str) else message
        try:
            decoded = codec.decode(message if isinstance(message, str) else payload)
        except DecodeError as exc:
            assert exc.answer is None or json.loads(exc.answer)
            decoded = list(exc.packets)
        for packet in decoded if isinstance(decoded, list) else [decoded]:
            if isinstance(packet, Packet) and isinstance(packet.rpc, Response) and not packet.rpc.is_stream:
                ended.append(packet.rpc.call_id)
        handled(codec, decoded)
        refused = codec.refusal(payload, "too large")
        handled(codec, list(refused.packets))
        ended += [p.rpc.call_id for p in refused.packets if isinstance(p.rpc, Response)]
    assert len(ended) == len(set(ended)), "a call ends once"
