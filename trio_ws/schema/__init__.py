"""Schemas: the contract of handlers as OpenRPC, AsyncAPI and TypeScript."""

from __future__ import annotations

from trio_ws.schema.contract import check_method
from trio_ws.schema.document import Schema

__all__ = ["Schema", "check_method"]
