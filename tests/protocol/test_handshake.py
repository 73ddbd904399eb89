"""Both sides of the opening handshake, alone and with each other."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import WholeRequests
from trio_ws.errors import ConnectionFailedError, HandshakeRejectedError
from trio_ws.protocol.handshake import (
    ClientHandshake,
    HTTPError,
    Request,
    Response,
    _is_plain_upgrade,
    accept_response,
    check_rules,
    check_upgrade,
    http_response,
    offered_extensions,
    offered_subprotocols,
    origin_allowed,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEADERS = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def upgrade(
    changes: dict[str, str | None] | None = None,
    *more: str,
    line: str = "GET / HTTP/1.1",
    body: bytes = b"",
) -> Request:
    fields = {**HEADERS, **(changes or {})}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value is not None), *more]
    request = WholeRequests(4096, 64).feed("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    assert request is not None
    return request


def refusal(request: Request) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        check_upgrade(request)
    return caught.value


# ---- Server --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "close ,\tUPGRADE"},
        {"Upgrade": "h2c, WebSocket"},
        {"Sec-WebSocket-Key": "A" * 22 + "=="},
    ],
)
def test_good_upgrades_pass(changes: dict[str, str | None]) -> None:
    request = upgrade(changes)
    check_upgrade(request)
    assert accept_response(request).startswith(b"HTTP/1.1 101 ")


REQUEST_LINES = ("GET / HTTP/1.1", "GET / HTTP/1.0", "POST / HTTP/1.1", "GET http://a/ HTTP/1.1")
ADDED_LINES = (
    *("", "Host: a", "host: ", "Upgrade: h2c", "Connection: close", "X: Upgrade: websocket"),
    *(f"sec-websocket-key:{KEY}", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Key: short", f"X: {KEY}"),
    *("sec-websocket-version:13", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
    *("Transfer-Encoding: chunked", "transfer-encoding:chunked", "Via: HTTP/1.1"),
)


@pytest.mark.parametrize("line", REQUEST_LINES)
@pytest.mark.parametrize("missing", ["", *HEADERS])
def test_the_fast_path_accepts_nothing_that_the_rules_refuse(line: str, missing: str) -> None:
    usual = [f"{name}: {value}" for name, value in HEADERS.items() if name != missing]
    let_in = 0
    for body, added in itertools.product((b"", b"x"), itertools.product(ADDED_LINES, repeat=2)):
        for at in range(len(usual) + 1):
            lines = [line, *usual[:at], *filter(None, added), *usual[at:], "", ""]
            request = Request("\r\n".join(lines).encode(), body)
            if _is_plain_upgrade(request):
                let_in += 1
                check_rules(request)
    # The lines that are added make good for all that may be missing but for these two.
    assert bool(let_in) is (line == REQUEST_LINES[0] and missing not in ("Upgrade", "Connection"))


def test_the_usual_request_takes_the_fast_path() -> None:
    assert _is_plain_upgrade(upgrade())
    assert _is_plain_upgrade(upgrade({"Upgrade": "WebSocket", "Connection": "upgrade"}, "Origin: http://a"))


def test_connection_over_two_lines_passes() -> None:
    check_upgrade(upgrade({"Connection": "keep-alive"}, "Connection: Upgrade"))


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"Upgrade": None}, 426, "requires a WebSocket"),
        ({"Upgrade": "h2c"}, 426, "requires a WebSocket"),
        ({"Connection": None}, 400, "Connection header"),
        ({"Connection": "keep-alive"}, 400, "Connection header"),
        ({"Connection": "xUpgrade"}, 400, "Connection header"),
        ({"Host": ""}, 400, "Host"),
        ({"Sec-WebSocket-Version": None}, 426, "version 13"),
        ({"Sec-WebSocket-Version": "8"}, 426, "version 13"),
        ({"Sec-WebSocket-Version": "13, 8"}, 426, "version 13"),
        ({"Sec-WebSocket-Key": None}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": ""}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": "A" * 24}, 400, "Sec-WebSocket-Key"),
        ({"Sec-WebSocket-Key": "*" * 22 + "=="}, 400, "Sec-WebSocket-Key"),
        ({"Transfer-Encoding": "chunked"}, 400, "cannot have a body"),
        ({"Content-Length": "3"}, 400, "cannot have a body"),
    ],
)
def test_bad_upgrades_are_refused(changes: dict[str, str | None], status: int, reason: str) -> None:
    body = b"0\r\n\r\n" if "Transfer-Encoding" in changes else b"abc"
    error = refusal(upgrade(changes, body=body))
    assert error.status == status
    assert reason in error.reason


def test_a_second_key_is_refused() -> None:
    assert refusal(upgrade({}, f"Sec-WebSocket-Key: {KEY}")).status == 400


def test_other_methods_are_told_which_to_use() -> None:
    error = refusal(upgrade(line="POST / HTTP/1.1"))
    assert error.status == 405
    assert ("Allow", "GET") in error.headers


def test_http_1_0_is_refused() -> None:
    error = refusal(upgrade(line="GET / HTTP/1.0"))
    assert (error.status, "HTTP/1.1" in error.reason) == (400, True)


def test_426_names_what_is_wanted() -> None:
    error = refusal(upgrade({"Upgrade": None}))
    assert {("Upgrade", "websocket"), ("Connection", "Upgrade")} <= set(error.headers)
    error = refusal(upgrade({"Sec-WebSocket-Version": "7"}))
    assert ("Sec-WebSocket-Version", "13") in error.headers


def test_subprotocols_offered() -> None:
    request = upgrade({}, "Sec-WebSocket-Protocol: b, a,,b", "Sec-WebSocket-Protocol: c/d, e")
    assert offered_subprotocols(request) == ["b", "a", "e"]
    assert offered_subprotocols(upgrade()) == []


def test_extensions_offered() -> None:
    request = upgrade({}, "Sec-WebSocket-Extensions: a; x=1, b", "Sec-WebSocket-Extensions: c")
    assert offered_extensions(request) == ["a; x=1, b", "c"]


@pytest.mark.parametrize(
    ("host", "origin", "origins", "allowed"),
    [
        ("example.com", None, None, True),
        ("example.com", None, [], True),
        ("example.com:8000", "https://example.com", None, True),
        ("EXAMPLE.com", "http://Example.COM:9", None, True),
        ("[::1]:80", "http://[::1]:8080", None, True),
        ("example.com", "http://evil.com", None, False),
        ("example.com", "http://example.com.evil.com", None, False),
        ("example.com", "http://evil.com/example.com", None, False),
        ("example.com", "http://evil.com@example.com", None, False),
        ("evil.com@example.com", "http://example.com", None, False),
        ("example.com", "null", None, False),
        ("example.com", "", None, False),
        ("example.com", "example.com", None, False),
        ("a b", "http://a b", None, False),
        ("example.com", "null", ["*"], True),
        ("example.com", "null", ["null"], True),
        ("example.com", "http://example.com", [], False),
        ("example.com", "https://a.com", ["https://A.com"], True),
        ("example.com", "https://a.com", ["https://a.com:443"], True),
        ("example.com", "https://a.com:443", ["https://a.com"], True),
        ("example.com", "https://a.com:8443", ["https://a.com"], False),
        ("example.com", "http://a.com", ["https://a.com"], False),
        ("example.com", "x-app://a", ["x-app://a"], True),
    ],
)
def test_origins(host: str, origin: str | None, origins: list[str] | None, allowed: bool) -> None:
    assert origin_allowed(upgrade({"Host": host, "Origin": origin}), origins) is allowed


def test_two_origins_are_refused() -> None:
    request = upgrade({"Origin": "http://example.com"}, "Origin: http://example.com")
    assert not origin_allowed(request, None)
    assert origin_allowed(request, ["*"])


def test_origin_is_compared_with_the_target_in_absolute_form() -> None:
    request = upgrade({"Origin": "http://example.com"}, line="GET http://other/ HTTP/1.1")
    assert not origin_allowed(request, None)


def test_accept_is_the_one_of_the_rfc() -> None:
    # RFC 6455 section 1.3
    assert accept_response(upgrade()) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    )


def test_accept_with_everything() -> None:
    request = upgrade({"Sec-WebSocket-Protocol": "a, b"})
    answer = accept_response(request, subprotocol="b", extensions="x; y=1", headers=[("Set-Cookie", "1")])
    assert answer.endswith(
        b"\r\nSec-WebSocket-Protocol: b\r\nSec-WebSocket-Extensions: x; y=1\r\nSet-Cookie: 1\r\n\r\n"
    )


def test_accept_refuses_what_cannot_be_sent() -> None:
    request = upgrade({"Sec-WebSocket-Protocol": "a"})
    with pytest.raises(ValueError, match="did not offer the subprotocol 'b'; it offered a"):
        accept_response(request, subprotocol="b")
    with pytest.raises(ValueError, match="control character"):
        accept_response(request, headers=[("X", "a\r\nY: b")])
    with pytest.raises(ValueError, match="control character"):
        accept_response(request, extensions="a\r\nY: b")
    for name in ("Upgrade", "Sec-WebSocket-Accept", "content-length"):
        with pytest.raises(ValueError, match="is set by trio_ws"):
            accept_response(request, headers=[(name, "1")])


# ---- Client --------------------------------------------------------------------------------------------


def client(
    *, subprotocols: tuple[str, ...] = (), extensions: str | None = None, limit: int = 4096
) -> ClientHandshake:
    return ClientHandshake(
        "example.com", "/x?y", subprotocols=subprotocols, extensions=extensions, max_header_bytes=limit
    )


def accept_of(handshake: ClientHandshake) -> bytes:
    request = WholeRequests(4096, 0).feed(handshake.request)
    assert request is not None
    return accept_response(request)


def test_client_request() -> None:
    made = ClientHandshake(
        "example.com:8",
        "/x?y",
        subprotocols=["a", "b"],
        extensions="e; f",
        headers=[("Cookie", "1"), ("Cookie", "2")],
        max_header_bytes=4096,
    )
    request = WholeRequests(4096, 0).feed(made.request)
    assert request is not None
    check_upgrade(request)
    assert (request.target, request.host) == ("/x?y", "example.com:8")
    assert offered_subprotocols(request) == ["a", "b"]
    assert offered_extensions(request) == ["e; f"]
    assert request.headers.get_all("cookie") == ["1", "2"]


def test_client_keys_differ() -> None:
    assert client().request != client().request


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_client_takes_an_answer_in_any_split(step: int) -> None:
    made = client(subprotocols=("a", "b"), extensions="e; f")
    request = WholeRequests(4096, 0).feed(made.request)
    assert request is not None
    answer = accept_response(request, subprotocol="b", extensions="E; g=1", headers=[("X", "1")])
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer
    response = None
    for at in range(0, len(answer), step):
        assert response is None
        response = made.feed(answer[at : at + step])
    assert isinstance(response, Response)
    assert (response.status, response.subprotocol, response.extensions) == (101, "b", "E; g=1")
    assert response.headers.get("x") == "1"
    assert made.trailing == b""


def test_client_keeps_the_first_frames() -> None:
    made = client()
    response = made.feed(accept_of(made) + b"\x81\x00")
    assert response is not None
    assert (response.subprotocol, response.extensions) == (None, None)
    assert made.trailing == b"\x81\x00"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (rb"HTTP/1.1", b"HTTP/1.0", "not HTTP/1.1"),
        (rb"Upgrade: websocket\r\n", b"", "Upgrade header"),
        (rb"Upgrade: websocket", b"Upgrade: h2c", "Upgrade header"),
        (rb"Connection: Upgrade\r\n", b"", "Connection header"),
        (rb"Connection: Upgrade", b"Connection: close", "Connection header"),
        (rb"Sec-WebSocket-Accept: .*\r\n", b"", "Sec-WebSocket-Accept"),
        (rb"Accept: ....", b"Accept: AAAA", "Sec-WebSocket-Accept"),
        (rb"(Sec-WebSocket-Accept: .*\r\n)", rb"\1\1", "Sec-WebSocket-Accept"),
        (rb"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: z\r\n\r\n", "a subprotocol that we did not offer"),
        (
            rb"\r\n\r\n",
            b"\r\nSec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a\r\n\r\n",
            "a subprotocol that we did not offer",
        ),
        (rb"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: e, z; q\r\n\r\n", "an extension that we did not"),
        (rb"Connection: Upgrade", b"Bad Name: x", "malformed HTTP"),
    ],
)
def test_client_refuses_a_wrong_101(old: bytes, new: bytes, why: str) -> None:
    made = client(subprotocols=("a",), extensions="e")
    answer = re.sub(old, new, accept_of(made), count=1)
    with pytest.raises(ConnectionFailedError, match=why) as caught:
        made.feed(answer)
    assert not isinstance(caught.value, HandshakeRejectedError)


def test_client_refuses_what_it_offered_nothing_for() -> None:
    for name in (b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"):
        made = client()
        with pytest.raises(ConnectionFailedError, match="did not offer"):
            made.feed(accept_of(made)[:-2] + name + b": x\r\n\r\n")


@pytest.mark.parametrize("data", [b"\x15\x03", b"SSH", b"HTTP/1.1 OK\r\n", b"HTTP/1.1 20\r\n", b"\r\n"])
def test_client_tells_garbage_at_once(data: bytes) -> None:
    with pytest.raises(ConnectionFailedError, match="does not speak HTTP"):
        client().feed(data)


def test_client_bounds_the_head_and_what_comes_before_it() -> None:
    with pytest.raises(ConnectionFailedError, match="max_header_bytes=100"):
        client(limit=100).feed(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100)
    with pytest.raises(ConnectionFailedError, match="max_header_bytes=100"):
        client(limit=100).feed(b"HTTP/1.1 100 Continue\r\n\r\n" * 5)


def rejected(data: list[bytes], *, eof: bool = False) -> HandshakeRejectedError:
    made = client()
    with pytest.raises(HandshakeRejectedError) as caught:
        for piece in data:
            assert made.feed(piece) is None
        assert eof
        made.eof()
    return caught.value


def test_client_is_rejected_with_headers_and_body() -> None:
    error = rejected([http_response(403, [("X", "1"), ("X", "2")], b"no entry")])
    assert (error.status, error.body) == (403, b"no entry")
    assert [value for name, value in error.headers if name == "X"] == ["1", "2"]


@pytest.mark.parametrize(
    ("data", "eof", "body"),
    [
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 404 \r\nContent-Length: 2\r\n\r\n", b"a", b"b"], False, b"ab"),
        ([b"HTTP/1.1 404\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"0\r\n\r\n"], False, b"a"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"till the", b" end"], True, b"till the end"),
        ([b"HTTP/1.1 502 X\r\nContent-Length: 9\r\n\r\ncut"], True, b"cut"),
        ([b"HTTP/1.1 502 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n"], False, b"a"),
        ([b"HTTP/1.1 500 X\r\n\r\n", b"x" * 40_000, b"x" * 40_000], False, b"x" * 65_536),
    ],
)
def test_client_collects_the_body(data: list[bytes], eof: bool, body: bytes) -> None:
    error = rejected(data, eof=eof)
    assert error.body == body
    assert error.status == int(data[0][9:12])


def test_client_tells_the_end_of_the_stream() -> None:
    with pytest.raises(ConnectionFailedError, match="without a handshake response"):
        client().eof()
    made = client()
    assert made.feed(b"HTTP/1.1 1") is None
    with pytest.raises(ConnectionFailedError, match="in the middle"):
        made.eof()


@pytest.mark.parametrize("target", ["", "x", "*", "/a b", "/é", "/a\r\nX: y", "http://a/"])
def test_client_refuses_a_bad_target(target: str) -> None:
    with pytest.raises(ValueError, match="is not a request target"):
        ClientHandshake("a", target, max_header_bytes=4096)


def test_client_refuses_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"use subprotocols=\['chat'\]"):
        ClientHandshake("a", "/", subprotocols="chat", max_header_bytes=4096)
    with pytest.raises(TypeError, match="a subprotocol must be a str, not bytes"):
        ClientHandshake("a", "/", subprotocols=[b"a"], max_header_bytes=4096)  # type: ignore[list-item]
    for name in ("", "a b", "a,b", "é"):
        with pytest.raises(ValueError, match="is not a subprotocol name"):
            ClientHandshake("a", "/", subprotocols=[name], max_header_bytes=4096)
    with pytest.raises(ValueError, match="is repeated"):
        ClientHandshake("a", "/", subprotocols=["a", "a"], max_header_bytes=4096)
    with pytest.raises(ValueError, match="the header Host contains"):
        ClientHandshake("a\r\nX: y", "/", max_header_bytes=4096)
    for name in ("Host", "sec-websocket-key", "Sec-WebSocket-Protocol"):
        with pytest.raises(ValueError, match="is set by trio_ws"):
            ClientHandshake("a", "/", headers=[(name, "x")], max_header_bytes=4096)


@given(
    st.binary(max_size=200), st.integers(1, 50), st.sampled_from([b"", b"HTTP/1.1 101 X\r\n", b"HTTP/1.1 4"])
)
def test_client_raises_nothing_else(data: bytes, step: int, prefix: bytes) -> None:
    made = client(limit=100)
    whole = prefix + data
    with pytest.raises(ConnectionFailedError):
        for at in range(0, len(whole), step):
            assert made.feed(whole[at : at + step]) is None
        made.eof()


@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)),
    st.lists(st.text(st.sampled_from("abc.-1"), min_size=1), unique=True),
    st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]))),
)
def test_both_sides_agree(target: str, subprotocols: list[str], values: list[str]) -> None:
    headers = [("X", value) for value in values]
    made = ClientHandshake(
        "h", "/" + target, subprotocols=subprotocols, headers=headers, max_header_bytes=1 << 20
    )
    request = WholeRequests(1 << 20, 0).feed(made.request)
    assert request is not None
    check_upgrade(request)
    assert request.target == "/" + target
    assert offered_subprotocols(request) == subprotocols
    stripped = [value.strip(" \t") for value in values]
    assert request.headers.get_all("x") == stripped
    chosen = subprotocols[-1] if subprotocols else None
    response = made.feed(accept_response(request, subprotocol=chosen, headers=headers))
    assert response is not None
    assert response.subprotocol == chosen
    assert response.headers.get_all("X") == stripped
