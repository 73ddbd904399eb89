"""The PROXY protocol, versions 1 and 2, with which a TCP proxy announces the address of its client.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

from __future__ import annotations

import ipaddress
import re
import socket

from trio_ws.protocol.hosts import unmapped

__all__ = ["ProxyHeader", "ProxyHeaderError"]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Bytes common to all headers, whatever their version.
_FIRST = len(_SIGNATURE)
_LONGEST_LINE = 107  # of version 1, with its line end
_HEAD = 16  # of version 2
_line = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|TCP([46]) ([^ ]+) ([^ ]+) ([0-9]{1,5}) ([0-9]{1,5}))\r\n"
).fullmatch
# By the family of version 2: the address family, the length of both addresses, and of one of them.
_FAMILIES = {1: (socket.AF_INET, 12, 4), 2: (socket.AF_INET6, 36, 16)}


class ProxyHeaderError(Exception):
    """The data is not a PROXY header. Internal; the text is for the log."""


class ProxyHeader:
    """Reads one header, and not a byte more.

    Args:
        limit: maximum size of the header in bytes.

    Attributes:
        source: host and port of the client, once the header is complete; None if the header names none, for a
            connection of the proxy itself (LOCAL), or for protocols other than TCP over IP.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.source: tuple[str, int] | None = None

    def needed(self) -> int:
        """The number of bytes to read next; 0 once the header is complete."""
        data = self._data
        if len(data) < _FIRST:
            return _FIRST - len(data)
        if not data.startswith(_SIGNATURE):
            return 0 if data.endswith(b"\r\n") else 1  # its length is unknown before its end
        if len(data) < _HEAD:
            return _HEAD - len(data)
        return _HEAD + int.from_bytes(data[14:16], "big") - len(data)

    def feed(self, data: bytes) -> None:
        """Add at most as many bytes as are needed.

        Raises:
            ProxyHeaderError: the data is not a header, or the header is too long.
        """
        self._data += data
        have = self._data
        if not (_SIGNATURE.startswith(have[:_FIRST]) or b"PROXY ".startswith(have[:6])):
            raise ProxyHeaderError("it does not begin with a PROXY header")
        if have.startswith(b"P"):
            if len(have) >= _LONGEST_LINE and self.needed():
                raise ProxyHeaderError(f"its PROXY header exceeds {_LONGEST_LINE} bytes")
            if not self.needed():
                self.source = _parse_line(bytes(have))
        elif len(have) >= _HEAD:
            if len(have) + self.needed() > self._limit:
                raise ProxyHeaderError(f"its PROXY header exceeds max_header_bytes ({self._limit})")
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
    addresses = data[_HEAD : _HEAD + length]  # followed by TLVs, which are ignored
    if len(addresses) < length:
        raise ProxyHeaderError("its PROXY header is too short for its addresses")
    address = ipaddress.ip_address(socket.inet_ntop(kind, addresses[:size]))
    return str(unmapped(address)), int.from_bytes(addresses[2 * size : 2 * size + 2], "big")
