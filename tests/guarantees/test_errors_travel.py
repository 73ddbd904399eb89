"""Errors keep their text, attributes and notes when they are pickled or copied."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import trio_ws
from tests.support.serving import serving_in_memory
from trio_ws import CloseFrame, Headers, WebSocketMessage, errors
from trio_ws.codecs.base import DecodeError, Packet, PacketSource

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio.testing


class Keyworded(trio_ws.RPCError):
    """An error whose ``__init__`` does not accept the values of ``args``."""

    def __init__(self, *, user: str) -> None:
        super().__init__(f"{user} may not do that", code=-5, data={"user": user})
        self.user = user


class Slotted(trio_ws.MessageError):
    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        super().__init__(f"wrong at {place}")
        self.place = place


class Unstarted(trio_ws.CloseConnection):
    """An error that does not call ``__init__`` of its base class."""

    def __init__(self, first: str, second: str) -> None:
        self.pair = (first, second)


def samples() -> list[trio_ws.WebSocketError]:
    close = CloseFrame(4001, "bye")
    lost = trio_ws.ConnectionClosedError(4001, "bye", sent=CloseFrame(4001, ""), received=close)
    lost.may_have_run = False
    return [
        trio_ws.WebSocketError("w"),
        trio_ws.ConnectionFailedError("f"),
        trio_ws.InvalidURIError("u"),
        trio_ws.HandshakeRejectedError(403, Headers([("A", "b"), ("A", "c")]), b"no"),
        lost,
        trio_ws.ConnectionClosedLocallyError(1000, ""),
        trio_ws.ConnectionEndedError(1000, ""),
        trio_ws.MessageError("m", WebSocketMessage.text("x")),
        trio_ws.Reconnect("r"),
        trio_ws.SubprotocolError("a", ["b"]),
        trio_ws.PacketError("p"),
        trio_ws.PacketValidationError("p"),
        trio_ws.RPCError("m", code=-1, data=[1]),
        trio_ws.RPCMethodNotFoundError("n"),
        trio_ws.RPCInvalidParamsError("i", data={"path": "$.a"}),
        trio_ws.RPCInternalError("i"),
        trio_ws.RateLimitError(retry_after=2.0),
        trio_ws.RPCAccessDeniedError("d"),
        trio_ws.RPCTimeoutError("t"),
        trio_ws.RPCCancelledError("c"),
        trio_ws.SubscriptionError("s"),
        trio_ws.BrokerError("b"),
        trio_ws.WorkerError("w", 3),
        trio_ws.CloseConnection(4000, "x"),
        DecodeError("b", answer=b"a", packets=[Packet(PacketSource.CUSTOM, 1)]),
        Keyworded(user="ann"),
        Slotted(7),
        Unstarted("a", "b"),
    ]


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "pickle, by protocol 2": lambda error: pickle.loads(pickle.dumps(error, 2)),
}


def seen(error: BaseException) -> tuple[object, ...]:
    return type(error), str(error), repr(error), error.args, vars(error)


def test_each_kind_has_a_sample() -> None:
    kinds = {getattr(errors, name) for name in errors.__all__}
    kinds = {kind for kind in kinds if not issubclass(kind, Warning)}  # they stay where they are given
    assert {kind for kind in kinds if issubclass(kind, BaseException)} <= {type(one) for one in samples()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", range(len(samples())), ids=[type(one).__name__ for one in samples()])
def test_an_error_stays_what_it_is(number: int, way: str) -> None:
    error = samples()[number]
    error.add_note("seen by the night watch")
    again = WAYS[way](error)
    assert seen(again) == seen(error)
    assert again.__notes__ == ["seen by the night watch"]
    if isinstance(error, Slotted):
        assert again.place == 7
    if isinstance(error, trio_ws.RateLimitError):
        assert again.retry_after == 2.0


def test_a_copy_is_a_copy() -> None:
    error = trio_ws.RPCError("m", data=[1])
    deep = copy.deepcopy(error)
    deep.data.append(2)
    deep.code = 7
    assert (error.data, error.code) == ([1], -32001)


class Failing(trio_ws.WebSocketHandler[Any]):
    @trio_ws.rpc_method()
    async def knock(self, connection: trio_ws.ClientConnection[Any]) -> None:
        raise Keyworded(user="ann")


async def test_exceptions_of_calls(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory(Failing) as server:
        async with trio_ws.WebSocketClient("ws://x/", stream=await server.stream()) as client:
            with pytest.raises(trio_ws.RPCError) as info:
                await client.call("knock")
    again = pickle.loads(pickle.dumps(info.value))
    assert seen(again) == seen(info.value)
    assert (again.code, again.data) == (-5, {"user": "ann"})


def fail() -> None:
    raise trio_ws.ConnectionClosedError(4001, "bye", received=CloseFrame(4001, "bye"))


def test_a_pool_of_processes_hands_it_on() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(trio_ws.ConnectionClosedError) as info:
            pool.submit(fail).result(60)
    assert str(info.value) == "the WebSocket is closed: code 4001 (bye)"
    assert info.value.received == CloseFrame(4001, "bye")


def test_the_text_of_the_other_side_is_cut_wherever_it_is_shown() -> None:
    for kind in (trio_ws.RPCError, trio_ws.RPCTimeoutError, trio_ws.RateLimitError):
        error = kind("\N{SNOWMAN}\n" * 100_000)
        assert len(str(error).encode()) < 1100
        assert len(repr(error).encode()) < 1100
        assert repr(error).startswith(f"{kind.__name__}('\N{SNOWMAN}")
        assert len(error.message) == 200_000
    assert repr(trio_ws.RPCError("short")) == "RPCError('short')"
