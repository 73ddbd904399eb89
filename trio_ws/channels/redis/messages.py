"""The format of a message at Redis, with or without a signature of its publisher.

Without a key: ``tws1``, the origin (16 bytes), the sequence number (8 bytes), and the payload. With a key:
``tws2``, the origin, the sequence number, the time in milliseconds since 1970 (8 bytes), 16 bytes of
HMAC-SHA256 (RFC 2104), and the payload. Numbers are big-endian. The HMAC is of the 36 bytes before it, the
length of the channel's name at Redis (4 bytes), that name, and the payload.

Invariants, with a key:

- A message without a signature by the key is not accepted, nor one that was signed for another channel.
- The messages of an origin are accepted in the order of their sequence numbers, each once. If the origin has
  been forgotten, a copy of a message is accepted for at most `MAX_AGE` seconds.
- With a cluster, messages of an origin that were sent again may arrive over several connections. They are
  accepted in any order, each once, up to `_WINDOW` messages late.
"""

from __future__ import annotations

import hashlib
import hmac
import time

__all__ = ["MAX_AGE", "MIN_KEY", "MessageFormat", "check_key"]

#: Seconds by which clocks may differ, and during which a copy is accepted if its origin has been forgotten.
MAX_AGE = 300.0
#: Minimum number of bytes of a key.
MIN_KEY = 16

_PLAIN = b"tws1"
_SIGNED = b"tws2"
_ORIGIN = slice(4, 20)
_PLAIN_HEAD = 28
_SIGNED_FIELDS = 36
_SIGNED_HEAD = 52
_MAC = 16
#: More messages than one connection can have in flight (`exchange._WINDOW_ITEMS`).
_WINDOW = 1024
#: Maximum number of origins whose last sequence number is remembered.
_MAX_ORIGINS = 65_536


def check_key(key: bytes | str | None) -> bytes | None:
    """Return a key as bytes.

    Raises:
        TypeError: it is neither bytes nor a str.
        ValueError: it has less than 16 bytes.
    """
    if key is None:
        return None
    if isinstance(key, str):
        key = key.encode()
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes or a str, not {type(key).__name__}")
    if len(key) < MIN_KEY:
        raise ValueError(f"a key must have at least {MIN_KEY} bytes, not {len(key)}")
    return key


class MessageFormat:
    """Encodes and decodes messages.

    Args:
        key: shared by all publishers; None for unsigned messages.
        in_order: whether all messages of an origin arrive over one connection.

    Attributes:
        head: number of bytes before the payload of a message.
    """

    def __init__(self, key: bytes | None, *, in_order: bool = True) -> None:
        self._key = key
        self._in_order = in_order
        self._arrived: dict[bytes, int] = {}  # bit n: the nth message before the last, by origin
        self.head = _PLAIN_HEAD if key is None else _SIGNED_HEAD
        self._sequences: dict[bytes, int] = {}

    @staticmethod
    def origin_of(data: bytes) -> bytes:
        """Return the origin of a message."""
        return data[_ORIGIN]

    @staticmethod
    def sequence_of(data: bytes) -> int:
        """Return the sequence number of a message."""
        return int.from_bytes(data[20:28], "big")

    @staticmethod
    def id_of(data: bytes) -> bytes:
        """Return the id of a message: its origin and its sequence number."""
        return data[4:28]

    def pack(self, origin: bytes, sequence: int, channel: bytes, payload: bytes) -> bytes:
        """Encode a message."""
        number = sequence.to_bytes(8, "big")
        if self._key is None:
            return _PLAIN + origin + number + payload
        fields = _SIGNED + origin + number + int(time.time() * 1000).to_bytes(8, "big")
        return fields + self._mac(fields, channel, payload) + payload

    def _mac(self, fields: bytes, channel: bytes, payload: bytes) -> bytes:
        assert self._key is not None
        mac = hmac.new(self._key, fields + len(channel).to_bytes(4, "big") + channel, hashlib.sha256)
        mac.update(payload)
        return mac.digest()[:_MAC]

    def unpack(self, channel: bytes, data: bytes, max_payload: int, max_age: float = MAX_AGE) -> bytes | None:
        """Return the payload of a message, or None if the message is invalid, or too old."""
        if not self.head <= len(data) <= self.head + max_payload:
            return None
        if self._key is None:
            return data[self.head :] if data.startswith(_PLAIN) else None
        fields, mac, payload = data[:_SIGNED_FIELDS], data[_SIGNED_FIELDS:_SIGNED_HEAD], data[_SIGNED_HEAD:]
        if not data.startswith(_SIGNED) or not hmac.compare_digest(mac, self._mac(fields, channel, payload)):
            return None
        if abs(time.time() - int.from_bytes(fields[28:36], "big") / 1000) > max_age:
            return None
        return payload

    def is_new(self, data: bytes) -> bool:
        """Whether a valid message is new by its origin and sequence number; always true without a key."""
        if self._key is None:
            return True
        origin, sequence = self.origin_of(data), self.sequence_of(data)
        last = self._sequences.get(origin, -1)
        if sequence <= last and (self._in_order or not self._is_late(origin, last - sequence)):
            return False
        if not self._in_order and sequence > last:
            step = sequence - last
            arrived = self._arrived.pop(origin, 0) << step if last >= 0 and step < _WINDOW else 0
            self._arrived[origin] = (arrived | 1) & ((1 << _WINDOW) - 1)
        self._sequences.pop(origin, None)
        self._sequences[origin] = max(sequence, last)
        if len(self._sequences) > _MAX_ORIGINS:
            oldest = next(iter(self._sequences))
            del self._sequences[oldest]
            self._arrived.pop(oldest, None)
        return True

    def _is_late(self, origin: bytes, distance: int) -> bool:
        """Whether a message that is not the last of its origin is new. It is noted then."""
        arrived = self._arrived[origin]
        if distance >= _WINDOW or arrived >> distance & 1:
            return False
        self._arrived[origin] = arrived | 1 << distance
        return True
