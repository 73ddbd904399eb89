"""The private attributes of connections that tests read. Other tests should not use private names of trio_ws.

A change of the internals then requires a change of this file only. Each function says what it returns in the
words of the documentation, so that a test reads as a statement about behaviour.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from trio_ws.websocket.readers import ReadBy

if TYPE_CHECKING:
    from trio_ws import Hub, WebSocket
    from trio_ws.channels.channel import Channel
    from trio_ws.channels.history import ChannelHistories
    from trio_ws.channels.names import Globs
    from trio_ws.channels.presence import PresenceRegistry
    from trio_ws.ledger import MemoryLedger
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.readers import ConnectionObserver

__all__ = [
    "abort",
    "broadcast_channel",
    "bytes_of_unfinished_message",
    "channels_of",
    "deflate_of",
    "derived_channels",
    "fail_writing",
    "globs_of",
    "histories_of",
    "inflated_bytes",
    "is_let_in",
    "is_write_blocked",
    "ledger_of",
    "link_of",
    "number_of",
    "observer_of",
    "one_way",
    "post",
    "presence_of",
    "put_message",
    "queue_full",
    "read_by_epoll",
    "reading_stopped",
    "transport_of",
    "waiting_messages",
]


# -- received messages ------------------------------------------------------------------------------


def waiting_messages(ws: WebSocket) -> list[str | bytes]:
    """The messages that were read but not yet received by the application."""
    return list(ws._receive_buffer.messages)


def put_message(ws: WebSocket, payload: str | bytes) -> None:
    """Queue a message as if it had been read."""
    buffer = ws._receive_buffer
    buffer.messages = deque([*buffer.messages, payload])
    assert buffer.frames is not None
    buffer.frames.messages = buffer.messages


def queue_full(ws: WebSocket) -> bool:
    """Whether the receive buffer is full, so that reading stops."""
    return ws._receive_buffer.full


def bytes_of_unfinished_message(ws: WebSocket) -> int:
    """The number of bytes that are stored for a message whose end has not arrived."""
    frames = ws._receive_buffer.frames
    return 0 if frames is None else frames.held


def ledger_of(ws: WebSocket) -> MemoryLedger:
    """The ledger of the connection."""
    return ws._receive_buffer


# -- readers ----------------------------------------------------------------------------------------


def read_by_epoll(ws: WebSocket) -> bool:
    """Whether the shared reader reads this connection."""
    return ws._reader.by in (ReadBy.EPOLL, ReadBy.FULL_EPOLL)


def reading_stopped(ws: WebSocket) -> bool:
    """Whether reading waits until the application has emptied the receive buffer."""
    return ws._reader.stopped


def is_let_in(ws: WebSocket) -> bool:
    """Whether all state of the opening handshake has been freed."""
    return ws._opening is None and ws._reader._watching is None


def observer_of(ws: WebSocket) -> ConnectionObserver | None:
    """The RPC session that is notified of received data."""
    return ws._reader.observer


# -- channels ---------------------------------------------------------------------------------------


def channels_of(hub: Hub) -> dict[str, Channel]:
    """The channels that have subscribers, by name."""
    return hub._registry.channels


def derived_channels(hub: Hub) -> dict[str, Channel]:
    """Those that have subscribers through globs only."""
    return hub._registry.derived


def globs_of(hub: Hub) -> Globs:
    """The subscribed globs."""
    return hub._registry.globs


def broadcast_channel(hub: Hub) -> Channel:
    """The channel of all connections."""
    return hub._everyone


def histories_of(hub: Hub) -> ChannelHistories:
    """The histories, which it has."""
    assert hub._histories is not None
    return hub._histories.kept


def presence_of(hub: Hub) -> PresenceRegistry:
    """The members of its channels; the process takes part in presence from now on."""
    return hub._presence.use()


# -- the rest ---------------------------------------------------------------------------------------


def number_of(ws: WebSocket) -> int:
    """The connection's number in logs."""
    return ws._number


def deflate_of(ws: WebSocket) -> PerMessageDeflate | None:
    """The negotiated permessage-deflate."""
    return ws._deflate


def inflated_bytes(ws: WebSocket) -> int:
    """The number of bytes that the current message was inflated to so far."""
    deflate = ws._deflate
    return 0 if deflate is None else deflate._inflated


def one_way(ws: WebSocket) -> float:
    """The known latency to the peer in seconds."""
    return ws._liveness.one_way()


def transport_of(ws: WebSocket) -> Any:
    """The transport."""
    return ws._transport


def link_of(ws: WebSocket) -> Any:
    """The `trio_ws.testing.Link` that a connection in memory runs over."""
    return transport_of(ws)._stream.link


def is_write_blocked(ws: WebSocket) -> bool:
    """Whether writing is blocked by the peer or the network."""
    return ws._write_buffer.blocked


def post(ws: WebSocket, opcode: int, payload: bytes) -> None:
    """Send a message as a channel or a call does, without waiting."""
    ws._post(opcode, payload, cork=False)


def abort(ws: WebSocket) -> None:
    """End the connection immediately, without a closing handshake."""
    ws._closing.abort(None)


def fail_writing(ws: WebSocket, cause: BaseException) -> None:
    """Let writing fail, as after a shutdown of the socket."""
    ws._closing.write_failed(cause)
