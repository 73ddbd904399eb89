"""serve_processes: run one server in several processes, restart dead ones, and drain all at the end.

The parent listens but serves no clients. Workers inherit the listening sockets, so a client that connects
while a worker is being replaced waits in the kernel's queue.

Invariants:

- Each slot has one worker that serves or is starting, and one task in the parent that supervises it.
- No worker outlives `serve_processes`: on every way out workers are told to stop, and killed after a timeout.
  If the parent is killed (SIGKILL), they see the end of the control channel.
- A worker that dies repeatedly is restarted after growing pauses.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_ws._blocks import check_trio
from trio_ws.errors import WorkerError
from trio_ws.logs import logger_for
from trio_ws.server.access_log import wants_access_log
from trio_ws.server.config import server_config, tcp_address
from trio_ws.server.listeners import open_listeners
from trio_ws.server.processes import control, targets
from trio_ws.server.processes.client_counts import SharedCounts, new_memory
from trio_ws.server.processes.control import RETIRE, STOP, WorkerConfig
from trio_ws.server.processes.worker_handle import WorkerHandle
from trio_ws.signals import in_main_thread, on_signals
from trio_ws.systems import HANGUP_SIGNALS, check_inherits_descriptors
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_ws.options import Options

__all__ = ["ProcessGroup", "WorkerProcess", "pause_after", "serve_processes"]

logger = logger_for("trio_ws.processes")

#: A worker that served for fewer seconds counts as a quick death.
_QUICK = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
#: Consecutive deaths of a slot that never had a ready worker, after which `serve_processes` fails.
_TRIES_AT_START = 3
#: Seconds that a worker may take to exit in addition to its own timeouts.
_MARGIN = 5.0


class WorkerProcess(NamedTuple):
    """A snapshot of one worker of a `ProcessGroup`.

    Attributes:
        pid: process id.
        ready: whether it serves; False if it has exited and its replacement is not ready.
        restarts: how many workers died in the same slot before it.
    """

    pid: int
    ready: bool
    restarts: int


class _WorkerSlot:
    """A place in the group, which one worker after another fills."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.handle: WorkerHandle | None = None  # the last one that became ready
        self.restarts = 0
        self.quick_deaths = 0  # consecutive
        self.renewal: _RestartRequest | None = None
        self.changed = Notification()  # its worker exited, or a restart was requested


@dataclass(eq=False)
class _RestartRequest:
    """A request to replace a worker that serves."""

    done: trio.Event
    worked: bool = False


