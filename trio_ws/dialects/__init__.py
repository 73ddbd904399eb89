"""Protocols of calls that others designed, and the means to describe another one.

`Dialect` is the base class. `CDP` is the Chrome DevTools Protocol, `OCPP16` and `OCPP201` are OCPP-J.
"""

from __future__ import annotations

from trio_ws.codecs.dialect import (
    JSON,
    Answer,
    Call,
    Dialect,
    Failure,
    Format,
    JSONFormat,
    MsgPackFormat,
    Refusal,
    params_of,
)
from trio_ws.dialects.cdp import CDP, CDPSession
from trio_ws.dialects.ocpp import OCPP16, OCPP201, OCPPError

__all__ = [
    "CDP",
    "JSON",
    "OCPP16",
    "OCPP201",
    "Answer",
    "CDPSession",
    "Call",
    "Dialect",
    "Failure",
    "Format",
    "JSONFormat",
    "MsgPackFormat",
    "OCPPError",
    "Refusal",
    "params_of",
]

for _name in __all__:
    if _name != "JSON":
        globals()[_name].__module__ = __name__  # users meet them here
