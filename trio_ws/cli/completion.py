"""Completions for shells."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import click
import click.shell_completion

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["complete_target", "completion_script"]

_PROGRAM = "trio-ws"
_VARIABLE = "_TRIO_WS_COMPLETE"
#: Files that are read for completion, and bytes of each: a person waits.
_MAX_FILES = 200
_MAX_BYTES = 200_000


#: click's own script does not know that bash ends words at colons.
_BASH = """\
_trio_ws_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" current="" kind value
    local -a words
    read -ra words <<< "$line"
    local count=${#words[@]}
    if [[ "$line" != *[[:space:]] ]]; then
        count=$((count - 1))
        current="${words[count]}"
    fi
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case "$kind" in
            plain) COMPREPLY+=("$value") ;;
            file) compopt -o default 2>/dev/null ;;
            dir) compopt -o dirnames 2>/dev/null ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$count _TRIO_WS_COMPLETE=bash_complete "$1")
    if [[ "$current" == *:* && "$COMP_WORDBREAKS" == *:* ]]; then
        local before="${current%"${current##*:}"}"
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    elif [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *: ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _trio_ws_completion trio-ws
"""


def completion_script(cli: click.Command, shell: str) -> str:
    """The script that a shell runs at its start."""
    if shell == "bash":
        return _BASH
    kind = click.shell_completion.get_completion_class(shell)
    assert kind is not None
    completion = kind(cli, {}, _PROGRAM, _VARIABLE)
    script = completion.source()
    # click's own script for fish ends a description at its first comma.
    return script.replace('string split ","', 'string split --max 1 ","') if shell == "fish" else script


def complete_target(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    """Import strings that begin so: modules here, and the names in one of them. Nothing is imported."""
    del ctx, param
    module, colon, _ = incomplete.partition(":")
    if colon:
        parts = module.split(".")
        names = _names_in(Path(*parts).with_suffix(".py")) if all(map(str.isidentifier, parts)) else ()
        found = [f"{module}:{one}" for one in names if not one.startswith("_")]
    else:
        found = [f"{one}:" for one in _modules()]
    return [click.shell_completion.CompletionItem(one) for one in found if one.startswith(incomplete)]


def _modules() -> Iterator[str]:
    """The modules in this folder, and in the folders below it, that mention trio_ws."""
    here = Path()
    files = sorted({*here.glob("*.py"), *here.glob("[a-z]*/*.py"), *here.glob("[a-z]*/[a-z]*/*.py")})
    for path in files[:_MAX_FILES]:
        parts = path.with_suffix("").parts
        if all(part.isidentifier() for part in parts) and "trio_ws" in _read(path):
            yield ".".join(parts)


def _names_in(path: Path) -> Iterator[str]:
    """The names that a module defines: those that can be served, as far as that can be seen."""
    try:
        tree = ast.parse(_read(path))
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=function)):
                if ast.unparse(function).rpartition(".")[2][:1].isupper():  # an App, or a handler
                    yield name
            case ast.ClassDef(name=name, bases=bases):
                if any("Handler" in ast.unparse(base) for base in bases):
                    yield name
            case ast.FunctionDef(name=name, args=args) | ast.AsyncFunctionDef(name=name, args=args):
                hint = args.args[0].annotation if args.args else None
                if hint is not None and "WebSocket" in ast.unparse(hint):
                    yield name
            case _:
                pass


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""
