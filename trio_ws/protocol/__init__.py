"""The WebSocket protocol without I/O: bytes to events, and back."""
