"""Chromium through the CDP dialect: commands, events, several sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.chromium import devtools
from tests.support.serving import guard
from trio_ws import Options, RPCError, RPCInvalidParamsError, RPCMethodNotFoundError, WebSocketClient
from trio_ws.dialects import CDP, CDPSession

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = Options(max_message_size=16 * 1024 * 1024)
PAGE = "data:text/html,<title>{0}</title><body>{0}</body>"


async def test_commands_events_and_sessions(tmp_path: Path) -> None:
    with trio.fail_after(2 * guard()):
        async with (
            devtools(tmp_path) as url,
            WebSocketClient(url, dialect=CDP(), proxy=None, options=OPTIONS) as client,
        ):
            version = await client.call("Browser.getVersion", returns=dict[str, str])
            assert "Chrome" in version["product"]
            with pytest.raises(RPCMethodNotFoundError):
                await client.call("Nothing.atAll")
            with pytest.raises(RPCInvalidParamsError):
                await client.call("Target.attachToTarget", targetId=5)
            with pytest.raises(RPCError, match="Session"):
                await client.call("nobody/Page.enable")
            targets = [
                (await client.call("Target.createTarget", url="about:blank"))["targetId"] for _ in range(3)
            ]
            async with (
                CDPSession.attach(client, targets[0]) as one,
                CDPSession.attach(client, targets[1]) as two,
                CDPSession.attach(client, targets[2]) as three,
                trio.open_nursery() as nursery,
            ):
                for number, session in enumerate((one, two, three)):
                    nursery.start_soon(visit, session, str(number))
            for target in targets:
                await client.call("Target.closeTarget", targetId=target)


async def visit(session: CDPSession, title: str) -> None:
    """Navigate, wait for the event, and ask a hundred times."""
    await session.call("Page.enable")
    await session.call("Runtime.enable")
    async with (
        session.notifications("Page.loadEventFired", items=dict[str, float]) as loads,
        session.notifications("Runtime.consoleAPICalled") as said,
    ):
        await session.call("Page.navigate", url=PAGE.format(title))
        assert (await loads.receive())["timestamp"] > 0
        assert await evaluate(session, "document.title") == title
        for number in range(100):
            assert await evaluate(session, f"console.log({number}), {number} + 1") == number + 1
        for number in range(100):
            event = await said.receive()
            assert event["args"][0]["value"] == number
        assert said.dropped == 0


async def evaluate(session: CDPSession, expression: str) -> Any:
    answer = await session.call("Runtime.evaluate", expression=expression, returnByValue=True)
    return answer["result"]["value"]
