"""An attack: the data that one attacker sends repeatedly, and how it is sent.

Invariant: every attack is limited in connections, bytes and time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from tests.adversary.hostile import opening
from tests.adversary.process import ATTACKER, dial, upgrade

__all__ = ["Attack", "Attackers", "chosen", "endless", "parser_of"]

# The maximum that one attacker sends: many times what the server may hold for it.
_MOST_BYTES = 512 * 1024 * 1024
_SLICE = 65536
_DEAD = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


def endless(data: bytes) -> Callable[[], Iterable[bytes]]:
    """Return a function that yields ``data`` forever."""

    def again() -> Iterable[bytes]:
        while True:
            yield data

    return again


@dataclass(frozen=True)
class Attack:
    """See the module docstring.

    Attributes:
        name: the name in the tables.
        kind: the kind of server, see target.py.
        data: the data that each attacker sends after its opening handshake.
        path: the requested path.
        headers: additional lines of its opening request.
        subprotocol: the offered subprotocol.
        opens: whether it performs an opening handshake; otherwise it sends only ``data``.
        reads: whether it reads and discards what the server sends.
        connections: the number of concurrent attackers, if the attack needs many.
        again: whether it reconnects after a response, or when the server has disconnected it.
        leaves: whether it disconnects without waiting for the response.
    """

    name: str
    kind: str
    data: Callable[[], Iterable[bytes]]
    path: str = "/"
    headers: tuple[str, ...] = ()
    subprotocol: str = ""
    opens: bool = True
    reads: bool = False
    connections: int = 1
    again: bool = False
    leaves: bool = False

    @property
    def tls(self) -> bool:
        """Whether it uses TLS."""
        return self.kind == "tls"


def parser_of(seconds: float) -> argparse.ArgumentParser:
    """Return the argument parser of a program that measures attacks, with a default of ``seconds``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--product")
    parser.add_argument("--seconds", type=float, default=seconds)
    return parser


def chosen(attacks: Iterable[Attack], names: Sequence[str]) -> list[Attack]:
    """Return the attacks whose names contain one of these; all of them without names."""
    return [attack for attack in attacks if not names or any(name in attack.name for name in names)]


@dataclass
class Attackers:
    """The attackers of one attack.

    Attributes:
        sent: the number of bytes that all of them have sent.
        moved: when the last byte was sent.
        open: the number of their open connections.
    """

    attack: Attack
    port: int
    sent: int = 0
    moved: float = field(default_factory=trio.current_time)
    open: int = 0
    refused: int = 0

    async def run(self, count: int) -> None:
        """Run ``count`` attackers until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self._one)
            await trio.sleep_forever()

    async def _one(self) -> None:
        while True:
            try:
                stream = await dial(self.port, ATTACKER, tls=self.attack.tls)
            except _DEAD:
                self.refused += 1
                return
            async with stream, trio.open_nursery() as nursery:
                try:
                    await self._attack(stream, nursery)
                except _DEAD:
                    pass
                nursery.cancel_scope.cancel()
                await trio.aclose_forcefully(stream)
            if not self.attack.again:
                return
            await trio.sleep(0)

    async def _attack(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        attack = self.attack
        if attack.opens:
            request = opening(attack.path, *attack.headers, subprotocol=attack.subprotocol)
            if not await upgrade(stream, request):
                self.refused += 1
                return
        self.open += 1
        try:
            if attack.reads:
                nursery.start_soon(_drop, stream)
            sent = 0
            for data in attack.data():
                for start in range(0, len(data), _SLICE):
                    piece = memoryview(data)[start : start + _SLICE]
                    await stream.send_all(piece)
                    sent += len(piece)
                    self.sent += len(piece)
                    self.moved = trio.current_time()
                if sent >= _MOST_BYTES:
                    break
            if attack.leaves:
                await trio.lowlevel.checkpoint()
            elif attack.again:
                await stream.receive_some(65536)
            else:
                await trio.sleep_forever()
        finally:
            self.open -= 1


async def _drop(stream: trio.abc.Stream) -> None:
    try:
        while await stream.receive_some(1 << 20):
            pass
    except _DEAD:
        pass
