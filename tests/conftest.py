"""What holds for every test.

Warnings are errors (pyproject.toml), coroutine tests run under trio, and no test depends on the wall clock,
so hypothesis sets no deadline either.
"""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# Helpers under tests/kit assert as tests do, and should explain a failure as well.
pytest.register_assert_rewrite("tests.kit")

# A shell starts what it runs in the background with Ctrl+C ignored, and every process below inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The proxies of whoever runs the tests lead elsewhere; processes started here inherit that as well.
for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]

_BY_THE_CLOCK = [HealthCheck.too_slow]
settings.register_profile("local", deadline=None, suppress_health_check=_BY_THE_CLOCK)
# In CI the same examples each time: a new one found at random should fail where it can be looked at.
settings.register_profile(
    "ci", deadline=None, suppress_health_check=_BY_THE_CLOCK, derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")
