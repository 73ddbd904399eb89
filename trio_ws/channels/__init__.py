"""Channels: one message to many, each at its own pace."""
