"""The comparison with expectations.json: every kind of difference is reported, and nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.conformance.expectations import (
    GROUPS,
    ROLES,
    Listed,
    Outcome,
    differences,
    included,
    load,
    read_outcomes,
)

if TYPE_CHECKING:
    from pathlib import Path

GOOD = Outcome("OK", "OK")
LISTED = {"6.4.1": Listed(behavior="NON-STRICT", closing="OK", reason="because")}


def test_an_expected_result_gives_no_line() -> None:
    outcomes = {
        "1.1.1": GOOD,
        "7.1.6": Outcome("INFORMATIONAL", "INFORMATIONAL"),
        "6.4.1": Outcome("NON-STRICT", "OK"),
    }
    assert differences(outcomes, LISTED, 3) == []


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("FAILED", "OK"),
        Outcome("NON-STRICT", "OK"),
        Outcome("UNIMPLEMENTED", "OK"),
        Outcome("OK", "UNCLEAN"),
    ],
)
def test_an_unlisted_case_must_be_good_in_both_ways(outcome: Outcome) -> None:
    assert differences({"1.1.1": outcome}, {}, 1) == [f"1.1.1: {outcome}; expected OK"]


@pytest.mark.parametrize("outcome", [GOOD, Outcome("FAILED", "OK"), Outcome("NON-STRICT", "UNCLEAN")])
def test_a_listed_case_must_be_exactly_as_listed(outcome: Outcome) -> None:
    (line,) = differences({"6.4.1": outcome}, LISTED, 1)
    assert line == f"6.4.1: {outcome}; expected NON-STRICT, closing OK (because)"


def test_cases_that_did_not_run_are_differences() -> None:
    assert differences({"1.1.1": GOOD}, {}, 2) == ["1 cases ran, expected 2"]
    assert differences({"1.1.1": GOOD}, LISTED, 1) == ["6.4.1: did not run"]


def test_the_quick_groups_leave_out_the_slow_ones() -> None:
    cases = ["1.1.1", "7.13.2", "9.1.1", "10.1.1", "12.1.1", "13.7.18"]
    assert [case for case in cases if included(case, "quick")] == ["1.1.1", "7.13.2", "10.1.1"]
    assert all(included(case, "all") for case in cases)


def test_outcomes_are_read_in_the_order_of_the_suite(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    good = {"behavior": "OK", "behaviorClose": "UNCLEAN"}
    index.write_text(json.dumps({"agent": {"10.1.1": good, "2.10": good, "2.9": good}}), encoding="utf-8")
    outcomes = read_outcomes(index, "agent")
    assert list(outcomes) == ["2.9", "2.10", "10.1.1"]
    assert outcomes["2.9"] == Outcome("OK", "UNCLEAN")


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("role", ROLES)
def test_every_listed_case_has_a_reason_and_needs_to_be_listed(role: str, groups: str) -> None:
    expectations = load()
    assert expectations.cases[groups] > 0  # type: ignore[index]
    for case, entry in expectations.listed(role, groups).items():  # type: ignore[arg-type]
        assert len(entry.reason) > 10, f"{role} {case} needs a reason"
        assert not entry.outcome.good, f"{role} {case} is good and need not be listed"
