import trio

import trio_ws


async def main() -> None:
    async with trio_ws.WebSocketClient("ws://localhost:8000/cats?name=ada") as client:
        print("said to", await client.call("say", "meow"))
        print(await client.call("last"))
        for method, argument in [("say", ""), ("last", "all"), ("shout", "meow")]:
            try:
                await client.call(method, argument)
            except trio_ws.RPCError as error:
                print(f"{type(error).__name__}: {error}")


trio.run(main)
