"""Random faults in the user code of random connections, together with honest clients.

After each run, the server still serves, honest clients have received all responses, all places are free
again, ``on_disconnect`` has run for each ``on_connect`` that returned, and the log has one record for each
fault.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.faults import KINDS, Faults, Panic, app_of, handlers, kept_cancelled
from tests.support.serving import all_tasks, exchange, request, status_of
from trio_ws import (
    App,
    ClientConnection,
    Options,
    Request,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    connect,
    rpc_method,
)
from trio_ws.testing import MemoryListener, RawPeer

HOOKS = list(handlers(Faults(Panic())))
FUNCTIONS = ["Handler", "HandlerBeforeAccept", "HandlerWithANursery", "Middleware", "MiddlewareThatLeaves"]
#: Not raised inside a nursery: trio inspects some of these there, and treats others as its own cancellation.
IN_NURSERIES = [
    kind
    for kind in KINDS
    if kind not in ("unprintable", "unprintable_panic", "kept_cancelled", "no_traceback")
]
PLAIN_GET = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
SAID = {
    "call": b'{"jsonrpc":"2.0","method":"m","id":1}',
    "data": b'{"jsonrpc":"2.0","method":"rpc.data","params":{"data":1}}',
    "subscribe": b'{"jsonrpc":"2.0","method":"__subscribe__","params":[["a"]],"id":1}',
}


@dataclass(frozen=True)
class Bad:
    """A client whose requests run code that fails."""

    place: str
    kind: str
    says: tuple[str, ...]
    begins: float
    stays: float
    leaves: str


def bad_clients() -> st.SearchStrategy[Bad]:
    def of(place: str) -> st.SearchStrategy[Bad]:
        return st.builds(
            Bad,
            st.just(place),
            st.sampled_from(IN_NURSERIES if place.endswith("Nursery") else KINDS),
            st.lists(st.sampled_from(sorted(SAID)), max_size=3).map(tuple),
            st.sampled_from([0.0, 0.05, 0.3]),
            st.sampled_from([0.0, 0.05, 0.1, 0.3]),
            st.sampled_from(["close", "cut", "end"]),
        )

    return st.sampled_from([*FUNCTIONS, *HOOKS]).flatmap(of)


class Counting(logging.Handler):
    """Counts the records of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class Honest(WebSocketHandler):
    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        await trio.sleep(0.01)
        return a + b


async def page(request: Request) -> str:
    return "page"


async def be_bad(listener: MemoryListener, bad: Bad, latency: float) -> None:
    await trio.sleep(bad.begins)
    stream = await listener.connect(latency=latency)
    peer = RawPeer(stream, client=True)
    with contextlib.suppress(trio.BrokenResourceError, EOFError):
        target = f"/{bad.place}?what={bad.kind}"
        await peer.send_raw(request("Sec-WebSocket-Protocol: jsonrpc", target=target))
        if status_of(await peer.receive_head()) == 101:
            for what in bad.says:
                await peer.send_text(SAID[what].decode())
            with trio.move_on_after(bad.stays):
                await peer.receive_until_close()
            if bad.leaves == "end":
                await peer.send_close()
    if bad.leaves == "cut":
        stream.link.cut()
    await stream.aclose()


async def be_honest(listener: MemoryListener, until: trio.Event) -> None:
    async with (
        WebSocketClient("ws://test/Honest", stream=await listener.connect()) as client,
        connect("ws://test/echo", stream=await listener.connect()) as ws,
    ):
        number = 0
        while not until.is_set():
            await trio.sleep(0.05)
            with trio.fail_after(1):
                number += 1
                assert await client.call("add", number, 1) == number + 1
                await ws.send(str(number))
                assert await ws.receive_text() == str(number)
                page = await exchange(
                    await listener.connect(), b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
                assert status_of(page) == 200


async def run(clients: list[Bad], latency: float) -> None:
    faults = Faults(await kept_cancelled())
    app: App = app_of(faults)
    app.mount("/Honest", Honest)
    app.http("/page")(page)
    counting = Counting()
    logging.getLogger("trio_ws").addHandler(counting)
    before = all_tasks()
    listener = MemoryListener()
    try:
        with trio.fail_after(1000):
            async with WebSocketServer(app, listeners=[listener], options=Options(close_timeout=2)) as server:
                over = trio.Event()
                async with trio.open_nursery() as honest:
                    honest.start_soon(be_honest, listener, over)
                    async with trio.open_nursery() as nursery:
                        for bad in clients:
                            nursery.start_soon(be_bad, listener, bad, latency)
                    await trio.sleep(4)
                    assert len(server.connections) == 2
                    over.set()
                assert server.state == "serving"
    finally:
        logging.getLogger("trio_ws").removeHandler(counting)
    assert all_tasks() == before
    assert faults.connected == faults.disconnected
    assert len(counting.texts) == faults.raised, counting.texts


@examples(40)
@given(st.lists(bad_clients(), min_size=1, max_size=12), st.sampled_from([0.0, 0.02]))
def test_faults_of_user_code_do_not_affect_other_clients(clients: list[Bad], latency: float) -> None:
    trio.run(run, clients, latency, clock=trio.testing.MockClock(autojump_threshold=0))
