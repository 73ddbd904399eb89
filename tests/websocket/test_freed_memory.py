"""The memory of a large message is used again for the next one, instead of going back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Each message arrives in parts, which are joined and freed, and nothing is kept of it.
RECEIVE = """
import resource

import trio

from trio_ws import Options
from trio_ws.protocol.framing import masked_frame
from trio_ws.websocket.receive_buffer import ReceiveBuffer
from trio_ws.websocket.runtime import open_runtime

options = Options()


def page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def receive(buffer: ReceiveBuffer, frame: bytes) -> None:
    for at in range(0, len(frame), 100_000):
        buffer.feed(frame[at : at + 100_000])
    buffer.messages.popleft()
    buffer.release()


async def main() -> None:
    async with open_runtime(options):
        buffer = ReceiveBuffer(options, client=False)
        buffer.open(None)
        frame = masked_frame(0x82, bytes(options.max_message_size))
        for _ in range(20):
            receive(buffer, frame)
        before = page_faults()
        for _ in range(20):
            receive(buffer, frame)
        print((page_faults() - before) // 20)


trio.run(main)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide differently")
def test_a_large_message_takes_no_new_pages() -> None:
    run = subprocess.run([sys.executable, "-c", RECEIVE], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64  # of the 512 pages of a message and its parts
