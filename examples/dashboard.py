"""A dashboard with the latest values: ``python examples/dashboard.py [port]``, then open what it prints.

Each value is a channel that keeps only its newest message. A new page receives all values at once, however
long ago they were published. A page that reconnects, or is slow, receives the newest value instead of all
others.
"""

# No "from __future__ import annotations": the annotations of methods are read while the program runs.
import random
import sys
from pathlib import Path

import trio

import trio_ws

HERE = Path(__file__)
GAUGES = {"temperature": 21.0, "humidity": 45.0, "pressure": 1013.0}


class Dashboard(trio_ws.WebSocketHandler):
    channels_history = {"gauge.*": trio_ws.History(latest=True, seconds=86_400)}
    client_globs = True

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith("gauge.")

    def may_publish(self, connection: trio_ws.ClientConnection, name: str, data: object) -> bool:
        return name in {f"gauge.{gauge}" for gauge in GAUGES} and isinstance(data, int | float)


async def measure(dashboard: Dashboard, gauge: str, value: float) -> None:
    """Publish a value from time to time, as a sensor does."""
    while True:
        dashboard.publish(f"gauge.{gauge}", round(value, 1))
        await trio.sleep(random.uniform(0.5, 2))
        value += random.gauss(0, 0.2)


def make_app(dashboard: Dashboard) -> trio_ws.App:
    app = trio_ws.App()
    app.mount("/rpc", dashboard)
    app.mount_client("/trio-ws.js")

    @app.http("/")
    def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
        body = HERE.with_suffix(".html").read_bytes()
        return trio_ws.HTTPResponse(headers={"Content-Type": "text/html; charset=utf-8"}, body=body)

    @app.http("/dashboard.js")
    def script(request: trio_ws.Request) -> trio_ws.HTTPResponse:
        body = HERE.with_suffix(".js").read_bytes()
        return trio_ws.HTTPResponse(headers={"Content-Type": "text/javascript; charset=utf-8"}, body=body)

    return app


async def main(port: int, sensors: bool = True) -> None:
    dashboard = Dashboard()
    async with (
        trio_ws.WebSocketServer(make_app(dashboard), port, host="127.0.0.1") as server,
        trio.open_nursery() as nursery,
    ):
        print(f"open {server.url.replace('ws', 'http', 1)}", flush=True)
        for gauge, value in GAUGES.items():
            if sensors:
                nursery.start_soon(measure, dashboard, gauge, value)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000, "--quiet" not in sys.argv)
    except* KeyboardInterrupt:
        print("stopped")
