"""One WebSocket on one trio stream."""
