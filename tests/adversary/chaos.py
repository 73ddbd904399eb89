"""A long test with clients of every kind: ``python -m tests.adversary.chaos --seconds 3600``.

Some connections stay idle. Honest and hostile clients connect and disconnect all the time, and break their
connections at any point. The process of the server is stopped for a moment now and then. Other clients call,
stream and upload without a pause, and check the results.

It fails if a call hangs or has a wrong result, if the log contains an error, if memory grows, or if a counter
is wrong after all clients have disconnected. It prints a line of figures every ten seconds.

    --seconds N         duration; default 60
    --idle N            idle connections; default 1,000
    --churn N           new connections per second; default 50
    --steady N          clients that never pause; default 8
    --stuck N           seconds after which a call of an honest client counts as hung; default 10
    --seed N            seed of the random numbers; default 1
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator  # noqa: TC003 - numbers() is an argument of a call
from typing import TYPE_CHECKING, Any

import trio

from tests.adversary.attackers import Gate, play
from tests.adversary.hostile import CLOSE, MORE, PONG, TEXT, call, frame, get, opening
from tests.adversary.process import MIB, Target, dial, running, upgrade
from tests.adversary.scripts import HEADS, random_steps
from trio_ws import Backoff, RPCTimeoutError, WebSocketClient, WebSocketError, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Chaos", "main"]

#: Maximum number of concurrent clients, in seconds of new ones. Above it, the machine is too slow for more.
_MOST_ALIVE = 8
#: The share of the duration after which the first memory measurement counts.
_WARM = 0.3
_EVERY = 10.0
_DEAD = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


async def numbers(count: int) -> AsyncIterator[int]:
    """Yield the items of an upload."""
    for number in range(count):
        yield number


async def answer_pings(stream: trio.abc.Stream) -> bytes:
    """Answer pings until the connection ends, and return the payload of a Close frame, if any."""
    data = b""
    while piece := await stream.receive_some(4096):
        data += piece
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            opcode, size = data[0] & 15, data[1]
            payload, data = data[2 : 2 + size], data[2 + size :]
            if opcode == CLOSE:
                return payload
            await stream.send_all(frame(PONG, payload))
    return b""


class Chaos:
    """One run. See the module docstring."""

    def __init__(self, options: argparse.Namespace, target: Target) -> None:
        self.options = options
        self.target = target
        self.random = random.Random(options.seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.memory: list[tuple[float, float]] = []
        self.slowest = 0.0
        self.alive = 0
        self.stuck: float = options.stuck
        self.began = trio.current_time()
        self.lives: list[Callable[[random.Random], Awaitable[None]]] = [
            *(self.echo, self.echo, self.calls, self.calls, self.page),
            *(
                self.leave_early,
                self.leave_in_the_middle,
                self.leave_a_call,
                self.stop_reading,
                self.be_hostile,
            ),
        ]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.target.port}"

    def address(self, rng: random.Random) -> str:
        """Return one of many addresses, because a server limits the connections of each."""
        return f"127.0.1.{rng.randrange(1, 60)}"

    @contextlib.asynccontextmanager
    async def dialed(self, source: str) -> AsyncIterator[trio.abc.Stream]:
        """Open a connection for the duration of a block, and reset it at the end if it was not closed."""
        stream = await dial(self.target.port, source)
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    # -- steady clients ---------------------------------------------------------------------------------

    async def steady(self, number: int) -> None:
        """Call, stream and upload, and check the results."""
        rng = random.Random(number)
        source = f"127.0.2.{number % 250 + 1}"

        async def dial_again() -> trio.abc.Stream:
            return await dial(self.target.port, source)

        async with WebSocketClient(
            f"{self.url}/rpc", stream=dial_again, reconnect=Backoff(initial=0.1, maximum=1)
        ) as client:
            while True:
                began = time.perf_counter()
                with trio.move_on_after(self.stuck) as scope:
                    try:
                        await self.operate(client, rng)
                    except Exception as exc:  # noqa: BLE001 - as above
                        self.faults.append(f"a steady client: {exc!r}")
                if scope.cancelled_caught:
                    self.faults.append("a call of a steady client is stuck")
                self.slowest = max(self.slowest, time.perf_counter() - began)
                self.counts["operations"] += 1
                await trio.sleep(rng.random() * 0.1)

    async def operate(self, client: WebSocketClient, rng: random.Random) -> None:
        """Perform one operation of an honest client."""
        count = rng.randrange(200)
        match rng.randrange(6):
            case 0:
                assert await client.call("echo", count) == count
            case 1:
                assert len(await client.call("page")) == 20_000
            case 2:
                async with client.stream("count", count, items=int) as items:
                    assert [item async for item in items] == list(range(count))
            case 3:
                assert await client.call("total", numbers(count)) == count
            case 4:
                with trio.move_on_after(rng.random() * 0.05), contextlib.suppress(RPCTimeoutError):
                    await client.call("rest", 5)
            case 5:
                async with client.stream("pages") as pages:
                    for _ in range(3):
                        await anext(pages)
            case _:
                pass

    # -- idle clients -----------------------------------------------------------------------------------

    async def idle(self, number: int, limiter: trio.CapacityLimiter) -> None:
        """Connect, and answer pings until cancelled."""
        async with contextlib.AsyncExitStack() as stack:
            async with limiter:
                source = f"127.0.3.{number % 40 + 1}"
                stream = await stack.enter_async_context(self.dialed(source))
                path, subprotocol = ("/echo", "") if number % 2 else ("/rpc", "trio-ws.v1")
                if not await upgrade(stream, opening(path, subprotocol=subprotocol)):
                    self.faults.append("an idle client was refused")
                    return
            self.counts["idle"] += 1
            self.faults.append(f"an idle client was dropped: {await answer_pings(stream)!r}")

    # -- clients that connect and disconnect ------------------------------------------------------------

    async def churn(self, nursery: trio.Nursery) -> None:
        """Start new clients at the configured rate."""
        gap = 1 / self.options.churn
        for number in itertools.count():
            if self.alive < _MOST_ALIVE * self.options.churn:
                nursery.start_soon(self.live, number)
            else:
                self.counts["left out"] += 1
            await trio.sleep_until(self.began + (number + 1) * gap)

    async def live(self, number: int) -> None:
        """Run one of these clients."""
        rng = random.Random(f"{self.options.seed} {number}")
        life = rng.choice(self.lives)
        self.counts[life.__name__] += 1
        self.alive += 1
        try:
            with trio.move_on_after(6 * self.stuck) as scope:
                await life(rng)
            if scope.cancelled_caught:
                self.faults.append(f"{life.__name__} is stuck")
        except (*_DEAD, WebSocketError) as exc:
            if life in (self.echo, self.calls, self.page):
                self.faults.append(f"{life.__name__}: {exc!r}")
        except Exception as exc:  # noqa: BLE001 - whatever it is, the run goes on and tells
            self.faults.append(f"{life.__name__}: {exc!r}")
        finally:
            self.alive -= 1

    async def echo(self, rng: random.Random) -> None:
        """Be an honest client of the echo."""
        stream = await dial(self.target.port, self.address(rng))
        async with connect(f"{self.url}/echo", stream=stream) as ws:
            for _ in range(rng.randrange(5)):
                data = rng.randbytes(rng.choice([1, 100, 70_000]))
                with trio.fail_after(self.stuck):
                    await ws.send(data)
                    assert await ws.receive_bytes() == data
                await trio.sleep(rng.random())

    async def calls(self, rng: random.Random) -> None:
        """Be an honest client of the methods."""
        stream = await dial(self.target.port, self.address(rng))
        dialect = rng.choice(["trio-ws.v1", "jsonrpc"])
        async with WebSocketClient(f"{self.url}/rpc", stream=stream, dialect=dialect) as client:
            for number in range(rng.randrange(5)):
                with trio.fail_after(self.stuck):
                    assert await client.call("echo", [number]) == [number]
                    async with client.stream("count", 5) as items:
                        assert [item async for item in items] == list(range(5))
                await trio.sleep(rng.random())

    async def page(self, rng: random.Random) -> None:
        """Be an honest client of plain HTTP."""
        async with await dial(self.target.port, self.address(rng)) as stream:
            await stream.send_all(get("/"))
            data = bytearray()
            with trio.fail_after(self.stuck):
                async for piece in stream:
                    data += piece
            assert data.startswith(b"HTTP/1.1 200 "), bytes(data[:40])

    async def leave_early(self, rng: random.Random) -> None:
        """Disconnect in the middle of the opening handshake."""
        async with self.dialed(self.address(rng)) as stream:
            await stream.send_all(
                rng.choice([opening("/echo"), opening("/rpc"), *HEADS])[: rng.randrange(1, 150)]
            )
            await trio.sleep(rng.random())

    async def leave_in_the_middle(self, rng: random.Random) -> None:
        """Disconnect in the middle of a message."""
        async with self.dialed(self.address(rng)) as stream:
            await upgrade(stream, opening("/echo"))
            data = frame(TEXT, b"x" * 5000, fin=False) + frame(MORE, b"x" * 100)
            await stream.send_all(data[: rng.randrange(len(data))])
            await trio.sleep(rng.random())

    async def leave_a_call(self, rng: random.Random) -> None:
        """Disconnect while calls, a stream and an upload are running."""
        async with self.dialed(self.address(rng)) as stream:
            await upgrade(stream, opening("/rpc", subprotocol="trio-ws.v1"))
            await stream.send_all(
                call("rest", 8, call_id="1")
                + call("pages", call_id="2", credits=rng.randrange(100))
                + call("keep", None, call_id="3", streams={"0": "3/0"})
                + call("__subscribe__", [f"room {rng.randrange(50)}", f"{rng.randrange(50)}*"], call_id="4")
            )
            await trio.sleep(rng.random())

    async def stop_reading(self, rng: random.Random) -> None:
        """Request a lot of data, and do not read it."""
        async with self.dialed(self.address(rng)) as stream:
            await upgrade(stream, opening("/rpc", subprotocol="trio-ws.v1"))
            with trio.move_on_after(rng.random() * 3):
                while True:
                    await stream.send_all(call("page", call_id="1") * 20)

    async def be_hostile(self, rng: random.Random) -> None:
        """Send random data."""
        async with self.dialed(self.address(rng)) as stream:
            speaks = rng.choice(["trio-ws.v1", "webshocket.v1", "jsonrpc", "json"])
            async with trio.open_nursery() as nursery:
                gate = Gate()
                with contextlib.suppress(*_DEAD):
                    await stream.send_all(opening("/rpc", subprotocol=speaks))
                    nursery.start_soon(gate.read, stream)
                    await play(random_steps(rng), speaks, stream, gate, lambda: None, patience=0.3)
                    await trio.sleep(rng.random())
                nursery.cancel_scope.cancel()

    # -- measurements -----------------------------------------------------------------------------------

    async def stop_the_server(self) -> None:
        """Stop the process for a moment, now and then."""
        while True:
            await trio.sleep(self.random.uniform(5, 30))
            self.target.process.send_signal(signal.SIGSTOP)
            try:
                await trio.sleep(self.random.uniform(0.05, 0.5))
            finally:
                self.target.process.send_signal(signal.SIGCONT)
            self.counts["stopped"] += 1

    async def watch(self) -> None:
        """Record figures, and print them together with new faults."""
        told = 0
        while True:
            await trio.sleep(_EVERY)
            passed = trio.current_time() - self.began
            held = self.target.rss
            self.memory.append((passed, held))
            state = await self.target.ask("state")
            print(
                f"{passed:.0f}s: {held / MIB:.1f} MiB, slowest operation {self.slowest:.2f}s, "
                f"{self.alive} alive, {len(self.faults)} faults, {dict(self.counts)}, {state}",
                flush=True,
            )
            self.slowest = 0.0
            for fault in self.faults[told : told + 20]:
                print(f"  {fault}", flush=True)
            told = len(self.faults)

    def judge_memory(self) -> None:
        """Check that memory has not grown since the server was warmed up."""
        warm = [held for passed, held in self.memory if passed > _WARM * self.options.seconds]
        if len(warm) < 4:
            return
        third = len(warm) // 3 or 1
        before, after = max(warm[:third]), min(warm[-third:])
        if after > before * 1.05 + 4 * MIB:
            self.faults.append(f"memory grew from {before / MIB:.1f} to {after / MIB:.1f} MiB")

    def judge_end(self, state: dict[str, Any], before: dict[str, Any]) -> None:
        """Check that all counters have their initial values."""
        for name in ("clients", "handshakes", "connections", "running", "channels", "stalled", "descriptors"):
            if state[name] != before[name]:
                self.faults.append(f"{name} is {state[name]} at the end, and was {before[name]}")
        if state["connected"] != state["disconnected"]:
            self.faults.append(f"{state['connected']} connects, and {state['disconnected']} disconnects")

    async def warmed(self) -> dict[str, Any]:
        """Return the counters after the first connections, which create lasting objects."""
        async with contextlib.AsyncExitStack() as stack:
            for number in range(100):
                stream = await stack.enter_async_context(
                    await dial(self.target.port, f"127.0.4.{number + 1}")
                )
                await upgrade(stream, opening("/rpc"))
        return await self.settled(0)

    async def settled(self, clients: int) -> dict[str, Any]:
        """Return the counters when at most ``clients`` are left, or after the maximum duration of a close."""
        state: dict[str, Any] = {}
        with trio.move_on_after(30):
            while not state or state["clients"] > clients:
                await trio.sleep(0.5)
                state = await self.target.ask("state")
        await trio.sleep(1)
        final: dict[str, Any] = await self.target.ask("state")
        return final

    async def run(self) -> None:
        """Run everything."""
        before = await self.warmed()
        async with trio.open_nursery() as idle:
            limiter = trio.CapacityLimiter(100)
            for number in range(self.options.idle):
                idle.start_soon(self.idle, number, limiter)
            while self.counts["idle"] < self.options.idle and not self.faults:
                await trio.sleep(0.1)
            self.began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch)
                async with trio.open_nursery() as active:
                    for number in range(self.options.steady):
                        active.start_soon(self.steady, number)
                    active.start_soon(self.stop_the_server)
                    active.start_soon(self.churn, active)
                    await trio.sleep(self.options.seconds)
                    active.cancel_scope.cancel()
                nursery.cancel_scope.cancel()
            self.judge_memory()
            idle.cancel_scope.cancel()
        state = await self.settled(before["clients"])
        self.judge_end(state, before)
        log = self.target.log.read_text(encoding="utf-8", errors="replace")
        for line in log.splitlines():
            if line.startswith(("ERROR", "CRITICAL", "Traceback")):
                self.faults.append(f"the log has: {line}")
        figures = f"{self.target.rss / MIB:.1f} MiB, {len(log)} bytes of log"
        print(f"at the end: {figures}, {state}, {dict(self.counts)}", flush=True)


async def main(options: argparse.Namespace) -> int:
    """Run it, and print the faults."""
    async with running("chaos") as target:
        assert await target.serves("/echo")
        await trio.sleep(0.3)
        chaos = Chaos(options, target)
        await chaos.run()
    for fault, count in Counter(chaos.faults).most_common(50):
        print(f"FAULT {count} times: {fault}")
    print("holds" if not chaos.faults else f"{len(chaos.faults)} faults", flush=True)
    return bool(chaos.faults)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--churn", type=float, default=50)
    parser.add_argument("--steady", type=int, default=8)
    parser.add_argument("--stuck", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(trio.run(main, parse(sys.argv[1:])))
