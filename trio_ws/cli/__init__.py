"""The command line: ``trio-ws``, or ``python -m trio_ws``.

It uses libraries that the extra ``cli`` installs.

Invariant: trio_ws does not import these libraries before a command runs.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from trio_ws.cli.streams import arguments_of, prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("click", "prompt_toolkit", "rich", "watchfiles")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the arguments without the program's name. Default: those of this process.

    Returns:
        The exit code; docs/cli.md lists them.
    """
    if arguments is None:
        prepare()
        arguments = arguments_of(sys.argv[1:])
    if list(arguments) in (["--version"], ["-V"]):
        from trio_ws.cli.version import version_text  # noqa: PLC0415 - as below

        sys.stdout.write(f"{version_text()}\n")
        return 0
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"trio-ws: the command line needs {', '.join(missing)}; try: pip install 'trio-ws[cli]'\n"
        )
        return 2
    from trio_ws.cli.commands import run  # noqa: PLC0415 - imports these libraries

    return run(arguments)
