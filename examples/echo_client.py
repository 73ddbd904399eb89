"""Send words and print the answers: ``python examples/echo_client.py ws://localhost:8000 hi there``."""

from __future__ import annotations

import sys

import trio

import trio_ws


async def main(uri: str, words: list[str]) -> None:
    async with trio_ws.connect(uri) as ws:
        for word in words:
            await ws.send(word)
            with trio.fail_after(5):  # trio's deadlines apply to all operations
                print(await ws.receive_text())
        print(f"ping took {await ws.ping() * 1000:.1f} ms")


if __name__ == "__main__":
    try:
        uri, *words = sys.argv[1:] or ["ws://localhost:8000", "hi"]
        trio.run(main, uri, words)
    except trio_ws.ConnectionFailedError as exc:
        sys.exit(str(exc))
