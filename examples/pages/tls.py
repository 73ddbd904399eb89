"""The code of docs/how-to/tls.md, run in a folder with certificates."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path

import trio
import trustme

import trio_ws


async def hear(ws: trio_ws.WebSocket) -> None:
    print("got", await ws.receive_text())


async def serve() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("certificate.pem", "key.pem")
    async with trio_ws.WebSocketServer(hear, 0, ssl_context=context) as server:
        print(server.url)
        await reach(server.port)


async def reach(port: int) -> None:
    context = ssl.create_default_context(cafile="certificate.pem")
    async with trio_ws.connect(f"wss://localhost:{port}", ssl_context=context) as ws:
        await ws.send("hello")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path("key.pem")
        # The certificate of the authority follows, so that both sides can use the same file.
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        Path("certificate.pem").write_bytes(chain + authority.cert_pem.bytes())
        trio.run(serve)
        os.chdir("/")


if __name__ == "__main__":
    main()
