"""The settings of servers and of connecting are listed once and validated once."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

import trio_ws
from trio_ws._settings import settings_of
from trio_ws.client.config import ConnectSettings, connect_config
from trio_ws.server.config import ServerSettings, server_config

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("settings", "lists"), [(ServerSettings, server_config), (ConnectSettings, connect_config)]
)
def test_type_checkers_and_programs_see_the_same_settings(settings: Any, lists: Callable[..., Any]) -> None:
    assert settings.__annotations__.keys() == settings_of(lists).keys()


@pytest.mark.parametrize(
    ("function", "lists"),
    [
        (trio_ws.WebSocketServer, server_config),
        (trio_ws.serve, server_config),
        (trio_ws.App.run, server_config),
        (trio_ws.connect, connect_config),
        (trio_ws.WebSocketClient, connect_config),
    ],
)
def test_signatures_show_each_setting_with_its_default(
    function: Callable[..., Any], lists: Callable[..., Any]
) -> None:
    shown = inspect.signature(function).parameters
    for name, listed in settings_of(lists).items():
        assert shown[name].default == listed.default


@pytest.mark.parametrize("make", [trio_ws.WebSocketClient, connect_config])
def test_an_unknown_setting_of_a_connection_is_named(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"connect\(\) takes no argument 'timeout'; it takes subprotocols, "):
        make("ws://localhost", timeout=5)


@pytest.mark.parametrize("make", [trio_ws.WebSocketServer, server_config], ids=["server", "config"])
def test_an_unknown_setting_is_named(make: Callable[..., Any]) -> None:
    with pytest.raises(
        TypeError, match="a server takes no argument 'max_clients'; it takes host, ssl_context"
    ):
        make(None, 0, max_clients=5)


def test_app_run_judges_its_settings_as_every_server_does() -> None:
    with pytest.raises(TypeError, match="a server takes no argument 'max_clients'"):
        trio_ws.App().run(0, max_clients=5)  # type: ignore[call-arg]
