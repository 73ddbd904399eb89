"""One connection with the default options adds at most 16 MiB to a server, whatever it sends.

memory.py has many more attacks; run it with ``--check``.
"""

from __future__ import annotations

import pytest

from tests.adversary.memory import ATTACKS, LIMIT, measure

SOME = {
    "unread answers, plain def",
    "unread errors",
    "batches that wait for their last member",
    "the same, each with 50,000 empty maps",
    "calls that run with 50,000 empty maps each",
    "uploads of items of 20,000 empty maps",
}


@pytest.mark.parametrize("name", sorted(SOME))
async def test_one_connection_adds_at_most_16_mib(name: str) -> None:
    attack = next(attack for attack in ATTACKS if attack.name == name)
    result = await measure(attack, seconds=2, all_of_it=False)
    assert result.sent > 100_000
    assert result.each <= LIMIT, result.row()
    assert result.serves
