"""Predicates: session state, combinations, and exceptions, which count as false."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

import pytest

from trio_ws.predicates import All, Any, Has, Is, IsEqual, check, check_predicate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

State = dict[str, object]


def yes(_: object) -> bool:
    return True


def no(_: object) -> bool:
    return False


def broken(_: object) -> bool:
    raise KeyError("role")


async def waits(_: object) -> bool:
    return True


async def yields(_: object) -> AsyncIterator[bool]:
    yield True


def generates(_: object) -> Iterator[bool]:
    yield True


class Asynchronous:
    async def __call__(self, _: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("predicate", "state", "answer"),
    [
        (Has("role"), {}, False),
        (Has("role"), {"role": None}, True),
        (Is("admin"), {}, False),
        (Is("admin"), {"admin": 0}, False),
        (Is("admin"), {"admin": "yes"}, True),
        (IsEqual("region", "eu"), {}, False),
        (IsEqual("region", "eu"), {"region": "us"}, False),
        (IsEqual("region", "eu"), {"region": "eu"}, True),
        (IsEqual("region", None), {}, False),
        (IsEqual("region", None), {"region": None}, True),
        (Any(Has("a"), Has("b")), {"b": 1}, True),
        (Any(Has("a"), Has("b")), {"c": 1}, False),
        (All(Has("a"), Has("b")), {"a": 1, "b": 1}, True),
        (All(Has("a"), Has("b")), {"b": 1}, False),
    ],
)
def test_questions_about_session_state(
    predicate: Callable[[State], bool], state: State, answer: bool
) -> None:
    assert check(predicate, state) is answer


def test_any_callable_is_a_predicate_and_counts_by_its_truth() -> None:
    assert check(lambda state: state.get("roles"), {"roles": ["admin"]})
    assert not check(lambda state: state.get("roles"), {"roles": []})
    assert not check(lambda state: state.get("roles"), {})


def test_composition() -> None:
    a, b = Has("a"), Has("b")
    both: State = {"a": 1, "b": 1}
    only_a: State = {"a": 1}
    assert [check(a & b, state) for state in (both, only_a, {})] == [True, False, False]
    assert [check(a | b, state) for state in (both, only_a, {})] == [True, True, False]
    assert [check(~a, state) for state in (both, {})] == [False, True]
    assert [check(a & ~b | ~a & b, state) for state in (both, only_a, {"b": 1}, {})] == [
        False,
        True,
        True,
        False,
    ]


def test_composition_with_plain_callables_on_both_sides() -> None:
    state: State = {"a": 1}
    assert check(Has("a") & yes, state)
    assert check(yes & Has("a"), state)
    assert not check(Has("a") & no, state)
    assert not check(no & Has("a"), state)
    assert check(Has("b") | yes, state)
    assert check(yes | Has("b"), state)
    assert not check(no | Has("b"), state)


def test_predicates_are_evaluated_in_order_up_to_the_result() -> None:
    asked: list[str] = []

    def ask(name: str, answer: bool) -> Callable[[object], bool]:
        def predicate(_: object) -> bool:
            asked.append(name)
            return answer

        return predicate

    assert check(Any(ask("1", False), ask("2", True), ask("3", True)), {})
    assert not check(All(ask("4", True), ask("5", False), ask("6", True)), {})
    assert asked == ["1", "2", "4", "5"]


def test_reprs_read_as_they_were_written() -> None:
    assert repr(Has("a") & ~Is("b") | IsEqual("c", [1])) == "Any(All(Has('a'), ~Is('b')), IsEqual('c', [1]))"
    assert repr(Has("a") & yes) == "All(Has('a'), yes)"
    assert "partial object" in repr(Has("a") & functools.partial(yes))


@pytest.mark.parametrize(
    "predicate",
    [broken, Any(broken, yes), All(yes, broken), ~Any(broken), ~All(broken), Has("a") | broken],
    # A function's repr has an address, and a name must be the same in every process that runs these tests.
    ids=lambda one: getattr(one, "__name__", repr(one)),
)
def test_a_predicate_that_raises_is_false_and_is_logged(
    predicate: Callable[[object], bool], caplog: pytest.LogCaptureFixture
) -> None:
    assert check(predicate, {}) is False
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("trio_ws.predicates", logging.ERROR)
    assert "broken" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


class Unclear:
    """The result of a comparison in some array libraries."""

    def __bool__(self) -> bool:
        raise ValueError("the truth of this is ambiguous")

    def __eq__(self, other: object) -> bool:
        return self  # type: ignore[return-value]

    __hash__ = None  # type: ignore[assignment]


def test_a_result_without_truth_value_is_false(caplog: pytest.LogCaptureFixture) -> None:
    assert not check(lambda _: Unclear(), {})
    assert not check(IsEqual("a", 1), {"a": Unclear()})
    assert len(caplog.records) == 2


def test_an_async_predicate_is_false(caplog: pytest.LogCaptureFixture) -> None:
    # A warning that the coroutine was never awaited would be an error here.
    def hidden(connection: object) -> object:
        return waits(connection)

    class Waits:
        def __await__(self) -> Iterator[None]:
            return iter(())

    assert not check(hidden, {})
    assert not check(lambda _: Waits(), {})
    assert not check(~All(hidden), {})
    assert ["async" in str(record.exc_info) for record in caplog.records] == [True, True, True]


def test_a_predicate_that_returns_a_predicate_is_false(caplog: pytest.LogCaptureFixture) -> None:
    assert not check(lambda _: Is("admin"), {"admin": True})
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ("admin", "callable of a connection, not 'admin'"),
        (None, "callable of a connection"),
        (Has, r"use an instance such as Has\('key'\)"),
        (waits, "waits is not"),
        (yields, "yields is not"),
        (generates, "generates is not"),
        (functools.partial(waits), "must be a plain def"),
        (Asynchronous(), "Asynchronous"),
    ],
)
def test_invalid_predicates_are_refused_immediately(wrong: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        check_predicate(wrong)
    with pytest.raises(TypeError, match=text):
        All(yes, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=text):
        Has("a") | wrong  # type: ignore[operator]


@pytest.mark.parametrize("kind", [Any, All])
def test_composing_nothing_is_refused(kind: type[Any | All]) -> None:
    with pytest.raises(TypeError, match="at least one"):
        kind()


def test_keys_are_text() -> None:
    for kind in (Has, Is):
        with pytest.raises(TypeError, match="must be a str, not 5"):
            kind(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a str"):
        IsEqual(b"region", "eu")  # type: ignore[arg-type]


def test_the_operators_and_or_not_are_refused() -> None:
    a, b = Has("a"), Has("b")
    with pytest.raises(TypeError, match=r"&, \| and ~"):
        bool(a and b)
    with pytest.raises(TypeError, match=r"&, \| and ~"):
        bool(a or b)
    with pytest.raises(TypeError, match=r"&, \| and ~"):
        bool(not a)
