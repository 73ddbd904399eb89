"""Sessions with servers of other authors: each connection is set up, and each message is received once."""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from tests.support.examples import examples
from tests.support.network import Network, refusal
from tests.support.serving import all_tasks, guard, serving_in_memory
from tests.support.watching import until
from trio_ws import Backoff, ConnectionClosedError, ConnectionFailedError, Options, Reconnect, WebSocket
from trio_ws.testing import LinkStream, MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

URL = "ws://feed.example/"
STEADY = Backoff(initial=1, factor=1, jitter=False)


class Feed:
    """A typical server: it sends numbers to clients that have subscribed.

    Attributes:
        asked: the times of the subscriptions.
    """

    def __init__(self, *, pause: float = 1.0, count: int | None = None, code: int = 1000) -> None:
        self.pause = pause
        self.count = count
        self.code = code
        self.asked: list[float] = []
        self.sent: list[int] = []

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()
        try:
            if await ws.receive_text() != "subscribe":
                return
            self.asked.append(trio.current_time())
            await ws.send("subscribed")
            sent = 0
            while self.count is None or sent < self.count:
                self.sent.append(len(self.sent))
                await ws.send(str(self.sent[-1]))
                sent += 1
                await trio.sleep(self.pause)
            await ws.close(self.code)
        except ConnectionClosedError:
            pass


async def subscribe(ws: WebSocket) -> None:
    await ws.send("subscribe")
    assert await ws.receive_text() == "subscribed"


class CountedNetwork(Network):
    """A network that counts concurrent connections of the client.

    Attributes:
        most: the maximum number of concurrent connections.
    """

    most = 0

    async def __call__(self) -> LinkStream:
        stream = await super().__call__()
        self.most = max(self.most, sum(not link.client._closed for link in self.links))
        return stream


@asynccontextmanager
async def feeding(feed: Any, **options: Any) -> AsyncIterator[CountedNetwork]:
    async with serving_in_memory(feed, options=Options(ping_interval=None, drain_timeout=0.01)) as server:
        yield CountedNetwork(server.listener, **options)


async def test_messages_go_on_over_connections(autojump_clock: MockClock) -> None:
    async with feeding(Feed(count=3)) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            assert await take(feed, 10) == numbers(*range(10))
    assert len(network.times) == 4


async def take(feed: trio_ws.Session, count: int) -> list[str]:
    """Return the text of the next messages."""
    messages = [await feed.recv() for _ in range(count)]
    return [str(message.payload) for message in messages if message is not None]


def numbers(*items: int) -> list[str]:
    return [str(item) for item in items]


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_reconnects_after_every_close_code(code: int, autojump_clock: MockClock) -> None:
    async with feeding(Feed(count=1, code=code)) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            assert await take(feed, 3) == numbers(0, 1, 2)


async def test_context_manager_ends_with_its_connection(autojump_clock: MockClock) -> None:
    beats: list[WebSocket] = []
    left: list[WebSocket] = []

    @asynccontextmanager
    async def set_up(ws: WebSocket) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                beats.append(ws)
                await trio.sleep(1)

        await subscribe(ws)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(beat)
                yield
        finally:
            left.append(ws)

    async with feeding(Feed(pause=0.9, count=5)) as network:
        async with trio_ws.session(URL, stream=network, on_connection=set_up, reconnect=STEADY) as feed:
            assert await take(feed, 8) == numbers(*range(8))
            first, second = dict.fromkeys(beats)
            assert left == [first]
            assert feed.ws is second
        assert left == [first, second]
        count = len(beats)
        await trio.sleep(5)
        assert len(beats) == count


class Deliberate(Exception):  # noqa: N818
    pass


async def raises(ws: WebSocket) -> None:
    raise Deliberate("on purpose")


async def asks_for_another(ws: WebSocket) -> None:
    raise Reconnect("stale data")


async def never_ends(ws: WebSocket) -> None:
    await trio.sleep_forever()


async def ends_it(ws: WebSocket) -> None:
    await ws.close()
    await ws.receive_text()


async def waits_for_what_never_comes(ws: WebSocket) -> None:
    await ws.receive_text()


@asynccontextmanager
async def raises_before_the_yield(ws: WebSocket) -> AsyncIterator[None]:
    raise Deliberate("on purpose")
    yield


