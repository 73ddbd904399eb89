"""Methods: which functions can be called, under which names, and how arguments meet parameters."""

from __future__ import annotations

import functools

# Annotations are resolved while the program runs.
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator  # noqa: TC003
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.support.binding import call, fail
from trio_ws.predicates import Has, Is
from trio_ws.rpc.marking import collect, make_method, rpc_method
from trio_ws.rpc.methods import ASYNC, PLAIN, STREAM
from trio_ws.rpc.rate_limit import RateLimit, rate_limit

if TYPE_CHECKING:
    # Only checkers of types can find this: nothing here may need it at run time.
    from trio_ws.rpc.client_connection import ClientConnection


class Handler:
    """One of each kind."""

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @rpc_method(alias_name="multiply", requires=Is("admin"))
    def mul(self, connection: ClientConnection, a: int, b: int = 2) -> int:
        return a * b

    @rate_limit(5, "1m")
    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @rpc_method()
    @rate_limit(6, "1m")
    async def upload(self, connection: ClientConnection, name: str, chunks: AsyncIterable[bytes]) -> None: ...

    async def hidden(self, connection: ClientConnection) -> None: ...


# -- which are exposed ----------------------------------------------------------------------------


def test_collect_finds_what_is_marked_and_nothing_else() -> None:
    methods = collect(Handler())
    assert list(methods) == ["add", "multiply", "count", "upload"]
    assert {name: method.kind for name, method in methods.items()} == {
        "add": ASYNC,
        "multiply": PLAIN,
        "count": STREAM,
        "upload": ASYNC,
    }
    assert repr(methods["multiply"].requires) == "Is('admin')"
    assert methods["add"].requires is None
    assert methods["add"].limit is None
    # The decorator of the rate limit may be above or below.
    assert methods["count"].limit == RateLimit(5, 60.0)
    assert methods["upload"].limit == RateLimit(6, 60.0)


def test_methods_are_bound_to_the_instance() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.start = start

        @rpc_method()
        def value(self, connection: Any) -> int:
            return self.start

    assert call(collect(Counter(3))["value"], []) == 3
    assert call(collect(Counter(4))["value"], []) == 4


def test_the_decorators_return_the_function() -> None:
    def function(self: Any, connection: Any) -> None: ...

    assert rpc_method()(function) is function  # type: ignore[comparison-overlap]
    assert rate_limit(1, 1)(function) is function


def test_static_and_class_methods() -> None:
    class Odd:
        start = 7

        @rpc_method()
        @staticmethod
        def below(connection: Any, a: int) -> int:
            return a

        @staticmethod
        @rpc_method()
        def above(connection: Any, a: int) -> int:
            return a + 1

        @classmethod
        @rpc_method()
        def value(cls, connection: Any) -> int:
            return cls.start

    methods = collect(Odd())
    assert [call(methods["below"], [1]), call(methods["above"], [1]), call(methods["value"], [])] == [1, 2, 7]


def test_an_override_without_decorator_stays_exposed_as_it_was() -> None:
    class Child(Handler):
        def mul(self, connection: Any, a: int, b: int = 3) -> int:  # type: ignore[override]
            return a * b * 100

        @rate_limit(1, "1s")
        async def count(self, connection: Any, n: int) -> AsyncIterator[int]:  # type: ignore[override]
            yield 1

    methods = collect(Child())
    assert call(methods["multiply"], [1]) == 300
    assert repr(methods["multiply"].requires) == "Is('admin')"
    assert methods["count"].limit == RateLimit(1, 1.0)


def test_an_override_with_decorator_has_its_own_settings_alone() -> None:
    class Child(Handler):
        @rpc_method("times")
        def mul(self, connection: Any, a: int, b: int = 3) -> int:
            return a * b

        @rpc_method()
        async def count(self, connection: Any, n: int) -> AsyncIterator[int]:
            yield 1

    methods = collect(Child())
    assert list(methods) == ["add", "times", "count", "upload"]
    assert methods["times"].requires is None
    assert methods["count"].limit is None


