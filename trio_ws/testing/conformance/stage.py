"""Stage: the environment of a scene, with one driver and the connections of its client.

Invariants:

- In every scene, each packet of the client is checked for its format.
- Each wait raises a `ViolationError` after `Stage.patience` seconds.
- Credit is counted when it arrives, and is skipped when a scene waits for a packet.
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ws.codecs.base import Packet, Request
from trio_ws.codecs.packets import TrioWSCodec, TrioWSJSONCodec
from trio_ws.errors import ConnectionClosedError, PacketError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws._types import JSONObject, Value
    from trio_ws.websocket.connection import WebSocket

__all__ = ["DIALECTS", "Stage", "ViolationError", "Wire"]

DIALECTS = {"trio-ws.v1": TrioWSCodec(), "trio-ws.v1.json": TrioWSJSONCodec()}


class ViolationError(Exception):
    """The client, or its driver, did not do what the protocol says."""


class Wire:
    """One connection of the client under test, as the suite's server sees it.

    Attributes:
        ws: the connection.
        credit: by stream id, the numbers of items and of bytes that the client has granted and that were not
            used. The bytes are None if the client does not count them.
    """

    def __init__(self, ws: WebSocket, stage: Stage) -> None:
        assert ws.subprotocol is not None
        self.ws = ws
        self.credit: dict[str, list[int | None]] = {}
        self._stage = stage
        self._codec = DIALECTS[ws.subprotocol]
        self._open: set[str] = set()
        self._seen: set[str] = set()

    # -- receiving from the client -------------------------------------------------------------------

    async def packet(self) -> JSONObject:
        """Return the next packet, except for those that grant credit or renew a deadline."""
        while True:
            packet = await self._read()
            rpc = packet.get("rpc", {})
            if rpc.get("method") == "__credit__":
                self._count_credit(rpc)
            elif rpc.get("method") != "__deadline__":
                return packet

    async def _read(self) -> JSONObject:
        with self._stage.limit("a packet"):
            try:
                message = await self.ws.recv()
            except ConnectionClosedError as exc:
                raise ViolationError(f"the client closed the connection: {exc}") from exc
        if message is None:
            raise ViolationError(f"the client closed the connection with {self.ws.close_code}")
        if message.is_binary() is not self._codec.binary:
            kind = "binary" if self._codec.binary else "text"
            raise ViolationError(f"{self._codec.name} goes in {kind} frames")
        payload = message.data if self._codec.binary else message.text
        assert payload is not None
        try:
            packet = self._codec.decode(payload)
        except PacketError as exc:
            raise ViolationError(f"the client sent no packet: {exc}: {payload!r:.200}") from exc
        self._check(packet)
        raw: JSONObject = (
            msgspec.msgpack.decode(message.data) if message.data is not None else msgspec.json.decode(payload)
        )
        return raw

    def _check(self, packet: Packet) -> None:
        request = packet.rpc
        if not isinstance(request, Request) or request.method in ("__abort__", "__credit__", "__deadline__"):
            return
        if request.method == "__goaway__" or not request.call_id:
            return
        if "/" in request.call_id:
            raise ViolationError(f"an id of a call has no slash in it: {request.call_id!r}")
        if request.call_id in self._open:
            raise ViolationError(f"the id {request.call_id!r} is in use")
        self._open.add(request.call_id)
        if request.credits is not None:
            self.credit[request.call_id] = [request.credits, request.credit_bytes]
        for stream_id in (request.streams or {}).values():
            if "/" not in stream_id or stream_id in self._seen:
                raise ViolationError(f"an id of a stream has a slash in it, and is used once: {stream_id!r}")
            self._seen.add(stream_id)

    def _count_credit(self, rpc: JSONObject) -> None:
        args = rpc.get("args", [])
        if len(args) != 2 or not isinstance(args[0], str) or type(args[1]) is not int or args[1] < 1:
            raise ViolationError(f"__credit__ takes the id of a stream and a number of items, not {args!r}")
        size = rpc.get("kwargs", {}).get("bytes")
        if size is not None and (type(size) is not int or size < 0):
            raise ViolationError(f"the bytes of __credit__ are a number from 0, not {size!r}")
        credit = self.credit.setdefault(args[0], [0, None])
        assert credit[0] is not None
        credit[0] += args[1]
        if size is not None:
            credit[1] = (credit[1] or 0) + size

    async def request(self, method: str, **expected: Value) -> JSONObject:
        """Return the next packet, which must be a request of this method with these fields."""
        packet = await self.packet()
        rpc: JSONObject = packet.get("rpc", {})
        if packet.get("source") != 5 or rpc.get("type") != "request" or rpc.get("method") != method:
            raise ViolationError(f"expected a request of {method}, got {packet}")
        return self._with(rpc, {"args": [], "kwargs": {}}, expected)

    async def response(self, call_id: str, **expected: Value) -> JSONObject:
        """Return the next packet, which must be a response with this id and these fields."""
        packet = await self.packet()
        rpc: JSONObject = packet.get("rpc", {})
        if packet.get("source") != 5 or rpc.get("type") != "response" or rpc.get("call_id") != call_id:
            raise ViolationError(f"expected a response to {call_id}, got {packet}")
        defaults = {"response": None, "error": None, "is_stream": False, "is_end": False}
        return self._with(rpc, defaults, expected)

    def _with(self, rpc: JSONObject, defaults: JSONObject, expected: JSONObject) -> JSONObject:
        rpc = {**defaults, **rpc}
        for name, value in expected.items():
            if rpc.get(name) != value:
                raise ViolationError(f"expected {name} to be {value!r}, not {rpc.get(name)!r}, in {rpc}")
        return rpc

    async def abort(self, call_id: str) -> None:
        """Receive the next packet, which must abort this call or stream."""
        await self.request("__abort__", args=[call_id])
        self._open.discard(call_id)

    async def granted(self, stream_id: str) -> None:
        """Wait until the client has granted an item of a stream, and a byte."""
        while True:
            items, size = self.credit.get(stream_id, [0, None])
            if (items or 0) > 0 and (size is None or size > 0):
                return
            packet = await self._read()
            if packet.get("rpc", {}).get("method") != "__credit__":
                raise ViolationError(f"expected credit for {stream_id}, got {packet}")
            self._count_credit(packet["rpc"])

    async def closed(self, *codes: int) -> None:
        """Wait until the client closes the connection, which must be with one of these codes."""
        with self._stage.limit("a Close frame"):
            try:
                while await self.ws.recv() is not None:
                    pass
            except ConnectionClosedError:
                pass
        frame = self.ws.close_code
        if frame not in codes:
            raise ViolationError(f"expected the client to close with {codes}, not {frame}")

    # -- sending to the client -----------------------------------------------------------------------

    async def send(self, packet: JSONObject) -> int:
        """Send a packet; return its size in bytes."""
        payload = msgspec.msgpack.encode(packet) if self._codec.binary else msgspec.json.encode(packet)
        try:
            if self._codec.binary:
                await self.ws.send_bytes(payload)
            else:
                await self.ws.send_text(payload.decode())
        except ConnectionClosedError as exc:
            raise ViolationError(f"the client closed the connection: {exc}") from exc
        return len(payload)

    async def respond(self, call_id: str, **fields: Value) -> int:
        """Send a response; return its size in bytes."""
        if not fields.get("is_stream") or fields.get("is_end"):
            self._open.discard(call_id)
        return await self.send({"source": 5, "rpc": {"type": "response", "call_id": call_id, **fields}})

    async def item(self, stream_id: str, value: Value) -> None:
        """Send one item of a stream, and deduct it from the credit."""
        size = await self.respond(stream_id, response=value, is_stream=True)
        credit = self.credit.setdefault(stream_id, [0, None])
        assert credit[0] is not None
        credit[0] -= 1
        if credit[1] is not None:
            credit[1] -= size

    async def end(self, stream_id: str, **fields: Value) -> None:
        """Send the end of a stream."""
        await self.respond(stream_id, is_stream=True, is_end=True, **fields)

    async def ask(self, method: str, *args: Value, call_id: str = "", **fields: Value) -> None:
        """Send a request."""
        rpc: JSONObject = {"type": "request", "method": method, "args": list(args), **fields}
        if call_id:
            rpc["call_id"] = call_id
        await self.send({"source": 5, "rpc": rpc})

    def has_credit(self, stream_id: str) -> bool:
        """Return whether another item may be sent."""
        items, size = self.credit.get(stream_id, [0, None])
        return (items or 0) > 0 and (size is None or size > 0)


class Stage:
    """The environment of a scene.

    Args:
        control: the connection to the driver.
        url: the URL for the client to connect to.
        patience: seconds that each wait may take.
    """

    def __init__(self, control: WebSocket, url: str, patience: float) -> None:
        self.patience = patience
        self._url = url
        self._control = control
        self._reports: deque[JSONObject] = deque()
        self._put, self._connections = trio.open_memory_channel[Wire](100)
        self._barriers = 0

    @contextmanager
    def limit(self, what: str) -> Iterator[None]:
        """Raise `ViolationError` if the block takes longer than ``patience`` seconds."""
        try:
            with trio.fail_after(self.patience):
                yield
        except trio.TooSlowError:
            raise ViolationError(f"waited {self.patience:g} s for {what}") from None

    def connected(self, ws: WebSocket) -> Wire:
        """Record a new connection of the client."""
        wire = Wire(ws, self)
        self._put.send_nowait(wire)
        return wire

    async def wire(self) -> Wire:
        """Wait for the client's next connection."""
        with self.limit("a connection"):
            return await self._connections.receive()

    async def open(self, **fields: Value) -> Wire:
        """Let the driver open a client; return the client's first connection."""
        await self.do("open", url=self._url, **fields)
        return await self.wire()

    async def do(self, what: str, **fields: Value) -> None:
        """Instruct the driver."""
        await self._control.send_json({"do": what, **fields})

    async def report(self, id: str | None, **expected: Value) -> JSONObject:
        """Wait for the next report for an id, which must have these fields. None is the client itself."""
        while True:
            for report in self._reports:
                if report.get("id") == id:
                    self._reports.remove(report)
                    for name, value in expected.items():
                        if report.get(name) != value:
                            raise ViolationError(f"expected {name} to be {value!r} in the report {report}")
                    return report
            with self.limit(f"a report about {id or 'the client'}"):
                try:
                    self._reports.append(await self._control.receive_json())
                except ConnectionClosedError as exc:
                    raise ViolationError(f"the driver is gone: {exc}") from exc

    async def failed(self, id: str, code: int, message: str | None = None, data: Value = None) -> None:
        """Wait for the report that a call failed with an error."""
        report = await self.report(id)
        error = report.get("error")
        if not isinstance(error, dict) or error.get("code") != code:
            raise ViolationError(f"expected an error with the code {code}, got {json.dumps(report)}")
        if message is not None and (error.get("message"), error.get("data")) != (message, data):
            raise ViolationError(f"expected the text {message!r} and the data {data!r}, got {error}")

    async def barrier(self, wire: Wire) -> None:
        """Check that the client has sent nothing else, by two calls.

        The response to the first call follows everything that was sent to the client before. The second call
        follows everything that the client sent in reaction.
        """
        for _ in range(2):
            self._barriers += 1
            name = f"barrier-{self._barriers}"
            await self.do("call", id=name, method="barrier", args=[self._barriers])
            request = await wire.request("barrier", args=[self._barriers])
            await wire.respond(request["call_id"], response=True)
            await self.report(name, result=True)
