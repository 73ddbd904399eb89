"""Proxies: choose the one for a server, and open a stream through it.

HTTP proxies are asked with CONNECT, also for ``ws://`` (RFC 6455 section 4.1). SOCKS5 uses python-socks, from
the extra ``proxy``.

Invariants: no message, log line or repr contains a user or a password. Whatever a proxy does, the stream to
it is closed and the error is a `ConnectionFailedError` that names it.
"""

from __future__ import annotations

import math
import os
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import trio

from trio_ws.client.failures import explain
from trio_ws.client.http_tunnel import Tunnel, TunnelError
from trio_ws.client.uri import basic_authorization, split_host
from trio_ws.errors import ConnectionFailedError, InvalidURIError
from trio_ws.protocol.urls import masked
from trio_ws.websocket.sockets import close_forcefully, do_handshake, open_tcp
from trio_ws.websocket.tls import tls_client

if TYPE_CHECKING:
    from trio_ws.client.uri import WebSocketURI

__all__ = ["Proxy", "choose_proxy", "open_through", "parse_proxy"]

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
_READ_SIZE = 4096
#: Environment variables in order of preference. RFC 6455 section 4.1 prefers SOCKS, then a proxy for HTTPS.
_VARIABLES = {True: ("wss", "socks", "https", "all"), False: ("ws", "socks", "https", "http", "all")}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A parsed proxy URL.

    Attributes:
        scheme: ``http``, ``https``, ``socks5`` (we resolve names) or ``socks5h`` (the proxy does).
        host: its name in ASCII, or its address without brackets, with its zone.
        port: its TCP port.
        user: the user name, or None.
        password: the password, or None.
    """

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def server_name(self) -> str:
        """The name that its certificate must have."""
        return self.host.partition("%")[0].removesuffix(".")

    def __str__(self) -> str:
        host = f"[{self.server_name}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_proxy(url: str) -> Proxy:
    """Parse a proxy URL.

    Raises:
        InvalidURIError: the URL cannot be used; the message says how to fix it.
    """
    shown = masked(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # The cause would contain the whole URL with its password.
        raise InvalidURIError(f"{shown!r} is not a proxy URL") from None
    if parts.scheme not in _PORTS:
        known = ", ".join(f"{scheme}://" for scheme in _PORTS)
        raise InvalidURIError(f"the proxy {shown!r} has an unknown scheme; use one of {known}")
    if not parts.hostname:
        raise InvalidURIError(f"the proxy {shown!r} has no host")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidURIError(f"the proxy {shown!r} has more than scheme, user, host and port")
    user = password = None
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        sizes = len(user), len(password)
        if parts.scheme.startswith("socks") and not (
            (user + password).isascii() and min(sizes) >= 1 and max(sizes) <= 255
        ):
            # RFC 1929 has no more room, and no way to declare an encoding.
            raise InvalidURIError(
                f"user and password of the proxy {shown!r} must have 1 to 255 ASCII characters each"
            )
    host = "%".join(filter(None, split_host(parts.hostname)))
    return Proxy(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, user, password)


def choose_proxy(uri: WebSocketURI, choice: Literal[True] | str | None) -> Proxy | None:
    """Return the proxy for a server: the chosen one, or for True the one from the environment.

    Raises:
        TypeError: ``choice`` has another type.
        InvalidURIError: the URL is not a proxy URL.
    """
    if isinstance(choice, str):
        return parse_proxy(choice)
    if choice is None:
        return None
    if choice is not True:
        raise TypeError(
            f"proxy must be True, None or a URL, not {type(choice).__name__}; use None for no proxy"
        )
    if not any(name[-6:].lower() == "_proxy" for name in os.environ):
        return None  # the usual case; getproxies is several times slower
    proxies = getproxies_environment()
    name = next((name for name in _VARIABLES[uri.secure] if name in proxies), None)
    if name is None:
        return None
    # In no_proxy, names may have a port, and addresses may have brackets.
    if proxy_bypass(f"{uri.host}:{uri.port}") or proxy_bypass(uri.authority):
        return None
    url = proxies[name]
    try:
        return parse_proxy(url if "://" in url else f"http://{url}")
    except InvalidURIError as exc:
        raise InvalidURIError(f"from the environment variable {name}_proxy: {exc}") from None


async def open_through(proxy: Proxy, uri: WebSocketURI, max_header_bytes: int) -> trio.abc.Stream:
    """Open a stream to a server through a proxy. If cancelled, it closes what it opened.

    Raises:
        ConnectionFailedError: the proxy cannot be reached, refuses, or sends an invalid response.
    """
    if proxy.scheme.startswith("socks"):
        return await _open_socks(proxy, uri)
    stream = await _reach(proxy)
    try:
        await _open_tunnel(stream, proxy, uri, max_header_bytes)
    except BaseException as exc:
        await close_forcefully(stream)
        if isinstance(exc, TunnelError):
            raise ConnectionFailedError(f"the proxy {proxy}, asked for {uri.authority}, {exc}") from exc
        if isinstance(exc, trio.BrokenResourceError):
            raise ConnectionFailedError(f"the proxy {proxy} broke the connection: {explain(exc)}") from exc
        raise
    return stream


async def _reach(proxy: Proxy) -> trio.abc.Stream:
    try:
        stream = await open_tcp(proxy.host, proxy.port)
        if proxy.scheme == "http":
            return stream
        secured = tls_client(stream, ssl.create_default_context(), proxy.server_name)
        await do_handshake(secured)
        return secured
    except (OSError, trio.BrokenResourceError) as exc:
        raise ConnectionFailedError(f"could not reach the proxy {proxy}: {explain(exc)}") from exc


async def _open_tunnel(
    stream: trio.abc.Stream, proxy: Proxy, uri: WebSocketURI, max_header_bytes: int
) -> None:
    authorization = None if proxy.user is None else basic_authorization(proxy.user, proxy.password or "")
    tunnel = Tunnel(uri.authority, authorization, max_header_bytes)
    await stream.send_all(tunnel.request)
    while True:
        received = await stream.receive_some(_READ_SIZE)
        if not received:
            tunnel.eof()
        if tunnel.feed(bytes(received)):
            return


async def _open_socks(proxy: Proxy, uri: WebSocketURI) -> trio.abc.Stream:
    try:
        import python_socks  # noqa: PLC0415 - an extra
        from python_socks.async_.trio.v2 import Proxy as Connector  # noqa: PLC0415
    except ImportError as exc:
        raise ConnectionFailedError(
            f"the proxy {proxy} requires the package python-socks: pip install 'trio-ws[proxy]'"
        ) from exc
    connector = Connector(
        python_socks.ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user,
        proxy.password,
        rdns=proxy.scheme == "socks5h",
    )
    try:
        # The caller enforces open_timeout.
        return (await connector.connect(uri.host, uri.port, timeout=math.inf)).trio_stream
    except python_socks.ProxyConnectionError as exc:
        raise ConnectionFailedError(f"could not reach the proxy {proxy}: {explain(exc)}") from exc
    except python_socks.ProxyError as exc:
        raise ConnectionFailedError(
            f"the proxy {proxy}, asked for {uri.authority}, did not connect: {exc}"
        ) from exc
    except (OSError, ValueError, trio.BrokenResourceError) as exc:
        # OSError: DNS, if we resolve. ValueError: an invalid address in the response.
        raise ConnectionFailedError(
            f"no connection to {uri.authority} through the proxy {proxy}: {explain(exc)}"
        ) from exc
