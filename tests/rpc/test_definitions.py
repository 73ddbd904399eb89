"""Mistakes in the definition of a handler: the class statement raises, and shows the line to write."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine  # noqa: TC003 - annotations are read
from typing import Annotated, Any, Literal, Protocol

import msgspec
import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    HandlerWarning,
    Packet,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)


class Point(msgspec.Struct):
    x: int


async def pause() -> None:
    await trio.lowlevel.checkpoint()


def define(**members: Any) -> type[WebSocketHandler[Any]]:
    return type("Mine", (WebSocketHandler,), members)


HOOKS = [
    ("on_connect", "async def on_connect(self, connection)"),
    ("on_receive", "async def on_receive(self, connection, packet)"),
    ("on_disconnect", "async def on_disconnect(self, connection)"),
    ("may_subscribe", "def may_subscribe(self, connection, name)"),
    ("may_publish", "def may_publish(self, connection, name, data)"),
    ("may_see_presence", "def may_see_presence(self, connection, name)"),
    ("on_first_subscriber", "def on_first_subscriber(self, name)"),
    ("on_last_unsubscribed", "def on_last_unsubscribed(self, name)"),
    ("make_state", "def make_state(self, connection)"),
]
every_hook = pytest.mark.parametrize(("name", "line"), HOOKS, ids=[name for name, _ in HOOKS])


def made(line: str) -> Any:
    """The function that a line begins."""
    scope: dict[str, Any] = {}
    exec(f"{line}: pass", scope)
    return scope[line.removeprefix("async ").removeprefix("def ").partition("(")[0]]


@every_hook
def test_the_line_that_is_shown_is_right(name: str, line: str) -> None:
    assert issubclass(define(**{name: made(line)}), WebSocketHandler)
    assert issubclass(
        define(**{name: made(line.replace(")", ", more=1, *rest, **named)"))}), WebSocketHandler
    )
    assert issubclass(define(**{name: made(line.partition("(")[0] + "(*args)")}), WebSocketHandler)


@every_hook
def test_a_hook_with_too_few_or_too_many_parameters(name: str, line: str) -> None:
    start, _, parameters = line.removesuffix(")").partition("(")
    given = parameters.removeprefix("self, ")
    for takes in ("", f"{given}, more"):
        with pytest.raises(TypeError) as caught:
            define(**{name: made(f"{start}({', '.join(filter(None, ('self', takes)))})")})
        assert str(caught.value) == (
            f"Mine.{name} is called with ({given}), but takes ({takes}); write: {line}"
        )


@every_hook
def test_a_hook_that_is_async_or_not(name: str, line: str) -> None:
    if line.startswith("async"):
        wrong, problem = line.removeprefix("async "), "is not async"
    elif name.startswith("may_"):
        assert issubclass(define(**{name: made(f"async {line}")}), WebSocketHandler)
        return
    else:
        wrong, problem = f"async {line}", "is async, but is called from plain code"
    with pytest.raises(TypeError) as caught:
        define(**{name: made(wrong)})
    assert str(caught.value) == f"Mine.{name} {problem}; write: {line}"


@every_hook
def test_a_hook_with_a_yield(name: str, line: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"{line}: yield", scope)
    with pytest.raises(TypeError, match=f"Mine.{name} has a yield"):
        define(**{name: scope[name]})


def test_hooks_of_a_mixin_count_too() -> None:
    class Mixin:
        async def on_connect(self) -> None: ...

    with pytest.raises(TypeError, match=r"Mine\.on_connect is called with \(connection\), but takes \(\)"):
        type("Mine", (Mixin, WebSocketHandler), {})


def test_opaque_decorators_are_accepted() -> None:
    def opaque(function: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any) -> Any:
            return function(*args)

        return run

    class Mine(WebSocketHandler[Any]):
        @opaque
        async def on_connect(self, connection: ClientConnection[Any]) -> None: ...

        async def on_receive(self, connection: ClientConnection[Any], packet: Packet) -> None: ...

        on_disconnect = lambda self, connection: pause()  # noqa: E731

    def later(self: Any, connection: Any, packet: Any) -> Coroutine[Any, Any, None]:
        return pause()

    assert define(on_receive=later)

    class Quiet(Mine):
        may_subscribe = None  # type: ignore[assignment]

    assert issubclass(Quiet, Mine)


# -- methods ----------------------------------------------------------------------------------------


def define_method(line: str) -> None:
    """A class with one method, which this line begins."""
    function = made(line)
    define(**{function.__name__: rpc_method()(function)})


def test_a_method_without_the_connection() -> None:
    with pytest.raises(TypeError) as caught:
        define_method("async def add(self, a: int, b: int = 1)")
    assert str(caught.value) == (
        "Mine.add must take the connection as its first parameter, but that is 'a: int';"
        " write: async def add(self, connection, a: int, b: int = 1)"
    )


def test_a_plain_method_without_the_connection() -> None:
    with pytest.raises(TypeError, match=r"write: def now\(self, connection\)$"):
        define_method("def now(self)")


def test_a_method_without_self() -> None:
    with pytest.raises(
        TypeError, match=r"that is 'a: int'; write: async def add\(self, connection, a: int\)"
    ):
        define_method("async def add(connection, a: int)")
    with pytest.raises(
        TypeError, match=r"must take self and the connection; write: async def add\(self, conn"
    ):
        define_method("async def add()")


@pytest.mark.parametrize(
    "hint",
    [
        int,
        "int",
        str | None,
        list[int],
        Annotated[str, msgspec.Meta(max_length=3)],
        Literal["a"],
        Point,
        None,
    ],
    ids=str,
)
def test_types_that_are_not_a_connection(hint: Any) -> None:
    def method(self: Any, first: Any, second: int) -> None: ...

    method.__annotations__["first"] = hint
    with pytest.raises(
        TypeError, match=r"must take the connection as its first parameter, but that is .first"
    ):
        define(method=rpc_method()(method))


class Talks(Protocol):
    async def send(self, data: object) -> None: ...


@pytest.mark.parametrize(
    "hint",
    [ClientConnection, ClientConnection[int], Any, object, Talks, "OnlyForTypeCheckers", "Talks"],
    ids=str,
)
def test_types_of_the_connection_parameter(hint: Any) -> None:
    def method(self: Any, first: Any, second: int) -> None: ...

    method.__annotations__["first"] = hint
    assert define(method=rpc_method()(method))


def test_a_function_that_is_registered() -> None:
    handler = WebSocketHandler[Any]()

    async def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match=r"^add must .* write: async def add\(connection, a: int, b: int\)$"):
        handler.register_rpc_method(add)


async def test_a_method_without_annotations_works_as_before() -> None:
    async def add(self: Any, who: Any, a: Any, b: Any = 1) -> Any:
        return a + b

    add.__annotations__.clear()
    Calculator = define(add=rpc_method()(add))  # noqa: N806
    async with serving_in_memory(Calculator) as server:
        async with WebSocketClient("ws://test/", stream=await server.stream()) as client:
            assert await client.call("add", 1) == 2
            with pytest.raises(RPCError):
                await client.call("add")


def bare(names: str) -> Any:
    """Return a method with these parameters and without annotations."""
    namespace: dict[str, Any] = {}
    exec(f"def add({names}): pass", namespace)
    return rpc_method()(namespace["add"])


def test_a_method_that_has_probably_forgotten_the_connection() -> None:
    with pytest.warns(HandlerWarning) as caught:
        define(add=bare("self, a, b=1"))
    (warning,) = caught
    assert str(warning.message) == (
        "the first parameter of Mine.add, a, gets the connection; write: def add(self, connection, a, b=1);"
        " if a is the connection, annotate it: a: ClientConnection"
    )
    assert warning.filename == __file__  # the class statement's file


@pytest.mark.parametrize(
    "names",
    [
        *("self, connection, a", "self, conn, a", "self, ws, a", "self, my_client, a", "self, c, a"),
        *("self, _, a", "self, _unused, a", "self, me, text", "self, *args", "self, *args, **kwargs"),
        *("self, player: 'object', a", "self, player, a: int", "self, player, *, loud: bool = False"),
    ],
)
def test_methods_that_are_not_suspected(names: str) -> None:
    define(add=bare(names))  # a warning would be an error


def test_the_name_that_hooks_give_to_the_connection_is_not_suspected() -> None:
    async def on_connect(self: Any, player: Any) -> None: ...

    base = define(on_connect=on_connect)
    type("Derived", (base,), {"add": bare("self, player, a")})
    with pytest.warns(HandlerWarning, match=r"the first parameter of Derived\.add, a, gets"):
        type("Derived", (base,), {"add": bare("self, a, player")})
