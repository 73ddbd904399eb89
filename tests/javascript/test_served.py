"""The module as pages get it: from App.mount_client, from the wheel, and from npm."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.javascript.test_node import PROGRAMS, Handler
from tests.support.node import ROOT, STATIC, install_client, node_command, run_program
from tests.support.npm import npm_package
from tests.support.serving import serving
from trio_ws import App, __version__

if TYPE_CHECKING:
    from pathlib import Path

MODULE = STATIC / "trio-ws.js"


async def get(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(
            url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


async def test_an_app_serves_it() -> None:
    app = App()
    app.mount_client()
    app.mount_client("/static/client.js")
    async with serving(app) as server:
        base = server.url.replace("ws", "http", 1)
        plain = await get(f"{base}/trio-ws.js", accept_encoding="identity")
        gzipped = await get(f"{base}/static/client.js", accept_encoding="br, gzip, deflate")
        again = await get(f"{base}/trio-ws.js", if_none_match=f'"other", W/{plain.headers["etag"]}')
        changed = await get(f"{base}/trio-ws.js", if_none_match='"other"')
    assert plain.content == gzipped.content == changed.content == MODULE.read_bytes()
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert plain.headers["access-control-allow-origin"] == "*"
    assert "content-encoding" not in plain.headers
    assert gzipped.headers["content-encoding"] == "gzip"
    assert gzipped.headers["etag"] == plain.headers["etag"]
    assert (again.status_code, again.content) == (304, b"")


def test_a_path_is_served_once() -> None:
    app = App()
    app.mount_client("/a.js")
    with pytest.raises(ValueError, match=r"there is already a route for GET/HEAD /a\.js, "):
        app.mount_client("/a.js")


def test_module_is_small() -> None:
    """As it is served, with its comments."""
    assert len(gzip.compress(MODULE.read_bytes(), 9)) < 11 * 1024


async def test_minified_module_is_smaller(tmp_path: Path) -> None:
    """Less than 8 KiB compressed, as bundlers leave it; and it does the same."""
    terser = npm_package("terser") / "bin" / "terser"
    install_client(tmp_path)
    minified = tmp_path / "node_modules" / "trio-ws" / "trio-ws.js"
    command = [*node_command(), str(terser), str(MODULE), "--module", "--compress", "--mangle"]
    await trio.run_process([*command, "--output", str(minified)])
    script = "process.stdout.write(zlib.brotliCompressSync(fs.readFileSync(process.argv[1])))"
    brotli = await trio.run_process([*node_command(), "-e", script, str(minified)], capture_stdout=True)
    gzipped = gzip.compress(minified.read_bytes(), 9)
    assert len(brotli.stdout) < len(gzipped) < 8 * 1024
    async with serving(Handler()) as server:
        calls = await run_program(tmp_path, PROGRAMS / "calls.mjs", server.url)
        numbers = await run_program(tmp_path, PROGRAMS / "windows.mjs", server.url)
    assert calls[:4] == [3, 7, 6, 11]
    assert numbers == [800, 400_000]


async def test_npm_packs_it(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed; on Debian: apt-get install npm")
    clients = tmp_path / "clients" / "js"
    shutil.copytree(ROOT / "clients" / "js", clients, ignore=shutil.ignore_patterns("trio-ws.*"))
    shutil.copytree(STATIC, tmp_path / "trio_ws" / "static")
    environment = {"npm_config_cache": str(tmp_path / "cache"), "npm_config_update_notifier": "false"}
    done = await trio.run_process(
        [npm, "pack", "--json", "--offline"],
        cwd=clients,
        env={**os.environ, **environment},
        capture_stdout=True,
    )
    packed = json.loads(done.stdout)[0]
    assert sorted(file["path"] for file in packed["files"]) == [
        "README.md", "package.json", "trio-ws.d.ts", "trio-ws.js"
    ]  # fmt: skip
    shutil.unpack_archive(clients / packed["filename"], tmp_path, filter="data")
    assert (tmp_path / "package" / "trio-ws.js").read_bytes() == MODULE.read_bytes()


async def test_the_package_is_imported_by_its_name(tmp_path: Path) -> None:
    names = await run_program(tmp_path, ROOT / "tests" / "javascript" / "programs" / "exports.mjs")
    assert names == [
        "Client", "Code", "ConnectionLostError", "RPCError", "Stream", "Subscription", "base64", "bytes"
    ]  # fmt: skip


def test_the_version_is_that_of_the_python_package() -> None:
    manifest = json.loads((ROOT / "clients" / "js" / "package.json").read_text(encoding="utf-8"))
    assert manifest["version"] == __version__
