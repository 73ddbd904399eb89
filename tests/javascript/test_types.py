"""The type declarations of the JavaScript client: correct programs compile, and wrong ones do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trio_ws
from tests.support.node import STATIC, install_client
from tests.support.npm import node, npm_package
from trio_ws import ClientConnection

HERE = Path(__file__).parent
PROGRAM = (HERE / "program.ts").read_text(encoding="utf-8").replace('"./api"', '"./api.js"')
API = (HERE / "api.ts").read_text(encoding="utf-8")


def errors_of(folder: Path, program: str, api: str = API) -> list[str]:
    """Return the errors of tsc for a program that imports a module of declarations."""
    install_client(folder)
    (folder / "api.ts").write_text(api, encoding="utf-8")
    (folder / "program.ts").write_text(program, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    return tsc(folder, "program.ts", "--module", "nodenext")


def tsc(folder: Path, program: str, *options: str) -> list[str]:
    """Return the errors of tsc for a program."""
    command = [node(), str(npm_package("typescript") / "bin" / "tsc"), "--strict", "--noEmit", "--types", ""]
    lib = ["--lib", "es2023,dom,dom.iterable,dom.asynciterable", "--target", "es2022"]
    done = subprocess.run(
        [*command, *lib, *options, program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    errors = done.stdout.splitlines()
    assert bool(errors) == bool(done.returncode), (done.stdout, done.stderr)
    return errors


def test_a_program_compiles(tmp_path: Path) -> None:
    assert errors_of(tmp_path, PROGRAM) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('{ item: "tea", count: 2 }', '{ item: "tea", cuont: 2 }'),
        ('{ item: "tea", count: 2 }', "{ count: 2 }"),
        ('{ item: "tea", count: 2 }', "{ item: 7 }"),
        ("const price: number", "const price: string"),
        ('"place", [1, "b"]', '"place", ["b", 1]'),
        ('client.call("names")', 'client.call("name")'),
        ('client.call("names")', 'client.call("countdown", { start: 3 })'),
        ('client.stream("countdown", { start: 3 })', 'client.stream("price", { item: "" })'),
        ("const number: number = left", "const number: string = left"),
        ("{ chunks: file }", '{ chunks: ["a"] }'),
        ("tea: Subscription<ChannelPacket<number> | Gap>", "tea: Subscription<ChannelPacket<string> | Gap>"),
        ("if (packet.gap) continue", ""),
        ("{ timeout: 5000 }", '{ timeout: "5 s" }'),
        ("call.call", "call.stream"),
        ("error.mayHaveRun satisfies boolean", "error.mayHaveRun satisfies string"),
        ("{ attempts: 3 }", "{ atempts: 3 }"),
    ],
)
def test_a_wrong_program_does_not(right: str, wrong: str, tmp_path: Path) -> None:
    assert PROGRAM.count(right) == 1
    assert errors_of(tmp_path, PROGRAM.replace(right, wrong)) != []


def test_with_the_types_of_a_handler(tmp_path: Path) -> None:
    """From the annotations of a method to a call that tsc checks."""

    class Shop(trio_ws.WebSocketHandler):
        channel_types = {"news": str}

        @trio_ws.rpc_method()
        def price(self, connection: ClientConnection, item: str, count: int = 1) -> float:
            return 2.5 * count

    api = trio_ws.Schema(Shop).typescript()
    program = """
    import { Client } from "trio-ws"
    import type { Channels, Methods } from "./api.js"
    export async function main(client: Client<Methods, Channels>): Promise<number> {
      for await (const { data } of await client.subscribe("news")) console.log(data.length)
      return await client.call("price", { item: "tea" })
    }
    """
    assert errors_of(tmp_path, program, api) == []


@pytest.mark.parametrize(
    ("folder", "name", "mistakes"),
    [
        (
            "browser",
            "shop.js",
            {'"price", order': '"price", { itme: "tea" }', "start: 100": "start: '100'"},
        ),
        (
            "first_page",
            "page.js",
            {"item:": "itme:", "count: 3": "count: '3'", "price.toFixed": "price.trim"},
        ),
    ],
)
def test_the_examples_are_checked_without_a_build(
    folder: str, name: str, mistakes: dict[str, str], tmp_path: Path
) -> None:
    """docs/how-to/browser.md: JavaScript with comments, beside what ``trio-ws types`` writes."""
    example = HERE.parents[1] / "examples" / folder
    said = subprocess.run(
        [sys.executable, "-m", "trio_ws", "types", "app:app"],
        cwd=example,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    script = (example / name).read_text(encoding="utf-8")
    install_client(tmp_path)

    def check(text: str) -> list[str]:
        (tmp_path / "api.ts").write_text(said.stdout, encoding="utf-8")
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tsc(tmp_path, name, "--allowJs", "--checkJs", "--module", "esnext")

    assert check(script) == []
    for right, wrong in mistakes.items():
        assert check(script.replace(right, wrong)) != []


def test_the_declarations_name_what_the_module_exports() -> None:
    module = (STATIC / "trio-ws.js").read_text(encoding="utf-8")
    declared = (STATIC / "trio-ws.d.ts").read_text(encoding="utf-8")
    pattern = r"^export (?:const|class|(?:async )?function\*?) (\w+)"
    assert sorted(re.findall(pattern, declared, re.MULTILINE)) == sorted(
        re.findall(pattern, module, re.MULTILINE)
    )
