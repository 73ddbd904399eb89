"""docs/protocol.md: every packet on the page is valid, and we write it exactly like this."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from trio_ws.codecs.base import Packet, Request
from trio_ws.codecs.jsonrpc import JSONRPCCodec
from trio_ws.codecs.packets import TrioWSCodec, TrioWSJSONCodec

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def lines_of(kind: str) -> list[str]:
    """The lines in the fenced blocks of a kind. A leading > or < marks the sender."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("> ").removeprefix("< ") for block in blocks for line in block.splitlines()]


PACKETS = lines_of("json") + lines_of("text")


def test_the_page_has_examples() -> None:
    assert len(PACKETS) > 20
    assert len(lines_of("jsonrpc")) == 4


@pytest.mark.parametrize("line", PACKETS)
def test_packets(line: str) -> None:
    as_msgpack = msgspec.msgpack.encode(msgspec.json.decode(line))
    packet = TrioWSCodec().decode(as_msgpack)
    assert isinstance(packet, Packet)
    # Key by key, in our own order: nothing on the page is unknown, and nothing holds its default.
    assert TrioWSCodec().packet(packet) == as_msgpack
    assert TrioWSJSONCodec().packet(packet).decode() == line
    decoded = TrioWSJSONCodec().decode(line)
    assert isinstance(decoded, Packet)
    assert TrioWSJSONCodec().packet(decoded).decode() == line


def test_json_rpc() -> None:
    call, first, second, end = lines_of("jsonrpc")
    dialect = JSONRPCCodec()
    packet = dialect.decode(call)
    assert isinstance(packet, Packet)
    assert isinstance(packet.rpc, Request)
    written = [dialect.item(packet.rpc, 1), dialect.item(packet.rpc, 2), dialect.end(packet.rpc)]
    assert written == [line.encode() for line in (first, second, end)]


def test_bytes() -> None:
    payload = bytes.fromhex("".join(line.partition("   ")[0] for line in lines_of("msgpack")))
    assert payload == TrioWSCodec().request("7", "add", (1, 2))
