"""Clients: connecting, and reconnecting."""
