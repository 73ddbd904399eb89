"""TLS over any stream, with memory that does not grow with what one read brings.

trio's `SSLStream` reads as much as the stream below has, 64 KiB of a socket, into a buffer of OpenSSL's that
never shrinks. Read in pieces of a record, a connection keeps 40 KiB less after its first large message.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.wire.tls import TLSInfo

if TYPE_CHECKING:
    import ssl

__all__ = ["BoundedReads", "note_server_names", "tls_client", "tls_info", "tls_server"]

_server_name: ContextVar[str | None] = ContextVar("trio_ws_server_name", default=None)

#: Bytes of one read below TLS: about a record.
_READ_SIZE = 16384


class BoundedReads(trio.abc.Stream):
    """A stream, read in small pieces. It owns ``inner``."""

    __slots__ = ("inner",)

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(_READ_SIZE)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


def tls_client(
    stream: trio.abc.Stream, context: ssl.SSLContext, server_hostname: str
) -> trio.SSLStream[BoundedReads]:
    """A client's TLS over ``stream``; the handshake is still to be done."""
    return trio.SSLStream(
        BoundedReads(stream), context, server_hostname=server_hostname, https_compatible=True
    )


def tls_server(stream: trio.abc.Stream, context: ssl.SSLContext) -> trio.SSLStream[BoundedReads]:
    """A server's TLS over ``stream``; the handshake is still to be done."""
    return trio.SSLStream(BoundedReads(stream), context, server_side=True, https_compatible=True)


def note_server_names(context: ssl.SSLContext) -> None:
    """Note the names that clients ask for, for `tls_info`, unless the application does so itself."""
    if context.sni_callback is None:
        context.sni_callback = _note


def _note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
    # In the task of the connection, whose context has one of its own.
    _server_name.set(name)


def tls_info(stream: trio.SSLStream[Any]) -> TLSInfo:
    """What is known of a stream after its handshake, which this task has made."""
    details: Any = stream
    return TLSInfo(
        # One text for all connections, of which there are many.
        version=sys.intern(details.version()),
        cipher=sys.intern(details.cipher()[0]),
        peer_certificate=details.getpeercert() or None,
        server_name=details.server_hostname or _server_name.get(),
    )
