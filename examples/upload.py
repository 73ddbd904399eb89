"""A stream from the client: an async iterable as an argument arrives as one, with back-pressure."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator  # annotations of methods are read while the program runs

import trio

import trio_ws


class Store(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def upload(
        self, connection: trio_ws.ClientConnection, name: str, chunks: AsyncIterator[bytes]
    ) -> dict[str, object]:
        digest, size = hashlib.sha256(), 0
        async for chunk in chunks:  # each is checked to be bytes
            digest.update(chunk)
            size += len(chunk)
            if size > 1_000_000:
                raise trio_ws.RPCError(f"{name} is too big")
        return {"name": name, "bytes": size, "sha256": digest.hexdigest()[:16]}


async def file(chunks: int) -> AsyncIterator[bytes]:
    try:
        for number in range(chunks):
            yield bytes([number % 256]) * 4096
    finally:
        print("the upload has ended")


async def main() -> None:
    async with (
        trio_ws.WebSocketServer(Store, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url) as client,
    ):
        print(await client.call("upload", "small.bin", file(100)))
        try:
            await client.call("upload", "endless.bin", file(10**9))
        except trio_ws.RPCError as exc:
            print("refused:", exc)


if __name__ == "__main__":
    trio.run(main)
