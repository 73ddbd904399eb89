"""The examples about calls, each run as a process."""

from __future__ import annotations

from tests.test_examples import run


def test_calculator() -> None:
    lines = run("calculator.py").splitlines()
    assert lines[:3] == ["20 + 22 = 42", "1 / 4 = 0.25", "counting: [1, 2, 3, 4, 5]"]
    assert lines[3] == "RPCError (-32001): nothing can be divided by zero"
    assert lines[4].startswith("RPCInvalidParamsError (-32602): b: ")
    assert lines[5].startswith("RPCMethodNotFoundError (-32601): ")
    assert lines[6:] == ["by a proxy: 3"]


def test_tokens() -> None:
    *taken, left, closed = run("tokens.py").splitlines()
    for line, count in zip(taken, (8, 16, 24), strict=True):
        assert line.startswith(f"taken {count}, made ")
        made = int(line.split()[3].rstrip(","))
        assert count <= made <= count + 8
    assert left == "left the stream; calls go on: True"
    assert closed == "the generator was closed after 32 of 320 tokens"


def test_login() -> None:
    lines = run("login.py").splitlines()
    limited = lines.pop(4)
    assert limited.startswith("login with 'builder': try again in ")
    assert 0 < int(limited.split()[-2]) <= 60
    assert lines == [
        "a stranger: access to whoami denied",
        "login with 'guess': wrong name or password",
        "login with 'other guess': wrong name or password",
        "login with 'builder': welcome",
        "I am bob",
        "bob shuts down: access to shut_down denied",
        "alice shuts down: good night",
    ]


def test_call_the_client() -> None:
    lines = run("call_the_client.py").splitlines()
    assert lines[:5] == [
        "asked: install trio?",
        "trio: installed",
        "asked: install virus?",
        "virus: left alone",
        "asked: install slow?",
    ]
    # The abort and the answer may arrive in one read, and then wake two tasks in any order.
    assert sorted(lines[5:]) == ["slow: nobody answered", "too late, says the server"]


def test_upload() -> None:
    ended, small, again, refused = run("upload.py").splitlines()
    assert ended == again == "the upload has ended"
    assert "'bytes': 409600" in small
    assert refused == "refused: endless.bin is too big"
