"""A server in each of several threads, each with a trio run of its own, on one listening socket."""

from __future__ import annotations

import socket
import threading
from typing import Any

import trio

import trio_ws

THREADS = 4
GUARD = 60  # seconds


class Worker(trio_ws.WebSocketHandler):
    channels_may_subscribe = True

    @trio_ws.rpc_method()
    def thread(self, connection: trio_ws.ClientConnection) -> int:
        return threading.get_ident()

    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    def announce(self, connection: trio_ws.ClientConnection, text: str) -> int:
        connection.subscribe("news")
        return self.publish("news", text)


class ServerThread:
    """Serves until `stop` is called."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening.dup()
        self._ready = threading.Event()
        self._stop: Any = None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as exc:  # noqa: BLE001 - raised by stop()
            self.failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        stopped = trio.Event()
        token = trio.lowlevel.current_trio_token()
        self._stop = lambda: token.run_sync_soon(stopped.set)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listening))
        async with trio_ws.WebSocketServer(Worker, listeners=[listener]):
            self._ready.set()
            await stopped.wait()

    def wait_ready(self) -> None:
        assert self._ready.wait(GUARD)

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()
        self._thread.join(GUARD)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


def test_a_server_in_each_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        servers = [ServerThread(listening) for _ in range(THREADS)]
        try:
            for server in servers:
                server.wait_ready()
            trio.run(talk, f"ws://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            for server in servers:
                server.stop()


async def talk(url: str) -> None:
    clients: dict[int, trio_ws.WebSocketClient] = {}
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as connections:
            # The kernel chooses the thread that accepts, so connect until each has a client.
            while len(clients) < THREADS:
                client = await connections.start(hold, url)
                clients.setdefault(await client.call("thread"), client)
            async with trio.open_nursery() as nursery:
                for client in clients.values():
                    nursery.start_soon(call_often, client)
            # Each server has channels of its own.
            assert [await client.call("announce", "all") for client in clients.values()] == [1] * THREADS
            connections.cancel_scope.cancel()


async def hold(url: str, task_status: trio.TaskStatus[trio_ws.WebSocketClient]) -> None:
    async with trio_ws.WebSocketClient(url) as client:
        task_status.started(client)
        await trio.sleep_forever()


async def call_often(client: trio_ws.WebSocketClient) -> None:
    for number in range(300):
        assert await client.call("add", number, 1) == number + 1
