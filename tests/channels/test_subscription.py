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
    inbox = Subscription(policy, 64, lambda _: None, max_bytes=100)  # type: ignore[arg-type]
    inbox.put(packet(1), 50)
    assert not inbox.full
    inbox.put(packet(2), 70)  # the one that comes on top
    assert inbox.full
    inbox.put(packet(3), 10)
    assert taken(inbox) == kept
    assert inbox.dropped == dropped
    assert not inbox.full
    if policy == "disconnect":
        with pytest.raises(trio.BrokenResourceError, match=r"more than max_bytes \(100\) of packets"):
            inbox.receive_nowait()


async def test_one_large_packet_takes_the_place_of_many_small_ones() -> None:
    inbox = Subscription("drop_oldest", 64, lambda _: None, max_bytes=100)
    for number in range(9):
        inbox.put(packet(number), 10)
    inbox.put(packet(9), 1000)
    assert inbox.dropped == 0
    inbox.put(packet(10), 10)
    assert inbox.dropped == 10
    assert taken(inbox) == [10]


def taken(inbox: Subscription) -> list[object]:
    found = []
    while True:
        try:
            found.append(inbox.receive_nowait().data)
        except (trio.WouldBlock, trio.EndOfChannel, trio.BrokenResourceError):
            return found


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_oldest", [2, 3]), ("drop_newest", [0, 1]), ("disconnect", [0, 1])]
)
def test_a_full_inbox_does_what_its_policy_says_and_counts(policy: str, kept: list[int]) -> None:
    inbox, ended = make(policy)
    for number in range(4):
        inbox.put(packet(number), 1)
    assert inbox.statistics().waiting == 2
    assert taken(inbox) == kept
    if policy == "disconnect":
        assert ended == [inbox]
        assert inbox.dropped == 1
        with pytest.raises(trio.BrokenResourceError, match="max_items \\(2\\)"):
            inbox.receive_nowait()
    else:
        assert ended == []
        assert inbox.dropped == 2


async def test_receive_waits_and_ends(autojump_clock: trio.testing.MockClock) -> None:
    inbox, ended = make()
    got: list[object] = []

    async def consume() -> None:
        async for one in inbox:
            got.append(one.data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        inbox.put(packet(1), 1)
        inbox.put(packet(2), 1)
        await trio.testing.wait_all_tasks_blocked()
        assert got == [1, 2]
        inbox.end()
    assert ended == [inbox]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    inbox, _ = make()
    with trio.move_on_after(1):
        await inbox.receive()
    inbox.put(packet(1), 1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.receive()
    assert scope.cancelled_caught
    assert (await inbox.receive()).data == 1


async def test_closing_a_subscription_wakes_waiting_tasks() -> None:
    inbox, ended = make()
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await inbox.receive()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await inbox.aclose()
    assert ended == [inbox]
    with pytest.raises(trio.ClosedResourceError):
        inbox.receive_nowait()
    assert not inbox.put(packet(1), 1)


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
