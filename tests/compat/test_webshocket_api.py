"""The names, parameters, defaults, values, fields and exceptions of `trio_ws.compat.webshocket`.

They are written down here as webshocket documents them, and compared with webshocket itself where that is
installed.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from typing import Any

import msgspec
import pytest

import trio_ws
from trio_ws.compat import webshocket as ours
from trio_ws.compat.webshocket import packets

SIGNATURES = {
    "WebSocketClient": ["uri", "on_receive=None", "*ssl_context=None", "*max_packet_qsize=128"],
    "WebSocketClient.close": ["self"],
    "WebSocketClient.connect": ["self", "retry=False", "max_retry_attempt=3", "retry_interval=2", "**kwargs"],
    "WebSocketClient.recv": ["self", "timeout=30"],
    "WebSocketClient.send": ["self", "data"],
    "WebSocketClient.send_rpc": [
        "self",
        "method_name",
        "*args",
        "*raise_on_rate_limit=False",
        "**kwargs",
    ],
    "WebSocketClient.stream_rpc": [
        "self",
        "method_name",
        "*args",
        "*raise_on_rate_limit=True",
        "**kwargs",
    ],
    "WebSocketServer": [
        "host",
        "port",
        "*clientHandler=DefaultWebSocketHandler",
        "*ssl_context=None",
        "*max_connection=None",
        "*packet_qsize=512",
        "*rpc_task_limit=1024",
        "*max_subscribed_channels=5",
    ],
    "WebSocketServer.accept": ["self"],
    "WebSocketServer.close": ["self"],
    "WebSocketServer.serve_forever": ["self", "**kwargs"],
    "WebSocketServer.start": ["self", "**kwargs"],
    "ClientConnection": [
        "websocket_protocol",
        "handler",
        "client_type",
        "packet_qsize=128",
        "max_subscribed_channels=5",
    ],
    "ClientConnection.close": ["self", "code=1000", "reason=b''"],
    "ClientConnection.recv": ["self", "timeout=30.0"],
    "ClientConnection.send": ["self", "data", "chunk_size=65536"],
    "ClientConnection.subscribe": ["self", "channel"],
    "ClientConnection.unsubscribe": ["self", "channel"],
    "WebSocketHandler.broadcast": ["self", "data", "exclude=None", "predicate=None", "**kwargs"],
    "WebSocketHandler.on_connect": ["self", "connection"],
    "WebSocketHandler.on_disconnect": ["self", "connection"],
    "WebSocketHandler.on_receive": ["self", "connection", "packet"],
    "WebSocketHandler.publish": ["self", "channel", "data", "exclude=None", "predicate=None"],
    "WebSocketHandler.register_rpc_method": ["self", "func", "alias_name=None"],
    "WebSocketHandler.subscribe": ["self", "client", "channel"],
    "WebSocketHandler.unsubscribe": ["self", "client", "channel"],
    "rate_limit": ["*limit", "*period='1s'", "*disconnect_on_limit_exceeded=False"],
    "rpc_method": ["alias_name=None", "requires=None"],
    "All": ["*predicates"],
    "Any": ["*predicates"],
    "Has": ["key"],
    "Is": ["key"],
    "IsEqual": ["key", "value"],
}

ENUMS: dict[str, dict[str, int | str]] = {
    "ClientType": {"FRAMEWORK": "Framework", "GENERIC": "Generic"},
    "ConnectionState": {"DISCONNECTED": 1, "CONNECTING": 2, "CONNECTED": 3, "CLOSED": 4},
    "PacketSource": {"BROADCAST": 1, "CHANNEL": 2, "UNKNOWN": 3, "CUSTOM": 4, "RPC": 5},
    "RPCErrorCode": {
        "METHOD_NOT_FOUND": -32601,
        "INVALID_PARAMS": -32602,
        "INTERNAL_SERVER_ERROR": -32603,
        "RATE_LIMIT_EXCEEDED": -32000,
        "APPLICATION_ERROR": -32001,
        "ACCESS_DENIED": -32002,
    },
    "ServerState": {"CLOSED": 1, "SERVING": 2},
}

FIELDS = {
    "Packet": ["source", "data", "rpc", "channel", "timestamp", "correlation_id"],
    "RPCRequest": ["method", "args", "kwargs", "call_id"],
    "RPCResponse": ["call_id", "response", "error", "is_stream", "is_end"],
}

PARENTS = {
    "WebSocketError": "Exception",
    "ConnectionError": "WebSocketError",
    "ConnectionFailedError": "ConnectionError",
    "ConnectionClosedError": "ConnectionError",
    "InvalidURIError": "ConnectionError",
    "MessageError": "WebSocketError",
    "PacketError": "MessageError",
    "PacketValidationError": "PacketError",
    "TimeoutError": "WebSocketError",
    "ReceiveTimeoutError": "TimeoutError",
    "RPCTimeoutError": "TimeoutError",
    "RPCError": "WebSocketError",
    "RPCMethodNotFoundError": "RPCError",
    "RateLimitError": "RPCError",
}

#: Additional parameters of ours.
MORE = {"nursery", "options", "extra_headers"}


def named(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def parameters(function: Any) -> list[str]:
    found = []
    for one in inspect.signature(function).parameters.values():
        if one.name in MORE:
            continue
        text = one.name
        if one.kind in (one.VAR_POSITIONAL, one.KEYWORD_ONLY):
            text = f"*{text}"
        elif one.kind is one.VAR_KEYWORD:
            text = f"**{text}"
        if one.default is not one.empty:
            default = one.default
            default = int(default) if isinstance(default, enum.IntEnum) else default
            text += f"={default.__name__ if isinstance(default, type) else repr(default)}"
        found.append(text)
    return found


def original() -> Any:
    return pytest.importorskip("webshocket", reason="webshocket is not installed")


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_and_defaults(name: str) -> None:
    assert parameters(named(ours, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_are_those_of_webshocket(name: str) -> None:
    assert SIGNATURES[name] == parameters(named(original(), name))


@pytest.mark.parametrize("name", ENUMS)
def test_enums(name: str) -> None:
    members = {member.name: member.value for member in named(ours, name)}
    assert members == ENUMS[name]
    assert issubclass(named(ours, name), enum.IntEnum) is (name != "ClientType")


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_those_of_webshocket(name: str) -> None:
    assert ENUMS[name] == {member.name: member.value for member in named(original(), name)}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_in_their_order(name: str) -> None:
    assert [one.name for one in msgspec.structs.fields(named(ours, name))] == FIELDS[name]


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_those_of_webshocket(name: str) -> None:
    assert FIELDS[name] == [one.name for one in msgspec.structs.fields(named(original(), name))]


@pytest.mark.parametrize("name", PARENTS)
def test_exceptions(name: str) -> None:
    parent = getattr(ours, PARENTS[name], Exception)
    assert parent in named(ours, name).__mro__[1:]
    siblings = [one for one in PARENTS if PARENTS[one] == PARENTS[name] and one != name]
    assert not any(issubclass(named(ours, name), named(ours, one)) for one in siblings)


@pytest.mark.parametrize("name", PARENTS)
def test_exceptions_are_those_of_webshocket(name: str) -> None:
    theirs = named(original(), name)
    assert theirs.__bases__[0].__name__ == PARENTS[name]


@pytest.mark.parametrize("name", PARENTS)
def test_an_error_of_the_same_name_in_trio_ws_is_a_base(name: str) -> None:
    same = getattr(trio_ws, name, None)
    if same is not None and name != "RPCTimeoutError":
        assert issubclass(named(ours, name), same)
    assert str(named(ours, name)("said")) == "said"


def test_every_public_name_of_webshocket_is_here() -> None:
    theirs = original()
    assert set(theirs.__all__) <= set(ours.__all__)
    for module in ("connection", "enum", "exceptions", "handler", "packets", "predicate", "rpc", "websocket"):
        here = importlib.import_module(f"trio_ws.compat.webshocket.{module}")
        there = importlib.import_module(f"webshocket.{module}")
        names = [
            name
            for name, value in vars(there).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == there.__name__
        ]
        assert [name for name in names if not hasattr(here, name)] == [], module


def test_modules_have_the_same_names() -> None:
    assert ours.websocket.client is ours.WebSocketClient
    assert ours.websocket.server is ours.WebSocketServer
    assert ours.packets.deserialize is packets.deserialize
    assert ours.rpc.rate_limit is ours.rate_limit


def test_packets_travel_as_those_of_webshocket() -> None:
    theirs = importlib.import_module(f"{original().__name__}.packets")
    for packet in (
        ours.Packet(ours.PacketSource.CUSTOM, {"a": [1, None, b"\x00"]}),
        ours.Packet(source=ours.PacketSource.CHANNEL, data="x", channel="room", timestamp=1.5),
        ours.Packet(ours.PacketSource.RPC, rpc=ours.RPCRequest("add", (1, 2), {"c": 3}, "7")),
        ours.Packet(
            ours.PacketSource.RPC,
            rpc=ours.RPCResponse("7", "no", ours.RPCErrorCode.ACCESS_DENIED, False, True),
        ),
    ):
        data = packets.serialize(packet)
        assert theirs.serialize(theirs.deserialize(data)) == data
        assert packets.serialize(packets.deserialize(data)) == data


def test_requests_have_ids_of_their_own() -> None:
    ids = {ours.RPCRequest("add").call_id for _ in range(100)}
    assert len(ids) == 100
    assert ours.RPCRequest("add").args == ()
    assert ours.RPCRequest("add").kwargs == {}


def test_a_response_has_its_value_under_both_names() -> None:
    response = ours.RPCResponse("1", 30)
    assert response.data == response.response == 30
    assert response.error is None
    assert (response.is_stream, response.is_end) == (False, False)


def test_a_packet_is_generic() -> None:
    packet: ours.Packet[ours.RPCResponse] = ours.Packet(ours.PacketSource.RPC, rpc=ours.RPCResponse("1", 2))
    assert packet.rpc is not None
    assert packet.rpc.response == 2


def test_bytes_that_are_not_a_packet() -> None:
    with pytest.raises(ours.PacketValidationError, match="source"):
        packets.deserialize(msgspec.msgpack.encode({"data": 1}))
    with pytest.raises(ours.PacketError):
        packets.deserialize(b"\xc1")
    with pytest.raises(ours.PacketError, match="cannot be sent") as caught:
        packets.serialize(ours.Packet(ours.PacketSource.CUSTOM, object()))
    assert isinstance(caught.value, TypeError)


class Connection:
    def __init__(self, **state: object) -> None:
        self.session_state = state


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (ours.Has("name"), True),
        (ours.Has("absent"), False),
        (ours.Is("admin"), False),
        (ours.Is("name"), True),
        (ours.IsEqual("role", "editor"), True),
        (ours.IsEqual("absent", None), False),
        (ours.Any(ours.Is("admin"), ours.Has("name")), True),
        (ours.Any(), False),
        (ours.All(ours.Is("admin"), ours.Has("name")), False),
        (ours.All(), True),
        (ours.Has("name") & ~ours.Is("admin"), True),
        (ours.Any(lambda connection: connection.session_state["role"] == "editor"), True),
    ],
    ids=repr,
)
def test_predicates_ask_the_session_state(predicate: Any, expected: bool) -> None:
    assert predicate(Connection(name="ada", admin=False, role="editor")) is expected


def test_attributes_of_predicates() -> None:
    has, equal = ours.Has("a"), ours.IsEqual("b", 1)
    assert (has.key, equal.key, equal.value) == ("a", "b", 1)
    assert ours.All(has, equal).predicates == (has, equal)
    assert ours.Any(has, equal).predicates == (has, equal)


def test_a_method_must_be_async_and_take_a_connection() -> None:
    with pytest.raises(TypeError, match="must be an async function"):

        @ours.rpc_method()
        def plain(self: object, connection: object) -> None: ...

    with pytest.raises(TypeError, match="must be an async function"):

        @ours.rate_limit(limit=1)
        def also_plain(self: object, connection: object) -> None: ...

    with pytest.raises(TypeError, match="must accept at least 2 parameters"):

        @ours.rpc_method()
        async def alone(self: object) -> None: ...

    with pytest.raises(TypeError, match="parentheses"):
        ours.rpc_method(len)  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "period"), [(-1, "1s"), (1, ""), (1, "5 parsecs")])
def test_a_limit_is_checked_where_it_is_written(limit: int, period: str) -> None:
    with pytest.raises(ValueError, match=r"limit|period"):
        ours.rate_limit(limit=limit, period=period)


def test_only_what_is_marked_can_be_registered() -> None:
    async def method(connection: object) -> None: ...

    with pytest.raises(ValueError, match="non-RPC"):
        ours.WebSocketHandler[Any]().register_rpc_method(method)


def test_a_handler_has_what_it_needs_without_the_constructor_of_its_base() -> None:
    class Handler(ours.WebSocketHandler):
        def __init__(self) -> None:
            self.games: list[str] = []

    handler = ours.WebSocketServer("127.0.0.1", 0, clientHandler=Handler).handler
    assert handler.games == []
    assert handler.clients == set()
    assert dict(handler.channels) == dict(handler.patterns) == {}
    assert handler.channels["nobody"] == set()
    assert "nobody" not in handler.channels
