"""Redirects of a client: where they lead, what is sent there, and where they end."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from tests.support.proxies import ConnectProxy, scripted
from tests.support.serving import serving, serving_in_memory
from trio_ws import (
    ConnectionFailedError,
    HandshakeRejectedError,
    Options,
    WebSocketClient,
    connect,
)
from trio_ws.client.redirect import resolve_redirect
from trio_ws.client.uri import parse_uri

if TYPE_CHECKING:
    from pathlib import Path

    from trio_ws import WebSocket

SECRETS = {"Authorization": "Bearer secret", "Cookie": "session=secret", "X-Mine": "kept"}


class RedirectingHandler:
    """A handler that rejects with the configured responses, and sends the path of any other request.

    Attributes:
        asked: the path and the headers of all requests, in order.
    """

    def __init__(self, answers: dict[str, Any] | None = None, status: int = 302) -> None:
        self.answers = {} if answers is None else answers
        self.status = status
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def __call__(self, ws: WebSocket) -> None:
        self.asked.append((ws.path, {name.lower(): value for name, value in ws.headers}))
        if ws.path in self.answers:
            locations = self.answers[ws.path]
            locations = [locations] if isinstance(locations, str) else locations
            await ws.reject(self.status, headers=[("Location", location) for location in locations])
        else:
            await ws.send(f"{ws.path}?{ws.query_string}")


async def lands_on(uri: str, **kwargs: Any) -> str:
    """Connect, and return the path and the query of the last request."""
    async with connect(uri, **kwargs) as ws:
        assert f"{ws.path}?{ws.query_string}" == await ws.receive_text()
        return f"{ws.path}?{ws.query_string}"


async def failing(uri: str, **kwargs: Any) -> ConnectionFailedError:
    """Fail to connect, and return the error."""
    with pytest.raises(ConnectionFailedError) as info:
        async with connect(uri, **kwargs):
            pytest.fail("it connected")
    return info.value


# -- targets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_kind_is_followed(status: int) -> None:
    handler = RedirectingHandler({"/old": "/new?x=1"}, status)
    async with serving(handler) as server:
        assert await lands_on(server.url + "/old?y=2") == "/new?x=1"
        assert handler.paths == ["/old", "/new"]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/new", "/new?"),
        ("new", "/a/new?"),
        ("../new?x=1&y=/", "/new?x=1&y=/"),
        ("//127.0.0.1:{port}/new", "/new?"),
        ("http://127.0.0.1:{port}/new", "/new?"),
        ("HTTP://127.0.0.1:{port}/new", "/new?"),
        ("ws://127.0.0.1:{port}", "/?"),
        ("ws://localhost:{port}/new", "/new?"),
        ("/new#part", "/new?"),
        ("/new?q=%23%20#part", "/new?q=%23%20"),
        ("/a%2Fb d", "/a/b d?"),
        ("/caf\xc3\xa9", "/café?"),  # é in UTF-8, as servers send it raw
    ],
)
async def test_forms_of_a_location(location: str, target: str) -> None:
    handler = RedirectingHandler()
    async with serving(handler) as server:
        handler.answers = {"/a/old": location.format(port=server.port)}
        assert await lands_on(server.url + "/a/old?y=2") == target


def test_a_location_of_a_query_alone_keeps_the_path() -> None:
    uri = resolve_redirect(parse_uri("wss://h:81/a/old?y=2"), "?z=3")
    assert uri == parse_uri("wss://h:81/a/old?z=3")


async def test_to_another_server_and_on() -> None:
    first, second = RedirectingHandler(), RedirectingHandler({"/2": "/3"})
    async with serving(first) as here, serving(second) as there:
        first.answers = {"/1": there.url + "/2"}
        assert await lands_on(here.url + "/1") == "/3?"
        assert second.asked[0][1]["host"] == f"127.0.0.1:{there.port}"
        assert not here.connections


async def test_of_a_client_of_calls() -> None:
    handler = RedirectingHandler({"/old": "/new"})
    async with serving(handler) as server, WebSocketClient(server.url + "/old") as client:
        assert client.connected
    assert handler.paths == ["/old", "/new"]


async def test_the_subprotocols_are_offered_again() -> None:
    handler = RedirectingHandler({"/old": "/new"})
    async with (
        serving(handler, subprotocols=["chat"]) as server,
        connect(server.url + "/old", subprotocols=iter(["chat"])) as ws,  # type: ignore[arg-type]
    ):
        assert ws.subprotocol == "chat"


# -- errors -----------------------------------------------------------------------------------------


async def test_max_redirects() -> None:
    handler = RedirectingHandler({f"/{n}": f"/{n - 1}" for n in range(1, 12)})
    async with serving(handler) as server:
        assert await lands_on(server.url + "/10") == "/0?"
        assert await lands_on(server.url + "/1", options=Options(max_redirects=1)) == "/0?"
        handler.asked.clear()
        error = await failing(server.url + "/11")
        assert handler.paths == [f"/{n}" for n in range(11, 0, -1)]
        url = server.url
    assert str(error) == (f"{url}/1 redirects to {url}/0, after max_redirects=10 redirects already")
    assert isinstance(error.__cause__, HandshakeRejectedError)


@pytest.mark.parametrize("answers", [{"/a": "/a"}, {"/a": "/b", "/b": "/a"}])
async def test_a_loop(answers: dict[str, Any]) -> None:
    handler = RedirectingHandler(answers)
    async with serving(handler) as server:
        error = await failing(server.url + "/a")
    assert "max_redirects=10" in str(error)
    assert len(handler.asked) == 11


async def test_none_with_max_redirects_of_0() -> None:
    handler = RedirectingHandler({"/old": "/new"})
    async with serving(handler) as server:
        error = await failing(server.url + "/old", options=Options(max_redirects=0))
    assert isinstance(error, HandshakeRejectedError)
    assert (error.status, error.headers.get("location")) == (302, "/new")
    assert handler.paths == ["/old"]


@pytest.mark.parametrize("status", [300, 304, 305, 401, 503])
async def test_other_refusals_are_what_they_are(status: int) -> None:
    handler = RedirectingHandler({"/old": "/new"}, status)
    async with serving(handler) as server:
        error = await failing(server.url + "/old")
    assert isinstance(error, HandshakeRejectedError)
    assert error.status == status
    assert handler.paths == ["/old"]


@pytest.mark.parametrize("locations", [[], ["/new", "/other"]])
async def test_a_redirect_that_names_no_place_or_two(locations: list[str]) -> None:
    handler = RedirectingHandler({"/old": locations})
    async with serving(handler) as server:
        error = await failing(server.url + "/old")
    assert isinstance(error, HandshakeRejectedError)
    assert error.status == 302
    assert handler.paths == ["/old"]


@pytest.mark.parametrize(
    "location",
    [
        "http://[bad",
        "http://h:99999/",
        "ws://",
        "ws:///x",
        "ftp://example.com/",
        "httpx://example.com/",
        "javascript:alert(1)",
        "ws://a..b/",
        "http://caf\xe9.example/\x80",
    ],
)
async def test_nonsense_is_an_error_that_does_not_blame_the_caller(location: str) -> None:
    handler = RedirectingHandler({"/old": location})
    async with serving(handler) as server:
        error = await failing(server.url + "/old")
        assert str(error).startswith(f"{server.url}/old redirects to ")
    assert not isinstance(error, ValueError)
    assert isinstance(error.__cause__, HandshakeRejectedError)


async def test_a_host_that_is_not_there_is_named() -> None:
    handler = RedirectingHandler({"/old": "ws://127.0.0.1:9/x"})
    async with serving(handler) as server:
        error = await failing(server.url + "/old")
    assert "could not reach 127.0.0.1:9" in str(error)


async def test_a_stream_and_a_unix_socket_lead_to_one_server(tmp_path: Path) -> None:
    async with serving_in_memory(RedirectingHandler({"/old": "/new"})) as memory:
        error = await failing("ws://test/old", stream=await memory.stream())
        assert str(error) == "ws://test/old redirects to ws://test/new, but stream reaches one server only"
        assert isinstance(error.__cause__, HandshakeRejectedError)
        error = await failing("ws://test/old", stream=await memory.stream(), options=Options(max_redirects=0))
        assert isinstance(error, HandshakeRejectedError)
    path = tmp_path / "socket"
    async with serving(RedirectingHandler({"/old": "ws://127.0.0.1:9/new"}), host=None, unix_path=path):
        error = await failing("ws://localhost/old", unix_path=path)
        assert "but unix_path reaches one server only" in str(error)


async def test_open_timeout_spans_all_of_them() -> None:
    async def dawdle(ws: WebSocket) -> None:
        await trio.sleep(0.15)
        await ws.reject(302, headers=[("Location", ws.path + "x")])

    async with serving(dawdle) as server:
        # No single one takes that long; the eleventh would end it otherwise.
        error = await failing(server.url, options=Options(open_timeout=0.4))
    assert "did not open within open_timeout (0.4 seconds)" in str(error)


async def test_cancelling_between_two_servers_leaves_nothing() -> None:
    reached = trio.Event()

    async def never_answer(stream: trio.abc.Stream) -> None:
        reached.set()
        while await stream.receive_some():
            pass
        gone.set()

    gone = trio.Event()
    handler = RedirectingHandler()
    async with scripted(never_answer) as port, serving(handler) as server:
        handler.answers = {"/old": f"ws://127.0.0.1:{port}/"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing, server.url + "/old")
            await reached.wait()
            nursery.cancel_scope.cancel()
        await gone.wait()
        assert not server.connections


# -- headers of redirected requests -----------------------------------------------------------------


def told(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers that these tests check."""
    return {name: headers[name] for name in ("authorization", "cookie", "x-mine") if name in headers}


