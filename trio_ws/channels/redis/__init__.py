"""RedisBroker: channels through Redis."""
