"""Clients of third-party servers under a plan of faults, in virtual time.

A typical server requires a token that expires, and pushes numbers to its subscribers. Links are cut at random
bytes or become half-open. The server accepts and stays silent, responds with 429 and ``Retry-After`` or with
503, and refuses tokens. In all cases:

- a subscription is missing only until the failure is noticed, plus one back-off delay for each failed
  attempt;
- there are never two connections at once;
- no message is received twice, or before an earlier one.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from tests.support.examples import examples
from tests.support.network import Network, refusal
from tests.support.serving import guard, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    Options,
    Reconnect,
    RPCError,
    WebSocket,
    WebSocketClient,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws.testing import LinkStream

LONGEST = 2.0  # back-off delay in seconds, to which Retry-After is added
RETRY_AFTER = 1
OPTIONS = Options(
    ping_interval=1, ping_timeout=2, open_timeout=3, close_timeout=1, drain_timeout=0.01, compression=False
)
#: Maximum number of seconds until the end of a connection is noticed: by silence, or by an unanswered ping,
#: which is sent up to two intervals after the last received byte.
NOTICED = 2 * 1.0 + 2.0 + 1.0
#: Maximum number of seconds of one attempt: to connect, to set up, and to close after a failure.
TRIED = 2 * 3.0 + 1.0
_INEXACT = 1e-6  # tolerance for sums of times


class Faults(Network):
    """A network with faults according to a plan, which also counts concurrent connections.

    Attributes:
        count: the number of faults so far.
        most: the maximum number of concurrent connections of the client.
    """

    def __init__(self, seed: int, *args: Any, **link: Any) -> None:
        super().__init__(*args, **link)
        self.random = random.Random(seed)
        self.count = 0
        self.most = 0

    async def __call__(self) -> LinkStream:
        kind = self.random.random()
        if kind < 0.08:
            self.count += 1
            self.plan.append(refusal(429, f"Retry-After: {RETRY_AFTER}"))
        elif kind < 0.12:
            self.count += 1
            self.plan.append(refusal(503))
        elif kind < 0.16:
            self.count += 1
            self.plan.append(OSError("no route"))
        stream = await super().__call__()
        link = self.links[-1]
        self.links = [one for one in self.links if not one.client._closed or one is link]
        self.most = max(self.most, sum(not one.client._closed for one in self.links))
        kind = self.random.random()
        if kind < 0.5:
            self.count += 1
            # At any byte: in the handshake, in the login, or in a message.
            link.cut_after(self.random.randrange(1, 1500))
        return stream

    async def go_wrong(self) -> None:
        """Cut links and make them half open, at random times."""
        while True:
            await trio.sleep(self.random.expovariate(0.4))
            if self.links:
                self.count += 1
                link = self.links[-1]
                link.cut() if self.random.random() < 0.6 else link.partition()


class Pushing:
    """The server. It uses JSON-RPC, or plain JSON if the first message has no ``jsonrpc``."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.number = 0
        self.subscribed = 0
        self.expires = 0.0

    def fresh_token(self) -> str:
        """Return a token for ten seconds, which sometimes has already expired."""
        self.expires = trio.current_time() + (10 if self.random.random() < 0.8 else -1)
        return str(self.expires)

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept()
        try:
            login = await ws.receive_json()
            if self.random.random() < 0.1:
                await ws.recv()  # silent
                return
            valid = float(login["params"]["token"]) > trio.current_time()
            error = None if valid else {"code": -1, "message": "the token has expired"}
            await self._answer(ws, login, error)
            await self._answer(ws, await ws.receive_json(), None)
            self.subscribed += 1
            silent = self.random.random() < 0.1 and "jsonrpc" not in login
            while not silent:
                self.number += 1
                await ws.send_json({"jsonrpc": "2.0", "method": "number", "params": [self.number]})
                await trio.sleep(0.25)
            await ws.recv()
        except (ConnectionClosedError, trio_ws.MessageError):
            pass

    async def _answer(self, ws: WebSocket, call: dict[str, Any], error: Any) -> None:
        outcome = {"result": None} if error is None else {"error": error}
        await ws.send_json({"jsonrpc": "2.0", "id": call.get("id"), **outcome})


