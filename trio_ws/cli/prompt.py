"""A prompt for lines at a terminal, with editing, history and completion.

prompt_toolkit uses asyncio, so it runs in another thread than trio.

Invariant: when `Prompt.next` returns or raises, the terminal is in its original state.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import FileHistory, InMemoryHistory

from trio_ws.cli.errors import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History

    from trio_ws.cli.methods import Listed

__all__ = ["MethodCompleter", "Prompt", "history_file"]


class MethodCompleter(Completer):
    """Completes the first word with names of methods, and the others with names of parameters."""

    def __init__(self, methods: Mapping[str, Listed]) -> None:
        self._methods = methods

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Yield the completions at the cursor."""
        before = document.text_before_cursor.lstrip()
        first, blank, rest = before.partition(" ")
        if not blank:
            start = first.lstrip("*?")
            for name, method in sorted(self._methods.items()):
                # A name that is not printable is not offered, but can still be typed.
                if name.startswith(start) and name.isprintable():
                    signature, title = on_one_line(method.signature), on_one_line(_title(method))
                    yield Completion(name, -len(start), display=signature, display_meta=title)
            return
        listed = self._methods.get(first.removeprefix("*"))
        word = rest.rpartition(" ")[2]
        for one in listed.parameters if listed is not None else ():
            named = one.kind in ("", "keyword-only")
            fits = named and one.name.startswith(word) and one.name.isprintable()
            if fits and f"{one.name}=" not in rest:
                yield Completion(f"{one.name}=", -len(word), display_meta=on_one_line(one.type))


def _title(method: Listed) -> str:
    return method.doc.partition("\n")[0]


class Prompt:
    """Reads lines at a terminal.

    Args:
        completer: the completer, or None.
        history: the history file, or None to keep the history in memory.
    """

    def __init__(self, completer: Completer | None, history: Path | None) -> None:
        kept: History = InMemoryHistory() if history is None else FileHistory(str(history))
        self._session: PromptSession[str] = PromptSession("> ", history=kept, completer=completer)
        self._asking = False
        self._over = False

    async def next(self) -> str | None:
        """Return the next line; None after Ctrl+D. A cancellation restores the terminal.

        Raises:
            KeyboardInterrupt: Ctrl+C.
        """
        line: str | None = None
        self._asking = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_when_cancelled)
            with trio.CancelScope(shield=True), suppress(EOFError):
                line = await trio.to_thread.run_sync(self._ask)
            self._asking = False
            nursery.cancel_scope.cancel()
        return line

    def _ask(self) -> str:
        return self._session.prompt(pre_run=self._leave_if_over)

    async def _leave_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._over = self._asking
            loop = self._session.app.loop
            if self._over and loop is not None:
                with suppress(RuntimeError):  # the event loop has just been closed
                    loop.call_soon_threadsafe(self._leave_if_over)

    def _leave_if_over(self) -> None:
        """End the prompt if `next` was cancelled. Runs in the prompt's thread."""
        app = self._session.app
        if self._over and app.future is not None and not app.future.done():
            app.exit(exception=EOFError)


def history_file(environ: Mapping[str, str]) -> Path | None:
    """Return the history file, created with access for its owner only; None if it cannot be created.

    The environment variable ``TRIO_WS_HISTORY`` names the file; if it is empty, there is none. Default:
    ``~/.local/state/trio-ws/history``, or ``trio-ws/history`` in ``XDG_STATE_HOME``.
    """
    named = environ.get("TRIO_WS_HISTORY")
    if named == "":
        return None
    state = environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
    path = Path(named) if named is not None else Path(state) / "trio-ws" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                os.fchmod(file, 0o600)  # the file may exist already, with another mode
        finally:
            os.close(file)
    except OSError:
        return None  # a home directory without write access is not an error
    return path
