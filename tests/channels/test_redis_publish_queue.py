"""What waits for Redis: the bound, the order, the counts, the loss of a connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_ws.channels.redis.publish_queue import PublishQueue


def numbers(queue: PublishQueue, max_items: int = 100, max_bytes: int = 1000) -> list[int]:
    return [message.sequence for message in queue.take(max_items, max_bytes)]


def test_the_oldest_are_dropped_for_room() -> None:
    queue = PublishQueue(3, 1000)
    for _ in range(5):
        queue.put(b"c", b"")
    assert len(queue) == 3
    assert queue.dropped == 2
    assert numbers(queue) == [3, 4, 5]


def test_bytes_are_bounded_and_a_message_above_the_bound_drops_no_others() -> None:
    queue = PublishQueue(100, 10)
    queue.put(b"c", b"1234")
    queue.put(b"c", b"1234")
    queue.put(b"c", b"12345678910")
    assert queue.dropped == 1
    queue.put(b"c", b"")
    assert queue.dropped == 2
    assert numbers(queue) == [2, 4]


def test_no_more_is_on_its_way_than_was_asked_for_but_one_may_be_large() -> None:
    queue = PublishQueue(100, 1000)
    for size in (50, 5, 5, 5):
        queue.put(b"", bytes(size))
    assert numbers(queue, max_bytes=10) == [1]
    assert numbers(queue, max_bytes=10) == []
    queue.answered(taken=True)
    assert numbers(queue, max_bytes=10) == [2, 3]
    assert numbers(queue, max_items=2) == []
    queue.answered(taken=False)
    assert numbers(queue, max_items=2) == [4]
    assert (queue.published, queue.dropped, len(queue)) == (1, 1, 2)


def test_what_was_not_answered_is_sent_again_in_its_old_place() -> None:
    queue = PublishQueue(4, 1000)
    for _ in range(4):
        queue.put(b"c", b"")
    assert numbers(queue, max_items=2) == [1, 2]
    queue.answered(taken=True)
    queue.connection_lost()
    assert numbers(queue) == [2, 3, 4]
    queue.connection_lost()
    queue.put(b"c", b"")
    queue.put(b"c", b"")
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
