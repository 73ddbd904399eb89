"""A user-defined dialect: Home Assistant's WebSocket API, which requires a token first."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import trio

import trio_ws
from trio_ws.dialects import Answer, Call, Dialect, Failure


class HomeAssistant(Dialect):
    name = "home-assistant"

    def read(self, message: Any) -> Call | Answer | Failure | None:
        match message:
            case {"type": "auth_ok"}:
                return Answer("1", None)  # login is the first call, and its answer has no id
            case {"type": "auth_invalid", "message": text}:
                return Failure("1", -32001, text)
            case {"type": "result", "id": number, "success": True}:
                return Answer(str(number), message.get("result"))
            case {"type": "result", "id": number, "error": {"message": text, "code": code}}:
                return Failure(str(number), -32001, text, code)
            case {"type": "event", "event": {"event_type": name, "data": data}}:
                return Call(name, [], data)
            case _:
                return None  # such as auth_required

    def call(self, call_id: str, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return (
            {"type": method, **kwargs} if method == "auth" else {"id": int(call_id), "type": method, **kwargs}
        )


async def log_in(connection: trio_ws.ClientConnection) -> None:
    await connection.call("auth", access_token=sys.argv[2])
    await connection.call("subscribe_events", event_type="state_changed")


async def main(url: str) -> None:
    client = trio_ws.WebSocketClient(url, dialect=HomeAssistant(), on_connection=log_in)
    async with client.notifications("state_changed", items=dict[str, Any]) as changes, client:
        await client.call("call_service", domain="light", service="turn_on")
        print((await changes.receive())["entity_id"])


trio.run(main, sys.argv[1])
