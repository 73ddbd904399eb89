"""The conformance suite: our clients pass it, and clients that break a rule do not."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.chromium import chromium
from tests.support.node import ROOT, install_client, node_command
from tests.support.npm import CACHE, npm_package
from tests.support.serving import guard, serving
from trio_ws import App, HTTPResponse, Request, connect
from trio_ws.testing.conformance import SCENES, Verdict, run_conformance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DRIVER = ROOT / "clients" / "js" / "conformance.mjs"


async def judge(
    command: Sequence[str], scene: str | None = None, *, patience: float = 20, startup: float = 60
) -> list[Verdict]:
    scenes = [scene] if scene else []
    with trio.fail_after(6 * guard()):
        return await run_conformance(command, scenes=scenes, patience=patience, startup=startup)


def assert_all_passed(verdicts: list[Verdict]) -> None:
    assert [one for one in verdicts if one.outcome != "passed"] == []
    assert len(verdicts) == len(SCENES)


def test_scenes_have_names_and_say_what_passes_them() -> None:
    assert len(SCENES) > 40
    assert len({scene.name for scene in SCENES}) == len(SCENES)
    assert [scene.name for scene in SCENES if not scene.text] == []


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "trio-ws.v1.json"])
async def test_our_client_passes(dialect: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "trio_ws.testing.conformance.driver", dialect]
    assert_all_passed(await judge(command))


def node_driver(folder: Path, *changes: tuple[str, str]) -> list[str]:
    """The command of the driver in Node, with a client that has these changes."""
    command = node_command()
    install_client(folder)
    (folder / DRIVER.name).write_bytes(DRIVER.read_bytes())
    module = folder / "node_modules" / "trio-ws" / "trio-ws.js"
    source = module.read_text(encoding="utf-8")
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    module.write_text(source, encoding="utf-8")
    return [*command, str(folder / DRIVER.name)]


async def test_the_javascript_client_passes_in_node(tmp_path: Path) -> None:
    assert_all_passed(await judge(node_driver(tmp_path)))


@pytest.mark.parametrize(
    ("name", "program", "arguments"),
    [
        ("bun", "@oven/bun-*/bin/bun", ["run"]),
        ("deno", "@deno/*/deno", ["run", "--allow-all", "--no-check", "--node-modules-dir=manual"]),
    ],
)
async def test_the_javascript_client_passes_in_other_runtimes(
    name: str, program: str, arguments: list[str], tmp_path: Path
) -> None:
    npm_package(name)
    programs = sorted((CACHE / "node_modules").glob(program))
    if not programs:
        pytest.skip(f"the npm package {name} has no program for this system")
    assert_all_passed(await judge([str(programs[0]), *arguments, node_driver(tmp_path)[-1]]))


PAGE = """<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{"imports": {"trio-ws": "/trio-ws.js"}}</script>
<script type="module" src="/conformance.mjs"></script>"""


async def test_the_javascript_client_passes_in_chromium(tmp_path: Path) -> None:
    app = App()
    app.mount_client()

    @app.http("/")
    async def page(request: Request) -> HTTPResponse:
        return HTTPResponse(headers={"Content-Type": "text/html"}, body=PAGE)

    @app.http("/conformance.mjs")
    async def driver(request: Request) -> HTTPResponse:
        return HTTPResponse(headers={"Content-Type": "text/javascript"}, body=DRIVER.read_bytes())

    verdicts: list[Verdict] = []

    async def run(task_status: trio.TaskStatus[str]) -> None:
        verdicts.extend(await run_conformance(patience=20, task_status=task_status))

    with trio.fail_after(4 * guard()):
        async with chromium(tmp_path) as browser, serving(app) as server, trio.open_nursery() as nursery:
            url = await nursery.start(run)
            await browser.open(f"{server.url.replace('ws', 'http', 1)}/#{url}")
    assert_all_passed(verdicts)


#: What breaks a rule, and the scene that finds it.
BROKEN = {
    "no aborts": ("cancelling a call", 'this.session?.tell("__abort__", [this.id])', ""),
    "milliseconds": ("deadlines travel", "performance.now()) / 1000)", "performance.now()))"),
    "a deadline of nobody": ("a deadline passes", "ms < Infinity ?", "false ?"),
    "characters for bytes": ("bytes are counted", "if (unit > 0x7f) size +=", "if (false) size +="),
    "credit without end": (
        "a paused consumer",
        "this._put(rpc.response, utf8Size(message))",
        'this._put(rpc.response, 0), this._source.session.tell("__credit__", [this._source.id, 1])',
    ),
    "credit that never comes": (
        "a paused consumer",
        'session.tell("__credit__", [id, this._due]',
        "void ([id]",
    ),
    "items taken as they come": ("items beyond the credit", "--this._credits < 0", "false"),
    "uploads without credit": ("an upload", "this.credits--", ""),
    "uploads without a count of bytes": ("upload counts bytes", "this.bytes -= utf8Size(message)", ""),
    "uploads that go on": (
        "the answer ends uploads",
        "      this.session.uploads.delete(upload.id)\n      upload.stop()\n",
        "",
    ),
    "a method that is not cancelled": ("the server cancels", "this.aborter.abort(", "void ("),
    "no deadline here": ("the servers deadline", "if (seconds == null) return", "return"),
    "ids twice": ("an id that is in use", "this.running.get(call_id)", "false"),
    "not nested": ("nested calls", "nested = true", "nested = false"),
    "all properties are methods": (
        "errors of the clients",
        "!Object.hasOwn(methods, method)",
        "!(method in methods)",
    ),
    "everything may have run": ("going away", "!this.begun || this.begun.has(id)", "true"),
    "subscriptions are forgotten": (
        "subscriptions come back",
        "for (const subscription of this._subscriptions) subscription._ask(session)",
        "",
    ),
    "packets twice": ("packets that come twice", "this.distance(position) <= 0) return false", "0) return 0"),
    "packets too early": ("packets that come twice", "if (this.waiting || this", "if (this"),
    "no gaps": ("gaps between connections", "if (!continues && ", "if (false && "),
    "gaps of a newest value": ("gaps between connections", "missing === 0", "missing >= 0"),
    "positions are forgotten": ("nothing is missed", "{ after: this.position }", "{}"),
    "globs are names": ("globs", "if (/[*?[]/.test(name))", "if (false)"),
    "anything is a packet": ("what is no packet", 'throw new TypeError("not a packet")', ";"),
    "calls that hang": ("a lost connection", "session?.lost(event)", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
async def test_a_client_that_breaks_a_rule_fails(what: str, tmp_path: Path) -> None:
    scene, old, new = BROKEN[what]
    verdicts = await judge(node_driver(tmp_path, (old, new)), scene, patience=1)
    assert {one.scene for one in verdicts} <= {one.name for one in SCENES}
    assert "failed" in [one.outcome for one in verdicts]
    assert [one.reason for one in verdicts if one.outcome == "failed" and not one.reason] == []


async def test_missing_features_are_skipped_and_an_ended_driver_is_reported() -> None:
    verdicts: list[Verdict] = []

    async def run(task_status: trio.TaskStatus[str]) -> None:
        verdicts.extend(
            await run_conformance(scenes=["an upload", "call by"], patience=5, task_status=task_status)
        )

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(run)
            async with connect(url) as control:
                await control.send_json({"client": "none", "lacks": ["uploads"]})
                assert (await control.receive_json())["do"] == "open"
    by_outcome = {
        outcome: [one for one in verdicts if one.outcome == outcome] for outcome in ("skipped", "failed")
    }
    assert {one.reason for one in by_outcome["skipped"]} == {"the client has no uploads"}
    assert [one.scene for one in by_outcome["failed"]] == ["call by position", "call by name"]
    assert len(verdicts) == sum(map(len, by_outcome.values()))


async def test_without_a_driver_there_is_a_verdict() -> None:
    verdicts = await judge([sys.executable, "-c", "pass"], "call by", startup=0.2)
    assert [(one.scene, one.outcome) for one in verdicts] == [("driver", "failed")]


async def test_a_scene_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no scene has a name with 'no such'"):
        await run_conformance(scenes=["no such"])


def test_the_command() -> None:
    command = [sys.executable, "-W", "error", "-m", "trio_ws.testing.conformance"]
    driver = [sys.executable, "-m", "trio_ws.testing.conformance.driver"]
    done = subprocess.run(
        [*command, "--scene", "call by", *driver], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "passed  call by position",
        "passed  call by name",
        "2 passed, 0 failed, 0 skipped",
    ]
    done = subprocess.run(
        [*command, "--startup", "0.2", "--scene", "call by", sys.executable, "-c", "pass"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "failed  driver: no driver has said hello" in done.stdout
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True, timeout=60)
    assert "call by position\n    Send arguments in order" in listed.stdout
