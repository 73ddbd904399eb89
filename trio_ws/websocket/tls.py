"""TLS over any stream, with memory that does not grow with what one read brings.

trio's `SSLStream` reads as much as the stream below has, 64 KiB of a socket, into a buffer of OpenSSL's that
never shrinks. Read in pieces of a record, a connection keeps 40 KiB less after its first large message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import ssl

__all__ = ["BoundedReads", "tls_client", "tls_server"]

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
