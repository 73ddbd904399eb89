"""Other programs that publish at the same Redis: what they can send, and what it costs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.redis import logged, redis_server, running, settled
from tests.support.watching import until
from trio_ws import All, Has, PacketError, RedisBroker, WebSocketHandler, rpc_method
from trio_ws import Any as AnyOf
from trio_ws.channels.redis import duplicates
from trio_ws.channels.redis.duplicates import ReceivedMessages
from trio_ws.channels.redis.messages import MessageFormat
from trio_ws.predicates import MAX_PARTS, unpack_predicate

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.redis import RedisServer

HEAD = b"tws1" + b"O" * 16


class Rooms(WebSocketHandler[Any]):
    @rpc_method()
    def nothing(self, connection: Any) -> None:
        pass


async def spy(server: RedisServer, publish: Callable[[], object]) -> bytes:
    """Return a message for the channel ``a`` as it is sent to Redis."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        await stream.send_all(b"SUBSCRIBE trio_ws:a\r\n")
        await stream.receive_some()
        publish()
        data = bytes(await stream.receive_some())
    return data.rpartition(b"\r\n$")[2].partition(b"\r\n")[2].removesuffix(b"\r\n")


async def test_a_forged_sequence_number_does_not_suppress_later_messages() -> None:
    """Any eight bytes of the header of a genuine message may be changed."""
    async with (
        redis_server() as server,
        running(server, "a") as (_, heard),
        running(server) as (other, _),
    ):
        message = await spy(server, lambda: other.publish("a", b"real"))
        for at in range(21):
            for forged in (b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(7) + b"\x05"):
                await server.do("PUBLISH", "trio_ws:a", message[:at] + forged + message[at + 8 :])
        for number in range(10):
            other.publish("a", b"after %d" % number)
        await until(lambda: heard and heard[-1][1] == b"after 9")
        assert [payload for _, payload in heard if payload.startswith(b"after")] == [
            b"after %d" % number for number in range(10)
        ]


async def test_a_repeated_message_is_received_once() -> None:
    async with redis_server() as server, running(server, "a", "*") as (_, heard):
        for _ in range(3):
            await server.do("PUBLISH", "trio_ws:a", HEAD + bytes(8) + b"x")
        await server.do("PUBLISH", "trio_ws:a", HEAD + bytes(8) + b"y")
        await until(lambda: len(heard) == 2)
        assert heard == [("a", b"x"), ("a", b"y")]


def test_memory_for_duplicates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_EACH", 3)
    monkeypatch.setattr(duplicates, "_MAX_SENDERS", 4)
    monkeypatch.setattr(duplicates, "_MAX_MESSAGES", 6)
    heard = ReceivedMessages()
    first = [heard.add(b"1", b"c", b"%d" % number) for number in (1, 1, 2, 3, 4)]
    assert first == [True, False, True, True, True]
    assert heard.add(b"1", b"c", b"1")  # it has been forgotten
    assert not heard.add(b"1", b"c", b"4")
    for sender in range(10):
        assert heard.add(b"s%d" % sender, b"c", b"")
    assert len(heard._senders) <= 4
    for number in range(3):
        heard.add(b"s9", b"c", b"%d" % number)
        heard.add(b"s8", b"c", b"%d" % number)
    assert heard._messages == sum(map(len, heard._senders.values())) <= 6


