"""Bytes to events and back, without trio: plain functions and objects that need no loop to be tested."""
