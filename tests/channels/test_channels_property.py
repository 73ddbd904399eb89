"""Random sequences of subscribing, publishing, stalling and leaving: what each subscriber receives.

It receives a subsequence of the messages that were published while it was subscribed, in order and without
duplicates. Messages are missing only if its policy dropped and counted them. Its backlog never exceeds the
limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.examples import examples
from tests.support.inspect import broadcast_channel, channels_of, derived_channels, globs_of
from tests.support.serving import serving_in_memory
from trio_ws import Options
from trio_ws.channels.channel import ENTRY_OVERHEAD
from trio_ws.channels.names import is_glob, matcher

if TYPE_CHECKING:
    from trio_ws.channels.channel import ConnectionSubscriber

MAX_ITEMS = 4
MAX_BYTES = 1500
CHANNELS = ["a", "b", "ab"]
NAMES = [*CHANNELS, "a*", "?", "[ab]", "*"]
OPTIONS = Options(channel_max_items=MAX_ITEMS, channel_max_bytes=MAX_BYTES, send_high_water=300)
PEOPLE = 3

people = st.integers(0, PEOPLE - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), people, st.sampled_from(NAMES)),
        st.tuples(st.just("unsubscribe"), people, st.sampled_from(NAMES)),
        st.tuples(st.just("publish"), st.sampled_from([*CHANNELS, None]), st.integers(0, 400)),
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.integers(0, 40)),
        st.tuples(st.just("burst"), st.sampled_from(CHANNELS), st.integers(2, 30)),
        st.tuples(st.just("storm"), people, st.sampled_from(CHANNELS), st.integers(10, 30)),
        st.tuples(st.just("without"), st.sampled_from(CHANNELS), people),
        st.tuples(st.just("stall"), people),
        st.tuples(st.just("resume"), people),
        st.tuples(st.just("leave"), people),
        st.tuples(st.just("wait")),
        st.tuples(st.just("yield")),
    ),
    min_size=3,
    max_size=60,
)


class Model:
    """A model of the subscribers, together with the real ones."""

    def __init__(self, handler: Rooms, listeners: list[Listener]) -> None:
        self.handler = handler
        self.listeners = listeners
        self.held: list[set[str]] = [set() for _ in listeners]
        self.expected: list[list[int]] = [[] for _ in listeners]
        self.left: set[int] = set()
        self.number = 0

    def members(self) -> list[ConnectionSubscriber]:
        return list(broadcast_channel(self.handler.channels).cursors)

    def here(self, person: int) -> bool:
        return person not in self.left and any(one.name == str(person) for one in self.handler.clients)

    def publish(self, channel: str | None, size: int, without: int | None = None) -> None:
        self.number += 1
        data = [self.number, "x" * size]
        exclude = []
        if without is not None and self.here(without):
            exclude = [connection_of(self.handler, str(without))]
        expected = 0
        closing = 0
        for person in range(PEOPLE):
            names = self.held[person]
            wanted = (
                channel is None or channel in names or any(is_glob(n) and matcher(n)(channel) for n in names)
            )
            if person in self.left or person == without or not wanted:
                continue
            connection = next((c for c in self.handler.clients if c.name == str(person)), None)
            if connection is None or connection._member is None or not connection._member.channels:
                closing += 1  # it was disconnected by its policy
                continue
            self.expected[person].append(self.number)
            expected += 1
        if channel is None:
            assert self.handler.broadcast(data, exclude=exclude) == expected
        else:
            assert self.handler.publish(channel, data, exclude=exclude) == expected

    def check_bounds(self) -> None:
        for member in self.members():
            backlog = member.backlog or ()
            assert len(backlog) <= MAX_ITEMS
            waiting = sum(entry.size for entry in backlog)
            assert waiting == (member.backlog_bytes if backlog else waiting)
            assert waiting <= MAX_BYTES or len(backlog) == 1
            assert all(entry.size >= ENTRY_OVERHEAD for entry in backlog)

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("subscribe", person, name) if self.here(person):
                connection = connection_of(self.handler, str(person))
                if connection._member is not None and connection._member.channels:
                    connection.subscribe(name)
                    self.held[person].add(name)
            case ("unsubscribe", person, name) if self.here(person):
                connection_of(self.handler, str(person)).unsubscribe(name)
                self.held[person].discard(name)
            case ("publish", channel, size):
                self.publish(channel, size)
            case ("burst", channel, count):
                for _ in range(count):
                    self.publish(channel, 30)
            case ("storm", person, channel, count):
                await self.do(("subscribe", person, channel))
                self.listeners[person].read(False)
                for _ in range(count):
                    self.publish(channel, 30)
                    await wait_all_tasks_blocked()
            case ("without", channel, person):
                self.publish(channel, 10, without=person)
            case ("stall", person):
                self.listeners[person].read(False)
            case ("resume", person):
                self.listeners[person].read(True)
            case ("leave", person) if person not in self.left:
                self.left.add(person)
                await self.listeners[person].leave()
                await wait_all_tasks_blocked()
            case ("wait",):
                await wait_all_tasks_blocked()
            case ("yield",):
                await trio.lowlevel.checkpoint()
            case _:
                pass  # a subscriber that is not connected
        self.check_bounds()


async def play(policy: str, script: list[tuple[Any, ...]]) -> None:
    class Policed(Rooms):
        channel_policy = policy  # type: ignore[assignment]

    handler = Policed()
    async with serving_in_memory(handler, options=OPTIONS) as memory, trio.open_nursery() as nursery:
        listeners = [
            await Listener.join(nursery, memory, str(person), capacity=150) for person in range(PEOPLE)
        ]
        model = Model(handler, listeners)
        for step in script:
            await model.do(step)
        for listener in listeners:
            listener.read(True)
        await wait_all_tasks_blocked()
        missing = 0
        for person, listener in enumerate(listeners):
            numbers = [data[0] for data in listener.got]
            expected = model.expected[person]
            remaining = iter(expected)
            assert all(number in remaining for number in numbers), (person, numbers, expected)
            if listener.closed is None and person not in model.left:
                missing += len(expected) - len(numbers)
                if policy == "disconnect":
                    assert numbers == expected
            elif listener.closed is not None:
                assert (listener.closed, policy) == (1013, "disconnect")
                assert numbers == expected[: len(numbers)]
        found = handler.channels.statistics()
        if policy != "disconnect" and not model.left:
            assert missing == found.dropped
        assert missing <= found.dropped
        assert found.backlog == found.stalled == 0
        assert not handler.channels.fanout._logs
        nursery.cancel_scope.cancel()
    await check_nothing_is_left(handler)


async def check_nothing_is_left(handler: Rooms) -> None:
    """Check that nothing remains of subscribers that have left."""
    hub = handler.channels
    assert not channels_of(hub)
    assert not globs_of(hub)
    assert not derived_channels(hub)
    assert broadcast_channel(hub).empty
    assert not broadcast_channel(hub).stalled
    assert not hub.fanout._ready


@examples(80)
@given(policy=st.sampled_from(["disconnect", "drop_oldest", "drop_newest"]), script=steps)
def test_a_subscriber_sees_a_subsequence_and_what_is_missing_was_counted(
    policy: str, script: list[tuple[Any, ...]]
) -> None:
    trio.run(play, policy, script, clock=trio.testing.MockClock(autojump_threshold=0))
