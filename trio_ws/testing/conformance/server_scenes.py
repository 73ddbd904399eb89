"""Scenes for the server's calls, data, channels and closing. Each docstring says how to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.testing.conformance.scene import Scene, adder
from trio_ws.testing.conformance.stage import Stage, ViolationError, Wire

if TYPE_CHECKING:
    from trio_ws._types import JSONObject, Value

__all__ = ["SCENES"]

SCENES: list[Scene] = []
scene = adder(SCENES)

# -- calls from the server ---------------------------------------------------------------------------


@scene("methods")
async def the_server_calls(stage: Stage) -> None:
    """Answer calls of the server's, whose ids may be those of calls of the client's own."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[])
    request = await wire.request("slow")
    await wire.ask("echo", {"x": [1]}, call_id=request["call_id"])
    await wire.response(request["call_id"], response={"x": [1]}, error=None, is_stream=False)
    await wire.respond(request["call_id"], response="mine")
    await stage.report("a", result="mine")
    await wire.ask("echo", None, call_id="e")
    await wire.response("e", response=None, error=None)


@scene("methods")
async def errors_of_the_clients_methods(stage: Stage) -> None:
    """-32601 for a method that is not there; the code, text and data of an error that the method raised."""
    wire = await stage.open()
    await wire.ask("nobody", call_id="1")
    await wire.response("1", error=-32601, is_stream=False)
    await wire.ask("__proto__", call_id="2")
    await wire.response("2", error=-32601)
    await wire.ask("fail", -31000, "no", {"why": [1]}, call_id="3")
    await wire.response("3", error=-31000, response="no", error_data={"why": [1]}, is_stream=False)
    await wire.ask("nobody", call_id="4", credits=1)
    await wire.response("4", error=-32601, is_stream=True, is_end=True)
    await stage.barrier(wire)


@scene("methods")
async def a_call_without_an_id(stage: Stage) -> None:
    """Answer with an id that begins with a slash."""
    wire = await stage.open()
    await wire.ask("echo", 1)
    packet = await wire.packet()
    rpc = packet.get("rpc", {})
    if not str(rpc.get("call_id")).startswith("/") or rpc.get("response") != 1:
        raise ViolationError(f"expected the response 1 with an id that begins with a slash, got {packet}")


@scene("methods")
async def an_id_that_is_in_use(stage: Stage) -> None:
    """Refuse the second call with -32602, and go on with the first."""
    wire = await stage.open()
    await wire.ask("wait", call_id="1")
    await stage.report("wait", began=True)
    await wire.ask("echo", 2, call_id="1")
    await wire.response("1", error=-32602)
    await wire.ask("__abort__", "1")
    await stage.report("wait", cancelled=True)
    await stage.barrier(wire)


@scene("methods")
async def the_server_cancels(stage: Stage) -> None:
    """Cancel a method whose call is aborted, and send no answer. Ignore aborts of nothing."""
    wire = await stage.open()
    await wire.ask("wait", call_id="1")
    await stage.report("wait", began=True)
    await wire.ask("__abort__", "nobody")
    await wire.ask("__abort__")
    await wire.ask("__abort__", "1")
    await stage.report("wait", cancelled=True)
    await stage.barrier(wire)


@scene("methods", "deadlines")
async def the_servers_deadline(stage: Stage) -> None:
    """Cancel a method when its time is over, and answer with -32003; `__deadline__` moves that time."""
    wire = await stage.open()
    await wire.ask("wait", call_id="1", timeout=0.1)
    await wire.response("1", error=-32003)
    await stage.report("wait", began=True)
    await stage.report("wait", cancelled=True)
    await wire.ask("wait", call_id="2", timeout=1000)
    await stage.report("wait", began=True)
    await wire.ask("__deadline__", "2", 0.1)
    await wire.response("2", error=-32003)
    await stage.report("wait", cancelled=True)
    await wire.ask("__deadline__", "nobody", 1)
    await stage.barrier(wire)


