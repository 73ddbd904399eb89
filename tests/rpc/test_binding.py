"""Binding of arguments to the parameters of a method, including streams from the caller."""

from __future__ import annotations

import functools

# Annotations are resolved while the program runs.
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable  # noqa: TC003
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest
import trio  # noqa: TC002

from tests.support.binding import CONNECTION, call, fail
from trio_ws.errors import RPCInvalidParamsError
from trio_ws.rpc.marking import collect, make_method, rpc_method

if TYPE_CHECKING:
    from trio_ws.rpc.methods import Method


class User(msgspec.Struct):
    name: str


def method_of(function: Callable[..., Any]) -> Method:
    return make_method(function, "m")


def three(connection: Any, a: int, b: int = 2, *, c: int, d: Any = None) -> Any:
    return a, b, c, d


def only(connection: Any, a: int, b: int = 2, /, c: int = 3) -> Any:
    return a, b, c


def rest(connection: Any, a: int, *numbers: int, **options: User) -> Any:
    return a, numbers, options


def anything(connection: Any, *args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def positional_rest(connection: Any, a: int, /, **options: int) -> Any:
    return a, options


def no_defaults_checked(connection: Any, a: int = "unset") -> Any:  # type: ignore[assignment]
    return a


def two(connection: Any, a: int, b: int) -> Any:
    return a, b


def by_id(connection: Any, names: dict[int, str], b: int) -> Any:
    return names, b


def connection_in_star(*args: int) -> Any:
    return args


def none_at_all(connection: Any) -> Any:
    return ()


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        (two, [1, 2], {}, (1, 2)),
        (two, [1], {"b": 2}, (1, 2)),
        (two, [], {"b": 2, "a": 1}, (1, 2)),
        (three, [1], {"c": 3}, (1, 2, 3, None)),
        (three, [1, 5], {"c": 3, "d": "x"}, (1, 5, 3, "x")),
        (three, [], {"c": 3, "a": 1}, (1, 2, 3, None)),
        (only, [1], {}, (1, 2, 3)),
        (only, [1, 5], {"c": 6}, (1, 5, 6)),
        (only, [1, 5, 6], {}, (1, 5, 6)),
        (rest, [1], {}, (1, (), {})),
        (rest, [1, 2, 3], {"u": {"name": "ann"}}, (1, (2, 3), {"u": User("ann")})),
        (rest, [], {"a": 1, "u": {"name": "ann"}}, (1, (), {"u": User("ann")})),
        (anything, [1, "x"], {"b": None}, ((1, "x"), {"b": None})),
        (anything, [], {}, ((), {})),
        (positional_rest, [1], {"a": 2, "connection": 3}, (1, {"a": 2, "connection": 3})),
        (positional_rest, [1], {"a": 2}, (1, {"a": 2})),
        (no_defaults_checked, [], {}, "unset"),
        (by_id, [{"1": "a"}, 2], {}, ({1: "a"}, 2)),
        (by_id, [], {"names": {"1": "a"}, "b": 2}, ({1: "a"}, 2)),
        (connection_in_star, [1, 2], {}, (CONNECTION, 1, 2)),
        (none_at_all, [], {}, ()),
    ],
)
def test_arguments_that_fit(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], expected: Any
) -> None:
    assert call(method_of(function), args, kwargs) == expected


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text", "path"),
    [
        (two, [1], {}, "m needs b", "$.b"),
        (two, [], {}, "m needs a, b", "$.a"),
        (two, [], {"b": 1}, "m needs a", "$.a"),
        (two, [], {"a": 1, "x": 2}, "m has no parameter x; it takes a, b by name", "$.x"),
        (two, [1, 2, 3], {}, "m takes at most 2 by position, but 3 were given", "$[2]"),
        (two, [1, 2], {"b": 2}, "b is given twice, by position and by name", "$.b"),
        (two, [1, "x"], {}, "b: Expected `int`, got `str`", "$.b"),
        (two, [1], {"b": "x"}, "b: Expected `int`, got `str`", "$.b"),
        (
            two,
            [1, 2],
            {"connection": 3},
            "m has no parameter connection; it takes a, b by name",
            "$.connection",
        ),
        (three, [1], {}, "m needs c", "$.c"),
        (three, [1, 2, 3], {}, "m takes at most 2 by position, but 3 were given", "$[2]"),
        (three, [1], {"c": "x"}, "c: Expected `int`, got `str`", "$.c"),
        (only, [], {"a": 1}, "m has no parameter a; it takes c by name", "$.a"),
        (only, [], {}, "m needs a", "$.a"),
        (rest, [1, 2, "x"], {}, "numbers[1]: Expected `int`, got `str`", "$.numbers[1]"),
        (rest, [1], {"u": {"name": 5}}, "u.name: Expected `str`, got `int`", "$.u.name"),
        (rest, [1], {"connection": {"name": "x"}}, "m has no parameter connection; it takes a by name", None),
        (positional_rest, [], {"a": 2}, "m needs a", "$.a"),
        (none_at_all, [1], {}, "m takes at most 0 by position, but 1 were given", "$[0]"),
        (none_at_all, [], {"a": 1}, "m has no parameter a; it takes nothing by name", "$.a"),
        (
            none_at_all,
            [],
            {"a b\n": 1},
            r"m has no parameter 'a b\n'; it takes nothing by name",
            r"$.'a b\n'",
        ),
        (none_at_all, [], {"\ud800": 1}, r"m has no parameter '\ud800'; it takes nothing by name", None),
    ],
)
def test_arguments_that_do_not_fit(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], text: str, path: str | None
) -> None:
    said, where = fail(method_of(function), args, kwargs)
    assert said == text
    assert path is None or where == path


