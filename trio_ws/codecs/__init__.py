"""What the payload of a message means: the packets of calls, as msgpack, JSON and JSON-RPC."""
