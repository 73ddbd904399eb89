"""The selection of a codec, and the features of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.codecs.jsonrpc import JSONRPCCodec
from trio_ws.codecs.packets import JSONPacketCodec, TrioWSCodec, TrioWSJSONCodec, WebshocketCodec
from trio_ws.codecs.registry import SUBPROTOCOLS, choose, detect
from trio_ws.options import Options

if TYPE_CHECKING:
    from trio_ws.codecs.base import Codec


def test_the_handshake_chooses() -> None:
    options = Options()
    chosen = [choose(name, options) for name in SUBPROTOCOLS]
    assert [dialect and dialect.name for dialect in chosen] == list(SUBPROTOCOLS)
    expected = [TrioWSCodec, TrioWSJSONCodec, WebshocketCodec, JSONRPCCodec]
    assert [type(dialect) for dialect in chosen] == expected
    assert choose(None, options) is None
    assert choose("chat.v1", options) is None


@pytest.mark.parametrize("binary", [False, True])
def test_json_goes_in_the_frames_that_the_options_say(binary: bool) -> None:
    dialect = detect("{}", Options(json_in_binary=binary))
    assert (dialect.name, dialect.binary) == ("json", binary)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ('{"source":4}', "json"),
        ('{"jsonrpc":"2.0","method":"f"}', "jsonrpc"),
        ('{"method":"f","jsonrpc":"1.0"}', "jsonrpc"),
        (' [{"jsonrpc":"2.0"', "jsonrpc"),
        ("[]", "jsonrpc"),
        ("[1,2]", "jsonrpc"),
        ('{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', "jsonrpc"),
        ('{"source":4,"data":"jsonrpc"}', "json"),
        ('{"source":4,"data":{"jsonrpc":"2.0"}}', "json"),
        ("5", "json"),
        ("null", "json"),
        ("", "json"),
        ("hello", "json"),
        ("\ud800", "json"),
    ],
)
def test_the_first_message_chooses(payload: str, name: str) -> None:
    assert detect(payload, Options()).name == name
    assert detect(payload.encode(errors="replace"), Options()).name == name


@given(payload=st.binary(max_size=40) | st.text(max_size=40))
def test_any_first_message_chooses(payload: str | bytes) -> None:
    assert detect(payload, Options()).name in {"json", "jsonrpc"}


def test_features_of_a_dialect() -> None:
    dialects: list[Codec] = [
        TrioWSCodec(),
        TrioWSJSONCodec(),
        WebshocketCodec(),
        JSONPacketCodec(),
        JSONRPCCodec(),
    ]
    assert [(d.name, d.binary, d.supports_extensions, d.peer_accepts_calls) for d in dialects] == [
        ("trio-ws.v1", True, True, True),
        ("trio-ws.v1.json", False, True, True),
        ("webshocket.v1", True, False, False),
        ("json", False, False, True),
        ("jsonrpc", False, False, True),
    ]
