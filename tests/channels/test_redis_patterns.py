"""Names and globs at Redis: the pattern of a glob matches everything that the glob matches."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.redis import redis_server, talk
from trio_ws.channels.names import MAX_CHANNEL_NAME, matcher
from trio_ws.channels.redis.patterns import DesiredSubscriptions, channel_of, name_of, pattern_of


@pytest.mark.parametrize(
    ("glob", "pattern"),
    [
        ("news.*", b"p:news.*"),
        ("room?", b"p:room?*"),  # one character may be four bytes
        ("??**?", b"p:???*"),
        ("[abc]", b"p:[abc]"),
        ("[a-z0-9_]x", b"p:[a-z0-9_]x"),
        ("[!a-c]x", b"p:[^a-c]*x"),
        ("[^a]", b"p:?*"),
        ("[z-a]", b"p:?*"),
        ("[ä]", b"p:?*"),
        ("[]]", b"p:?*"),
        ("[]*", b"p:\\[]*"),
        ("[!]*", b"p:\\[!]*"),
        ("a\\*", b"p:a\\\\*"),
        ("ä*", b"p:\xc3\xa4*"),
    ],
)
def test_the_redis_pattern_of_a_glob(glob: str, pattern: bytes) -> None:
    assert pattern_of("p:", glob) == pattern


def test_a_prefix_is_taken_literally() -> None:
    assert pattern_of("[*?\\", "a*") == b"\\[\\*\\?\\\\a*"


CHARACTERS = ["a", "b", "z", "ä", "\U0001f600", "\ud800", "^", "-", "!", "\\", "[", "]", "*", "?", "\n", "0"]
NAMES = st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=6).map("".join)
SETS = [
    "[a]",
    "[!a]",
    "[^a]",
    "[a-z]",
    "[!b-z]",
    "[z-a]",
    "[!z-a]",
    "[ä]",
    "[]]",
    "[!]]",
    "[!]",
    "[\\]",
    "[a-z-9]",
]
# Pieces of a glob, each with a piece of a name that it often matches.
PIECES = (
    st.sampled_from(CHARACTERS).map(lambda one: (one, one))
    | st.tuples(st.sampled_from(["?", *SETS]), st.sampled_from(CHARACTERS))
    | st.tuples(st.just("*"), NAMES | st.just(""))
)


async def test_globs_match_the_same_at_redis() -> None:
    # KEYS matches as PSUBSCRIBE does, and returns the matches immediately.
    async with redis_server() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        matched = []

        async def check(glob: str, names: list[str], prefix: str) -> None:
            await talk(stream, "FLUSHALL")
            keys = {channel_of(prefix, name): name for name in [*names, "other", "a", "ä", "-"]}
            await talk(stream, "MSET", *[word for key in keys for word in (key, b"")])
            found = set(await talk(stream, "KEYS", pattern_of(prefix, glob)))
            ours = {key for key, name in keys.items() if matcher(glob)(name)}
            assert ours <= found
            matched.append(len(ours))

        @given(
            st.lists(PIECES, min_size=1, max_size=6),
            st.lists(NAMES, max_size=8),
            st.sampled_from(["p:", "[!*?\\"]),
        )
        @examples(150)
        def every_glob(pieces: list[tuple[str, str]], names: list[str], prefix: str) -> None:
            glob = "".join(piece for piece, _ in pieces)
            matching = "".join(piece for _, piece in pieces)
            trio.from_thread.run(check, glob, [matching, *names], prefix)

        async with stream:
            await trio.to_thread.run_sync(every_glob)
        assert sum(matched) > len(matched) // 2  # most globs were compared with names that they match


@given(NAMES, st.text(max_size=5))
def test_a_name_comes_back_as_it_was(name: str, prefix: str) -> None:
    encoded = prefix.encode()
    assert name_of(encoded, channel_of(prefix, name)) == name


@pytest.mark.parametrize(
    "channel", [b"p:", b"q:a", b"", b"p", b"p:\xff", b"p:" + b"x" * (MAX_CHANNEL_NAME + 1), b"p:\xc3"]
)
def test_names_of_other_programs(channel: bytes) -> None:
    assert name_of(b"p:", channel) is None


def test_globs_with_one_pattern_are_one_subscription() -> None:
    wanted = DesiredSubscriptions("p:")
    keys = [wanted.add(name) for name in ("a", "b*", "[!a]", "?", "[^a]")]
    assert keys == [(False, b"p:a"), (True, b"p:b*"), (True, b"p:[^a]*"), (True, b"p:?*"), (True, b"p:?*")]
    assert list(wanted.names) == keys[:4]
    assert wanted.discard("?") is None
    assert wanted.discard("never") is None
    assert wanted.match((True, b"p:?*"), b"p:a") == "a"
    assert wanted.match((True, b"p:?*"), b"p:b") is None
    assert wanted.discard("[^a]") == (True, b"p:?*")
    assert wanted.match((True, b"p:?*"), b"p:a") is None
    assert list(wanted.names) == keys[:3]
