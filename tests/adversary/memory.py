"""Measure how much memory an attacker adds to a server: ``python -m tests.adversary.memory [NAME...]``.

Each attack has a server in its own process, with the default options. The attackers send until the server
stops reading, the time is over, or memory is far above the limit. Then the added memory is measured as
resident memory, and in a second run by Python's allocator. It is measured again after the attackers have
disconnected.

    --check             fail if one connection adds more than 16 MiB
    --product FOLDER    the product's code, to compare two versions
    --seconds N         the longest that one attack lasts; default 6
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.adversary.attack import Attack, Attackers, chosen, endless, parser_of
from tests.adversary.hostile import (
    BINARY,
    CLOSE,
    DEFLATE,
    MORE,
    PING,
    TEXT,
    batch,
    call,
    deflated,
    frame,
    get,
    item,
    jsonrpc,
    msgpack_list,
    packet,
)
from tests.adversary.process import MIB, running

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["ATTACKS", "LIMIT", "Measured", "measure"]

#: Maximum number of bytes that one connection may add, whatever it sends.
LIMIT = 16 * MIB
#: The number of bytes that shows that there is no limit.
_ENOUGH = 256 * MIB
_STUCK = 1.5
#: Number of connections of the attacks that need many.
MANY = 200


def then(first: bytes, rest: Callable[[], Iterable[bytes]]) -> Callable[[], Iterable[bytes]]:
    """Return a function that yields ``first`` once, and then the rest."""
    return lambda: itertools.chain([first], rest())


def calls(method: str, *args: object, count: int = 200, **fields: object) -> bytes:
    """Return the calls that an attacker sends at once, each with its own id."""
    return b"".join(call(method, *args, call_id=f"a{i}", **fields) for i in range(count))


def numbered(make: Callable[[int], bytes]) -> Callable[[], Iterator[bytes]]:
    """Return a function that yields the results of ``make`` for increasing numbers."""
    return lambda: map(make, itertools.count())


FULL = calls("wait", count=100)  # the maximum number of concurrent calls

ATTACKS: Sequence[Attack] = (
    # Answers that nobody reads.
    Attack(
        "unread answers, plain def",
        "calls",
        endless(call("page", call_id="1") * 50),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "unread answers, async def",
        "calls",
        endless(call("echo", b"x" * 50_000, call_id="1")),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "unread answers, async def that waits", "calls", endless(calls("later")), subprotocol="trio-ws.v1"
    ),
    Attack("unread errors", "calls", endless(call("nobody", call_id="1") * 500), subprotocol="trio-ws.v1"),
    Attack(
        "unread refusals of broken packets", "calls", endless(frame(TEXT, b"{") * 500), subprotocol="jsonrpc"
    ),
    Attack("unread echoes", "echo", endless(frame(BINARY, bytes(10_000)))),
    Attack("unread pongs", "echo", endless(frame(PING, bytes(125)) * 100)),
    Attack(
        "unread items of 100 streams",
        "calls",
        endless(calls("pages", credits=2**31 - 1)),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "batches that wait for their last member",
        "calls",
        numbered(
            lambda n: batch(
                [jsonrpc("wait", id=f"w{n}"), *(jsonrpc("page", id=f"{n}-{i}") for i in range(900))]
            )
        ),
        subprotocol="jsonrpc",
    ),
    Attack(
        "batches of 1,000 notifications held back",
        "calls",
        then(
            batch(jsonrpc("wait", id=i) for i in range(100)),
            endless(batch([jsonrpc("wait")] * 1000)),
        ),
        subprotocol="jsonrpc",
    ),
    # Requests and packets that wait.
    Attack(
        "requests past the calls that may run",
        "calls",
        then(FULL, endless(calls("wait"))),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "the same, each with 50,000 empty maps",
        "calls",
        then(FULL, endless(call("wait", msgpack_list(b"\x80", 50_000), call_id="b"))),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "packets with 50,000 empty maps for on_receive",
        "deaf",
        endless(frame(BINARY, packet(4, data=msgpack_list(b"\x80", 50_000)))),
        subprotocol="trio-ws.v1",
    ),
    # Data that is small when encoded and large in Python.
    Attack(
        "calls that run with 50,000 empty maps each",
        "calls",
        lambda: (call("wait", msgpack_list(b"\x80", 50_000), call_id=f"a{i}") for i in range(100)),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "calls that run with 100,000 short strings each",
        "calls",
        lambda: (call("wait", msgpack_list(b"\xa3abc", 100_000), call_id=f"a{i}") for i in range(100)),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "one call with 1,000,000 empty maps",
        "calls",
        lambda: [call("wait", msgpack_list(b"\x80", 1_000_000), call_id="a")],
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "JSON, the same",
        "calls",
        lambda: [
            frame(TEXT, b'{"jsonrpc":"2.0","id":1,"method":"wait","params":[[' + b"{}," * 300_000 + b"{}]]}")
        ],
        subprotocol="jsonrpc",
    ),
    Attack(
        "text of four bytes a character",
        "ignore",
        endless(frame(TEXT, "\U0001f600".encode() + b"a" * 1_000_000)),
    ),
    Attack("messages of two bytes", "ignore", endless(frame(TEXT, b"ab") * 10_000)),
    Attack(
        "fragments of one byte",
        "ignore",
        then(frame(BINARY, b"a", fin=False), endless(frame(MORE, b"a", fin=False) * 10_000)),
    ),
    Attack(
        "empty fragments",
        "ignore",
        then(frame(BINARY, b"", fin=False), endless(frame(MORE, b"", fin=False) * 10_000)),
    ),
    Attack(
        "deflate bombs",
        "deflate_ignored",
        endless(frame(BINARY, deflated(bytes(MIB)), rsv1=True)),
        headers=(DEFLATE,),
    ),
    # Uploads and subscriptions.
    Attack(
        "uploads of 100 KB items that nobody takes",
        "calls",
        lambda: itertools.chain(
            (call("keep", None, call_id=f"u{i}", streams={"0": f"u{i}/0"}) for i in range(50)),
            (item(f"u{i}/0", b"x" * 100_000) for _ in range(60) for i in range(50)),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "uploads of items of 20,000 empty maps",
        "calls",
        lambda: itertools.chain(
            (call("keep", None, call_id=f"u{i}", streams={"0": f"u{i}/0"}) for i in range(50)),
            (item(f"u{i}/0", msgpack_list(b"\x80", 20_000)) for _ in range(60) for i in range(50)),
        ),
        subprotocol="trio-ws.v1",
    ),
    # Reading cannot stop while a method waits for data of the peer.
    Attack(
        "uploads of 100 KB items while a method waits for an item",
        "calls",
        lambda: itertools.chain(
            [call("total", None, call_id="w", streams={"0": "w/0"})],
            (call("keep", None, call_id=f"u{i}", streams={"0": f"u{i}/0"}) for i in range(50)),
            (item(f"u{i}/0", b"x" * 100_000) for i in range(50)),
            (item(f"u{i}/0", b"x" * 100_000) for i in range(50) for _ in range(60)),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "uploads of 20,000 empty maps while a method waits for an item",
        "calls",
        lambda: itertools.chain(
            [call("total", None, call_id="w", streams={"0": "w/0"})],
            (call("keep", None, call_id=f"u{i}", streams={"0": f"u{i}/0"}) for i in range(50)),
            (item(f"u{i}/0", msgpack_list(b"\x80", 20_000)) for i in range(50)),
            (item(f"u{i}/0", msgpack_list(b"\x80", 20_000)) for i in range(50) for _ in range(60)),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "unread answers while a method waits for the client",
        "calls",
        then(call("ask", call_id="w"), endless(call("page", call_id="1") * 50)),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "requests with 50,000 empty maps while a method waits for the client",
        "calls",
        then(
            call("ask", call_id="w") + calls("wait", count=99),
            endless(call("wait", msgpack_list(b"\x80", 50_000))),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "packets with 50,000 empty maps while a method waits for the client",
        "deaf",
        then(
            call("ask", call_id="w"),
            endless(frame(BINARY, packet(4, data=msgpack_list(b"\x80", 50_000)))),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "nested calls, answers unread",
        "calls",
        then(FULL, endless(call("page", call_id="1", nested=True) * 50)),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "subscriptions to names of 256 characters",
        "calls",
        numbered(
            lambda n: call(
                "__subscribe__", [f"{n}-{i}".ljust(256, "\U0001f600") for i in range(100)], call_id="1"
            )
        ),
        subprotocol="trio-ws.v1",
        reads=True,
    ),
    Attack(
        "publishes to names that differ",
        "calls",
        then(
            call("__subscribe__", [f"[{i % 10}]*{i}" for i in range(900)], call_id="1"),
            numbered(lambda n: call("tell", f"{n}".ljust(256, "\U0001f600"), call_id="1")),
        ),
        subprotocol="trio-ws.v1",
        reads=True,
    ),
    # Histories, presence and message listeners.
    Attack(
        "recoveries of a full history, unread",
        "kept",
        then(
            call("__publish__", "kept.a", bytes(10_000), call_id="p") * 120,
            numbered(
                lambda n: (
                    call("__recover__", {"kept.a": {"last": 1000}}, call_id=f"r{n}")
                    + call("__unsubscribe__", ["kept.a"], call_id=f"u{n}")
                )
            ),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack(
        "publishes to histories of names that differ",
        "kept",
        numbered(lambda n: call("__publish__", f"kept.{n}".ljust(200, "x"), None, call_id=f"p{n}")),
        subprotocol="trio-ws.v1",
        reads=True,
    ),
    Attack(
        "presence in channels that differ",
        "kept",
        numbered(lambda n: call("enter", f"{n}", bytes(4000), call_id=f"e{n}")),
        subprotocol="trio-ws.v1",
        reads=True,
    ),
    Attack(
        "changes of presence, which 90 unread streams tell",
        "kept",
        then(
            b"".join(call("__presence__", "a", call_id=f"s{i}", credits=2**31 - 1) for i in range(90)),
            numbered(lambda n: call("enter", "a", bytes(4000), call_id=f"e{n}")),
        ),
        subprotocol="trio-ws.v1",
    ),
    Attack("unread answers of a listener", "listener", endless(frame(BINARY, bytes(10_000))), path="/echo"),
    Attack(
        "fragments for a listener",
        "listener",
        endless(frame(TEXT, b"x", fin=False) + frame(MORE, b"y", fin=False) * 100_000 + frame(MORE)),
        path="/echo",
    ),
    # Many connections of one address.
    Attack(
        "openings that never end",
        "echo",
        lambda: [b"GET / HTTP/1.1\r\n", *[b"a: " + b"x" * 1000 + b"\r\n"] * 15],
        opens=False,
        connections=MANY,
    ),
    Attack(
        "bodies that never end",
        "site",
        lambda: [get("/post", "Transfer-Encoding: chunked", method="POST"), b"1\r\nA\r\n" * 60_000],
        opens=False,
        connections=MANY,
    ),
    Attack("HTTP answers that nobody reads", "site", lambda: [get("/")], opens=False, connections=MANY),
    Attack(
        "HTTP errors that linger",
        "echo",
        lambda: [get("/", method="BREW"), *[b"x" * 10_000] * 20],
        opens=False,
        connections=MANY,
    ),
    Attack(
        "closes that are not finished",
        "calls",
        lambda: [call("page", call_id="1") * 200, frame(CLOSE, b"\x03\xe8")],
        subprotocol="trio-ws.v1",
        connections=MANY,
    ),
    Attack("idle connections", "calls", list, subprotocol="trio-ws.v1", connections=MANY),
    Attack("idle connections over TLS", "tls", list, connections=MANY),
    Attack("unread echoes over TLS", "tls", endless(frame(BINARY, bytes(10_000)))),
)


@dataclass
class Measured:
    """The results of one attack, in bytes."""

    attack: Attack
    sent: int = 0
    held: float = 0
    traced: float = 0
    left: float = 0
    serves: bool = False

    @property
    def each(self) -> float:
        """The added memory per connection."""
        return self.held / self.attack.connections

    def row(self) -> str:
        """The row of the table."""
        figures = [
            f"{self.attack.connections}",
            f"{self.sent / MIB:.2f}",
            f"{self.held / MIB:.1f}",
            f"{self.traced / MIB:.1f}",
            f"{self.held / self.sent:.1f}" if self.sent else "",
            f"{self.left / MIB:.1f}",
            "yes" if self.serves else "NO",
        ]
        return f"| {self.attack.name} | {' | '.join(figures)} |"


HEAD = (
    "| attack | connections | MiB sent | MiB held (RSS) | MiB held (traced) | held per byte sent "
    "| MiB left after | others served |\n|---|---|---|---|---|---|---|---|"
)


async def measure(
    attack: Attack, *, seconds: float, product: str | None = None, all_of_it: bool = True
) -> Measured:
    """Run an attack. With ``all_of_it``, also measure what remains, and run it again with tracemalloc."""
    result = Measured(attack)
    path = "/echo" if attack.kind in ("site", "listener") else "/"
    for traced in (False, True) if all_of_it else (False,):
        async with running(attack.kind, traced=traced, product=product) as target:
            result.serves = await target.serves(path, tls=attack.tls)  # also imports all modules
            await trio.sleep(0.2)
            before, before_traced = await target.held(0.3), await target.ask("traced")
            async with trio.open_nursery() as nursery:
                attackers = Attackers(attack, target.port)
                nursery.start_soon(attackers.run, attack.connections)
                end = trio.current_time() + seconds
                while trio.current_time() < end and target.rss - before < _ENOUGH:
                    await trio.sleep(0.05)
                    if trio.current_time() - attackers.moved > _STUCK:
                        break
                if traced:
                    result.traced = await target.ask("traced") - before_traced
                else:
                    result.held = await target.held(0.5) - before
                    result.sent = attackers.sent
                    result.serves = await target.serves(path, tls=attack.tls)
                nursery.cancel_scope.cancel()
            if all_of_it and not traced:
                await trio.sleep(2)
                result.left = await target.held(0.5) - before
    return result


async def main(options: argparse.Namespace) -> int:
    """Measure, and print the table and the attacks above the limit."""
    print(HEAD, flush=True)
    bad = []
    for attack in chosen(ATTACKS, options.names):
        result = await measure(attack, seconds=options.seconds, product=options.product)
        print(result.row(), flush=True)
        if result.each > LIMIT or not result.serves:
            bad.append(attack.name)
    if options.check and bad:
        print("too much: " + "; ".join(bad), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(trio.run(main, parser_of(seconds=6).parse_args()))