@pytest.mark.parametrize(
    ("bad", "seconds", "logged"),
    [
        (raises, 1, "Deliberate: on purpose"),
        (raises_before_the_yield, 1, "Deliberate: on purpose"),
        (asks_for_another, 1, None),
        (never_ends, 11, None),
        (waits_for_what_never_comes, 11, None),
        (ends_it, 1, None),
    ],
)
async def test_a_bad_set_up_ends_that_connection_and_the_next_is_tried(
    bad: Any,
    seconds: float,
    logged: str | None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[float] = []

    def set_up(ws: WebSocket) -> Any:
        tries.append(trio.current_time())
        return (bad if len(tries) == 1 else subscribe)(ws)

    handler = Feed()
    async with feeding(handler) as network:
        with caplog.at_level(logging.INFO, "trio_ws.client"):
            async with trio_ws.session(
                URL,
                stream=network,
                on_connection=set_up,
                reconnect=STEADY,
                options=Options(open_timeout=10),
            ) as feed:
                assert await take(feed, 1) == numbers(0)
    assert tries[1] - tries[0] == pytest.approx(seconds)
    assert network.most == 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == (logged is not None)
    assert logged is None or logged in caplog.text


async def test_a_set_up_that_fails_later_costs_its_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    made = 0

    @asynccontextmanager
    async def set_up(ws: WebSocket) -> AsyncIterator[None]:
        nonlocal made
        made += 1

        async def fail() -> None:
            await trio.sleep(2.5)
            raise Deliberate("later")

        await subscribe(ws)
        async with trio.open_nursery() as nursery:
            if made == 1:
                nursery.start_soon(fail)
            yield

    async with feeding(Feed()) as network:
        async with trio_ws.session(URL, stream=network, on_connection=set_up, reconnect=STEADY) as feed:
            taken = await take(feed, 5)
    assert taken[:3] == numbers(0, 1, 2)
    assert made == 2
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "Deliberate: later" in caplog.text
    assert "on_connection" in record.getMessage()


async def test_a_silent_connection_is_replaced(autojump_clock: MockClock) -> None:
    """Even if the link is half open, so that no Close frame is answered."""
    handler = Feed(pause=1e9)
    async with feeding(handler) as network:
        async with trio_ws.session(
            URL, stream=network, on_connection=subscribe, reconnect=STEADY, silence=16
        ) as feed:
            assert await take(feed, 3) == numbers(0, 1, 2)
    assert handler.asked == pytest.approx([handler.asked[0] + 17 * n for n in range(3)])
    assert network.most == 1


async def test_reset_replaces_the_connection(autojump_clock: MockClock) -> None:
    async with feeding(Feed()) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            await feed.recv()
            first = feed.ws
            feed.reset("resync")
            assert first is not None
            await first.wait_closed()
            assert first.close_sent == (1000, "resync")
            await until(lambda: feed.ws is not first)  # either task may be the first to see the end
            assert feed.ws is None
            assert await take(feed, 1) > numbers(0)
            assert feed.ws not in (None, first)


async def test_sending_waits_for_a_connection(autojump_clock: MockClock) -> None:
    got: list[str] = []

    async def collect(ws: WebSocket) -> None:
        async for message in ws:
            got.append(str(message.payload))

    async with feeding(collect) as network:
        async with trio_ws.session(URL, stream=network, reconnect=STEADY) as feed:
            await feed.send("first")
            feed.reset()
            await trio.testing.wait_all_tasks_blocked()
            await feed.send("second")
            assert feed.state == "connected"
    assert got == ["first", "second"]


async def test_gives_up_after_the_last_attempt_of_the_backoff(autojump_clock: MockClock) -> None:
    async with feeding(Feed(count=1)) as network:
        network.plan = []
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            await feed.recv()
            network.plan = [refusal(403)]
            for _ in range(2):
                with pytest.raises(trio_ws.HandshakeRejectedError):
                    await feed.recv()
            with pytest.raises(trio_ws.HandshakeRejectedError):
                await feed.send("x")
            assert feed.state == "disconnected"


async def test_entering_raises_what_cannot_be_tried_again(autojump_clock: MockClock) -> None:
    async with feeding(Feed()) as network:
        network.plan = [refusal(401)]
        with pytest.raises(trio_ws.HandshakeRejectedError):
            async with trio_ws.session(URL, stream=network, reconnect=STEADY):
                raise AssertionError


async def test_without_reconnect_it_is_one_connection(autojump_clock: MockClock) -> None:
    async with feeding(Feed(count=2)) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=None) as feed:
            assert [message.payload async for message in feed] == ["0", "1"]
            assert await feed.recv() is None
    async with feeding(Feed(count=1, code=1011)) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=None) as feed:
            assert (await feed.recv()) is not None
            with pytest.raises(ConnectionClosedError):
                await feed.recv()
    with pytest.raises(ConnectionFailedError, match=r"on_connection failed: Deliberate: on purpose"):
        async with feeding(Feed()) as network:
            async with trio_ws.session(URL, stream=network, on_connection=raises, reconnect=None):
                raise AssertionError


def tasks_besides_clients() -> set[trio.lowlevel.Task]:
    """All tasks but those of the server's clients, of which an idle one waits for the next client."""
    return {task for task in all_tasks() if task.name != "trio_ws client"}


async def test_leaving_while_it_waits_for_a_connection(autojump_clock: MockClock) -> None:
    async with feeding(Feed(count=1)) as network:
        before = tasks_besides_clients()
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            states = feed.watch_state()
            await feed.recv()
            network.down = True
            with trio.move_on_after(5):
                await feed.recv()
            assert feed.state == "waiting"
        assert [state async for state in states] == ["closed"]
        with pytest.raises(trio_ws.ConnectionClosedLocallyError):
            await feed.recv()
        await trio.testing.wait_all_tasks_blocked()
        assert tasks_besides_clients() == before


