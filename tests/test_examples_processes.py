"""The example with several processes, and its draining."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import trio

import trio_ws
from tests.support.serving import guard
from tests.test_examples import EXAMPLES


async def told_when_it_ends(server: subprocess.Popen[str], url: str, pids: list[str], number: int) -> None:
    with trio.fail_after(guard()):
        async with trio_ws.connect(url) as ws:
            said = (await ws.receive_text()).split()
            assert said[0] == "process"
            assert said[1] in pids
            server.send_signal(number)
            assert await ws.recv() is None
            assert ws.close_code == 1001


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "processes.py"), "0", "2"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            pids = server.stdout.readline().split()[1:]
            assert len(set(pids)) == 2
            trio.run(told_when_it_ends, server, url, pids, number)
            assert server.communicate(timeout=60)[0] == "drained\n"
        finally:
            server.kill()
    assert server.returncode == 0
