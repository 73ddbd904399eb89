"""`trio_ws.routing`: valid patterns, the order of routes, and parameters of functions."""

from __future__ import annotations

import functools
import uuid
from typing import Any, NamedTuple, NewType, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.server.routing import Pattern, Table, check_function, is_async

RoomId = NewType("RoomId", int)
SOME_UUID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("pattern", "path", "params"),
    [
        ("/", "/", {}),
        ("/", "", None),
        ("/a/b", "/a/b", {}),
        ("/a/b/", "/a/b", {}),
        ("/a.b", "/axb", None),
        ("/{x}", "/1", {"x": "1"}),
        ("/{x}", "/", None),
        ("/{x}", "/a/b", None),
        ("/{x:str}", "/a b\n", {"x": "a b\n"}),
        ("/{x:int}", "/17", {"x": 17}),
        ("/{x:int}", "/-17", {"x": -17}),
        ("/{x:int}", "/1.5", None),
        ("/{x:int}", "/٣", None),
        ("/{x:int}", "/" + "9" * 101, None),
        ("/{x:float}", "/1.5", {"x": 1.5}),
        ("/{x:float}", "/2", {"x": 2.0}),
        ("/{x:float}", "/nan", None),
        ("/{x:uuid}", f"/{SOME_UUID}", {"x": uuid.UUID(SOME_UUID)}),
        ("/{x:uuid}", f"/{SOME_UUID[:-1]}", None),
        ("/f/{x:path}", "/f/a/b/", {"x": "a/b/"}),
        ("/f/{x:path}", "/f/", {"x": ""}),
        ("/f/{x:path}", "/f", None),
        ("/f/{x:path}", "/f/..", None),
        ("/f/{x:path}", "/f/../", None),
        ("/f/{x:path}", "/f/a/../../b", None),
        ("/f/{x:path}", "/f/a/..", None),
        ("/f/{x:path}", "/f/./a", None),
        ("/f/{x:path}", "/f//etc/passwd", None),
        ("/f/{x:path}", "/f/a//b", None),
        ("/f/{x:path}", "/f/a//", None),
        ("/f/{x:path}", "/f/a\\..\\b", None),
        ("/f/{x:path}", "/f/a\x00b", None),
        ("/f/{x:path}", "/f/.../..a/b../.c", {"x": ".../..a/b../.c"}),
        ("/f/{x:path}", "/f/a\n/b", {"x": "a\n/b"}),
        ("/f/{x:path}", "/f/..\n", {"x": "..\n"}),
        ("/{x}", "/..", None),
        ("/{x}", "/.", None),
        ("/{x}/y", "/../y", None),
        ("/{x}", "/...", {"x": "..."}),
        ("/{x}.txt", "/...txt", None),
        ("/{x}/{y:int}", "/a/..", None),
        ("/v{major:int}.json/{name}", "/v2.json/x", {"major": 2, "name": "x"}),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, params: dict[str, Any] | None) -> None:
    found = Pattern(pattern).match(path)
    assert found == params
    if params:
        assert found is not None
        assert [type(value) for value in found.values()] == [type(value) for value in params.values()]


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        (7, TypeError, "must be a str, not int"),
        ("", ValueError, "use '/'"),
        ("rooms/{x}", ValueError, r"must begin with a slash; use '/rooms/\{x\}'"),
        ("/a//b", ValueError, "'/a//b' has an empty segment"),
        ("/a?b=1", ValueError, "find the query in ws.query_params"),
        (
            "/{x:number}",
            ValueError,
            "'number' in the path '/{x:number}' is not a converter; use float,",
        ),
        ("/{x:}", ValueError, "'' in the path '/{x:}' is not a converter"),
        ("/{x}-{y}", ValueError, "must have exactly one parameter"),
        ("/{x", ValueError, "must have exactly one parameter"),
        ("/x}", ValueError, "must have exactly one parameter"),
        ("/{}", ValueError, "'' in the path '/{}' is not a valid parameter name"),
        ("/{a-b}", ValueError, "'a-b' in the path"),
        ("/{class}", ValueError, "'class' in the path"),
        ("/{x}/{x}", ValueError, "two parameters 'x'; rename one"),
        ("/{x:path}/y", ValueError, "so it must be the last segment"),
        ("/a{x:path}", ValueError, "so it must be the last segment"),
    ],
)
def test_the_error_for_an_invalid_path_contains_the_reason(
    path: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text.replace("{x:", r"\{x:")):
        Pattern(path)


@given(st.lists(st.text("ab/-0{}:.", max_size=8), max_size=4).map("/".join), st.text("ab/-0.", max_size=12))
def test_any_path_is_a_pattern_or_an_error_of_ours(pattern: str, path: str) -> None:
    try:
        made = Pattern(pattern)
    except ValueError:
        return
    params = made.match(path)
    assert params is None or params.keys() == made.types.keys()


class Route(NamedTuple):
    pattern: Pattern


def table(*paths: str) -> Table[Route]:
    made: Table[Route] = Table()
    for path in paths:
        made.add(Route(Pattern(path)))
    return made


PATHS = [
    *("/x/{rest:path}", "/x/{a}", "/x/{a:float}", "/x/{a:int}"),
    *("/x/{a}.txt", "/x/{a}-old.txt", "/x/5", "/x"),
]


