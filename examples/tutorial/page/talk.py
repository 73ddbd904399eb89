import sys
from urllib.parse import urlencode

import trio

import trio_ws


async def show_lines(client: trio_ws.WebSocketClient) -> None:
    async for packet in client:
        print(f"{packet.data['name']}: {packet.data['text']}", flush=True)


async def show_states(client: trio_ws.WebSocketClient) -> None:
    async for state in client.watch_state():
        print(f"[{state}]", flush=True)


async def say_lines(client: trio_ws.WebSocketClient) -> None:
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        try:
            await client.call("say", line.strip())
        except (trio_ws.RPCError, trio_ws.ConnectionClosedError) as error:
            print(f"[not sent: {error}]", flush=True)


async def main(room: str, name: str) -> None:
    url = f"ws://localhost:8000/rooms/{room}?{urlencode({'name': name})}"
    async with (
        trio_ws.WebSocketClient(url, reconnect=trio_ws.Backoff(maximum=5)) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(show_lines, client)
        nursery.start_soon(show_states, client)
        await say_lines(client)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    room, name = sys.argv[1:]
    trio.run(main, room, name)
