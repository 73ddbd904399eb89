"""Every example runs as a process, and prints the output that a reader expects."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import trio

import trio_ws
from tests.support.serving import guard

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_echo_server_and_client() -> None:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "echo_server.py"), "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        uri = server.stdout.readline().split()[-1]
        lines = run("echo_client.py", uri, "hi", "there").splitlines()
        assert lines[:2] == ["hi", "there"]
        assert lines[2].startswith("ping took ")
        server.send_signal(signal.SIGINT)
        try:
            assert server.communicate(timeout=60)[0] == "drained\n"
        finally:
            server.kill()
        assert server.returncode == 0


def test_echo_client_says_why_it_cannot_connect() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "echo_client.py"), "ws://127.0.0.1:9/"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("could not reach 127.0.0.1:9")


def test_app() -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "app.py"), "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            trio.run(use_the_app, server.stdout.readline().split()[-1])
            server.send_signal(signal.SIGINT)
            assert server.communicate(timeout=60)[0] == "stopped by Ctrl+C\n"
        finally:
            server.kill()
        assert server.returncode == 0


async def use_the_app(uri: str) -> None:
    with trio.fail_after(guard()):
        async with trio_ws.connect(f"{uri}/rooms/7") as one, trio_ws.connect(f"{uri}/rooms/7") as two:
            await one.send("hi")
            assert await two.receive_text() == "hi"
            async with httpx.AsyncClient(base_url=uri.replace("ws", "http", 1)) as client:
                assert (await client.get("/healthz")).json() == {"ok": True}
                answer = await client.post("/api/rooms/7", json=["hear,", "hear"])
                assert answer.json() == {"reached": 2}
                assert (await client.post("/api/rooms/7", json="hear")).status_code == 400
            assert [await one.receive_text(), await two.receive_text()] == ["hear,\nhear"] * 2


def test_blocking() -> None:
    assert run("blocking.py").splitlines() == ["HELLO!", "THREADS!", "the client has gone"]


def test_tls() -> None:
    pytest.importorskip("trustme")
    first, second = run("tls.py").splitlines()
    assert first.startswith("you came over TLS to localhost:")
    assert second.startswith("refused: ")
    assert "CERTIFICATE_VERIFY_FAILED" in second


def test_ticker() -> None:
    assert run("ticker.py").splitlines() == [
        "tick 1",
        "tick 2",
        "tick 3",
        "the ticker ends, the client said 1000",
    ]


def test_proxy() -> None:
    assert run("proxy.py").splitlines() == ["HELLO", "closed with 4001: as you wish"]


def test_demo() -> None:
    output = run("demo.py")
    for said in (
        "received 'echo: hello'",
        "received 'echo: one message in four parts'",
        "Move(player='ada', x=3, y=4)",
        "received 'echo: hello from another library'",
        "add(20, 22) is 42",
        "took [0, 1, 2]",
        "add(20, 'many') is refused: b: Expected `int`, got `str`",
        "think() was cancelled",
        "cancelled after 0.3 s",
        "ada        received 'it snows' on 'news'",
        "bob        received 'it snows' on 'news'",
        "drained: 1 finished, 0 cancelled",
        "was told 1001: going away",
        "What to try next:",
        "docs/tutorial/index.md",
    ):
        assert said in output
    story, _, _ = output.partition("What to try next:")  # which names the folders of this installation
    assert max(map(len, story.splitlines())) <= 80


def test_the_demo_needs_the_package_alone() -> None:
    code = f"""
import runpy, sys
sys.modules["websockets"] = None  # as where it is not installed
runpy.run_path({str(EXAMPLES / "demo.py")!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert "another library" not in done.stdout
    assert "no task, no socket remains" in done.stdout


def test_asgi_app_under_hypercorn() -> None:
    async def use(port: int) -> None:
        with trio.fail_after(guard()):
            async with trio_ws.connect(f"ws://127.0.0.1:{port}/echo/ada") as ws:
                await ws.send("hello")
                assert await ws.receive_text() == "ada: hello"
            async with trio_ws.WebSocketClient(f"ws://127.0.0.1:{port}/rpc") as client:
                assert await client.call("add", 20, 22) == 42
                async with client.stream("count_to", 3, items=int) as numbers:
                    assert [number async for number in numbers] == [1, 2, 3]
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"http://127.0.0.1:{port}/healthz")).json()["ok"] is True

    command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, f"{EXAMPLES / 'asgi_app'}:app"], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            running = next(line for line in server.stderr if "Running on http://127.0.0.1:" in line)
            trio.run(use, int(running.split("127.0.0.1:")[1].split()[0]))
            server.send_signal(signal.SIGTERM)
            assert "Traceback" not in server.communicate(timeout=60)[1]
        finally:
            server.kill()
        assert server.returncode == 0
