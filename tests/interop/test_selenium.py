"""Selenium's module for the Chrome DevTools Protocol, with trio_ws.compat.trio_websocket as its import."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.chromium import devtools
from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "selenium.webdriver.common.bidi.cdp"


@pytest.fixture
def cdp() -> Iterator[Any]:
    """Its module, with every import of trio_websocket replaced."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    ported = source.replace("from trio_websocket import", "from trio_ws.compat.trio_websocket import")
    assert ported.count("trio_ws.compat.trio_websocket") == 2
    module = types.ModuleType(f"{NAME}_ported")
    module.__file__ = spec.origin
    sys.modules[module.__name__] = module  # its dataclasses look it up
    exec(compile(ported, spec.origin, "exec"), module.__dict__)
    found = sorted(Path(spec.origin).parents[1].joinpath("devtools").glob("v*"))
    module.import_devtools(found[-1].name[1:])
    yield module
    del sys.modules[module.__name__]


async def test_selenium_drives_chromium(cdp: Any, tmp_path: Path) -> None:
    tools = cdp.devtools
    with trio.fail_after(2 * guard()):
        async with devtools(tmp_path) as url, cdp.open_cdp(url) as connection:
            target_id = await connection.execute(tools.target.create_target("about:blank"))
            async with connection.open_session(target_id) as session, session.page_enable():
                async with session.wait_for(tools.page.LoadEventFired):
                    await session.execute(tools.page.navigate("data:text/html,<title>Hello</title>"))
                await session.execute(tools.runtime.enable())
                said = session.listen(tools.runtime.ConsoleAPICalled, buffer_size=100)
                for number in range(50):
                    expression = f"console.log({number}), document.title + {number}"
                    result, failure = await session.execute(tools.runtime.evaluate(expression))
                    assert failure is None
                    assert result.value == f"Hello{number}"
                assert [(await said.receive()).args[0].value for _ in range(50)] == list(range(50))
                with pytest.raises(cdp.BrowserError):
                    await session.execute(tools.target.close_target(tools.target.TargetID("nobody")))
            await connection.aclose()
            with pytest.raises(cdp.CdpConnectionClosed):
                await connection.execute(tools.target.get_targets())
