"""Parsing of requests: limits, splits, invalid requests, and that the fast path agrees with h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.requests import WholeRequests
from trio_ws.protocol import http_parser as reader_module
from trio_ws.protocol.http import HTTPError, Request
from trio_ws.protocol.http_parser import MAX_LINES, RequestReader

PLAIN = b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\nX-Empty:\r\n\r\n"


def read(data: bytes, *, header: int = 1024, body: int = 64) -> Request | None:
    return WholeRequests(header, body).feed(data)


def status_of(data: bytes, *, header: int = 1024, body: int = 64) -> int:
    with pytest.raises(HTTPError) as caught:
        read(data, header=header, body=body)
    return caught.value.status


def parts(request: Request) -> tuple[object, ...]:
    return request.method, request.target, request.http_version, request.headers, request.body


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_any_split_gives_the_same(step: int) -> None:
    reader = WholeRequests(1024, 64)
    whole = PLAIN + b"rest"
    request = None
    for at in range(0, len(PLAIN), step):
        request = reader.feed(whole[at : at + step])
        if request is not None:
            break
        assert reader.eof()
    assert request is not None
    expected = read(PLAIN)
    assert expected is not None
    assert parts(request) == parts(expected)
    assert b"rest".startswith(reader.trailing)
    assert not reader.eof()


def test_trailing_is_what_came_behind() -> None:
    reader = WholeRequests(1024, 64)
    assert reader.feed(PLAIN + b"\x81\x00") is not None
    assert reader.trailing == b"\x81\x00"
    with pytest.raises(RuntimeError, match="complete"):
        reader.feed(b"more")


def test_eof_before_anything() -> None:
    reader = WholeRequests(1024, 64)
    assert reader.feed(b"") is None
    assert not reader.eof()


def test_eof_in_a_body() -> None:
    reader = WholeRequests(1024, 64)
    assert reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n") is None
    assert reader.eof()
    assert reader.feed(b"h") is None
    assert reader.eof()


def test_body_by_length() -> None:
    reader = WholeRequests(1024, 4)
    assert (
        reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nfo")
        is None
    )
    request = reader.feed(b"urnext")
    assert request is not None
    assert request.body == b"four"
    assert request.method == "POST"
    assert reader.trailing == b"next"


def test_body_in_chunks() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    reader = WholeRequests(1024, 4)
    request = None
    for byte in head + b"1\r\nf\r\n3;x=y\r\nour\r\n0\r\n\r\n":
        assert request is None
        request = reader.feed(bytes([byte]))
    assert request is not None
    assert request.body == b"four"


def test_body_over_the_limit() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    assert status_of(head + b"Content-Length: 5\r\n\r\n", body=4) == 413
    assert status_of(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", body=4) == 413
    assert status_of(head + b"Content-Length: 1\r\n\r\n", body=0) == 413


def test_a_chunk_header_without_end_is_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status_of(head + b"1;" + b"x" * 2000) == 431


def test_head_over_the_limit() -> None:
    assert read(PLAIN, header=len(PLAIN)) is not None
    assert status_of(PLAIN, header=len(PLAIN) - 1) == 431
    assert status_of(b"GET / HTTP/1.1\r\nX: " + b"x" * 1006) == 431
    assert status_of(b"GET /" + b"x" * 1020) == 431


def test_a_huge_head_byte_by_byte_is_looked_at_once() -> None:
    reader = WholeRequests(1 << 20, 64)
    reader.feed(b"GET / HTTP/1.1\r\nX: ")
    assert reader._heads is not None
    for length in range(20, 10_000):
        assert reader.feed(b"x") is None
        # The next search starts two bytes before the end in all cases.
        assert reader._heads._looked == length - 2


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",
        b"\r\n",
        b" GET / HTTP/1.1",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"GET /\r\n",
        b"GET / HTTP/11\r\n",
        b"GET  / HTTP/1.1\r\n",
        b"G\x00T / HTTP/1.1\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n",
    ],
)
def test_garbage_is_told_before_the_head_is_whole(data: bytes) -> None:
    assert status_of(data) == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET a.html HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_refused(data: bytes, status: int) -> None:
    assert status_of(data) == status


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "/"),
        (b"GET http://a/b HTTP/1.1\r\nHost: c\r\n\r\n", "http://a/b"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "a:1"),
    ],
)
def test_taken(data: bytes, target: str) -> None:
    request = read(data)
    assert request is not None
    assert request.target == target


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "smuggling",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n\t two\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n two\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: one\rY: two\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : one\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello",
        POST + b"Content-Length: 5, 5\r\n\r\nhello",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 5_0\r\n\r\nhello",
        POST + b"Content-Length: -5\r\n\r\nhello",
        POST + b"Content-Length: 0x5\r\n\r\nhello",
        POST + b"Content-Length: \r\n\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5_\r\nhello\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 40 + b"\r\nhello",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused(smuggling: bytes) -> None:
    assert status_of(smuggling) == 400


@pytest.mark.parametrize("coding", [b"chunked, identity", b"gzip, chunked", b"xchunked", b"identity"])
def test_other_transfer_codings_are_refused(coding: bytes) -> None:
    assert status_of(POST + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n") == 501


def test_long_lines_between_chunks_and_long_trailers_are_refused() -> None:
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert read(head + b"5;" + b"e" * 4000 + b"\r\nhello\r\n0\r\n\r\n", header=9000) is not None
    assert read(head + b"0\r\n" + b"a:\r\n" * 900 + b"\r\n", header=9000) is not None
    for more in (b"5;" + b"e" * 5000, b"0\r\n" + b"a:\r\n" * 1100):
        reader = RequestReader(9000, 64)
        assert reader.feed(head) is not None
        with pytest.raises(HTTPError) as caught:
            for start in range(0, len(more), 1024):
                reader.feed_body(more[start : start + 1024])
        assert caught.value.status == 431


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n"])
def test_more_lines_than_a_head_may_have(start: bytes) -> None:
    head = start + b"Host: a\r\n"
    most = MAX_LINES - 3  # the request line, Host, and the empty line
    assert read(head + b"a:\r\n" * most + b"\r\n", header=10_000) is not None
    assert status_of(head + b"a:\r\n" * (most + 1) + b"\r\n", header=10_000) == 431


def test_the_head_is_there_before_its_body() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    reader = RequestReader(1024, 64)
    request = reader.feed(head)
    assert request is not None
    assert request.method == "POST"
    assert not reader.complete
    assert reader.take_rest() == b""
    assert reader.feed_body(b"he") is None
    assert reader.eof()
    assert reader.feed_body(b"llo, next") == b"hello"
    assert reader.complete
    assert reader.trailing == b", next"
    with pytest.raises(RuntimeError, match="the head is complete"):
        reader.feed(b"x")


@pytest.mark.parametrize(
    ("more", "body", "waits"),
    [
        (b"Content-Length: 5\r\nExpect: 100-continue\r\n", b"", True),
        (b"Content-Length: 5\r\nExpect: 100-Continue\r\n", b"", True),
        (b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", b"", True),
        (b"Content-Length: 5\r\nExpect: 100-continue\r\n", b"h", False),  # it does not wait
        (b"Content-Length: 0\r\nExpect: 100-continue\r\n", b"", False),
        (b"Expect: 100-continue\r\n", b"", False),
        (b"Content-Length: 5\r\n", b"", False),
    ],
)
def test_expect_100_continue(more: bytes, body: bytes, waits: bool) -> None:
    reader = RequestReader(1024, 64)
    assert reader.feed(POST + more + b"\r\n" + body) is not None
    assert reader.wants_continue is waits
    older = RequestReader(1024, 64)
    assert older.feed(POST.replace(b"1.1", b"1.0") + more.replace(b"Transfer", b"X") + b"\r\n" + body)
    assert not older.wants_continue


def test_bare_line_feeds_are_line_ends() -> None:
    reader = WholeRequests(1024, 64)
    request = reader.feed(b"GET / HTTP/1.1\nHost: a\nX: b\n\nrest")
    assert request is not None
    assert list(request.headers) == [("Host", "a"), ("X", "b")]
    assert reader.trailing == b"rest"


def test_bytes_beyond_ascii_in_a_value_are_kept() -> None:
    request = read(b"GET / HTTP/1.1\r\nHost: a\r\nX: caf\xc3\xa9\r\n\r\n")
    assert request is not None
    assert (request.header("x") or "").encode("latin-1").decode() == "café"


def test_the_plain_head_takes_the_fast_path() -> None:
    assert reader_module._parse_plain_get(PLAIN) is not None


# Lines that differ little from those of the fast path, and mutations of them.
LINES = [
    b"Host: a",
    b"host:b",
    b"Connection: keep-alive, Upgrade",
    b"X-Pad: \t value \t",
    b"X-Empty:",
    b" folded",
    b"\tfolded",
    b"Content-Length: 0",
    b"CONTENT-LENGTH: 3",
    b"Transfer-Encoding: chunked",
    b"Bad Name: x",
    b"X: \xff",
    b"X: \x00",
    b"X: a\rb",
    b"X: \x0b",
    b"X: \x1f",
    b"nocolon",
    b"a:b:c",
    b"",
]
START = [
    b"GET / HTTP/1.1",
    b"GET /x?y#z HTTP/1.1",
    b"GET http://h/x HTTP/1.1",
    b"get / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"GET /\xe9 HTTP/1.1",
    b"GET / x HTTP/1.1",
    b"POST / HTTP/1.1",
]


@st.composite
def odd_heads(draw: st.DrawFn) -> bytes:
    start = draw(st.sampled_from(START))
    lines = draw(st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=12)), max_size=6))
    ends = draw(st.lists(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]), min_size=8, max_size=8))
    whole = [start, *([b"Host: a"] if draw(st.booleans()) else []), *lines, b""]
    return b"".join(line + end for line, end in zip(whole, ends, strict=False))


PLAIN_HEADS = st.from_regex(
    rb"GET /[!-~]{0,9} HTTP/1\.1\r\n(Host:[\t -~]{0,9}\r\n)([!#-'A-Za-z-]{1,3}:[\t -~]{0,9}\r\n){0,5}\r\n",
    fullmatch=True,
)


@given(st.one_of(odd_heads(), PLAIN_HEADS))
@example(PLAIN)
@example(PLAIN[:-2] + b"Content-Length: 2\r\n\r\n")
@example(PLAIN[:-2] + b"host: b\r\n\r\n")
def test_the_fast_path_and_h11_agree(head: bytes) -> None:
    fast = reader_module._parse_plain_get(head)
    if fast is None:
        return  # h11 decides
    reader = RequestReader(1024, 64)
    connection = h11.Connection(h11.SERVER)
    slow = Request(reader._parse_by_h11(connection, head))
    assert parts(fast) == parts(slow)
    assert isinstance(connection.next_event(), h11.EndOfMessage)


@pytest.mark.parametrize("line", LINES)
def test_uncommon_requests_are_left_to_h11(line: bytes) -> None:
    plain = {b"Connection: keep-alive, Upgrade", b"X-Pad: \t value \t", b"X-Empty:", b"a:b:c"}
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
    assert (reader_module._parse_plain_get(head) is not None) == (line in plain)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_bytes_in_any_split_raise_nothing_else(data: bytes, step: int) -> None:
    reader = WholeRequests(100, 10)
    for prefix in (b"", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"):
        reader = WholeRequests(100, 10)
        whole = prefix + data
        try:
            for at in range(0, len(whole), step):
                if reader.feed(whole[at : at + step]) is not None:
                    break
        except HTTPError as exc:
            assert exc.status in {400, 413, 431, 501, 505}