def test_a_long_name_is_not_quoted_in_full() -> None:
    assert len(fail(method_of(none_at_all), [], {"x" * 5000: 1})[0]) < 200


def test_self_cannot_be_given_by_name() -> None:
    class Open:
        @rpc_method()  # type: ignore[arg-type]
        def open(self, connection: Any, **options: Any) -> dict[str, Any]:
            return options

    method = collect(Open())["open"]
    assert call(method, [], {"a": 1}) == {"a": 1}
    for name in ("self", "connection"):
        assert fail(method, [], {name: 1})[1] == f"$.{name}"


def test_arguments_of_a_partial_cannot_be_passed_again() -> None:
    def function(factor: int, connection: Any, **options: int) -> dict[str, int]:
        return options

    method = make_method(functools.partial(function, 3), "m")
    assert call(method, [], {"a": 1}) == {"a": 1}
    fail(method, [], {"factor": 1})


def test_arguments_without_annotations_are_passed_as_they_are() -> None:
    def function(connection: Any, a, b: Any):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        return a, b

    given: list[Any] = [{"x": 1}, [2]]
    a, b = call(method_of(function), given)
    assert a is given[0]
    assert b is given[1]


def test_types_of_the_handlers_class_are_found() -> None:
    class Own:
        class Move(msgspec.Struct):
            x: int

        @rpc_method()
        def list(self, connection: Any, moves: list[Move]) -> Any:
            return moves

        @rpc_method()
        def other(self, connection: Any, moves: list[int]) -> Any:  # type: ignore[valid-type]
            return moves

    methods = collect(Own())
    assert call(methods["list"], [[{"x": 1}]]) == [Own.Move(1)]
    assert call(methods["other"], [[1]]) == [1]


# -- streams from the caller ----------------------------------------------------------------------


async def takes_streams(
    connection: Any,
    a: int,
    bare: AsyncIterable,  # type: ignore[type-arg]
    users: AsyncIterator[User],
    maybe: trio.abc.ReceiveChannel[int] | None = None,
    *,
    named: Annotated[AsyncGenerator[bytes, None], "documented"],
) -> None: ...


def test_parameters_that_take_streams() -> None:
    method = make_method(takes_streams)
    assert method.stream_items == {"bare": Any, "users": User, "maybe": int, "named": bytes}
    assert method.stream_params == {"bare", 1, "users", 2, "maybe", 3, "named"}
    assert make_method(two).stream_items == {}


def test_a_stream_arrives_as_null() -> None:
    method = make_method(takes_streams)
    values, named = method.bind([1, None, None], {"named": None})
    assert (list(values), named) == ([1, None, None], {"named": None})
    assert fail(method, [1, None, [1]], {"named": None}) == ("users takes a stream", "$.users")
    assert fail(method, [1, None, None], {"named": 5}) == ("named takes a stream", "$.named")
    assert fail(method, [1, None], {"named": None}) == ("takes_streams needs users", "$.users")


async def echo(connection: Any, a: int, items: AsyncIterable[int]) -> None: ...


def test_streams_on_the_fast_paths() -> None:
    method = make_method(echo)
    assert list(method.bind([1, None], {})[0]) == [1, None]
    assert list(method.bind([], {"a": 1, "items": None})[0]) == [1, None]
    assert fail(method, [1, 5]) == ("items takes a stream", "$.items")
    assert fail(method, [], {"a": 1, "items": 5}) == ("items takes a stream", "$.items")


