"""TLS on both sides: ``python examples/tls.py``. trustme creates the certificate when it starts."""

from __future__ import annotations

import ssl

import trio
import trustme

import trio_ws


async def whoami(ws: trio_ws.WebSocket) -> None:
    await ws.send_text(f"you came over TLS to {ws.header('host')}")


async def main() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    async with trio_ws.WebSocketServer(whoami, 0, host="localhost", ssl_context=server_context) as server:
        uri = f"wss://localhost:{server.port}"
        async with trio_ws.connect(uri, ssl_context=client_context) as ws:
            print(await ws.receive_text())
        try:
            async with trio_ws.connect(uri):  # the system's certificates do not know ours
                print("this is not reached")
        except trio_ws.ConnectionFailedError as exc:
            print("refused:", exc)


if __name__ == "__main__":
    trio.run(main)