def test_none_hides_a_method() -> None:
    class Child(Handler):
        add = None  # type: ignore[assignment]

    class Grandchild(Child):
        async def add(self, connection: Any, a: int, b: int) -> int:  # type: ignore[override]
            return 0

    assert "add" not in collect(Child())
    assert "add" not in collect(Grandchild())


def test_an_override_that_cannot_be_called_is_refused() -> None:
    class Child(Handler):
        add = 5  # type: ignore[assignment]

    with pytest.raises(TypeError, match="add is exposed to clients, but 5 cannot be called"):
        collect(Child())


def test_two_methods_of_one_name_are_refused() -> None:
    class Child(Handler):
        @rpc_method("add")
        def plus(self, connection: Any) -> None: ...

    with pytest.raises(ValueError, match=r"Child\.add and Child\.plus are both called 'add'"):
        collect(Child())


def test_a_rate_limit_alone_is_refused() -> None:
    class Forgotten:
        @rate_limit(1, 1)
        def add(self, connection: Any) -> None: ...

    with pytest.raises(TypeError, match=r"Forgotten\.add has @rate_limit but no @rpc_method\(\)"):
        collect(Forgotten())


# -- errors of the decorator ----------------------------------------------------------------------


def test_the_parentheses_are_needed() -> None:
    with pytest.raises(TypeError, match=r"write @rpc_method\(\)"):

        @rpc_method  # type: ignore[arg-type]
        def add(self: Any, connection: Any) -> None: ...


@pytest.mark.parametrize("name", ["__abort__", "__x", "rpc.cancel", "rpc.item", "rpc.data", "", "x" * 257])
def test_reserved_and_impossible_names_are_refused(name: str) -> None:
    def function(connection: Any) -> None: ...

    with pytest.raises(ValueError, match="name"):
        rpc_method(name)
    with pytest.raises(ValueError, match="name"):
        make_method(function, name)


def test_a_name_is_text() -> None:
    with pytest.raises(TypeError, match="is a str, not 5"):
        rpc_method(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is a str, not 5"):
        make_method(print, 5)  # type: ignore[arg-type]


def test_a_special_method_is_not_exposed_by_accident() -> None:
    with pytest.raises(ValueError, match="reserved"):

        @rpc_method()
        def __init__(self: Any, connection: Any) -> None: ...  # noqa: N807


def test_an_async_predicate_is_refused_at_once() -> None:
    async def may(connection: Any) -> bool:
        return True

    with pytest.raises(TypeError, match="plain def"):
        rpc_method(requires=may)
    with pytest.raises(TypeError, match="plain def"):
        make_method(lambda connection: None, "x", may)


def generate(connection: Any) -> Iterator[int]:
    yield 1


def test_a_plain_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="generate is a plain generator; make it async def"):
        rpc_method()(generate)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="make it async def"):
        make_method(generate)


def test_marking_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="twice"):
        rpc_method("b")(rpc_method("a")(lambda self, connection: None))  # type: ignore[arg-type]


def test_decorating_an_object_that_is_not_a_function_is_refused() -> None:
    with pytest.raises(TypeError, match="decorates functions, not 5"):
        rpc_method()(5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="decorates functions"):
        rpc_method()(property(lambda self: None))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda *, connection: None,
        lambda **kwargs: None,
    ],
)
def test_a_method_takes_the_connection_first(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="x must take the connection as its first parameter"):
        make_method(function, "x")


def test_a_method_without_self_or_connection_is_refused() -> None:
    class Wrong:
        @rpc_method()  # type: ignore[arg-type]
        def add() -> None: ...

    with pytest.raises(TypeError, match="add"):
        collect(Wrong())


# -- make_method ----------------------------------------------------------------------------------


def double(connection: Any, a: int) -> int:
    """Twice as much."""
    return 2 * a


class Callee:
    """Called itself."""

    async def __call__(self, connection: Any, a: int) -> int:
        return a


def test_a_function_at_run_time() -> None:
    method = make_method(double)
    assert (method.name, method.kind, method.requires, method.limit) == ("double", PLAIN, None, None)
    assert call(method, [4]) == 8
    requires, limit = Has("a"), RateLimit(1, 1)
    method = make_method(double, "twice", requires, limit)
    assert (method.name, method.requires, method.limit) == ("twice", requires, limit)


