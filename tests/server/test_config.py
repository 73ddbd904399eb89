"""The settings of servers are listed once and judged once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import trio_ws
from trio_ws.server.config import ServerSettings, server_config

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = {
    name for name, one in inspect.signature(server_config).parameters.items() if one.kind is one.KEYWORD_ONLY
}


def test_type_checkers_and_programs_see_the_same_settings() -> None:
    assert set(ServerSettings.__annotations__) == SETTINGS


@pytest.mark.parametrize("function", [trio_ws.WebSocketServer, trio_ws.serve, trio_ws.App.run])
def test_signatures_show_each_setting_with_its_default(function: Callable[..., Any]) -> None:
    shown = inspect.signature(function).parameters
    listed = inspect.signature(server_config).parameters
    for name in SETTINGS:
        assert shown[name].default == listed[name].default


@pytest.mark.parametrize("make", [trio_ws.WebSocketServer, server_config], ids=["server", "config"])
def test_an_unknown_setting_is_named(make: Callable[..., Any]) -> None:
    with pytest.raises(
        TypeError, match="a server takes no argument 'max_clients'; it takes host, ssl_context"
    ):
        make(None, 0, max_clients=5)


def test_app_run_judges_its_settings_as_every_server_does() -> None:
    with pytest.raises(TypeError, match="a server takes no argument 'max_clients'"):
        trio_ws.App().run(0, max_clients=5)  # type: ignore[call-arg]