@scene("methods")
async def the_client_streams(stage: Stage) -> None:
    """Send as many items as there is credit for, and the end without any."""
    wire = await stage.open()
    await wire.ask("count", 4, call_id="1", credits=2, credit_bytes=10_000)
    await wire.response("1", response=0, is_stream=True, is_end=False)
    await wire.response("1", response=1, is_stream=True, is_end=False)
    await stage.barrier(wire)
    await wire.ask("__credit__", "1", 1, kwargs={"bytes": 100})
    await wire.response("1", response=2, is_stream=True)
    await stage.barrier(wire)
    await wire.ask("__credit__", "1", 1, kwargs={"bytes": 100})
    await wire.response("1", response=3, is_stream=True)
    await wire.ask("__credit__", "1", 1, kwargs={"bytes": 100})
    await wire.response("1", response=None, error=None, is_stream=True, is_end=True)
    await wire.ask("__credit__", "1", 5)
    await stage.barrier(wire)


@scene("methods")
async def the_client_streams_within_bytes(stage: Stage) -> None:
    """Stand still when the bytes are used up."""
    wire = await stage.open()
    await wire.ask("count", 3, call_id="1", credits=100, credit_bytes=1)
    await wire.response("1", response=0, is_stream=True)
    await stage.barrier(wire)
    await wire.ask("__credit__", "1", 1, kwargs={"bytes": 100_000})
    await wire.response("1", response=1)
    await wire.response("1", response=2)
    await wire.response("1", is_end=True)


@scene("methods")
async def the_server_leaves_a_stream(stage: Stage) -> None:
    """Stop a stream that the server aborts, without an end."""
    wire = await stage.open()
    await wire.ask("count", 1000, call_id="1", credits=1)
    await wire.response("1", response=0, is_stream=True)
    await wire.ask("__abort__", "1")
    await wire.ask("__credit__", "1", 5)
    await stage.barrier(wire)


@scene("methods")
async def the_server_uploads(stage: Stage) -> None:
    """Give credit for a stream of the server's, and take its items up to the end."""
    wire = await stage.open()
    await wire.ask("total", None, call_id="1", streams={"0": "1/x"})
    for number in range(300):
        await wire.granted("1/x")
        await wire.item("1/x", number)
    await wire.end("1/x")
    await wire.response("1", response=sum(range(300)), error=None)
    await stage.barrier(wire)


@scene("methods")
async def nested_calls(stage: Stage) -> None:
    """Say `nested` of a call that is made within a call of the server's, and of no other."""
    wire = await stage.open()
    await wire.ask("call_back", "add", [1, 2], call_id="1")
    request = await wire.request("add", args=[1, 2], nested=True)
    await wire.respond(request["call_id"], response=3)
    await wire.response("1", response=3)
    await stage.do("call", id="a", method="add", args=[])
    request = await wire.request("add")
    if request.get("nested"):
        raise ViolationError("this call is not nested")
    await wire.respond(request["call_id"], response=3)
    await stage.report("a", result=3)


# -- data and channels -------------------------------------------------------------------------------


@scene("data")
async def data(stage: Stage) -> None:
    """Give the application packets of data, and send its own with the source 4."""
    wire = await stage.open()
    for packet in (
        {"source": 4, "data": {"any": ["data"]}},
        {"source": 1, "data": "good night"},
        {"source": 2, "data": [1], "channel": "unasked"},
    ):
        await wire.send(packet)
        report = await stage.report(None)
        got = {key: value for key, value in report.get("packet", {}).items() if value is not None}
        if got != packet:
            raise ViolationError(f"expected the packet {packet}, got {report}")
    await stage.do("send", data={"hello": 1})
    if (packet := await wire.packet()) != {"source": 4, "data": {"hello": 1}}:
        raise ViolationError(f"expected a packet of data, got {packet}")


@scene("channels")
async def subscribing(stage: Stage) -> None:
    """Subscribe by `__subscribe__`, take what is published, and unsubscribe when the subscription is left."""
    wire = await stage.open()
    await stage.do("subscribe", id="i", channels=["news.tech"])
    request = await wire.request("__subscribe__", args=[["news.tech"]], kwargs={})
    await wire.respond(request["call_id"], response=True)
    await wire.send({"source": 2, "data": 1, "channel": "news.tech"})
    await wire.send({"source": 2, "data": "other", "channel": "news.sport"})
    await wire.send({"source": 2, "data": 2, "channel": "news.tech"})
    await stage.report("i", subscribed=True)
    await stage.do("take", id="i", count=2)
    await stage.report("i", item={"channel": "news.tech", "data": 1})
    await stage.report("i", item={"channel": "news.tech", "data": 2})
    await stage.do("cancel", id="i")
    request = await wire.request("__unsubscribe__", args=[["news.tech"]], kwargs={})
    await wire.respond(request["call_id"], response=True)
    await stage.barrier(wire)


