"""Options: every limit and timeout, frozen, shared by clients and servers.

Invariants: each field has a unit and a default that is safe on the open internet, is validated when the
object is made, and has a test that reaches it. ``None`` means "no limit" only if the field says so.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Compression", "Options"]

_NOT_IN_A_HOST = re.compile(r"[\s\[\]/?#@,*]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Settings of permessage-deflate (RFC 7692).

    With the defaults a connection's compressor takes 38 KiB and its inflater 12 KiB, once a message needs
    them; zlib's own defaults take 230 KiB together. Incompressible data grows by 0.25 %. If a peer cannot
    keep its window as small as requested, or was not asked to, the inflater of a client takes 42 KiB; that of
    a server takes as much while a message arrives, and nothing in between.

    Attributes:
        level: zlib level, 1 (fast) to 9 (small). Default 6.
        memory_level: zlib memLevel, 1 to 9; the compressor takes ``2 ** (memory_level + 9)`` bytes plus the
            window. Default 5; with less, incompressible data grows more.
        threshold: messages below this many bytes are sent uncompressed. Default 256.
        server_max_window_bits: window of the server's compressor, 9 to 15, as a power of two bytes. None, the
            default: a server uses 12, and a client requests nothing. A client that requests a size accepts
            the server's answer; some servers refuse such clients.
        client_max_window_bits: the same for the client's compressor. A server requests it from clients that
            support it. Default 12.
        server_no_context_takeover: the server resets its window after each message. Default False.
        client_no_context_takeover: the client resets its window after each message. Default False.
    """

    level: int = 6
    memory_level: int = 5
    threshold: int = 256
    server_max_window_bits: int | None = None
    client_max_window_bits: int = 12
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False

    def __post_init__(self) -> None:
        _within(self, "level", 1, 9)
        _within(self, "memory_level", 1, 9)
        _within(self, "threshold", 0, None)
        # RFC 7692 allows 8, but zlib cannot compress with it; see protocol/deflate.py.
        _within(self, "server_max_window_bits", 9, 15, none=True)
        _within(self, "client_max_window_bits", 9, 15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every limit and timeout of a connection, a client or a server.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range; the message names it.

    Attributes:
        max_message_size: bytes of one incoming message after inflation; text counts as UTF-8. Beyond it the
            connection closes with 1009. None for no limit. Default 1 MiB.
        max_queue_bytes: bytes of received messages that wait for the application, plus 128 bytes for each.
            Beyond it reading stops, so that TCP slows the peer. The data of a single read, and one message,
            may exceed it. Default 1 MiB.
        max_held_bytes: bytes of everything else that a connection holds for its peer, as Python objects:
            waiting requests and the arguments of running calls, packets that wait for ``on_receive``, items
            of streams, responses of an incomplete batch. Beyond it no more work is started for the peer, and
            reading stops. One message may exceed it. Default None: four times ``max_queue_bytes``, 4 MiB.
        max_decoded_bytes: bytes of Python objects that one RPC packet may decode to; a byte of msgpack can
            become a hundred. A larger request is refused with -32602; any other packet closes the connection
            with 1009. Default 6 MiB.
        send_high_water: bytes in the write buffer beyond which ``send`` waits. One message may exceed it.
            Default 64 KiB.
        open_timeout: seconds for the whole opening handshake: for a client from DNS to the response, and as
            many for its ``on_connection``; for a server from the accepted TCP connection to the last byte of
            the request. Default 10.
        close_timeout: seconds for a whole close: writing the remaining data, the closing handshake and the
            end of TCP. Default 10.
        drain_timeout: seconds for handlers to finish when a server stops. Default 10.
        ping_interval: seconds without an inbound byte after which a ping is sent. Connections are checked
            once per interval, so it may take up to twice as long. None for no pings. Default 20.
        ping_timeout: seconds after such a ping, or with a blocked write, without a byte in either direction,
            after which the peer is considered gone. None for no timeout. Default 20.
        compression: permessage-deflate: False, True (the defaults of `Compression`), or a `Compression`.
            Default False: each compressed connection costs tens of KiB, and small messages do not gain.
        max_connections: simultaneous connections of a server, including plain HTTP requests to an App; more
            get HTTP 503. None for no limit. Default 20,000.
        max_handshakes: simultaneous opening handshakes of a server, including TLS; more get HTTP 503 (over
            TLS, and over listeners other than sockets, they are dropped). Default 1,024.
        max_connections_per_address: simultaneous connections of a server with one client address, in any
            state, including opening handshakes and refusals being read. More get HTTP 503, as for
            ``max_handshakes``. An IPv6 address counts as its /64 network; Unix sockets are not counted. None,
            the default: three quarters of ``max_connections``, and for addresses other than loopback at most
            128, which take at most 2 GiB with the default options.
        max_handshakes_per_address: the same for opening handshakes. None, the default: three quarters of
            ``max_handshakes``, and for addresses other than loopback at most 64.
        max_header_bytes: bytes of the whole head of a request or response; more get HTTP 431. Default 16 KiB.
        max_redirects: consecutive redirects that a client follows. 0 for none: then each is a
            `HandshakeRejectedError`. Default 10.
        max_body_bytes: bytes of the body of a plain HTTP request; more get HTTP 413. Default 64 KiB.
        max_concurrent_calls: calls of the peer that run at once on a connection. Further calls wait, unread,
            while ``max_queue_bytes`` has room; if that would block responses to our own calls, they are
            refused with -32000. Default 100.
        stream_window: items of one stream that may be in flight or wait for their consumer; beyond it the
            producer is suspended at its ``yield``. Default 64.
        stream_window_bytes: the same in bytes, as on the wire; one item may exceed it. All streams share half
            of ``max_held_bytes``, so each may have less. For ``trio-ws.v1``. Default 1 MiB.
        channel_max_items: messages of channels that wait for one slow connection, in addition to its write
            buffer; beyond it the policy of its subscription applies. Default 1,024.
        channel_max_bytes: bytes of these messages, as msgpack and as each of their frames, plus 128 bytes for
            each; one may exceed it. All connections share them. `trio_ws.broadcast` closes a connection with
            more waiting. In a client: bytes of decoded packets that wait in one `Subscription`; one may
            exceed it. Default 1 MiB.
        max_subscribed_channels: names and globs that one connection may be subscribed to, and channels that
            it may be present in; 0 for no limit.
            Default 1,000.
        json_in_binary: send JSON packets in binary frames instead of text frames. Default False.
        origins: browser origins that a server accepts, such as ``"https://example.com"`` or
            ``"https://example.com:8443"``; ``"*"`` accepts all. None, the default, accepts pages of the host
            in the request's ``Host`` header, whatever the port. A request without an ``Origin`` header does
            not come from a browser and is always accepted (RFC 6455 section 10.2).
        hosts: host names that a server accepts, such as ``"chat.example"`` or ``"*.chat.example"``, without a
            port; ``"*"`` for any. A request for another host gets HTTP 403; one without a host does not come
            from a browser and is accepted. None, the default, accepts every host if other machines can reach
            the server, or it uses TLS. On a loopback address without TLS, where a page could use DNS
            rebinding, only loopback names are accepted: ``localhost``, names below it, 127.0.0.0/8,
            ``[::1]``; and from programs other than browsers, names without a dot. Loopback names are always
            accepted there.
        trusted_proxies: addresses and networks of reverse proxies whose information about clients a server
            uses, such as ``"127.0.0.1"``, ``"10.0.0.0/8"`` or ``"2001:db8::/32"``; ``"unix"`` for clients of
            a Unix socket. From them it uses ``X-Forwarded-For``, ``-Proto`` and ``-Host``, or ``Forwarded``
            (RFC 7239): the client is the last listed address that is not itself trusted. ``client_address``,
            limits per address, the log and the checks of ``hosts`` and ``origins`` then refer to the client.
            The proxies themselves have no limit per address. Default: none.
        forwarded_header: the one of the two that such a proxy writes, ``"X-Forwarded-For"`` or
            ``"Forwarded"``; the other one may come from a client, and is ignored. None, the default, accepts
            either; if both are present and differ, the response is HTTP 400.
        proxy_protocol: require the PROXY protocol, version 1 or 2, on connections from ``trusted_proxies``,
            as HAProxy's ``send-proxy`` and ``send-proxy-v2`` write it, before TLS and within
            ``open_timeout``; a connection without it is dropped. Default False.
        unix_mode: permissions of the file of a server's Unix socket, as for ``os.chmod``. Connecting requires
            write permission. Default ``0o600``: the server's own user only; ``0o660`` adds its group.
    """

    max_message_size: int | None = 1024 * 1024
    max_queue_bytes: int = 1024 * 1024
    max_held_bytes: int | None = None
    max_decoded_bytes: int = 6 * 1024 * 1024
    send_high_water: int = 64 * 1024
    open_timeout: float = 10.0
    close_timeout: float = 10.0
    drain_timeout: float = 10.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    compression: bool | Compression = False
    max_connections: int | None = 20_000
    max_handshakes: int = 1024
    max_connections_per_address: int | None = None
    max_handshakes_per_address: int | None = None
    max_header_bytes: int = 16 * 1024
    max_redirects: int = 10
    max_body_bytes: int = 64 * 1024
    max_concurrent_calls: int = 100
    stream_window: int = 64
    stream_window_bytes: int = 1024 * 1024
    channel_max_items: int = 1024
    channel_max_bytes: int = 1024 * 1024
    max_subscribed_channels: int = 1000
    json_in_binary: bool = False
    origins: Sequence[str] | None = None
    hosts: Sequence[str] | None = None
    trusted_proxies: Sequence[str] = ()
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] | None = None
    proxy_protocol: bool = False
    unix_mode: int = 0o600

    def __post_init__(self) -> None:
        _within(self, "max_message_size", 1, None, none=True)
        _within(self, "max_queue_bytes", 1, None)
        _within(self, "max_held_bytes", 1, None, none=True)
        _within(self, "max_decoded_bytes", 1024, None)
        _within(self, "send_high_water", 1, None)
        _within(self, "max_connections", 1, None, none=True)
        _within(self, "max_handshakes", 1, None)
        _within(self, "max_connections_per_address", 1, None, none=True)
        _within(self, "max_handshakes_per_address", 1, None, none=True)
        _within(self, "max_header_bytes", 256, None)
        _within(self, "max_redirects", 0, None)
        _within(self, "max_body_bytes", 0, None)
        _within(self, "max_concurrent_calls", 1, None)
        _within(self, "stream_window", 1, None)
        _within(self, "stream_window_bytes", 1, None)
        _within(self, "channel_max_items", 1, None)
        _within(self, "channel_max_bytes", 1, None)
        _within(self, "max_subscribed_channels", 0, None)
        _seconds(self, "open_timeout")
        _seconds(self, "close_timeout")
        _seconds(self, "drain_timeout")
        _seconds(self, "ping_interval", none=True)
        _seconds(self, "ping_timeout", none=True)
        if not isinstance(self.compression, bool | Compression):
            raise TypeError(
                f"compression must be True, False or a Compression, not {type(self.compression).__name__}"
            )
        if isinstance(self.origins, str):
            raise TypeError(f"origins must be a sequence of str; use origins=[{self.origins!r}]")
        if self.origins is not None:
            object.__setattr__(self, "origins", tuple(self.origins))
            for origin in self.origins:
                if origin not in ("*", "null") and "://" not in origin:
                    raise ValueError(f"{origin!r} is not an origin; add its scheme: 'https://{origin}'")

        if isinstance(self.hosts, str):
            raise TypeError(f"hosts must be a sequence of str; use hosts=[{self.hosts!r}]")
        if self.hosts is not None:
            object.__setattr__(self, "hosts", tuple(_host(name) for name in self.hosts))
        _within(self, "unix_mode", 0, 0o777)
        if isinstance(self.trusted_proxies, str):
            raise TypeError(f"trusted_proxies must be a sequence of str; use [{self.trusted_proxies!r}]")
        object.__setattr__(self, "trusted_proxies", tuple(_proxy(name) for name in self.trusted_proxies))
        if self.forwarded_header not in (None, "X-Forwarded-For", "Forwarded"):
            raise ValueError(
                f"forwarded_header is 'X-Forwarded-For', 'Forwarded' or None, not {self.forwarded_header!r}"
            )
        if not isinstance(self.proxy_protocol, bool):
            raise TypeError(f"proxy_protocol must be True or False, not {type(self.proxy_protocol).__name__}")
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol requires trusted_proxies: it is never trusted from others")

    @property
    def held_limit(self) -> int:
        """The effective value of `max_held_bytes`."""
        return _four_times(self.max_queue_bytes) if self.max_held_bytes is None else self.max_held_bytes

    @property
    def deflate(self) -> Compression | None:
        """The effective `Compression`, or None for no compression."""
        if isinstance(self.compression, Compression):
            return self.compression
        return Compression() if self.compression else None


@functools.lru_cache(maxsize=8)
def _four_times(size: int) -> int:
    """Return the same object each time, which all connections keep."""
    return 4 * size


def _host(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name in hosts must be a str, not {type(name).__name__}")
    found = name.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    wildcard = found == "*" or found.startswith("*.")
    try:
        if ":" in found:
            return str(ipaddress.IPv6Address(found))
    except ValueError:
        found = ""
    if not found or _NOT_IN_A_HOST.search(found[1:] if wildcard else found):
        raise ValueError(
            f"{name!r} in hosts is not a host name; use one without scheme, port and path:"
            " 'example.com', '*.example.com', or '*' for any"
        )
    return found


def _proxy(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"an entry of trusted_proxies must be a str, not {type(name).__name__}")
    if name == "unix":
        return name
    try:
        return str(ipaddress.ip_network(name))
    except ValueError as exc:
        raise ValueError(
            f"{name!r} in trusted_proxies is neither an address nor a network: {exc};"
            " use '10.0.0.1', '10.0.0.0/8', or 'unix' for Unix sockets"
        ) from None


def _within(obj: object, name: str, low: int, high: int | None, *, none: bool = False) -> None:
    value = getattr(obj, name)
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int{' or None' if none else ''}, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bound = f"from {low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name} must be {bound}, not {value}")


def _seconds(obj: object, name: str, *, none: bool = False) -> None:
    value = getattr(obj, name)
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "a number of seconds or None" if none else "a number of seconds"
        raise TypeError(f"{name} must be {kind}, not {type(value).__name__}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{name} must be above 0 seconds, not {value}")
