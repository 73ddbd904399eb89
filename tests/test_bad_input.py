"""Every limit is tested here once: exceeded by a peer, and given as an argument out of range.

For each field of `Options` there is a test whose name begins with ``test_`` and the field's name; the last
test of this module checks that. The peer gets the right close code or HTTP status, the log exactly one line,
and the application an error of trio_ws that names the limit.
"""

from __future__ import annotations

import logging
import math
import zlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests import test_bad_calls, test_bad_channels, test_bad_hosts
from tests.support.logs import the_line
from tests.support.serving import echo, exchange, read_to_end, request, serving, serving_in_memory, status_of
from trio_ws import (
    App,
    Compression,
    ConnectionClosedError,
    ConnectionFailedError,
    HandshakeRejectedError,
    MessageError,
    Options,
    Request,
    WebSocketError,
    WebSocketMessage,
    connect,
)
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import WebSocket


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trio_ws")


class Ends:
    """A handler that records how receiving ended."""

    def __init__(self) -> None:
        self.errors: list[ConnectionClosedError] = []

    async def __call__(self, ws: WebSocket) -> None:
        try:
            async for _ in ws:
                pass
        except ConnectionClosedError as exc:
            self.errors.append(exc)


# -- data of a peer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [(2, b"x" * 101, True)],
        [(1, "é".encode() * 51, True)],  # 51 characters, 102 bytes
        [(2, b"x" * 60, False), (0, b"x" * 41, True)],
        [(1, b"", False), (0, b"x" * 101, False)],
    ],
    ids=["binary", "text", "fragments", "an unfinished message"],
)
async def test_max_message_size(
    frames: list[tuple[int, bytes, bool]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    async with serving_in_memory(ends, options=Options(max_message_size=100)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(2, b"x" * 100)  # of the maximum length
        for opcode, payload, fin in frames:
            await peer.send_frame(opcode, payload, fin=fin)
        assert await peer.receive_until_close() == (1009, "message exceeds max_message_size (100 bytes)")
        await peer.send_close(1009)
        await read_to_end(peer.stream)
    (error,) = ends.errors
    assert error.code == 1009
    assert "max_message_size (100 bytes)" in str(error)
    assert "max_message_size (100 bytes)" in the_line(caplog)


async def test_max_message_size_by_a_length_that_only_claims_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory() as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(2, length=2**62)
        assert (await peer.receive_until_close() or (0,))[0] == 1009
        await peer.send_close(1009)
        await read_to_end(peer.stream)
    the_line(caplog)


async def test_max_message_size_of_a_client(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory() as memory, memory.connect(options=Options(max_message_size=5)) as ws:
        await ws.send("123456")
        with pytest.raises(ConnectionClosedError, match=r"max_message_size \(5 bytes\)") as info:
            await ws.receive_text()
        assert info.value.code == 1009
    assert "max_message_size" in the_line(caplog)


async def test_compression_does_not_get_around_max_message_size(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    deflater = zlib.compressobj(wbits=-15)
    bomb = deflater.compress(bytes(10_000_000)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    ends = Ends()
    async with serving_in_memory(ends, options=Options(compression=True)) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Extensions", "permessage-deflate")]
        )
        assert len(bomb) < 20_000
        await peer.send_frame(2, bomb[:-4], rsv1=True)
        assert (await peer.receive_until_close() or (0,))[0] == 1009
        await peer.send_close(1009)
        await read_to_end(peer.stream)
    (error,) = ends.errors
    assert "max_message_size (1048576 bytes)" in str(error)
    assert "max_message_size" in the_line(caplog)


async def test_compression_that_was_not_agreed_on_and_corrupt_data(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(options=Options(compression=True)) as memory:
        for headers, code in [
            ([], 1002),
            ([("Sec-WebSocket-Extensions", "permessage-deflate")], 1007),
        ]:
            peer = await RawPeer.connect(await memory.stream(), headers=headers)
            await peer.send_frame(2, b"\xff" * 20, rsv1=True)
            assert (await peer.receive_until_close() or (0,))[0] == code
            await peer.send_close(code)
            await read_to_end(peer.stream)
    assert len(caplog.records) == 2


async def test_a_protocol_violation_is_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    async with serving_in_memory(ends) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(1, b"\xff")
        assert await peer.receive_until_close() == (1007, "text is not valid UTF-8")
        await peer.aclose()
    (error,) = ends.errors
    assert (error.code, error.reason) == (1007, "text is not valid UTF-8")
    assert "1007" in the_line(caplog)


async def test_max_queue_bytes(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    go_on = trio.Event()

    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        async for message in ws:
            await ws.send(message)

    async with serving_in_memory(slow, options=Options(max_queue_bytes=5000, ping_interval=1)) as memory:
        stream = await memory.stream(capacity=10_000)
        peer = await RawPeer.connect(stream)
        taken = stream.link.to_server

        async def send() -> None:
            for _ in range(100):
                await peer.send_frame(2, b"x" * 1000)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(50)  # we stopped reading, so keepalive must not disconnect the peer
            assert taken.carried - taken.pending < 100_000 / 4
            go_on.set()
            for _ in range(100):
                frame = await peer.receive_frame()
                while frame is not None and frame.opcode == 9:
                    frame = await peer.receive_frame()
                assert frame is not None
                assert frame.payload == b"x" * 1000
        await peer.send_close()
        await read_to_end(stream)
    # The peer lost nothing and did nothing wrong.
    assert not caplog.records


async def test_send_high_water(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    async def flood(ws: WebSocket) -> None:
        for _ in range(50):
            await ws.send(b"x" * 1000)
            sizes.append(ws.buffered_bytes)

    async with serving_in_memory(flood, options=Options(send_high_water=3000)) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=500))
        await trio.sleep(1)
        assert len(sizes) < 10  # it waits, without an error
        for _ in range(50):
            assert await peer.receive_frame() is not None
        await peer.send_close()
        await read_to_end(peer.stream)
    assert len(sizes) == 50
    assert max(sizes) <= 3000 + 1004
    assert not caplog.records


@pytest.mark.parametrize("payload", [126, 1000])
async def test_control_frames_past_their_limit(
    payload: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory() as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(9, b"x" * payload)
        assert (await peer.receive_until_close() or (0,))[0] == 1002
        await peer.aclose()
    the_line(caplog)


# -- time -------------------------------------------------------------------------------------------


async def test_open_timeout(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with serving_in_memory(options=Options(open_timeout=2)) as memory:
        assert status_of(await read_to_end(await memory.stream())) == 408
        assert trio.current_time() == pytest.approx(2)
        assert "open_timeout (2 seconds)" in the_line(caplog)
    with pytest.raises(ConnectionFailedError, match=r"open_timeout \(3 seconds\)"):
        async with connect("ws://test", stream=Link().client, options=Options(open_timeout=3)):
            pytest.fail("nobody answered")


@pytest.mark.parametrize("client", [True, False])
async def test_close_timeout(
    client: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options = Options(close_timeout=4)
    link = Link()
    async with serving_in_memory(None, options=options) as memory, trio.open_nursery() as nursery:
        if client:
            nursery.start_soon(RawPeer.accept, link.server)
            async with connect("ws://test", stream=link.client, options=options) as ws:
                began = trio.current_time()
        else:
            peer = await RawPeer.connect(await memory.stream())
            ws = await memory.server.accept()
            began = trio.current_time()
            await ws.close()
            assert await peer.receive_until_close() == (1000, "")
        assert trio.current_time() - began == pytest.approx(4)
        assert ws.closed
        assert (ws.close_sent, ws.close_received) == ((1000, ""), None)
    assert "close_timeout (4" in the_line(caplog)


async def test_drain_timeout(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def stay(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep_forever()

    async with serving_in_memory(stay, options=Options(drain_timeout=3)) as memory:
        peer = await RawPeer.connect(await memory.stream())
    assert trio.current_time() == pytest.approx(3)
    assert await peer.receive_until_close() == (1001, "")
    assert "drain_timeout (3" in the_line(caplog)


async def test_ping_interval_and_ping_timeout(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends = Ends()
    async with serving_in_memory(ends, options=Options(ping_interval=5, ping_timeout=2)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.opcode == 9
        assert trio.current_time() == pytest.approx(5)
        # The Close frame is offered to the link, but nothing waits for a peer that is gone.
        await read_to_end(peer.stream)
        assert trio.current_time() == pytest.approx(7)
    (error,) = ends.errors
    assert error.code == 1011
    assert "ping timeout" in str(error)
    assert isinstance(error.__cause__, TimeoutError)
    assert "ping timeout" in the_line(caplog)


async def test_ping_timeout_of_none_never_gives_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(options=Options(ping_interval=1, ping_timeout=None)) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=10_000_000))
        await trio.sleep(500)
        await peer.send_text("still here")
        while (frame := await peer.receive_frame()) is not None and frame.opcode == 9:
            pass
        assert frame is not None
        assert frame.payload == b"still here"
        await peer.send_close()
        await read_to_end(peer.stream)
    assert not caplog.records


async def test_ping_interval_of_none_sends_none(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(options=Options(ping_interval=None)) as memory:
        stream = await memory.stream()
        peer = await RawPeer.connect(stream)
        carried = stream.link.carried
        await trio.sleep(10_000)
        assert stream.link.carried == carried
        await peer.send_close()
        await read_to_end(stream)
    assert not caplog.records


# -- how many ---------------------------------------------------------------------------------------


async def test_max_connections(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with serving_in_memory(options=Options(max_connections=1)) as memory, memory.connect():
        with pytest.raises(HandshakeRejectedError) as info:
            async with memory.connect():
                pytest.fail("that was one too many")
        assert info.value.status == 503
    assert "max_connections (1)" in the_line(caplog)


async def test_max_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving(options=Options(max_handshakes=1)) as server,
        await trio.open_tcp_stream("127.0.0.1", server.port) as idle,
    ):
        await idle.send_all(b"GET")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as refused:
            assert status_of(await read_to_end(refused)) == 503
            # Before the idle one leaves in the middle of its request, which is logged separately.
            assert "max_handshakes (1)" in the_line(caplog)


# -- heads and bodies -------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
async def test_max_header_bytes(
    whole: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    data = request("X: " + "x" * (1000 - len(request("X: "))))
    assert len(data) == 1000
    async with serving_in_memory(options=Options(max_header_bytes=1000)) as memory:
        stream = await memory.stream()
        await stream.send_all(data)
        assert status_of(bytes(await stream.receive_some())) == 101
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert not caplog.records
        longer = data.replace(b"X: ", b"X: x")
        response = await exchange(await memory.stream(), longer if whole else longer[:-4] + b"xxxx")
        assert status_of(response) == 431
    assert "1000 bytes" in the_line(caplog)


async def test_max_header_bytes_of_a_client(autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept(headers=[("X", "x" * 1000)])

    async with serving_in_memory(handler) as memory:
        with pytest.raises(ConnectionFailedError, match="max_header_bytes=500"):
            async with memory.connect(options=Options(max_header_bytes=500)):
                pytest.fail("the head was too long")


async def test_max_redirects(caplog: pytest.LogCaptureFixture) -> None:
    async def send_on(ws: WebSocket) -> None:
        await ws.reject(307, headers=[("Location", ws.path + "x")])

    async with serving(send_on) as server:
        with pytest.raises(ConnectionFailedError, match="max_redirects=3 redirects already") as info:
            async with connect(server.url, options=Options(max_redirects=3)):
                pytest.fail("a redirect led somewhere")
        assert f"{server.url}/xxx redirects to {server.url}/xxxx" in str(info.value)
        with pytest.raises(HandshakeRejectedError, match="307"):
            async with connect(server.url, options=Options(max_redirects=0)):
                pytest.fail("a redirect led somewhere")
    assert not caplog.records  # the application that connects gets an error, and so the log has nothing


@pytest.mark.parametrize("chunked", [True, False])
async def test_max_body_bytes(
    chunked: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def post(size: int) -> bytes:
        if chunked:
            return request("Transfer-Encoding: chunked", method="POST") + b"%x\r\n%s\r\n0\r\n\r\n" % (
                size,
                b"x" * size,
            )
        return request(f"Content-Length: {size}", method="POST") + b"x" * size

    app = App()

    @app.http("/", methods=["POST"])
    async def take(request: Request) -> str:
        return "taken"

    async with serving_in_memory(app, options=Options(max_body_bytes=100)) as memory:
        assert status_of(await exchange(await memory.stream(), post(100))) == 200
        assert not caplog.records
        assert status_of(await exchange(await memory.stream(), post(101))) == 413
    assert "100 bytes" in the_line(caplog)


async def test_origins(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with serving_in_memory(options=Options(origins=["https://a.example"])) as memory:
        with pytest.raises(HandshakeRejectedError) as info:
            async with memory.connect(headers={"Origin": "https://b.example"}):
                pytest.fail("it came from elsewhere")
        assert info.value.status == 403
    assert "Options(origins=['https://b.example'])" in the_line(caplog)


# -- arguments of an application --------------------------------------------------------------------

SECONDS = ["open_timeout", "close_timeout", "drain_timeout", "ping_interval", "ping_timeout"]
COUNTS = [
    "max_message_size",
    "max_queue_bytes",
    "max_held_bytes",
    "max_decoded_bytes",
    "send_high_water",
    "max_connections",
    "max_handshakes",
    "max_connections_per_address",
    "max_handshakes_per_address",
    "max_header_bytes",
    "max_redirects",
    "max_body_bytes",
    "max_concurrent_calls",
    "stream_window",
    "stream_window_bytes",
    "channel_max_items",
    "channel_max_bytes",
    "max_subscribed_channels",
]


def made(kind: Any, **arguments: Any) -> Any:
    """Make an `Options` or a `Compression` of arguments that a type checker would refuse."""
    return kind(**arguments)


MAY_BE_NONE = {
    "max_message_size",
    "max_held_bytes",
    "max_connections",
    "max_connections_per_address",
    "max_handshakes_per_address",
    "ping_interval",
    "ping_timeout",
    "origins",
}


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
def test_an_invalid_time_raises_immediately(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be above 0 seconds, not "):
        made(Options, **{name: value})


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize("value", ["10", True, [1]])
def test_a_time_of_the_wrong_type_raises_at_once(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a number of seconds.*, not {type(value).__name__}"):
        made(Options, **{name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_that_is_too_small_raises_at_once(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be [0-9]+ or more, not -1"):
        made(Options, **{name: -1})


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", ["10", 10.0, True])
def test_a_count_of_the_wrong_type_raises_at_once(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be an int.*, not {type(value).__name__}"):
        made(Options, **{name: value})


@pytest.mark.parametrize("name", [*SECONDS, *COUNTS, "compression", "origins"])
def test_none_is_taken_only_where_it_means_no_limit(name: str) -> None:
    if name in MAY_BE_NONE:
        assert getattr(made(Options, **{name: None}), name) is None
    else:
        with pytest.raises(TypeError, match=f"^{name} must be "):
            made(Options, **{name: None})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"compression": "deflate"}, TypeError, "compression must be True, False or a Compression, not str"),
        ({"compression": 1}, TypeError, "compression must be True, False or a Compression, not int"),
        ({"origins": "https://a.example"}, TypeError, r"use origins=\['https://a.example'\]"),
        ({"max_mesage_size": 1}, TypeError, "max_mesage_size"),
    ],
)
def test_other_wrong_options(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(Options, **arguments)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("level", 1, 9),
        ("memory_level", 1, 9),
        ("server_max_window_bits", 9, 15),
        ("client_max_window_bits", 9, 15),
    ],
)
def test_wrong_compression(name: str, low: int, high: int) -> None:
    for value in (low, high):
        assert getattr(made(Compression, **{name: value}), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"^{name} must be from {low} to {high}, not {value}"):
            made(Compression, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be an int( or None)?, not str"):
        made(Compression, **{name: "9"})


def test_a_wrong_threshold() -> None:
    assert Compression(threshold=0).threshold == 0
    with pytest.raises(ValueError, match="threshold must be 0 or more, not -1"):
        Compression(threshold=-1)


def test_options_are_frozen_and_keep_a_copy_of_their_lists() -> None:
    origins = ["https://a.example"]
    options = Options(origins=origins)
    origins.append("https://b.example")
    assert options.origins == ("https://a.example",)
    with pytest.raises(AttributeError):
        options.max_queue_bytes = 5  # type: ignore[misc]


async def test_wrong_arguments_of_a_connection_raise_at_once_with_the_fix(autojump_clock: MockClock) -> None:
    message: Any = WebSocketMessage
    async with serving_in_memory() as memory, memory.connect() as connection:
        ws: Any = connection
        calls: list[tuple[Any, tuple[Any, ...], type[Exception], str]] = [
            (ws.send, (7,), TypeError, "use send_json"),
            (ws.send, ({"x": 1},), TypeError, "use send_json"),
            (ws.send, (["a"],), TypeError, "use send_json"),
            (ws.send, (None,), TypeError, "not NoneType"),
            (ws.send, ("\ud800",), ValueError, "surrogates"),
            (ws.send_text, (b"x",), TypeError, "for bytes use send_binary"),
            (ws.send_binary, ("x",), TypeError, "for str use send_text"),
            (ws.send_bytes, ("x",), TypeError, "for str use send_text"),
            (ws.send_json, ({1, object()},), TypeError, "object"),
            (ws.ping, (b"x" * 126,), ValueError, "at most 125 bytes, not 126"),
            (ws.ping, (7,), TypeError, "a ping is bytes-like, not int"),
            (ws.close, (999,), ValueError, "close code 999 cannot be sent; use 1000"),
            (ws.close, ("1000",), TypeError, "a close code must be an int, not str"),
            (ws.close, (1000, "x" * 124), ValueError, "123 bytes of UTF-8; shorten it"),
            (ws.close, (1000, b"bye"), TypeError, "a close reason must be a str, not bytes"),
        ]
        for method, arguments, error, text in calls:
            with pytest.raises(error, match=text):
                await method(*arguments)
        values: list[tuple[Any, Any, type[Exception], str]] = [
            (message.text, b"x", TypeError, "for bytes use binary"),
            (message.binary, "x", TypeError, "encode it, or use text"),
            (message.ping, b"x" * 126, ValueError, "at most 125 bytes"),
            (message.close, 1006, ValueError, "cannot be sent"),
        ]
        for make, argument, error, text in values:
            with pytest.raises(error, match=text):
                make(argument)
        # None of it did any harm.
        await ws.send("still here?")
        assert await ws.receive_text() == "still here?"


async def test_messages_that_do_not_fit_are_errors_of_ours_and_do_no_harm(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        await ws.send_text("text")
        with pytest.raises(MessageError, match="expected a binary message") as info:
            await ws.receive_bytes()
        assert info.value.message == WebSocketMessage.text("text")
        await ws.send_binary(b"binary")
        with pytest.raises(MessageError, match="expected a text message"):
            await ws.receive_text()
        for data in ("{", b"\xff", '{"x": "no number"}'):
            await ws.send(data)
            with pytest.raises(MessageError, match="not the requested JSON") as info:
                await ws.receive_json(type=dict[str, int])
            assert isinstance(info.value, WebSocketError)
        await ws.send("still here?")
        assert await ws.receive_text() == "still here?"


def test_every_option_is_met_here_or_in_the_modules_beside() -> None:
    tests = [
        name
        for name in {**globals(), **vars(test_bad_calls), **vars(test_bad_channels), **vars(test_bad_hosts)}
        if name.startswith("test_")
    ]
    unmet = [
        field.name
        for field in fields(Options)
        if not any(test.startswith(f"test_{field.name}") or f"_and_{field.name}" in test for test in tests)
    ]
    assert not unmet
    checked = {
        *SECONDS,
        *COUNTS,
        "compression",
        "origins",
        "hosts",
        "unix_mode",
        "trusted_proxies",
        "forwarded_header",
        "proxy_protocol",
        "json_in_binary",
    }
    assert checked == {field.name for field in fields(Options)}


async def test_the_echo_server_of_these_tests_echoes(autojump_clock: MockClock) -> None:
    # Were it broken, many tests above would pass for the wrong reason.
    async with serving_in_memory(echo) as memory, memory.connect() as ws:
        for message in ("text", b"binary", "", b""):
            await ws.send(message)
            got = await ws.recv()
            assert got is not None
            assert got.payload == message
