"""Coverage-guided fuzzing of everything that a peer's bytes reach (extra ``trio-ws[fuzz]``).

Ten minutes, with the corpus as a start, findings in the current folder::

    python -m tests.fuzz.fuzz_inbound -max_total_time=600 -max_len=4096 NEW_INPUTS tests/fuzz/corpus

The arguments are libFuzzer's. `targets.py` says what must hold; test_corpus.py replays the corpus in CI.
"""

# atheris has no types, and is not installed where types are checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["trio_ws", "wsproto", "h11"]):
    from tests.fuzz import targets

__all__: list[str] = []


def main() -> None:
    """Fuzz until libFuzzer has had enough."""
    atheris.Setup(sys.argv, targets.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
