import trio

import trio_ws


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def main() -> None:
    async with trio_ws.WebSocketServer(Calculator, 0, host="127.0.0.1") as server:
        async with trio_ws.WebSocketClient(server.url) as client:
            with trio.fail_after(5):  # the method is cancelled then, too
                print(await client.call("add", 20, 22, returns=int))


trio.run(main)
