"""The command ``bench``."""

from __future__ import annotations

import json

import pytest

from trio_ws.cli import main
from trio_ws.cli.bench import percentile


def test_for_people(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"{url}/echo", "--connections", "2", "--messages", "20", "--size", "10"]) == 0
    title, first, second = capsys.readouterr().out.splitlines()
    assert title.split()[:4] == ["2", "connections,", "10", "bytes"]
    assert first.split()[:3] == ["round", "trips", "40"]
    assert second.split()[:2] == ["pipelined", "40"]
    assert first.endswith("ms")


def test_for_programs(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = 2 * 1024 * 1024  # more than a client takes by default
    options = ["--connections", "1", "--messages", "2", "--size", "1000", "--json"]
    assert main(["bench", f"{url}/echo", *options]) == 0
    trips, pipelined = map(json.loads, capsys.readouterr().out.splitlines())
    assert (trips["way"], pipelined["way"]) == ("round trips", "pipelined")
    assert trips["messages"] == pipelined["messages"] == 2
    assert 0 < trips["p50"] <= trips["p99"] <= trips["seconds"]
    assert trips["per_second"] == pytest.approx(2 / trips["seconds"])
    # The error contains the server's own reason.
    assert main(["bench", f"{url}/echo", "--messages", "1", "--size", str(size)]) == 3
    assert "code 1009" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("where", "options", "code", "text"),
    [
        ("/shout", [], 1, "not what is sent"),
        ("/flood", ["--messages", "1000", "--connections", "1"], 1, "more came back than was sent"),
        ("/bye", [], 1, "echo server"),
        ("/mute", ["--timeout", "0.3"], 4, "does the server echo?"),
        ("/nowhere", [], 3, "404"),
        ("/echo", ["--connections", "10000", "--messages", "1000000"], 2, "10,000,000"),
        ("/echo", ["--messages", "0"], 2, "--messages"),
    ],
)
def test_targets_that_cannot_be_measured(
    url: str, capsys: pytest.CaptureFixture[str], where: str, options: list[str], code: int, text: str
) -> None:
    small = [] if "--connections" in options else ["--connections", "2"]
    assert main(["bench", f"{url}{where}", *small, *options]) == code
    err = capsys.readouterr().err
    assert text.replace("not what is sent", "is not what was sent") in err
    assert err.count("\n") == 1


def test_percentiles() -> None:
    hundred = [float(n) for n in range(1, 101)]
    assert (percentile(hundred, 0.5), percentile(hundred, 0.99)) == (50.0, 99.0)
    assert percentile([3.0], 0.5) == percentile([3.0], 0.99) == 3.0
