"""ConnectConfig: the validated settings of a connection.

`connect` and `WebSocketClient` take the same settings, which `connect_config` lists and validates.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import trio

from trio_ws._settings import refuse_unknown
from trio_ws.options import Options
from trio_ws.protocol.handshake import check_subprotocols
from trio_ws.protocol.tls import check_context
from trio_ws.systems import unix_family

if TYPE_CHECKING:
    from typing import TypeGuard

    from typing_extensions import TypeIs

__all__ = [
    "AskHeaders",
    "AskURI",
    "ConnectConfig",
    "ConnectSettings",
    "HeaderItems",
    "OpenStream",
    "connect_config",
    "header_pairs",
    "is_function",
]

OpenStream = Callable[[], Awaitable[trio.abc.Stream]]
HeaderItems = Mapping[str, str] | Iterable[tuple[str, str]]
AskHeaders = Callable[[], Awaitable[HeaderItems] | HeaderItems]
AskURI = Callable[[], Awaitable[str] | str]


class ConnectSettings(TypedDict, total=False):
    """The keyword arguments of `connect_config`, for type checkers."""

    subprotocols: Sequence[str]
    headers: HeaderItems | AskHeaders
    stream: trio.abc.Stream | OpenStream | None
    unix_path: str | os.PathLike[str] | None
    ssl_context: ssl.SSLContext | None
    proxy: Literal[True] | str | None
    options: Options | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConnectConfig:
    """The validated settings of a connection, as `connect` documents them. Made by `connect_config`."""

    uri: str | AskURI
    subprotocols: tuple[str, ...]
    headers: Mapping[str, str] | list[tuple[str, str]] | AskHeaders
    stream: trio.abc.Stream | OpenStream | None
    unix_path: str | os.PathLike[str] | None
    ssl_context: ssl.SSLContext | None
    proxy: Literal[True] | str | None
    options: Options

    @property
    def fixed(self) -> Literal["stream", "unix_path"] | None:
        """The setting that fixes where to connect, which excludes proxies and redirects."""
        return "stream" if self.stream is not None else "unix_path" if self.unix_path is not None else None


def connect_config(
    uri: str | AskURI,
    *,
    subprotocols: Sequence[str] = (),
    headers: HeaderItems | AskHeaders = (),
    stream: trio.abc.Stream | OpenStream | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    proxy: Literal[True] | str | None = True,
    options: Options | None = None,
    **unknown: object,
) -> ConnectConfig:
    """Validate the settings. Results of functions for ``uri`` and ``headers`` are validated later.

    Raises:
        TypeError, ValueError: an argument is invalid.
        RuntimeError: ``unix_path`` on a system without Unix sockets.
        InvalidURIError: the URI is invalid, or the URL of the proxy, given or from the environment.
    """
    refuse_unknown("connect()", connect_config, unknown)
    if options is not None and not isinstance(options, Options):
        raise TypeError(f"options must be an Options, not {type(options).__name__}; use Options(...)")
    if stream is not None and not callable(stream) and not hasattr(stream, "send_all"):
        raise TypeError(
            "stream must be a trio.abc.Stream, or an async function that opens one, not"
            f" {type(stream).__name__}"
        )
    if stream is not None and unix_path is not None:
        raise ValueError("stream and unix_path are mutually exclusive")
    if unix_path is not None:
        unix_family()
    check_context(ssl_context, server=False)
    config = ConnectConfig(
        uri=uri,
        subprotocols=tuple(check_subprotocols(subprotocols)),
        headers=_kept(headers),
        stream=stream,
        unix_path=unix_path,
        ssl_context=ssl_context,
        proxy=proxy,
        options=options if options is not None else Options(),
    )
    if config.fixed and isinstance(proxy, str):
        raise ValueError(f"proxy and {config.fixed} are mutually exclusive")
    return config


def _kept(
    headers: HeaderItems | AskHeaders,
) -> Mapping[str, str] | list[tuple[str, str]] | AskHeaders:
    """Return the headers, an iterator as a list, since it can be read only once."""
    return headers if _is_mapping(headers) or is_function(headers) else header_pairs(headers)


def _is_mapping(headers: HeaderItems | AskHeaders) -> TypeIs[Mapping[str, str]]:
    return isinstance(headers, Mapping)


def is_function(headers: HeaderItems | AskHeaders) -> TypeGuard[AskHeaders]:
    """Whether these are not headers, but a function that returns headers."""
    return callable(headers) and not isinstance(headers, Mapping)


def header_pairs(headers: HeaderItems | AskHeaders) -> list[tuple[str, str]]:
    """Return the names and values; none for a function, which is called later."""
    if is_function(headers):
        return []
    return list(headers.items() if _is_mapping(headers) else cast("Iterable[tuple[str, str]]", headers))
