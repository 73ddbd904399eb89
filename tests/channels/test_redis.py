"""RedisBroker with a real redis-server that is killed, restarted and stopped."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.redis import logged, our_tasks, redis_server, running, settled
from tests.support.watching import until
from trio_ws import RedisBroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.channels.redis.link_state import LinkState


async def test_redis_is_asked_only_for_subscribed_channels() -> None:
    async with redis_server() as server, running(server, "a", "b", "b", "n.*") as (broker, _):
        assert await server.subscriptions() == {"trio_ws:a", "trio_ws:b"}
        assert await server.do("PUBSUB", "NUMPAT") == 1
        broker.unsubscribe("a")
        broker.unsubscribe("n.*")
        broker.subscribe("c")
        broker.subscribe("d")
        broker.unsubscribe("d")
        await settled(broker)
        assert await server.subscriptions() == {"trio_ws:b", "trio_ws:c"}
        assert await server.do("PUBSUB", "NUMPAT") == 0


async def test_many_subscriptions_are_sent_in_batches() -> None:
    names = [f"room{number}" for number in range(3000)]
    async with redis_server() as server, running(server, *names) as (broker, _):
        assert len(await server.subscriptions()) == 3000
        for name in names[1:]:
            broker.unsubscribe(name)
        await settled(broker)
        assert await server.subscriptions() == {"trio_ws:room0"}


async def test_brokers_with_different_prefixes_are_separate() -> None:
    async with redis_server() as server, running(server, "a", "*") as (one, heard_one):
        async with running(server, "a", "*", prefix="other:") as (two, heard_two):
            one.publish("a", b"")
            two.publish("a", b"")
            await settled(one)
            await settled(two)
        async with running(server) as (three, _):
            three.publish("a", b"3")
            await until(lambda: heard_one)
        assert heard_one == [("a", b"3")]
        assert heard_two == []


async def test_a_burst_arrives_whole_and_in_order() -> None:
    async with redis_server() as server, running(server, "n*") as (_, heard), running(server) as (other, _):
        for number in range(5000):
            other.publish("n", b"%d" % number)
        for number in range(5000, 5008):  # larger than one write
            other.publish("n", b"%d" % number + bytes(700_000))
        await until(lambda: len(heard) == 5008)
        assert [int(payload.rstrip(b"\0")) for _, payload in heard] == list(range(5008))
        assert other.statistics() == (5008, 0, 0, 0, 0)


async def test_messages_published_during_an_outage_arrive_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.channels")
    async with (
        redis_server() as server,
        running(server, "a", "b*") as (one, heard_one),
        running(server, "a") as (two, heard_two),
    ):
        two.publish("a", b"before")
        await until(lambda: heard_one)
        await server.kill()
        await until(lambda: one.state == two.state == "lost")
        for number in range(10):
            two.publish("a", b"%d" % number)
        one.publish("a", b"back")
        one.subscribe("c")
        one.unsubscribe("b*")
        assert two.statistics().waiting == 10
        await server.start()
        await until(lambda: len(heard_one) == 11 and heard_two)
        assert heard_one == [("a", b"before"), *(("a", b"%d" % number) for number in range(10))]
        assert heard_two == [("a", b"back")]
        await settled(one)
        await settled(two)
        assert await server.subscriptions() == {"trio_ws:a", "trio_ws:c"}
        assert await server.do("PUBSUB", "NUMPAT") == 0
        two.publish("c", b"after")
        await until(lambda: heard_one[-1] == ("c", b"after"))
        await settled(two)
        assert one.state == two.state == "connected"
        assert two.statistics() == (12, 1, 0, 1, 0)
    assert [text.startswith("lost the connection to Redis") for text in logged(caplog, logging.WARNING)] == [
        True,
        True,
    ]
    assert ["reconnected to " in text for text in logged(caplog, logging.INFO)] == [True, True]


async def test_messages_beyond_the_queue_are_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        redis_server() as server,
        running(server, "a") as (one, heard),
        running(server, max_queue_items=3) as (two, _),
    ):
        await server.kill()
        await until(lambda: one.state == two.state == "lost")
        caplog.clear()
        for number in range(10):
            two.publish("a", b"%d" % number)
        assert two.statistics() == (0, 0, 7, 1, 3)
        assert len(logged(caplog, logging.WARNING)) == 1
        await server.start()
        await until(lambda: len(heard) == 3)
        assert heard == [("a", b"7"), ("a", b"8"), ("a", b"9")]
        await settled(two)
        assert two.statistics() == (3, 0, 7, 1, 0)


async def test_max_queue_bytes_is_held() -> None:
    async with redis_server() as server, running(server, max_queue_bytes=10_000) as (broker, _):
        await server.kill()
        await until(lambda: broker.state == "lost")
        for _ in range(100):
            broker.publish("a", bytes(1000))
        assert broker.statistics().waiting == 9
        assert broker.statistics().unpublished == 91
    assert broker.statistics() == (0, 0, 100, 1, 0)  # and the rest was lost with the broker


async def test_a_message_that_is_sent_again_is_received_once() -> None:
    async with (
        redis_server() as server,
        running(server, "a", "*") as (_, heard),
        running(server) as (other, _),
    ):
        link = other._routing.links[0].exchange
        assert link is not None
        # Redis takes these, and the connection breaks before its answers have been read.
        with trio.CancelScope(shield=True):
            other.publish("a", b"1")
            other.publish("a", b"2")
            await link.send(link.commands())
            await server.do("PING")
            await link.aclose()
        other.publish("a", b"3")
        await until(lambda: len(heard) == 3)
        await settled(other)
        assert other.statistics()[:4] == (3, 0, 0, 1)
        other.publish("a", b"4")
        await until(lambda: len(heard) == 4)
        assert heard == [("a", b"%d" % number) for number in range(1, 5)]


async def test_a_redis_that_hangs_is_noticed_and_one_that_is_quiet_is_not() -> None:
    async with redis_server() as server, running(server, ping_interval=0.05, ping_timeout=25) as (quiet, _):
        async with running(server, "a", ping_interval=0.05, ping_timeout=0.4) as (broker, heard):
            link = quiet._routing.links[0].exchange
            assert link is not None
            await until(lambda: link.pinged)
            await until(lambda: not link.pinged)
            server.pause()
            await until(lambda: broker.state == "lost")
            for _ in range(10):
                quiet.publish("a", b"")
            assert quiet.state == "connected"
            server.resume()
            await settled(broker)
            quiet.publish("a", b"again")
            await until(lambda: heard[-1:] == [("a", b"again")])
        assert quiet._routing.links[0].exchange is link  # it was never lost
        assert quiet.statistics().losses == 0
        await server.until_clients(1)


async def test_foreign_messages_are_dropped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        redis_server() as server,
        running(server, "a", "*") as (broker, heard),
        running(server) as (two, _),
    ):
        for garbage in (b"", b"x" * 100, b"tws1", b"tws1" + bytes(23), b"\xff"):
            await server.do("PUBLISH", "trio_ws:a", garbage)
        await server.do("PUBLISH", b"trio_ws:\xff", b"tws1" + bytes(40))
        await server.do("PUBLISH", b"trio_ws:", b"tws1" + bytes(40))
        two.publish("a", b"real")
        await until(lambda: heard)
        assert heard == [("a", b"real")]
        assert broker.statistics().received == 1
        assert len(logged(caplog, logging.WARNING)) == 1
        assert broker.state == "connected"


async def test_a_receiver_that_raises_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def receive(name: str, payload: bytes) -> None:
        if payload == b"1":
            raise KeyError(name)
        heard.append(payload)

    async with redis_server() as server, running(server) as (other, _):
        broker = RedisBroker(server.url)
        broker.subscribe("a")
        async with broker.run(receive, 5):
            await settled(broker)
            for number in range(3):
                other.publish("a", b"%d" % number)
            await until(lambda: len(heard) == 2)
        assert heard == [b"0", b"2"]
        assert len(logged(caplog, logging.ERROR)) == 1


async def test_leaving_the_block_sends_the_queue_even_if_cancelled() -> None:
    async with redis_server() as server, running(server, "a") as (_, heard):
        other = RedisBroker(server.url)
        with trio.CancelScope() as scope:
            async with other.run(lambda *_: None, 5):
                for number in range(3000):
                    other.publish("a", b"%d" % number)
                scope.cancel()
        assert other.statistics() == (3000, 0, 0, 0, 0)
        await until(lambda: len(heard) == 3000)
        other.publish("a", b"too late")
        assert other.statistics() == (3000, 0, 1, 0, 0)


async def test_leaving_does_not_wait_for_a_redis_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async with redis_server() as server:
        async with running(server) as (broker, _):
            await server.kill()
            await until(lambda: broker.state == "lost")
            broker.publish("a", b"")
        assert broker.statistics().unpublished == 1
        assert broker.state == "closed"
    assert "dropped 1 messages that could not be sent" in logged(caplog, logging.WARNING)[-1]


async def test_a_broker_may_run_again_as_another() -> None:
    async with redis_server() as server, running(server, "a") as (_, heard):
        broker = RedisBroker(server.url)
        for number in range(2):
            async with broker.run(lambda *_: None, 5):
                broker.publish("a", b"%d" % number)
            assert broker.state == "closed"
        await until(lambda: len(heard) == 2)
        assert broker.statistics().published == 2


class Clock(logging.Handler):
    """Records the times of log records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.times: list[tuple[float, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.times.append((trio.current_time(), record.levelno))


async def test_the_attempts_follow_the_back_off(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    # The sockets are real, so the clock may jump only when nothing has moved for a moment.
    autojump_clock.autojump_threshold = 0.03
    caplog.set_level(logging.DEBUG, "trio_ws.channels")
    clock = Clock()

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"%1\r\n+proto\r\n:3\r\n")
        await trio.sleep_forever()

    served = trio.CancelScope()

    async def serve(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        with served:
            await trio.serve_tcp(talk, 0, host="127.0.0.1", task_status=task_status)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        url = f"redis://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        broker = RedisBroker(url, backoff_initial=1, backoff_max=10)
        async with broker.run(lambda *_: None, 5):
            logging.getLogger("trio_ws.channels").addHandler(clock)
            try:
                served.cancel()
                await trio.sleep(60)
            finally:
                logging.getLogger("trio_ws.channels").removeHandler(clock)
    assert [level for _, level in clock.times[:2]] == [logging.WARNING, logging.DEBUG]
    times = [when for when, _ in clock.times]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) >= 8
    for gap, most in zip(gaps, [1, 2, 4, 8] + [10] * 20, strict=False):
        assert most / 2 <= gap < most + 0.5
    assert len(set(gaps)) > 4  # the delays are random


class Defective(RedisBroker):
    """A broker with a bug that raises an exception when Redis is lost."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._routing.lost = self.fail  # type: ignore[method-assign]

    def fail(self, link: LinkState) -> None:
        raise ZeroDivisionError(link.shown)


async def test_a_bug_of_the_broker_is_raised_unchanged() -> None:
    async with redis_server() as server:
        broker = Defective(server.url)
        with pytest.raises(ZeroDivisionError, match=r"redis://127\.0\.0\.1"):
            async with broker.run(lambda *_: None, 5):
                await server.kill()
                await trio.sleep_forever()
        assert broker.state == "closed"
        assert our_tasks() == []


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of steps of the broker's tasks, and of others unless they spin."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.left = steps
        self.spinning = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if not self.spinning or task.name.startswith("trio_ws"):
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    async def until(self, holds: Callable[[], object]) -> None:
        self.spinning = True
        await until(holds)
        self.spinning = False


async def test_cancelled_anywhere_it_leaves_no_task_and_no_connection() -> None:
    async with redis_server() as server:
        steps = 0
        finished = False
        while not finished:
            steps += 1
            broker = RedisBroker(server.url, backoff_initial=0.001)
            broker.subscribe("a")
            broker.publish("b", b"")
            with trio.CancelScope() as scope:
                instrument = CancelAfter(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    async with broker.run(lambda *_: None, 5):
                        broker.subscribe("c*")
                        link = broker._routing.links[0].exchange
                        assert link is not None
                        await instrument.until(lambda: broker._routing.links[0].queue.published)
                        await link.aclose()  # it is lost, and comes back
                        broker.publish("d", b"")
                        await instrument.until(lambda: broker._routing.links[0].queue.published == 2)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            finished = not scope.cancelled_caught
            assert our_tasks() == []
            assert broker.state in ("new", "closed")
        assert steps > 25
        await server.until_clients(0)
