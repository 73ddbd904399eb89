"""All memory that a peer causes a connection to hold is charged to one ledger, whose limit stops new work."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.inspect import ledger_of, waiting_messages
from tests.support.serving import serving, serving_in_memory
from tests.support.watching import until
from trio_ws import (
    ClientConnection,
    Options,
    Packet,
    RPCError,
    RPCInvalidParamsError,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.ledger import OVERHEAD, size_of
from trio_ws.protocol.frames import BINARY, TEXT
from trio_ws.testing import RawPeer
from trio_ws.websocket.transport import READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ws.rpc.session import RPCSession

PAGE = 10_000
DIALECTS = {"trio-ws.v1": BINARY, "jsonrpc": TEXT}


class Pages(WebSocketHandler):
    """Counts the calls that were started. The client does not read the responses."""

    def __init__(self) -> None:
        self.begun = 0
        self.connection: ClientConnection | None = None

    async def on_connect(self, connection: ClientConnection) -> None:
        self.connection = connection

    @rpc_method()
    def plain(self, connection: ClientConnection) -> str:
        self.begun += 1
        return "x" * PAGE

    @rpc_method()
    async def at_once(self, connection: ClientConnection) -> str:
        self.begun += 1
        return "x" * PAGE

    @rpc_method()
    async def later(self, connection: ClientConnection) -> str:
        self.begun += 1
        await trio.lowlevel.checkpoint()
        return "x" * PAGE

    @rpc_method()
    def failing(self, connection: ClientConnection) -> str:
        self.begun += 1
        raise RPCError("x" * PAGE)

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: Any = None) -> None:
        self.begun += 1
        await trio.sleep_forever()

    @rpc_method()
    async def back(self, connection: ClientConnection) -> str:
        return str(await connection.call("answer"))

    @property
    def peer(self) -> RPCSession:
        assert self.connection is not None
        return self.connection._live


def request(dialect: str, call_id: str, method: str, *args: Any) -> bytes:
    if dialect == "jsonrpc":
        return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": args, "id": call_id})
    return TrioWSCodec().request(call_id, method, args)


async def flood(peer: RawPeer, opcode: int, make: Callable[[int], bytes], count: int) -> int:
    """Send until the peer stops reading, and return the number of sent messages."""
    sent = 0
    with trio.move_on_after(60):
        for number in range(count):
            await peer.send_frame(opcode, make(number))
            sent += 1
    return sent


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("method", ["plain", "at_once", "later", "failing", "nobody"])
async def test_a_client_that_does_not_read_its_answers_is_not_read(
    dialect: str, method: str, autojump_clock: MockClock
) -> None:
    pages = Pages()
    options = Options(ping_interval=None)
    async with serving_in_memory(pages, options=options) as memory:
        link = await memory.listener.open_link(capacity=4096)
        peer = await RawPeer.connect(link.client, headers=[("Sec-WebSocket-Protocol", dialect)])
        sent = await flood(
            peer, DIALECTS[dialect], lambda number: request(dialect, f"a{number}", method), 100_000
        )
        assert sent < 100_000
        ws = pages.peer.ws
        one = 300 if method == "nobody" else PAGE + 300
        running = options.max_concurrent_calls if method == "later" else 1
        assert options.send_high_water <= ws.buffered_bytes <= options.send_high_water + running * one
        if method != "nobody":
            assert pages.begun <= options.send_high_water // PAGE + running + 2
        assert ledger_of(ws).received <= options.max_queue_bytes + READ_SIZE + OVERHEAD * READ_SIZE // 60
        # When the client reads, all calls continue.
        answers = 0
        with trio.move_on_after(1000):
            while answers < sent and await peer.receive_frame():
                answers += 1
        assert answers == sent


@pytest.mark.parametrize("value", [{}, [], "ab", 1000, None, {"a": 1}, b"ab", 1.5], ids=repr)
async def test_arguments_are_charged_for_what_they_decode_to(
    value: object, autojump_clock: MockClock
) -> None:
    """The arguments of running calls, and of requests that wait for them."""
    pages = Pages()
    options = Options(max_concurrent_calls=4)
    many = [value] * 3000
    async with serving_in_memory(pages, options=options) as memory:
        link = await memory.listener.open_link(capacity=4096)
        peer = await RawPeer.connect(link.client, headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")])
        sent = await flood(peer, BINARY, lambda number: request("", f"a{number}", "wait", many), 5000)
        assert sent < 5000
        ledger = pages.peer.transport.ledger
        held = pages.peer.incoming.waiting
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(many))
        # Objects that are shared, such as small integers, are not charged.
        distinct = size_of(decoded) if decoded[0] is not decoded[1] else sys.getsizeof(decoded)
        assert ledger.held >= (len(held) + 4) * distinct
        assert options.held_limit <= ledger.held <= options.held_limit + 2 * size_of(decoded) + 10_000
        # Reading has stopped, so the end of the connection is noticed by keepalive.
        await peer.aclose()
        await trio.sleep(3 * 20 + 10)
        assert not memory.server.connections
        assert ledger.held == 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_messages_with_too_large_decoded_size_are_not_decoded(
    dialect: str, autojump_clock: MockClock
) -> None:
    pages = Pages()
    async with serving_in_memory(pages, options=Options(max_decoded_bytes=1_000_000)) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect) as client:
            with pytest.raises(RPCInvalidParamsError, match="more than max_decoded_bytes \\(1000000\\)"):
                await client.call("wait", [[]] * 20_000)
            assert pages.begun == 0
            assert await client.call("at_once") == "x" * PAGE


async def test_a_packet_of_data_that_decodes_to_too_much_is_1009(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Pages(), options=Options(max_decoded_bytes=1_000_000)) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        await peer.send_frame(BINARY, TrioWSCodec().data([[]] * 20_000))
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == 1009
        assert "max_decoded_bytes" in closed[1]


async def test_text_is_charged_for_what_it_takes_in_python(autojump_clock: MockClock) -> None:
    """A single wide character makes a text four times as large."""
    text = "a" * 2000 + "😀"
    limit = 100_000
    handlers: list[WebSocket] = []

    async def asleep(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        await trio.sleep_forever()

    async with serving_in_memory(
        asleep, options=Options(max_queue_bytes=limit, ping_interval=None)
    ) as memory:
        link = await memory.listener.open_link(capacity=1000, max_read=1000)
        peer = await RawPeer.connect(link.client)
        await flood(peer, TEXT, lambda _: text.encode(), 1000)
        (ws,) = handlers
        assert len(waiting_messages(ws)) > 5
        assert sum(map(sys.getsizeof, waiting_messages(ws))) <= limit + sys.getsizeof(text)


async def test_the_answers_to_a_batch_are_bounded(autojump_clock: MockClock) -> None:
    """They wait for the last call of the batch, and their size is limited."""
    pages = Pages()
    options = Options(max_queue_bytes=100_000, ping_interval=None)
    batch: list[dict[str, Any]] = [{"jsonrpc": "2.0", "method": "plain", "id": n} for n in range(500)]
    async with serving_in_memory(pages, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[("Sec-WebSocket-Protocol", "jsonrpc")])
        await peer.send_frame(TEXT, msgspec.json.encode([{**batch[0], "method": "wait", "id": "w"}, *batch]))
        await trio.sleep(1)
        assert 100_000 - PAGE <= pages.peer.transport.ledger.held <= 100_000 + 500 * (200 + OVERHEAD)
        assert pages.begun == 100_000 // PAGE + 1
        await peer.send_frame(
            TEXT, msgspec.json.encode({"jsonrpc": "2.0", "method": "rpc.cancel", "params": ["w"]})
        )
        frame = await peer.receive_frame()
        assert frame is not None
        answers = {answer["id"]: answer for answer in msgspec.json.decode(frame.payload)}
        assert answers.keys() == {*range(500), "w"}
        assert [answers[n].get("result") for n in range(9)] == ["x" * PAGE] * 9
        assert answers[499]["error"]["code"] == -32000
        assert "max_queue_bytes" in answers[499]["error"]["message"]
        assert pages.peer.transport.ledger.held == 0


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "json", "jsonrpc"])
@pytest.mark.parametrize("limit", [1, 3])
async def test_nested_calls_never_wait_for_those_that_wait_for_them(
    dialect: str, limit: int, autojump_clock: MockClock
) -> None:
    """The maximum number of calls wait for the client, which makes nested calls before it answers."""
    clients: list[WebSocketClient] = []
    ended: list[object] = []

    class Mine(WebSocketHandler):
        @rpc_method()
        async def answer(self, connection: ClientConnection) -> object:
            return await clients[0].call("at_once")

    async def ask(client: WebSocketClient) -> None:
        try:
            ended.append(await client.call("back"))
        except RPCError as exc:
            ended.append(exc.code)

    options = Options(max_concurrent_calls=limit)
    async with serving_in_memory(Pages(), options=options) as memory:
        stream = await memory.stream(latency=0.1)
        async with WebSocketClient("ws://test/", stream=stream, handler=Mine, dialect=dialect) as client:
            clients.append(client)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(4 * limit):
                        nursery.start_soon(ask, client)
    assert len(ended) == 4 * limit
    if dialect == "trio-ws.v1":  # only this dialect marks nested calls
        assert ended.count("x" * PAGE) == 4 * limit
    assert set(ended) <= {"x" * PAGE, -32000}


async def test_a_peer_cannot_use_a_generated_id(autojump_clock: MockClock) -> None:
    pages = Pages()
    async with serving_in_memory(pages) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        dialect = TrioWSCodec()
        for call_id in ("s1", "", "1", "", "\x001"):
            await peer.send_frame(BINARY, dialect.request(call_id, "wait"))
        await trio.sleep(1)
        running = pages.peer.incoming.running
        assert len(running) == 5
        made_up = [key for key in running if key not in ("s1", "1", "\x001")]
        for key in made_up:
            await peer.send_frame(BINARY, dialect.request(key, "wait"))
            frame = await peer.receive_frame()
            assert frame is not None
            assert msgspec.msgpack.decode(frame.payload)["rpc"]["error"] == -32602
        # The caller does not know the generated id of a call, but sees it in the items of a stream.
        await peer.send_frame(BINARY, dialect.abort(made_up[0]))
        await trio.sleep(1)
        assert len(running) == 4


async def test_an_id_of_a_request_that_waits_is_in_use(autojump_clock: MockClock) -> None:
    pages = Pages()
    async with serving_in_memory(pages, options=Options(max_concurrent_calls=1)) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        dialect = TrioWSCodec()
        for call_id in ("a", "b", "b"):
            await peer.send_frame(BINARY, dialect.request(call_id, "wait"))
        frame = await peer.receive_frame()
        assert frame is not None
        assert msgspec.msgpack.decode(frame.payload)["rpc"]["response"] == "this call_id is in use"
        assert list(pages.peer.incoming.waiting) == ["b"]
        await peer.send_frame(BINARY, dialect.abort("b"))
        await trio.sleep(1)
        assert not pages.peer.incoming.waiting


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="this system does not tell without reading")
async def test_a_client_that_is_gone_is_noticed_while_nothing_is_read() -> None:
    pages = Pages()
    async with serving(pages, options=Options(max_held_bytes=10_000, max_connections=1)) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        peer = await RawPeer.connect(stream, headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")])
        with trio.move_on_after(5) as scope:
            while not pages.connection or not pages.peer.transport.ledger.exhausted:
                await peer.send_frame(BINARY, request("", str(pages.begun), "wait", "x" * 1000))
        assert not scope.cancelled_caught
        # Its end is queued after more data than the network can hold.
        with trio.move_on_after(1):
            while True:
                await peer.send_frame(BINARY, request("", "more", "wait", "x" * 60_000))
        await trio.aclose_forcefully(peer)
        with trio.fail_after(5):
            await until(lambda: not server.connections)
        assert pages.peer.transport.ledger.held == 0


async def test_packets_for_on_receive_are_charged_for_what_they_decode_to(autojump_clock: MockClock) -> None:
    class Slow(Pages):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await trio.sleep_forever()

    pages = Slow()
    options = Options(max_held_bytes=1_000_000, ping_interval=None)
    async with serving_in_memory(pages, options=options) as memory:
        link = await memory.listener.open_link(capacity=4096)
        peer = await RawPeer.connect(link.client, headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")])
        data: list[dict[str, int]] = [{}] * 1000
        sent = await flood(peer, BINARY, lambda _: TrioWSCodec().data(data), 5000)
        assert sent < 5000
        held = [packet.data for packet, _ in pages.peer.delivery.packets]
        assert sum(map(size_of, held)) <= pages.peer.transport.ledger.held <= 1_000_000 + 100_000
