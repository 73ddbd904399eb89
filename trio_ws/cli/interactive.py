"""The command ``connect``: send lines, and print the messages that are received.

At a terminal there is a prompt, until Ctrl+D or the end of the connection. From a pipe, each line is sent
when it is read. After the last line, the command waits for the expected messages.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

import trio_ws
from trio_ws.cli.errors import CONNECTION, FAILED, OK, TIMEOUT, Failure
from trio_ws.cli.methods import list_methods
from trio_ws.cli.output import remark
from trio_ws.cli.rpc import call_once, stream_once
from trio_ws.cli.stdin import PipedLines
from trio_ws.cli.values import parse_line

if TYPE_CHECKING:
    from trio_ws import WebSocket, WebSocketClient
    from trio_ws.cli.methods import Listed
    from trio_ws.cli.output import Output
    from trio_ws.cli.target import ServerTarget

__all__ = ["InteractiveOptions", "talk", "talk_rpc"]

_LINE_LIMIT = 16 * 1024 * 1024


class Lines(Protocol):
    """A source of lines."""

    async def next(self) -> str | None: ...


@dataclass(frozen=True)
class InteractiveOptions:
    """The condition to wait for after the last line of a pipe.

    Attributes:
        expect: the total number of messages to receive. None: as many as lines were sent, but fewer are not
            an error.
        timeout: seconds to wait for them; with ``--rpc``, for each call.
    """

    expect: int | None
    timeout: float


class _Count:
    """Counts received messages, and lets a task wait for a number of them."""

    def __init__(self) -> None:
        self.number = 0
        self._more = trio.Event()

    def add(self) -> None:
        self.number += 1
        self._more.set()
        self._more = trio.Event()

    async def reach(self, number: int) -> None:
        while self.number < number:
            await self._more.wait()


def _lines(methods: dict[str, Listed] | None = None) -> tuple[Lines, AbstractContextManager[object], bool]:
    """Return the source of lines, a context manager to enter meanwhile, and whether it is a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PipedLines(sys.stdin.fileno(), _LINE_LIMIT), nullcontext(), False
    from prompt_toolkit.patch_stdout import patch_stdout  # noqa: PLC0415 - slow, and only for terminals

    from trio_ws.cli.prompt import MethodCompleter, Prompt, history_file  # noqa: PLC0415

    completer = None if methods is None else MethodCompleter(methods)
    return Prompt(completer, history_file(os.environ)), patch_stdout(raw=True), True


async def _await_expected(count: _Count, expected: int, wishes: InteractiveOptions) -> int:
    with trio.move_on_after(wishes.timeout) as timer:
        await count.reach(expected)
    if timer.cancelled_caught and wishes.expect is not None:
        raise Failure(f"{count.number} of {wishes.expect} messages came in {wishes.timeout} seconds", TIMEOUT)
    return OK


# -- messages ---------------------------------------------------------------------------------------


async def talk(place: ServerTarget, wishes: InteractiveOptions, out: Output) -> int:
    """Send lines as text messages, and print the messages that are received."""
    lines, held, person = _lines()
    async with place.connect() as ws:
        if person:
            remark(f"connected to {place.url}; Ctrl+D ends")
        with held:
            return await _exchange(ws, lines, wishes, out, person=person)


async def _exchange(
    ws: WebSocket, lines: Lines, wishes: InteractiveOptions, out: Output, *, person: bool
) -> int:
    count = _Count()
    code = OK
    sent = 0

    async def show() -> None:
        nonlocal code
        try:
            async for message in ws:
                out.message(message)
                count.add()
            reason = f" ({ws.close_reason})" if ws.close_reason else ""
            remark(f"the server closed the connection: code {ws.close_code}{reason}")
        except trio_ws.ConnectionClosedError as exc:
            code = out.error(exc)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        try:
            while (line := await lines.next()) is not None:
                if line or not person:
                    await ws.send(line)
                    sent += 1
            if not person:
                await _await_expected(count, sent if wishes.expect is None else wishes.expect, wishes)
        except trio_ws.ConnectionClosedError:
            await trio.sleep_forever()  # show() prints the reason and cancels this task
        nursery.cancel_scope.cancel()
    if not code and wishes.expect is not None and count.number < wishes.expect:
        raise Failure(f"the connection ended after {count.number} of {wishes.expect} messages", CONNECTION)
    return code