@scene("channels")
async def globs(stage: Stage) -> None:
    """Give a packet to each subscription that matches it, and once."""
    wire = await stage.open()
    for name, channels in (("i", ["a.*", "a.?"]), ("j", ["a.[!x]"])):
        await stage.do("subscribe", id=name, channels=channels)
        request = await wire.request("__subscribe__", args=[channels])
        await wire.respond(request["call_id"], response=True)
        await stage.report(name, subscribed=True)
    for channel in ("a.b", "a.x", "a.long", "b.b", "a.c"):
        await wire.send({"source": 2, "data": 0, "channel": channel})
    for name, expected in (("i", ["a.b", "a.x", "a.long", "a.c"]), ("j", ["a.b", "a.c"])):
        await stage.do("take", id=name, count=len(expected))
        for channel in expected:
            await stage.report(name, item={"channel": channel, "data": 0})


@scene("channels")
async def subscribing_is_refused(stage: Stage) -> None:
    """Tell who subscribes that it was refused: by an error, or by false."""
    wire = await stage.open()
    await stage.do("subscribe", id="i", channels=["secret"])
    request = await wire.request("__subscribe__", args=[["secret"]])
    await wire.respond(request["call_id"], error=-32002, response="access denied")
    await stage.failed("i", -32002)
    await stage.do("subscribe", id="j", channels=["more"])
    request = await wire.request("__subscribe__", args=[["more"]])
    await wire.respond(request["call_id"], response=False)
    report = await stage.report("j")
    if "error" not in report:
        raise ViolationError(f"expected an error, got {report}")


@scene("channels")
async def the_server_ends_a_subscription(stage: Stage) -> None:
    """End a subscription whose channel the server takes away, with -32002, and answer nothing."""
    wire = await stage.open()
    await stage.do("subscribe", id="i", channels=["news"])
    request = await wire.request("__subscribe__", args=[["news"]])
    await wire.respond(request["call_id"], response=True)
    await stage.report("i", subscribed=True)
    await wire.ask("__unsubscribed__", "news")
    await stage.do("take", id="i", count=1)
    await stage.failed("i", -32002)
    await stage.barrier(wire)


# -- recovery ---------------------------------------------------------------------------------------


def _packet(offset: int, epoch: str = "e") -> JSONObject:
    return {"source": 2, "data": offset, "channel": "room", "position": [epoch, offset]}


async def _recover(wire: Wire, start: JSONObject, answer: JSONObject) -> None:
    """The client asks to continue in a channel from here, and is told where it does."""
    request = await wire.request("__recover__", args=[{"room": start}], kwargs={})
    await wire.respond(request["call_id"], response={"room": answer})


async def _takes(stage: Stage, *offsets: int) -> None:
    await stage.do("take", id="i", count=len(offsets))
    for offset in offsets:
        await stage.report("i", item={"channel": "room", "data": offset})


async def _gap(stage: Stage, missing: int | None, position: list[Value] | None) -> None:
    await stage.do("take", id="i", count=1)
    await stage.report("i", gap={"channel": "room", "missing": missing, "position": position})


