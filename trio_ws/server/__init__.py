"""Servers: listen, accept, and run one task per client."""
