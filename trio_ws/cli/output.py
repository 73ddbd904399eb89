"""Output: for people by default, as JSON for programs.

What always holds: results go to stdout and remarks to stderr; colours are for terminals alone, and NO_COLOR
takes them away; with JSON each line of stdout is one object. Nothing that a server said can steer a terminal:
with JSON it is escaped wherever it goes, else where it goes to a terminal.
"""

from __future__ import annotations

import base64
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from trio_ws.cli.errors import explain, on_one_line, printable

if TYPE_CHECKING:
    from trio_ws import Packet, RPCError, WebSocketMessage

__all__ = ["Output", "remark"]


def remark(text: str) -> None:
    """Tell a person something that is no result."""
    with suppress(OSError):  # nobody is there to be told
        sys.stderr.write(f"trio-ws: {on_one_line(text)}\n")
        sys.stderr.flush()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program here with exit code 1."""
        raise BrokenPipeError


class Output:
    """Where results go.

    Args:
        as_json: one JSON object per line.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # Without a file of its own it writes to what sys.stdout is at the time, which a prompt replaces.
        self.console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._highlighter = JSONHighlighter()
        # NO_COLOR is about all styles; rich would still print bold.
        self._styled = self.console.is_terminal and not self.console.no_color

    def record(self, **fields: Any) -> None:
        """One JSON object."""
        sys.stdout.write(_json(fields) + "\n")
        sys.stdout.flush()

    def line(self, text: str, style: str = "") -> None:
        """One line for people; more where the text has more."""
        self._print(Text(self._safe(text), style=style))

    def _safe(self, text: str) -> str:
        return printable(text) if self.console.is_terminal or sys.stdout.isatty() else text

    def _print(self, text: Text) -> None:
        if self._styled:
            self.console.print(text, soft_wrap=True)
        else:
            sys.stdout.write(f"{text.plain}\n")
        sys.stdout.flush()

    def value(self, key: str, value: Any) -> None:
        """A result, or an item of a stream; ``key`` names it in JSON."""
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
        """A message of a plain WebSocket."""
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
        """A packet that is no call: what was published, or sent."""
        if self.as_json:
            self.record(channel=packet.channel, data=packet.data)
        elif packet.channel is not None:
            name = on_one_line(packet.channel)
            text = packet.data if isinstance(packet.data, str) else _json(packet.data)
            self._print(Text.assemble((f"{name}: ", "cyan"), self._safe(text)))
        else:
            self.value("data", packet.data)

    def error(self, exc: Exception) -> int:
        """One call of several failed; gives what the exit code should be."""
        found = explain(exc)
        if found is None:
            raise exc
        remark(found.text)
        return found.code

    def rpc_error(self, exc: RPCError) -> None:
        """The same for programs, which want its parts."""
        if self.as_json:
            self.record(error={"code": exc.code, "message": exc.message, "data": exc.data})


def _json(value: Any) -> str:
    """The value as JSON, with all that steers a terminal escaped as JSON does it."""
    try:
        text = msgspec.json.encode(value, enc_hook=repr).decode()
    except Exception:  # noqa: BLE001 - a server may send what JSON has no form for, such as keys of bytes
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
