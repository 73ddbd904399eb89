"""Measure what channels of many processes cost at their broker: ``python -m benchmarks.scaling``.

It measures unit costs with a real redis-server, and with a nats-server if one is installed: processor time of
a message and of each process that receives it, and memory of a subscription and of histories. From these it
computes the cost of a large site, and it simulates how clients reconnect after a restart. Linux only.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import trio_ws
import trio_ws.testing
from trio_ws.channels.history import History, check_histories
from trio_ws.channels.hub import Hub
from trio_ws.channels.redis.cluster import sharded_channel
from trio_ws.channels.redis.connection import command
from trio_ws.channels.redis.histories import (
    CLUSTER_SCRIPTS,
    SCRIPTS,
    append_words,
    publish_words,
    read_words,
)
from trio_ws.channels.redis.publish_queue import Outgoing
from trio_ws.channels.sharing import share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "SITE",
    "Costs",
    "Site",
    "herd",
    "measure_cluster",
    "measure_nats",
    "measure_process",
    "measure_redis",
    "model",
]

#: Bytes of a message.
PAYLOAD = b"x" * 200
#: Seconds to wait for a response, and for a server to start.
PATIENCE = 30


@dataclass(frozen=True)
class Costs:
    """Unit costs of a broker.

    Attributes:
        publish: us of its processor for one message, without receivers.
        deliver: us for each process that receives it, if many messages are in flight.
        deliver_alone: us for each process that receives it, if it is the only message.
        append: us for one message that is also stored in a history.
        read: us for reading a history without new messages.
        subscription: bytes for each name that one process is subscribed to.
        kept: bytes for each stored message of 200 bytes.
        channel: bytes for each channel with a history, without its messages.
    """

    publish: float
    deliver: float
    deliver_alone: float
    append: float
    read: float
    subscription: float
    kept: float
    channel: float


@dataclass(frozen=True)
class Site:
    """A site: the number of connections, and their activity."""

    connections: int = 10_000_000
    processes: int = 1000
    room_size: int = 100  # members of a room; each connection is in one
    room_period: float = 10.0  # seconds between two messages of a room
    kept: int = 50  # messages in the history of a room
    lease: float = 10.0

    @property
    def rooms(self) -> int:
        return self.connections // self.room_size

    @property
    def spread(self) -> float:
        """The number of processes with members of a given room."""
        return self.processes * (1 - (1 - 1 / self.processes) ** self.room_size)


SITE = Site()
SMALLER = Site(connections=1_000_000, processes=100)


# -- measuring a broker -----------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Return the microseconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def memory_of(pid: int) -> int:
    """Return the bytes of resident memory of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


@contextmanager
def program(*command_line: str) -> Iterator[tuple[int, int]]:
    """Run a server on a free port for the duration of a block, and yield its port and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in command_line]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


class Receiver:
    """A connection on which a thread counts the bytes that arrive."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                data = self.socket.recv(262_144)
            except OSError:
                return
            if not data:
                return
            self.count += len(data)

    def quiet(self) -> None:
        """Wait until no more data arrives."""
        before = -1
        while before != self.count:
            before = self.count
            time.sleep(0.2)

    def close(self) -> None:
        self.socket.close()


