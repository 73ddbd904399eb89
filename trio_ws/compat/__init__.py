"""Interfaces of other libraries, implemented by trio_ws: programs migrate by changing an import."""
