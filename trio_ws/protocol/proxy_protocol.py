"""The PROXY protocol, versions 1 and 2: how a proxy of TCP says first whose connection it passes on.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
import socket

from trio_ws.protocol.hosts import unmapped

__all__ = ["ProxyHeader", "ProxyHeaderError"]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Bytes that every header has, whatever its version.
_FIRST = len(_SIGNATURE)
_LONGEST_LINE = 107  # of version 1, with its end
_HEAD = 16  # of version 2
_line = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([^ ]+) ([^ ]+) ([0-9]{1,5}) ([0-9]{1,5}))\r\n"
).fullmatch
# What follows the head of version 2: the family, the length of its two addresses, and of one of them.
_FAMILIES = {1: (socket.AF_INET, 12, 4), 2: (socket.AF_INET6, 36, 16)}


class ProxyHeaderError(Exception):
    """What came is no header. Internal; the text is for the log."""


class ProxyHeader:
    """Reads one header, and not a byte of what follows it.

    Args:
        limit: bytes of the whole header.

    Attributes:
        source: the client's host and port, once it is complete; None where the header names none: for a
            connection of the proxy's own (LOCAL), and for what is no TCP over IP.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.source: tuple[str, int] | None = None

    def needed(self) -> int:
        """How many bytes to read now; 0 once the header is complete."""
        data = self._data
        if len(data) < _FIRST:
            return _FIRST - len(data)
        if not data.startswith(_SIGNATURE):
            return 0 if data.endswith(b"\r\n") else 1  # its length is not known before its end
        if len(data) < _HEAD:
            return _HEAD - len(data)
        return _HEAD + int.from_bytes(data[14:16], "big") - len(data)

    def feed(self, data: bytes) -> None:
        """Add at most as many bytes as are needed.

        Raises:
            ProxyHeaderError: this is no header, or one that is too long.
        """
        self._data += data
        have = self._data
        if not (_SIGNATURE.startswith(have[:_FIRST]) or b"PROXY ".startswith(have[:6])):
            raise ProxyHeaderError("it does not begin with a PROXY header")
        if have.startswith(b"P"):
            if len(have) >= _LONGEST_LINE and self.needed():
                raise ProxyHeaderError(f"its PROXY header is over {_LONGEST_LINE} bytes")
            if not self.needed():
                self.source = _parse_line(bytes(have))
        elif len(have) >= _HEAD:
            if len(have) + self.needed() > self._limit:
                raise ProxyHeaderError(f"its PROXY header is over max_header_bytes ({self._limit})")
            if not self.needed():
                self.source = _parse_binary(bytes(have))


def _parse_line(line: bytes) -> tuple[str, int] | None:
    match = _line(line)
    if match is None:
        raise ProxyHeaderError("its PROXY header is malformed")
    version, source, destination, *ports = match.groups()
    if version is None:
        return None
    try:
        kind = ipaddress.IPv4Address if version == b"4" else ipaddress.IPv6Address
        kind(destination.decode("ascii"))
        address = kind(source.decode("ascii"))
    except ValueError:
        raise ProxyHeaderError("its PROXY header has a malformed address") from None
    if any(int(port) > 65535 for port in ports):
        raise ProxyHeaderError("its PROXY header has a malformed port")
    return str(unmapped(address)), int(ports[0])


def _parse_binary(data: bytes) -> tuple[str, int] | None:
    version, command = data[12] >> 4, data[12] & 15
    if version != 2 or command > 1:
        raise ProxyHeaderError("its PROXY header has an unknown version or command")
    family = _FAMILIES.get(data[13] >> 4)
    if command == 0 or family is None:
        return None
    kind, length, size = family
    addresses = data[_HEAD : _HEAD + length]  # TLVs follow, which say nothing that we use
    if len(addresses) < length:
        raise ProxyHeaderError("its PROXY header is too short for its addresses")
    address = ipaddress.ip_address(socket.inet_ntop(kind, addresses[:size]))
    return str(unmapped(address)), int.from_bytes(addresses[2 * size : 2 * size + 2], "big")
