"""The commands ``schema`` and ``types``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import trio_ws
from tests.schema import shop
from tests.support.commands import run_program
from trio_ws.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def test_schema_as_a_process() -> None:
    done = run_program(
        "schema", "tests.schema.shop:Shop", "--version", "2.0", "--url", "wss://example.com/shop"
    )
    assert (done.stderr, done.returncode) == ("", 0)
    document = json.loads(done.stdout)
    assert document == trio_ws.Schema(shop.Shop).openrpc(version="2.0", url="wss://example.com/shop")


def test_types_as_a_process() -> None:
    done = run_program("types", "tests.schema.shop:app")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == trio_ws.Schema(shop.app).typescript().rstrip("\n") + "\n"


def test_asyncapi(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--format", "asyncapi", "--title", "All", "--url", "ws://localhost:1"]
    assert main(["schema", "tests.schema.shop:app", *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["info"] == {"title": "All", "version": "1.0.0"}
    assert document["servers"]["Shop"]["host"] == "localhost:1"


def test_the_handler_of_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "tests.schema.shop:app", "--path", "/tills/{number:int}"]) == 0
    assert json.loads(capsys.readouterr().out)["info"]["title"] == "Till"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["schema", "tests.schema.shop:app"], "give the path of one of /shop, /tills/{number:int}"),
        (["schema", "tests.schema.shop:app", "--path", "/x"], "there is no handler at '/x'"),
        (
            ["schema", "tests.schema.shop:app", "--format", "asyncapi", "--path", "/shop"],
            "--path is for OpenRPC",
        ),
        (["schema", "tests.schema.shop:Item"], "a schema is of an App or a WebSocketHandler"),
        (["types", "tests.schema.shop"], "import string such as 'chat:app'"),
        (["types", "tests.schema.shop:nothing"], "has no 'nothing'"),
    ],
)
def test_targets_without_a_schema(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


def test_a_target_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "api.py").write_text(
        "import trio_ws\n"
        "class API(trio_ws.WebSocketHandler):\n"
        "    @trio_ws.rpc_method('a b')\n"
        "    def f(self, connection): ...\n"
    )
    done = run_program("types", "api:API", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr.startswith("trio-ws: api:API: API: the method name 'a b' must be an identifier")
