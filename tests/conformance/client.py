"""An echo client of trio_ws for Autobahn's fuzzing server: ``python client.py URL AGENT``.

It requests the number of cases, runs each case on its own connection, and requests the reports.
"""

from __future__ import annotations

import sys

import trio

import trio_ws

# Case 9.1.6 echoes a message of 16 MiB; groups 12 and 13 are about compression.
OPTIONS = trio_ws.Options(max_message_size=64 * 1024 * 1024, compression=True)


async def run_case(url: str, agent: str, case: int) -> None:
    try:
        async with trio_ws.connect(f"{url}/runCase?case={case}&agent={agent}", options=OPTIONS) as ws:
            async for message in ws:
                await ws.send(message)
    except trio_ws.WebSocketError as error:
        # Many cases end with an error on purpose. The report judges the end.
        print(f"case {case}: {error}")


async def main(url: str, agent: str) -> None:
    async with trio_ws.connect(f"{url}/getCaseCount") as ws:
        count = int(await ws.receive_text())
    for case in range(1, count + 1):
        await run_case(url, agent, case)
    async with trio_ws.connect(f"{url}/updateReports?agent={agent}") as ws:
        async for _ in ws:
            pass


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
