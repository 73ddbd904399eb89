"""Scenes for the client's own calls, streams and client streams. Each docstring says how to pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.testing.conformance.scene import Scene, adder
from trio_ws.testing.conformance.stage import Stage, ViolationError, Wire

if TYPE_CHECKING:
    from trio_ws._types import Value

__all__ = ["SCENES"]

SCENES: list[Scene] = []
scene = adder(SCENES)

#: More items than any window may have.
_MANY = 20_000


# -- calls -------------------------------------------------------------------------------------------


@scene()
async def call_by_position(stage: Stage) -> None:
    """Send arguments in order, and give the caller the result."""
    wire = await stage.open()
    await stage.do("call", id="a", method="add", args=[1, "\N{EURO SIGN}", None, [True, {"k": 1.5}]])
    request = await wire.request("add", args=[1, "\N{EURO SIGN}", None, [True, {"k": 1.5}]], kwargs={})
    if request.get("credits") is not None:
        raise ViolationError("a call of one value gives no credits")
    await wire.respond(request["call_id"], response={"\N{GRINNING FACE}": [1, None]})
    await stage.report("a", result={"\N{GRINNING FACE}": [1, None]})


@scene()
async def call_by_name(stage: Stage) -> None:
    """Send arguments by name beside those by position."""
    wire = await stage.open()
    await stage.do("call", id="a", method="divide", args=[6], kwargs={"by": 4})
    request = await wire.request("divide", args=[6], kwargs={"by": 4})
    await wire.respond(request["call_id"], response=1.5)
    await stage.report("a", result=1.5)


@scene()
async def response_with_all_keys(stage: Stage) -> None:
    """Take a response whose keys hold their defaults, and ignore keys that are unknown."""
    wire = await stage.open()
    await stage.do("call", id="a", method="add", args=[])
    request = await wire.request("add")
    fields = {"response": 3, "error": None, "is_stream": False, "is_end": False, "error_data": None}
    rpc = {"type": "response", "call_id": request["call_id"], **fields, "unknown": [1]}
    await wire.send({"source": 5, "rpc": rpc, "data": None, "channel": None, "later": {"x": 1}})
    await stage.report("a", result=3)


@scene()
async def response_without_a_value(stage: Stage) -> None:
    """A response without `response` is null."""
    wire = await stage.open()
    await stage.do("call", id="a", method="nothing", args=[])
    request = await wire.request("nothing")
    await wire.respond(request["call_id"])
    await stage.report("a", result=None)


@scene()
async def responses_out_of_order(stage: Stage) -> None:
    """Many calls may be under way, and end in any order."""
    wire = await stage.open()
    ids = []
    for number in range(50):
        await stage.do("call", id=f"c{number}", method="number", args=[number])
    for _ in range(50):
        request = await wire.request("number")
        ids.append((request["call_id"], request["args"][0]))
    for call_id, number in sorted(ids, key=lambda one: one[1], reverse=True):
        await wire.respond(call_id, response=number)
    for number in range(50):
        await stage.report(f"c{number}", result=number)


@scene()
async def response_to_nothing(stage: Stage) -> None:
    """Ignore a response to an id that is not waited for, or no longer."""
    wire = await stage.open()
    await wire.respond("nobody", response=1)
    await stage.do("call", id="a", method="add", args=[])
    request = await wire.request("add")
    await wire.respond(request["call_id"], response=2)
    await wire.respond(request["call_id"], response=3)
    await wire.respond("nobody/0", is_stream=True, is_end=True)
    await stage.report("a", result=2)
    await stage.barrier(wire)


@scene()
async def errors(stage: Stage) -> None:
    """Give the caller the code, the text and the data of an error."""
    wire = await stage.open()
    cases: list[tuple[int, str, Value]] = [
        (-32601, "there is no method", None),
        (-32602, "Expected `int`", {"path": "$.by"}),
        (-32603, "internal error", {"id": "1f"}),
        (-32000, "too many calls", {"retry_after": 2.5}),
        (-32001, "", None),
        (-32002, "access denied", None),
        (-32003, "the deadline passed", None),
        (-32004, "going away", None),
        (-7, "of the application's own", [1, {"x": None}]),
        (42, "a positive one", None),
    ]
    for code, text, data in cases:
        await stage.do("call", id="a", method="fails", args=[])
        request = await wire.request("fails")
        more = {} if data is None else {"error_data": data}
        await wire.respond(request["call_id"], response=text, error=code, **more)
        await stage.failed("a", code, text, data)
    await stage.barrier(wire)


# -- cancelling, deadlines ---------------------------------------------------------------------------


@scene()
async def cancelling_a_call(stage: Stage) -> None:
    """Abort a call that its caller gives up, and ignore an answer that comes all the same."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[])
    request = await wire.request("slow")
    await stage.do("cancel", id="a")
    await wire.abort(request["call_id"])
    await stage.report("a", cancelled=True)
    await wire.respond(request["call_id"], response="too late")
    await stage.barrier(wire)


