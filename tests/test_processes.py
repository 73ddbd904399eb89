"""serve_processes with real processes: sharing the port, restarts, renewals, draining, and the end."""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support import worker_targets
from tests.support.serving import request
from tests.support.watching import until
from trio_ws.server.processes import supervisor as supervisor_module
from trio_ws.server.processes.supervisor import pause_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio_ws import ProcessGroup, WebSocket

pytestmark = pytest.mark.usefixtures("measured")

ROOT = Path(__file__).parents[1]
PID = "tests.support.worker_targets:pid"
STUBBORN = "tests.support.worker_targets:stubborn"
#: Seconds after which a test counts as hung: it starts up to ten interpreters, on a machine that may be busy.
GUARD = 120
#: Enough clients to reach every worker, however unevenly the kernel wakes them.
MANY = 2000


@pytest.fixture(autouse=True)
def usual_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reset SIGHUP, which may be ignored in this environment, and let workers write no bytecode."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@asynccontextmanager
async def running(target: object = PID, workers: int = 1, **kwargs: Any) -> AsyncIterator[ProcessGroup]:
    """Run a group in this process, and drain it at the end of the block."""
    kwargs.setdefault("host", "127.0.0.1")
    serve = functools.partial(trio_ws.serve_processes, target, 0, workers=workers, **kwargs)
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


async def start(target: object, port: int = 0, **kwargs: Any) -> None:
    """Start a group that is expected to fail before it serves."""
    with trio.fail_after(GUARD):
        await trio_ws.serve_processes(target, port, **{"host": "127.0.0.1", "workers": 1, **kwargs})


@asynccontextmanager
async def program(target: str = PID, workers: int = 2) -> AsyncIterator[tuple[trio.Process, dict[str, Any]]]:
    """Run a group in another process, and yield the process and its report."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.support.group_program", target, str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(GUARD):
            line = bytearray()
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, "it ended instead"
                line += piece
            yield process, json.loads(line)
    finally:
        process.kill()  # the workers see that
        with trio.CancelScope(shield=True):
            await process.wait()
            with trio.move_on_after(30):
                await read_all(process.stdout)
        await process.stdout.aclose()
        if process.stderr is not None:
            await process.stderr.aclose()


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def said(process: trio.Process, text: bytes) -> None:
    """Wait until a program's log has it."""
    assert process.stderr is not None
    log = bytearray()
    while text not in log:
        piece = await process.stderr.receive_some()
        assert piece, log.decode()
        log += piece


@contextmanager
def writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the path of a module that workers can import as ``written``."""
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder / "written.py"
    sys.modules.pop("written", None)


VERSIONED = """
VERSION = {}
async def serve(ws):
    await ws.send(f"{{VERSION}}")
    await ws.recv()
"""
IN_WORKER = "from trio_ws.server.processes import control\nif control.in_worker:\n    "


async def pid_of(ws: WebSocket) -> int:
    return int(await ws.receive_text())


async def connect_to_another(url: str, known: set[int], nursery: trio.Nursery) -> tuple[int, WebSocket]:
    """Connect until a process answers that is not known; its connection stays open in the nursery."""
    for _ in range(MANY):
        ws: WebSocket = await nursery.start(hold, url)
        pid = await pid_of(ws)
        if pid not in known:
            return pid, ws
        await ws.close()
    raise AssertionError(f"none but {known} in {MANY} connections")


async def hold(url: str, *, task_status: trio.TaskStatus[WebSocket]) -> None:
    async with trio_ws.connect(url) as ws:
        task_status.started(ws)
        await ws.wait_closed()


async def closed_with(ws: WebSocket) -> int | None:
    """Return the close code of a connection that receives no more messages."""
    with pytest.raises(trio_ws.ConnectionClosedError) as caught:
        await ws.receive_text()
    return caught.value.code


async def expect_1001(ws: WebSocket) -> None:
    assert await closed_with(ws) == 1001


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def no_more_files_than(count: int) -> Iterator[None]:
    """Let this process open at most this number of additional files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as files:
        for _ in range(count):
            files.enter_context(Path(os.devnull).open())
        lowest = os.dup(0)
        os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# -- serving ------------------------------------------------------------------------------------------


