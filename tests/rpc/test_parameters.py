"""Parameters: which values from JSON and msgpack an annotation accepts, and the errors for others."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.errors import RPCInvalidParamsError
from trio_ws.rpc.marking import make_method

if TYPE_CHECKING:
    from trio_ws.rpc.methods import Method

T = TypeVar("T")
Age = Annotated[int, msgspec.Meta(ge=0, le=150)]


class Color(enum.Enum):
    RED = "red"


class User(msgspec.Struct):
    name: str
    age: Age
    friends: list[User] = []

    def __post_init__(self) -> None:
        if self.name == "root":
            raise ValueError("nobody is called root")
        if self.name == "bug":
            raise KeyError("a bug of the type's own")


@dataclass
class Point:
    x: int
    y: int


class Options(TypedDict, total=False):
    depth: int


class Pair(NamedTuple):
    left: int
    right: str


class Opaque:
    """A class that no decoded value is an instance of."""


def takes(annotation: Any, **settings: Any) -> Method:
    """Return a method ``takes(connection, a)`` with this annotation."""

    def method(connection: Any, a: Any) -> None: ...

    method.__annotations__["a"] = annotation
    return make_method(method, "takes", **settings)


def bound(method: Method, value: Any) -> Any:
    """Pass an argument by position and by name, and return the result, which must be equal."""
    (by_position,), none = method.bind([value], {})
    assert none == {}
    args, kwargs = method.bind([], {"a": value})
    (by_name,) = (*args, *kwargs.values())
    assert by_position == by_name
    assert type(by_position) is type(by_name)
    return by_position


MOMENT = dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

FITTING: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (int, 10**30, 10**30),
    (float, 5, 5.0),
    (str, "x", "x"),
    (bool, True, True),
    (None, None, None),
    (int | None, None, None),
    (bytes, "YWI=", b"ab"),
    (bytes, b"ab", b"ab"),
    (dt.datetime, "2024-05-06T07:08:09Z", MOMENT),
    (dt.datetime, MOMENT, MOMENT),
    (uuid.UUID, str(ID), ID),
    (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
    (Color, "red", Color.RED),
    (Literal["a", 1], 1, 1),
    (User, {"name": "ann", "age": 3}, User("ann", 3)),
    (Point, {"x": 1, "y": 2}, Point(1, 2)),
    (Options, {"depth": 1}, {"depth": 1}),
    (Pair, [1, "x"], Pair(1, "x")),
    (tuple[int, str], [1, "x"], (1, "x")),
    (set[int], [1, 2], {1, 2}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (list[User], [{"name": "ann", "age": 3}], [User("ann", 3)]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[int, str], {"1": "a"}, {1: "a"}),
    (dict[int, str], {1: "a"}, {1: "a"}),
    (Age, 150, 150),
    ("Age", 150, 150),
    ("list[User] | None", None, None),
    (list["Point"], [{"x": 1, "y": 2}], [Point(1, 2)]),
    (Any, [1, {"a": None}], [1, {"a": None}]),
    (object, "x", "x"),
    (T, "x", "x"),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), FITTING, ids=repr)
def test_valid_arguments_are_converted(annotation: Any, value: Any, expected: Any) -> None:
    converted = bound(takes(annotation), value)
    assert converted == expected
    assert type(converted) is type(expected)


UNFIT: list[tuple[Any, Any, str, str]] = [
    (int, "5", "a: Expected `int`, got `str`", "$.a"),
    (int, 5.5, "a: Expected `int`, got `float`", "$.a"),
    (int, True, "a: Expected `int`, got `bool`", "$.a"),
    (int, None, "a: Expected `int`, got `null`", "$.a"),
    (float, 10**400, "a: Number out of range", "$.a"),
    (bytes, "?", "a: Invalid base64 encoded string", "$.a"),
    (uuid.UUID, "x", "a: Invalid UUID", "$.a"),
    (decimal.Decimal, "x", "a: Invalid decimal string", "$.a"),
    (Age, 151, "a: Expected `int` <= 150", "$.a"),
    (Color, "blue", "a: Invalid enum value 'blue'", "$.a"),
    (User, {"name": "ann"}, "a: Object missing required field `age`", "$.a"),
    (User, {"name": "ann", "age": "x"}, "a.age: Expected `int`, got `str`", "$.a.age"),
    (
        User,
        {"name": "ann", "age": 1, "friends": [{"name": "bob", "age": -1}]},
        "a.friends[0].age: Expected `int` >= 0",
        "$.a.friends[0].age",
    ),
    (User, {"name": "root", "age": 1}, "a: nobody is called root", "$.a"),
    (tuple[int, int], [1], "a: Expected `array` of length 2, got 1", "$.a"),
    (list[int], [1, "x"], "a[1]: Expected `int`, got `str`", "$.a[1]"),
    (dict[str, int], {"k": "x"}, "a[...]: Expected `int`, got `str`", "$.a[...]"),
    (dict[int, str], {"k": "x"}, "a: a key: Expected `int`, got `str`", "$.a"),
    (dict[str, dict[int, str]], {"k": {"x": "y"}}, "a[...]: a key: Expected `int`, got `str`", "$.a[...]"),
    (set, [[1]], "a: unhashable type: 'list'", "$.a"),
]


@pytest.mark.parametrize(("annotation", "value", "text", "path"), UNFIT, ids=repr)
def test_invalid_arguments_are_named(annotation: Any, value: Any, text: str, path: str) -> None:
    method = takes(annotation)
    for args, kwargs in (([value], {}), ([], {"a": value})):
        with pytest.raises(RPCInvalidParamsError) as caught:
            method.bind(args, kwargs)
        if annotation is set and str(caught.value) == "a[0]: Expected a hashable value, got `list`":
            continue  # since msgspec 0.23
        # Python 3.14 and later add text around it.
        assert str(caught.value) == text or (
            annotation is set and text.removeprefix("a: ") in str(caught.value)
        )
        assert caught.value.data == {"path": path}


def test_deep_nesting_is_a_bad_parameter() -> None:
    deep: Any = {"name": "ann", "age": 1}
    for _ in range(100_000):
        deep = {"name": "ann", "age": 1, "friends": [deep]}
    with pytest.raises(RPCInvalidParamsError, match=r"^a: nested too deeply$") as caught:
        takes(User).bind([deep], {})
    assert caught.value.data == {"path": "$.a"}
    while deep.get("friends"):  # to be freed without recursion, on interpreters that would recurse
        deep = deep["friends"].pop()


def test_long_values_are_not_quoted_in_full() -> None:
    with pytest.raises(RPCInvalidParamsError) as caught:
        takes(Color).bind(["x" * 10_000], {})
    assert len(str(caught.value)) < 300


def test_invalid_unicode_can_be_sent_back() -> None:
    with pytest.raises(RPCInvalidParamsError) as caught:
        takes(Color).bind(["\ud800"], {})
    assert str(caught.value).encode()


def test_a_bug_of_a_type_is_not_reported_as_an_invalid_parameter() -> None:
    with pytest.raises(KeyError, match="a bug"):
        takes(User).bind([{"name": "bug", "age": 1}], {})


MISSING: Any = "Missing"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ALL_TYPES = [takes(annotation) for annotation, _, _ in FITTING]


@given(st.sampled_from(ALL_TYPES), st.lists(JSON, max_size=2), st.dictionaries(st.sampled_from("ab"), JSON))
def test_nothing_that_is_sent_raises_anything_else(
    method: Method, args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        values, named = method.bind(args, kwargs)
    except RPCInvalidParamsError as exc:
        assert str(exc).encode()
        assert exc.data["path"].startswith("$")
    else:
        method.function(None, *values, **named)


# -- annotations that are refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Opaque, "nothing from the wire is a Opaque"),
        (list[Opaque], "nothing from the wire is a Opaque"),
        (Opaque | None, "nothing from the wire is a Opaque"),
        (dict[str, tuple[int, Opaque]], "nothing from the wire is a Opaque"),
        (int | Opaque, "custom type"),
        (Callable[[int], int], "nothing from the wire is a Callable"),
        (Iterable[int], "nothing from the wire is a Iterable"),
        (User | Pair | Point, "cannot be validated"),
        (5, "cannot be validated: Type '5' is not supported"),
        ("Missing", "cannot be resolved: name 'Missing' is not defined"),
        ("list[", "cannot be resolved"),
        (list[MISSING], "cannot be resolved"),
        (AsyncIterator[Opaque], "nothing from the wire is a Opaque"),
        (AsyncIterator[int] | int, "a stream may be this or None"),
    ],
    ids=repr,
)
def test_annotations_that_nothing_can_meet_are_refused(annotation: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text) as caught:
        takes(annotation)
    assert str(caught.value).startswith("takes: parameter a: ")


def test_an_unresolved_name_says_where_it_has_to_be() -> None:
    with pytest.raises(TypeError, match="import it in the module itself, neither inside a function nor only"):
        takes("Missing")


def test_many_starred_arguments_are_converted_at_once() -> None:
    """Validated one by one, as many arguments as fit into a message would take a second."""

    class Sums:
        async def add(self, connection: object, *numbers: int, **more: int) -> None: ...

    method = make_method(Sums().add)
    numbers: list[Any] = [1] * 300_000
    conversions = 0

    def count(frame: object, event: str, function: object) -> None:
        nonlocal conversions
        conversions += event == "call"

    sys.setprofile(count)
    try:
        args, _ = method.bind(numbers, {"a": 1})
    finally:
        sys.setprofile(None)
    assert list(args) == numbers
    assert conversions < 100
    numbers[-1] = "x"
    with pytest.raises(RPCInvalidParamsError, match=r"^numbers\[299999\]: Expected `int`, got `str`"):
        method.bind(numbers, {})
    with pytest.raises(RPCInvalidParamsError, match=r"^b: Expected `int`, got `str`"):
        method.bind([], {"a": 1, "b": "x", "c": 2})
