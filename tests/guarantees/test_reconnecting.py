"""Attempts follow the documented back-off, 503 is retried and 403 is not, and no call waits forever."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable  # noqa: TC003 - annotations of methods are read
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.network import Network, refusal
from tests.support.serving import all_tasks, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    ConnectionFailedError,
    HandshakeRejectedError,
    Options,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Handler(WebSocketHandler):
    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any) -> Any:
        return value

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        await trio.sleep_forever()

    @rpc_method()
    async def count(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        await trio.sleep_forever()


def drawn(seed: int, bounds: list[float]) -> list[float]:
    """Return the delays of a back-off with this seed: full jitter below each bound."""
    source = random.Random(seed)
    return [source.uniform(0, bound) for bound in bounds]


def client_of(network: Network, backoff: Backoff | None, **kwargs: Any) -> WebSocketClient:
    return WebSocketClient("ws://test/", stream=network, reconnect=backoff, **kwargs)


async def back(client: WebSocketClient) -> None:
    """Wait until a client has reconnected, after a loss that it may not have noticed yet."""
    await trio.testing.wait_all_tasks_blocked()
    async for state in client.watch_state():
        if state == "connected":
            return


# -- delays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_the_tries_to_enter_follow_the_backoff(seed: int, autojump_clock: MockClock) -> None:
    network = Network()
    backoff = Backoff(initial=0.5, maximum=4, attempts=7, random=random.Random(seed))
    with pytest.raises(ConnectionFailedError, match="nobody is there"):
        async with client_of(network, backoff):
            pytest.fail("connected")
    waits = drawn(seed, [0.5, 1, 2, 4, 4, 4])
    assert network.times == pytest.approx(list(accumulate(waits, initial=0)))
    assert trio.current_time() == pytest.approx(sum(waits))  # no delay after the last attempt


@pytest.mark.parametrize("seed", range(5))
async def test_the_tries_after_a_loss_follow_the_backoff(seed: int, autojump_clock: MockClock) -> None:
    backoff = Backoff(initial=1, maximum=10, factor=3, random=random.Random(seed))
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, backoff) as client:
            await trio.sleep(100)
            network.plan = [OSError("unplugged")] * 4
            network.cut()
            await back(client)
            waits = drawn(seed, [1, 3, 9, 10, 10])
            assert network.times[1:] == pytest.approx([100 + sum(waits[: n + 1]) for n in range(5)])
            assert await client.call("echo", 1) == 1


async def test_without_jitter_each_wait_is_its_bound(autojump_clock: MockClock) -> None:
    network = Network()
    with pytest.raises(ConnectionFailedError):
        async with client_of(network, Backoff(initial=1, maximum=5, attempts=5, jitter=False)):
            pytest.fail("connected")
    assert network.times == [0, 1, 3, 7, 12]


async def test_a_connection_that_lasted_begins_the_counting_anew(autojump_clock: MockClock) -> None:
    backoff = Backoff(initial=1, maximum=64, jitter=False, reset_after=20, attempts=4)
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, backoff) as client:
            for lasts, wait in ((20, 1), (19.5, 2), (19.5, 4), (20, 1), (0.5, 2)):
                await trio.sleep(lasts)
                network.cut()
                lost = trio.current_time()
                await back(client)
                assert trio.current_time() - lost == pytest.approx(wait)


async def test_a_server_that_drops_each_client_at_once_is_given_up(autojump_clock: MockClock) -> None:
    backoff = Backoff(initial=1, jitter=False, attempts=3)
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, backoff) as client:

            async def cut_each() -> None:
                async for state in client.watch_state():
                    if state == "connected":
                        network.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut_each)
                with pytest.raises(ConnectionFailedError, match="lost soon after each of 3 tries") as info:
                    await client.recv()
                nursery.cancel_scope.cancel()
            assert isinstance(info.value.__cause__, ConnectionClosedError)
            assert network.times == [0, 1, 3]


# -- retries ----------------------------------------------------------------------------------------


async def test_503_is_retried_and_403_is_not(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        passing = (503, 500, 502, 504, 408, 425, 429)
        network.plan = [refusal(status) for status in passing]
        async with client_of(network, Backoff()) as client:
            assert await client.call("echo", 1) == 1
        assert len(network.times) == 1 + len(passing)
        for status in (403, 401, 404, 407, 302, 200):
            network = Network(memory.listener)
            network.plan = [refusal(503), refusal(status)]
            with pytest.raises(HandshakeRejectedError) as info:
                async with client_of(network, Backoff()):
                    pytest.fail("connected")
            assert info.value.status == status
            assert len(network.times) == 2


async def test_a_redirect_that_cannot_be_followed_is_not_retried(autojump_clock: MockClock) -> None:
    network = Network()
    network.plan = [refusal(503), refusal(302, "Location: ws://elsewhere/")]
    with pytest.raises(ConnectionFailedError, match="redirects to ws://elsewhere/"):
        async with client_of(network, Backoff()):
            pytest.fail("connected")
    assert len(network.times) == 2


async def test_403_after_a_loss_ends_it(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, Backoff()) as client:
            network.plan = [refusal(503), refusal(403)]
            network.cut()
            for _ in range(2):
                with pytest.raises(HandshakeRejectedError) as info:
                    await client.recv()
                assert info.value.status == 403
            assert client.state == "disconnected"
        assert len(network.times) == 3


DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        (["Retry-After: 7"], 7),
        (["Retry-After: Sun, 06 Nov 1994 08:49:47 GMT", DATE], 10),
        (["Retry-After: Sun, 06 Nov 1994 08:49:47 GMT"], 0),
        (["Retry-After: Sun, 06 Nov 1994 08:48:47 GMT", DATE], 0),
        (["Retry-After: soon"], 0),
        (["Retry-After: -5"], 0),
    ],
)
async def test_retry_after_is_honoured(lines: list[str], asked: float, autojump_clock: MockClock) -> None:
    network = Network()
    network.plan = [refusal(503, *lines), refusal(403)]
    with pytest.raises(HandshakeRejectedError):
        async with client_of(network, Backoff(random=random.Random(1))):
            pytest.fail("connected")
    assert network.times[1] == pytest.approx(asked + drawn(1, [0.5])[0])


@pytest.mark.parametrize(
    ("line", "waited"),
    [
        ("Retry-After: 120", 120),
        ("Retry-After: 3600", 3600),
        ("Retry-After: 3601", 3600),
        (f"Retry-After: {'9' * 5000}", 3600),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Retry-After: Mon, 01 Jan 0001 00:00:00 +2359", 0),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 +9999", 0),
        ("Retry-After: -120", 0),
        ("Retry-After: +120", 0),
        ("Retry-After: 12.5", 0),
        ("Retry-After: inf", 0),
        ("Retry-After: \u0662\u0660", 0),
        ("Retry-After: 120 seconds", 0),
        ("Retry-After:", 0),
    ],
)
async def test_retry_after_is_honoured_beyond_maximum_for_an_hour(
    line: str, waited: float, autojump_clock: MockClock
) -> None:
    network = Network()
    network.plan = [refusal(429, line), refusal(403)]
    with pytest.raises(HandshakeRejectedError):
        async with client_of(network, Backoff(initial=0.5, maximum=20, jitter=False)):
            pytest.fail("connected")
    assert network.times == [0, 0.5 + waited]


@pytest.mark.parametrize(("most", "waited"), [(0, 0), (60, 60), (7200, 7000)])
async def test_max_retry_after_bounds_what_the_server_asks_for(
    most: float, waited: float, autojump_clock: MockClock
) -> None:
    network = Network()
    network.plan = [refusal(503, "Retry-After: 7000"), refusal(403)]
    with pytest.raises(HandshakeRejectedError):
        async with client_of(network, Backoff(jitter=False, max_retry_after=most)):
            pytest.fail("connected")
    assert network.times == [0, 0.5 + waited]


async def test_open_timeout_is_retried(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        network.plan = [b"", b""]
        backoff = Backoff(initial=1, jitter=False)
        async with client_of(network, backoff, options=Options(open_timeout=5)) as client:
            assert await client.call("echo", 1) == 1
        assert network.times == [0, 6, 13]


# -- cancelling -------------------------------------------------------------------------------------


async def test_cancelling_while_entering_waits_is_immediate(autojump_clock: MockClock) -> None:
    before = all_tasks()
    with trio.move_on_after(3.5) as scope:
        async with client_of(Network(), Backoff(initial=10, jitter=False)):
            pytest.fail("connected")
    assert scope.cancelled_caught
    assert trio.current_time() == 3.5
    assert all_tasks() == before


async def test_leaving_and_cancelling_while_it_waits_are_immediate(autojump_clock: MockClock) -> None:
    before = all_tasks()
    for cancel in (False, True):
        async with serving_in_memory(Handler()) as memory:
            network = Network(memory.listener)
            client = client_of(network, Backoff(initial=10, jitter=False))
            began = trio.current_time()
            with trio.CancelScope() as scope:
                async with client:
                    network.cut()
                    await trio.sleep(1)
                    assert client.state == "waiting"
                    if cancel:
                        scope.cancel()
                        await trio.sleep_forever()
            assert trio.current_time() == began + 1
    assert all_tasks() == before


# -- waiting calls ----------------------------------------------------------------------------------


async def take_from(client: WebSocketClient) -> None:
    async with client.stream("count") as items:
        async for _ in items:
            pass


async def listen(client: WebSocketClient) -> None:
    async with client.subscribe("news"):
        pytest.fail("there is no such method")


EVERYTHING: dict[str, Callable[[WebSocketClient], Awaitable[object]]] = {
    "call": lambda client: client.call("wait"),
    "send_rpc": lambda client: client.send_rpc("wait"),
    "stream": take_from,
    "stream_rpc": lambda client: anext(client.stream_rpc("count")),
    "send": lambda client: client.send("x"),
    "recv": lambda client: client.recv(),
    "ping": lambda client: client.ping(),
    "subscribe": listen,
    "connect": lambda client: client.connect(),
}


@pytest.mark.parametrize("name", EVERYTHING)
async def test_waiting_and_later_calls_get_the_error(name: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, Backoff(initial=8, attempts=2, jitter=False)) as client:
            await trio.sleep(30)
            network.down = True
            network.cut()
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(7) as scope:  # the caller's own scope
                await EVERYTHING[name](client)
            assert scope.cancelled_caught
            with pytest.raises(ConnectionFailedError, match="nobody is there"):
                await EVERYTHING[name](client)
            assert trio.current_time() == 30 + 8 + 16
            assert client.state == "disconnected"
            with pytest.raises(ConnectionFailedError, match="nobody is there"):
                await EVERYTHING[name](client)


@pytest.mark.parametrize("name", ["call", "send_rpc", "stream"])
async def test_calls_in_flight_fail_at_once(name: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        async with client_of(network, Backoff(initial=8, jitter=False)) as client:

            async def lose() -> None:
                await trio.sleep(1)
                network.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lose)
                with pytest.raises(ConnectionClosedError) as info:
                    await EVERYTHING[name](client)
            assert trio.current_time() == 1
            assert info.value.may_have_run
            assert await client.call("echo", 1) == 1
            assert trio.current_time() == 9


@pytest.mark.parametrize("direction", ["to_server", "to_client", None])
async def test_a_link_that_falls_silent(direction: Any, autojump_clock: MockClock) -> None:
    options = Options(ping_interval=5, ping_timeout=2)
    async with serving_in_memory(Handler()) as memory:
        network = Network(memory.listener)
        backoff = Backoff(initial=1, jitter=False)
        async with client_of(network, backoff, options=options) as client:
            network.links[0].partition(direction=direction)
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("echo", 1)
            assert info.value.may_have_run
            assert trio.current_time() == 7
            assert await client.call("echo", 2) == 2
            assert trio.current_time() == 8


@pytest.mark.repeats
@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("clean", [True, False])
async def test_the_link_goes_at_any_byte_and_no_call_waits_for_ever(
    comes_back: bool, clean: bool, autojump_clock: MockClock
) -> None:
    """Cut the link at each byte. Every call ends, and the next one succeeds if the server can be reached."""
    count, whole = 0, 10**9
    while count < whole:
        async with serving_in_memory(Handler()) as memory:
            network = Network(memory.listener)
            async with client_of(network, Backoff(attempts=3)) as client:
                link = network.links[0]
                before = link.carried
                network.down = not comes_back
                link.cut_after(count, clean=clean)
                ends: list[str] = []
                with trio.fail_after(1000):
                    for value in range(3):
                        try:
                            assert await client.call("echo", value) == value
                            ends.append("answered")
                        except ConnectionClosedError:
                            ends.append("lost")
                        except ConnectionFailedError:
                            ends.append("failed")
                if not link.broken:
                    whole = link.carried - before
                assert ends.count("lost") <= 1
                if comes_back:
                    assert "failed" not in ends
                count += 13
    assert whole > 50
