"""The expected result of each Autobahn case, and the comparison of a run with them.

A case that expectations.json does not list has to behave OK or INFORMATIONAL, and so does its closing. A
listed case has to come to exactly what is listed, so that an improvement is noticed too, and taken off the
list. A case that did not run is a difference as well: a run that stops half-way agrees with nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

Groups = Literal["quick", "all"]
Role = Literal["server", "client"]

GROUPS: tuple[Groups, ...] = get_args(Groups)
ROLES: tuple[Role, ...] = get_args(Role)

PATTERNS: dict[Groups, list[str]] = {
    "quick": [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 10)],
    "all": ["*"],
}
_GOOD = ("OK", "INFORMATIONAL")
_FILE = Path(__file__).with_name("expectations.json")


class Outcome(NamedTuple):
    """Autobahn's verdict on one case: on its messages, and on its close."""

    behavior: str
    closing: str

    def __str__(self) -> str:
        return f"{self.behavior}, closing {self.closing}"

    @property
    def good(self) -> bool:
        return self.behavior in _GOOD and self.closing in _GOOD


class Listed(msgspec.Struct, forbid_unknown_fields=True):
    """A case that cannot be OK, and why."""

    behavior: str
    closing: str
    reason: str

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.behavior, self.closing)


class Expectations(msgspec.Struct, forbid_unknown_fields=True):
    """expectations.json: the number of cases, and the cases that are not OK, by role and id."""

    cases: dict[Groups, int]
    server: dict[str, Listed]
    client: dict[str, Listed]

    def listed(self, role: Role, groups: Groups) -> dict[str, Listed]:
        """The listed cases that a run of these groups includes."""
        every = self.server if role == "server" else self.client
        return {case: entry for case, entry in every.items() if included(case, groups)}


def load() -> Expectations:
    """Read expectations.json."""
    return msgspec.json.decode(_FILE.read_bytes(), type=Expectations)


def included(case: str, groups: Groups) -> bool:
    """Whether a case such as "6.4.1" belongs to these groups."""
    return groups == "all" or f"{case.partition('.')[0]}.*" in PATTERNS[groups]


def read_outcomes(index: Path, agent: str) -> dict[str, Outcome]:
    """The outcomes in the index.json that Autobahn wrote, by case id in the order of the suite."""
    cases = json.loads(index.read_bytes())[agent]
    return {
        case: Outcome(cases[case]["behavior"], cases[case]["behaviorClose"])
        for case in sorted(cases, key=order)
    }


def order(case: str) -> tuple[int, ...]:
    """The sort key of a case id."""
    return tuple(int(part) for part in case.split("."))


def differences(outcomes: dict[str, Outcome], listed: dict[str, Listed], count: int) -> list[str]:
    """Return one line for each difference from the expected outcomes."""
    lines: list[str] = []
    if len(outcomes) != count:
        lines.append(f"{len(outcomes)} cases ran, expected {count}")
    lines += [f"{case}: did not run" for case in sorted(listed.keys() - outcomes.keys(), key=order)]
    for case, outcome in outcomes.items():
        entry = listed.get(case)
        if entry is None and not outcome.good:
            lines.append(f"{case}: {outcome}; expected OK")
        elif entry is not None and outcome != entry.outcome:
            lines.append(f"{case}: {outcome}; expected {entry.outcome} ({entry.reason})")
    return lines
