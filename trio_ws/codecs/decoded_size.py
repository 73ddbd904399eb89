"""Compute the memory that a decoded payload takes, before it is decoded.

A byte of msgpack can become a hundred bytes of Python objects, and decoding a megabyte of empty lists takes a
fifth of a second. The size of a large payload is therefore computed first, without creating any of the
objects.

Invariant: the result is never less than the memory of the decoded payload, unless the payload cannot be
decoded. It may be up to twice as much for objects with many keys, and for JSON numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ODD_KEYS", "TOO_DEEP", "json_size", "msgpack_size", "python_msgpack_size"]

#: The result of `msgpack_size` for a dict with too many keys that are neither text nor bytes. The hashes of
#: numbers and tuples are the same in every process, so a peer can choose keys that collide: inserting a
#: thousand of them takes up to a million comparisons.
ODD_KEYS = -1
#: The result of `msgpack_size` for lists and dicts that are nested too deeply.
TOO_DEEP = -2
_MOST_ODD_KEYS = 1000
_DEEPEST = 512

# Sizes of objects in CPython, including the pointer in a list; speedups/packets.h has the same numbers.
# CPython overallocates lists of more than 16 items, by an eighth or by seven pointers.
_PLACE = 9
_NUMBER = 45  # an int of eight bytes; a float is smaller
_LIST, _LONG_LIST = 65, 121
_DICT, _DICT_ITEM = 241, 57  # with int keys, which take more than str ones
_EMPTY_DICT = 73
_TEXT = 58  # ASCII, without its characters
_WIDE_TEXT = 85  # not ASCII, without its characters
_BYTES = 42
_EXTENSION = 137

_from_bytes = int.from_bytes

# For each first byte of msgpack: the number of bytes that follow, or, if a length follows, its negative size.
_NUMBERS = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_TEXTS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_LISTS = {0xDC: 2, 0xDD: 4}
_DICTS = {0xDE: 2, 0xDF: 4}


def python_msgpack_size(data: bytes, limit: int) -> int:
    """Return the bytes of memory that the msgpack values in ``data`` decode to.

    Args:
        data: a msgpack payload.
        limit: the result is exact up to this many bytes. Any larger size results in some number above it.

    Returns:
        The size, or `ODD_KEYS` or `TOO_DEEP` for a payload that must not be decoded whatever its size.
    """
    total = i = cost = 0
    size = len(data)
    # For each unfinished list or dict: the remaining values, whether it is a dict, and its number of odd
    # keys.
    stack: list[list[int]] = []
    while i < size and total <= limit:
        first = data[i]
        i += 1
        inside = -1  # the values in a list or a dict
        is_dict = is_text = False
        if first < 0x80:
            total += _PLACE
        elif first < 0x90:
            total += _dict_size(first & 0x0F)
            inside, is_dict = 2 * (first & 0x0F), True
        elif first < 0xA0:
            total += _LIST
            inside = first & 0x0F
        elif first < 0xC0:
            end = i + (first & 0x1F)
            total += _text_size(data[i:end])
            i, is_text = end, True
        elif first >= 0xE0 or first in _NUMBERS:
            total += _NUMBER
            i += _NUMBERS.get(first, 0)
        elif first in _TEXTS:
            start = i + _TEXTS[first]
            i, is_text = start + _from_bytes(data[i:start], "big"), True
            total += _text_size(data[start:i])
        elif first in _LISTS:
            start = i + _LISTS[first]
            total += _LONG_LIST
            inside = _from_bytes(data[i:start], "big")
            i = start
        elif first in _DICTS:
            start = i + _DICTS[first]
            items = _from_bytes(data[i:start], "big")
            total += _dict_size(min(items, size))
            inside, is_dict = 2 * items, True
            i = start
        elif first in _BINARIES:
            start = i + _BINARIES[first]
            length = _from_bytes(data[i:start], "big")
            total += _BYTES + min(length, size)
            i, is_text = start + length, True
        elif first in _EXTENSIONS or first in _FIXED_EXTENSIONS:
            start = i + _EXTENSIONS.get(first, 0)
            length = _FIXED_EXTENSIONS.get(first) or _from_bytes(data[i:start], "big")
            total += _EXTENSION + min(length, size)
            i = start + 1 + length
        else:  # nil, true, false, and the unused byte
            total += _PLACE
        if stack:
            top = stack[-1]
            if top[1] and not top[0] & 1 and not is_text:
                top[2] += 1
                cost += 2 * top[2] - 1  # adds up to the square of the number of odd keys
                if cost > _MOST_ODD_KEYS**2:
                    return ODD_KEYS
            top[0] -= 1
        if inside > 0:
            if len(stack) == _DEEPEST:
                return TOO_DEEP
            stack.append([inside, is_dict, 0])
        while stack and not stack[-1][0]:
            stack.pop()
    return total


def _dict_size(items: int) -> int:
    return _DICT + _DICT_ITEM * items if items else _EMPTY_DICT


def _text_size(text: bytes) -> int:
    if text.isascii():
        # CPython shares the objects of empty texts and of single characters.
        return _TEXT + len(text) if len(text) > 1 else _PLACE
    # Every character takes as many bytes as the widest one: 1, 2 or 4.
    widest = max(text)
    characters = len(text.translate(None, _CONTINUATION_BYTES))
    return _WIDE_TEXT + characters * (4 if widest >= 0xF0 else 2 if widest >= 0xC4 else 1)


_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))

msgpack_size: Callable[[bytes, int], int] = python_msgpack_size
if extension is not None:
    msgpack_size = extension.msgpack_size


_JSON_LIST, _JSON_ITEM = 96, 1  # lists grow as they are read


def json_size(payload: str | bytes, limit: int) -> int:
    """Return the bytes of memory that a JSON payload decodes to.

    Args:
        payload: JSON text.
        limit: a rough upper bound is returned if it does not exceed this; otherwise the size is computed, and
            any size above the limit results in some number above it.
    """
    data = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
    wide = not data.isascii() or b"\\u" in data
    texts = len(data) * (4 if wide else 1)
    # An upper bound: every brace and comma inside strings is counted.
    guess = texts + _json_structure(data) + _TEXT * (data.count(b",") + data.count(b":") + 1)
    if guess <= limit:
        return guess
    # Without the contents of strings. An escaped quote does not end a string.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    strings = (plain.count(b'"') + 1) // 2
    if strings * _TEXT > limit:
        return strings * _TEXT
    outside = b"".join(plain.split(b'"')[::2]) if strings else plain
    numbers = max(outside.count(b",") + outside.count(b":") + 1 - strings, 0)
    texts -= len(outside) * (4 if wide else 1)
    return texts + _json_structure(outside) + strings * (_WIDE_TEXT if wide else _TEXT) + numbers * _NUMBER


def _json_structure(data: bytes) -> int:
    return (
        data.count(b"[") * _JSON_LIST
        + data.count(b"{") * _DICT
        + data.count(b":") * _DICT_ITEM
        + data.count(b",") * _JSON_ITEM
    )
