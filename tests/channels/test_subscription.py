"""The queue of a subscribed task: its limits, its policies, and its end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_ws import Packet, PacketSource, Subscription


def packet(number: int) -> Packet:
    return Packet(PacketSource.CHANNEL, number, "n")


def make(policy: str = "drop_oldest", max_items: int = 2) -> tuple[Subscription, list[Subscription]]:
    ended: list[Subscription] = []
    return Subscription(policy, max_items, ended.append), ended  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [("drop_oldest", [2, 3], 1), ("drop_newest", [1, 2], 1), ("disconnect", [1, 2], 1)],
)
async def test_bytes_fill_it_as_packets_do(policy: str, kept: list[int], dropped: int) -> None:
    subscription = Subscription(policy, 64, lambda _: None, max_bytes=100)  # type: ignore[arg-type]
    subscription.put(packet(1), 50)
    assert not subscription.full
    subscription.put(packet(2), 70)  # the one that comes on top
    assert subscription.full
    subscription.put(packet(3), 10)
    assert taken(subscription) == kept
    assert subscription.dropped == dropped
    assert not subscription.full
    if policy == "disconnect":
        with pytest.raises(trio.BrokenResourceError, match=r"more than max_bytes \(100\) of packets"):
            subscription.receive_nowait()


async def test_one_large_packet_takes_the_place_of_many_small_ones() -> None:
    subscription = Subscription("drop_oldest", 64, lambda _: None, max_bytes=100)
    for number in range(9):
        subscription.put(packet(number), 10)
    subscription.put(packet(9), 1000)
    assert subscription.dropped == 0
    subscription.put(packet(10), 10)
    assert subscription.dropped == 10
    assert taken(subscription) == [10]


def taken(subscription: Subscription) -> list[object]:
    found = []
    while True:
        try:
            found.append(subscription.receive_nowait().data)
        except (trio.WouldBlock, trio.EndOfChannel, trio.BrokenResourceError):
            return found


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_oldest", [2, 3]), ("drop_newest", [0, 1]), ("disconnect", [0, 1])]
)
def test_a_full_subscription_does_what_its_policy_says_and_counts(policy: str, kept: list[int]) -> None:
    subscription, ended = make(policy)
    for number in range(4):
        subscription.put(packet(number), 1)
    assert subscription.statistics().waiting == 2
    assert taken(subscription) == kept
    if policy == "disconnect":
        assert ended == [subscription]
        assert subscription.dropped == 1
        with pytest.raises(trio.BrokenResourceError, match="max_items \\(2\\)"):
            subscription.receive_nowait()
    else:
        assert ended == []
        assert subscription.dropped == 2


async def test_receive_waits_and_ends(autojump_clock: trio.testing.MockClock) -> None:
    subscription, ended = make()
    got: list[object] = []

    async def consume() -> None:
        async for one in subscription:
            got.append(one.data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        subscription.put(packet(1), 1)
        subscription.put(packet(2), 1)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [1, 2]
        subscription.end()
    assert ended == [subscription]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    subscription, _ = make()
    with trio.move_on_after(1):
        await subscription.receive()
    subscription.put(packet(1), 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await subscription.receive()
    assert scope.cancelled_caught
    assert (await subscription.receive()).data == 1


async def test_closing_a_subscription_wakes_waiting_tasks() -> None:
    subscription, ended = make()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await subscription.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await subscription.aclose()
    assert ended == [subscription]
    with pytest.raises(trio.ClosedResourceError):
        subscription.receive_nowait()
    assert not subscription.put(packet(1), 1)


@pytest.mark.parametrize(
    ("policy", "max_items", "error"),
    [
        ("drop", 1, ValueError),
        ("block", 0, ValueError),
        ("block", True, TypeError),
        ("block", "1", TypeError),
    ],
)
def test_invalid_arguments_of_a_subscription(policy: str, max_items: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        make(policy, max_items)
