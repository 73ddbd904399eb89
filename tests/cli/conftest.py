"""One server for all commands of a test run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.commands import serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Serve `tests.support.cli_targets.app` with the command, and yield the URL."""
    with serving_process("tests.support.cli_targets:app", "--log-level", "critical") as (_, url):
        yield url.rstrip("/")
