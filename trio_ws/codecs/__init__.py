"""Codecs: from payloads of messages to packets, as msgpack, JSON or JSON-RPC, and back."""
