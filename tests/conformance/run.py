"""Runs the Autobahn test suite on trio_ws in both roles: ``python -m tests.conformance.run --help``.

Autobahn's ``wstest`` is a Python 2.7 program. It gets an environment of its own under ``.cache/autobahn``,
made on the first run; where there is no Python 2.7, nothing runs, and one line says so. What holds here:
ports are free ones, every wait has an end, and every process that is started is ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.conformance.expectations import (
    GROUPS,
    PATTERNS,
    ROLES,
    Groups,
    Role,
    differences,
    load,
    read_outcomes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "autobahn"
REQUIREMENTS = HERE / "requirements-py27.txt"
AGENT = "trio_ws"
# The last virtualenv that can make an environment for Python 2.7.
VIRTUALENV = "virtualenv==20.21.1"

# Seconds.
START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
INSTALL_TIMEOUT = 900.0
RUN_TIMEOUT: dict[Groups, float] = {"quick": 180.0, "all": 3600.0}


class RunError(Exception):
    """The suite could not be run to its end."""


def find_python27() -> str | None:
    """A Python 2.7 that runs: the one on PATH, or pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which("python2.7"), *map(str, sorted(root.glob("versions/2.7.*/bin/python2.7")))]
    for candidate in candidates:
        # The program in PATH may be a shim of pyenv for a version that is not active.
        if (
            candidate
            and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0
        ):
            return candidate
    return None


def install_wstest(python27: str) -> Path:
    """Make Autobahn's environment if it does not exist, and return its ``wstest``."""
    stamp, environment = CACHE / "installed.txt", CACHE / "py27"
    wanted = f"{python27}\n{REQUIREMENTS.read_text(encoding='utf-8')}"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print("installing the Autobahn test suite (a minute or two, once)", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        maker, log = CACHE / "virtualenv", CACHE / "install.log"
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        with log.open("w") as output:
            _run(
                [sys.executable, *pip, "--upgrade", "--target", str(maker), VIRTUALENV],
                INSTALL_TIMEOUT,
                output,
            )
            make = [sys.executable, "-m", "virtualenv", "--clear", "--python", python27, str(environment)]
            _run(make, INSTALL_TIMEOUT, output, PYTHONPATH=str(maker))
            _run([str(environment / "bin/python"), *pip, "-r", str(REQUIREMENTS)], INSTALL_TIMEOUT, output)
        stamp.write_text(wanted, encoding="utf-8")
    return environment / "bin" / "wstest"


def _run(command: Sequence[str], timeout: float, log: IO[str], **environment: str) -> None:
    """Run a command until it exits, with its output in the log."""
    with _started(command, log, **environment) as process:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RunError(
                f"{_name(command)} did not end within {timeout:.0f} seconds; see {log.name}"
            ) from None
    if status != 0:
        raise RunError(f"{_name(command)} ended with status {status}; see {log.name}\n{_tail(log)}")


@contextmanager
def _started(command: Sequence[str], log: IO[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it when the block ends."""
    # Autobahn's libraries warn that Python 2.7 is old.
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"the server ended with status {process.returncode}; see {log.name}\n{_tail(log)}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RunError(f"the server does not listen after {START_TIMEOUT:.0f} seconds; see {log.name}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _name(command: Sequence[str]) -> str:
    return " ".join(Path(part).name if os.sep in part else part for part in command)


def _tail(log: IO[str]) -> str:
    return "\n".join(Path(log.name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def run_role(role: Role, groups: Groups, wstest: Path, program: Path) -> Path:
    """Run the suite against one program, and return the folder with the reports."""
    folder = CACHE / "reports" / f"{role}-{groups}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = _free_port()
    url = f"ws://127.0.0.1:{port}"
    spec: dict[str, object] = {
        "outdir": str(folder),
        "cases": PATTERNS[groups],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    spec |= {"servers": [{"agent": AGENT, "url": url}]} if role == "server" else {"url": url}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    autobahn = [str(wstest), "--webport", "0", "--spec", str(folder / "spec.json"), "--mode"]
    ours = [sys.executable, str(program)]
    if role == "server":
        listening, driving = [*ours, str(port)], [*autobahn, "fuzzingclient"]
    else:
        listening, driving = [*autobahn, "fuzzingserver"], [*ours, url, AGENT]
    with (
        (folder / "listening.log").open("w") as its_log,
        (folder / "driving.log").open("w") as log,
        _started(listening, its_log) as process,
    ):
        _wait_until_it_listens(process, port, its_log)
        _run(driving, RUN_TIMEOUT[groups], log)
    return folder


def check_role(role: Role, groups: Groups, wstest: Path, program: Path) -> bool:
    """Run the suite in one role, print a report, and return whether the results are as expected."""
    started = time.monotonic()
    try:
        folder = run_role(role, groups, wstest, program)
    except RunError as error:
        print(f"Autobahn, trio_ws as {role}, {groups} groups: FAILED: {error}", flush=True)
        return False
    return report(role, groups, folder, time.monotonic() - started)


def report(role: Role, groups: Groups, folder: Path, seconds: float) -> bool:
    """Print the results of the run, and return whether they are as expected."""
    expectations = load()
    outcomes = read_outcomes(folder / "index.json", AGENT)
    listed = expectations.listed(role, groups)
    unexpected = differences(outcomes, listed, expectations.cases[groups])
    lines = [f"Autobahn, trio_ws as {role}, {groups} groups: {len(outcomes)} cases in {seconds:.0f} s"]
    lines += [f"{count:4} {outcome}" for outcome, count in Counter(outcomes.values()).most_common()]
    lines += [f"listed: {case}: {entry.outcome} ({entry.reason})" for case, entry in listed.items()]
    lines += [f"NOT AS EXPECTED {line}" for line in unexpected]
    lines.append(f"{len(unexpected)} differences; reports in {folder}" if unexpected else "all as expected")
    # One write, so that the reports of two roles do not mix.
    print("\n  ".join(lines), flush=True)
    return not unexpected


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.run", description="Run the Autobahn test suite."
    )
    parser.add_argument(
        "--groups", choices=GROUPS, default="quick", help="quick: 1 to 7 and 10 (default quick)"
    )
    parser.add_argument(
        "--role", choices=[*ROLES, "both"], default="both", help="what trio_ws is (default both)"
    )
    parser.add_argument("--server", type=Path, default=HERE / "server.py", help="another echo server to test")
    parser.add_argument("--client", type=Path, default=HERE / "client.py", help="another echo client to test")
    args = parser.parse_args()
    python27 = find_python27()
    if python27 is None:
        print("SKIP: no Python 2.7 on this machine, so the Autobahn test suite did not run")
        return 0
    try:
        wstest = install_wstest(python27)
    except RunError as error:
        print(f"FAILED: {error}")
        return 1
    roles = ROLES if args.role == "both" else (args.role,)
    programs: dict[Role, Path] = {"server": args.server, "client": args.client}
    # All of the suite takes some 20 minutes a role, most of them in wstest, so both roles run at once. The
    # quick groups run one after the other, because a few of their cases have a limit of a second.
    with ThreadPoolExecutor(len(roles) if args.groups == "all" else 1) as pool:
        checks = [pool.submit(check_role, role, args.groups, wstest, programs[role]) for role in roles]
    return 0 if all(check.result() for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
