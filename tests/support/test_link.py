"""`trio_ws.testing.link`: the streams follow trio's contract, and every fault occurs at its exact time."""

from __future__ import annotations

import doctest
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_ws.testing
from trio_ws.testing import Link, LinkStream, MemoryListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def read_all(stream: LinkStream) -> bytes:
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
    return data


class Arrivals:
    """Records what a task received and when, until the stream ends or breaks."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, bytes | str]] = []

    async def watch(self, stream: LinkStream) -> None:
        """Receive until the stream ends or breaks."""
        while True:
            try:
                data = await stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.seen.append((trio.current_time(), type(exc).__name__))
                return
            self.seen.append((trio.current_time(), data))
            if not data:
                return


def test_the_example_in_the_docs_is_true() -> None:
    result = doctest.testmod(trio_ws.testing)
    assert result.attempted == 5
    assert result.failed == 0


def test_all_names_are_exported() -> None:
    assert trio_ws.testing.__all__ == sorted(trio_ws.testing.__all__)
    assert all(hasattr(trio_ws.testing, name) for name in trio_ws.testing.__all__)


# Semantics of a stream


@pytest.mark.parametrize("options", [{}, {"latency": 0.5}, {"max_read": 999}, {"capacity": 999}], ids=str)
async def test_an_end_is_a_half_closeable_stream(autojump_clock: object, options: dict[str, Any]) -> None:
    async def make() -> tuple[LinkStream, LinkStream]:
        link = Link(**options)
        return link.client, link.server

    async def make_clogged() -> tuple[LinkStream, LinkStream]:
        link = Link(**options)
        for end in (link.client, link.server):
            await end.send_all(bytes(link.to_server.capacity))
        return link.client, link.server

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_send_all_waits_at_the_capacity_and_goes_on_as_room_comes() -> None:
    link = Link(capacity=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.client.send_all, b"0123456789abcde")
        await trio.testing.wait_all_tasks_blocked()
        assert (link.to_server.carried, link.to_server.pending, link.to_server.room) == (10, 10, 0)
        assert await link.server.receive_some(3) == b"012"
        await trio.testing.wait_all_tasks_blocked()
        assert (link.to_server.carried, link.to_server.pending) == (13, 10)
        assert await link.server.receive_some() == b"3456789abc"
        await trio.testing.wait_all_tasks_blocked()
        assert await link.server.receive_some() == b"de"
    assert (link.to_server.carried, link.to_client.carried, link.carried) == (15, 0, 15)


async def test_bytes_in_flight_count_towards_the_capacity(autojump_clock: object) -> None:
    link = Link(capacity=4, latency=1.0)
    await link.client.send_all(b"full")
    with trio.move_on_after(0.5) as scope:
        await link.client.wait_send_all_might_not_block()
    assert scope.cancelled_caught
    assert await link.server.receive_some() == b"full"
    await link.client.wait_send_all_might_not_block()
    assert trio.current_time() == 1.0


async def test_the_sender_may_change_its_buffer_afterwards(autojump_clock: object) -> None:
    link = Link(capacity=2)
    data = bytearray(b"abcd")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.client.send_all, data)
        await trio.testing.wait_all_tasks_blocked()
        data[:] = b"changed"
        assert await link.server.receive_some() == b"ab"
        await trio.testing.wait_all_tasks_blocked()
        assert await link.server.receive_some() == b"cd"


async def test_a_cancelled_receive_has_taken_nothing(autojump_clock: object) -> None:
    link = Link(latency=1.0)
    await link.client.send_all(b"kept")
    with trio.move_on_at(0.5):
        await link.server.receive_some()
    assert trio.current_time() == 0.5
    got = b""
    with trio.move_on_at(1.0):  # exactly when the data arrives: either may win
        got = await link.server.receive_some()
    assert (got or await link.server.receive_some()) == b"kept"
    await link.client.send_all(b"too")
    await trio.sleep(1.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await link.server.receive_some()
    assert scope.cancelled_caught
    assert await link.server.receive_some() == b"too"


async def test_max_read_makes_tiny_reads() -> None:
    link = Link(max_read=2)
    await link.client.send_all(b"12345")
    assert [await link.server.receive_some(n) for n in (None, 1, 100)] == [b"12", b"3", b"45"]


async def test_sending_a_str_is_a_type_error() -> None:
    link = Link()
    with pytest.raises(TypeError):
        await link.client.send_all("text")  # type: ignore[arg-type]
    await link.client.send_all(b"still works")
    assert await link.server.receive_some() == b"still works"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"latency": -1}, "latency must be 0"),
        ({"latency": math.nan}, "latency must be 0"),
        ({"latency": math.inf}, "latency must be 0"),
        ({"capacity": 0}, "capacity must be 1"),
        ({"max_read": 0}, "max_read must be 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Link(**options)


def test_a_capacity_that_is_not_an_int_is_refused() -> None:
    with pytest.raises(TypeError):
        Link(capacity=1.5)  # type: ignore[arg-type]


# Latency


async def test_bytes_and_eof_arrive_exactly_one_latency_later(autojump_clock: object) -> None:
    link = Link(latency=0.25)
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.watch, link.server)
        await link.client.send_all(b"a")
        await trio.sleep(0.125)
        await link.client.send_all(b"b")
        await trio.sleep(1)
        await link.client.send_eof()
    assert arrivals.seen == [(0.25, b"a"), (0.375, b"b"), (1.375, b"")]


async def test_the_order_is_kept_when_the_latency_shrinks(autojump_clock: object) -> None:
    link = Link(latency=2.0)
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.watch, link.server)
        await link.client.send_all(b"slow")
        link.latency = 0.5
        await link.client.send_all(b"fast")
        await trio.sleep(4)
        await link.client.send_all(b"later")
        await link.client.aclose()
    assert arrivals.seen == [(2.0, b"slowfast"), (4.5, b"later"), (4.5, b"")]


async def test_each_direction_has_its_own_latency(autojump_clock: object) -> None:
    link = Link()
    link.to_client.latency = 3.0
    assert link.latency == 3.0
    await link.client.send_all(b"up")
    assert await link.server.receive_some() == b"up"
    assert trio.current_time() == 0.0
    await link.server.send_all(b"down")
    assert await link.client.receive_some() == b"down"
    assert trio.current_time() == 3.0


async def test_a_sender_learns_that_the_peer_is_gone_one_latency_later(autojump_clock: object) -> None:
    link = Link(latency=1.0, capacity=4)
    await link.server.aclose()
    await link.client.send_all(b"lost")
    assert trio.current_time() == 0.0
    with pytest.raises(trio.BrokenResourceError, match="gone"):
        await link.client.send_all(b"blocked until the news comes")
    assert trio.current_time() == 1.0
    with pytest.raises(trio.BrokenResourceError):
        await link.client.wait_send_all_might_not_block()
    with pytest.raises(trio.BrokenResourceError):
        await link.client.send_eof()
    assert await link.client.receive_some() == b""


async def test_half_closed_the_other_way_still_works() -> None:
    link = Link()
    await link.client.send_eof()
    await link.server.send_all(b"answer")
    await link.server.aclose()
    assert await read_all(link.client) == b"answer"
    with pytest.raises(trio.ClosedResourceError, match="send_eof"):
        await link.client.send_all(b"x")


# Faults


@pytest.mark.parametrize(("clean", "end"), [(False, "BrokenResourceError"), (True, b"")])
async def test_cut_loses_what_is_in_flight_and_keeps_what_arrived(
    autojump_clock: object, clean: bool, end: bytes | str
) -> None:
    link = Link(latency=1.0)
    await link.client.send_all(b"arrived")
    await trio.sleep(1.0)
    await link.client.send_all(b"lost")
    await trio.sleep(0.5)
    link.cut(clean=clean)
    assert link.broken
    server, client = Arrivals(), Arrivals()
    await server.watch(link.server)
    await client.watch(link.client)
    assert server.seen == [(1.5, b"arrived"), (1.5, end)]
    assert client.seen == [(1.5, end)]
    for end_of_link in (link.client, link.server):
        with pytest.raises(trio.BrokenResourceError, match="broken"):
            await end_of_link.send_all(b"x")


async def test_cut_wakes_all_waiting_tasks(autojump_clock: object) -> None:
    link = Link(capacity=1)
    arrivals = Arrivals()

    async def broken(method: Callable[..., Awaitable[None]], *args: bytes) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await method(*args)
        arrivals.seen.append((trio.current_time(), "sender"))

    async with trio.open_nursery() as nursery:
        await link.server.send_all(b"x")
        nursery.start_soon(arrivals.watch, link.server)
        nursery.start_soon(broken, link.server.send_all, b"y")
        await trio.sleep(7)
        link.cut()
    assert sorted(arrivals.seen) == [(7.0, "BrokenResourceError"), (7.0, "sender")]


async def test_a_received_eof_is_kept_after_a_cut() -> None:
    link = Link()
    await link.client.send_eof()
    link.cut()
    assert await link.server.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await link.client.receive_some()


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize(("clean", "end"), [(False, "BrokenResourceError"), (True, b"")])
async def test_cut_after_delivers_exactly_that_many_bytes(
    autojump_clock: object, count: int, clean: bool, end: bytes | str
) -> None:
    link = Link(latency=1.0, capacity=4)
    await link.server.send_all(b"back")
    link.cut_after(count, direction="to_server", clean=clean)
    server, client = Arrivals(), Arrivals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.watch, link.server)
        nursery.start_soon(client.watch, link.client)
        with pytest.raises(trio.BrokenResourceError):
            await link.client.send_all(b"0123456789ab")
    assert (
        b"".join(data for _, data in server.seen[:-1] if isinstance(data, bytes)) == b"0123456789ab"[:count]
    )
    assert link.to_server.carried == count
    assert server.seen[-1][1] == end
    assert client.seen[0] == (1.0, b"back")
    assert client.seen[-1][1] == end


async def test_the_break_of_cut_after_follows_the_last_byte(autojump_clock: object) -> None:
    link = Link(latency=1.0)
    link.cut_after(5)
    await link.server.send_all(b"12")
    await trio.sleep(0.5)
    await link.client.send_all(b"345")  # up to the limit: all of it was sent, so this does not raise
    assert link.broken
    server, client = Arrivals(), Arrivals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.watch, link.server)
        nursery.start_soon(client.watch, link.client)
    assert server.seen == [(1.5, b"345"), (1.5, "BrokenResourceError")]
    assert client.seen == [(1.0, b"12"), (1.0, "BrokenResourceError")]
    with pytest.raises(trio.BrokenResourceError):
        await link.server.send_all(b"x")


async def test_cut_after_counts_from_its_call_and_one_way_only() -> None:
    link = Link()
    await link.client.send_all(b"before")
    link.cut_after(2, direction="to_client")
    await link.client.send_all(b" and after")
    assert await link.server.receive_some() == b"before and after"
    assert not link.broken
    with pytest.raises(trio.BrokenResourceError):
        await link.server.send_all(b"abc")
    assert await link.client.receive_some() == b"ab"
    assert link.carried == 18


async def test_the_first_of_two_cuts_to_come_counts() -> None:
    link = Link()
    link.cut_after(9, clean=True)
    link.cut_after(2, direction="to_server")
    await link.server.send_all(b"abc")
    with pytest.raises(trio.BrokenResourceError):
        await link.client.send_all(b"xyz")
    assert (link.to_server.carried, link.to_client.carried) == (2, 3)
    link.cut_after(0, clean=True)  # no effect, because it is broken already
    assert await link.server.receive_some() == b"xy"
    with pytest.raises(trio.BrokenResourceError):
        await link.server.receive_some()


async def test_a_partition_holds_bytes_and_the_end_until_healed(autojump_clock: object) -> None:
    link = Link(latency=1.0, capacity=8)
    server, client = Arrivals(), Arrivals()

    async def send() -> None:
        await link.client.send_all(b"0123456789")
        client.seen.append((trio.current_time(), "sent"))
        await link.client.aclose()

    await link.client.send_all(b"before")
    async with trio.open_nursery() as nursery:
        await trio.sleep(1.0)
        link.partition()
        assert link.to_server.partitioned
        assert await link.server.receive_some() == b"before"  # it had arrived
        nursery.start_soon(server.watch, link.server)
        nursery.start_soon(send)
        await trio.sleep(10)
        assert server.seen == []
        assert client.seen == []
        assert (link.to_server.pending, link.to_server.room) == (8, 0)
        link.heal()
    assert client.seen == [(11.0, "sent")]
    assert server.seen == [(11.0, b"01234567"), (12.0, b"89"), (12.0, b"")]


async def test_data_not_yet_due_at_the_heal_keeps_its_time(autojump_clock: object) -> None:
    link = Link(latency=2.0)
    await link.client.send_all(b"x")
    link.partition()
    await trio.sleep(0.5)
    link.heal()
    assert await link.server.receive_some() == b"x"
    assert trio.current_time() == 2.0


async def test_a_partition_may_be_one_way(autojump_clock: object) -> None:
    link = Link()
    link.partition(direction="to_client")
    await link.client.send_all(b"up")
    assert await link.server.receive_some() == b"up"
    await link.server.send_all(b"down")
    with trio.move_on_after(60) as scope:
        await link.client.receive_some()
    assert scope.cancelled_caught
    link.heal(direction="to_server")
    with trio.move_on_after(60) as scope:
        await link.client.receive_some()
    assert scope.cancelled_caught
    link.heal(direction="to_client")
    assert await link.client.receive_some() == b"down"
    assert trio.current_time() == 120.0


async def test_a_receiver_that_sleeps_until_an_arrival_sees_a_partition(autojump_clock: object) -> None:
    link = Link(latency=1.0)
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrivals.watch, link.server)
        await link.client.send_all(b"x")
        await trio.sleep(0.5)
        link.partition()
        await trio.sleep(5)
        link.heal()
        await link.client.aclose()
    assert arrivals.seen == [(5.5, b"x"), (6.5, b"")]


async def test_cut_is_seen_through_a_partition(autojump_clock: object) -> None:
    link = Link()
    link.partition()
    await link.client.send_all(b"lost")
    link.cut()
    link.heal()
    with pytest.raises(trio.BrokenResourceError):
        await link.server.receive_some()


@pytest.mark.parametrize("method", ["partition", "heal", "cut_after"])
def test_an_unknown_direction_is_refused(method: str) -> None:
    link = Link()
    args = (1,) if method == "cut_after" else ()
    with pytest.raises(ValueError, match="'to_server', 'to_client' or None"):
        getattr(link, method)(*args, direction="up")


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be 0 or more"):
        Link().cut_after(-1)


# MemoryListener


async def test_a_connection_is_accepted_in_order() -> None:
    listener = MemoryListener()
    first = await listener.connect(latency=0.0, max_read=1)
    second = await listener.open_link()
    third = listener.open_link_nowait(capacity=7)
    server = await listener.accept()
    assert server.link is first.link
    assert server is first.link.server
    await first.send_all(b"hi")
    assert await server.receive_some() == b"h"
    assert await listener.accept() is second.server
    assert await listener.accept() is third.server
    assert third.to_client.capacity == 7


async def test_accept_waits_for_a_connection() -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            stream = await listener.accept()
            await stream.send_all(b"welcome")
            await stream.aclose()

        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        assert await read_all(await listener.connect()) == b"welcome"


async def test_the_backlog_is_bounded() -> None:
    listener = MemoryListener(backlog=1)
    first = listener.open_link_nowait()
    with pytest.raises(trio.WouldBlock):
        listener.open_link_nowait()
    opened: list[Link] = []

    async def connect() -> None:
        opened.append(await listener.open_link())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await trio.testing.wait_all_tasks_blocked()
        assert opened == []
        assert await listener.accept() is first.server
    assert await listener.accept() is opened[0].server
    with pytest.raises(ValueError, match="backlog must be 1"):
        MemoryListener(backlog=0)


async def test_closing_a_listener_refuses_cuts_and_wakes() -> None:
    listener = MemoryListener(address="shop:80")
    accepted = await listener.open_link()
    await listener.accept()
    waiting = await listener.open_link()
    await listener.aclose()
    assert not accepted.broken
    with pytest.raises(trio.BrokenResourceError):
        await waiting.client.receive_some()
    with pytest.raises(ConnectionRefusedError, match="shop:80"):
        await listener.connect()
    with pytest.raises(ConnectionRefusedError, match="shop:80"):
        listener.open_link_nowait()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    await listener.aclose()


async def test_closing_a_listener_wakes_a_waiting_accept_even_when_cancelled() -> None:
    listener = MemoryListener()

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(listener)


async def test_serve_listeners_takes_a_memory_listener() -> None:
    async def echo(stream: LinkStream) -> None:
        await stream.send_all(await read_all(stream))

    async with trio.open_nursery() as nursery:
        listener = MemoryListener()
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        client = await listener.connect()
        await client.send_all(b"echo")
        await client.send_eof()
        assert await read_all(client) == b"echo"
        nursery.cancel_scope.cancel()
