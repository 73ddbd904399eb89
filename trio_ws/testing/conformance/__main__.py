"""``python -m trio_ws.testing.conformance COMMAND...``: test a client through its driver."""

from __future__ import annotations

import argparse
import sys

import trio

from trio_ws.testing.conformance.suite import SCENES, VARIABLE, Verdict, run_conformance


def tell(verdict: Verdict) -> None:
    """Print one line."""
    reason = f": {verdict.reason}" if verdict.reason else ""
    print(f"{verdict.outcome:8}{verdict.scene}{reason}", flush=True)  # noqa: T201


def main() -> int:
    """Run the suite and print the verdicts. Return 1 if a scene failed or none passed, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="python -m trio_ws.testing.conformance",
        description="Judge a client of trio-ws.v1 by its driver; see docs/protocol.md.",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help=f"the driver, which finds the suite's URL in ${VARIABLE}"
    )
    parser.add_argument(
        "--scene", action="append", default=[], help="part of the names of the scenes to play"
    )
    parser.add_argument("--port", type=int, default=0, help="where to listen; default any")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds for each step; default 10")
    parser.add_argument(
        "--startup", type=float, default=10.0, help="seconds until the driver has to say hello; default 10"
    )
    parser.add_argument("--list", action="store_true", help="list the scenes, and what passes them")
    options = parser.parse_args()
    if options.list:
        for scene in SCENES:
            needs = f" (needs {', '.join(scene.needs)})" if scene.needs else ""
            print(f"{scene.name}{needs}\n    {scene.text}")  # noqa: T201
        return 0

    async def play() -> list[Verdict]:
        async with trio.open_nursery() as nursery:
            found: list[Verdict] = []

            async def run(task_status: trio.TaskStatus[str]) -> None:
                found.extend(
                    await run_conformance(
                        options.command or None,
                        scenes=options.scene,
                        port=options.port,
                        patience=options.patience,
                        startup=options.startup,
                        tell=tell,
                        task_status=task_status,
                    )
                )

            url = await nursery.start(run)
            if not options.command:
                print(f"waiting for a driver at {url}", flush=True)  # noqa: T201
        return found

    verdicts = trio.run(play)
    counts = {name: sum(one.outcome == name for one in verdicts) for name in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {name}" for name, count in counts.items()))  # noqa: T201
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
