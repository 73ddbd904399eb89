"""Access to methods: session state, predicates, and a rate limit on password attempts."""

from __future__ import annotations

import trio

import trio_ws

PASSWORDS = {"alice": "wonderland", "bob": "builder"}


class Bank(trio_ws.WebSocketHandler):
    @trio_ws.rate_limit(limit=3, period="1m")
    @trio_ws.rpc_method()
    async def login(self, connection: trio_ws.ClientConnection, name: str, password: str) -> None:
        if PASSWORDS.get(name) != password:
            raise trio_ws.RPCAccessDeniedError("wrong name or password")
        connection.username = name
        connection.is_admin = name == "alice"

    @trio_ws.rpc_method(requires=trio_ws.Has("username"))
    def whoami(self, connection: trio_ws.ClientConnection) -> str:
        return str(connection["username"])

    @trio_ws.rpc_method(requires=trio_ws.Has("username") & trio_ws.Is("is_admin"))
    def shut_down(self, connection: trio_ws.ClientConnection) -> str:
        return "good night"


async def main() -> None:
    async with trio_ws.WebSocketServer(Bank, host="127.0.0.1") as server:
        async with trio_ws.WebSocketClient(server.url) as client:
            print("a stranger:", (await client.send_rpc("whoami")).error)
            for password in ("guess", "other guess", "builder", "builder"):
                response = await client.send_rpc("login", "bob", password)
                if isinstance(response.error, trio_ws.RateLimitError):
                    print(f"login with {password!r}: try again in {response.error.retry_after:.0f} s")
                else:
                    print(f"login with {password!r}: {response.error or 'welcome'}")
            print("I am", await client.call("whoami"))
            print("bob shuts down:", (await client.send_rpc("shut_down")).error)
        async with trio_ws.WebSocketClient(server.url) as client:
            await client.call("login", "alice", "wonderland")
            print("alice shuts down:", await client.call("shut_down"))


if __name__ == "__main__":
    trio.run(main)
