"""Publishing from other programs, and the signature of messages, with a real Redis and byte by byte."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.redis import redis_server, running, settled
from tests.support.serving import serving_in_memory
from tests.support.watching import until
from trio_ws import (
    App,
    BlockingPublisher,
    BrokerError,
    PacketError,
    Publisher,
    RedisBroker,
    WebSocketHandler,
)
from trio_ws.channels.redis import messages
from trio_ws.channels.redis.messages import MessageFormat

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"0123456789abcdef"
ORIGIN = b"o" * 16


async def test_from_another_program(tmp_path: Path) -> None:
    handler = WebSocketHandler()
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY + b"\n")
    async with redis_server() as redis:
        broker = RedisBroker(redis.url, key=KEY)
        async with (
            serving_in_memory(handler, broker=broker),
            handler.channels.subscribe("room.7") as subscription,
            Publisher(redis.url, key=KEY) as publisher,
        ):
            await settled(broker)
            assert await publisher.publish("room.7", {"a": 1}) == 1
            assert await publisher.publish("room.8", 1) == 0
            assert (await subscription.receive()).data == {"a": 1}
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(publisher.publish, "room.7", number)
            assert sorted([(await subscription.receive()).data for _ in range(20)]) == list(range(20))

            blocking = BlockingPublisher(redis.url, key=KEY.decode())
            assert await trio.to_thread.run_sync(blocking.publish, "room.7", "from a thread") == 1
            assert (await subscription.receive()).data == "from a thread"
            with pytest.raises(RuntimeError):
                blocking.publish("room.7", 1)

            command = [sys.executable, "-m", "trio_ws", "publish", redis.url, "room.7", '{"b": 2}']
            done = await trio.run_process(
                [*command, "--key-file", str(key_file)], capture_stdout=True, env=dict(os.environ)
            )
            assert done.stdout == b"1\n"
            assert (await subscription.receive()).data == {"b": 2}

            for stranger in (Publisher(redis.url), Publisher(redis.url, key=b"another key of 16")):
                async with stranger:
                    assert await stranger.publish("room.7", "forged") == 1
            await until(lambda: broker.rejected == 2)
            assert subscription.statistics().waiting == 0


async def test_to_a_handler_of_an_app() -> None:
    app = App()
    handler = WebSocketHandler()
    app.mount("/chat", handler)
    async with redis_server() as redis:
        broker = RedisBroker(redis.url)
        async with (
            serving_in_memory(app, broker=broker),
            handler.channels.subscribe("room.7") as subscription,
            Publisher(redis.url, path="/chat") as publisher,
        ):
            await settled(broker)
            assert await publisher.publish("room.7", 1) == 1
            assert (await subscription.receive()).data == 1


async def test_errors_of_publish() -> None:
    async with redis_server() as redis:
        async with Publisher(redis.url) as publisher:
            assert await publisher.publish("a", 1) == 0
            with pytest.raises(PacketError):
                await publisher.publish("a", object())
            with pytest.raises(ValueError, match="name"):
                await publisher.publish("", 1)
            await redis.kill()
            with pytest.raises(BrokerError):
                await publisher.publish("a", 1)
            await redis.start()
            assert await publisher.publish("a", 1) == 0, "it connects again"
        with pytest.raises(trio.ClosedResourceError):
            await publisher.publish("a", 1)
    with pytest.raises(BrokerError):
        async with Publisher("redis://127.0.0.1:1") as publisher:
            await publisher.publish("a", 1)


@pytest.mark.parametrize(
    ("key", "error"), [(b"short", ValueError), ("short", ValueError), (5, TypeError), (b"", ValueError)]
)
def test_keys_that_cannot_be(key: Any, error: type[Exception]) -> None:
    for make in (Publisher, BlockingPublisher, RedisBroker):
        with pytest.raises(error):
            make("redis://localhost", key=key)


async def test_processes_with_a_key_hear_each_other() -> None:
    async with (
        redis_server() as server,
        running(server, "a", "a*", key=KEY) as (_, heard),
        running(server, key=KEY) as (other, _),
    ):
        for number in range(300):
            other.publish("a", b"%d" % number)
        await settled(other)
        await until(lambda: len(heard) == 300)
        assert heard == [("a", b"%d" % number) for number in range(300)]


# -- the signature, byte by byte --------------------------------------------------------------------


def test_signature_covers_channel_and_payload() -> None:
    form = MessageFormat(KEY)
    data = form.pack(ORIGIN, 5, b"channel", b"payload")
    assert form.unpack(b"channel", data, 100) == b"payload"
    assert form.unpack(b"another", data, 100) is None
    assert form.unpack(b"channel", data, 6) is None
    assert MessageFormat(b"x" * 16).unpack(b"channel", data, 100) is None
    assert MessageFormat(None).unpack(b"channel", data, 100) is None
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 1
        assert form.unpack(b"channel", bytes(changed), 100) is None, index
    for length in range(len(data)):
        assert form.unpack(b"channel", data[:length], 100) is None


def test_a_message_that_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    form = MessageFormat(KEY)
    first, second = (form.pack(ORIGIN, number, b"c", b"p") for number in (1, 2))
    received = [first, first, second, first, second]
    assert [form.is_new(one) for one in received] == [True, False, True, False, False]
    assert form.is_new(form.pack(b"p" * 16, 1, b"c", b"p"))
    now = time.time()
    limit = messages.MAX_AGE
    for age, accepted in ((limit - 1, True), (limit + 1, False), (-limit - 1, False)):
        monkeypatch.setattr(time, "time", lambda age=age: now + age)
        assert (form.unpack(b"c", first, 100) is not None) is accepted


@examples(200)
@given(st.permutations(range(1, 20)), st.lists(st.integers(1, 19)))
def test_messages_that_arrive_in_any_order_are_accepted_once(order: list[int], again: list[int]) -> None:
    form = MessageFormat(KEY, in_order=False)
    packed = [form.pack(ORIGIN, number, b"c", b"") for number in range(3000)]
    assert all(form.is_new(packed[number]) for number in order)
    assert not any(form.is_new(packed[number]) for number in again)
    assert form.is_new(packed[1030])
    assert not form.is_new(packed[5]), "it may have been received"
    assert form.is_new(packed[1029])
    assert form.is_new(packed[2999])
    assert not form.is_new(packed[1500])


@examples(200)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_told_apart(data: bytes, plain: bool) -> None:
    form = MessageFormat(None if plain else KEY)
    payload = form.unpack(b"channel", data, 100)
    assert payload is None or (plain and data.startswith(b"tws1") and data.endswith(payload))
