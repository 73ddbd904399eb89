"""`trio_ws.client.connect`: all ways to connect, and all ways to fail."""

from __future__ import annotations

import base64
import re
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from tests.support.serving import MemoryServer, echo, guard, serving, serving_in_memory
from trio_ws import (
    Compression,
    ConnectionFailedError,
    HandshakeRejectedError,
    InvalidURIError,
    Options,
    WebSocketServer,
    connect,
)
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio.testing import MockClock

    from trio_ws import WebSocket


class Certificates:
    """The context of a server with a certificate for localhost, and of a client that trusts it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1", "test").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


async def says_hello(ws: WebSocket) -> None:
    await ws.send("hello")
    assert await ws.receive_text() == "hello"


# -- ways to a server -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_tcp(host: str) -> None:
    async with serving(host=host) as server, connect(server.url) as ws:
        await says_hello(ws)
        assert ws.remote_address[1] == server.port
        assert ws.local_address[0] == ws.remote_address[0]


async def test_all_interfaces_v4_and_v6_on_one_port() -> None:
    async with serving(host="*") as server:
        for host in ("127.0.0.1", "[::1]", "localhost"):
            async with connect(f"ws://{host}:{server.port}") as ws:
                await says_hello(ws)
        async with connect(server.url) as ws:
            await says_hello(ws)


async def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(host=None, unix_path=path) as server:
        for form in (path, str(path)):
            async with connect(server.url + "rooms/7?x=1", unix_path=form) as ws:
                await says_hello(ws)
                assert ws.request.header("host") == "localhost"
                assert ws.path == "/rooms/7"


async def test_a_given_stream_of_any_kind() -> None:
    async with serving(options=Options(hosts=["some.where"])) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with connect("ws://some.where:1234/x", stream=stream) as ws:
            await says_hello(ws)
            assert ws.request.header("host") == "some.where:1234"
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


async def test_tls(certificates: Certificates) -> None:
    async with serving(ssl_context=certificates.server) as server:
        assert server.url.startswith("wss://")
        async with connect(server.url, ssl_context=certificates.client) as ws:
            await says_hello(ws)
            assert ws.remote_address[1] == server.port


async def test_tls_over_a_unix_socket_and_over_a_given_stream(
    certificates: Certificates, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    async with (
        serving(host=None, unix_path=path, ssl_context=certificates.server) as server,
        connect(server.url, unix_path=path, ssl_context=certificates.client) as ws,
    ):
        await says_hello(ws)
    async with serving_in_memory(ssl_context=certificates.server) as memory:
        stream = await memory.stream(max_read=100)
        async with connect("wss://test", stream=stream, ssl_context=certificates.client) as ws:
            await says_hello(ws)


async def test_large_messages_both_ways_over_tls(certificates: Certificates) -> None:
    blob = bytes(range(256)) * 2000
    async with (
        serving(ssl_context=certificates.server) as server,
        connect(server.url, ssl_context=certificates.client) as ws,
    ):
        await ws.send(blob)
        assert await ws.receive_bytes() == blob


# -- ways not to ------------------------------------------------------------------------------------


async def test_a_certificate_that_is_not_trusted(certificates: Certificates) -> None:
    async with serving(ssl_context=certificates.server) as server:
        with pytest.raises(ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(server.url):
                pytest.fail("it was trusted")
        async with connect(server.url, ssl_context=certificates.client) as ws:
            await says_hello(ws)


async def test_a_certificate_for_another_name(certificates: Certificates) -> None:
    async with serving_in_memory(ssl_context=certificates.server) as memory:
        with pytest.raises(ConnectionFailedError, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(
                "wss://other.example", stream=await memory.stream(), ssl_context=certificates.client
            ):
                pytest.fail("it was trusted")


async def test_a_plain_client_at_a_tls_port(certificates: Certificates) -> None:
    async with serving(ssl_context=certificates.server) as server:
        with pytest.raises(ConnectionFailedError):
            async with connect(server.url.replace("wss:", "ws:")):
                pytest.fail("the handshake was accepted")
        async with connect(server.url, ssl_context=certificates.client) as ws:
            await says_hello(ws)


async def test_a_tls_client_at_a_plain_port(certificates: Certificates) -> None:
    async with serving() as server:
        with pytest.raises(ConnectionFailedError) as info:
            async with connect(server.url.replace("ws:", "wss:"), ssl_context=certificates.client):
                pytest.fail("the handshake was accepted")
        assert "WRONG_VERSION_NUMBER" in str(info.value)
        async with connect(server.url) as ws:
            await says_hello(ws)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"uri": "http://test"}, InvalidURIError, "use ws:// for http://"),
        ({"uri": b"ws://test"}, TypeError, "a WebSocket URI must be a str"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "wss://"),
        ({"options": {"open_timeout": 3}}, TypeError, r"use Options\(\.\.\.\)"),
        ({"unix_path": "/x"}, ValueError, "stream and unix_path are mutually exclusive"),
        ({"subprotocols": "chat"}, TypeError, r"use subprotocols=\['chat'\]"),
        ({"subprotocols": ["a b"]}, ValueError, "not a subprotocol name"),
        ({"subprotocols": ["a", "a"]}, ValueError, "is repeated"),
        ({"subprotocols": [b"a"]}, TypeError, "a subprotocol must be a str"),
        ({"headers": [("X", "a\r\nEvil: yes")]}, ValueError, "the value of the header X contains a control"),
        ({"headers": {"X:": "a"}}, ValueError, "is not a header name"),
        ({"headers": {"X": 1}}, TypeError, "value of the header X must be a str, not int"),
        ({"headers": {"Upgrade": "h2c"}}, ValueError, "Upgrade is set by trio_ws; omit it"),
        ({"headers": {"Host": "x"}}, ValueError, "Host is set by trio_ws"),
    ],
)
async def test_wrong_arguments_raise_at_once_and_say_nothing_on_the_wire(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    link = Link()
    arguments = {"uri": "ws://test", "stream": link.client, **kwargs}
    with trio.fail_after(guard()), pytest.raises(error, match=message):
        async with connect(**arguments):
            pytest.fail("it connected")
    assert link.carried == 0


async def test_a_rejection_tells_status_headers_and_body(autojump_clock: MockClock) -> None:
    async def refuse(ws: WebSocket) -> None:
        await ws.reject(429, headers=[("Retry-After", "7"), ("X-A", "1"), ("X-A", "2")], body="später")

    async with serving_in_memory(refuse) as memory:
        with pytest.raises(HandshakeRejectedError, match="429") as info:
            async with memory.connect():
                pytest.fail("the handshake was accepted")
    assert info.value.status == 429
    assert info.value.body == "später".encode()
    pairs = [(name.lower(), value) for name, value in info.value.headers]
    assert [value for name, value in pairs if name == "x-a"] == ["1", "2"]
    assert ("retry-after", "7") in pairs


# -- scripted answers -------------------------------------------------------------------------------


async def connect_to(script: Callable[[RawPeer], Any], **kwargs: Any) -> WebSocket:
    """Connect to a scripted server; the connection is closed when this returns."""
    link = Link()
    results: list[WebSocket | ConnectionFailedError] = []
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(script, RawPeer(link.server, client=False))
            try:
                async with connect("ws://test", stream=link.client, **kwargs) as ws:
                    results.append(ws)
            except ConnectionFailedError as exc:
                results.append(exc)
            nursery.cancel_scope.cancel()
    (result,) = results
    if isinstance(result, ConnectionFailedError):
        raise result
    return result


def answering(*headers: tuple[str, str]) -> Callable[[RawPeer], Any]:
    async def script(peer: RawPeer) -> None:
        await RawPeer.accept(peer.stream, headers)

    return script


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([("Sec-WebSocket-Protocol", "other")], "subprotocol that we did not offer"),
        ([("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "b")], "subprotocol"),
        ([("Sec-WebSocket-Extensions", "x-unknown")], "extension that we did not offer"),
        (
            [("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=99")],
            "compression parameters are invalid",
        ),
    ],
)
async def test_an_answer_that_agrees_to_what_we_did_not_offer(
    headers: list[tuple[str, str]], message: str, autojump_clock: MockClock
) -> None:
    with pytest.raises(ConnectionFailedError, match=message):
        await connect_to(answering(*headers), subprotocols=["a", "b"], options=Options(compression=True))


async def test_frames_right_behind_the_answer_are_not_lost(autojump_clock: MockClock) -> None:
    link = Link()

    async def script() -> None:
        peer = RawPeer(link.server, client=False)
        sent: list[bytes] = []
        send_all, link.server.send_all = link.server.send_all, gather(sent)  # type: ignore[method-assign]
        await RawPeer.accept(link.server)
        await peer.send_text("first")
        await peer.send_text("second")
        await send_all(b"HTTP/1.1 103 Early\r\n\r\n" + b"".join(sent))
        link.server.send_all = send_all  # type: ignore[method-assign]
        await peer.receive_until_close()
        await peer.aclose()

    def gather(sent: list[bytes]) -> Any:
        async def send_all(data: bytes) -> None:
            sent.append(bytes(data))

        return send_all

    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        async with connect("ws://test", stream=link.client) as ws:
            assert await ws.receive_text() == "first"
            assert await ws.receive_text() == "second"


async def test_the_answers_headers_are_kept(autojump_clock: MockClock) -> None:
    ws = await connect_to(answering(("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))
    assert ws.response_headers is not None
    assert ws.response_headers.get_all("set-cookie") == ["a=1", "b=2"]


# -- the request of the client ----------------------------------------------------------------------


async def asked(memory: MemoryServer, uri: str = "ws://test/", **kwargs: Any) -> WebSocket:
    """Connect, and return the server's WebSocket."""
    stream = await memory.stream()
    async with connect(uri, stream=stream, **kwargs):
        return await memory.server.accept()


