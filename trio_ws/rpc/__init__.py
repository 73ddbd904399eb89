"""Calls over one WebSocket, in both directions."""
