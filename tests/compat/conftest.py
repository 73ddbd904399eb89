"""A time limit for each test of this folder."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.serving import guard


def in_time(test: Any) -> Any:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        with trio.fail_after(guard()):
            await test(*args, **kwargs)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or Path(__file__).parent not in item.path.parents:
            continue
        if inspect.iscoroutinefunction(item.obj):
            item.obj = in_time(item.obj)