def test_places_of_streams() -> None:
    method = make_method(takes_streams)
    assert [method.parameter_name(place) for place in ("0", "1", "named", "users")] == [
        "a",
        "bare",
        "named",
        "users",
    ]
    for place in ("4", "9" * 200, "x", "-1", "", "connection", "1.0", "²"):
        with pytest.raises(RPCInvalidParamsError):
            method.parameter_name(place)
    assert method_of(rest).parameter_name("7") == "numbers"
    with pytest.raises(RPCInvalidParamsError):
        method_of(only).parameter_name("a")


def test_streams_are_placed_however_they_were_given() -> None:
    method = make_method(echo)
    stream = object()
    for given, named, place in (
        ([1, None], {}, "1"),
        ([1, None], {}, "items"),
        ([], {"a": 1, "items": None}, "items"),
        ([], {"a": 1, "items": None}, "1"),
        ([1], {"items": None}, "items"),
        ([1], {"items": None}, "1"),
    ):
        values, kwargs = method.bind(list(given), dict(named))
        args = list(values)
        method.place_stream(args, kwargs, place, stream)
        method.check_streams(args, kwargs)
        assert [*args, *kwargs.values()] == [1, stream]


@pytest.mark.parametrize(
    ("args", "kwargs", "places", "text"),
    [
        ([1, None], {}, ["0"], "a takes no stream"),
        ([1, None], {}, ["b"], "echo has no parameter b; it takes a, items by name"),
        ([1, None], {}, ["2"], "echo takes at most 2 by position"),
        ([1, None], {}, ["1", "items"], "items takes one stream, for which null is sent"),
        ([1], {"items": None}, ["1", "items"], "items takes one stream, for which null is sent"),
        ([1], {}, ["1"], "items takes one stream, for which null is sent"),
    ],
)
def test_streams_that_cannot_be_placed(
    args: list[Any], kwargs: dict[str, Any], places: list[str], text: str
) -> None:
    method = make_method(echo)
    *before, last = places
    for place in before:
        method.place_stream(args, kwargs, place, object())
    with pytest.raises(RPCInvalidParamsError, match=f"^{text}$"):
        method.place_stream(args, kwargs, last, object())


def test_a_stream_that_is_not_given_is_missed() -> None:
    method = make_method(takes_streams)
    stream = object()
    method.check_streams([1, stream, stream, None], {"named": stream})
    method.check_streams([1, stream, stream], {"named": stream})
    method.check_streams([1, stream], {"users": stream, "named": stream})
    for args, kwargs, name in (
        ([1, None, stream], {"named": stream}, "bare"),
        ([1, stream, stream], {"named": None}, "named"),
        ([1, stream], {"users": None, "named": stream}, "users"),
    ):
        with pytest.raises(
            RPCInvalidParamsError, match=f"{name} takes a stream, and none was given"
        ) as caught:
            method.check_streams(args, kwargs)
        assert caught.value.data == {"path": f"$.{name}"}


def test_streams_where_they_cannot_be_are_refused() -> None:
    def plain(connection: Any, items: AsyncIterable[int]) -> None: ...

    async def starred(connection: Any, *items: AsyncIterable[int]) -> None: ...

    async def double_starred(connection: Any, **items: AsyncIterable[int]) -> None: ...

    with pytest.raises(TypeError, match="plain is a plain def, which cannot take the stream items"):
        make_method(plain)
    for function in (starred, double_starred):
        with pytest.raises(TypeError, match="a parameter of its own"):
            make_method(function)


def forgets(a: Any, b: Any) -> Any:
    return a + b


def takes_caller(caller: Any, b: Any) -> Any:
    return caller, b


forgets.__annotations__.clear()
takes_caller.__annotations__.clear()


FORGOTTEN = ". Its first parameter, a, gets the connection: write connection before it"


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (forgets, [1, 2], {}, f"m takes at most 1 by position, but 2 were given{FORGOTTEN}"),
        (forgets, [1, 2, 3], {}, "m takes at most 1 by position, but 3 were given"),
        (forgets, [], {"a": 1, "b": 2}, f"m has no parameter a; it takes b by name{FORGOTTEN}"),
        (forgets, [], {"c": 1, "b": 2}, "m has no parameter c; it takes b by name"),
        (takes_caller, [1, 2], {}, "m takes at most 1 by position, but 2 were given"),
        (takes_caller, [], {"caller": 1}, "m has no parameter caller; it takes b by name"),
    ],
)
def test_a_method_that_seems_to_forget_the_connection(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], text: str
) -> None:
    assert fail(method_of(function), args, kwargs)[0] == text