@pytest.mark.parametrize("junk", [b"", b"hello", b"tws1", HEAD + bytes(7), HEAD + bytes(8) + bytes(2000)])
async def test_foreign_messages_are_counted_and_logged_once(
    junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.channels")
    async with redis_server() as server, running(server, "a\x1b", max_message_bytes=1000) as (broker, heard):
        for _ in range(20):
            await server.do("PUBLISH", "trio_ws:a\x1b", junk)
        await until(lambda: broker.rejected == 20)
        assert heard == []
        assert broker.state == "connected"
    (text,) = [text for text in logged(caplog, logging.WARNING) if "another format" in text]
    assert text.isprintable()
    assert f"{len(junk)} bytes" in text


async def test_what_has_no_valid_signature_is_dropped_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = b"k" * 16
    ours, theirs, unmarked = (MessageFormat(one) for one in (key, b"another key of 16", None))
    genuine = ours.pack(b"O" * 16, 1, b"trio_ws:a", b"real")
    # The signature covers every bit.
    forged = [genuine[:at] + bytes([genuine[at] ^ 1]) + genuine[at + 1 :] for at in range(len(genuine))]
    forged += [
        theirs.pack(b"O" * 16, 1, b"trio_ws:a", b"forged"),
        unmarked.pack(b"O" * 16, 1, b"trio_ws:a", b"forged"),
        ours.pack(b"O" * 16, 1, b"trio_ws:b", b"of another channel"),
        genuine[:-1],
        genuine[:52],
        genuine + b"x",
        b"",
    ]
    async with redis_server() as server, running(server, "a", key=key) as (broker, heard):
        for message in forged:
            await server.do("PUBLISH", "trio_ws:a", message)
        await until(lambda: broker.rejected == len(forged))
        assert heard == []
        for _ in range(3):
            await server.do("PUBLISH", "trio_ws:a", genuine)
        await server.do("PUBLISH", "trio_ws:a", ours.pack(b"O" * 16, 2, b"trio_ws:a", b"next"))
        await until(lambda: len(heard) == 2)
        assert heard == [("a", b"real"), ("a", b"next")]
    assert len([text for text in logged(caplog, logging.WARNING) if "another format" in text]) == 1


async def test_a_message_that_is_too_large_is_not_published(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server, running(server, max_message_bytes=1000) as (broker, _):
        broker.publish("a", bytes(1001))
        broker.publish("a", bytes(1000))
        await settled(broker)
        assert broker.statistics() == (1, 0, 1, 0, 0)
    assert any("max_message_bytes is 1000" in text for text in logged(caplog, logging.WARNING))


def test_a_predicate_has_a_bound_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    encode = msgspec.msgpack.encode
    handler = Rooms()
    many = ["Any", *[["Has", "k"]] * (MAX_PARTS - 1)]
    assert unpack_predicate(many) is not None
    with pytest.raises(ValueError, match="1000 parts"):
        unpack_predicate([*many, ["Has", "k"]])
    nested: Any = ["Has", "k"]
    for _ in range(MAX_PARTS):
        nested = ["Not", nested]
    with pytest.raises(ValueError, match="1000 parts"):
        unpack_predicate(nested)
    for packed in (["Any", *[["Has", "k"]] * 300_000], ["IsEqual", "k", "x" * 70_000], ["Not", 5]):
        handler.channels.receive("x", encode([1, packed]))
    assert handler.channels.rejected == 3
    assert len(caplog.records) == 1  # the next at the tenth


async def test_a_predicate_that_is_too_large_is_refused_where_it_is_published() -> None:
    async with redis_server() as server:
        broker = RedisBroker(server.url)
        async with broker.run(lambda *_: None, 5):
            handler = Rooms()
            handler.channels.attach(broker)
            with pytest.raises(ValueError, match="1000 parts"):
                handler.publish("x", 1, predicate=All(*[Has("k")] * 1000))
            with pytest.raises(PacketError, match="65536 bytes"):
                handler.publish("x", 1, predicate=AnyOf(*[Has("k" * 200)] * 500))


async def greet(stream: trio.SocketStream, greeting: bytes, answer: bytes) -> None:
    """A Redis with one response to HELLO, and another one to PUBLISH."""
    await stream.receive_some()
    await stream.send_all(greeting)
    async for data in stream:
        for _ in range(data.count(b"PUBLISH")):
            await stream.send_all(answer)


OK = b"%1\r\n+proto\r\n:3\r\n"


@pytest.mark.parametrize(
    "refusal",
    [
        b"-WRONGPASS invalid username-password pair",
        b"-NOAUTH Authentication required.",
        b"-LOADING Redis is loading the dataset in memory",
        b"-NOPERM this user has no permissions",
        b"-MOVED 1 192.0.2.1:6379",
        b"-ERR \x1b[2J bad",
    ],
)
async def test_why_redis_does_not_let_us_back_in_is_said_once_and_can_be_seen(
    refusal: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02  # the sockets are real
    greetings = [OK]
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await greet(stream, greetings[0], b":0\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        broker = RedisBroker(f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}", ping_interval=1000)
        async with broker.run(lambda *_: None, 5):
            assert broker.problem == ""
            greetings[0] = refusal + b"\r\n"
            assert broker._routing.links[0].exchange is not None
            await broker._routing.links[0].exchange.aclose()
            while connections < 6:
                await trio.sleep(1)
            word = refusal[1:].split()[0].decode()
            assert str(broker.state) == "lost"
            assert (word if word != "ERR" else "bad") in broker.problem
            assert broker.problem.isprintable()
            greetings[0] = OK
            while broker.state != "connected":
                await trio.sleep(1)
            assert broker.problem == ""
        nursery.cancel_scope.cancel()
    said = [text for text in logged(caplog, logging.WARNING) if "refused the login" in text]
    assert len(said) == 1
    assert said[0].isprintable()


@pytest.mark.parametrize("refusal", [b"-NOAUTH x", b"-READONLY x", b"-MOVED 1 x", b"-LOADING x"])
async def test_a_message_that_this_connection_cannot_publish_waits_for_another(
    refusal: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02
    answers = [refusal + b"\r\n"]

    async def serve(stream: trio.SocketStream) -> None:
        await greet(stream, OK, answers[0])

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        broker = RedisBroker(f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}", ping_interval=1000)
        async with broker.run(lambda *_: None, 5):
            broker.publish("a", b"1")
            while broker.statistics().losses < 5:
                await trio.sleep(0.1)
            answers[0] = b":0\r\n"
            while not broker.statistics().published:
                await trio.sleep(0.1)
            assert broker.statistics()[:3] == (1, 0, 0)
        nursery.cancel_scope.cancel()
    assert (
        len([text for text in logged(caplog, logging.WARNING) if "lost the connection to Redis" in text]) == 1
    )


async def test_waiting_messages_are_published_soon_after_reconnecting(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However long it was away, and earlier where much waits."""
    autojump_clock.autojump_threshold = 0.02
    published: list[float] = []

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(OK)
        async for data in stream:
            for _ in range(data.count(b"PUBLISH")):
                published.append(trio.current_time())
                await stream.send_all(b":0\r\n")

    for waiting, longest in ((1, 0.8), (50, 0.1)):
        published.clear()
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, serve, 0)
            port = listeners[0].socket.getsockname()[1]
            broker = RedisBroker(f"redis://127.0.0.1:{port}", max_queue_items=100, ping_interval=1000)
            async with broker.run(lambda *_: None, 5):
                assert broker._routing.links[0].exchange is not None
                await broker._routing.links[0].exchange.aclose()
                await until(lambda: broker.state == "lost")
                for _ in range(waiting):
                    broker.publish("a", b"")
                while broker.state != "connected":
                    await trio.sleep(0.01)
                back = trio.current_time()
                broker.publish("a", b"")
                while len(published) < waiting + 1:
                    await trio.sleep(0.01)
                assert published[0] - back <= longest
                assert waiting > 1 or published[0] - back >= 0.7
                assert broker.statistics().unpublished == 0
            nursery.cancel_scope.cancel()
