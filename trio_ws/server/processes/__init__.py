"""Run one server in several processes."""
