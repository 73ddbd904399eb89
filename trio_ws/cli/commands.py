"""The commands, with their arguments and options (click), and the handling of errors."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import trio

import trio_ws
from trio_ws.cli import bench as benching
from trio_ws.cli import interactive, recording, schemas
from trio_ws.cli import rpc as rpc_commands
from trio_ws.cli.completion import complete_target, completion_script
from trio_ws.cli.errors import INTERRUPTED, OK, USAGE, Failure, explain, unwrap
from trio_ws.cli.output import Output, remark
from trio_ws.cli.server import Serving, end_with, serve
from trio_ws.cli.streams import give_up_stdout
from trio_ws.cli.target import DIALECTS, ServerTarget
from trio_ws.cli.values import parse_headers, parse_kwargs, parse_value
from trio_ws.cli.version import version_text
from trio_ws.systems import check_inherits_descriptors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from trio_ws._types import JSONObject, Value

__all__ = ["cli", "run"]

F = TypeVar("F", bound="Callable[..., object]")

_EXIT_CODES = """\b
Exit codes:
  0    success; with serve, a signal has drained the server
  1    the call failed; with serve, the server did not start, or failed
  2    wrong arguments, or a target that cannot be used
  3    no connection, or a lost one
  4    no answer in time
  130  ended by Ctrl+C
"""
_SECONDS = click.FloatRange(min=0, min_open=True)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code. Errors that a user can correct are one line on stderr."""
    try:
        code = cli.main(args=arguments, prog_name="trio-ws", standalone_mode=False)
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx is not None else "trio-ws"
        remark(f"{exc.format_message()} See: {path} --help")
        return USAGE
    except click.ClickException as exc:
        remark(exc.format_message())
        return USAGE
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as exc:
        cause = unwrap(exc)
        if isinstance(cause, KeyboardInterrupt | click.Abort):
            return INTERRUPTED
        found = explain(cause)
        if found is None:
            raise
        remark(found.text)
        return found.code
    return code if isinstance(code, int) else OK


def _run(main: Callable[[], Awaitable[int]], timeout: float | None = None) -> int:
    """Run a command that connects to a server. Ctrl+C cancels it, so that the connection is closed."""

    async def supervised() -> int:
        with trio_ws.cancel_on_signals(signal.SIGINT):
            with trio.fail_after(math.inf if timeout is None else timeout):
                return await main()
        return INTERRUPTED

    try:
        return trio.run(supervised)
    except (BrokenPipeError, BaseExceptionGroup) as exc:
        if not isinstance(unwrap(exc), BrokenPipeError):
            raise
        give_up_stdout()
        return OK


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    epilog=_EXIT_CODES,
)
@click.version_option(version_text(), "-V", "--version", message="%(version)s")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """Run WebSocket servers, and connect to them.

    ARGS are parsed as JSON, and are text if that fails. Results go to stdout, remarks and errors to stderr.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return USAGE
    return OK


class _Asking(click.Command):
    """A command whose arguments may be negative numbers, which click takes for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        dashes = "--" in args
        rest = super().parse_args(ctx, args)
        for word in () if dashes else ctx.params.get("args") or ():
            if word.startswith("-") and not isinstance(parse_value(word), int | float):
                raise click.NoSuchOption(word, ctx=ctx)
        return rest


def _kept(ctx: click.Context, param: click.Parameter, value: object) -> object:
    """Keep an option for `_place`, so that commands need not pass it on."""
    ctx.meta[f"{__name__}.{param.name}"] = value
    return value


def _reaching(command: F) -> F:
    """Add the options of all commands that connect to a server."""
    for option in (
        click.option(
            "--proxy",
            metavar="URL",
            expose_value=False,
            callback=_kept,
            help="Use this proxy: http://, https://, socks5:// or socks5h://; 'none' for no proxy.",
        ),
        click.option(
            "--key",
            "keyfile",
            type=click.Path(),
            metavar="FILE",
            expose_value=False,
            callback=_kept,
            help="The key of --cert, if it is not in its file.",
        ),
        click.option(
            "--cert",
            "certfile",
            type=click.Path(),
            metavar="FILE",
            expose_value=False,
            callback=_kept,
            help="The client's certificate (PEM), for servers that require one.",
        ),
        click.option(
            "--insecure",
            is_flag=True,
            expose_value=False,
            callback=_kept,
            help="Do not verify the server's certificate. For tests only.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line."),
        click.option(
            "--cafile", type=click.Path(), metavar="FILE", help="Trust the certificates in this file (PEM)."
        ),
        click.option("--header", "headers", metavar="'K: V'", multiple=True, help="Send this header."),
    ):
        command = option(command)
    return command


