"""A typed call from a page. Run ``trio-ws serve app:app`` in this folder, then open what it prints."""

from pathlib import Path

import trio_ws

HERE = Path(__file__).parent


class Shop(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def price(self, connection: trio_ws.ClientConnection, item: str, count: int = 1) -> float:
        """What something costs."""
        return {"tea": 2.5, "cake": 4.0}[item] * count


app = trio_ws.App()
app.mount("/rpc", Shop)
app.mount_client("/trio-ws.js")


@app.http("/")
def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    body = (HERE / "page.html").read_bytes()
    return trio_ws.HTTPResponse(headers={"Content-Type": "text/html; charset=utf-8"}, body=body)


@app.http("/page.js")
def script(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    body = (HERE / "page.js").read_bytes()
    return trio_ws.HTTPResponse(headers={"Content-Type": "text/javascript; charset=utf-8"}, body=body)