class ClientRecord:
    """Records the numbers that a client receives, and the durations of its states."""

    def __init__(self) -> None:
        self.last = 0
        self.count = 0
        self.longest = dict.fromkeys(("waiting", "connecting", "connected"), 0.0)
        self._since = 0.0

    def take(self, number: int) -> None:
        assert number > self.last, f"{number} came after {self.last}"
        self.last = number
        self.count += 1
        self._since = trio.current_time()

    async def states(self, changes: AsyncIterator[str]) -> None:
        """Measure the durations of the states; "connected" begins with its last message."""
        before = ""
        async for state in changes:
            if before in self.longest:
                self.longest[before] = max(self.longest[before], trio.current_time() - self._since)
            before, self._since = state, trio.current_time()


async def by_session(
    network: Faults, server: Pushing, backoff: Backoff, record: ClientRecord, seconds: float
) -> None:
    async def set_up(ws: WebSocket) -> None:
        for message in ({"params": {"token": server.fresh_token()}}, {"op": "subscribe"}):
            await ws.send_json(message)
            answer = await ws.receive_json()
            if "error" in answer:
                raise Reconnect(answer["error"]["message"])

    async with (
        trio_ws.session(
            "ws://feed.example/",
            stream=network,
            on_connection=set_up,
            reconnect=backoff,
            silence=2,
            options=OPTIONS,
        ) as feed,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(record.states, feed.watch_state())
        with trio.move_on_after(seconds):
            async for message in feed:
                record.take(message.json()["params"][0])
        nursery.cancel_scope.cancel()


async def by_client(
    network: Faults, server: Pushing, backoff: Backoff, record: ClientRecord, seconds: float
) -> None:
    async def set_up(connection: ClientConnection[Any]) -> None:
        try:
            await connection.call("login", token=server.fresh_token())
        except RPCError as exc:
            raise Reconnect("a new token is needed") from exc
        await connection.call("subscribe")

    client = WebSocketClient(
        "ws://feed.example/",
        dialect="jsonrpc",
        stream=network,
        on_connection=set_up,
        reconnect=backoff,
        options=OPTIONS,
    )
    async with (
        client.notifications("number", items=list[int]) as numbers,
        client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(record.states, client.watch_state())
        with trio.move_on_after(seconds):
            async for (number,) in numbers:
                record.take(number)
        nursery.cancel_scope.cancel()


def run(follow: Any, seed: int, seconds: float) -> tuple[Faults, Pushing, ClientRecord]:
    backoff = Backoff(initial=0.5, maximum=LONGEST, random=random.Random(seed))
    server, record = Pushing(seed), ClientRecord()

    async def main() -> Faults:
        async with serving_in_memory(server, options=OPTIONS) as memory:
            network = Faults(seed, memory.listener, latency=0.02)
            with trio.fail_after(guard()):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(network.go_wrong)
                    await follow(network, server, backoff, record, seconds)
                    nursery.cancel_scope.cancel()
        return network

    network = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return network, server, record


@pytest.mark.parametrize("follow", [by_session, by_client])
@examples(4)
@given(seed=st.integers(0, 2**32))
def test_whatever_goes_wrong(follow: Any, seed: int) -> None:
    network, server, record = run(follow, seed, 150.0)
    assert network.count > 40
    assert network.most == 1
    assert server.subscribed > 5
    assert record.count > 20
    assert record.longest["waiting"] <= LONGEST + RETRY_AFTER + _INEXACT
    assert record.longest["connecting"] <= TRIED + _INEXACT
    assert record.longest["connected"] <= NOTICED + _INEXACT
