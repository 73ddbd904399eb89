"""What changes in test_chat.py when there is an App."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chat import Chat
from test_chat import Town

import trio_ws


# ---
@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    town = Town()
    app = trio_ws.App()
    app.mount("/rooms/{room}", Chat)
    async with trio_ws.WebSocketServer(app, listeners=[town.listener]):
        yield town
