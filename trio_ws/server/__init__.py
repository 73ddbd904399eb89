"""Servers: listening, accepting, one task per client."""
