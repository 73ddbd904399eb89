"""The server that a command connects to: its URL and the options of the connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import trio_ws
from trio_ws.cli.errors import USAGE, Failure
from trio_ws.client.config import ConnectSettings, connect_config
from trio_ws.client.connect import ConnectAttempts
from trio_ws.dialects import CDP, OCPP16, OCPP201

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from trio_ws.dialects import Dialect

__all__ = ["DIALECTS", "ServerTarget"]

#: The values of --dialect.
DIALECTS: dict[str, str | Dialect] = {
    "trio-ws.v1": "trio-ws.v1",
    "trio-ws.v1.json": "trio-ws.v1.json",
    "webshocket.v1": "webshocket.v1",
    "json": "json",
    "jsonrpc": "jsonrpc",
    "cdp": CDP(),
    "ocpp1.6": OCPP16(),
    "ocpp2.0.1": OCPP201(),
}


@dataclass(frozen=True, kw_only=True)
class ServerTarget:
    """A server.

    Attributes:
        url: ``ws://`` or ``wss://``.
        headers: more headers for the opening request.
        cafile: certificates to trust, in place of the system's.
        subprotocol: what to offer.
        dialect: of calls, a key of `DIALECTS`; None for one of ours.
        insecure: whether any certificate will do.
        certfile: a certificate of the client's own, which some servers ask for.
        keyfile: its key, if that is in another file.
        proxy: the URL of a proxy; ``"none"`` for none, whatever the environment says.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    cafile: str | None = None
    subprotocol: str | None = None
    dialect: str | None = None
    insecure: bool = False
    certfile: str | None = None
    keyfile: str | None = None
    proxy: str | None = None

    def client(self) -> trio_ws.WebSocketClient:
        """Return a client for calls. It validates the arguments, and connects when it is entered.

        Raises:
            Failure: a header, the certificates or the subprotocol cannot be used.
            InvalidURIError: the URL is invalid.
        """
        try:
            dialect = DIALECTS[self.dialect] if self.dialect is not None else self.subprotocol
            return trio_ws.WebSocketClient(self.url, dialect=dialect, **self._common(()))
        except trio_ws.InvalidURIError:
            raise
        except ValueError as exc:
            raise Failure(str(exc), USAGE) from exc

    def connect(self, **more: Unpack[ConnectSettings]) -> AbstractAsyncContextManager[trio_ws.WebSocket]:
        """Return a context manager for a connection. Raises like `client`."""
        subprotocols = () if self.subprotocol is None else (self.subprotocol,)
        settings: ConnectSettings = {**more, **self._common(subprotocols), "subprotocols": subprotocols}
        return trio_ws.connect(self.url, **settings)

    def settings(self) -> ConnectSettings:
        """For connections that another part opens. Raises as `client`."""
        return self._common(())

    def _common(self, subprotocols: tuple[str, ...]) -> ConnectSettings:
        common: ConnectSettings = {"headers": self.headers, "ssl_context": self._context()}
        if self.proxy is not None:
            common["proxy"] = None if self.proxy == "none" else self.proxy
        checked: ConnectSettings = {**common, "subprotocols": subprotocols}
        try:  # only to validate them
            ConnectAttempts(connect_config(self.url, **checked))
        except trio_ws.InvalidURIError:
            raise
        except ValueError as exc:
            raise Failure(str(exc), USAGE) from exc
        return common

    def _context(self) -> ssl.SSLContext | None:
        if self.keyfile is not None and self.certfile is None:
            raise Failure("--key requires --cert", USAGE)
        if self.cafile is None and self.certfile is None and not self.insecure:
            return None
        if self.insecure and self.cafile is not None:
            raise Failure("--insecure trusts any certificate; leave out --cafile, or --insecure", USAGE)
        if not self.url.lower().startswith(("wss:", "https:")):
            raise Failure("--cafile, --cert, --key and --insecure are for wss:// URLs", USAGE)
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except OSError as exc:  # which ssl.SSLError is too
            raise Failure(f"--cafile {self.cafile} cannot be used: {exc}", USAGE) from exc
        if self.certfile is not None:
            try:
                context.load_cert_chain(self.certfile, self.keyfile)
            except OSError as exc:
                raise Failure(f"--cert {self.certfile} cannot be used: {exc}", USAGE) from exc
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