async def test_workers_share_a_port_and_one_that_is_killed_comes_back_while_the_others_serve() -> None:
    async with trio.open_nursery() as clients:
        async with running(workers=2) as group:
            assert group.url == f"ws://127.0.0.1:{group.port}"
            pids = {worker.pid for worker in group.workers}
            assert len(pids) == 2
            assert [worker.restarts for worker in group.workers] == [0, 0]
            assert all(worker.ready for worker in group.workers)
            first, one = await connect_to_another(group.url, set(), clients)
            second, other = await connect_to_another(group.url, {first}, clients)
            assert {first, second} == pids

            os.kill(first, signal.SIGKILL)
            with pytest.raises(trio_ws.ConnectionClosedError):
                await one.receive_text()
            # Each of these connections succeeds, whether or not the killed worker was replaced.
            third, new = await connect_to_another(group.url, pids, clients)
            assert {worker.pid for worker in group.workers} == {second, third}
            assert sorted(worker.restarts for worker in group.workers) == [0, 1]
            await other.send("still here")
            assert await other.receive_text() == "still here"
        assert await closed_with(other) == await closed_with(new) == 1001
        assert not any(runs(pid) for pid in (first, second, third))
    with pytest.raises(trio_ws.ConnectionFailedError):
        async with trio_ws.connect(group.url):
            pass


async def test_clients_are_divided_evenly_also_after_a_worker_was_replaced() -> None:
    async with trio.open_nursery() as clients:
        async with running(workers=3) as group:

            async def connect(count: int) -> Counter[int]:
                return Counter([await pid_of(await clients.start(hold, group.url)) for _ in range(count)])

            held = await connect(60)
            assert set(held) == {worker.pid for worker in group.workers}
            # On a busy machine one may be kept from running for 10 ms, and miss a client.
            assert min(held.values()) > 5, held
            killed = min(held)
            os.kill(killed, signal.SIGKILL)
            await until(lambda: killed not in {worker.pid for worker in group.workers if worker.ready})
            await until(lambda: all(worker.ready for worker in group.workers))
            held.pop(killed)
            (successor,) = {worker.pid for worker in group.workers} - set(held)
            more = await connect(18)
            assert more[successor] == max(more.values()), more  # it has none of the others' 40


async def test_clients_do_not_depend_on_a_worker_that_is_stuck() -> None:
    async with trio.open_nursery() as clients:
        async with running(workers=2) as group:
            stuck, other = (worker.pid for worker in group.workers)
            os.kill(stuck, signal.SIGSTOP)
            try:
                for _ in range(30):
                    assert await pid_of(await clients.start(hold, group.url)) == other
            finally:
                os.kill(stuck, signal.SIGCONT)


async def test_sigterm_drains_and_no_process_remains() -> None:
    async with program() as (process, group), trio.open_nursery() as clients:
        first, one = await connect_to_another(group["url"], set(), clients)
        _, other = await connect_to_another(group["url"], {first}, clients)
        process.send_signal(signal.SIGTERM)
        assert await closed_with(one) == await closed_with(other) == 1001
        assert await process.wait() == 0
        assert not any(runs(pid) for pid in group["pids"])
        assert process.stdout is not None
        assert await read_all(process.stdout) == b""


async def test_a_worker_leaves_nothing_open(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    async with running() as group:
        async with trio_ws.connect(group.url) as ws:
            await ws.receive_text()
    assert "ResourceWarning" not in capfd.readouterr().err


async def test_ctrl_c_in_a_terminal_drains_all_processes() -> None:
    async with program(workers=1) as (process, group), trio.open_nursery() as clients:
        _, ws = await connect_to_another(group["url"], set(), clients)
        for pid in group["pids"]:
            os.kill(pid, signal.SIGINT)
        await ws.send("no harm")
        assert await ws.receive_text() == "no harm"
        process.send_signal(signal.SIGINT)
        assert await closed_with(ws) == 1001
        assert await process.wait() == 0
        assert process.stderr is not None
        assert b"Traceback" not in await read_all(process.stderr)


async def test_workers_end_when_their_parent_is_killed() -> None:
    async with program(workers=1) as (process, group), trio.open_nursery() as clients:
        _, ws = await connect_to_another(group["url"], set(), clients)
        process.kill()
        assert await closed_with(ws) == 1001
        assert process.stdout is not None
        assert await read_all(process.stdout) == b""  # it ends when the last worker has ended
        with pytest.raises(trio_ws.ConnectionFailedError):
            async with trio_ws.connect(group["url"]):
                pass


async def test_a_second_signal_kills_workers_that_take_their_time() -> None:
    async with program(STUBBORN, 1) as (process, group), trio.open_nursery() as clients:
        _, ws = await connect_to_another(group["url"], set(), clients)
        process.send_signal(signal.SIGTERM)
        await said(process, b"draining 1 workers")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert not runs(group["pids"][0])
        assert await closed_with(ws) in {1001, 1006}


async def test_a_worker_that_does_not_end_in_its_time_is_killed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "_MARGIN", 0.0)
    options = trio_ws.Options(drain_timeout=0.1, close_timeout=0.1)
    async with trio.open_nursery() as clients:
        async with running(STUBBORN, options=options) as group:
            await connect_to_another(group.url, set(), clients)
        clients.cancel_scope.cancel()
    assert "did not exit in time; killing it" in caplog.text
    assert not runs(group.workers[0].pid)


