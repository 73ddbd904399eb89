"""The decorator `rpc_method`, and collecting the methods of a handler.

`rpc_method` only marks a function. `collect` makes a `Method` of each marked function of a handler, when the
handler is first used.

Invariants:

- The first mark in the method resolution order decides, and None in a subclass hides a method.
- A function that is refused is a mistake in the program. The message says how to correct it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from trio_ws.errors import RPCError
from trio_ws.predicates import PredicateLike, check_predicate
from trio_ws.rpc.definitions import check_connection, forgotten_connection
from trio_ws.rpc.methods import Method, check_name, kind_of, own_name
from trio_ws.rpc.rate_limit import LIMIT_MARK, RateLimit, target_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from trio_ws._types import NamedValues
    from trio_ws.rpc._decorator_types import MethodDecorator

__all__ = ["MARK", "check_methods", "collect", "is_marked", "make_method", "rpc_method"]

MARK = "__trio_ws_rpc_method__"


@dataclass(frozen=True, slots=True)
class _Mark:
    alias_name: str | None
    requires: PredicateLike | None
    errors: tuple[type[RPCError], ...] = ()


def rpc_method(
    alias_name: str | None = None,
    requires: PredicateLike | None = None,
    errors: Sequence[type[RPCError]] = (),
) -> MethodDecorator:
    """Let clients call a method of a `WebSocketHandler`: an ``async def``, a ``def`` or an async generator.

    An ``async def`` may wait. A plain ``def`` runs in the task that reads the connection, so it must be
    quick. An async generator is a stream. Annotated parameters are validated and converted by msgspec. A
    parameter that is annotated ``AsyncIterable[T]`` or ``trio.abc.ReceiveChannel[T]`` takes a stream from the
    caller.

    If a subclass overrides the method without this decorator, the override is exposed under the same name and
    with the same ``requires``. With the decorator, only the override's own settings apply. Setting the
    attribute to None in a subclass hides the method.

    Args:
        alias_name: the name that clients call. Default: the function's name.
        requires: a predicate for the connections that may call it, evaluated for each call. Default: all may.
        errors: the classes of `RPCError` that the method raises deliberately, for its schema.

    Raises:
        TypeError: the decorated object is not a function, or cannot be a method; the message says why.
        ValueError: the name is empty, longer than 256 characters, or reserved: it begins with ``__`` or
            ``rpc.``.
    """
    if alias_name is not None and not isinstance(alias_name, str):
        if callable(alias_name):
            raise TypeError("write @rpc_method() with the parentheses")
        raise TypeError(f"alias_name is a str, not {alias_name!r}")
    if alias_name is not None:
        check_name(alias_name)
    if requires is not None:
        check_predicate(requires)
    mark = _Mark(alias_name, requires, _check_errors(errors))

    def decorate(function: Any) -> Any:
        target = target_of(function)
        if not callable(target):
            raise TypeError(f"@rpc_method() decorates functions, not {target!r}")
        if isinstance(getattr(target, MARK, None), _Mark):
            raise TypeError(
                f"@rpc_method() is applied twice to {target!r};"
                " register a second name with register_rpc_method()"
            )
        kind_of(target)
        if alias_name is None:
            check_name(own_name(target))
        setattr(target, MARK, mark)
        return function

    return decorate


def is_marked(function: object) -> bool:
    """Whether ``@rpc_method()`` was applied to this."""
    return isinstance(getattr(target_of(function), "__dict__", {}).get(MARK), _Mark)


def collect(owner: object) -> dict[str, Method]:
    """Return the methods of a handler by the names that clients call, those of base classes first.

    Raises:
        ValueError: two methods have the same name.
        TypeError: a function cannot be a method, or has a rate limit but no ``@rpc_method()``.
    """
    cls = type(owner)
    methods: dict[str, Method] = {}
    found: dict[str, str] = {}
    for attribute in dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base)):
        settings = _settings(cls, attribute)
        if settings is None:
            continue
        mark, limit, namespace = settings
        function: Any = getattr(owner, attribute)
        name = mark.alias_name or attribute
        if name in methods:
            raise ValueError(
                f"{cls.__name__}.{found[name]} and {cls.__name__}.{attribute} are both called {name!r}; "
                f"give one of them another alias_name"
            )
        methods[name] = Method(name, function, mark.requires, limit, namespace, mark.errors)
        found[name] = attribute
    return methods


def check_methods(cls: type, known: Collection[str], own: Collection[str]) -> list[str]:
    """Check the methods of a class when it is defined, before there is an instance.

    Args:
        cls: the class.
        known: the names that its hooks give to the connection.
        own: the attributes of the base class, which a method must not replace.

    Returns:
        Warnings about methods that have probably forgotten the connection.

    Raises:
        TypeError: a method does not take the connection, or replaces an attribute of the base class.
    """
    warnings = []
    for attribute, member in vars(cls).items():
        marks = getattr(target_of(member), "__dict__", {}) if inspect.isfunction(target_of(member)) else {}
        if isinstance(marks.get(MARK), _Mark) and attribute in own:
            raise TypeError(
                f"{cls.__name__}.{attribute} would replace WebSocketHandler.{attribute}; write another name,"
                f" and @rpc_method({attribute!r}) if clients should call it by this one"
            )
        if isinstance(marks.get(MARK), _Mark) and inspect.isfunction(member):
            parameters = list(inspect.signature(member).parameters.values())
            if parameters and parameters[0].kind <= Parameter.POSITIONAL_OR_KEYWORD:
                parameters = parameters[1:]
            elif not parameters:
                raise TypeError(
                    f"{cls.__name__}.{attribute} must take self and the connection; write: async def"
                    f" {attribute}(self, connection)"
                )
            where = f"{cls.__name__}.{attribute}"
            check_connection(where, member, parameters, bound=True)
            warnings.append(forgotten_connection(where, member, parameters, known))
    return [text for text in warnings if text]


def _settings(cls: type, attribute: str) -> tuple[_Mark, RateLimit | None, NamedValues] | None:
    """Return the first mark in the method resolution order, with its limit and the namespace for types.

    A rate limit applies if it comes from the same class as the mark, or from an earlier one.
    """
    limit: RateLimit | None = None
    namespace: NamedValues | None = None
    for base in cls.__mro__:
        if attribute not in vars(base):
            continue
        member = vars(base)[attribute]
        if member is None:
            break
        if namespace is None:
            namespace = vars(base)
        marks = getattr(target_of(member), "__dict__", {})
        if limit is None:
            limit = marks.get(LIMIT_MARK)
        if isinstance(mark := marks.get(MARK), _Mark):
            return mark, limit, namespace
    if limit is not None:
        raise TypeError(f"{cls.__name__}.{attribute} has @rate_limit but no @rpc_method()")
    return None


def make_method(
    function: Callable[..., object],
    alias_name: str | None = None,
    requires: PredicateLike | None = None,
    limit: RateLimit | None = None,
) -> Method:
    """Make a method from a callable that takes a connection. Its decorators provide what is None here.

    Raises:
        TypeError: the callable cannot be a method; the message says why.
        ValueError: the name is empty, too long or reserved, or there is no name.
    """
    if not callable(function):
        raise TypeError(f"a method is a function of a connection, not {function!r}")
    mark = getattr(function, MARK, None)
    errors: tuple[type[RPCError], ...] = ()
    if isinstance(mark, _Mark):
        errors = mark.errors
        alias_name = mark.alias_name if alias_name is None else alias_name
        requires = mark.requires if requires is None else requires
    marked_limit = getattr(function, LIMIT_MARK, None)
    if limit is None and isinstance(marked_limit, RateLimit):
        limit = marked_limit
    name = own_name(function) if alias_name is None else alias_name
    return Method(name, function, requires, limit, errors=errors)


def _check_errors(errors: Sequence[type[RPCError]]) -> tuple[type[RPCError], ...]:
    if not isinstance(errors, list | tuple):
        raise TypeError(f"errors is a list of classes of RPCError, not {errors!r}")
    for one in errors:
        if not (isinstance(one, type) and issubclass(one, RPCError)):
            raise TypeError(f"errors is a list of classes of RPCError, and {one!r} is none")
    return tuple(errors)