@scene("recovery", "reconnecting")
async def nothing_is_missed(stage: Stage) -> None:
    """Continue after a lost connection from the last position, without a gap."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["room"], recover=True)
    await _recover(wire, {}, {"position": ["e", 5]})
    await stage.report("i", subscribed=True)
    await wire.send(_packet(6))
    await wire.send(_packet(9))  # offsets may have gaps
    await _takes(stage, 6, 9)
    await wire.ws.close(1012, "restart")
    wire = await stage.wire()
    await _recover(wire, {"after": ["e", 9]}, {"position": ["e", 9]})
    await wire.send(_packet(10))
    await wire.send(_packet(11))
    await _takes(stage, 10, 11)
    await stage.barrier(wire)


@scene("recovery", "reconnecting")
async def gaps_between_connections(stage: Stage) -> None:
    """Tell how many are missing where the server continues later; and that some are, in another epoch."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["room"], recover=True)
    await _recover(wire, {}, {"position": ["e", 5]})
    await stage.report("i", subscribed=True)
    cases: list[tuple[list[Value], list[Value], int | None]] = [
        (["e", 5], ["e", 8], 3),
        (["e", 9], ["f", 100], None),
        (["f", 101], ["f", 90], None),
    ]
    for start, answer, missing in cases:
        await wire.ws.close(1012, "restart")
        wire = await stage.wire()
        await _recover(wire, {"after": start}, {"position": answer})
        await wire.send(_packet(answer[1] + 1, answer[0]))
        await _gap(stage, missing, answer)
        await _takes(stage, answer[1] + 1)
    await stage.barrier(wire)


@scene("recovery", "reconnecting")
async def a_channel_without_a_history(stage: Stage) -> None:
    """Tell of one gap after each lost connection where there is no position."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["room"], recover=True)
    await _recover(wire, {}, {})
    await stage.report("i", subscribed=True)
    for data in (1, 2):
        await wire.send({"source": 2, "data": data, "channel": "room"})
        await _takes(stage, data)
        await wire.ws.close(1012, "restart")
        wire = await stage.wire()
        await _recover(wire, {}, {})
        await _gap(stage, None, None)
    await stage.barrier(wire)


@scene("recovery", "reconnecting")
async def a_server_without_histories(stage: Stage) -> None:
    """Use `__subscribe__` with a server that does not know `__recover__`, and tell of gaps."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["room"], recover=True)
    for connection in (1, 2):
        request = await wire.request("__recover__")
        await wire.respond(request["call_id"], error=-32601, response="there is no such method")
        request = await wire.request("__subscribe__", args=[["room"]])
        await wire.respond(request["call_id"], response=True)
        if connection == 1:
            await stage.report("i", subscribed=True)
            await wire.ws.close(1012, "restart")
            wire = await stage.wire()
    await wire.send({"source": 2, "data": 1, "channel": "room"})
    await _gap(stage, None, None)
    await _takes(stage, 1)


@scene("recovery")
async def packets_that_come_twice(stage: Stage) -> None:
    """Ignore packets before the answer, and those whose offset has been there."""
    wire = await stage.open()
    await stage.do("subscribe", id="i", channels=["room"], after={"room": ["e", 3]})
    request = await wire.request("__recover__", args=[{"room": {"after": ["e", 3]}}])
    await wire.send(_packet(7))
    await wire.respond(request["call_id"], response={"room": {"position": ["e", 3]}})
    for offset in (4, 5, 4, 5, 6, 7, 6, 8):
        await wire.send(_packet(offset))
    await stage.report("i", subscribed=True)
    await _takes(stage, 4, 5, 6, 7, 8)
    await wire.send(_packet(1, "f"))  # offsets start again in another epoch
    await _takes(stage, 1)