async def test_sigterm_to_one_worker_drains_and_replaces_it(caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as clients, running() as group:
        first, ws = await connect_to_another(group.url, set(), clients)
        os.kill(first, signal.SIGTERM)
        assert await closed_with(ws) == 1001
        await connect_to_another(group.url, {first}, clients)
        assert [worker.restarts for worker in group.workers] == [1]
        assert f"worker {first} ended (exit code 0)" in caplog.text


async def test_sighup_replaces_the_workers_one_after_another_and_refuses_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(tmp_path, monkeypatch) as module:
        module.write_text(VERSIONED.format(1))
        async with trio.open_nursery() as clients, running("written:serve", workers=2) as group:
            old = {worker.pid for worker in group.workers}
            _, ws = await connect_to_another(group.url, set(), clients)
            clients.start_soon(expect_1001, ws)
            module.write_text(VERSIONED.format(22))
            os.kill(os.getpid(), signal.SIGHUP)
            versions = set()
            while any(runs(pid) for pid in old):
                async with trio_ws.connect(group.url) as each:
                    versions.add(await pid_of(each))
            assert 1 in versions
            async with trio_ws.connect(group.url) as each:
                assert await pid_of(each) == 22
            assert not old & {worker.pid for worker in group.workers}
            assert [worker.restarts for worker in group.workers] == [0, 0]

            new = group.workers
            module.write_text(IN_WORKER + "raise ValueError('a mistake')\n")
            os.kill(os.getpid(), signal.SIGHUP)
            while "are not replaced" not in caplog.text:
                async with trio_ws.connect(group.url) as each:
                    assert await pid_of(each) == 22
            assert "ValueError: a mistake; worker" in caplog.text
            assert group.workers == new


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with running(unix_path=path, host=None) as group:
        assert group.url == "ws://localhost/"
        with pytest.raises(RuntimeError, match="no TCP port"):
            _ = group.port
        async with trio_ws.connect(group.url, stream=await trio.open_unix_socket(path)) as ws:
            assert await pid_of(ws) == group.workers[0].pid
    assert not path.exists()


async def test_by_default_only_this_machine_is_served_by_its_own_names() -> None:
    async with running(host=None) as group:
        assert group.url == f"ws://localhost:{group.port}"
        for name, status in (("localhost", b"101"), ("evil.example", b"403")):
            page = request(f"Host: {name}", f"Origin: http://{name}", leave_out=["host"])
            for address in ("127.0.0.1", "::1"):
                async with await trio.open_tcp_stream(address, group.port) as stream:
                    await stream.send_all(page)
                    assert (await stream.receive_some())[9:12] == status


async def test_a_handler_class_over_tls_from_a_certificate_file(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with running(worker_targets.Calls, ssl_certfile=certificate, ssl_keyfile=key) as group:
        assert group.url.startswith("wss://")
        async with trio_ws.WebSocketClient(group.url, ssl_context=context) as client:
            assert await client.call("pid", returns=int) == group.workers[0].pid
        assert repr(group) == f"<ProcessGroup {group.url} [{group.workers[0].pid}]>"


def test_without_a_guard_a_worker_does_not_start_workers(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import trio, trio_ws\nasync def echo(ws):\n    await ws.accept()\n"
        "trio.run(trio_ws.serve_processes, echo, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "WorkerError" in done.stderr
    assert 'put the call under: if __name__ == "__main__":' in done.stderr


async def test_a_worker_that_cannot_be_replaced_for_want_of_files_is_replaced_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as group:
        first = group.workers[0].pid
        with no_more_files_than(0):
            os.kill(first, signal.SIGKILL)
            await until(lambda: "cannot start a worker: [Errno 24]" in caplog.text)
            assert group.workers == ((first, False, 1),)
        async with trio_ws.connect(group.url) as ws:
            pid = await pid_of(ws)
            await until(lambda: group.workers == ((pid, True, 1),))


async def test_without_the_main_thread_there_are_no_signals_and_cancelling_drains() -> None:
    def run() -> int:
        async def main() -> int:
            async with running() as group:
                return group.workers[0].pid

        return trio.run(main)

    assert not runs(await trio.to_thread.run_sync(run))


# -- failures before serving --------------------------------------------------------------------------


async def test_a_worker_that_says_why_it_cannot_start_ends_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(tmp_path, monkeypatch) as module:
        module.write_text(IN_WORKER + "raise ValueError('no\\ndatabase')\nasync def serve(ws): ...\n")
        with pytest.raises(trio_ws.WorkerError, match=r"exit code 1.: ValueError: no database$") as caught:
            await start("written:serve", workers=2)
    assert caught.value.exit_code == 1


async def test_workers_that_die_at_once_are_not_started_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(tmp_path, monkeypatch) as module:
        module.write_text(IN_WORKER + "import os; os._exit(3)\nasync def serve(ws): ...\n")
        with pytest.raises(
            trio_ws.WorkerError, match=r"did not start .exit code 3.: no reason given"
        ) as caught:
            await start("written:serve")
    assert caught.value.exit_code == 3
    assert caplog.text.count("did not start") == 2  # the third is the error


async def test_a_worker_that_does_not_become_ready_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(tmp_path, monkeypatch) as module:
        module.write_text(
            IN_WORKER + "import threading; threading.Event().wait()\nasync def serve(ws): ...\n"
        )
        with pytest.raises(trio_ws.WorkerError, match=r"killed by SIGKILL.: was not ready after 0.5 seconds"):
            await start("written:serve", start_timeout=0.5)


async def test_a_port_in_use() -> None:
    async with trio_ws.WebSocketServer(port=0, host="127.0.0.1") as server:
        with pytest.raises(OSError, match="in use") as caught:
            await start(PID, port=server.port)
    assert caught.value.errno == errno.EADDRINUSE


async def test_no_files_for_a_process() -> None:
    with no_more_files_than(1):  # for the listener
        with pytest.raises(OSError, match="Too many open files"):
            await start(PID)


@pytest.mark.parametrize(
    ("target", "error", "text"),
    [
        ("tests.support.worker_targets", ValueError, "an import string such as 'chat:app'"),
        ("no_such_module:app", ImportError, "there is no module 'no_such_module' in sys.path"),
        (
            "tests.support.worker_targets:nothing",
            ImportError,
            "'tests.support.worker_targets' has no 'nothing'",
        ),
        ("tests.support.worker_targets:NUMBER", TypeError, "not 7"),
        (object(), TypeError, "use an import string"),
        (7, TypeError, "use an import string"),
    ],
)
async def test_a_target_that_workers_could_not_import(
    target: object, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await start(target)


async def test_exceptions_of_a_module_are_raised_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(tmp_path, monkeypatch) as module:
        module.write_text("1 / 0\n")
        with pytest.raises(ZeroDivisionError):
            await start("written:serve")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"workers": 0}, ValueError, "workers must be 1 or more, not 0"),
        ({"workers": True}, TypeError, "workers must be an int, not bool"),
        ({"port": 70000}, ValueError, "port must be from 0 to 65535"),
        ({"start_timeout": 0}, ValueError, "start_timeout must be above 0 seconds"),
        ({"broker": object()}, TypeError, "broker is sent to other processes"),
        ({"ssl_context": worker_targets.CONTEXT}, TypeError, "an import string"),
        ({"ssl_context": "a:b", "ssl_certfile": "c"}, ValueError, "mutually exclusive"),
        ({"ssl_keyfile": "k"}, ValueError, "ssl_keyfile requires ssl_certfile"),
        ({"ssl_certfile": "/nowhere.pem"}, ValueError, "cannot use the certificate /nowhere.pem"),
        (
            {"ssl_context": "tests.support.worker_targets:NUMBER"},
            TypeError,
            "ssl_context must name an SSLContext",
        ),
    ],
)
async def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        await start(PID, **arguments)


def test_pauses_grow_and_have_a_bound() -> None:
    assert [pause_after(deaths) for deaths in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause_after(1000) == 30.0
