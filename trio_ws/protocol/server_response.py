"""The responses of a server to an opening handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.protocol.deflate import PerMessageDeflate, answer
from trio_ws.protocol.handshake import accept_response, offered_extensions, offered_subprotocols
from trio_ws.protocol.http import http_response

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trio_ws.options import Options
    from trio_ws.protocol.http import Request

__all__ = ["answer_refusal", "answer_upgrade"]


def answer_upgrade(
    request: Request,
    subprotocol: str | None,
    preferred: Sequence[str],
    headers: Iterable[tuple[str, str]],
    options: Options,
) -> tuple[bytes, str | None, PerMessageDeflate | None]:
    """Return the 101, the subprotocol and the compression that a server agrees to.

    If ``subprotocol`` is not given, it is the first of ``preferred`` that the client offered, or none.
    """
    if subprotocol is None and preferred:
        offered = offered_subprotocols(request)
        subprotocol = next((name for name in preferred if name in offered), None)
    compression = options.deflate
    agreed = answer(compression, offered_extensions(request)) if compression is not None else None
    response = accept_response(
        request, subprotocol=subprotocol, extensions=agreed[0] if agreed else None, headers=headers
    )
    deflate = None
    if agreed is not None and compression is not None:
        deflate = PerMessageDeflate(
            client=False,
            params=agreed[1],
            compression=compression,
            max_message_size=options.max_message_size,
        )
        deflate.agreed = agreed[0]
    return response, subprotocol, deflate


def answer_refusal(status: int, headers: Iterable[tuple[str, str]], body: bytes | str) -> bytes:
    """Build an HTTP response that refuses the upgrade."""
    return http_response(status, headers, body.encode() if isinstance(body, str) else body)
