"""The argument and the result of ``__recover__``: both are maps, by channel name (trio-ws.v1)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trio_ws.codecs.base import Position

__all__ = ["RecoverFrom", "Recovered"]


class RecoverFrom(msgspec.Struct, omit_defaults=True):
    """Where a client's subscription begins: after a position, with the last messages, or now."""

    after: Position | None = None
    last: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0


class Recovered(msgspec.Struct, omit_defaults=True):
    """Where a subscription continues.

    Attributes:
        position: the position before the next message; None if the channel has no history.
        latest: whether the channel keeps only its newest message, and therefore has no gaps.
    """

    position: Position | None = None
    latest: bool = False
