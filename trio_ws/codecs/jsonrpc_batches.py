"""Batches of JSON-RPC 2.0 (https://www.jsonrpc.org/specification#batch).

Invariants:

- The responses to a batch are sent in one array when the last of its calls has ended.
- Until then, they are charged to the ledger.
- At most `MAX_BATCH` members of an array are converted to Python objects, whatever its length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from trio_ws.ledger import OVERHEAD

if TYPE_CHECKING:
    from trio_ws.ledger import MemoryLedger

__all__ = ["MAX_BATCH", "Batch", "BatchMember", "is_batch", "split_batch"]

#: Maximum number of members of one batch. A member may have two bytes, and its response a hundred.
MAX_BATCH = 1000

# One member more than allowed, to detect longer batches. The rest of the array is skipped.
_ABSENT = Raw()
_Members = msgspec.defstruct(
    "_Members", [(f"member_{i}", Raw, _ABSENT) for i in range(MAX_BATCH + 1)], array_like=True, gc=False
)
_decode_members = msgspec.json.Decoder(_Members).decode


class Batch:
    """The responses to one batch, until they are complete.

    Args:
        members: the number of members of the batch.

    Attributes:
        full: whether a response was too large, so that no more members are started.
    """

    __slots__ = ("_responses", "_size", "_unfinished", "full")

    def __init__(self, members: int) -> None:
        self._responses: list[bytes] = []
        self._size = 0  # bytes of the responses
        self._unfinished = members
        self.full = False

    def exceeds(self, response: bytes, ledger: MemoryLedger) -> bool:
        """Whether another response is too large to be stored with the previous ones."""
        too_large = bool(self._responses) and self._size + len(response) > ledger.max_received
        return too_large or ledger.held + len(response) > 2 * ledger.max_held

    def end_member(self, response: bytes | None, ledger: MemoryLedger | None) -> bytes | None:
        """Store the response to a member, or None if it has no response.

        Returns:
            The array of all responses if this was the last member, otherwise None. Also None if no member
            has a response.
        """
        if response is not None:
            if ledger is not None:
                ledger.held += len(response) + OVERHEAD
            self._responses.append(response)
            self._size += len(response)
        self._unfinished -= 1
        if self._unfinished or not self._responses:
            return None
        if ledger is not None:
            ledger.held -= self._size + OVERHEAD * len(self._responses)
        return b"[" + b",".join(self._responses) + b"]"


class BatchMember(msgspec.Struct, gc=False):
    """A member of a batch that has not been decoded yet."""

    raw: Raw
    batch: Batch


def is_batch(payload: str | bytes) -> bool:
    """Whether a message is a JSON array, according to its first character."""
    # A tuple of both would compare text with bytes, which python -bb forbids.
    return payload.lstrip().startswith("[" if isinstance(payload, str) else b"[")  # type: ignore[arg-type]


def split_batch(payload: str | bytes) -> list[BatchMember]:
    """Split a batch into its members, without decoding them.

    Returns:
        The members; an empty list if there are none, or more than `MAX_BATCH`.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: the payload is not a JSON array.
    """
    found = astuple(_decode_members(payload))
    members = found[: found.index(_ABSENT)] if _ABSENT in found else found
    if not 0 < len(members) <= MAX_BATCH:
        return []
    batch = Batch(len(members))
    return [BatchMember(raw, batch) for raw in members]
