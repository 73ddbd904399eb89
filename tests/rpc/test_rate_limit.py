"""Rate limits: an exact sliding window, bounded records, and settings that are refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.rpc.rate_limit import LIMIT_MARK, Limiter, RateLimit, rate_limit


def allowed(limiter: Limiter, limit: RateLimit, now: float, name: str | None = "add", who: Any = "c") -> bool:
    return limiter.check(limit, name, who, now) is None


def test_a_burst_of_the_limit_and_no_more() -> None:
    limiter, limit = Limiter(), RateLimit(3, 60)
    assert [limiter.check(limit, "add", "c", 100.0) for _ in range(5)] == [None, None, None, 60.0, 60.0]


def test_no_burst_of_twice_the_limit_across_an_edge() -> None:
    limiter, limit = Limiter(), RateLimit(5, 60)
    assert sum(allowed(limiter, limit, 59.0) for _ in range(10)) == 5
    assert sum(allowed(limiter, limit, 61.0) for _ in range(10)) == 0
    assert sum(allowed(limiter, limit, 118.9) for _ in range(10)) == 0
    assert sum(allowed(limiter, limit, 119.0) for _ in range(10)) == 5


def test_calls_come_back_one_by_one_as_they_were_made() -> None:
    limiter, limit = Limiter(), RateLimit(2, 10)
    assert allowed(limiter, limit, 0)
    assert allowed(limiter, limit, 4)
    assert limiter.check(limit, "add", "c", 5) == 5
    assert allowed(limiter, limit, 10)
    assert limiter.check(limit, "add", "c", 10) == 4


def test_refused_calls_count_for_nothing() -> None:
    limiter, limit = Limiter(), RateLimit(1, 10)
    assert allowed(limiter, limit, 0)
    assert not any(allowed(limiter, limit, now) for now in range(1, 10))
    assert allowed(limiter, limit, 10)


def test_clients_and_names_are_apart() -> None:
    limiter, limit = Limiter(), RateLimit(1, 10)
    for who in ("c1", "c2"):
        for name in ("add", "plus", None):
            assert allowed(limiter, limit, 0, name, who)
            assert not allowed(limiter, limit, 0, name, who)


def test_a_smaller_limit_holds_at_once() -> None:
    limiter = Limiter()
    for now in range(4):
        assert allowed(limiter, RateLimit(4, 10), now)
    assert limiter.check(RateLimit(2, 10), "add", "c", 4) == 8


# -- exactness ----------------------------------------------------------------------------------

# Multiples of 1/64: sums and differences of these are exact, so that "just before" can be told apart.
moments = st.integers(0, 64 * 20).map(lambda count: count / 64)


@given(st.lists(moments, max_size=80).map(sorted), st.integers(1, 4), st.integers(1, 64 * 8))
def test_never_more_than_the_limit_in_any_window(times: list[float], count: int, period: int) -> None:
    limiter, limit = Limiter(), RateLimit(count, period / 64)
    taken: list[float] = []
    for now in times:
        # The result of a limiter that stores all calls.
        recent = [one for one in taken if one > now - limit.period]
        retry_after = limiter.check(limit, "add", "c", now)
        assert (retry_after is None) == (len(recent) < count)
        if retry_after is None:
            taken.append(now)
            continue
        assert retry_after == recent[-count] + limit.period - now > 0
    for first, beyond in zip(taken, taken[count:], strict=False):
        assert beyond - first >= limit.period


@given(st.lists(moments, min_size=1, max_size=40).map(sorted), st.integers(1, 4), st.integers(1, 64 * 8))
def test_retry_after_is_exact(times: list[float], count: int, period: int) -> None:
    limiter, limit = Limiter(), RateLimit(count, period / 64)
    for now in times:
        retry_after = limiter.check(limit, "add", "c", now)
        if retry_after is not None:
            assert not allowed(limiter, limit, now + retry_after - 1 / 128)
            assert allowed(limiter, limit, now + retry_after)
            return


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(sorted),
    st.integers(1, 3),
    st.floats(1e-3, 1e5),
)
def test_rounding_never_makes_retry_after_too_short(times: list[float], count: int, period: float) -> None:
    limiter, limit = Limiter(), RateLimit(count, period)
    taken: list[float] = []
    now = 0.0
    for then in times:
        now = max(now, then)
        retry_after = limiter.check(limit, "add", "c", now)
        if retry_after is not None:
            now += retry_after
            assert allowed(limiter, limit, now)
        taken.append(now)
    for first, beyond in zip(taken, taken[count:], strict=False):
        # Compared without rounding: times of calls can differ by one ulp.
        assert Fraction(beyond) - Fraction(first) >= Fraction(period) - Fraction(math.ulp(beyond))


def test_a_difference_that_is_rounded_down_is_rounded_up() -> None:
    limiter, limit = Limiter(), RateLimit(1, 0.7)
    assert allowed(limiter, limit, 0.11)
    due, now = 0.11 + 0.7, 0.18
    assert now + (due - now) < due
    retry_after = limiter.check(limit, "add", "c", now)
    assert retry_after is not None
    assert due <= now + retry_after <= math.nextafter(due, math.inf)


# -- records ------------------------------------------------------------------------------------


def test_forgetting_a_client_drops_its_records_only() -> None:
    limiter, limit = Limiter(), RateLimit(1, 10)
    assert allowed(limiter, limit, 0, who="c1")
    assert allowed(limiter, limit, 0, who="c2")
    limiter.forget("c1")
    limiter.forget("nobody")
    assert len(limiter) == 1
    assert allowed(limiter, limit, 0, who="c1")
    assert not allowed(limiter, limit, 0, who="c2")


def test_reconnecting_does_not_refill_what_is_keyed() -> None:
    limiter, limit = Limiter(), RateLimit(1, 10, key=lambda connection: connection.username)
    assert allowed(limiter, limit, 0, who="alice")
    limiter.forget("connection-1")
    limiter.forget("alice")  # a connection whose id happens to be that
    assert not allowed(limiter, limit, 0, who="alice")


def test_a_key_and_a_connection_of_the_same_name_are_apart() -> None:
    limiter = Limiter()
    assert allowed(limiter, RateLimit(1, 10, key=repr), 0, who="x")
    assert allowed(limiter, RateLimit(1, 10), 0, who="x")


def test_records_of_one_client_are_bounded_by_the_limit() -> None:
    limiter, limit = Limiter(), RateLimit(3, 10)
    for now in range(1000):
        limiter.check(limit, "add", "c", now / 7)
    (client,) = limiter._clients.values()
    assert {name: len(times) for name, times in client.calls.items()} == {"add": 3}


def test_expired_clients_are_forgotten() -> None:
    limiter, limit = Limiter(), RateLimit(2, 10)
    for number in range(100):
        assert allowed(limiter, limit, 0, who=f"old-{number}")
    for number in range(60):
        assert allowed(limiter, limit, 10, who=f"new-{number}")
    assert len(limiter) == 60


def test_the_stalest_client_makes_room() -> None:
    limiter, limit = Limiter(max_clients=2), RateLimit(1, 10)
    assert allowed(limiter, limit, 0, who="a")
    assert allowed(limiter, limit, 1, who="b")
    assert not allowed(limiter, limit, 2, who="a")  # seen last now
    assert allowed(limiter, limit, 3, who="c")
    assert len(limiter) == 2
    assert not allowed(limiter, limit, 4, who="a")
    assert allowed(limiter, limit, 4, who="b")


def test_a_limiter_of_no_client_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Limiter(max_clients=0)


# -- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "seconds"),
    [
        ("500ms", 0.5),
        ("10s", 10),
        ("1m", 60),
        ("2h", 7200),
        ("1d", 86400),
        ("1.5 s", 1.5),
        (7, 7),
        (0.25, 0.25),
    ],
)
def test_periods(period: str | float, seconds: float) -> None:
    @rate_limit(5, period)
    def method() -> None: ...

    assert getattr(method, LIMIT_MARK) == RateLimit(5, seconds)


def by_name(connection: Any) -> str:
    return str(connection.username)


async def slowly(connection: Any) -> str:
    return str(connection.username)


def test_every_setting_is_kept() -> None:
    @rate_limit(limit=5, period="1m", disconnect_on_limit_exceeded=True, key=by_name)
    def method() -> None: ...

    assert getattr(method, LIMIT_MARK) == RateLimit(5, 60.0, disconnect=True, key=by_name)


@dataclass
class Case:
    """Invalid settings, and the expected text of the error."""

    limit: Any
    period: Any
    text: str
    key: Any = None


@pytest.mark.parametrize(
    "case",
    [
        Case(0, "1m", "at least 1, not 0"),
        Case(-1, "1m", "at least 1"),
        Case(True, "1m", "whole number"),
        Case(1.5, "1m", "whole number"),
        Case("5", "1m", "whole number"),
        Case(len, "1m", "whole number"),
        Case(5, "1 minute", "units ms, s, m, h, d, such as '10s', not '1 minute'"),
        Case(5, "", "units"),
        Case(5, "-1s", "units"),
        Case(5, "1e3s", "units"),
        Case(5, "٣s", "units"),
        Case(5, "60", "units"),
        Case(5, None, "units"),
        Case(5, True, "units"),
        Case(5, 0, "positive"),
        Case(5, "0s", "positive"),
        Case(5, -1, "positive"),
        Case(5, math.inf, "positive"),
        Case(5, math.nan, "positive"),
        Case(5, 1, "plain function", key="username"),
        Case(5, 1, "plain function", key=slowly),
    ],
    # Without the addresses of functions: a name must be the same in every process that runs these tests.
    ids=lambda case: re.sub(" at 0x[0-9a-f]+", "", repr(case)),
)
def test_bad_settings_are_refused_with_the_fix(case: Case) -> None:
    with pytest.raises(ValueError, match=case.text):
        rate_limit(case.limit, case.period, key=case.key)
