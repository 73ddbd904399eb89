"""Calls over one WebSocket, either way round."""
