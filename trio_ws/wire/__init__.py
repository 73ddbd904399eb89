"""Deprecated: the name of `trio_ws.protocol` in version 0.1. Its modules can still be imported from here."""

from __future__ import annotations

import warnings

from trio_ws import protocol

warnings.warn("trio_ws.wire is deprecated, use trio_ws.protocol", DeprecationWarning, stacklevel=2)
__path__ = protocol.__path__
