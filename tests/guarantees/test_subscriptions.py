"""The cost of subscribing by names and by globs is as documented, whatever the names are."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inspect import channels_of, globs_of
from tests.support.serving import serving_in_memory
from trio_ws import Options, RPCError, WebSocketClient, WebSocketHandler
from trio_ws.channels import names as names_module
from trio_ws.channels.channel import ConnectionSubscriber
from trio_ws.channels.hub import Hub
from trio_ws.channels.names import MAX_SETS, MAX_WILDCARDS, Glob, Globs, check_name, check_names, is_glob

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

PIECES = st.text("ab*?[]!-.\\\n", max_size=8)


class RecordingRights(WebSocketHandler[Any]):
    """Records the names that ``may_subscribe`` was called with."""

    client_globs = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def may_subscribe(self, connection: Any, name: str) -> bool:
        self.asked.append(name)
        return not name.startswith("no")


@given(PIECES, st.lists(PIECES, max_size=5))
def test_a_glob_matches_as_fnmatch_does(text: str, names: list[str]) -> None:
    if is_glob(text):
        glob = Glob(text)
        for name in (text, *names):
            assert glob.matches(name) == fnmatchcase(name, text)


@given(st.lists(st.tuples(PIECES, st.booleans()), max_size=12), st.lists(PIECES, max_size=4))
def test_many_globs_match_as_each_of_them(changes: list[tuple[str, bool]], names: list[str]) -> None:
    globs, model = Globs(), set()
    for text, add in changes:
        if not is_glob(text):
            continue
        if add:
            globs.add(text)
            model.add(text)
        else:
            globs.discard(text)
            model.discard(text)
    assert set(globs) == model
    for name in names:
        found = [glob.text for glob in globs.matching(name)]
        assert sorted(found) == sorted(text for text in model if fnmatchcase(name, text))
    for text in model:
        globs.discard(text)
    assert not globs
    assert not globs._by_prefix
    assert not globs._lengths


def test_a_short_name_matches_each_glob_once() -> None:
    globs = Globs()
    for text in ("a*", "ab*", "abc*"):
        globs.add(text)
    assert [glob.text for glob in globs.matching("a")] == ["a*"]


async def test_a_publish_is_compared_with_globs_that_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """No glob is compiled for a publish, whatever their number."""
    hub = Hub()
    members = [ConnectionSubscriber(object(), Options(), "disconnect") for _ in range(3)]
    for number, member in enumerate(members):
        for glob in range(1000):
            hub.add(member, f"news.[!a]?{number}.{glob}*", "disconnect")

    def compiled(glob: str) -> Any:
        raise AssertionError(glob)

    monkeypatch.setattr(names_module, "_compiled", compiled)
    compared: list[str] = []
    matches = Glob.matches

    def counted(glob: Glob, name: str) -> bool:
        compared.append(name)
        return matches(glob, name)

    monkeypatch.setattr(Glob, "matches", counted)
    assert hub.publish("user.1", 1) == 0
    assert compared == []
    assert hub.publish("news.bc1.7x", 1) == 1
    assert len(compared) == 3000
    compared.clear()
    assert hub.publish("news.q", 1) == hub.publish("news.q", 1) == 0
    assert len(compared) == 3000, "that nobody wants it is remembered"
    monkeypatch.undo()
    hub.add(members[0], "news.q*", "disconnect")
    assert hub.publish("news.q", 1) == 1, "until there is another glob"


async def test_channel_with_several_matching_names_stays_until_the_last() -> None:
    hub = Hub()
    member = ConnectionSubscriber(object(), Options(), "disconnect")
    for name in ("a.*", "*.b", "a.b", "a.?"):
        hub.add(member, name, "disconnect")
    for name in ("a.b", "a.*", "a.?"):
        assert hub.publish("a.b", 1) == 1
        hub.remove(member, name)
    assert hub.publish("a.b", 1) == 1
    hub.remove(member, "*.b")
    assert hub.publish("a.b", 1) == 0
    assert not member.channels
    assert not channels_of(hub)
    assert not globs_of(hub)


async def test_the_policy_is_that_of_the_name_or_of_the_first_glob() -> None:
    hub = Hub()
    member = ConnectionSubscriber(object(), Options(), "disconnect")
    hub.add(member, "*.b", "drop_oldest")
    hub.add(member, "a.*", "drop_newest")
    hub.publish("a.b", 1)
    (channel,) = member.channels
    assert member.policy_for(channel) == "drop_oldest"
    hub.add(member, "a.b", "disconnect")
    assert member.policy_for(channel) == "disconnect"
    hub.remove(member, "a.b")
    hub.remove(member, "*.b")
    assert member.policy_for(channel) == "drop_newest"


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("x" * 256, True),
        ("x" * 257, False),
        ("漢" * 256, True),
        ("🙂" * 128, True),
        ("🙂" * 129, False),
        ("x" * 255 + "🙂", False),
        ("\x00\x1b\u202e", True),
        ("", False),
    ],
)
def test_how_long_a_name_may_be(name: str, good: bool) -> None:
    if good:
        assert check_name(name) == name
    else:
        with pytest.raises(ValueError, match="1 to 256 characters, or up to 128 with one beyond"):
            check_name(name)


@pytest.mark.parametrize("glob", ["?" * (MAX_WILDCARDS + 1), "[a]" * (MAX_SETS + 1), "*?" * MAX_WILDCARDS])
def test_a_glob_has_a_bound_where_it_is_subscribed_to(glob: str) -> None:
    with pytest.raises(ValueError, match="may have 32 of"):
        check_names(glob)
    assert check_name(glob) == glob, "as a name that is published to, it is just a name"
    assert check_names(["?" * MAX_WILDCARDS, "[a]" * MAX_SETS])


@pytest.mark.repeats
@pytest.mark.parametrize(
    "fill",
    [
        pytest.param(lambda number: f"{'x' * 240}{number:016}", id="one byte a character"),
        pytest.param(lambda number: f"{'漢' * 240}{number:016}", id="two"),
        pytest.param(lambda number: f"{'🙂' * 112}{number:016}", id="four"),
    ],
)
def test_a_thousand_names_take_what_is_stated(fill: Callable[[int], str]) -> None:
    """docs/limits.md states 1.25 MiB."""
    hub = Hub()
    members = [ConnectionSubscriber(object(), Options(), "disconnect") for _ in range(3)]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index, member in enumerate(members):
            for number in range(1000):
                hub.add(member, fill(1000 * index + number), "disconnect")
        gc.collect()
        held = (tracemalloc.get_traced_memory()[0] - before) / len(members)
    finally:
        tracemalloc.stop()
    assert held <= 1.25 * 1024 * 1024


async def test_a_list_is_asked_about_up_to_the_first_refusal(autojump_clock: MockClock) -> None:
    handler = RecordingRights()
    options = Options(max_subscribed_channels=0)
    async with serving_in_memory(handler, options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            names = ["yes", "no", *(f"{number}" for number in range(50_000))]
            with pytest.raises(RPCError, match="access to the channel 'no' denied"):
                await client.call("__subscribe__", names)
            assert handler.asked == ["yes", "no"]
            with pytest.raises(RPCError, match="1 to 256 characters"):
                await client.call("__subscribe__", ["yes", "x" * 257, "yes"])
            assert handler.publish("yes", 1) == 0


@pytest.mark.parametrize("method", ["__subscribe__", "__unsubscribe__"])
async def test_a_list_that_is_too_long_is_refused_at_once(
    method: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.handler")
    handler = RecordingRights()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call(method, [f"{number}" for number in range(1001)]) is False
            assert handler.asked == []
    (record,) = caplog.records
    assert "a list of 1001 channels" in record.getMessage()
    assert "max_subscribed_channels is 1000" in record.getMessage()


async def test_others_have_turns_while_a_long_list_is_taken(autojump_clock: MockClock) -> None:
    """If the request is cancelled, none of its subscriptions remain."""
    handler = RecordingRights()
    async with serving_in_memory(handler) as memory:
        async with (
            WebSocketClient("ws://test/", stream=await memory.stream()) as client,
            trio.open_nursery() as nursery,
        ):
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(count)
            globs = [f"{number}.*" for number in range(1000)]
            assert await client.call("__subscribe__", globs) is True
            assert turns > 200
            assert handler.publish("7.x", 1) == 1
            turns = 0
            assert await client.call("__unsubscribe__", globs) is True
            assert turns > 50
            assert handler.publish("7.x", 1) == 0
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_when, scope, lambda: len(globs_of(handler.channels)) > 100)
                await client.call("__subscribe__", globs)
            assert scope.cancelled_caught
            while globs_of(handler.channels):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def cancel_when(scope: trio.CancelScope, holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.lowlevel.checkpoint()
    scope.cancel()
