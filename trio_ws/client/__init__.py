"""Clients: connect to a server, and reconnect."""