def _place(
    url: str, headers: tuple[str, ...], cafile: str | None, subprotocol: str | None = None
) -> ServerTarget:
    try:
        pairs = tuple(parse_headers(headers))
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    meta = click.get_current_context().meta
    more = {name: meta.get(f"{__name__}.{name}") for name in ("insecure", "certfile", "keyfile", "proxy")}
    return ServerTarget(url=url, headers=pairs, cafile=cafile, subprotocol=subprotocol, **more)  # type: ignore[arg-type]


def _arguments(args: tuple[str, ...], kwargs: str | None) -> tuple[list[Value], JSONObject]:
    try:
        return [parse_value(word) for word in args], {} if kwargs is None else parse_kwargs(kwargs)
    except ValueError as exc:
        raise click.UsageError(f"--kwargs: {exc}") from exc


_dialect = click.option(
    "--dialect",
    type=click.Choice(list(DIALECTS)),
    metavar="D",  # the choices would be a line of 88 columns
    help=f"The RPC protocol of the server, whatever subprotocol it selects: {', '.join(DIALECTS)}."
    " With connect, it implies --rpc.",
)
_limit = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
_kwargs = click.option("--kwargs", metavar="JSON", help="Arguments by name, as a JSON object.")
_timeout = click.option(
    "--timeout", type=_SECONDS, metavar="S", help="Seconds until the command gives up. Default: no limit."
)


@cli.command("serve", short_help="Serve an App, a handler or a function.", epilog=_EXIT_CODES)
@click.argument("target", metavar="MODULE:APP", shell_complete=complete_target)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Listen on this address; '*' for all interfaces."
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A host name of the server, such as chat.example. May be repeated.",
)
@click.option(
    "--trusted-proxy",
    "trusted_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="Accept client addresses from this proxy, or network of proxies. May be repeated.",
)
@click.option("--proxy-protocol", is_flag=True, help="Trusted proxies use the PROXY protocol.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 selects a free port."
)
@click.option(
    "--workers", type=click.IntRange(1, 1024), default=1, show_default=True, help="The number of processes."
)
@click.option("--broker", metavar="URL", help="Share channels with other servers, such as redis://localhost.")
@click.option("--reload", is_flag=True, help="Restart when a .py file below this folder changes.")
@click.option("--ssl-certfile", "certfile", metavar="FILE", help="Use TLS with this certificate (PEM).")
@click.option(
    "--ssl-keyfile", "keyfile", metavar="FILE", help="The certificate's key, if it is not in its file."
)
@click.option(
    "--page/--no-page",
    default=None,
    help="Add a page to try the target in a browser. Default: on this machine, and without a proxy.",
)
@click.option("--access-log", is_flag=True, help="Log each request, and each connection when it ends.")
@click.option("--debug", is_flag=True, help="An unexpected exception ends the server with a traceback.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    default="info",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print the URL as a JSON object.")
@click.option("--line", type=int, hidden=True)  # from serve --reload
def _serve(*, reload: bool, as_json: bool, line: int | None, **wishes: Any) -> int:
    """Serve MODULE:APP: an App, a handler, an async function, or a function."""
    if line is not None:
        end_with(line)
    if reload or wishes["workers"] > 1:
        _check_starts_processes("--reload" if reload else "--workers")
    if not reload:
        return serve(Serving(**wishes), Output(as_json=as_json))
    from trio_ws.cli.reloading import reload_forever  # noqa: PLC0415 - only for this option

    arguments = ["serve", *(["--json"] if as_json else []), *_as_arguments(wishes)]
    return trio.run(reload_forever, arguments, os.getcwd())  # noqa: PTH109 - only shown to the user


def _check_starts_processes(option: str) -> None:
    try:
        check_inherits_descriptors(option, "leave it out")
    except RuntimeError as exc:
        raise Failure(str(exc), USAGE) from None