async def test_credentials_stay_with_the_same_server() -> None:
    handler = RedirectingHandler({"/old": "/new", "/user": "/new"})
    async with serving(handler) as server:
        await lands_on(server.url + "/old", headers=SECRETS)
        await lands_on(server.url.replace("//", "//user:secret@") + "/user", headers={"x-mine": "kept"})
    for _, headers in handler.asked[:2]:
        assert told(headers) == {name.lower(): value for name, value in SECRETS.items()}
    for _, headers in handler.asked[2:]:
        assert told(headers) == {"authorization": "Basic dXNlcjpzZWNyZXQ=", "x-mine": "kept"}


@pytest.mark.parametrize("user", ["", "user:secret@"])
async def test_credentials_go_to_no_other_host_or_port_nor_back(user: str) -> None:
    first, second = RedirectingHandler(), RedirectingHandler()
    async with serving(first) as here, serving(second) as there:
        by_name = here.url.replace("127.0.0.1", "localhost")
        first.answers = {"/host": by_name + "/back", "/back": here.url + "/end", "/port": there.url + "/end"}
        headers = {"x-mine": "kept"} if user else SECRETS
        for path in ("host", "port"):
            await lands_on(here.url.replace("//", f"//{user}") + "/" + path, headers=headers)
    assert first.paths == ["/host", "/back", "/end", "/port"]
    for path, sent in first.asked:
        assert ("authorization" in sent) == (path in ("/host", "/port"))
    assert told(first.asked[1][1]) == told(first.asked[2][1]) == {"x-mine": "kept"}
    assert told(second.asked[0][1]) == {"x-mine": "kept"}


