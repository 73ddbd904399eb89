"""Plain calls of a client, which the extension sends: as Python does it, with every end of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.serving import guard
from tests.support.watching import until
from trio_ws import Options, WebSocketClient
from trio_ws.rpc import outgoing
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.skipif(
    outgoing.begin_call is outgoing._begin_no_call,
    reason="the extension was not built, or trio is not as usual",
)

Step = tuple[str, list[Any], dict[str, Any], str]


class Own:
    """What msgspec cannot encode."""


values: Any = st.sampled_from(
    [1, -(2**40), 1 << 70, True, None, 1.5, "x", "é" * 300, b"b", bytes(5000), [1, [2]], (1,), {"a": 1}, Own]
)
steps = st.tuples(
    st.sampled_from(["add", "é", "x" * 300, ""]),
    st.lists(values, max_size=3),
    st.dictionaries(st.just("name"), values, max_size=1),
    st.sampled_from(["result", "nothing", "error", "stream", "cancelled", "kept", "kept"]),
)


def answer(call_id: str, how: str) -> bytes:
    rpc: dict[str, Any] = {
        "type": "response",
        "call_id": call_id,
        "response": None if how == "nothing" else how,
    }
    if how == "error":
        rpc["error"] = -32000
    if how == "stream":
        rpc["is_stream"] = True
    return msgspec.msgpack.encode({"source": 5, "rpc": rpc})


class Calls:
    """A client of a scripted server, and what both have seen."""

    def __init__(self, client: WebSocketClient, peer: RawPeer, nursery: trio.Nursery) -> None:
        self.seen: list[object] = []
        self._client = client
        self._peer = peer
        self._nursery = nursery
        self._kept: list[str] = []
        self._running = 0

    async def _call(self, step: Step, scope: trio.CancelScope, times: int = 1) -> None:
        self._running += 1
        method, args, kwargs, _ = step
        result: object = "cancelled"
        with scope:
            for _ in range(times):
                try:
                    result = await self._client.call(method, *args, **kwargs)
                except Exception as exc:  # noqa: BLE001 - compared
                    result = type(exc), str(exc), getattr(exc, "may_have_run", None)
        self.seen.append(result)
        self._running -= 1

    async def _request(self) -> tuple[str, object]:
        """Receive the next frame. Return the id of the call, and the rest of it."""
        frame = await self._peer.receive_frame()
        assert frame is not None
        rpc = msgspec.msgpack.decode(frame.payload)["rpc"]
        return rpc.pop("call_id", ""), rpc

    async def do(self, step: Step) -> None:
        """Make one call, up to its end, unless it is kept."""
        scope, how = trio.CancelScope(), step[3]
        running, ended = self._running, len(self.seen)
        self._nursery.start_soon(self._call, step, scope, 2 if how == "kept" else 1)
        await until(lambda: self._pending() > running or len(self.seen) > ended)
        if len(self.seen) > ended:
            return  # it could not be sent
        call_id, rpc = await self._request()
        self.seen.append((call_id, rpc))
        if how == "kept":
            self._kept.append(call_id)
            return
        if how == "cancelled":
            scope.cancel()
        else:
            await self._peer.send_frame(2, answer(call_id, how))
        await until(lambda: self._running == running)
        if how in ("cancelled", "stream"):
            self.seen.append(await self._request())
        assert self._pending() == running

    def _pending(self) -> int:
        return len(self._client._live.outgoing.pending_calls)

    async def answer_kept(self) -> None:
        """Answer all that are kept at once; each then calls again, in one burst, and gets no answer."""
        for call_id in self._kept:
            await self._peer.send_frame(2, answer(call_id, "result"))
        again = [(await self._request())[1] for _ in self._kept]
        self.seen.append(sorted(map(repr, again)))
        assert self._pending() == len(self._kept)
        before = len(self.seen)
        await self._peer.aclose()
        await until(lambda: self._running == 0)
        self.seen[before:] = sorted(map(repr, self.seen[before:]))


async def outcomes(script: Sequence[Step], protocol: str) -> list[object]:
    """Make these calls one after the other, and return what both sides have seen."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    client: WebSocketClient = WebSocketClient(
        f"ws://127.0.0.1:{listener.socket.getsockname()[1]}",
        dialect=protocol,
        options=Options(ping_interval=None),
    )
    peers: list[RawPeer] = []

    async def serve() -> None:
        stream = await listener.accept()
        peers.append(await RawPeer.accept(stream, [("Sec-WebSocket-Protocol", protocol)]))

    async def watch() -> None:
        """A deadline would be sent with each call."""
        await trio.sleep(guard())
        raise trio.TooSlowError

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(serve)
        async with client:
            await until(lambda: peers)
            calls = Calls(client, peers[0], nursery)
            for step in script:
                await calls.do(step)
            await calls.answer_kept()
            nursery.cancel_scope.cancel()
    return calls.seen


@settings(max_examples=60)
@given(script=st.lists(steps, max_size=6), protocol=st.sampled_from(["trio-ws.v1", "webshocket.v1"]))
def test_calls_end_as_by_python(script: list[Step], protocol: str) -> None:
    in_c = trio.run(outcomes, script, protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outgoing, "begin_call", outgoing._begin_no_call)
        assert in_c == trio.run(outcomes, script, protocol)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (("add", [1, "x", [1], None], {}, "result"), True),
        (("add", [1], {}, "cancelled"), True),
        (("add", [1], {}, "kept"), True),
        (("add", [bytes(5000)], {}, "result"), False),  # large
        (("add", [Own], {}, "result"), False),  # what cannot be encoded is explained in Python
    ],
)
def test_what_the_extension_does(step: Step, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bool] = []
    in_c = outgoing.begin_call

    def noting(*given: Any) -> Any:
        wait = in_c(*given)
        begun.append(wait is not None)
        return wait

    monkeypatch.setattr(outgoing, "begin_call", noting)
    trio.run(outcomes, [step], "webshocket.v1")
    assert set(begun) == {expected}