def _as_arguments(wishes: dict[str, Any]) -> list[str]:
    """Return the options of ``serve`` as command-line arguments."""
    names = {
        "certfile": "ssl-certfile",
        "keyfile": "ssl-keyfile",
        "log_level": "log-level",
        "hosts": "allow-host",
        "trusted_proxies": "trusted-proxy",
        "proxy_protocol": "proxy-protocol",
        "access_log": "access-log",
    }
    words = []
    for name, value in wishes.items():
        if name == "page" and value is False:
            words.append("--no-page")
        if name == "target" or value is None or value is False:
            continue
        flag = f"--{names.get(name, name)}"
        if value is True:
            words.append(flag)
        else:
            words += [f"{flag}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return [*words, "--", wishes["target"]]


@cli.command("connect", epilog=_EXIT_CODES)
@click.argument("url")
@_reaching
@click.option("--subprotocol", metavar="S", help="Offer this subprotocol.")
@click.option("--rpc", is_flag=True, help="Lines are calls: METHOD ARG ... NAME=VALUE ...")
@_dialect
@click.option(
    "--expect",
    type=click.IntRange(min=0),
    metavar="N",
    help="From a pipe: end after N messages. Default: one for each line; with --rpc, none.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    metavar="S",
    help="From a pipe: seconds to wait for messages after the last line; with --rpc, for each call.",
)
def _connect(
    url: str,
    headers: tuple[str, ...],
    cafile: str | None,
    as_json: bool,
    subprotocol: str | None,
    rpc: bool,
    dialect: str | None,
    expect: int | None,
    timeout: float,
) -> int:
    """Send lines and print messages.

    At a terminal, the prompt has a history. With --rpc it completes methods, if the server lists them
    (list_methods = True in its handler). Lines from a pipe are sent as they come.
    """
    place = replace(_place(url, headers, cafile, subprotocol), dialect=dialect)
    rpc = rpc or dialect is not None
    wishes = interactive.InteractiveOptions(expect, timeout)
    return _run(
        partial(interactive.talk_rpc if rpc else interactive.talk, place, wishes, Output(as_json=as_json))
    )


@cli.command("call", cls=_Asking, context_settings={"ignore_unknown_options": True}, epilog=_EXIT_CODES)
@click.argument("url")
@click.argument("method")
@click.argument("args", nargs=-1)
@_kwargs
@_timeout
@_dialect
@_reaching
def _call(
    url: str,
    method: str,
    args: tuple[str, ...],
    kwargs: str | None,
    timeout: float | None,
    dialect: str | None,
    headers: tuple[str, ...],
    cafile: str | None,
    as_json: bool,
) -> int:
    """Call a method and print its value. Write -- before arguments that begin with a dash."""
    place = replace(_place(url, headers, cafile), dialect=dialect)
    given = _arguments(args, kwargs)
    return _run(partial(rpc_commands.call, place, method, *given, Output(as_json=as_json)), timeout)


@cli.command("stream", cls=_Asking, context_settings={"ignore_unknown_options": True}, epilog=_EXIT_CODES)
@click.argument("url")
@click.argument("method")
@click.argument("args", nargs=-1)
@_kwargs
@_limit
@_timeout
@_reaching
def _stream(
    url: str,
    method: str,
    args: tuple[str, ...],
    kwargs: str | None,
    limit: int | None,
    timeout: float | None,
    headers: tuple[str, ...],
    cafile: str | None,
    as_json: bool,
) -> int:
    """Print the items of a stream. Write -- before arguments that begin with a dash."""
    place, given = _place(url, headers, cafile), _arguments(args, kwargs)
    return _run(partial(rpc_commands.stream, place, method, *given, limit, Output(as_json=as_json)), timeout)


@cli.command("listen", short_help="Print the messages of channels.", epilog=_EXIT_CODES)
@click.argument("url")
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@_limit
@_timeout
@_reaching
def _listen(
    url: str,
    channels: tuple[str, ...],
    limit: int | None,
    timeout: float | None,
    headers: tuple[str, ...],
    cafile: str | None,
    as_json: bool,
) -> int:
    """Print the messages of channels. A CHANNEL may be a glob, in quotes."""
    place = _place(url, headers, cafile)
    return _run(partial(rpc_commands.listen, place, channels, limit, Output(as_json=as_json)), timeout)


@cli.command("publish", short_help="Publish to a channel through Redis.", epilog=_EXIT_CODES)
@click.argument("redis", metavar="REDIS-URL")
@click.argument("channel")
@click.argument("data")
@click.option("--path", default="", metavar="PATH", help="Where the handler is mounted in its App.")
@click.option(
    "--prefix", default="trio_ws:", show_default=True, metavar="P", help="The prefix that the servers use."
)
@click.option("--key-file", metavar="FILE", help="Mark the message with the key in this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the number as a JSON object.")
@_timeout
def _publish(
    redis: str,
    channel: str,
    data: str,
    path: str,
    prefix: str,
    key_file: str | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Publish DATA to a channel of all servers that share a Redis; print how many processes receive it."""
    try:
        key = Path(key_file).read_bytes().strip() if key_file is not None else None
        publisher = trio_ws.Publisher(redis, path=path, prefix=prefix, key=key)
    except (OSError, ValueError) as exc:
        raise click.UsageError(str(exc)) from exc
    out = Output(as_json=as_json)
    return _run(partial(rpc_commands.publish, publisher, channel, parse_value(data), out), timeout)


@cli.command("schema", short_help="Print methods and channels as JSON.", epilog=_EXIT_CODES)
@click.argument("target", metavar="MODULE:APP", shell_complete=complete_target)
@click.option(
    "--format",
    "form",
    type=click.Choice(["openrpc", "asyncapi"]),
    default="openrpc",
    show_default=True,
    help="OpenRPC has the methods of one handler, AsyncAPI all messages of all handlers.",
)
@click.option("--path", metavar="PATH", help="OpenRPC: the path of the handler in its App.")
@click.option("--title", metavar="T", help="The title. Default: the name of the handler's class.")
@click.option(
    "--version", default="1.0.0", show_default=True, metavar="V", help="The version of your interface."
)
@click.option("--url", metavar="URL", help="The URL of the server, such as wss://example.com.")
def _schema(
    target: str, form: str, path: str | None, title: str | None, version: str, url: str | None
) -> int:
    """Print the methods and channels of MODULE:APP as OpenRPC 1.3 or AsyncAPI 3 (JSON).

    Annotations become JSON Schema, and docstrings become descriptions.
    """
    return schemas.print_schema(target, form, path=path, title=title, version=version, url=url)


@cli.command("types", short_help="Print methods and channels as TypeScript.", epilog=_EXIT_CODES)
@click.argument("target", metavar="MODULE:APP", shell_complete=complete_target)
def _types(target: str) -> int:
    """Print the methods and channels of MODULE:APP as a TypeScript module."""
    return schemas.print_types(target)


@cli.command("record", short_help="Forward connections and record them to a file.", epilog=_EXIT_CODES)
@click.argument("url")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="Listen on this port. Default: a free one."
)
@_reaching
def _record(
    url: str, file: str, port: int, headers: tuple[str, ...], cafile: str | None, as_json: bool
) -> int:
    """Forward messages between clients and the server at URL, and record them to FILE.

    Clients connect to the address that is printed. Secrets are masked by their names. Ctrl+C ends it.
    """
    place = _place(url, headers, cafile)
    return trio.run(recording.record, place, file, port, Output(as_json=as_json))


@cli.command("bench", short_help="Measure an echo server.", epilog=_EXIT_CODES)
@click.argument("url")
@click.option("--connections", type=click.IntRange(1, 10_000), default=10, show_default=True, metavar="N")
@click.option(
    "--messages",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Messages on each connection, each way.",
)
@click.option(
    "--size",
    type=click.IntRange(0, 2**26),
    default=64,
    show_default=True,
    metavar="N",
    help="Bytes of each message.",
)
@click.option(
    "--timeout",
    type=_SECONDS,
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds until the command gives up.",
)
@_reaching
def _bench(
    url: str,
    connections: int,
    messages: int,
    size: int,
    timeout: float,
    headers: tuple[str, ...],
    cafile: str | None,
    as_json: bool,
) -> int:
    """Measure an echo server: round-trip times, and the rate of many messages at once."""
    if connections * messages > 10_000_000:
        raise Failure("that is more than 10,000,000 messages; ask for fewer", USAGE)
    wishes = benching.BenchWishes(connections=connections, messages=messages, size=size, timeout=timeout)
    place = _place(url, headers, cafile)
    return _run(partial(benching.bench, place, wishes, Output(as_json=as_json)))


@cli.command("completion", short_help="Print a script for completion by Tab.", epilog=_EXIT_CODES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def _completion(shell: str) -> int:
    """Print a script that lets Tab complete commands, options and MODULE:APP.

    For bash: echo 'eval "$(trio-ws completion bash)"' >> ~/.bashrc; for zsh the same in ~/.zshrc; for fish:
    trio-ws completion fish > ~/.config/fish/completions/trio-ws.fish
    """
    click.echo(completion_script(cli, shell))
    return OK
