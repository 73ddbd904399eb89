"""Options: every limit and timeout, frozen, shared by clients and servers.

What holds here: each field has a unit and a default that is safe on the open internet, is checked when the
object is made, and is met by a test. ``None`` means "no limit" only where the field says so.
"""

from __future__ import annotations

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
    """How permessage-deflate is offered and used (RFC 7692).

    With the defaults a connection's compressor takes 38 KiB and its inflater 12 KiB, from the first message
    that needs them; zlib's own defaults take 230 KiB together. What does not compress becomes 0.25 % longer.
    A peer may not be able to keep its window as small as is asked, or was not asked. The inflater of a client
    then takes 42 KiB; a server's takes as much while a message arrives, and nothing in between.

    Attributes:
        level: zlib level, 1 (fast) to 9 (small). Default 6.
        memory_level: zlib memLevel, 1 to 9; memory for compressing is ``2 ** (memory_level + 9)`` bytes
            and the window. Default 5; with less, incompressible data grows more.
        threshold: messages below this many bytes are sent uncompressed. Default 256.
        server_max_window_bits: window of what the server compresses, 9 to 15, as a power of two bytes. None,
            the default: a server takes 12, and a client asks for nothing. A client that asks takes what the
            server answers; some servers refuse clients that ask.
        client_max_window_bits: the same for what the client compresses. A server asks those for it that can.
            Default 12.
        server_no_context_takeover: the server forgets its window after each message. Default False.
        client_no_context_takeover: the client forgets its window after each message. Default False.
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
        # RFC 7692 allows 8, which zlib cannot compress with; see protocol/deflate.py.
        _within(self, "server_max_window_bits", 9, 15, none=True)
        _within(self, "client_max_window_bits", 9, 15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Every limit and timeout of a connection, a client or a server.

    Raises:
        TypeError, ValueError: a field is of the wrong type or out of its range; the message names it.

    Attributes:
        max_message_size: bytes of one incoming message after inflation; text counts as UTF-8. Past it the
            connection closes with 1009. None for no limit. Default 1 MiB.
        max_queue_bytes: bytes of received messages that wait for the application, with 128 bytes charged for
            each. Past it we stop reading, so that TCP slows the peer. What a single read brought, and one
            message, may come on top. Default 1 MiB.
        max_held_bytes: bytes of everything else that a connection holds for its peer, as Python holds them:
            requests that wait for their turn and the arguments of calls that run, packets that wait for
            ``on_receive``, items of streams, answers to a batch that is not complete. Past it nothing more is
            begun for the peer, and reading stops. One message may come on top. Default None: four times
            ``max_queue_bytes``, 4 MiB.
        max_decoded_bytes: bytes of Python objects that one packet of calls may decode to; a byte of msgpack
            can become a hundred. A request past it is refused with -32602, any other packet closes the
            connection with 1009. Default 6 MiB.
        send_high_water: bytes that wait to be written, past which ``send`` waits. One message may come on
            top. Default 64 KiB.
        open_timeout: seconds for the whole opening handshake: for a client from DNS to the answer, for a
            server from the accepted TCP connection to the request's last byte. Default 10.
        close_timeout: seconds for a whole close: what is still to be written, the closing handshake and the
            end of TCP. Default 10.
        drain_timeout: seconds that handlers get to finish when a server stops. Default 10.
        ping_interval: seconds without any inbound byte after which we send a ping; connections are looked at
            once in so many seconds, so it may be up to twice as long. None for no pings. Default 20.
        ping_timeout: seconds after such a ping, or with a write blocked, in which not one byte came or went,
            after which the peer counts as gone. None to never give up. Default 20.
        compression: permessage-deflate: False, True (the defaults of `Compression`), or a `Compression`.
            Default False: each compressed connection costs tens of KiB, and small messages do not gain.
        max_connections: connections that a server holds at once, plain HTTP requests to an App included; more
            get HTTP 503. None for no limit. Default 20,000.
        max_handshakes: connections of a server that may be in their opening handshake at once, TLS included;
            more get HTTP 503 (over TLS, and over listeners other than sockets, they are dropped). Default
            1,024.
        max_connections_per_address: connections that one address of a client holds at once in a server, in
            any state: also in its opening handshake, or reading the answer that refuses it. More get HTTP
            503, as for ``max_handshakes``. An IPv6 address counts for its /64 network; Unix sockets do not
            count. None, the default: three quarters of ``max_connections``, and for addresses other than
            loopback no more than 128, which take at most 2 GiB with the default options.
        max_handshakes_per_address: the same for connections in their opening handshake. None, the default:
            three quarters of ``max_handshakes``, and for addresses other than loopback no more than 64.
        max_header_bytes: bytes of a request's or a response's whole head; more get HTTP 431. Default 16 KiB.
        max_redirects: redirects that a client follows one after another. 0 for none: then each is a
            `HandshakeRejectedError`. Default 10.
        max_body_bytes: bytes of the body of a plain HTTP request; more get HTTP 413. Default 64 KiB.
        max_concurrent_calls: calls of the peer that run at once on a connection. Further ones wait, unread,
            while ``max_queue_bytes`` has room; where that would block answers to our own calls, they are
            refused with -32000. Default 100.
        stream_window: items of one stream that may be under way or wait for their consumer; past it the
            producer stands at its ``yield``. Default 64.
        stream_window_bytes: the same in bytes, as they are on the wire; one item may come on top. All streams
            share half of ``max_held_bytes``, so that each may have less. For ``trio-ws.v1``. Default 1 MiB.
        channel_max_items: messages of channels that wait for one slow connection, beside what waits to be
            written to it; past it the policy of its subscription decides. Default 1,024.
        channel_max_bytes: bytes of these messages, as msgpack and as each of the frames made of them, with
            128 bytes charged for each message; one may come on top. All connections share them.
            `trio_ws.broadcast` closes a connection for which more waits. In a client: bytes of packets,
            as they decode, that wait in one inbox of ``subscribe``; one may come on top. Default 1 MiB.
        max_subscribed_channels: names and globs that one connection may be subscribed to; 0 for no limit.
            Default 1,000.
        json_in_binary: send JSON packets in binary frames instead of text frames. Default False.
        origins: the browser origins that a server lets in, such as ``"https://example.com"`` or
            ``"https://example.com:8443"``; ``"*"`` lets in all. None, the default, lets in pages that come
            from the same host as the request's ``Host`` header, whatever the port. A request without an
            ``Origin`` header comes from no browser and is always let in (RFC 6455 section 10.2).
        hosts: the names that a server goes by, such as ``"chat.example"`` or ``"*.chat.example"``, without a
            port; ``"*"`` for any. A request for another host gets HTTP 403; one that names none comes from no
            browser and is let in. None, the default, lets in every host where other machines can reach the
            server, or it speaks TLS. Where it listens on a loopback address without TLS, a page whose name is
            made to lead there could use it (DNS rebinding), and only loopback names are let in:
            ``localhost``, names below it, 127.0.0.0/8, ``[::1]``; and from what is no browser, names without
            a dot. The loopback names are always let in there.
        trusted_proxies: the addresses and networks of reverse proxies whose word a server takes for where a
            client comes from, such as ``"127.0.0.1"``, ``"10.0.0.0/8"`` or ``"2001:db8::/32"``; ``"unix"``
            for whoever connects to a Unix socket. From them it believes ``X-Forwarded-For``, ``-Proto`` and
            ``-Host``, or ``Forwarded`` (RFC 7239): the client is the last address there that is not trusted
            itself. Then ``client_address``, shares per address, the log and the rules of ``hosts`` and
            ``origins`` are about the client. The proxies themselves have no share. Default: none.
        forwarded_header: which of the two such a proxy writes, ``"X-Forwarded-For"`` or ``"Forwarded"``; the
            other may be a client's own, and is ignored. None, the default, for whichever comes; where both do
            and differ, the answer is HTTP 400.
        proxy_protocol: expect the PROXY protocol, version 1 or 2, of connections from ``trusted_proxies``, as
            HAProxy's ``send-proxy`` and ``send-proxy-v2`` write it, before TLS and within ``open_timeout``;
            one without is dropped. Default False.
        unix_mode: permissions of the file of a server's Unix socket, as of ``os.chmod``. Connecting takes
            the right to write. Default ``0o600``: the server's own user alone; ``0o660`` adds its group.
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
                f"compression is True, False or a Compression, not {type(self.compression).__name__}"
            )
        if isinstance(self.origins, str):
            raise TypeError(f"origins is a sequence of str; write origins=[{self.origins!r}]")
        if self.origins is not None:
            object.__setattr__(self, "origins", tuple(self.origins))
            for origin in self.origins:
                if origin not in ("*", "null") and "://" not in origin:
                    raise ValueError(f"{origin!r} is no origin; write it with its scheme: 'https://{origin}'")

        if isinstance(self.hosts, str):
            raise TypeError(f"hosts is a sequence of str; write hosts=[{self.hosts!r}]")
        if self.hosts is not None:
            object.__setattr__(self, "hosts", tuple(_host(name) for name in self.hosts))
        _within(self, "unix_mode", 0, 0o777)
        if isinstance(self.trusted_proxies, str):
            raise TypeError(
                f"trusted_proxies is a sequence of str; write trusted_proxies=[{self.trusted_proxies!r}]"
            )
        object.__setattr__(self, "trusted_proxies", tuple(_proxy(name) for name in self.trusted_proxies))
        if self.forwarded_header not in (None, "X-Forwarded-For", "Forwarded"):
            raise ValueError(
                f"forwarded_header is 'X-Forwarded-For', 'Forwarded' or None, not {self.forwarded_header!r}"
            )
        if not isinstance(self.proxy_protocol, bool):
            raise TypeError(f"proxy_protocol is True or False, not {type(self.proxy_protocol).__name__}")
        if self.proxy_protocol and not self.trusted_proxies:
            raise ValueError("proxy_protocol needs trusted_proxies: it is never believed from anybody else")

    @property
    def held_limit(self) -> int:
        """The number of bytes that `max_held_bytes` says."""
        return 4 * self.max_queue_bytes if self.max_held_bytes is None else self.max_held_bytes

    @property
    def deflate(self) -> Compression | None:
        """The `Compression` in force, or None where there is none."""
        if isinstance(self.compression, Compression):
            return self.compression
        return Compression() if self.compression else None


def _host(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name in hosts is a str, not {type(name).__name__}")
    found = name.lower().removesuffix(".").removeprefix("[").removesuffix("]")
    wildcard = found == "*" or found.startswith("*.")
    try:
        if ":" in found:
            return str(ipaddress.IPv6Address(found))
    except ValueError:
        found = ""
    if not found or _NOT_IN_A_HOST.search(found[1:] if wildcard else found):
        raise ValueError(
            f"{name!r} in hosts is no host name; write it without scheme, port and path:"
            " 'example.com', '*.example.com', or '*' for any"
        )
    return found


def _proxy(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"an entry of trusted_proxies is a str, not {type(name).__name__}")
    if name == "unix":
        return name
    try:
        return str(ipaddress.ip_network(name))
    except ValueError as exc:
        raise ValueError(
            f"{name!r} in trusted_proxies is no address and no network: {exc};"
            " write '10.0.0.1', '10.0.0.0/8', or 'unix' for Unix sockets"
        ) from None


def _within(obj: object, name: str, low: int, high: int | None, *, none: bool = False) -> None:
    value = getattr(obj, name)
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int{' or None' if none else ''}, not {type(value).__name__}")
    if value < low or (high is not None and value > high):
        bound = f"from {low} to {high}" if high is not None else f"{low} or more"
        raise ValueError(f"{name} must be {bound}, not {value}")


def _seconds(obj: object, name: str, *, none: bool = False) -> None:
    value = getattr(obj, name)
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "a number of seconds or None" if none else "a number of seconds"
        raise TypeError(f"{name} is {kind}, not {type(value).__name__}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{name} must be above 0 seconds, not {value}")