# -- calls ------------------------------------------------------------------------------------------


async def talk_rpc(place: ServerTarget, wishes: InteractiveOptions, out: Output) -> int:
    """Make the call in each line, one after the other, and print the results."""
    async with place.client() as client:
        methods = await _methods(client, wishes)
        lines, held, person = _lines(methods or {})
        if person:
            known = "the server lists no methods" if methods is None else "? lists the methods"
            remark(f"connected to {place.url}; {known}; Ctrl+D ends")
        with held:
            return await _Caller(client, methods or {}, wishes, out, person=person).run(lines)


async def _methods(client: WebSocketClient, wishes: InteractiveOptions) -> dict[str, Listed] | None:
    with trio.move_on_after(wishes.timeout):
        return await list_methods(client)
    return None


class _Caller:
    """Makes the calls of all lines on one connection."""

    def __init__(
        self,
        client: WebSocketClient,
        methods: dict[str, Listed],
        wishes: InteractiveOptions,
        out: Output,
        *,
        person: bool,
    ) -> None:
        self._client = client
        self._methods = methods
        self._wishes = wishes
        self._out = out
        self._person = person
        self._count = _Count()
        self._code = OK

    async def run(self, lines: Lines) -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show_packets, nursery.cancel_scope)
            nursery.start_soon(self._show_notifications)
            while (line := await lines.next()) is not None:
                if line.strip():
                    code = await self._take(line)
                    self._code = self._code or code
            if not self._person and self._wishes.expect:
                await _await_expected(self._count, self._wishes.expect, self._wishes)
            nursery.cancel_scope.cancel()
        return OK if self._person and self._code != CONNECTION else self._code

    async def _show_packets(self, scope: trio.CancelScope) -> None:
        """Print packets that are not responses, and cancel the scope when the connection ends."""
        try:
            async for packet in self._client:
                self._out.packet(packet)
                self._count.add()
            remark("the server closed the connection")
        except trio_ws.ConnectionClosedError as exc:
            self._code = self._out.error(exc)
        scope.cancel()

    async def _show_notifications(self) -> None:
        """Print the notifications of the server in JSON-RPC or another dialect."""
        with suppress(trio.BrokenResourceError):  # _show_packets() reports it
            async with self._client.notifications() as stream:
                async for method, params in stream:
                    self._out.packet(trio_ws.Packet(trio_ws.PacketSource.CUSTOM, params, method))
                    self._count.add()

    async def _take(self, line: str) -> int:
        if line.strip().startswith("?"):
            self._describe(line.strip()[1:].strip())
            return OK
        try:
            if self._person:
                # Ctrl+C cancels the call, not the program.
                with trio_ws.cancel_on_signals(signal.SIGINT) as scope:
                    await self._call(line)
                if scope.cancelled_caught:
                    remark("cancelled")
            else:
                with trio.fail_after(self._wishes.timeout):
                    await self._call(line)
        except trio_ws.ConnectionClosedError:
            self._code = CONNECTION
            await trio.sleep_forever()  # _show_packets() prints the reason and cancels this task
        except (trio_ws.WebSocketError, trio.TooSlowError) as exc:
            return self._out.error(exc)
        except ValueError as exc:
            return self._out.error(Failure(str(exc), FAILED))
        return OK

    async def _call(self, line: str) -> None:
        asked = parse_line(line)
        listed = self._methods.get(asked.method)
        if asked.stream or (listed is not None and listed.kind == "stream"):
            await stream_once(self._client, asked.method, asked.args, asked.kwargs, None, self._out)
        else:
            await call_once(self._client, asked.method, asked.args, asked.kwargs, self._out)

    def _describe(self, name: str) -> None:
        for listed in self._methods.values():
            if not name or listed.name == name:
                doc = listed.doc if name else listed.doc.partition("\n")[0]
                self._out.line(listed.signature)
                if doc:
                    self._out.line(f"    {doc}", "dim")
