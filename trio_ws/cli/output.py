"""Output: readable text by default, or JSON for programs.

Invariants:

- Results are written to stdout, and remarks to stderr.
- Colours are used only at a terminal, and not if NO_COLOR is set.
- With JSON, each line of stdout is one object.
- Control characters from a server are escaped: in JSON always, otherwise if the output is a terminal.
"""

from __future__ import annotations

import base64
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from trio_ws.cli.errors import explain, on_one_line, printable

if TYPE_CHECKING:
    from trio_ws import Packet, RPCError, WebSocketMessage
    from trio_ws._types import Value

__all__ = ["Output", "remark"]


def remark(text: str) -> None:
    """Write a line to stderr that is not a result."""
    with suppress(OSError):  # stderr is closed
        sys.stderr.write(f"trio-ws: {on_one_line(text)}\n")
        sys.stderr.flush()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise, because rich would end the program with exit code 1."""
        raise BrokenPipeError


class Output:
    """Prints results to stdout.

    Args:
        as_json: print one JSON object per line.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Without a file argument, it always writes to the current sys.stdout, which a prompt replaces.
        self.console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._highlighter = JSONHighlighter()
        # NO_COLOR disables all styles here; rich would still print bold text.
        self._styled = self.console.is_terminal and not self.console.no_color

    def record(self, **fields: Value) -> None:
        """Print one JSON object."""
        sys.stdout.write(_json(fields) + "\n")
        sys.stdout.flush()

    def line(self, text: str, style: str = "") -> None:
        """Print text, which may have several lines."""
        self._print(Text(self._safe(text), style=style))

    def _safe(self, text: str) -> str:
        return printable(text) if self.console.is_terminal or sys.stdout.isatty() else text

    def _print(self, text: Text) -> None:
        if self._styled:
            self.console.print(text, soft_wrap=True)
        else:
            sys.stdout.write(f"{text.plain}\n")
        sys.stdout.flush()

    def value(self, key: str, value: Value) -> None:
        """Print a result or an item of a stream, which is called ``key`` in JSON."""
        if self.as_json:
            self.record(**{key: value})
        elif isinstance(value, str):
            self.line(value)
        else:
            written = _json(value)
            if isinstance(value, dict | list) and len(written) > 78:
                written = msgspec.json.format(written, indent=2)
            self._print(self._highlighter(Text(self._safe(written))))

    def message(self, message: WebSocketMessage) -> None:
        """Print a message of a plain WebSocket."""
        data = message.data or b""
        if message.is_text():
            text = str(message.text)
            self.record(type="text", text=text) if self.as_json else self.line(text)
        elif self.as_json:
            self.record(type="binary", base64=base64.b64encode(data).decode())
        else:
            shown = data[:64].hex(" ") + (" ..." if len(data) > 64 else "")
            self.line(f"{len(data)} bytes: {shown}" if data else "0 bytes", "dim")

    def packet(self, packet: Packet) -> None:
        """Print a packet that is not a call: published or sent data."""
        if self.as_json:
            self.record(channel=packet.channel, data=packet.data)
        elif packet.channel is not None:
            name = on_one_line(packet.channel)
            text = packet.data if isinstance(packet.data, str) else _json(packet.data)
            self._print(Text.assemble((f"{name}: ", "cyan"), self._safe(text)))
        else:
            self.value("data", packet.data)

    def error(self, exc: Exception) -> int:
        """Print the error of one of several calls, and return the exit code for it."""
        found = explain(exc)
        if found is None:
            raise exc
        remark(found.text)
        return found.code

    def rpc_error(self, exc: RPCError) -> None:
        """Print the parts of an error as JSON, if that is wanted."""
        if self.as_json:
            self.record(error={"code": exc.code, "message": exc.message, "data": exc.data})


def _json(value: Value) -> str:
    """Return the value as JSON, with all control characters escaped."""
    try:
        text = msgspec.json.encode(value, enc_hook=repr).decode()
    except Exception:  # noqa: BLE001 - a server may send values that JSON cannot express, such as bytes keys
        text = msgspec.json.encode(repr(value)).decode()
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    if text.isprintable() and (not ascii_only or text.isascii()):
        return text
    return "".join(
        char if char.isprintable() and (char.isascii() or not ascii_only) else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
