"""Messages that wait for Redis: the limit, the order, the counters, and the loss of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws import History
from trio_ws.channels.redis.publish_queue import PublishQueue

if TYPE_CHECKING:
    from trio_ws.channels.redis.publish_queue import Outgoing


def numbers(queue: PublishQueue, max_items: int = 100, max_bytes: int = 1000) -> list[int]:
    """Return the payloads of the next messages, which are numbers here."""
    return [int(message.payload or b"0") for message in queue.take(max_items, max_bytes)]


def test_the_oldest_are_dropped_for_room() -> None:
    queue = PublishQueue(3, 1000)
    for number in range(1, 6):
        queue.put(b"c", b"%d" % number)
    assert len(queue) == 3
    assert queue.dropped == 2
    assert numbers(queue) == [3, 4, 5]


def test_bytes_are_bounded_and_a_message_above_the_bound_drops_no_others() -> None:
    queue = PublishQueue(100, 10)
    queue.put(b"c", b"1234")
    queue.put(b"c", b"1235")
    queue.put(b"c", b"12345678910")
    assert queue.dropped == 1
    queue.put(b"c", b"")
    assert queue.dropped == 2
    assert numbers(queue) == [1235, 0]


def test_no_more_is_on_its_way_than_was_asked_for_but_one_may_be_large() -> None:
    queue = PublishQueue(100, 1000)
    for number, size in enumerate((50, 5, 5, 5), 1):
        queue.put(b"", b"%0*d" % (size, number))
    assert numbers(queue, max_bytes=10) == [1]
    assert numbers(queue, max_bytes=10) == []
    queue.answered(taken=True)
    assert numbers(queue, max_bytes=10) == [2, 3]
    assert numbers(queue, max_items=2) == []
    queue.answered(taken=False)
    assert numbers(queue, max_items=2) == [4]
    assert (queue.published, queue.dropped, len(queue)) == (1, 1, 2)


def test_accepted_messages_with_a_history_are_sent_again_before_all_others() -> None:
    queue = PublishQueue(6, 1000)
    queue.origin = b"first"
    for number in range(1, 7):
        queue.put(b"c", b"%d" % number, History() if number != 2 else None)
    sent = queue.take(4, 1000)
    for _ in range(3):
        queue.answered(taken=True)
    queue.connection_lost()
    queue.origin = b"second"
    queue.send_again()
    again = queue.take(10, 1000)
    assert [int(message.payload) for message in again] == [1, 3, 4, 5, 6], "2 has no history"
    assert [message[:1] + message[6:7] for message in again[:3]] == [
        message[:1] + message[6:7] for message in (sent[0], sent[2], sent[3])
    ], "with their former numbers"
    for taken in (True, False, True, True, True):
        queue.answered(taken=taken)
    assert (queue.published, queue.dropped, len(queue)) == (6, 0, 0), "each is counted once"


def test_accepted_messages_are_remembered_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, other = PublishQueue(5, 1000, int), PublishQueue(3, 1000, int)
    for number in range(1, 5):
        queue.put(b"1", b"%d" % number, History())
    assert numbers(queue) == [1, 2, 3, 4]
    for _ in range(4):
        queue.answered(taken=True)
    for number in (5, 6):
        queue.put(b"1", b"%d" % number, History())
    other.put(b"2", b"20", History())
    queue.hold([1])
    queue.move([1], other)
    assert queue.dropped == other.dropped == 0
    other.release([1])
    assert sorted(numbers(other)) == [5, 6, 20], "nothing is dropped for them"
    for _ in range(3):
        other.answered(taken=True)
    monkeypatch.setattr("trio_ws.channels.redis.publish_queue._REMEMBERED", 0.0)
    other.send_again()
    assert numbers(other) == [], "too old"


def test_no_more_is_sent_again_than_a_history_keeps() -> None:
    queue = PublishQueue(100, 1000)
    for number in range(1, 13):
        queue.put(
            b"%d" % (number % 3),
            b"%d" % number,
            (History(items=2), History(latest=True), History())[number % 3],
        )
    assert numbers(queue) == list(range(1, 13))
    for _ in range(12):
        queue.answered(taken=True)
    queue.send_again()
    assert numbers(queue) == [2, 5, 8, 9, 10, 11, 12]
    short = PublishQueue(100, 1000)
    short.put(b"c", b"1", History(seconds=1e-9))
    short.take(1, 1000)
    short.answered(taken=True)
    short.send_again()
    assert numbers(short) == []


def test_unanswered_messages_are_sent_again_in_order() -> None:
    queue = PublishQueue(4, 1000)
    for number in range(1, 5):
        queue.put(b"c", b"%d" % number)
    assert numbers(queue, max_items=2) == [1, 2]
    queue.answered(taken=True)
    queue.connection_lost()
    assert numbers(queue) == [2, 3, 4]
    queue.connection_lost()
    queue.put(b"c", b"5")
    queue.put(b"c", b"6")
    assert numbers(queue) == [3, 4, 5, 6]
    assert queue.drop_all() == 4
    assert (queue.published, queue.dropped, len(queue)) == (1, 5, 0)


@given(
    st.integers(1, 5),
    st.integers(1, 20),
    st.lists(st.sampled_from(["put", "big", "take", "yes", "no", "lost"])),
)
def test_every_message_is_in_one_place(max_items: int, max_bytes: int, steps: list[str]) -> None:
    queue = PublishQueue(max_items, max_bytes)
    put = on_its_way = 0
    for step in steps:
        if step in ("put", "big"):
            queue.put(b"c", b"" if step == "put" else bytes(10))
            put += 1
        elif step == "take":
            on_its_way += len(queue.take(2, 15))
        elif step == "lost":
            queue.connection_lost()
            on_its_way = 0
        elif on_its_way:
            queue.answered(taken=step == "yes")
            on_its_way -= 1
        assert queue.published + queue.dropped + len(queue) == put
        assert len(queue) <= max_items
        assert on_its_way <= 2
    queue.connection_lost()
    rest = queue.take(1000, 10_000)
    assert sum(message.size for message in rest) <= max_bytes
    assert [message.sequence for message in rest] == sorted(message.sequence for message in rest)


KEPT = History()


def taken(queue: PublishQueue, max_items: int = 100) -> list[tuple[bytes, bytes, int]]:
    """Return the next messages: channel, payload, and number of missing messages."""
    return [(one.channel, one.payload, one.lost) for one in queue.take(max_items, 1000)]


def test_dropped_messages_are_reported_before_the_next() -> None:
    queue = PublishQueue(3, 1000)
    for number in range(6):
        queue.put(b"ab"[number % 2 : number % 2 + 1], b"%d" % number, KEPT)
    queue.put(b"plain", b"")
    assert taken(queue) == [
        (b"a", b"", 2),
        (b"b", b"", 2),
        (b"a", b"4", 0),
        (b"b", b"5", 0),
        (b"plain", b"", 0),
    ]
    assert queue.dropped == 4
    for _ in range(5):
        queue.answered(taken=True)
    assert (queue.published, queue.dropped, len(queue)) == (3, 4, 0)


def test_nothing_is_told_of_where_only_the_newest_is_kept() -> None:
    queue = PublishQueue(2, 20)
    latest = History(latest=True)
    for number in range(4):
        queue.put(b"a", b"%d" % number, latest)
    queue.refuse(b"a", latest)
    assert taken(queue) == [(b"a", b"2", 0), (b"a", b"3", 0)]
    queue.answered(taken=False)
    queue.put(b"a", b"4", latest)
    assert taken(queue) == [(b"a", b"4", 0)]
    assert queue.dropped == 4


def test_too_large_messages_are_reported_in_order() -> None:
    queue = PublishQueue(3, 20)
    queue.put(b"a", b"0", KEPT)
    queue.put(b"a", bytes(30), KEPT)
    queue.refuse(b"a", KEPT)
    queue.refuse(b"plain")
    assert queue.dropped == 3
    assert taken(queue) == [(b"a", b"0", 0), (b"a", b"", 1), (b"a", b"", 1)]


def test_refused_messages_are_reported_with_the_next_of_the_channel() -> None:
    queue = PublishQueue(10, 1000)
    queue.put(b"a", b"0", KEPT)
    queue.put(b"b", b"1", KEPT)
    assert len(taken(queue)) == 2
    queue.answered(taken=False)
    queue.answered(taken=True)
    assert taken(queue) == []
    queue.put(b"b", b"2", KEPT)
    queue.put(b"a", b"3", KEPT)
    assert taken(queue) == [(b"b", b"2", 0), (b"a", b"", 1), (b"a", b"3", 0)]


def test_numbers_go_up_in_the_order_of_sending() -> None:
    queue = PublishQueue(4, 1000)
    for number in range(4):
        queue.put(b"a", b"%d" % number, KEPT)
    first = queue.take(2, 1000)
    queue.connection_lost()
    queue.put(b"a", b"4", KEPT)  # drops what may have arrived
    again = queue.take(100, 1000)
    assert [(one.payload, one.lost, one.sequence) for one in again] == [
        (b"", 1, first[0].sequence),
        (b"1", 0, first[1].sequence),
        (b"2", 0, 3),
        (b"3", 0, 4),
        (b"4", 0, 5),
    ]


# -- slots that move, with a cluster ------------------------------------------------------------------


def slot_of(channel: bytes) -> int:
    return channel[0]


def payloads(queue: PublishQueue) -> list[bytes]:
    return [message.payload for message in queue.take(100, 1000)]


def test_messages_of_a_held_slot_wait_in_order_and_those_that_came_back_come_first() -> None:
    queue = PublishQueue(100, 1000, slot_of)
    queue.origin = b"first"
    for payload in (b"a1", b"b1", b"a2", b"a3"):
        queue.put(payload[:1], payload)
    assert [message.payload for message in queue.take(3, 1000)] == [b"a1", b"b1", b"a2"]
    assert queue.give_back() == ord("a")
    end = queue.unanswered
    queue.put(b"a", b"a4")
    queue.put(b"b", b"b2")
    assert payloads(queue) == [b"b2"]
    queue.answered(taken=True)
    queue.give_back()
    assert queue.answers == end
    assert (queue.published, len(queue)) == (1, 5)
    queue.release([ord("a")])
    assert [(one.payload, one.sequence) for one in queue.take(100, 1000)] == [
        (b"a1", 5),
        (b"a2", 6),
        (b"a3", 7),
        (b"a4", 8),
    ], "they were not executed, so they have new sequence numbers"


def test_messages_that_may_have_arrived_keep_their_number_when_their_slot_moves() -> None:
    queue, other = PublishQueue(100, 1000, slot_of), PublishQueue(100, 1000, slot_of)
    queue.origin, other.origin = b"first", b"second"
    for payload in (b"a1", b"b1", b"a2"):
        queue.put(payload[:1], payload)
    queue.take(2, 1000)
    other.put(b"a", b"a3")
    queue.hold([ord("a")])
    queue.connection_lost()
    queue.move([ord("a")], other)
    assert payloads(other) == []
    other.release([ord("a")])
    taken = [(one.payload, one.origin, one.sequence) for one in other.take(100, 1000)]
    assert taken == [(b"a1", b"first", 1), (b"a2", b"second", 1), (b"a3", b"second", 2)]
    assert payloads(queue) == [b"b1"]
    assert (len(queue), len(other)) == (1, 3)


def test_held_messages_count_towards_the_bounds_and_their_loss_is_marked() -> None:
    history = History()
    queue, other = PublishQueue(3, 1000, slot_of), PublishQueue(3, 1000, slot_of)
    queue.hold([ord("a")])
    other.hold([ord("a")])
    for number in range(5):
        queue.put(b"a", b"%d" % number, history)
    assert (len(queue), queue.dropped) == (3 + 1, 2)
    assert payloads(queue) == [], "the mark of the loss is held too"
    queue.move([ord("a")], other)
    other.release([ord("a")])
    assert [(one.lost, one.payload) for one in other.take(100, 1000)] == [
        (2, b""),
        (0, b"2"),
        (0, b"3"),
        (0, b"4"),
    ]
    assert len(queue) == 0


def test_a_held_message_that_is_published_elsewhere() -> None:
    queue = PublishQueue(100, 1000, slot_of)
    queue.hold([ord("a")])
    queue.put(b"a", b"a1")
    queue.put(b"a", b"a2")
    first = queue.first_held(ord("a"))
    assert first is not None
    assert queue.first_held(ord("a")) is first
    queue.held_answered(first, taken=True)
    queue.held_answered(first, taken=True)
    assert (queue.published, len(queue)) == (1, 1)
    queue.release([ord("a")])
    assert payloads(queue) == [b"a2"]
    assert queue.first_held(ord("a")) is None


def test_a_message_that_was_tried_elsewhere_keeps_its_number_when_it_is_sent_from_here_again() -> None:
    """It may have been published there, which only its number shows."""
    queue, other = PublishQueue(100, 1000, slot_of), PublishQueue(100, 1000, slot_of)
    queue.origin, other.origin = b"first", b"second"
    queue.put(b"a", b"a1")
    queue.take(100, 1000)
    assert queue.give_back() == ord("a")
    tried = queue.first_held(ord("a"))
    assert tried is not None
    assert (tried.sequence, tried.origin) == (2, b"first")
    queue.move([ord("a")], other)
    queue.held_answered(tried, taken=True)  # too late
    other.move([ord("a")], queue)
    for _ in range(2):
        queue.release([ord("a")])
        assert [(one.sequence, one.origin) for one in queue.take(100, 1000)] == [(2, b"first")]
        queue.give_back()


def test_moving_a_slot_to_a_queue_whose_bytes_are_all_on_their_way() -> None:
    history = History()
    queue, full = PublishQueue(100, 1000, slot_of), PublishQueue(100, 2, slot_of)
    for number in range(3):
        full.put(b"b", b"%d" % number, history)
    full.take(100, 1000)  # the mark of the lost ones exceeds the limit
    assert full.dropped == 2
    queue.hold([ord("a")])
    queue.put(b"a", b"a1")
    queue.move([ord("a")], full)
    full.release([ord("a")])
    assert payloads(full) == []
    assert full.dropped == 3


# -- messages that are refused for now, while others are accepted -----------------------------------------


def test_what_was_refused_for_now_comes_before_what_is_unanswered() -> None:
    queue = PublishQueue(100, 1000, slot_of)
    for payload in (b"a1", b"b1", b"c1", b"a2", b"b2"):
        queue.put(payload[:1], payload, History() if payload.startswith(b"c") else None)
    queue.take(4, 1000)
    for _ in range(3):
        queue.refused_for_now()
    assert (queue.has_unanswered, queue.unanswered, len(queue)) == (True, 4, 5)
    queue.answered(taken=True)
    assert (queue.published, queue.dropped, len(queue)) == (1, 1, 3), "the last one has overtaken the first"
    queue.connection_lost()
    assert payloads(queue) == [b"b1", b"c1", b"b2"]


def test_what_was_refused_for_now_is_dropped_if_a_later_one_may_have_arrived() -> None:
    queue = PublishQueue(100, 1000, slot_of)
    for payload in (b"a1", b"b1", b"a2"):
        queue.put(payload[:1], payload)
    queue.take(3, 1000)
    queue.refused_for_now()
    queue.refused_for_now()
    queue.connection_lost()
    assert payloads(queue) == [b"b1", b"a2"]
    assert queue.dropped == 1


@pytest.mark.parametrize("refusals", ["nnmn", "nmnn", "mnnn", "nnnn"])
@pytest.mark.parametrize("held_first", [False, True])
def test_what_was_refused_for_now_moves_with_its_slot(refusals: str, held_first: bool) -> None:
    """Some for now, and some because their slot has moved."""
    queue, other = PublishQueue(100, 1000, slot_of), PublishQueue(100, 1000, slot_of)
    for payload in (b"b1", b"a1", b"a2", b"a3", b"a4", b"a5"):
        queue.put(payload[:1], payload)
    queue.take(5, 1000)
    queue.refused_for_now()
    if held_first:
        queue.hold([ord("a")])
    for refusal in refusals:
        if refusal == "m":
            queue.give_back()
        else:
            queue.refused_for_now()
    assert (queue.unanswered, queue.answers, len(queue)) == (5, 5, 6)
    if held_first or "m" in refusals:
        queue.release([ord("a")])
        queue.connection_lost()
        assert [one for one in payloads(queue) if one != b"b1"] == [b"a1", b"a2", b"a3", b"a4", b"a5"]
        queue.connection_lost()
    queue.hold([ord("a")])
    queue.move([ord("a")], other)
    queue.connection_lost()
    other.release([ord("a")])
    assert payloads(other) == [b"a1", b"a2", b"a3", b"a4", b"a5"]
    assert payloads(queue) == [b"b1"]
    assert queue.drop_all() + other.drop_all() == 6


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from([b"a", b"b", b"ax"])),
            st.tuples(
                st.just("send"), st.lists(st.sampled_from(["yes", "not now", "elsewhere"]), max_size=6)
            ),
            st.tuples(st.sampled_from(["answer", "lose", "release"]), st.none()),
        ),
        max_size=60,
    )
)
def test_no_message_of_a_channel_arrives_after_a_later_one(steps: list[tuple[str, Any]]) -> None:
    """And each is counted as published or dropped, or is still there, as long as its answer has arrived."""
    queue = PublishQueue(1000, 10_000, slot_of)
    replies: list[tuple[Outgoing, str]] = []
    arrived: dict[bytes, list[int]] = {}
    put = 0
    closing = False
    for step, detail in steps:
        if step == "put":
            put += 1
            queue.put(detail, b"%d" % put)
        elif step == "send" and not closing:
            for reply in detail:
                for message in queue.take(1 + len(replies), 10_000):
                    replies.append((message, reply))
                    numbers = arrived.setdefault(message.channel, [])
                    if reply == "yes" and int(message.payload) not in numbers:
                        numbers.append(int(message.payload))
        elif step == "answer" and replies:
            _, reply = replies.pop(0)
            if reply == "yes":
                queue.answered(taken=True)
            elif reply == "elsewhere":
                queue.give_back()
            else:
                queue.refused_for_now()
                closing = True
        elif step == "release" and not replies:
            queue.release([ord("a"), ord("b")])
        # Which of the messages have arrived is unknown if answers are lost. That is another matter.
        unknown = any(reply != "yes" for _, reply in replies)
        if (step == "lose" and not unknown) or (closing and not replies):
            queue.connection_lost()
            replies.clear()
            closing = False
        for numbers in arrived.values():
            assert numbers == sorted(numbers)
        assert queue.published + queue.dropped + len(queue) == put
