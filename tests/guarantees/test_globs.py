"""Globs match old and new channels, caches are bounded, and unsubscribing costs only what was subscribed."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.inspect import channels_of, derived_channels
from tests.support.serving import serving_in_memory
from trio_ws.channels import names, registry

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_glob_subscribed_after_a_publish_receives_the_next_one(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        first = await Listener.join(nursery, memory, "a", "news.*")
        handler.publish("news.tech", 1)
        late = await Listener.join(nursery, memory, "b", "*.tech")
        handler.publish("news.tech", 2)
        await wait_all_tasks_blocked()
        assert first.got == [1, 2]
        assert late.got == [2]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("*", ["a", "a.b", "a\nb"], []),
        ("a?", ["ab", "a*"], ["a", "abc", "b"]),
        ("[ab]x", ["ax", "bx"], ["cx", "x", "[ab]y"]),
        ("[!ab]x", ["cx"], ["ax", "bx"]),
        ("a.*.z", ["a.b.z", "a..z"], ["a.z", "A.b.z"]),
    ],
)
async def test_matching_globs(glob: str, matching: list[str], other: list[str]) -> None:
    handler = Rooms()
    async with handler.channels.subscribe(glob):
        for name in matching:
            assert handler.publish(name, 1) == 1, name
        for name in other:
            assert handler.publish(name, 1) == 0, name


@pytest.mark.repeats
async def test_caches_are_bounded(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        listener = await Listener.join(nursery, memory, "a", "user.*,kept")
        count = 3 * registry._DERIVED_CHANNELS
        for number in range(count):
            assert handler.publish(f"user.{number}", number) == 1
            await trio.lowlevel.checkpoint()
        assert len(channels_of(handler.channels)) == registry._DERIVED_CHANNELS + 1
        assert handler.publish("kept", "still") == 1
        assert handler.publish("user.0", "again") == 1
        await wait_all_tasks_blocked()
        assert listener.got == [*range(count), "still", "again"]
        connection = connection_of(handler, "a")
        assert connection._member is not None
        assert len(connection._member.channels) <= registry._DERIVED_CHANNELS + 2
        for number in range(5000):
            handler.publish("nobody.listens", number)
        nursery.cancel_scope.cancel()
    assert names.matcher.cache_info().maxsize is not None
    assert not channels_of(handler.channels)
    assert not derived_channels(handler.channels)


async def test_a_name_without_subscribers_leaves_nothing_behind() -> None:
    handler = Rooms()
    for number in range(100):
        assert handler.publish(f"nobody.{number}", 1) == 0
    assert not channels_of(handler.channels)


@pytest.mark.parametrize("held", [1, 10])
async def test_leaving_costs_what_was_held(held: int, autojump_clock: MockClock) -> None:
    """The number of function calls is the same with few and with many other channels."""
    costs = []
    for others in (10, 3000):
        handler = Rooms()
        async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
            await Listener.join(nursery, memory, "other")
            await Listener.join(nursery, memory, "leaver")
            other, leaver = connection_of(handler, "other"), connection_of(handler, "leaver")
            assert other._member is not None
            assert leaver._member is not None
            for number in range(others):
                handler.channels.add(other._member, f"{number}", "disconnect")
            leaver.subscribe([f"mine{number}" for number in range(held)])
            leaver.subscribe("mine.*")
            calls = 0

            def count(frame: Any, event: str, argument: Any) -> None:
                nonlocal calls
                calls += 1

            gc.disable()  # collecting garbage calls functions of hypothesis
            sys.setprofile(count)
            try:
                handler.channels.leave(leaver._member)
            finally:
                sys.setprofile(None)
                gc.enable()
            costs.append(calls)
            nursery.cancel_scope.cancel()
    assert costs[0] == costs[1]
    assert costs[0] > held
