"""Reaching a server and being reached."""
