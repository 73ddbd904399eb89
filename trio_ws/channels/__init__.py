"""Channels: publish one message to many subscribers, each of which reads at its own pace."""
