"""The driver of trio_ws's own client: ``python -m trio_ws.testing.conformance.driver [dialect]``.

It is also an example for other drivers. docs/protocol.md describes what a driver does.
"""

# No "from __future__ import annotations", because the annotations of methods are read at run time.
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from trio_ws._types import JSONObject, Value
from trio_ws.channels.subscription import Subscription
from trio_ws.client.backoff import Backoff
from trio_ws.client.client import WebSocketClient
from trio_ws.client.connect import connect
from trio_ws.codecs.base import Gap, Packet
from trio_ws.errors import ConnectionClosedError, RPCError, WebSocketError
from trio_ws.rpc.client_connection import ClientConnection
from trio_ws.rpc.handler import WebSocketHandler
from trio_ws.rpc.marking import rpc_method
from trio_ws.testing.conformance.suite import VARIABLE
from trio_ws.websocket.connection import WebSocket

Report = Callable[..., Awaitable[None]]


class Methods(WebSocketHandler):
    """The methods that the suite calls."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        fields = {"source": int(packet.source), "data": packet.data, "channel": packet.channel}
        await self._report(None, packet=fields)

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Value) -> Value:
        return value

    @rpc_method()
    async def fail(self, connection: ClientConnection, code: int, text: str, data: Value) -> None:
        raise RPCError(text, code=code, data=data)

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        await self._report("wait", began=True)
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self._report("wait", cancelled=True)

    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @rpc_method()
    async def total(self, connection: ClientConnection, numbers: AsyncIterator[int]) -> int:
        total = 0
        async for number in numbers:
            total += number
        return total

    @rpc_method()
    async def call_back(self, connection: ClientConnection, method: str, args: list[Value]) -> Value:
        return await connection.call(method, *args)


class Driver:
    """Follows the suite's instructions."""

    def __init__(self, control: WebSocket, dialect: str) -> None:
        self._control = control
        self._dialect = dialect
        self._sending = trio.Lock()

    async def report(self, id: str | None, **fields: Value) -> None:
        """Send a report to the suite."""
        async with self._sending:
            await self._control.send_json({"id": id, **fields})

    async def run(self) -> None:
        """Follow instructions until the end of the suite."""
        await self._control.send_json({"client": f"trio_ws, {self._dialect}", "lacks": []})
        running = True
        while running:
            async with trio.open_nursery() as nursery:
                running = await self._play(nursery)
                nursery.cancel_scope.cancel()
            if running:
                await self.report("reset", done=True)

    async def _play(self, nursery: trio.Nursery) -> bool:
        """Play one scene; return whether another one follows."""
        scopes: dict[str, trio.CancelScope] = {}
        takers: dict[str, trio.MemorySendChannel[int]] = {}
        client: WebSocketClient | None = None
        closing = trio.Event()
        async for message in self._control:
            order = message.json()
            what, key = order["do"], order.get("id", "")
            if what == "reset":
                return True
            if what == "open":
                client = await nursery.start(self._hold, order, closing)
                continue
            assert client is not None
            if what == "close":
                closing.set()
            elif what == "take":
                takers[key].send_nowait(order["count"])
            elif what == "cancel":
                scopes[key].cancel()
            elif what == "send":
                await client.send(order["data"])
            else:
                scopes[key] = trio.CancelScope()
                put, take = trio.open_memory_channel[int](1000)
                takers[key] = put
                # Until the task has started, so that requests are sent in the order of the instructions.
                await nursery.start(self._do, client, order, scopes[key], take)
        return False

    async def _hold(
        self, order: JSONObject, closing: trio.Event, task_status: trio.TaskStatus[WebSocketClient]
    ) -> None:
        """Run a client until it is told to close."""
        client = WebSocketClient(
            order["url"],
            handler=Methods(self.report),
            dialect=self._dialect,
            reconnect=Backoff(initial=0.01, maximum=0.1) if order.get("reconnect") else None,
        )
        async with client:
            task_status.started(client)
            await closing.wait()

    async def _do(
        self,
        client: WebSocketClient,
        order: JSONObject,
        scope: trio.CancelScope,
        take: trio.MemoryReceiveChannel[int],
        task_status: trio.TaskStatus[None],
    ) -> None:
        key = order["id"]
        task_status.started()
        try:
            with scope:
                if order["do"] == "call":
                    await self.report(key, result=await self._call(client, order))
                elif order["do"] == "stream":
                    async with client.stream(order["method"], *order["args"]) as items:
                        await self._take(key, items, take)
                else:
                    options = {name: order[name] for name in ("recover", "last") if name in order}
                    after = {name: tuple(one) for name, one in order.get("after", {}).items()}
                    async with client.subscribe(
                        order["channels"], after=after or None, **options
                    ) as subscription:
                        await self.report(key, subscribed=True)
                        await self._take(key, subscription, take)
        except RPCError as exc:
            await self.report(key, error={"code": exc.code, "message": exc.message, "data": exc.data})
        except trio.TooSlowError:
            await self.report(key, error={"code": -32003, "message": "the deadline passed"})
        except ConnectionClosedError as exc:
            await self.report(key, lost=True, may_have_run=exc.may_have_run)
        except WebSocketError as exc:
            await self.report(key, error={"code": None, "message": str(exc)})
        if scope.cancelled_caught:
            await self.report(key, cancelled=True)

    async def _call(self, client: WebSocketClient, order: JSONObject) -> Value:
        args, kwargs = list(order["args"]), dict(order.get("kwargs", {}))
        for place, items in order.get("uploads", {}).items():
            if place.isdigit():
                args[int(place)] = _each(items)
            else:
                kwargs[place] = _each(items)
        if "timeout" in order:
            with trio.fail_after(order["timeout"]):
                return await client.call(order["method"], *args, **kwargs)
        return await client.call(order["method"], *args, **kwargs)

    async def _take(
        self, key: str, items: trio.abc.ReceiveChannel[Value], take: trio.MemoryReceiveChannel[int]
    ) -> None:
        async for count in take:
            for _ in range(count):
                try:
                    item = await items.receive()
                except trio.EndOfChannel:
                    await self.report(key, end=True)
                    return
                if isinstance(item, Gap):
                    gap = {"channel": item.channel, "missing": item.missing, "position": item.position}
                    await self.report(key, gap=gap)
                    continue
                if isinstance(items, Subscription):
                    item = {"channel": item.channel, "data": item.data}
                await self.report(key, item=item)


async def _each(items: list[Value]) -> AsyncIterator[Value]:
    for item in items:
        yield item


async def main(dialect: str) -> None:
    """Connect to the suite and follow its instructions."""
    async with connect(os.environ[VARIABLE]) as control:
        await Driver(control, dialect).run()


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "trio-ws.v1")