async def test_a_consumer_that_takes_nothing_holds_two_connections_worth(autojump_clock: MockClock) -> None:
    handler = Feed(pause=0.1, count=3)
    async with feeding(handler) as network:
        async with trio_ws.session(URL, stream=network, on_connection=subscribe, reconnect=STEADY) as feed:
            await trio.sleep(1000)
            assert len(network.times) == 2
            assert await take(feed, 9) == numbers(*range(9))


class Cuts:
    """Cuts the link after random times, and sometimes refuses connections."""

    def __init__(self, network: Network, seed: int) -> None:
        self.network = network
        self.random = random.Random(seed)
        self.count = 0
        self.latest = trio.current_time()

    async def run(self) -> None:
        while True:
            await trio.sleep(self.random.expovariate(0.5))
            self.latest = trio.current_time()
            if self.random.random() < 0.2:
                answers: list[Exception | bytes] = [
                    OSError("no route"),
                    refusal(503),
                    refusal(429, "Retry-After: 2"),
                ]
                self.network.plan.append(self.random.choice(answers))
            if self.random.random() < 0.5:
                self.network.links[-1].cut()
            else:
                self.network.links[-1].partition()
            self.count += 1


@examples(20)
@given(seed=st.integers(0, 2**32))
def test_cuts_at_random_places(seed: int) -> None:
    """There are never two connections, messages arrive in order and once, and subscriptions return soon."""
    handler = Feed(pause=0.25)
    backoff = Backoff(initial=0.5, maximum=2, random=random.Random(seed))

    async def main() -> None:
        async with feeding(handler, latency=0.05) as network:
            cuts = Cuts(network, seed)
            async with trio.open_nursery() as nursery:
                async with trio_ws.session(
                    URL, stream=network, on_connection=subscribe, reconnect=backoff, silence=3
                ) as feed:
                    nursery.start_soon(cuts.run)
                    last, since = -1, trio.current_time()
                    with trio.move_on_after(50):
                        while True:
                            message = await feed.recv()
                            assert message is not None
                            number = int(str(message.payload))
                            assert number > last
                            last, since = number, trio.current_time()
                    # A lost connection is noticed within ``silence``, and replaced after a few pauses.
                    assert trio.current_time() - max(since, cuts.latest) < 20
                    nursery.cancel_scope.cancel()
            assert cuts.count > 5
            assert last > 10
            assert network.most == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# -- connections ------------------------------------------------------------------------------------------


async def test_each_round_has_a_fresh_connection(autojump_clock: MockClock) -> None:
    handler = Feed(count=2, code=1011)
    async with feeding(handler) as network:
        got = []
        async with trio_ws.connections(URL, stream=network, reconnect=STEADY) as rounds:
            async for ws in rounds:
                await subscribe(ws)
                try:
                    async for message in ws:
                        got.append(message.payload)
                except ConnectionClosedError:
                    if len(got) > 5:
                        break
    assert got == ["0", "1", "2", "3", "4", "5"]
    assert network.most == 1
    assert [b - a for a, b in zip(network.times, network.times[1:], strict=False)] == pytest.approx([3, 3])


async def test_a_round_that_is_left_early_closes_its_connection(autojump_clock: MockClock) -> None:
    handler = Feed()
    async with feeding(handler) as network:
        seen = []
        async with trio_ws.connections(URL, stream=network, reconnect=STEADY) as rounds:
            async for ws in rounds:
                seen.append(ws)
                await subscribe(ws)
                if len(seen) == 3:
                    break
            assert [ws.closed for ws in seen] == [True, True, False]
        assert seen[-1].close_sent == (1000, "")
    assert network.most == 1


async def test_rounds_end_when_the_backoff_says_so(autojump_clock: MockClock) -> None:
    async with feeding(Feed()) as network:
        network.plan = [OSError("no route"), OSError("no route"), refusal(404)]
        async with trio_ws.connections(URL, stream=network, reconnect=STEADY) as rounds:
            with pytest.raises(trio_ws.HandshakeRejectedError):
                await anext(rounds)
    assert len(network.times) == 3


def test_connections_without_a_block_say_so() -> None:
    with pytest.raises(TypeError, match=r"async with trio_ws\.connections\(\.\.\.\) as rounds"):
        aiter(trio_ws.connections(URL))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"on_connection": 5}, TypeError, "on_connection is an async function"),
        ({"reconnect": 5}, TypeError, "reconnect is a Backoff or None, not int"),
        ({"silence": 0}, ValueError, "silence must be above 0 seconds"),
        ({"silence": "1"}, TypeError, "silence is a number of seconds or None, not str"),
        ({"stream": MemoryListener().open_link_nowait().client}, ValueError, "serves one connection only"),
        ({"timeout": 5}, TypeError, "takes no argument 'timeout'"),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with trio.fail_after(guard()), pytest.raises(error, match=text):
        async with trio_ws.session(URL, **arguments):
            raise AssertionError