@scene("recovery", "reconnecting")
async def gaps_that_the_server_tells(stage: Stage) -> None:
    """Tell of the gaps in a channel where they stand; move on without one where nothing is missing."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["room"], recover=True)
    await _recover(wire, {}, {"position": ["e", 5]})
    await stage.report("i", subscribed=True)
    await wire.send(_packet(6))
    await wire.send({"source": 2, "channel": "room", "position": ["e", 9], "gap": 3})
    await wire.send(_packet(10))
    await _takes(stage, 6)
    await _gap(stage, 3, ["e", 9])
    await _takes(stage, 10)
    await wire.send({"source": 2, "channel": "room", "gap": -1})
    await _gap(stage, None, None)
    await wire.send(_packet(12))
    await wire.send({"source": 2, "channel": "room", "position": ["e", 15], "gap": 0})
    await _takes(stage, 12)
    await stage.barrier(wire)
    await wire.ws.close(1012, "restart")
    wire = await stage.wire()
    await _recover(wire, {"after": ["e", 15]}, {"position": ["e", 15]})
    await wire.send(_packet(16))
    await _takes(stage, 16)


@scene("recovery")
async def where_to_begin(stage: Stage) -> None:
    """Begin after a stored position, with a gap where that is not possible; or with the newest messages."""
    wire = await stage.open()
    await stage.do("subscribe", id="i", channels=["room"], after={"room": ["old", 3]})
    await _recover(wire, {"after": ["old", 3]}, {"position": ["e", 7]})
    await stage.report("i", subscribed=True)
    await wire.send(_packet(8))
    await _gap(stage, None, ["e", 7])
    await _takes(stage, 8)
    await stage.do("subscribe", id="j", channels=["news"], last=2)
    request = await wire.request("__recover__", args=[{"news": {"last": 2}}])
    await wire.respond(request["call_id"], response={"news": {"position": ["n", 40]}})
    await wire.send({"source": 2, "data": 41, "channel": "news", "position": ["n", 41]})
    await stage.report("j", subscribed=True)
    await stage.do("take", id="j", count=1)
    await stage.report("j", item={"channel": "news", "data": 41})


# -- ends --------------------------------------------------------------------------------------------


@scene()
async def a_lost_connection(stage: Stage) -> None:
    """Fail all that is under way, at once: calls, streams, uploads."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[])
    await wire.request("slow")
    await stage.do("stream", id="s", method="count", args=[])
    await wire.request("count")
    await stage.do("take", id="s", count=1)
    await wire.ws.close(4001, "good bye")
    report = await stage.report("a", lost=True)
    if report.get("may_have_run") is False:
        raise ViolationError("this call may have run")
    await stage.report("s", lost=True)


@scene()
async def going_away(stage: Stage) -> None:
    """After `__goaway__` begin no calls here, and tell of each call whether it may have run."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[1])
    begun = await wire.request("slow")
    await stage.do("call", id="b", method="slow", args=[2])
    await wire.request("slow")
    await wire.ask("__goaway__", [begun["call_id"]])
    await wire.ws.close(1001, "")
    report = await stage.report("a", lost=True)
    if report.get("may_have_run") is False:
        raise ViolationError("the server has begun this call")
    report = await stage.report("b", lost=True)
    if report.get("may_have_run") is not False:
        raise ViolationError("the server said that it has not begun this call")


@scene("reconnecting")
async def coming_back(stage: Stage) -> None:
    """Connect again, and send the calls that were made meanwhile."""
    wire = await stage.open(reconnect=True)
    await stage.do("call", id="a", method="slow", args=[])
    await wire.request("slow")
    await wire.ws.close(1012, "restart")
    await stage.report("a", lost=True)
    await stage.do("call", id="b", method="add", args=[1, 2])
    wire = await stage.wire()
    request = await wire.request("add", args=[1, 2])
    await wire.respond(request["call_id"], response=3)
    await stage.report("b", result=3)


@scene("reconnecting", "channels")
async def subscriptions_come_back(stage: Stage) -> None:
    """Subscribe again on the next connection, before any call is sent."""
    wire = await stage.open(reconnect=True)
    await stage.do("subscribe", id="i", channels=["news"])
    request = await wire.request("__subscribe__", args=[["news"]])
    await wire.respond(request["call_id"], response=True)
    await stage.report("i", subscribed=True)
    await wire.ws.close(1012, "restart")
    wire = await stage.wire()
    request = await wire.request("__subscribe__", args=[["news"]])
    await wire.respond(request["call_id"], response=True)
    await wire.send({"source": 2, "data": 1, "channel": "news"})
    await stage.do("take", id="i", count=1)
    await stage.report("i", item={"channel": "news", "data": 1})
    await stage.barrier(wire)


@scene()
async def what_is_no_packet(stage: Stage) -> None:
    """Close with 1007, or 4007 from a page, where the server sends what is not a packet."""
    wire = await stage.open()
    await wire.send({"source": 99})
    await wire.closed(1007, 4007)


@scene()
async def closing(stage: Stage) -> None:
    """Close with 1000; calls that are under way fail."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[])
    await wire.request("slow")
    await stage.do("close")
    await wire.closed(1000)
    report = await stage.report("a")
    if not (report.get("lost") or report.get("cancelled")):
        raise ViolationError(f"expected the call to be lost, got {report}")
