"""The fuzzer's corpus, replayed without the fuzzer. Each input reaches code that no other input reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import targets

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path.name for path in CORPUS.iterdir())


@pytest.mark.parametrize("name", INPUTS)
def test_no_input_of_the_corpus_is_a_finding(name: str) -> None:
    targets.run((CORPUS / name).read_bytes())


def test_the_corpus_is_small_and_reaches_every_target() -> None:
    inputs = [(CORPUS / name).read_bytes() for name in INPUTS]
    assert len(inputs) <= 200
    assert all(3 <= len(data) < 4096 for data in inputs)
    assert {data[0] % len(targets.TARGETS) for data in inputs} == set(range(len(targets.TARGETS)))


def test_an_input_without_a_header_is_nothing() -> None:
    targets.run(b"")
    targets.run(b"\x00\x01")
