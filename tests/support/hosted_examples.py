"""The chat of the tutorial and the calculator of the examples, which tests/interop/test_hosts.py runs."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["app"]

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), EXAMPLES / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app: Any = load("tutorial/page/chat").app
app.mount("/calculator", load("calculator").Calculator)


def mounted() -> Any:
    """Mount the application in one of FastAPI's. It has no lifespan that FastAPI would have to run."""
    from fastapi import FastAPI  # noqa: PLC0415 - for one of the hosts

    api = FastAPI()
    api.mount("/ws", app)
    return api


if os.environ.get("TRIO_WS_TEST_MOUNTED"):
    mounted_app = mounted()
