"""The benchmarks: each of their measurements runs once, in its smallest form. Nothing is timed here."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

needed = ("matplotlib", "uvloop", "picows", "aiohttp", "websockets", "trio_websocket", "webshocket")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing or sys.platform != "linux":
    pytest.skip(f"the benchmarks need Linux and the bench extra: {missing}", allow_module_level=True)

from benchmarks import (  # noqa: E402
    callers,
    fairness,
    floor,
    growth,
    load,
    processes,
    report,
    run,
    scaling,
    servers,
    wire,
)

pytestmark = pytest.mark.repeats
ROOT = Path(run.__file__).parent.parent


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    """Every figure of every server, in one run."""
    result = run.measure_all(1, list(load.MEASURES), run.NAMES, load.SMALLEST)
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def test_every_figure_and_every_peer(figures: dict[str, Any]) -> None:
    measured = {(row["figure"], row["peer"]) for row in figures["rows"]}
    wanted = {
        (figure, peer)
        for figure in load.UNITS
        for peer in (servers.CALLERS if report.is_of_calls(figure) else servers.PEERS)
    }
    assert measured == wanted
    assert all(row["value"] > 0 and row["ratio"] > 0 for row in figures["rows"])
    assert {row["unit"] for row in figures["rows"]} == {"us", "ms", "/s", "MB/s", "KiB"}


def test_the_table_of_figures(figures: dict[str, Any]) -> None:
    table = report.tables(figures)["figures"]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [row for row in load.UNITS if f"`{row}`" in table]
    assert len(lines) == len(load.UNITS)
    for line in lines:
        peers = servers.CALLERS if report.is_of_calls(line.split("`")[1]) else servers.PEERS
        assert line.count("[") == len(peers) - 1  # each but the baseline, with quartiles


def test_tables_of_other_pages(figures: dict[str, Any]) -> None:
    tables = report.tables(figures)
    assert "| websockets.trio | " in tables["summary"]
    assert tables["extension"].count("\n") == 5
    assert "a connection; " in tables["answers"]
    figures = figures | {"rows": [row for row in figures["rows"] if row["figure"] == "echo_rtt"]}
    assert list(report.tables(figures)) == ["figures"]


def test_the_plots_of_figures(figures: dict[str, Any], tmp_path: Path) -> None:
    from benchmarks.plot import draw  # noqa: PLC0415 - it takes a second to import

    made = draw(figures, tmp_path)
    assert [file.name for file in made] == ["messages.svg", "calls.svg"]
    for file in made:
        assert ET.parse(file).getroot().tag.endswith("svg")


def test_a_ratio_is_to_the_two_slices_beside_it() -> None:
    measuring = run.Run(load.SMALLEST)
    rate = [load.Sample({"echo_pipe_32": value}) for value in (100.0, 300.0)]
    measuring.keep("trio_ws", 0, load.Sample({"echo_pipe_32": 400.0}), rate)
    time = [load.Sample({"echo_rtt": value}) for value in (100.0, 300.0)]
    measuring.keep("trio_ws", 0, load.Sample({"echo_rtt": 400.0}), time)
    assert [row["ratio"] for row in measuring.rows] == [2.0, 0.5]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], (3.0, 3.0, 3.0)), ([1.0, 2.0, 9.0], (1.0, 2.0, 9.0)), ([5.0, 1, 2, 3, 4], (2.0, 3.0, 4.0))],
)
def test_quartiles(values: list[float], expected: tuple[float, float, float]) -> None:
    assert report.quartiles(values) == expected


def test_growth(tmp_path: Path) -> None:
    from benchmarks.plot import draw  # noqa: PLC0415

    result = json.loads(json.dumps(growth.grow(growth.SMALLEST)))
    names = {curve["name"] for curve in result["curves"]} - {"memory"}  # which two connections need not show
    assert names == {"latency", "last", "delivery", "echoes", "bytes", "served", "made", "client_cpu"}
    for curve in result["curves"]:
        assert all(value >= 0 for _, value in curve["points"])
        assert curve["peer"].startswith("trio_ws") or curve["peer"] in run.NAMES
    table = report.tables(result)["growth"]
    assert "**round trip on one of many connections, us**" in table
    (made,) = draw(result, tmp_path)
    assert ET.parse(made).getroot().tag.endswith("svg")


def test_fairness() -> None:
    result = json.loads(json.dumps(fairness.measure(fairness.SMALLEST, ["trio_ws"])))
    assert [row["case"] for row in result["rows"]] == [
        "flood of messages, p99",
        "1,024 bytes, longest",
        "2 subscribers, broadcast, longest",
        "flood of calls, p99",
        "2 subscribers, channel, longest",
        "1,024 bytes inflated and deflated, longest",
    ]
    assert all(row["idle_ms"] > 0 for row in result["rows"])
    table = report.tables(result)["fairness"]
    assert "| trio_ws | flood of calls, p99 |" in table


def test_processes() -> None:
    result = json.loads(json.dumps(processes.measure(1, connections=4, messages=20)))
    assert [row["kind"] for row in result["rows"]] == ["calls", "echoes"]
    assert all(0.5 <= row["share"] <= 1 for row in result["rows"])
    table = report.tables(result)["processes"]
    assert "| calls |" in table


def test_callers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "CALLS", 100)
    callers.measure(1)
    assert "webshocket" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on this machine")
def test_scaling() -> None:
    found = json.loads(json.dumps(scaling.measure(500)))
    assert set(found["redis"]) == {field.name for field in dataclasses.fields(scaling.Costs)}
    assert all(value >= 0 for heading in found.values() for value in heading.values())
    site = scaling.Site(connections=1000, processes=10, room_size=1)
    assert site.spread == pytest.approx(1)
    assert scaling.model(scaling.Costs(*[1.0] * 8), site)["subscriptions"] == pytest.approx(2000)


def test_clients_that_all_come_back_at_once_are_slower_than_those_with_jitter() -> None:
    spread = scaling.herd(clients=1000, rate=200, jitter=True)
    together = scaling.herd(clients=1000, rate=200, jitter=False)
    assert spread["all"] < together["all"]
    assert spread["peak"] < together["peak"] == 10_000
    assert scaling.herd(clients=10, rate=1000, jitter=True)["attempts"] == 1


def test_the_pages_have_a_place_for_every_table() -> None:
    (pages,) = re.findall(r"^TABLES := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    texts = [(ROOT / page).read_text() for page in pages.split()]
    for name in ("figures", "growth", "fairness", "processes", "summary", "extension", "answers"):
        assert sum("a table" in report.fill(text, name, "a table") for text in texts) == 1
    assert all(report.fill(text, "nothing", "a table") == text for text in texts)


def test_frames_are_counted_across_reads() -> None:
    frames = b"\x82\x01a" + b"\x82\x7e\x00\x80" + b"b" * 128 + b"\x82\x7f" + (70_000).to_bytes(8, "big")
    assert wire.count_frames(frames) == (2, 135)
    assert wire.count_frames(frames + b"c" * 69_999) == (2, 135)
    assert wire.count_frames(frames + b"c" * 70_000) == (3, len(frames) + 70_000)


def test_requests_are_taken_in_turns() -> None:
    requests = wire.Requests([b"1", b"2", b"3"])
    assert [bytes(requests.take(count)) for count in (2, 2, 5)] == [b"12", b"31", b"231"]
    with pytest.raises(ValueError, match="several lengths"):
        wire.Requests([b"1", b"23"])


def test_other_publishers_are_noticed() -> None:
    with servers.running(servers.PEERS["trio_ws"]) as server:
        audience = load.FanOut(server, 2, calls=False)
        other = wire.connect(server.port, "/pub")
        other.sendall(wire.client_frame(b"1 40", 1))
        wire.receive(other)
        with pytest.raises(RuntimeError, match="too much"):
            audience.publish(1)
        load.close_all([other])
        audience.close()


def test_servers_that_only_receive_and_send() -> None:
    rows = floor.measure(1, load.SMALLEST)["rows"]
    small = set(floor.FIGURES) - set(floor.LARGE)
    wanted = {(figure, name) for figure in small for name in floor.SMALL_ONLY}
    others = {"picows", "trio_ws", *floor.FLOORS} - set(floor.SMALL_ONLY)
    wanted |= {(figure, name) for figure in floor.FIGURES for name in others}
    assert {(row["figure"], row["peer"]) for row in rows} == wanted