@pytest.mark.parametrize("paths", [PATHS, PATHS[::-1]], ids=["so", "the other way round"])
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/x/5", "/x/5"),
        ("/x/6", "/x/{a:int}"),
        ("/x/6.5", "/x/{a:float}"),
        ("/x/6.txt", "/x/{a}.txt"),
        ("/x/6-old.txt", "/x/{a}-old.txt"),
        ("/x/six", "/x/{a}"),
        ("/x/six/7", "/x/{rest:path}"),
        ("/x/", "/x/{rest:path}"),
        ("/x", "/x"),
        ("/x/5/", "/x/{rest:path}"),
        ("/y", None),
    ],
)
def test_the_most_specific_route_answers_in_whatever_order_they_came(
    paths: list[str], path: str, found: str | None
) -> None:
    first = next(table(*paths).find(path), None)
    assert (first[0].pattern.path if first else None) == found


def test_a_slash_at_the_end_makes_no_difference() -> None:
    made = table("/a/", "/b/{x}", "/")
    assert [route.pattern.path for path in ("/a", "/a/", "/b/1/", "/") for route, _ in made.find(path)] == [
        "/a",
        "/a",
        "/b/{x}",
        "/",
    ]
    assert not list(made.find("/a//"))
    assert {route.pattern.path for route in made} == {"/a", "/b/{x}", "/"}


def test_the_shape_is_that_of_the_paths_it_matches() -> None:
    assert Pattern("/a/{x:int}").shape == Pattern("/a/{y:int}/").shape
    assert Pattern("/a/{x:int}").shape != Pattern("/a/{x}").shape
    assert Pattern("/a/{x}.txt").shape != Pattern("/a/{x}").shape


def test_matching_takes_linear_time() -> None:
    # With cubic time, this would not end.
    patterns = [Pattern(path) for path in ("/{a}-a/{b}-b/{c}-c", "/{a:float}x")]
    for path in ("/" + "-a" * 200_000, "/" + "a" * 400_000, "/" + "1" * 400_000, "/a/" * 130_000):
        assert [pattern.match(path) for pattern in patterns] == [None, None]


# -- functions --------------------------------------------------------------------------------------


async def good(ws: object, room: int, *more: object, extra: str = "") -> None: ...
async def everything(ws: object, **params: object) -> None: ...
async def keyword(ws: object, *, room: int) -> None: ...
async def only_ws(ws: object) -> None: ...
async def unannotated(ws, room): ...  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
async def wider(ws: object, room: int | str) -> None: ...
async def optional(ws: object, room: Optional[int] = None) -> None: ...  # noqa: UP045
async def as_float(ws: object, room: float) -> None: ...
async def new_type(ws: object, room: RoomId) -> None: ...
async def unknown(ws: object, room: OnlyForCheckers) -> None: ...  # type: ignore[name-defined]  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
async def any_room(ws: object, room: Any) -> None: ...
async def two(first: str, ws: object, room: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (good, ("room",)),
        (everything, ("room", "seat")),
        (keyword, ("room",)),
        (only_ws, ()),
        (unannotated, ("room",)),
        (wider, ("room",)),
        (optional, ("room",)),
        (as_float, ("room",)),
        (new_type, ("room",)),
        (unknown, ("room",)),
        (any_room, ("room",)),
        (functools.partial(two, "x"), ("room",)),
        (print, ()),
        (max, ()),
    ],
)
def test_a_function_gets_the_parameters_that_it_names(function: Any, wanted: tuple[str, ...]) -> None:
    assert check_function(function, "WebSocket", Pattern("/{room:int}/{seat}")) == wanted


async def nothing() -> None: ...
async def by_name(*, ws: object) -> None: ...
async def wrong_type(ws: object, room: str) -> None: ...
async def wrong_union(ws: object, room: str | None) -> None: ...
async def too_much(ws: object, room: int, door: int) -> None: ...
async def positional(ws: object, room: int, /) -> None: ...
async def room_first(room: object) -> None: ...
def generator(ws: object) -> Any:
    yield


class NoHandler:
    """A class."""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (7, "a function of one WebSocket, not 7; use async def"),
        (NoHandler, "a function of one WebSocket, not <class"),
        (generator, "the handler generator contains yield"),
        (nothing, "the handler nothing takes no argument; its first one must be the WebSocket"),
        (by_name, "the handler by_name takes no argument"),
        (wrong_type, "wrong_type annotates room as str, but its path provides an int; change one of them"),
        (wrong_union, r"wrong_union annotates room as str \| None, but its path provides an int"),
        (too_much, r"requires parameter 'door', but the path '/\{room:int\}' has no \{door\}"),
        (positional, "requires parameter 'room', but"),
        (
            room_first,
            "first argument of the handler room_first must be the WebSocket, not the path parameter 'room'",
        ),
    ],
)
def test_a_function_that_cannot_be_called_says_why(function: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        check_function(function, "WebSocket", Pattern("/{room:int}"))


def test_a_coroutine_is_closed_and_said() -> None:
    with pytest.raises(TypeError, match="pass it without calling it"):
        check_function(nothing(), "WebSocket")


class Awaited:
    async def __call__(self, ws: object) -> None: ...
    async def method(self, ws: object) -> None: ...


class Plain:
    def __call__(self, ws: object) -> None: ...


@functools.wraps(good)
def wrapper(*args: Any, **kwargs: Any) -> Any:
    return good(*args, **kwargs)


def test_callables_that_return_awaitables() -> None:
    yes = [
        good,
        Awaited(),
        Awaited().method,
        functools.partial(two),
        functools.partial(Awaited()),
        wrapper,
    ]
    no = [print, generator, Plain(), functools.partial(Plain()), lambda ws: None, 7]
    assert [is_async(one) for one in yes] == [True] * len(yes)
    assert [is_async(one) for one in no] == [False] * len(no)
