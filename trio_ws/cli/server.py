"""The command ``serve``: serve the object that an import string names, until a signal drains the server."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

import trio_ws
from trio_ws.app.app import routes_of
from trio_ws.cli.errors import FAILED, OK, USAGE, Failure
from trio_ws.cli.output import remark
from trio_ws.cli.pages import for_everybody, for_this_machine, page_path
from trio_ws.cli.streams import give_up_stdout
from trio_ws.protocol.hosts import is_loopback_name
from trio_ws.server.access_log import enable_access_log
from trio_ws.server.processes.control import PAGES
from trio_ws.server.processes.targets import (
    ImportStringError,
    TargetError,
    import_string,
    load,
    load_ssl_context,
)
from trio_ws.server.server import add_pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.cli.output import Output
    from trio_ws.cli.pages import TargetPages

__all__ = ["Serving", "announce", "end_with", "invite", "load_target", "page_url", "serve", "set_up_logging"]

#: Routes of an App that are printed when it starts.
_ROUTES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The arguments and options of ``serve``."""

    target: str
    host: str
    port: int
    workers: int = 1
    hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False
    broker: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    debug: bool = False
    access_log: bool = False
    page: bool | None = None
    log_level: str = "info"

    def options(self) -> trio_ws.Options:
        """Return the `Options` for these command-line options.

        Raises:
            ValueError: one of them is invalid.
        """
        return trio_ws.Options(
            hosts=self.hosts or None,
            trusted_proxies=self.trusted_proxies,
            proxy_protocol=self.proxy_protocol,
        )

    def pages(self) -> Callable[[object, str], TargetPages] | None:
        """Return the function that makes the pages of a target, or None if it gets none.

        By default a target has pages if only this machine can reach it, not through a proxy either.
        """
        if self.page is not None:
            return for_everybody if self.page else None
        proxied = self.hosts or self.trusted_proxies or self.proxy_protocol
        return for_this_machine if is_loopback_name(self.host) and not proxied else None


def announce(out: Output, target: str, url: str, **more: object) -> None:
    """Print the URL of the server to stdout, which scripts that use port 0 read."""
    try:
        if out.as_json:
            out.record(target=target, url=url, pid=os.getpid(), **more)
        else:
            workers = f" in {more['workers']} processes" if "workers" in more else ""
            out.line(f"serving {target}{workers} at {url}")
    except BrokenPipeError:
        give_up_stdout()
    except OSError as exc:
        raise Failure(f"the URL of the server cannot be printed: {exc.strerror}") from exc


def invite(target: object, url: str, page: str | None) -> None:
    """Print the URL of the page to open, and the next command, on stderr."""
    if page is not None:
        remark(f"open {page}")
    if isinstance(target, trio_ws.App):
        routes = routes_of(target)
        more = f" and {len(routes) - _ROUTES_SHOWN} more" if len(routes) > _ROUTES_SHOWN else ""
        remark(f"routes: {', '.join(map(str, routes[:_ROUTES_SHOWN])) or 'none'}{more}")
        # One whose path is known in full.
        route = next((one for one in routes if not one.methods and "{" not in one.pattern.path), None)
        if route is None:
            return
        target, url = route.function, url.rstrip("/") + route.pattern.path
    handler = target if isinstance(target, type) else type(target)
    rpc = "--rpc " if issubclass(handler, trio_ws.WebSocketHandler) else ""
    remark(f"try it: trio-ws connect {rpc}{url}")


def page_url(target: object, url: str, *, added: bool) -> str | None:
    """Return the URL of the page to open; see `page_path`."""
    path = page_path(target, added=added)
    return None if path is None else f"{url.replace('ws', 'http', 1).rstrip('/')}{path}"


