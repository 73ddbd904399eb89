"""JSON-RPC servers of other authors: notifications in both directions, batches, and foreign ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.simulated_server import SimulatedServer, simulated_server
from trio_ws import (
    ConnectionClosedError,
    Options,
    PacketError,
    PacketValidationError,
    RPCError,
    RPCMethodNotFoundError,
    RPCNotification,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from trio.testing import MockClock

    from trio_ws import ClientConnection


def client_and_server(
    selects: str | None = None, **settings: Any
) -> AbstractAsyncContextManager[tuple[WebSocketClient, SimulatedServer]]:
    return simulated_server(selects, dialect="jsonrpc", **settings)


def note(method: str, params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}


async def test_notify_by_position_and_by_name(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        await client.notify("seen", 1, [2])
        await client.notify("seen", what="x")
        await client.notify("seen")
        assert await server.receive() == note("seen", [1, [2]])
        assert await server.receive() == note("seen", {"what": "x"})
        assert await server.receive() == {"jsonrpc": "2.0", "method": "seen"}
        with pytest.raises(PacketError, match="not both"):
            await client.notify("seen", 1, what="x")
        with pytest.raises(PacketError, match="cannot be sent"):
            await client.notify("seen", object())


class Head(msgspec.Struct):
    subscription: str
    result: dict[str, Any]


async def test_notifications_are_converted_to_their_type(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        async with client.notifications("eth_subscription", items=Head) as heads:
            await server.send(
                note("other", {}),
                note("eth_subscription", {"subscription": "0x1", "result": {"number": "0x10"}}),
                note("eth_subscription", {"subscription": 7}),
                note("eth_subscription", {"subscription": "0x1", "result": {}}),
            )
            assert await heads.receive() == Head("0x1", {"number": "0x10"})
            with pytest.raises(PacketValidationError, match="eth_subscription"):
                await heads.receive()
            assert await heads.receive() == Head("0x1", {})
            with pytest.raises(trio.WouldBlock):
                heads.receive_nowait()


async def test_several_or_all_come_with_their_names_and_in_order(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        async with client.notifications(["a", "b"]) as some, client.notifications() as every:
            await server.send(
                note("a", [1]), note("c", {"x": 1}), note("b", [2]), {"method": "a", "id": None}
            )
            found = [await every.receive() for _ in range(4)]
            assert found == [("a", [1]), ("c", {"x": 1}), ("b", [2]), ("a", {})]
            assert await some.receive() == RPCNotification("a", [1])
            assert (await some.receive()).method == "b"


@pytest.mark.parametrize("name", ["rpc.data", "rpc.item", "rpc.cancel", "rpc.anything"])
async def test_names_are_reserved_only_where_we_serve(name: str, autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        async with client.notifications(name) as stream:
            await server.send(note(name, ["1"]))
            assert await stream.receive() == ["1"]
        with trio.move_on_after(1):
            await client.call("slow")
        assert await server.receive() == {"jsonrpc": "2.0", "method": "slow", "id": 1}
        await client.notify("next")
        assert (await server.receive())["method"] == "next"  # no rpc.cancel


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "disconnect"])
async def test_queue_is_bounded_in_items(policy: Any, autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        async with client.notifications("n", policy=policy, max_items=3) as stream:
            await server.send(*[note("n", [number]) for number in range(5)], {"id": 9, "method": "x"})
            await server.receive()  # the answer to the last
            found = []
            with pytest.raises((trio.WouldBlock, trio.BrokenResourceError)) as info:
                while True:
                    found.append(stream.receive_nowait()[0])
            assert found == ([2, 3, 4] if policy == "drop_oldest" else [0, 1, 2])
            assert (info.type is trio.BrokenResourceError) == (policy == "disconnect")
            assert stream.dropped == (1 if policy == "disconnect" else 2)
        assert client.connected


async def test_a_server_that_selects_the_subprotocol_may_be_ours(autojump_clock: MockClock) -> None:
    """The npm package ws, for example, selects the first offered subprotocol."""
    async with client_and_server("jsonrpc") as (client, server), client.notifications("news") as news:
        with trio.move_on_after(1):
            await client.call("slow")
        assert (await server.receive())["id"] == 1
        assert await server.receive() == note("rpc.cancel", [1])
        error = {"code": -32601, "message": "there is no rpc.cancel"}
        await server.send({"jsonrpc": "2.0", "id": None, "error": error})
        await server.send({"notification": "news", "params": ["hello"]})
        assert await news.receive() == ["hello"]
        async with client.stream("count", items=int) as numbers:
            number = (await server.receive())["id"]
            await server.send(note("rpc.item", {"id": number, "item": 5}))
            assert await numbers.receive() == 5
            await server.send({"jsonrpc": "2.0", "id": number, "result": None})
            with pytest.raises(trio.EndOfChannel):
                await numbers.receive()
        await server.send(note("rpc.data", {"data": 7}))
        packet = await client.recv()
        assert packet is not None
        assert packet.data == 7


async def test_queue_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    async with client_and_server(options=Options(channel_max_bytes=10_000)) as (client, server):
        async with client.notifications("n") as stream:
            await server.send(*[note("n", ["x" * 4000])] * 10, {"id": 9, "method": "x"})
            await server.receive()
            waiting = stream.statistics().waiting
            assert waiting in (2, 3)  # their size is a bound
            assert stream.dropped == 10 - waiting


class Own(WebSocketHandler[Any]):
    def __init__(self) -> None:
        self.noted: list[Any] = []

    @rpc_method("n")
    def note(self, connection: ClientConnection[Any], value: int) -> None:
        self.noted.append(value)


async def test_a_method_of_the_handler_gets_them_too(autojump_clock: MockClock) -> None:
    handler = Own()
    async with client_and_server(handler=handler) as (client, server):
        async with client.notifications("n") as stream:
            await server.send(note("n", [5]))
            assert await stream.receive() == [5]
    assert handler.noted == [5]


async def test_the_stream_ends_with_the_connection(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server):
        async with client.notifications("n") as stream:
            await server.send(note("n", [1]))
            await server.peer.send_close(1011, "bye")
            assert await stream.receive() == [1]
            with pytest.raises(ConnectionClosedError, match="bye"):
                await stream.receive()
        with pytest.raises(ConnectionClosedError):
            async with client.notifications("n"):
                pytest.fail("there is no connection")


async def test_a_batch_goes_out_as_one_message(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            batch = await server.receive()
            assert [one.get("id") for one in batch] == [1, None, 2, 3]
            assert [one.get("params") for one in batch] == [[1, 2], [0], None, {"a": 1}]
            error = {"code": -32601, "message": "no"}
            await server.send(
                [
                    {"jsonrpc": "2.0", "id": 3, "result": "x"},
                    {"jsonrpc": "2.0", "id": 2, "error": error},
                    {"jsonrpc": "2.0", "id": 1, "result": 3},
                ]
            )

        nursery.start_soon(answer)
        async with client.batch() as batch:
            total = batch.call("add", 1, 2, returns=int)
            batch.notify("seen", 0)
            failing = batch.call("nobody")
            wrong = batch.call("name", a=1, returns=int)
            with pytest.raises(RuntimeError, match="left"):
                total.result()
        assert total.result() == 3
        with pytest.raises(RPCMethodNotFoundError):
            failing.result()
        with pytest.raises(PacketValidationError):
            wrong.result()
        with pytest.raises(RuntimeError, match="already"):
            batch.call("late")


async def test_a_batch_that_fails_or_is_cancelled_leaves_nothing(autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        with pytest.raises(PacketError):
            async with client.batch() as batch:
                batch.call("a")
                batch.call("b", object())
        with pytest.raises(ZeroDivisionError):
            async with client.batch() as batch:
                batch.call("a")
                raise ZeroDivisionError
        with trio.move_on_after(1) as scope:
            async with client.batch() as batch:
                batch.call("slow")
        assert scope.cancelled_caught
        assert (await server.receive())[0]["method"] == "slow"
        await server.send({"id": 3, "result": "too late"})

        async def answer_half() -> None:
            await server.receive()
            await server.send({"id": 4, "result": "kept"})
            await server.peer.send_close(1001)

        nursery.start_soon(answer_half)
        calls = []
        with pytest.raises(ConnectionClosedError):
            async with client.batch() as batch:
                calls = [batch.call("kept"), batch.call("lost")]
        assert calls[0].result() == "kept"
        assert isinstance(calls[1].error, ConnectionClosedError)


@pytest.mark.parametrize("code", [-32700, -32600])
async def test_a_server_without_batches_ends_all_calls_of_one(code: int, autojump_clock: MockClock) -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            await server.receive()
            await server.send(
                {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "no batches"}}
            )
            call = await server.receive()
            await server.send({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "nor calls"}})
            assert call["method"] == "single"

        nursery.start_soon(answer)
        async with client.batch() as batch:
            one, two = batch.call("a"), batch.call("b")
        for call in (one, two):
            with pytest.raises(RPCError, match="no batches"):
                call.result()
        with pytest.raises(RPCError, match="nor calls"):
            await client.call("single")
        assert client.connected


BAD_ID = "no call has the id {} of this response"


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ({"jsonrpc": "2.0", "id": 77, "result": 1}, 1002, BAD_ID.format(77)),
        ({"jsonrpc": "2.0", "id": "abc", "result": 1}, 1002, BAD_ID.format('"abc"')),
        ({"jsonrpc": "2.0", "id": -1, "error": {"code": 1, "message": "m"}}, 1002, BAD_ID.format(-1)),
        ([{"jsonrpc": "2.0", "id": 77, "result": 1}], 1002, BAD_ID.format(77)),
        ("not json", 1007, "this is not JSON-RPC"),
        ([], 1002, "a batch has 1 to 1000 members"),
        ("[1", 1007, "this is not a JSON-RPC batch"),
    ],
)
async def test_an_unexpected_response_ends_the_connection_with_its_cause(
    message: Any, code: int, reason: str, autojump_clock: MockClock
) -> None:
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            await server.receive()
            await server.send(message)
            seen, text = await server.receive()
            assert seen == code
            assert text.startswith(reason)

        nursery.start_soon(answer)
        with pytest.raises(ConnectionClosedError) as info:
            await client.call("f")
        assert info.value.code == code
        assert reason in str(info.value)


async def test_unknown_messages_are_ignored(autojump_clock: MockClock) -> None:
    """Greetings, responses to cancelled calls, and errors of notifications."""
    async with client_and_server() as (client, server), trio.open_nursery() as nursery:
        with trio.move_on_after(1):
            await client.call("slow")
        await server.receive()
        await server.send(
            {"type": "hello"},
            {},
            '"text"',
            {"id": 1, "result": "too late"},
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "m"}},
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "m"}},
        )

        async def answer() -> None:
            call = await server.receive()
            await server.send({"id": str(call["id"]), "result": None, "error": None})

        for request_id in (1, "one", 1.5):
            await server.send({"jsonrpc": "2.0", "id": request_id, "method": "ask"})
            refused = await server.receive()
            assert refused["id"] == request_id
            assert refused["error"]["code"] == -32601
        nursery.start_soon(answer)
        assert await client.call("f") is None
        await server.send({"jsonrpc": "2.0", "id": 1, "method": "ask"})


async def test_an_answer_that_must_not_be_decoded_ends_its_call(autojump_clock: MockClock) -> None:
    options = Options(max_decoded_bytes=20_000)
    async with client_and_server(options=options) as (client, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            call = await server.receive()
            await server.send({"jsonrpc": "2.0", "id": call["id"], "result": [[]] * 5000})

        nursery.start_soon(answer)
        with pytest.raises(RPCError, match="max_decoded_bytes"):
            await client.call("f")
        assert client.connected


async def test_other_dialects_have_none_of_it(autojump_clock: MockClock) -> None:
    link = Link()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RawPeer.accept, link.server)
        async with WebSocketClient("ws://test", dialect="json", stream=link.client) as client:
            with pytest.raises(PacketError, match="there are no notifications in json"):
                await client.notify("x")
            with pytest.raises(PacketError, match="there are no batches in json"):
                async with client.batch() as batch:
                    batch.call("x")
            await link.server.aclose()