class ProcessGroup:
    """The running processes of `serve_processes`."""

    def __init__(
        self,
        url: str,
        port: int | None,
        config: WorkerConfig,
        count: int,
        start_timeout: float,
        client_counts: SharedCounts,
    ) -> None:
        self._url = url
        self._port = port
        self._config = config
        self._start_timeout = start_timeout
        self._client_counts = client_counts
        self._slots = [_WorkerSlot(number) for number in range(count)]
        self._unstarted = count  # slots that never had a ready worker
        self._started = trio.Event()
        self._handles: set[WorkerHandle] = set()  # every process that may be running
        self._renew = trio.Event()
        self._serving = trio.CancelScope()
        self._kill_timer = trio.CancelScope()
        self._stopping = False
        self._failure: WorkerError | OSError | None = None
        self._nursery: trio.Nursery

    # -- public attributes --------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port.

        Raises:
            RuntimeError: the server listens on a Unix socket.
        """
        if self._port is None:
            raise RuntimeError("there is no TCP port when listening on unix_path")
        return self._port

    @property
    def url(self) -> str:
        """A URI to connect to the workers from this machine."""
        return self._url

    @property
    def workers(self) -> tuple[WorkerProcess, ...]:
        """The current workers."""
        return tuple(
            WorkerProcess(handle.process.pid, not handle.exited.is_set(), slot.restarts)
            for slot in self._slots
            if (handle := slot.handle) is not None
        )

    def __repr__(self) -> str:
        return f"<ProcessGroup {self.url} {[worker.pid for worker in self.workers]}>"

    # -- signals ------------------------------------------------------------------------------------

    def _callbacks(self) -> dict[signal.Signals, Callable[[], object]]:
        wanted: dict[signal.Signals, Callable[[], object]] = {
            signal.SIGTERM: self._stop_by_signal,
            signal.SIGINT: self._stop_by_signal,
        }
        for number in HANGUP_SIGNALS:
            wanted[number] = lambda: self._renew.set()  # noqa: PLW0108 - the event is replaced
        # Leave alone what nohup, or a shell that runs us in the background, has set.
        return {
            number: callback
            for number, callback in wanted.items()
            if signal.getsignal(number) is not signal.SIG_IGN
        }

    def _stop_by_signal(self) -> None:
        if self._stopping:
            logger.warning("received a second signal, killing the workers")
            self._kill_timer.cancel()
            return
        self._stopping = True
        logger.info("received a signal, draining %d workers", len(self._handles))
        self._serving.cancel()

    # -- running ------------------------------------------------------------------------------------

    async def _run(self, task_status: trio.TaskStatus[ProcessGroup]) -> None:
        try:
            with self._serving:
                async with trio.open_nursery() as self._nursery:
                    for slot in self._slots:
                        self._nursery.start_soon(self._supervise, slot)
                    await self._started.wait()
                    logger.info("%d workers serve %s", len(self._slots), self.url)
                    task_status.started(self)
                    await self._renew_forever()
        finally:
            self._stopping = True
            with trio.CancelScope(shield=True):
                await self._end(list(self._handles), STOP, self._kill_timer)
        if self._failure is not None:
            raise self._failure

    async def _supervise(self, slot: _WorkerSlot) -> None:
        """Keep a slot filled with a worker, forever."""
        try:
            handle = await self._spawn_until_ready(slot)
        except (WorkerError, OSError) as exc:
            self._failure = self._failure or exc
            self._serving.cancel()
            return
        self._unstarted -= 1
        if not self._unstarted:
            self._started.set()
        while True:
            if handle.exited.is_set():
                slot.restarts += 1
                logger.warning("worker %d ended (%s); starting another", handle.process.pid, handle.exit)
                if handle.ready_at is None or trio.current_time() - handle.ready_at < _QUICK:
                    await self._pause(slot)
                else:
                    slot.quick_deaths = 0
                handle = await self._spawn_until_ready(slot)
            elif slot.renewal is not None:
                renewal, slot.renewal = slot.renewal, None
                handle = await self._replace(slot, handle, renewal)
            else:
                await slot.changed.wait()

    async def _spawn_until_ready(self, slot: _WorkerSlot) -> WorkerHandle:
        """Start workers for a slot until one is ready.

        Raises:
            WorkerError: the slot never had a ready worker, and this one reported an error or several died.
            OSError: the slot never had a ready worker, and the system cannot start another process.
        """
        while True:
            handle: WorkerHandle | None = None
            try:
                handle = await self._start(slot)
            except OSError as exc:
                if slot.handle is None:
                    raise
                logger.error("cannot start a worker: %s", exc)  # noqa: TRY400 - the text is sufficient
            else:
                if handle.ready_at is not None:
                    slot.handle = handle
                    return handle
                why = self._start_failure(handle)
                if slot.handle is None and (handle.startup_error or slot.quick_deaths + 1 >= _TRIES_AT_START):
                    raise WorkerError(why, handle.process.returncode or 0)
                logger.error(why)
            await self._pause(slot)

    async def _replace(self, slot: _WorkerSlot, old: WorkerHandle, renewal: _RestartRequest) -> WorkerHandle:
        """Replace a worker that serves. If no new worker can be started, the old one stays."""
        new, why = None, ""
        try:
            new = await self._start(slot)
        except OSError as exc:
            why = f"cannot start a worker: {exc}"
        if new is None or new.ready_at is None:
            logger.error(
                "%s; worker %d stays", why if new is None else self._start_failure(new), old.process.pid
            )
            renewal.done.set()
            return old
        slot.handle = new
        renewal.worked = True
        self._nursery.start_soon(self._retire, old, renewal)
        return new

    async def _retire(self, old: WorkerHandle, renewal: _RestartRequest) -> None:
        await self._end([old], RETIRE, trio.CancelScope())
        renewal.done.set()

    async def _start(self, slot: _WorkerSlot) -> WorkerHandle:
        """Start a worker, and return it when it is ready or has exited."""
        config = replace(self._config, slot=slot.number)
        handle = await WorkerHandle.start(config)
        self._handles.add(handle)
        self._nursery.start_soon(self._watch, slot, handle)
        await handle.begin(config, self._start_timeout)
        if handle.ready_at is None:
            handle.close()
        return handle

    async def _watch(self, slot: _WorkerSlot, handle: WorkerHandle) -> None:
        await handle.watch()
        if slot.handle is None or slot.handle is handle:
            self._client_counts.worker_gone(slot.number)
        self._handles.discard(handle)
        if handle.ready_at is not None:
            handle.close()
        slot.changed.notify_all()

    @staticmethod
    def _start_failure(handle: WorkerHandle) -> str:
        said = handle.startup_error or "no reason given"
        return f"worker {handle.process.pid} did not start ({handle.exit}): {said}"

    async def _pause(self, slot: _WorkerSlot) -> None:
        slot.quick_deaths += 1
        await trio.sleep(pause_after(slot.quick_deaths))

    async def _renew_forever(self) -> None:
        while True:
            await self._renew.wait()
            self._renew = trio.Event()
            logger.info("replacing %d workers, one after another", len(self._slots))
            for slot in self._slots:
                slot.renewal = renewal = _RestartRequest(trio.Event())
                slot.changed.notify_all()
                await renewal.done.wait()
                if not renewal.worked:
                    logger.error("the remaining workers are not replaced")
                    break

    async def _end(self, handles: Sequence[WorkerHandle], word: bytes, patience: trio.CancelScope) -> None:
        """Tell workers to exit. Kill them after the timeout, or when patience is cancelled."""
        options = self._config.options
        for handle in handles:
            handle.signal(word)
        # The first timeout is for handlers, the second for their shielded cleanup.
        patience.deadline = trio.current_time() + options.drain_timeout + options.close_timeout + _MARGIN
        with patience:
            for handle in handles:
                await handle.process.wait()
        for handle in handles:
            if handle.process.returncode is None:
                logger.error("worker %d did not exit in time; killing it", handle.process.pid)
                handle.process.kill()
                await handle.process.wait()
            handle.close()


def pause_after(deaths: int) -> float:
    """Return the seconds to wait before the next start, after this many (1 or more) quick deaths."""
    return min(_FIRST_PAUSE * 2.0 ** min(deaths - 1, 30), _LONGEST_PAUSE)


async def serve_processes(
    target: object,
    port: int,
    *,
    workers: int | None = None,
    host: str | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    ssl_certfile: str | os.PathLike[str] | None = None,
    ssl_keyfile: str | os.PathLike[str] | None = None,
    ssl_context: str | None = None,
    subprotocols: Sequence[str] = (),
    broker: str | None = None,
    debug: bool = False,
    options: Options | None = None,
    start_timeout: float = 60.0,
    log_level: int | None = None,
    task_status: trio.TaskStatus[ProcessGroup] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a server in several processes on one port: ``trio.run(trio_ws.serve_processes, "chat:app", 8000)``.

    This process listens, and each worker, a fresh interpreter, accepts from the same sockets. A worker that
    has more clients than another leaves the next one to it for 10 ms, so all have about as many. If one dies,
    it is replaced; after consecutive quick deaths the pause before that grows from 0.1 to 30 seconds.

    In the main thread SIGTERM and SIGINT (Ctrl+C) drain all workers and return; a second signal kills them.
    Cancellation drains too. Workers that have not exited 5 seconds after ``drain_timeout`` and
    ``close_timeout`` are killed. SIGHUP replaces the workers one after another; each old worker is drained
    when the new one serves, so no client is refused. If this process is killed, its workers drain and exit.

    ``await nursery.start(trio_ws.serve_processes, ...)`` returns a `ProcessGroup` once all workers are ready.

    Args:
        target: a target of `serve`, as an import string (``"module:name"``), or as an object defined at the
            top level of a module. Importing that module must not call this function again: put the call under
            ``if __name__ == "__main__":``.
        port: TCP port; 0 for a free one.
        workers: number of processes; by default one for each processor available to this process.
        host: as for `serve`.
        unix_path: as for `serve`.
        ssl_certfile: PEM file with a certificate chain; enables TLS.
        ssl_keyfile: PEM file with its private key, if that is a separate file.
        ssl_context: alternatively, the import string of an `ssl.SSLContext`, or of a function without
            arguments that returns one.
        subprotocols: as for `serve`.
        broker: a URL such as ``"redis://localhost:6379/0"``, which connects the channels of all workers.
        debug: an unexpected exception of a handler ends its worker, with the traceback on stderr.
        options: limits and timeouts, which apply to each worker separately; default ``Options()``.
        start_timeout: seconds after which a worker that is not ready is killed. Default 60.
        log_level: level of the workers' root logger, which writes to stderr unless the target's module
            configures logging; default that of this process.

    Raises:
        TypeError, ValueError: an argument is invalid.
        ImportError: the import string cannot be resolved. Exceptions of the module itself are not changed.
        OSError: the address is not available.
        RuntimeError: on Windows, where sockets cannot be passed to the workers.
        WorkerError: at the start, a worker failed, or three in a row died without giving a reason.
    """
    if control.in_worker:
        raise RuntimeError(
            "serve_processes was called while a worker imports its target; "
            'put the call under: if __name__ == "__main__":'
        )
    check_trio("serve_processes()")
    check_inherits_descriptors("serve_processes", "use serve, which is one process")
    count = _count(workers)
    _check(ssl_certfile, ssl_keyfile, ssl_context, broker, start_timeout)
    name = target if isinstance(target, str) else targets.import_string(target)
    files = [os.fspath(path) if path is not None else None for path in (ssl_certfile, ssl_keyfile)]
    settings = server_config(
        targets.load(target) if isinstance(target, str) else target,
        port,
        host=host,
        ssl_context=targets.load_ssl_context(files[0], files[1], ssl_context),
        unix_path=unix_path,
        subprotocols=subprotocols,
        broker=broker,
        debug=debug,
        options=options,
    )
    listeners, socket_file = await open_listeners(port, host, unix_path, settings.options.unix_mode)
    try:
        with SharedCounts(new_memory(count)) as client_counts:
            config = WorkerConfig(
                target=name,
                listeners=tuple(listener.socket.fileno() for listener in listeners),
                subprotocols=tuple(subprotocols),
                options=settings.options,
                ssl_certfile=files[0],
                ssl_keyfile=files[1],
                ssl_context=ssl_context,
                broker=broker,
                debug=debug,
                log_level=logging.getLogger().getEffectiveLevel() if log_level is None else log_level,
                access_log=wants_access_log(),
                client_counts=client_counts.fd,
                slot=0,
                pages=control.PAGES.get(),
            )
            url = settings.url(listeners)
            tcp_port = tcp_address(listeners)[1] if unix_path is None else None
            group = ProcessGroup(url, tcp_port, config, count, start_timeout, client_counts)
            with on_signals(group._callbacks()) if in_main_thread() else nullcontext():
                await group._run(task_status)
    finally:
        for listener in listeners:
            listener.socket.close()
        if socket_file is not None:
            socket_file.remove()


def _count(workers: int | None) -> int:
    if workers is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(workers, bool) or not isinstance(workers, int):
        raise TypeError(f"workers must be an int, not {type(workers).__name__}")
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    return workers


def _check(certfile: object, keyfile: object, context: object, broker: object, start_timeout: float) -> None:
    for name, value in (("ssl_context", context), ("broker", broker)):
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{name} is sent to other processes, so it must be a str (an import string or a URL), "
                f"not {type(value).__name__}"
            )
    if context is not None and certfile is not None:
        raise ValueError("ssl_certfile and ssl_context are mutually exclusive")
    if keyfile is not None and certfile is None:
        raise ValueError("ssl_keyfile requires ssl_certfile")
    if not start_timeout > 0:
        raise ValueError(f"start_timeout must be above 0 seconds, not {start_timeout}")
