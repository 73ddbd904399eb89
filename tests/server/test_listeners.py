"""`trio_ws.server.listeners`: where a server listens, and the file of its Unix socket."""

# ruff: noqa: ASYNC240 - what tests do to local files takes no time

from __future__ import annotations

import errno
import gc
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import echo, serving
from trio_ws import App, WebSocketServer, connect

if TYPE_CHECKING:
    from pathlib import Path


def bound_to(server: WebSocketServer) -> list[str]:
    found = []
    for listener in server.listeners:
        assert isinstance(listener, trio.SocketListener)
        found.append(str(listener.socket.getsockname()[0]))
    return found


# -- addresses --------------------------------------------------------------------------------------


async def test_by_default_only_this_machine_is_let_in_on_v4_and_v6() -> None:
    async with serving(host=None) as server:
        assert bound_to(server) == ["127.0.0.1", "::1"]
        assert server.url == f"ws://localhost:{server.port}"
        for host in ("127.0.0.1", "[::1]", "localhost"):
            async with connect(f"ws://{host}:{server.port}") as ws:
                await ws.send("hello")
                assert await ws.receive_text() == "hello"


async def test_a_machine_without_ipv6_listens_on_the_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trio.socket.socket

    def without_ipv6(family: int, *rest: Any, **named: Any) -> Any:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return plain(family, *rest, **named)

    monkeypatch.setattr(trio.socket, "socket", without_ipv6)
    async with serving(host=None) as server:
        assert bound_to(server) == ["127.0.0.1"]


async def test_a_port_that_is_taken_on_one_of_the_addresses_is_an_error() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on port {port} of this machine's loopback") as info:
            async with WebSocketServer(echo, port):
                pytest.fail("localhost would lead to two servers")
        gc.collect()  # an unclosed listener on the other address would cause a ResourceWarning
        assert info.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("host", "addresses", "name"),
    [
        ("*", {"0.0.0.0", "::"}, "localhost"),
        ("0.0.0.0", {"0.0.0.0"}, "localhost"),
        ("::", {"::"}, "[::1]"),
    ],
)
async def test_all_interfaces_are_asked_for_by_name(host: str, addresses: set[str], name: str) -> None:
    async with serving(host=host) as server:
        assert set(bound_to(server)) == addresses
        assert server.url == f"ws://{name}:{server.port}"
        async with connect(server.url) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"


def test_an_invalid_host_is_refused_immediately() -> None:
    with pytest.raises(ValueError, match=r"host is empty; omit it .*, or use '\*' for all interfaces"):
        WebSocketServer(echo, 0, host="")
    wrong: Any = b"127.0.0.1"
    with pytest.raises(TypeError, match="host must be a str or None, not bytes"):
        WebSocketServer(echo, 0, host=wrong)
    with pytest.raises(ValueError, match="host is empty"):
        App().run(0, host="")


# -- the file of a Unix socket ----------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


async def test_a_server_removes_only_the_file_that_it_made(path: Path) -> None:
    async with serving(host=None, unix_path=path):
        path.unlink()
        async with serving(host=None, unix_path=path):
            pass
        path.write_text("another's")
    assert path.read_text() == "another's"


async def test_the_server_that_came_later_keeps_its_file(path: Path) -> None:
    async with serving(host=None, unix_path=path) as first:
        path.unlink()  # as a cleanup tool may do
        async with serving(host=None, unix_path=path) as second:
            await first.drain()
            first_listener = first.listeners[0]
            await first_listener.aclose()
            async with connect(second.url, unix_path=path) as ws:
                await ws.send("hello")
                assert await ws.receive_text() == "hello"
    assert not path.exists()


async def test_a_live_server_is_not_replaced_even_if_its_backlog_is_full(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                client.connect(str(path))
        except BlockingIOError:
            pass
        try:
            with pytest.raises(OSError, match=f"{path}: it is in use: another server") as info:
                async with WebSocketServer(echo, unix_path=path):
                    pytest.fail("it took the path of a server that lives")
        finally:
            for client in waiting:
                client.close()
        assert info.value.errno == errno.EADDRINUSE
    assert path.is_socket()


async def test_a_link_is_not_followed_to_a_stale_socket(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "other"))
    path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="it is in use: the file is not a socket"):
        async with WebSocketServer(echo, unix_path=path):
            pytest.fail("it replaced the link, or what it leads to")
    assert path.is_symlink()
    assert (tmp_path / "other").is_socket()


async def test_a_mode_that_cannot_be_set_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(PermissionError, match=f"cannot listen on {path}: Operation not permitted"):
        async with WebSocketServer(echo, unix_path=path):
            pytest.fail("it listens, and everybody may connect")
    assert not path.exists()