async def test_headers_as_a_mapping_and_as_pairs(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        ws = await asked(memory, headers={"X-One": "1", "Cookie": "a=b"})
        assert (ws.header("x-one"), ws.header("COOKIE")) == ("1", "a=b")
        ws = await asked(memory, headers=[("X-Two", "1"), ("x-two", "2")])
        assert ws.headers.get_all("X-Two") == ["1", "2"]
        ws = await asked(memory, headers=iter([("X-Three", "3")]))
        assert ws.header("x-three") == "3"


async def test_basic_authentication_from_the_uri(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        ws = await asked(memory, "ws://us%65r:p%40ss@test/")
        assert ws.headers.get_all("authorization") == ["Basic " + base64.b64encode(b"user:p@ss").decode()]
        assert ws.header("host") == "test"
        # An explicit header takes precedence.
        ws = await asked(memory, "ws://user:pass@test/", headers={"authorization": "Bearer x"})
        assert ws.headers.get_all("authorization") == ["Bearer x"]


async def test_the_target_and_the_host(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory:
        ws = await asked(memory, "ws://[::1]:99/a%20b/é?x=1&x=&y=%26")
        assert ws.header("host") == "[::1]:99"
        assert ws.path == "/a b/é"
        assert ws.query_string == "x=1&x=&y=%26"
        assert ws.query_params == {"x": ["1", ""], "y": ["&"]}


@pytest.mark.parametrize(
    ("offered", "spoken", "agreed"),
    [
        (["a", "b"], ["b", "a"], "b"),
        (["a", "b"], ["c"], None),
        ([], ["c"], None),
        (["a"], [], None),
    ],
)
async def test_subprotocols(
    offered: list[str], spoken: list[str], agreed: str | None, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(subprotocols=spoken) as memory, memory.connect(subprotocols=offered) as ws:
        assert ws.subprotocol == agreed
        await says_hello(ws)
        (other,) = memory.server.connections
        assert other.subprotocol == agreed


@pytest.mark.parametrize("ours", [True, Compression(threshold=0, server_no_context_takeover=True)])
@pytest.mark.parametrize("theirs", [True, False])
async def test_compression_is_agreed_on_or_not(
    ours: bool | Compression, theirs: bool, autojump_clock: MockClock
) -> None:
    async with (
        serving_in_memory(options=Options(compression=theirs)) as memory,
        memory.connect(options=Options(compression=ours)) as ws,
    ):
        assert ws.response_headers is not None
        assert (ws.response_headers.get("sec-websocket-extensions") is not None) == theirs
        for text in ("short", "x" * 5000, "x" * 5000):
            await ws.send(text)
            assert await ws.receive_text() == text


async def test_a_connection_is_a_value_with_a_telling_repr(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect("/rooms/7") as ws:
        assert re.match("<WebSocket [0-9]+ client open '/rooms/7'", repr(ws))
        assert ws.connected
        assert ws.accepted
        assert not ws.closed
        assert ws.latency is None
        assert (ws.close_code, ws.close_reason) == (None, None)
    assert re.match("<WebSocket [0-9]+ client closed", repr(ws))
    assert ws.closed
    assert not ws.connected
    assert (ws.close_code, ws.close_reason) == (1000, "")


async def test_connections_of_one_server_do_not_share_a_limit_of_the_client() -> None:
    async with WebSocketServer(echo, host="127.0.0.1") as server, trio.open_nursery() as nursery:

        async def one(n: int) -> None:
            async with connect(server.url, options=Options(max_message_size=1 + n)) as ws:
                await ws.send("x" * (1 + n))
                assert await ws.receive_text() == "x" * (1 + n)

        for n in range(20):
            nursery.start_soon(one, n)