def _measure(
    stack: ExitStack,
    port: int,
    pid: int,
    size: int,
    subscribe: Callable[[list[str]], bytes],
    publish: Callable[[str], bytes],
    greeting: bytes,
) -> tuple[float, float, float, float]:
    """Measure the cost of a message, of its receivers in two ways, and of a subscription."""
    publisher = Receiver(port)
    receivers = [Receiver(port) for _ in range(10)]
    for each in (publisher, *receivers):
        stack.callback(each.close)
        each.socket.sendall(greeting)
        each.quiet()
    message = publish("nobody")
    before = cpu_of(pid)
    for _ in range(100):
        publisher.socket.sendall(message * (size // 100))
    publisher.quiet()
    alone = (cpu_of(pid) - before) / size
    memory = memory_of(pid)
    names = [f"room.{number}" for number in range(size)]
    for each in receivers:
        each.socket.sendall(subscribe(names))
        each.quiet()
    subscription = (memory_of(pid) - memory) / (size * len(receivers))
    before = cpu_of(pid)
    for number in range(100):
        publisher.socket.sendall(publish(f"room.{number}") * (size // 100))
        time.sleep(0.002)
    for each in receivers:
        each.quiet()
    together = (cpu_of(pid) - before) / size
    before = cpu_of(pid)
    message = publish("room.0")
    for _ in range(size // 10):
        count = receivers[-1].count
        publisher.socket.sendall(message)
        while receivers[-1].count == count:
            time.sleep(0)
    one_by_one = (cpu_of(pid) - before) / (size // 10)
    deliver, alone_deliver = (max(0.0, one - alone) / len(receivers) for one in (together, one_by_one))
    return alone, deliver, alone_deliver, subscription


def measure_redis(size: int = 20_000) -> Costs:
    """Measure the unit costs of Redis."""
    with ExitStack() as stack:
        port, pid = stack.enter_context(
            program("redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "")
        )
        costs = _measure(
            stack,
            port,
            pid,
            size,
            lambda names: command(b"SUBSCRIBE", *(name.encode() for name in names)),
            lambda name: command(b"PUBLISH", name.encode(), PAYLOAD),
            command(b"PING"),
        )
        link = Receiver(port)
        stack.callback(link.close)
        for script in SCRIPTS:
            link.socket.sendall(command(b"SCRIPT", b"LOAD", script))
        link.quiet()
        history = History(items=50)

        def append(name: str, number: int) -> bytes:
            message = Outgoing(number, f"p:{name}".encode(), PAYLOAD, history)
            return command(*append_words(b"p:", b"run", b"o" * 16, number, message, PAYLOAD))

        def all_of(commands: list[bytes]) -> float:
            before = cpu_of(pid)
            for start in range(0, len(commands), 100):
                link.socket.sendall(b"".join(commands[start : start + 100]))
            link.quiet()
            return (cpu_of(pid) - before) / len(commands)

        channels = max(1, size // 50)
        memory = memory_of(pid)
        all_of([append(f"{name}", name + 1) for name in range(channels)])
        first = (memory_of(pid) - memory) / channels
        memory = memory_of(pid)
        all_of([append(f"{name % channels}", channels + name + 1) for name in range(channels * 49)])
        kept = (memory_of(pid) - memory) / (channels * 49)
        cpu = all_of([append(f"{name % channels}", channels * 50 + name + 1) for name in range(size)])
        reads = [
            command(*read_words(b"p:", b"run", f"p:{name % channels}".encode(), 10**9, history))
            for name in range(size)
        ]
        read = all_of(reads)
        return Costs(*costs[:3], cpu, read, costs[3], kept, max(0.0, first - kept))


def measure_cluster(size: int = 20_000) -> dict[str, float]:
    """Measure us of processor time for a message in a Redis Cluster, at its node and at each other node."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                bus = str(probe.getsockname()[1])
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            options = ["--bind", "127.0.0.1", "--save", "", "--dir", folder, "--cluster-enabled", "yes"]
            server = program("redis-server", "--port", "{port}", "--cluster-port", bus, *options)
            nodes.append((*stack.enter_context(server), bus))
        link, other = (Receiver(port) for port, _, _ in nodes)
        for each in (link, other):
            stack.callback(each.close)
        link.socket.sendall(command(b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383"))
        meet = command(b"CLUSTER", b"MEET", b"127.0.0.1", b"%d" % nodes[0][0], nodes[0][2].encode())
        other.socket.sendall(meet)
        end = time.monotonic() + PATIENCE
        said = b""
        while b"cluster_known_nodes:2" not in said or b"cluster_state:ok" not in said:
            with socket.create_connection(("127.0.0.1", nodes[0][0]), PATIENCE) as asking:
                asking.sendall(command(b"CLUSTER", b"INFO"))
                said = asking.recv(65_536)
            if time.monotonic() > end:
                raise TimeoutError("the cluster does not form")
            time.sleep(0.01)
        for script in SCRIPTS + CLUSTER_SCRIPTS:
            link.socket.sendall(command(b"SCRIPT", b"LOAD", script))
        link.quiet()
        history = History(items=50)

        def words(kind: str, number: int) -> list[bytes]:
            channel = f"p:{number % 1000}".encode()
            sharded = sharded_channel(b"p:", channel)
            if kind == "names only":
                return [b"SPUBLISH", sharded, PAYLOAD]
            if kind == "published":
                return publish_words(sharded, channel, PAYLOAD)
            message = Outgoing(number + 1, channel, PAYLOAD, history)
            return append_words(b"p:", b"run", b"o" * 16, number + 1, message, PAYLOAD, sharded)

        found = {}
        for kind in ("names only", "published", "kept"):
            commands = [command(*words(kind, number)) for number in range(size)]
            before_each = [cpu_of(pid) for _, pid, _ in nodes]
            for start in range(0, size, 100):
                link.socket.sendall(b"".join(commands[start : start + 100]))
            link.quiet()
            for place, (_, pid, _), before_cpu in zip(
                ("its node", "others"), nodes, before_each, strict=True
            ):
                found[f"{kind}, {place}"] = (cpu_of(pid) - before_cpu) / size
        return found


def measure_nats(size: int = 20_000) -> Costs | None:
    """Measure the unit costs of NATS without streams; return None without a nats-server."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if found is None:
        return None
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        port, pid = stack.enter_context(program(found, "-a", "127.0.0.1", "-p", "{port}", "-sd", folder))
        costs = _measure(
            stack,
            port,
            pid,
            size,
            lambda names: b"".join(
                b"SUB %b %d\r\n" % (name.encode(), index) for index, name in enumerate(names)
            ),
            lambda name: b"PUB %b %d\r\n%b\r\n" % (name.encode(), len(PAYLOAD), PAYLOAD),
            b'CONNECT {"verbose":false}\r\nPING\r\n',
        )
        return Costs(*costs[:3], 0.0, 0.0, costs[3], 0.0, 0.0)


# -- measuring a trio_ws process --------------------------------------------------------------------


def measure_process(count: int = 20_000) -> dict[str, float]:
    """Measure what receiving costs a trio_ws process: us of a plain message, and of one with a position."""
    return trio.run(_measure_process, count)


async def _measure_process(count: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, pattern in (("plain", "other"), ("kept", "room")):
        bus = trio_ws.testing.InMemoryBus(keeps_histories=True)
        hubs = [Hub(check_histories({pattern: History(items=50)})) for _ in range(2)]
        async with (
            share(trio_ws.testing.InMemoryBroker(bus), {"": hubs[0]}, 1),
            share(trio_ws.testing.InMemoryBroker(bus), {"": hubs[1]}, 1),
            hubs[1].subscribe("room", max_items=10) as subscription,
        ):
            data = PAYLOAD.decode()
            began = time.process_time()
            for _ in range(count):
                hubs[0].publish("room", data)
            both = (time.process_time() - began) / count * 1e6
            subscription.close()
            began = time.process_time()
            for _ in range(count):
                hubs[0].publish("room", data)
            found[kind] = both - (time.process_time() - began) / count * 1e6
    return found


# -- computing --------------------------------------------------------------------------------------


def model(costs: Costs, site: Site = SITE) -> dict[str, float]:
    """Compute the cost of a site for its broker: rates per second, processors, and GiB."""
    subscriptions = site.rooms * site.spread + site.connections  # rooms, and a user for each connection
    messages = site.rooms / site.room_period
    deliveries = messages * site.spread
    heartbeats = site.processes * 3 / site.lease
    gib = 1024**3
    return {
        "subscriptions": subscriptions,
        "messages/s": messages,
        "deliveries/s": deliveries,
        "processors, messages": (messages * costs.publish + deliveries * costs.deliver) / 1e6,
        "the same, one by one": (messages * costs.publish + deliveries * costs.deliver_alone) / 1e6,
        "processors, messages kept": (messages * costs.append + deliveries * costs.deliver) / 1e6,
        "GiB of subscriptions": subscriptions * costs.subscription / gib,
        "GiB of histories": site.rooms * (site.kept * costs.kept + costs.channel) / gib,
        "histories read after a loss": site.rooms * site.spread,
        "processor s of reading them": site.rooms * site.spread * costs.read / 1e6,
        "heartbeats received/s": heartbeats * site.processes,
        "processors, heartbeats": heartbeats * (costs.publish + site.processes * costs.deliver) / 1e6,
    }


def herd(
    *, clients: int, rate: int, jitter: bool, backoff: trio_ws.Backoff | None = None, seed: int = 1
) -> dict[str, float]:
    """Simulate the clients of one process that is restarted.

    Args:
        clients: the number of clients. All lose their connection at the same moment.
        rate: connections that the process accepts per second. In each tenth of a second, attempts beyond that
            fail, and are repeated.
        jitter: whether delays are drawn from the whole interval; otherwise each is its upper bound.
        backoff: the back-off of the clients; by default that of `WebSocketClient`.
        seed: the seed of the random numbers.

    Returns:
        ``peak``: the maximum rate of attempts in a tenth of a second, per second. ``attempts``: per client.
        ``half``, ``most`` and ``all``: seconds until 50 %, 99 % and all were reconnected.
    """
    backoff = backoff or trio_ws.Backoff()
    generator = random.Random(seed)

    def delay(attempt: int) -> float:
        bound: float = min(backoff.maximum, backoff.initial * backoff.factor ** min(attempt, 60))
        return generator.uniform(0, bound) if jitter else bound

    waiting = [(delay(0), 0) for _ in range(clients)]
    heapq.heapify(waiting)
    slot = used = tried = peak = attempts = 0
    back: list[float] = []
    while waiting:
        when, attempt = heapq.heappop(waiting)
        if int(when * 10) != slot:
            slot, used, tried = int(when * 10), 0, 0
        tried += 1
        attempts += 1
        peak = max(peak, tried)
        if used < rate / 10:
            used += 1
            back.append(when)
        else:
            heapq.heappush(waiting, (when + delay(attempt + 1), attempt + 1))
    return {
        "peak": peak * 10.0,
        "attempts": attempts / clients,
        "half": back[clients // 2],
        "most": back[int(clients * 0.99)],
        "all": back[-1],
    }


def measure(size: int) -> dict[str, Any]:
    """Measure all figures."""
    redis, nats = measure_redis(size), measure_nats(size)
    found: dict[str, Any] = {"redis": vars(redis), "redis, the site": model(redis)}
    found["redis, a tenth of it"] = model(redis, SMALLER)
    if nats is not None:
        found["nats"] = vars(nats)
        found["nats, the site"] = model(nats)
        found["nats, a tenth of it"] = model(nats, SMALLER)
    found["redis cluster, us of a message"] = measure_cluster(size)
    found["a process, us to receive"] = measure_process(size)
    patient = trio_ws.Backoff(initial=10)
    for rate in (500, 2000):
        heading = f"herd of 10,000, {rate} a second"
        found[f"{heading}, full jitter"] = herd(clients=10_000, rate=rate, jitter=True)
        found[f"{heading}, initial=10"] = herd(clients=10_000, rate=rate, jitter=True, backoff=patient)
        found[f"{heading}, no jitter"] = herd(clients=10_000, rate=rate, jitter=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=20_000, help="names and messages")
    parser.add_argument("--json", help="a file for all figures")
    arguments = parser.parse_args()
    found = measure(arguments.size)
    for heading, values in found.items():
        sys.stdout.write(f"{heading}\n")
        for name, value in values.items():
            sys.stdout.write(f"    {name:28} {value:16,.2f}\n")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