async def test_a_user_named_by_the_redirect_is_its_own_matter() -> None:
    handler = RedirectingHandler()
    async with serving(handler) as server:
        handler.answers = {"/old": server.url.replace("//127.0.0.1", "//other:word@localhost") + "/new"}
        await lands_on(server.url.replace("//", "//user:secret@") + "/old")
    assert handler.asked[1][1]["authorization"] == "Basic b3RoZXI6d29yZA=="


# -- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and a client. Default contexts trust it too, as a redirect to TLS requires."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_up_to_tls_without_credentials(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    plain, secure = RedirectingHandler(), RedirectingHandler()
    async with serving(plain) as here, serving(secure, ssl_context=certificates[0]) as there:
        plain.answers = {"/": there.url.replace("wss:", "https:") + "/new"}
        assert await lands_on(here.url, headers=SECRETS) == "/new?"
    assert told(secure.asked[0][1]) == {"x-mine": "kept"}


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_never_down_from_tls(scheme: str, certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    plain, secure = RedirectingHandler(), RedirectingHandler()
    async with serving(plain) as there, serving(secure, ssl_context=certificates[0]) as here:
        secure.answers = {"/": there.url.replace("ws:", f"{scheme}:") + "/?token=secret", "/here": "/end"}
        error = await failing(here.url, ssl_context=certificates[1])
        assert await lands_on(here.url + "/here", ssl_context=certificates[1]) == "/end?"
        ending = f"{there.url}/, which is not followed from wss:// to ws://"
        assert str(error) == f"{here.url}/ redirects to {ending}"
    assert plain.asked == []


# -- through a proxy --------------------------------------------------------------------------------


async def test_through_a_proxy_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = RedirectingHandler({"/old": "ws://other.example/new", "/new": "ws://inside.example:81/end"})
    async with serving(handler, options=Options(hosts=["*"])) as server:
        proxy = ConnectProxy(server.port)
        async with scripted(proxy) as port:
            url = f"http://user:secret@127.0.0.1:{port}"
            assert await lands_on("ws://service.example/old", proxy=url) == "/end?"
            assert proxy.asked == ["service.example:80", "other.example:80", "inside.example:81"]
            # The environment is asked again for each server.
            monkeypatch.setenv("ws_proxy", url)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            handler.answers["/new"] = server.url + "/end"
            assert await lands_on("ws://service.example/old") == "/end?"
            assert proxy.asked[3:] == ["service.example:80", "other.example:80"]
    assert all(b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in head for head in proxy.heads)
    assert not any("secret" in str(headers) or "proxy" in str(headers) for _, headers in handler.asked)
