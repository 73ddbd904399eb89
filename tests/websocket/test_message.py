"""WebSocketMessage: factories, values, JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trio_ws import MessageError, WebSocketMessage


class Move(msgspec.Struct):
    x: int


def test_text_is_a_factory_on_the_class_and_the_value_on_an_instance() -> None:
    message = WebSocketMessage.text("hi")
    assert message.text == "hi"
    assert message.data is None
    assert message.msg_type == "text"
    assert message.is_text()
    assert not message.is_binary()


def test_binary_copies_what_is_bytes_like() -> None:
    data = bytearray(b"ab")
    message = WebSocketMessage.binary(data)
    data[0] = 0
    assert message.data == b"ab"
    assert message.text is None
    assert message.is_binary()


def test_control_messages() -> None:
    assert WebSocketMessage.ping(b"x").is_ping()
    assert WebSocketMessage.pong().is_pong()
    close = WebSocketMessage.close(4000, "why")
    assert close.is_close()
    assert (close.close_code, close.payload) == (4000, "why")


def test_messages_compare_by_value_and_cannot_be_changed() -> None:
    assert WebSocketMessage.text("a") == WebSocketMessage.text("a") != WebSocketMessage.binary(b"a")
    with pytest.raises(AttributeError):
        WebSocketMessage.text("a").payload = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("factory", "argument", "error", "hint"),
    [
        (WebSocketMessage.text, b"x", TypeError, "for bytes use binary"),
        (WebSocketMessage.binary, "x", TypeError, "encode it"),
        (WebSocketMessage.binary, 3, TypeError, "not int"),
        (WebSocketMessage.ping, b"x" * 126, ValueError, "at most 125 bytes"),
        (WebSocketMessage.pong, b"x" * 126, ValueError, "at most 125 bytes"),
        (WebSocketMessage.close, 1006, ValueError, "cannot be sent"),
    ],
)
def test_wrong_arguments_raise_with_the_fix(factory: Any, argument: Any, error: Any, hint: str) -> None:
    with pytest.raises(error, match=hint):
        factory(argument)


def test_json_is_decoded_and_validated() -> None:
    assert WebSocketMessage.text('{"x": 1}').json() == {"x": 1}
    assert WebSocketMessage.binary(b'{"x": 1}').json(Move) == Move(1)
    assert WebSocketMessage.text("[1]").json(list[int]) == [1]


@pytest.mark.parametrize("payload", ['{"x": "one"}', "nonsense", "{}", b"\xff"])
def test_json_errors_are_ours(payload: str | bytes) -> None:
    with pytest.raises(MessageError) as info:
        WebSocketMessage("text", payload).json(Move)
    assert info.value.__cause__ is not None
    if isinstance(payload, str) and "one" in payload:
        assert "$.x" in str(info.value)
