"""The log records of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["the_line"]


def the_line(caplog: pytest.LogCaptureFixture) -> str:
    """Return the only line in the log."""
    (record,) = caplog.records
    text = record.getMessage()
    assert "\n" not in text
    assert record.exc_info is None
    return text
