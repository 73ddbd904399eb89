"""ServerConfig: the validated settings of a server.

`WebSocketServer`, `serve`, `App.run`, `ASGIApp` and `serve_processes` take the same settings. `server_config`
lists and validates them, so no server has to be created just to validate arguments.
"""

from __future__ import annotations

import inspect
import os
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import trio

from trio_ws._settings import refuse_unknown
from trio_ws.channels.broker import Broker
from trio_ws.channels.broker_urls import broker_from
from trio_ws.codecs.registry import SUBPROTOCOLS
from trio_ws.options import Options
from trio_ws.protocol.handshake import check_subprotocols
from trio_ws.protocol.tls import check_context
from trio_ws.rpc.handler import WebSocketHandler, prepare
from trio_ws.rpc.marking import is_marked
from trio_ws.server.blocking import BlockingWebSocket
from trio_ws.server.listeners import ALL_INTERFACES
from trio_ws.server.router import Router
from trio_ws.server.routing import check_function, name_of
from trio_ws.systems import AF_UNIX, unix_family
from trio_ws.websocket.connection import WebSocket

__all__ = ["ServerConfig", "ServerSettings", "Target", "server_config", "tcp_address"]

#: ``localhost:8000``, but no IPv6 address.
_HOST_AND_PORT = re.compile(r"(\[.*\]|[^:]*):\d*")

Target = (
    Callable[[WebSocket], Awaitable[object]]
    | Callable[[BlockingWebSocket], None]
    | Router
    | WebSocketHandler
    | type[WebSocketHandler]
)


class ServerSettings(TypedDict, total=False):
    """The keyword arguments of `server_config`, for type checkers."""

    host: str | None
    ssl_context: ssl.SSLContext | None
    unix_path: str | os.PathLike[str] | None
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
    subprotocols: Sequence[str]
    max_connections: int | None
    broker: Broker | str | None
    debug: bool
    options: Options | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServerConfig:
    """The validated settings of a server, as `WebSocketServer` documents them. Made by `server_config`.

    Attributes:
        target: the given target; an instance, if that is a handler class.
        handler: the target, if it is a `WebSocketHandler`.
        router: the target, if it is a `Router` such as an App.
        subprotocols: for a handler, the RPC subprotocols by default.
        broker: the broker, even if a URL was given.
        debug: also true for an App in debug mode.
        options: including ``max_connections``, if that was given.
    """

    target: Any
    handler: WebSocketHandler | None
    router: Router | None
    port: int
    host: str | None
    ssl_context: ssl.SSLContext | None
    unix_path: str | os.PathLike[str] | None
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
    subprotocols: tuple[str, ...]
    broker: Broker | None
    debug: bool
    options: Options

    def url(self, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> str:
        """Return a URI to connect to the first of these listeners from this machine.

        Raises:
            RuntimeError: there is no TCP listener; never with ``unix_path``.
        """
        scheme = "wss" if self.ssl_context is not None else "ws"
        if self.unix_path is not None:
            return f"{scheme}://localhost/"
        host, port = tcp_address(listeners)
        anywhere = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        if host in anywhere or (self.host is None and self.listeners is None):
            # "localhost" resolves to IPv4 only on some machines.
            host = "::1" if host == "::" and len(listeners) == 1 else "localhost"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def tcp_address(listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]) -> tuple[str, int]:
    """Return the host and the port of the first TCP listener.

    Raises:
        RuntimeError: there is none.
    """
    for listener in listeners:
        if isinstance(listener, trio.SocketListener) and listener.socket.family != AF_UNIX:
            host, port = listener.socket.getsockname()[:2]
            return str(host), int(port)
    raise RuntimeError("this server has no TCP listener, or is not running")


def server_config(
    target: Any = None,
    port: int = 0,
    *,
    host: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None = None,
    subprotocols: Sequence[str] = (),
    max_connections: int | None = None,
    broker: Broker | str | None = None,
    debug: bool = False,
    options: Options | None = None,
    **unknown: object,
) -> ServerConfig:
    """Validate the settings of a server.

    Raises:
        TypeError, ValueError: an argument is invalid.
        BrokerError: a package that the broker requires is not installed.
        RuntimeError: ``unix_path`` on a system without Unix sockets.
    """
    refuse_unknown("a server", server_config, unknown)
    _check_target(target)
    _check_address(port, host, unix_path, listeners)
    if options is not None and not isinstance(options, Options):
        raise TypeError(f"options must be an Options, not {type(options).__name__}; use Options(...)")
    check_context(ssl_context, server=True)
    if options is None:
        options = Options()
    if max_connections is not None:
        options = replace(options, max_connections=max_connections)
    if isinstance(target, type) and issubclass(target, WebSocketHandler):
        target = target()
    handler = target if isinstance(target, WebSocketHandler) else None
    if handler is not None:
        prepare(handler)
        subprotocols = subprotocols or SUBPROTOCOLS
    router = target if isinstance(target, Router) else None
    debug = debug or (router is not None and router.debug)
    if router is not None:
        router.check_settings(debug=debug)
    return ServerConfig(
        target=target,
        handler=handler,
        router=router,
        port=port,
        host=host,
        ssl_context=ssl_context,
        unix_path=unix_path,
        listeners=listeners,
        subprotocols=tuple(check_subprotocols(subprotocols)),
        broker=broker_from(broker) if broker is not None else None,
        debug=debug,
        options=options,
    )


def _check_target(target: object) -> None:
    if target is None or isinstance(target, WebSocketHandler | Router):
        return
    if isinstance(target, type) and issubclass(target, WebSocketHandler):
        return
    if isinstance(target, str):
        raise TypeError(
            f"the target is a str, {target!r}; import it and pass the object, or use serve_processes() or the"
            " command `trio-ws serve`, which import it"
        )
    if isinstance(target, type) and issubclass(target, Router):
        raise TypeError(f"the target is the class {target.__name__}; pass an instance: {target.__name__}()")
    if isinstance(target, type) and any(map(is_marked, vars(target).values())):
        raise TypeError(
            f"{target.__name__} has @rpc_method(), but no base class; write:"
            f" class {target.__name__}(trio_ws.WebSocketHandler)"
        )
    if is_marked(target):
        raise TypeError(
            f"{name_of(target)} has @rpc_method(), so it must be a method of a class that inherits from"
            " trio_ws.WebSocketHandler; serve that class"
        )
    if not (callable(target) or inspect.iscoroutine(target)) or isinstance(target, type):
        raise TypeError(
            f"the target must be a function of one WebSocket, a WebSocketHandler or an App, not {target!r}"
        )
    check_function(target, "WebSocket")


def _check_address(
    port: int, host: object, unix_path: object, listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] | None
) -> None:
    if host is not None and not isinstance(host, str):
        raise TypeError(f"host must be a str or None, not {type(host).__name__}")
    if host == "":
        raise ValueError(
            f"host is empty; omit it for the loopback addresses, or use {ALL_INTERFACES!r} for all interfaces"
        )
    if host is not None and ("/" in host or _HOST_AND_PORT.fullmatch(host)):
        raise ValueError(
            f"host must be a name or an address alone, not {host!r}; the port is an argument of its own"
        )
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an int, not {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    if unix_path is not None and listeners is not None:
        raise ValueError("unix_path and listeners are mutually exclusive")
    if unix_path is not None:
        unix_family()
    if listeners is not None and not isinstance(listeners, Sequence):
        raise TypeError(f"listeners must be a list of listeners, not {type(listeners).__name__}")
    if listeners is not None and not listeners:
        raise ValueError("listeners is empty; omit it to listen on a port")