def test_settings_of_decorators_hold_unless_others_are_given() -> None:
    requires = Is("admin")

    @rate_limit(3, 1)
    @rpc_method("named", requires=requires)  # type: ignore[arg-type]
    def function(connection: Any) -> None: ...

    method = make_method(function)
    assert (method.name, method.requires, method.limit) == ("named", requires, RateLimit(3, 1))
    other = Has("a")
    method = make_method(function, "other", other, RateLimit(4, 1))
    assert (method.name, method.requires, method.limit) == ("other", other, RateLimit(4, 1))


def test_callables_of_other_kinds() -> None:
    partial = functools.partial(lambda factor, connection, a: factor * a, 3)
    assert call(make_method(partial, "triple"), [5]) == 15
    callee = make_method(Callee(), "callee")
    assert callee.kind == ASYNC
    assert fail(callee, ["x"]) == ("a: Expected `int`, got `str`", "$.a")
    assert make_method(functools.partial(Callee(), a=3), "callee").kind == ASYNC


@pytest.mark.parametrize("function", [lambda connection: None, functools.partial(double), Callee()])
def test_functions_without_a_name_need_one(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="give an alias_name"):
        make_method(function)


def test_functions_that_cannot_be_methods_are_refused() -> None:
    with pytest.raises(TypeError, match="a method is a function of a connection, not 5"):
        make_method(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be found out"):
        make_method(iter)


def through(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator, as many write it."""

    @functools.wraps(function)
    def wrapper(self: Any, connection: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, connection, *args, **kwargs)

    return wrapper


def test_decorators_in_between_are_looked_through() -> None:
    class Decorated:
        @through
        @rpc_method()
        async def above(self, connection: Any, a: int) -> int:
            return a

        @rpc_method()
        @through
        async def below(self, connection: Any, a: int) -> AsyncIterator[int]:
            yield a

        @rpc_method()
        @through
        def open(self, connection: Any, **options: int) -> dict[str, int]:
            return options

    methods = collect(Decorated())
    assert methods["above"].kind == ASYNC
    assert methods["below"].kind == STREAM
    assert fail(methods["above"], ["x"])[1] == "$.a"
    assert call(methods["open"], [], {"a": 1}) == {"a": 1}
    for name in ("self", "connection"):
        assert "no parameter" in fail(methods["open"], [], {name: 1})[0]


# -- describing -----------------------------------------------------------------------------------


def test_a_method_describes_itself_in_plain_data() -> None:
    methods = collect(Handler())
    assert methods["add"].describe() == {
        "name": "add",
        "kind": "async",
        "parameters": [
            {"name": "a", "type": "int", "required": True},
            {"name": "b", "type": "int", "required": True},
        ],
        "returns": "int",
        "doc": "Add two numbers.",
    }
    assert methods["multiply"].describe()["parameters"][1] == {
        "name": "b",
        "type": "int",
        "required": False,
        "default": 2,
    }
    assert methods["upload"].describe()["parameters"][1] == {
        "name": "chunks",
        "type": "AsyncIterable[bytes]",
        "required": True,
        "stream": True,
    }
    assert make_method(functools.partial(double), "x").describe()["doc"] == "Twice as much."


def test_descriptions_can_be_sent_whatever_the_defaults_are() -> None:
    def function(
        connection: Any, /, a: Any = object, *b: int, c: tuple[int, ...] = (1,), **d: Any
    ) -> None: ...

    described = make_method(function).describe()
    assert msgspec.json.decode(msgspec.json.encode(described)) == described
    assert [one.get("kind") for one in described["parameters"]] == [
        None,
        "variadic positional",
        "keyword-only",
        "variadic keyword",
    ]
    assert [one["required"] for one in described["parameters"]] == [False] * 4
    assert described["parameters"][2]["default"] == "(1,)"


def test_reprs() -> None:
    assert repr(make_method(double)) == "<Method double plain>"
