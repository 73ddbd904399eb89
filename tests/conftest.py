"""What holds for every test.

Warnings are errors (pyproject.toml), coroutine tests run under trio, and no test depends on the wall clock,
so hypothesis sets no deadline either.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Helpers under tests/support assert as tests do, and should explain a failure as well.
pytest.register_assert_rewrite("tests.support")

from tests.support import slow  # noqa: E402 - not before that
from tests.support.examples import how_many  # noqa: E402

# A shell starts background jobs with Ctrl+C ignored, and all child processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Remove proxies from the environment, so that processes started here do not use them.
for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]

_COVERAGE: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Keep coverage out of processes that tests start, because they start twice as fast without it.

    The processes of pytest-xdist have this hook themselves, so the one that starts them leaves it to them.
    """
    if not config.getoption("numprocesses", None):
        _COVERAGE.update(
            {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("COVERAGE_PROCESS_")}
        )


@pytest.fixture(scope="module")
def measured() -> Iterator[None]:
    """Coverage also of the processes that these tests start, of code that runs nowhere else."""
    os.environ.update(_COVERAGE)
    yield
    for name in _COVERAGE:
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Without coverage where a test does the same again and again: it makes that four times slower."""
    if not any(item.get_closest_marker(name) for name in ("repeats", "hypothesis")):
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skips of async tests say why: pytest-trio skips anew, without the reason."""
    try:
        return (yield)
    except pytest.skip.Exception as exc:
        group = exc.__context__
        while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
            group = group.exceptions[0]
        if isinstance(group, pytest.skip.Exception):
            raise group from None
        raise


@pytest.hookimpl(tryfirst=True)  # before -m selects by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow.mark(items)


_left_out: Counter[str] = Counter()


def pytest_deselected(items: list[pytest.Item]) -> None:
    _left_out.update(slow.kinds(items))


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """With pytest-xdist, each of its processes leaves out the same tests, and this one none."""
    if not _left_out:
        _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if _left_out and config.option.markexpr == "not slow":
        parts = ", ".join(f"{kind} ({count})" for kind, count in _left_out.most_common())
        terminalreporter.write_line(f"left out, because they are slow: {parts}")
        terminalreporter.write_line("make check, or make test SLOW=1, runs them too")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What all the tests have imported stays to the end, so no garbage collection need look at it."""
    gc.collect()
    gc.freeze()


_BY_THE_CLOCK = [HealthCheck.too_slow]
settings.register_profile(
    "local", deadline=None, suppress_health_check=_BY_THE_CLOCK, max_examples=how_many(100)
)
# In CI the same examples each time: a new one found at random should fail where it can be looked at.
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
