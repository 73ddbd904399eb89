"""RedisBroker: share channels through Redis."""
