"""nginx, Caddy and HAProxy in front of our server, with the configuration of examples/deploy.

Invariants: they listen on Unix sockets in a folder of their own, write nowhere else, and have ended at the
end of the block. The configuration is used unchanged except for its addresses, which must be present in it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["caddy", "haproxy", "nginx"]

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"

MAIN = """\
daemon off;
master_process off;
error_log {folder}/error.log;
pid {folder}/pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


HAPROXY = """\
global
    maxconn 100
defaults
    mode {mode}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend all
    bind fd@{fd}
    bind unix@{path}
    default_backend ours
backend ours
    {forwarded}
    server one {server}
"""


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def nginx(
    folder: Path,
    upstream: str,
    changes: dict[str, str] | None = None,
    *,
    port: int | None = None,
) -> AsyncIterator[str]:
    """Run nginx in front of a server, and yield the path of its Unix socket. Skips the test without nginx.

    Args:
        upstream: the address after ``server`` in its configuration.
        changes: further replacements in the configuration of the site.
        port: an additional port of 127.0.0.1 on which it listens.
    """
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if binary is None:
        pytest.skip("nginx is not installed; on Debian: apt-get install nginx-light")
    path = folder / "nginx.sock"
    listen = f"listen unix:{path};" + (f" listen 127.0.0.1:{port};" if port is not None else "")
    addresses = {"listen 80;": listen, "127.0.0.1:8000": upstream}
    site = changed((DEPLOY / "nginx.conf").read_text(encoding="utf-8"), addresses | (changes or {}))
    (folder / "site.conf").write_text(site, encoding="utf-8")
    (folder / "main.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
    command = [binary, "-p", str(folder), "-e", f"{folder}/error.log", "-c", f"{folder}/main.conf"]
    async with running(command, folder, path):
        yield str(path)


@asynccontextmanager
async def caddy(folder: Path, upstream: str) -> AsyncIterator[str]:
    """Run Caddy in front of a server, and yield the path of its Unix socket. Skips the test without Caddy."""
    binary = shutil.which("caddy")
    if binary is None:
        pytest.skip("caddy is not installed; on Debian: apt-get install caddy")
    path = folder / "caddy.sock"
    # No TLS, for which Caddy would request a certificate over the Internet.
    changes = {"chat.example {": f"http://chat.example {{\n\tbind unix/{path}", "127.0.0.1:8000": upstream}
    site = changed((DEPLOY / "Caddyfile").read_text(encoding="utf-8"), changes)
    text = f"{{\n\tadmin off\n\tstorage file_system {folder}/storage\n}}\n{site}"
    (folder / "Caddyfile").write_text(text, encoding="utf-8")
    command = [binary, "run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    async with running(command, folder, path):
        yield str(path)


@asynccontextmanager
async def haproxy(folder: Path, server: str, *, mode: str = "tcp") -> AsyncIterator[int]:
    """Run HAProxy in front of a server, and yield its port, on which it listens at all of 127.0.0.0/8.

    Skips the test without HAProxy.

    Args:
        server: the ``server`` line of its configuration, such as ``127.0.0.1:80 send-proxy``.
        mode: "tcp" or "http".
    """
    binary = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if binary is None:
        pytest.skip("haproxy is not installed; on Debian: apt-get install haproxy")
    with socket.socket() as listening:
        # HAProxy inherits the socket as a descriptor, so that no other program can take the port.
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        path = folder / "haproxy.sock"
        forwarded = "option forwardfor" if mode == "http" else ""
        text = HAPROXY.format(mode=mode, forwarded=forwarded, fd=listening.fileno(), path=path, server=server)
        (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
        command = [binary, "-db", "-f", str(folder / "haproxy.cfg")]
        async with running(command, folder, path, pass_fds=(listening.fileno(),)):
            yield listening.getsockname()[1]


@asynccontextmanager
async def running(
    command: list[str],
    folder: Path,
    path: Path,
    pass_fds: tuple[int, ...] = (),
) -> AsyncIterator[None]:
    """Run a program until the block ends. It is ready when its socket accepts a connection."""
    environment = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with trio.fail_after(guard()), (folder / "proxy.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=pass_fds,
        )
        try:
            while True:
                assert process.poll() is None, (folder / "proxy.log").read_text()
                try:
                    stream = await trio.open_unix_socket(path)
                except OSError:
                    await trio.sleep(0.02)
                else:
                    await stream.aclose()
                    break
            yield
        finally:
            process.terminate()
            with trio.move_on_after(5) as scope:
                scope.shield = True
                await process.wait()
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