@scene()
async def no_abort_after_the_answer(stage: Stage) -> None:
    """Send nothing about a call that has ended."""
    wire = await stage.open()
    await stage.do("call", id="a", method="add", args=[])
    request = await wire.request("add")
    await wire.respond(request["call_id"], response=1)
    await stage.report("a", result=1)
    await stage.do("cancel", id="a")
    await stage.barrier(wire)


@scene("deadlines")
async def deadlines_travel(stage: Stage) -> None:
    """Send the seconds that are left; and none where there is no deadline."""
    wire = await stage.open()
    await stage.do("call", id="a", method="quick", args=[], timeout=50)
    request = await wire.request("quick")
    timeout = request.get("timeout")
    if not isinstance(timeout, int | float) or not 0 < timeout <= 50:
        raise ViolationError(f"expected a timeout of at most 50 seconds, not {timeout!r}")
    await wire.respond(request["call_id"], response=1)
    await stage.report("a", result=1)
    await stage.do("call", id="b", method="quick", args=[])
    request = await wire.request("quick", timeout=None)
    await wire.respond(request["call_id"], error=-32003, response="a deadline of the method's own")
    await stage.failed("b", -32003)


@scene("deadlines")
async def a_deadline_passes(stage: Stage) -> None:
    """Give a call up when its deadline has passed: the caller has -32003, the server an abort."""
    wire = await stage.open()
    await stage.do("call", id="a", method="slow", args=[], timeout=0.2)
    request = await wire.request("slow")
    await wire.abort(request["call_id"])
    await stage.failed("a", -32003)
    await stage.barrier(wire)


# -- streams -----------------------------------------------------------------------------------------


@scene()
async def a_stream(stage: Stage) -> None:
    """Give credit with the request; give the items in order, and the end."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[3])
    request = await wire.request("count", args=[3])
    if not isinstance(request.get("credits"), int):
        raise ViolationError("a call that expects a stream gives credits")
    for number in range(3):
        await stage.do("take", id="s", count=1)
        await wire.granted(request["call_id"])
        await wire.item(request["call_id"], number)
        await stage.report("s", item=number)
    await stage.do("take", id="s", count=1)
    await wire.end(request["call_id"])
    await stage.report("s", end=True)
    await stage.barrier(wire)


@scene()
async def a_stream_without_items(stage: Stage) -> None:
    """The end may be the first that comes."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[0])
    request = await wire.request("count")
    await wire.end(request["call_id"])
    await stage.do("take", id="s", count=1)
    await stage.report("s", end=True)


@scene()
async def a_stream_that_fails(stage: Stage) -> None:
    """Give the items before the error, then the error."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[])
    request = await wire.request("count")
    await stage.do("take", id="s", count=2)
    await wire.granted(request["call_id"])
    await wire.item(request["call_id"], "one")
    await wire.end(request["call_id"], response="no more", error=-32001, error_data=[1])
    await stage.report("s", item="one")
    await stage.failed("s", -32001, "no more", [1])


@scene()
async def a_stream_that_is_none(stage: Stage) -> None:
    """An ordinary response to a call that expects a stream ends it, with an error."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="add", args=[])
    request = await wire.request("add")
    await stage.do("take", id="s", count=1)
    await wire.respond(request["call_id"], response=3)
    report = await stage.report("s")
    if "error" not in report:
        raise ViolationError(f"expected an error, got {report}")
    await stage.barrier(wire)


@scene()
async def a_call_that_is_a_stream(stage: Stage) -> None:
    """An item for a call that expects one value ends it with an error, and an abort."""
    wire = await stage.open()
    await stage.do("call", id="a", method="count", args=[])
    request = await wire.request("count")
    await wire.respond(request["call_id"], response=0, is_stream=True)
    await wire.abort(request["call_id"])
    report = await stage.report("a")
    if "error" not in report:
        raise ViolationError(f"expected an error, got {report}")


