"""Connecting the hubs of a server to a broker."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from trio_ws.channels.broker import Broker, KeptMessage
    from trio_ws.channels.hub import Hub

__all__ = ["share"]


@asynccontextmanager
async def share(broker: Broker, hubs: Mapping[str, Hub], timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109
    """Connect hubs, by namespace, to a broker for the duration of a block. See `Broker.run`."""

    topics = {namespace + kind: take for namespace, hub in hubs.items() for kind, take in hub.topics.items()}

    def receive(name: str, payload: bytes) -> None:
        topic, _, channel = name.partition(":")
        take = topics.get(topic)
        if take is not None:
            take(channel, payload)

    def receive_kept(name: str, epoch: str, message: KeptMessage) -> None:
        namespace, _, channel = name.partition(":")
        hub = hubs.get(namespace)
        if hub is not None:
            hub.receive_kept(channel, epoch, message)

    def missed(affected: Callable[[str], bool] | None = None, /) -> None:
        for hub in hubs.values():
            hub.missed(affected)

    def resubscribed() -> None:
        for hub in hubs.values():
            hub.resubscribed()

    broker.on_missed, broker.on_resubscribed = missed, resubscribed
    broker.receive_kept = receive_kept
    async with broker.run(receive, timeout):
        for namespace, hub in hubs.items():
            hub.attach(broker, namespace)
        try:
            yield
        finally:
            broker.on_missed = broker.on_resubscribed = broker.receive_kept = None
            for hub in hubs.values():
                hub.attach(None)
