"""docs/tutorial: the commands and programs work as described."""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

import trio_ws
from tests.support.programs import STEPS, TUTORIAL, Folder, folders, printed
from tests.support.redis import redis_server
from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    yield from folders(tmp_path)


class Program:
    """A program that is spoken with by its input and output."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._kept = b""

    async def says(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        while b"\n" not in self._kept:
            chunk = await self.process.stdout.receive_some()
            assert chunk, "it has ended"
            self._kept += chunk
        line, self._kept = self._kept.split(b"\n", 1)
        return line.decode()

    async def hears(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())


@asynccontextmanager
async def started(folder: Folder, *args: str) -> AsyncIterator[Program]:
    process = await trio.lowlevel.open_process(
        folder.command(*args),
        cwd=folder.path,
        env=folder.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        with trio.fail_after(guard()):
            yield Program(process)
    finally:
        process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def test_echo(folder: Folder) -> None:
    folder.type("echo/chat.py", "echo/hello.py")
    async with folder.serving():
        done = await trio.to_thread.run_sync(folder.run, "hello.py")
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 0)


async def test_rooms(folder: Folder) -> None:
    folder.type("rooms/chat.py", "rooms/listen.py")
    async with folder.serving():
        async with started(folder, "listen.py", "cats", "hello") as ada:
            assert await ada.says() == "cats: hello"
            async with started(folder, "listen.py", "cats", "hello too") as bob:
                assert await ada.says() == "cats: hello too"
                assert await bob.says() == "cats: hello too"
        refused = await trio.to_thread.run_sync(folder.run, "listen.py", "birds", "hello")
        assert "HandshakeRejectedError" in refused.stderr
        assert "404" in refused.stderr


async def test_calls(folder: Folder) -> None:
    folder.type("calls/chat.py", "calls/try_calls.py")
    async with folder.serving():
        done = await trio.to_thread.run_sync(folder.run, "try_calls.py")
    assert done.stderr == ""
    expected = (TUTORIAL / "calls" / "try_calls.txt").read_text(encoding="utf-8")
    assert f"$ python try_calls.py\n{done.stdout}" == expected


async def test_a_client_that_comes_back(folder: Folder) -> None:
    folder.type("calls/chat.py", "calls/talk.py")
    async with started(folder, "talk.py", "cats", "ada") as ada:
        async with folder.serving():
            while await ada.says() != "[connected]":
                pass
            await ada.hears("meow\n")
            assert await ada.says() == "ada: meow"
        assert await ada.says() == "[waiting]"
        async with folder.serving():
            while await ada.says() != "[connected]":
                pass
            await ada.hears("purr\n")
            assert await ada.says() == "ada: purr"
            assert ada.process.stdin is not None
            await ada.process.stdin.aclose()
            assert await ada.process.wait() == 0


@pytest.mark.parametrize("step", STEPS)
def test_a_page_shows_the_files_as_they_are(step: str) -> None:
    files = printed(step)
    assert files
    for name, text in files.items():
        file = TUTORIAL / STEPS[step] / name
        assert text == file.read_text(encoding="utf-8"), f"{step}.md and {file} differ"


def test_a_code_host_shows_all_that_a_page_shows() -> None:
    pages = (TUTORIAL.parents[1] / "docs" / "tutorial").glob("*.md")
    included = [page.name for page in pages if "include}" in page.read_text(encoding="utf-8")]
    assert included == []


def test_the_pages_are_in_this_order() -> None:
    index = (TUTORIAL.parents[1] / "docs" / "tutorial" / "index.md").read_text(encoding="utf-8")
    assert index.split("```{toctree}\n")[1].split("```")[0].split() == list(STEPS)


async def test_the_tests_pass_after_each_step(folder: Folder) -> None:
    ran = 0
    for step in STEPS:
        folder.type_page(step)
        if (folder.path / "test_chat.py").exists():
            done = await trio.to_thread.run_sync(run_tests, folder)
            assert "5 passed" in done.stdout, f"after {step}:\n{done.stdout}"
            assert done.returncode == 0
            ran += 1
    assert ran == 3


async def test_tests_that_are_behind_fail_and_end(folder: Folder) -> None:
    for step in ("calls", "client", "testing"):
        folder.type_page(step)
    folder.type_page("page", "chat.py")
    done = await trio.to_thread.run_sync(run_tests, folder)
    assert "5 failed" in done.stdout, done.stdout
    assert "KeyError: 'room'" in done.stdout  # the log of the server
    assert "gave up after 20 such errors" in done.stdout
    assert done.returncode == 1


def run_tests(folder: Folder) -> subprocess.CompletedProcess[str]:
    return folder.run("-m", "pytest", "-q", "-p", "no:cacheprovider")


async def test_the_page_is_served(folder: Folder) -> None:
    folder.type("page/chat.py", "page/page.html")
    async with folder.serving():
        stream = await trio.open_tcp_stream("127.0.0.1", folder.port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            async for chunk in stream:
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/html" in head
        assert body == (folder.path / "page.html").read_bytes()


async def test_two_processes(tmp_path: Path) -> None:
    async with redis_server() as redis:
        for folder in folders(tmp_path, redis.port):
            folder.type("processes/chat.py", "page/page.html")
            async with folder.serving():
                # Redis stores no messages for a process that has not yet subscribed.
                while sum(" psub=1 " in line for line in await redis.clients()) < 2:
                    await trio.sleep(0.02)
                await everyone_hears_everyone(folder)


async def everyone_hears_everyone(folder: Folder) -> None:
    """Ten subscribers, so that each process has some: the kernel distributes them at random."""
    url = f"ws://127.0.0.1:{folder.port}/rooms/cats?name="
    heard = 0
    async with trio_ws.WebSocketClient(url + "ada") as ada, trio.open_nursery() as nursery:

        async def listen(number: int, *, task_status: trio.TaskStatus[None]) -> None:
            nonlocal heard
            async with trio_ws.WebSocketClient(f"{url}bob{number}") as bob:
                task_status.started()
                packet = await bob.recv()
                assert packet is not None
                assert packet.data == {"name": "ada", "text": "meow"}
                heard += 1

        for number in range(10):
            await nursery.start(listen, number)
        await ada.call("say", "meow")
    assert heard == 10
    # Each process has the messages of all processes.
    for number in range(10):
        async with trio_ws.WebSocketClient(f"{url}late{number}") as late:
            last = await late.call("last")
            while not last:  # a process without a listener may hear of it a moment later
                last = await late.call("last")
            assert last == [{"name": "ada", "text": "meow"}]