@scene()
async def a_paused_consumer(stage: Stage) -> None:
    """Give no credit without end for items that nobody takes; give more when they are taken."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[])
    request = await wire.request("count")
    call_id = request["call_id"]
    sent = 0
    await wire.granted(call_id)
    while wire.has_credit(call_id):
        await wire.item(call_id, sent)
        sent += 1
        if sent == _MANY:
            raise ViolationError(f"{_MANY} items were granted, and none was taken")
        if not wire.has_credit(call_id):
            await stage.barrier(wire)  # so that the client has done everything that it does unasked
    await stage.do("take", id="s", count=sent)
    for number in range(sent):
        await stage.report("s", item=number)
    await wire.granted(call_id)
    await stage.do("cancel", id="s")
    await wire.abort(call_id)
    await stage.barrier(wire)


@scene("byte credit")
async def items_larger_than_the_window(stage: Stage) -> None:
    """Give credit for more bytes when an item has taken all of them, and more."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="texts", args=[])
    request = await wire.request("texts")
    call_id = request["call_id"]
    if request.get("credit_bytes") is None:
        raise ViolationError("this client says that it counts bytes, but gives no credit_bytes")
    for size in (300_000, 10, 300_000, 300_000):
        await stage.do("take", id="s", count=1)
        await wire.granted(call_id)
        await wire.item(call_id, "\N{EURO SIGN}" * size)
        report = await stage.report("s")
        if report.get("item") != "\N{EURO SIGN}" * size:
            raise ViolationError("an item came broken")
    await stage.do("take", id="s", count=1)
    await wire.end(call_id)
    await stage.report("s", end=True)


@scene("byte credit")
async def bytes_are_counted_as_on_the_wire(stage: Stage) -> None:
    """Grant as many bytes as came, in UTF-8: 2,000 items later nothing has been lost."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="texts", args=[])
    call_id = (await wire.request("texts"))["call_id"]
    await stage.do("take", id="s", count=2000)
    for number in range(2000):
        await wire.granted(call_id)
        await wire.item(call_id, ("a", "\u00e4", "\N{EURO SIGN}", "\N{GRINNING FACE}")[number % 4] * 500)
        await stage.report("s")
    await stage.barrier(wire)
    _, size = wire.credit[call_id]
    if size is None or size <= 0:
        raise ViolationError(f"no bytes are left of the window, though all items were taken: {size}")


@scene()
async def items_beyond_the_credit(stage: Stage) -> None:
    """Close with 1008, or 4008 from a page, where the server sends what was not granted."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[])
    call_id = (await wire.request("count"))["call_id"]
    credit = wire.credit[call_id]
    credit[1] = None  # small items: their bytes do not matter here
    await wire.granted(call_id)
    assert credit[0] is not None
    for number in range(credit[0] + 1):
        await wire.item(call_id, number)
    await wire.closed(1008, 4008)


