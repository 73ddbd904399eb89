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

# What one attacker sends at most: many times what the server may hold for it.
_MOST_BYTES = 512 * 1024 * 1024
_SLICE = 65536
_DEAD = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


def endless(data: bytes) -> Callable[[], Iterable[bytes]]:
    """The same again and again."""

    def again() -> Iterable[bytes]:
        while True:
            yield data

    return again


@dataclass(frozen=True)
class Attack:
    """See the module docstring.

    Attributes:
        name: for the tables.
        kind: of target.py's servers.
        data: what each attacker sends after its opening handshake.
        path: what it asks for.
        headers: lines of its opening request.
        subprotocol: what it offers.
        opens: it does an opening handshake first; else ``data`` is all it says.
        reads: it takes what comes, and drops it; else nobody takes anything.
        connections: attackers at once, where the attack is not about one.
        again: once it has an answer, or was thrown out, it comes back on a new connection.
        leaves: it does not wait for the answer.
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
        """Whether it goes over TLS."""
        return self.kind == "tls"


def parser_of(seconds: float) -> argparse.ArgumentParser:
    """The command line of a program that measures attacks; ``seconds`` is its default."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--product")
    parser.add_argument("--seconds", type=float, default=seconds)
    return parser


def chosen(attacks: Iterable[Attack], names: Sequence[str]) -> list[Attack]:
    """Those whose name has one of these in it; all of them for none."""
    return [attack for attack in attacks if not names or any(name in attack.name for name in names)]


@dataclass
class Attackers:
    """Those of one attack that are at it.

    Attributes:
        sent: bytes of all of them together.
        moved: when the last byte was sent.
        open: connections that were let in and not closed since.
    """

    attack: Attack
    port: int
    sent: int = 0
    moved: float = field(default_factory=trio.current_time)
    open: int = 0
    refused: int = 0

    async def run(self, count: int) -> None:
        """Let so many attack, until cancelled."""
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