def set_up_logging(level: str) -> None:
    """Write logs to stderr."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def end_with(line: int) -> None:
    """Send SIGTERM to this process when the other end of a pipe is closed, even if its owner was killed."""
    os.set_inheritable(line, False)

    def wait() -> None:
        os.read(line, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="trio_ws line", daemon=True).start()


def serve(wishes: Serving, out: Output) -> int:
    """Serve until SIGTERM or Ctrl+C has drained the server; return the exit code 0.

    Raises:
        Failure: the target, or one of the files, cannot be used.
        OSError, BrokerError, WorkerError: like `trio_ws.serve_processes`.
    """
    if wishes.keyfile is not None and wishes.certfile is None:
        raise Failure("--ssl-keyfile requires --ssl-certfile", USAGE)
    set_up_logging(wishes.log_level)
    if wishes.access_log:
        enable_access_log()
    target = load_target(wishes.target)
    if isinstance(target, trio_ws.WebSocketServer):
        raise Failure(
            f"{wishes.target} is a WebSocketServer, which serves in its own block: run that program, or serve"
            " its target with this command",
            USAGE,
        )
    try:
        context = load_ssl_context(wishes.certfile, wishes.keyfile, None)
        make_server = partial(
            trio_ws.WebSocketServer,
            target,
            wishes.port,
            host=wishes.host,
            ssl_context=context,
            broker=wishes.broker,
            debug=wishes.debug,
            options=wishes.options(),
        )
        make_server()  # never entered: it only validates the arguments
    except TypeError as exc:
        raise Failure(f"{wishes.target} cannot be served: {exc}", USAGE) from exc
    except ValueError as exc:
        raise Failure(str(exc), USAGE) from exc
    if wishes.workers == 1:
        trio.run(_serve_here, wishes, make_server, target, out)
    else:
        trio.run(_serve_in_workers, wishes, target, out)
    return OK


async def _serve_here(
    wishes: Serving, make_server: partial[trio_ws.WebSocketServer], target: object, out: Output
) -> None:
    serves = False
    try:
        with trio_ws.cancel_on_signals():
            server = make_server()
            pages = wishes.pages()
            if pages is not None:
                add_pages(server, pages, wishes.target)
            async with server:
                serves = True
                page = page_url(target, server.url, added=pages is not None)
                announce(out, wishes.target, server.url, page=page)
                invite(target, server.url, page)
                await server.serve_forever()
    except Exception as exc:
        if not serves or isinstance(exc, Failure):
            raise
        traceback.print_exc()  # an exception of the application needs its traceback
        raise Failure("the server failed; its exception is shown above") from exc


async def _serve_in_workers(wishes: Serving, target: object, out: Output) -> None:
    pages = wishes.pages()
    PAGES.set(None if pages is None else import_string(pages))
    await trio_ws.serve_processes(
        wishes.target,
        wishes.port,
        workers=wishes.workers,
        host=wishes.host,
        ssl_certfile=wishes.certfile,
        ssl_keyfile=wishes.keyfile,
        broker=wishes.broker,
        debug=wishes.debug,
        options=wishes.options(),
        log_level=getattr(logging, wishes.log_level.upper()),
        task_status=_Announcement(wishes, target, out),
    )


class _Announcement:
    """A task status that announces a group of workers. It is not used if a signal comes before."""

    def __init__(self, wishes: Serving, target: object, out: Output) -> None:
        self._wishes = wishes
        self._target = target
        self._out = out

    def started(self, value: trio_ws.ProcessGroup | None = None) -> None:
        assert value is not None
        page = page_url(self._target, value.url, added=self._wishes.pages() is not None)
        announce(self._out, self._wishes.target, value.url, workers=self._wishes.workers, page=page)
        invite(self._target, value.url, page)


#: The folders of this package and of trio, whose lines are not the mistake of a module.
_LIBRARIES = tuple(f"{one.__path__[0]}{os.sep}" for one in (trio_ws, trio))


def load_target(target: str) -> Any:
    """Return the object that an import string names. Modules in the current folder are found too.

    Raises:
        Failure: the object cannot be imported.
    """
    # Like python -m, so that the console script finds modules in the current folder.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path has strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        return load(target)
    except ImportStringError as exc:
        raise Failure(str(exc), USAGE) from exc
    except TargetError as exc:
        hint = "; run this where the module is, or set PYTHONPATH" if exc.__cause__ is not None else ""
        raise Failure(f"{exc}{hint}", USAGE) from exc
    except SystemExit as exc:
        raise Failure(
            f"{target} ends the program when it is imported (exit code {exc.code})", FAILED
        ) from exc
    except Exception as exc:
        # Show the line that raised the exception, or that called us or trio.
        frames = traceback.extract_tb(exc.__traceback__)
        theirs = [one for one in frames if not one.filename.startswith(_LIBRARIES)] or frames
        where = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
        if isinstance(exc, SyntaxError):
            where = ""  # its text has the location
        what = f"{type(exc).__name__}: {exc}{where}"
        raise Failure(f"{target} cannot be imported: {what}", USAGE) from exc