@scene()
async def leaving_a_stream(stage: Stage) -> None:
    """Abort a stream that its consumer leaves; ignore items and an end that are on their way."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="count", args=[])
    call_id = (await wire.request("count"))["call_id"]
    await stage.do("take", id="s", count=1)
    await wire.granted(call_id)
    await wire.item(call_id, 0)
    await stage.report("s", item=0)
    await stage.do("cancel", id="s")
    await wire.abort(call_id)
    await wire.respond(call_id, response=1, is_stream=True)
    await wire.end(call_id)
    await stage.barrier(wire)


@scene()
async def two_streams_and_a_call(stage: Stage) -> None:
    """A stream that nobody takes from holds up nothing else."""
    wire = await stage.open()
    await stage.do("stream", id="s", method="left", args=[])
    left = (await wire.request("left"))["call_id"]
    await stage.do("stream", id="t", method="right", args=[])
    right = (await wire.request("right"))["call_id"]
    await wire.granted(left)
    while wire.has_credit(left):
        await wire.item(left, 0)
    for number in range(200):
        await stage.do("take", id="t", count=1)
        await wire.granted(right)
        await wire.item(right, number)
        await stage.report("t", item=number)
    await stage.barrier(wire)


# -- streams from the caller -------------------------------------------------------------------------


async def _upload(stage: Stage, count: int) -> tuple[Wire, str, str]:
    """Let the client upload numbers; its connection, the call's id, and the stream's."""
    wire = await stage.open()
    await stage.do("call", id="a", method="total", args=[None], uploads={"0": list(range(count))})
    request = await wire.request("total", args=[None])
    streams = request.get("streams")
    if not isinstance(streams, dict) or list(streams) != ["0"]:
        raise ViolationError(f"expected streams to name the argument 0, got {streams!r}")
    return wire, request["call_id"], streams["0"]


@scene("uploads")
async def an_upload(stage: Stage) -> None:
    """Send no item without credit; then the items in order, and the end."""
    wire, call_id, stream_id = await _upload(stage, 3)
    await stage.barrier(wire)
    await wire.ask("__credit__", stream_id, 2, kwargs={"bytes": 10_000})
    await wire.response(stream_id, response=0, is_stream=True, is_end=False, error=None)
    await wire.response(stream_id, response=1, is_stream=True, is_end=False, error=None)
    await stage.barrier(wire)
    await wire.ask("__credit__", stream_id, 5, kwargs={"bytes": 10_000})
    await wire.response(stream_id, response=2, is_stream=True, is_end=False)
    await wire.response(stream_id, response=None, is_stream=True, is_end=True, error=None)
    await wire.respond(call_id, response=3)
    await stage.report("a", result=3)
    await stage.barrier(wire)


@scene("uploads")
async def an_upload_by_name(stage: Stage) -> None:
    """Name a stream by its keyword."""
    wire = await stage.open()
    await stage.do(
        "call", id="a", method="total", args=[1], kwargs={"numbers": None}, uploads={"numbers": [7]}
    )
    request = await wire.request("total", args=[1], kwargs={"numbers": None})
    stream_id = request["streams"]["numbers"]
    await wire.ask("__credit__", stream_id, 9)
    await wire.response(stream_id, response=7, is_stream=True)
    await wire.response(stream_id, is_stream=True, is_end=True)
    await wire.respond(request["call_id"], response=7)
    await stage.report("a", result=7)


@scene("uploads")
async def an_upload_counts_bytes(stage: Stage) -> None:
    """Send an item while there is one byte, and no more until the bytes are above 0 again."""
    wire, call_id, stream_id = await _upload(stage, 3)
    await wire.ask("__credit__", stream_id, 100, kwargs={"bytes": 1})
    await wire.response(stream_id, response=0)
    await wire.ask("__credit__", stream_id, 1, kwargs={"bytes": 1})
    await stage.barrier(wire)
    await wire.ask("__credit__", stream_id, 1, kwargs={"bytes": 10_000})
    await wire.response(stream_id, response=1)
    await wire.response(stream_id, response=2)
    await wire.response(stream_id, is_end=True, is_stream=True)
    await wire.respond(call_id, response=3)
    await stage.report("a", result=3)


@scene("uploads")
async def an_upload_that_is_given_up(stage: Stage) -> None:
    """Send no more items, and no end, of a stream that the server has aborted."""
    wire, call_id, stream_id = await _upload(stage, 100)
    await wire.ask("__credit__", stream_id, 1)
    await wire.response(stream_id, response=0)
    await wire.ask("__abort__", stream_id)
    await wire.ask("__credit__", stream_id, 50)
    await stage.barrier(wire)
    await wire.respond(call_id, response="enough")
    await stage.report("a", result="enough")


@scene("uploads")
async def the_answer_ends_uploads(stage: Stage) -> None:
    """Send no more of a call's streams once it has its answer."""
    wire, call_id, stream_id = await _upload(stage, 100)
    await wire.ask("__credit__", stream_id, 1)
    await wire.response(stream_id, response=0)
    await wire.respond(call_id, response="enough")
    await stage.report("a", result="enough")
    await wire.ask("__credit__", stream_id, 50)
    await stage.barrier(wire)


@scene("uploads")
async def cancelling_a_call_with_uploads(stage: Stage) -> None:
    """Abort the call, and send neither items nor ends of its streams after that."""
    wire, call_id, stream_id = await _upload(stage, 100)
    await wire.ask("__credit__", stream_id, 1)
    await wire.response(stream_id, response=0)
    await stage.do("cancel", id="a")
    await wire.abort(call_id)
    await stage.report("a", cancelled=True)
    await wire.ask("__credit__", stream_id, 50)
    await stage.barrier(wire)
