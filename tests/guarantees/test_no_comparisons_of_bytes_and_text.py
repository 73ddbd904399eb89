"""``python -bb -W error`` imports all modules and uses every dialect. CI runs more tests with it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, warnings
import trio, trio_ws
from trio_ws.testing import MemoryListener

warnings.filterwarnings("ignore", "trio_ws.wire is deprecated")
for module in pkgutil.walk_packages(trio_ws.__path__, "trio_ws."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

class Handler(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def echo(self, connection, value): return value
    @trio_ws.rpc_method()
    async def fail(self, connection): raise trio_ws.RPCError("no", data=[b"x", "x"])

async def main():
    options = trio_ws.Options(compression=True)
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(Handler, listeners=[listener], options=options):
        for dialect in ("trio-ws.v1", "webshocket.v1", "json", "jsonrpc"):
            stream = await listener.connect()
            more = {"stream": stream, "dialect": dialect, "options": options}
            async with trio_ws.WebSocketClient("ws://a:b@x/", **more) as client:
                assert await client.call("echo", "x" * 1000) == "x" * 1000
                for wrong in (client.call("fail"), client.call("echo"), client.call("nobody")):
                    try:
                        await wrong
                    except trio_ws.RPCError as exc:
                        repr(exc)
                for message in ("[1, ", b"[1, ", "{", b"\\xc1", "null"):
                    raw = await listener.connect()
                    async with trio_ws.connect("ws://x/", stream=raw) as ws:
                        await ws.send(message)
    for broken in ("ws://a:b@h:x/", "http://h"):
        try:
            async with trio_ws.connect(broken): pass
        except trio_ws.InvalidURIError as exc:
            repr(exc)

import logging
logging.disable()
trio.run(main)
print("done")
"""


def test_a_program_under_bb() -> None:
    for _ in range(2):  # the second run uses the byte code that the first may have written
        done = subprocess.run(
            [sys.executable, "-bb", "-W", "error", "-c", PROGRAM],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("done\n", "")
