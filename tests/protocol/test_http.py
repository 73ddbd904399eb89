"""Headers, requests and plain HTTP responses."""

from __future__ import annotations

import pytest

from trio_ws.errors import HandshakeRejectedError
from trio_ws.protocol.http import (
    Headers,
    HTTPError,
    Request,
    comma_list,
    encode_headers,
    http_response,
)


def request(target: str = "/", *lines: str) -> Request:
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: example.com:8000", *lines, "", ""])
    return Request(head.encode("latin-1"))


def test_headers_keep_order_case_and_duplicates() -> None:
    headers = Headers([("Host", "a"), ("set-cookie", "1"), ("Set-Cookie", "2")])
    assert list(headers) == [("Host", "a"), ("set-cookie", "1"), ("Set-Cookie", "2")]
    assert headers.get("SET-COOKIE") == "1"
    assert headers.get_all("Set-cookie") == ["1", "2"]
    assert headers.get("x") is None
    assert headers.get("x", "y") == "y"
    assert headers.get_all("x") == []


def test_a_header_is_in_them_by_its_name_in_any_case() -> None:
    headers = Headers([("Host", "a")])
    # mypy --strict and pyright read this file, so that this holds for them too.
    assert "host" in headers
    assert "HOST" in headers
    assert "a" not in headers
    rejected = HandshakeRejectedError(403, headers)
    assert "host" in rejected.headers
    assert rejected.headers.get("host") == "a"


def test_headers_are_like_a_tuple_of_pairs() -> None:
    headers = Headers([("A", "1"), ("B", "2")])
    assert len(headers) == 2
    assert headers[1] == ("B", "2")
    assert headers[1:] == Headers([("B", "2")])
    found: list[object] = [name for name in ("b", "c", 5) if headers.__contains__(name)]
    assert found == ["b"]
    assert headers != [("A", "1"), ("B", "2")]
    assert hash(headers) == hash(Headers(list(headers)))
    assert repr(headers) == "Headers([('A', '1'), ('B', '2')])"


def test_request_tells_its_line() -> None:
    made = request("/a%20b/%C3%A9?x=1&x=2&y=", "X-Name:  caf\xe9 \t")
    assert (made.method, made.target, made.http_version) == ("GET", "/a%20b/%C3%A9?x=1&x=2&y=", "1.1")
    assert made.path == "/a b/é"
    assert made.query_string == "x=1&x=2&y="
    assert made.query_params == {"x": ["1", "2"], "y": [""]}
    assert made.headers == Headers([("Host", "example.com:8000"), ("X-Name", "café")])
    assert made.header("x-name") == "café"
    assert made.header("none", "default") == "default"
    assert made.body == b""


def test_repr_shows_no_header() -> None:
    assert repr(request("/x", "Authorization: secret")) == "<Request GET '/x' HTTP/1.1>"


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("/", "/", "", "example.com:8000"),
        ("/a?b?c", "/a", "b?c", "example.com:8000"),
        ("//other/x", "//other/x", "", "example.com:8000"),
        ("http://other:1/x?y", "/x", "y", "other:1"),
        ("ws://other", "/", "", "other"),
        ("ws://other?y=http://z", "/", "y=http://z", "other"),
        ("/%ff%zz", "/\ufffd%zz", "", "example.com:8000"),
    ],
)
def test_forms_of_the_target(target: str, path: str, query: str, host: str) -> None:
    made = request(target)
    assert (made.path, made.query_string, made.host) == (path, query, host)


def test_host_is_empty_without_a_header() -> None:
    assert Request(b"GET / HTTP/1.0\r\n\r\n").host == ""


def test_raw_values_finds_whole_names_only() -> None:
    made = request("/", "X-Key: 1", "Key:2", "KEY: \t3 ", "Other: Key: 4")
    assert made.raw_values(b"key") == [b"2", b"3"]
    assert made.raw_values(b"none") == []


def test_comma_list() -> None:
    assert comma_list([b"a, b\t,,", b"", b" C"]) == ["a", "b", "C"]
    assert comma_list([]) == []


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "\x7f", "\u20ac"])
def test_values_that_would_inject_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="the value of the header X-A contains"):
        encode_headers([("X-A", value)])


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", "a\x00"])
def test_header_names_that_are_not_tokens_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a header name"):
        encode_headers([(name, "x")])


def test_arguments_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(TypeError, match="the value of the header X must be a str, not bytes"):
        encode_headers([("X", b"y")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="the name of a header must be a str, not bytes"):
        encode_headers([(b"X", "y")])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"headers.items\(\)"):
        encode_headers({("a", "b"): "y"})


def test_reserved_names_are_refused() -> None:
    with pytest.raises(ValueError, match="Upgrade is set by trio_ws"):
        encode_headers([("Upgrade", "x")], frozenset({"upgrade"}))


def test_values_are_stripped_and_latin_1() -> None:
    assert encode_headers([("X", " caf\xe9\t")]) == [(b"X", b"caf\xe9")]


def test_response() -> None:
    assert http_response(404, [("X-A", "1")], b"gone") == (
        b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone"
    )


def test_response_to_head_tells_the_length_only() -> None:
    assert http_response(200, body=b"four", head_only=True) == (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    )


def test_response_without_a_body() -> None:
    assert http_response(204) == b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    with pytest.raises(ValueError, match="304 cannot have a body"):
        http_response(304, body=b"x")


def test_response_of_a_status_without_a_name() -> None:
    assert http_response(599).startswith(b"HTTP/1.1 599 \r\n")


@pytest.mark.parametrize("status", [101, 600, -1])
def test_response_of_no_final_status_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="is not a final HTTP status"):
        http_response(status)


def test_response_does_not_let_its_framing_be_set() -> None:
    with pytest.raises(ValueError, match="Content-Length is set by trio_ws"):
        http_response(200, [("Content-Length", "1")])
    assert b"Connection: Upgrade\r\n" in http_response(426, [("Connection", "Upgrade")])


def test_http_error_is_an_answer() -> None:
    error = HTTPError(405, "only GET", [("Allow", "GET")])
    assert (error.status, error.reason, error.body) == (405, "only GET", b"only GET\n")
    assert error.headers == [("Content-Type", "text/plain; charset=utf-8"), ("Allow", "GET")]
    assert str(error) == "405: only GET"
