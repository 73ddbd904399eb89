"""Names of earlier versions still work, and warn with their replacement."""

from __future__ import annotations

import importlib
import sys

import pytest

import trio_ws
import trio_ws.testing
from trio_ws.protocol import masking


@pytest.mark.parametrize(
    ("name", "current"),
    [
        ("Inbox", trio_ws.Subscription),
        ("InboxStatistics", trio_ws.SubscriptionStatistics),
        ("MemoryBroker", trio_ws.testing.InMemoryBroker),
        ("MemoryHub", trio_ws.testing.InMemoryBus),
    ],
)
def test_an_earlier_name_is_the_current_one(name: str, current: object) -> None:
    with pytest.warns(DeprecationWarning, match=f"trio_ws.{name} is deprecated, use "):
        assert getattr(trio_ws, name) is current


def test_an_earlier_method_is_the_current_one() -> None:
    client = trio_ws.WebSocketClient("ws://localhost")
    with pytest.warns(DeprecationWarning, match=r"use watch_state\(\)"):
        assert type(client.state_changes()) is type(client.watch_state())


def test_close_connection_has_an_alias_without_a_warning() -> None:
    assert trio_ws.WebSocketException is trio_ws.CloseConnection


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Outbox'"):
        trio_ws.Outbox  # noqa: B018


@pytest.mark.parametrize("app", [trio_ws.App(), trio_ws.ASGIApp(trio_ws.App())], ids=["App", "ASGIApp"])
async def test_an_earlier_lifespan_is_the_current_one(app: trio_ws.App | trio_ws.ASGIApp) -> None:
    with pytest.warns(DeprecationWarning, match=r"use run_lifespan\(\)"):
        lifespan = app.live()
    async with lifespan:
        pass


def test_modules_of_the_protocol_have_an_earlier_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trio_ws.wire", "trio_ws.wire.framing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.warns(DeprecationWarning, match=r"trio_ws.wire is deprecated, use trio_ws.protocol"):
        earlier = importlib.import_module("trio_ws.wire.framing")
    assert earlier.masked_frame(0x81, b"")[0] == 0x81


def test_the_implementation_of_masking_has_an_earlier_name() -> None:
    with pytest.warns(DeprecationWarning, match=r"masking\.LANE is deprecated, use .*\.IMPLEMENTATION"):
        assert masking.LANE == masking.IMPLEMENTATION
