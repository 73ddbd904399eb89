"""TypeScript: the generated module compiles with a correct program, and not with a wrong one."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pytest

import trio_ws
from tests.schema import shop
from tests.support.npm import CACHE, node, npm_package
from trio_ws import ClientConnection

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import type { ChannelData, Channels, Item, Methods, Order } from "./api";

declare const api: Methods;

export async function main(): Promise<void> {
  const order: Order = await api.buy({ order: { item: "tea", notes: { a: null } }, when: null });
  const count: number | undefined = order.count;
  for await (const item of api.watch({ name: "tea" })) {
    const price: number = item.price;
    const parts: Item[] | undefined = item.parts;
    const color: "red" | "blue" | undefined = item.color;
  }
  async function* numbers() { yield 1; yield 2; }
  const total: number = await api["stock.total"]({ numbers: numbers(), scale: 2 });
  const [a, b, c]: [number, string, null] = await api.places([1, "b", 3, 4]);
  const point = (await api.names({ a: 1, other: "x", more: null }))["1"];
  await api.names();
  const pets = await api.pet({ pet: { type: "cat", lives: 9 }, mode: 1, raw: "AA==" });
  for (const pet of pets) if (pet !== null && pet.type === "cat") { const lives: number = pet.lives; }
  await api.ping();
  const news: Channels["news"] = "hello";
  const gold: ChannelData<"prices.gold"> = 1.5;
  const tea: ChannelData<"prices.tea"> = { name: "tea", price: 1 };
  const other: ChannelData<"weather"> = 7 as unknown;
}
"""


class Compiler:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = [node(), str(npm_package("typescript") / "bin" / "tsc")]

    def run(self, declarations: str, program: str) -> list[str]:
        """Return the errors of tsc for a program that imports a module of declarations."""
        (self._folder / "api.ts").write_text(declarations)
        (self._folder / "program.ts").write_text(program)
        options = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022", "--types", ""]
        done = subprocess.run(
            [*self._command, *options, "program.ts"],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        errors = done.stdout.splitlines()
        assert bool(errors) == bool(done.returncode), (done.stdout, done.stderr)
        return errors


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    assert CACHE.name == "peers"
    return Compiler(tmp_path)


def test_a_program_compiles(compiler: Compiler) -> None:
    assert compiler.run(trio_ws.Schema(shop.Shop).typescript(), PROGRAM) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('item: "tea",', "item: 7,"),
        ('{ name: "tea" })', "{})"),
        ('{ name: "tea" })', '{ name: "tea", limt: 7 })'),
        ("const price: number", "const price: string"),
        ('[1, "b", 3, 4]', '[1, 2, "b"]'),
        ('"cat", lives: 9', '"cow", lives: 9'),
        ("mode: 1", "mode: 2"),
        ('"hello"', "7"),
        ("1.5", '"1.5"'),
        ("numbers: numbers()", "numbers: [1, 2]"),
    ],
)
def test_a_wrong_program_does_not(compiler: Compiler, right: str, wrong: str) -> None:
    assert PROGRAM.count(right) == 1
    assert compiler.run(trio_ws.Schema(shop.Shop).typescript(), PROGRAM.replace(right, wrong)) != []


def test_a_parameter_that_changes_its_type_is_noticed(compiler: Compiler) -> None:
    class Before(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method()
        def add(self, connection: ClientConnection, a: int, b: int) -> int:
            return a + b

    class After(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method()
        def add(self, connection: ClientConnection, a: int, b: str) -> int:
            return a + int(b)

    program = """
    import type { Methods } from "./api";
    export const sum = (api: Methods): Promise<number> => api.add({ a: 1, b: 2 });
    """
    assert compiler.run(trio_ws.Schema(Before).typescript(), program) == []
    errors = compiler.run(trio_ws.Schema(After).typescript(), program)
    assert len(errors) >= 1
    assert "Type 'number' is not assignable to type 'string'" in "\n".join(errors)


def test_several_handlers_have_names_of_their_own(compiler: Compiler) -> None:
    program = """
    import type { ShopChannels, ShopMethods, TillMethods } from "./api";
    export async function main(shop: ShopMethods, till: TillMethods): Promise<number> {
      const news: ShopChannels["news"] = "";
      for await (const item of shop.watch({ name: news })) return till.pay({ items: [item] });
      return 0;
    }
    """
    assert compiler.run(trio_ws.Schema(shop.app).typescript(), program) == []


class Promise(msgspec.Struct):
    """A type whose name is taken, with a comment that would end */ its own."""

    delete: int
    with_default: Annotated[str, msgspec.Meta(description="two\nlines")] = "x"


class Methods(msgspec.Struct, rename=lambda name: f"{name}-name"):
    default: Promise | None


class Odd(trio_ws.WebSocketHandler):
    channel_types = {"a`${b}\\*": int, "[ab]?": bytes, "no-identifier": Any}

    @trio_ws.rpc_method("user.délete")
    def first(self, connection: ClientConnection, new: Methods, /, *function: Promise) -> frozenset[int]:
        return frozenset()

    @trio_ws.rpc_method()
    def delete(self, connection: ClientConnection, /, default: int, **more: Any) -> list[tuple[int, ...]]:
        """Delete. /* */ @see nobody"""
        return []


def test_names_that_are_taken_and_text_that_has_a_meaning(compiler: Compiler) -> None:
    program = """
    import type { ChannelData, Methods, Methods2, Promise2 } from "./api";
    export async function main(api: Methods): Promise<void> {
      const inner: Promise2 = { delete: 1 };
      const outer: Methods2 = { "default-name": inner };
      const numbers: number[] = await api["user.d\\u00e9lete"]([outer, inner, inner]);
      const rows: number[][] = await api.delete({ default: 1, any: "thing" });
      const one: ChannelData<"a`${b}\\\\xyz"> = 1;
      const two: ChannelData<"xy"> = "AA==";
    }
    """
    assert compiler.run(trio_ws.Schema(Odd).typescript(), program) == []


def test_methods_that_typescript_cannot_describe() -> None:
    class Both(trio_ws.WebSocketHandler):
        @trio_ws.rpc_method()
        def both(self, connection: ClientConnection, a: int, /, *, b: int) -> None: ...

    schema = trio_ws.Schema(Both)
    assert schema.openrpc()["methods"][0]["paramStructure"] == "by-position"
    with pytest.raises(ValueError, match="'both' has positional-only parameters and requires 'b' by name"):
        schema.typescript()
