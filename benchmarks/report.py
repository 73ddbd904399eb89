"""Make tables from the JSON files of run.py, growth.py and fairness.py.

``python -m benchmarks.report FILE ...`` prints them. With ``--into PAGE ...``, each replaces the text between
its two markers in the pages that have these. So all pages show the figures of one run.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from benchmarks.load import UNITS

__all__ = [
    "answers_table",
    "extension_table",
    "fairness_table",
    "figures_table",
    "fill",
    "growth_table",
    "is_of_calls",
    "processes_table",
    "quartiles",
    "summary_table",
    "tables",
]

#: The servers in the tables of other pages than the benchmarks' own.
_ECHO_SERVERS = ("trio_ws", "aiohttp", "websockets.trio", "trio-websocket")
_WITH_EXTENSION = ("trio_ws", "trio_ws, no C", "trio-websocket")

#: Answers with the names of figures.
_ANSWERS = {
    "How many messages a second?": (
        "{echo_pipe_32} small ones are received and answered, with 100 in flight on a connection;"
        " {echo_100conns} with one in flight on each of 100 connections"
    ),
    "How many calls a second?": (
        "{rpc_pipe_100} with 100 in flight, {rpc_100conns} on 100 connections with one each"
    ),
    "How long does a round trip take?": (
        "{echo_rtt} us for a message and {rpc_rtt} us for a call, between two processes on one machine"
    ),
    "How many connections?": "{memory_5000} KiB of memory each while idle; only pings take time",
    "How many can connect at once?": "{connects} a second; TLS handshakes take longer",
    "How fast is publishing?": (
        "{channel_500} deliveries a second to 500 subscribers; a single message reaches the last of 500"
        " within {channel_500_one} ms"
    ),
    "How fast are large messages?": (
        "{echo_1m} MB a second each way in messages of 1 MiB, with the C extension"
    ),
    "What about several processors?": (
        "one process uses one; [serve_processes](../deployment.md) runs several on one port, and"
        " [Scaling](scaling.md) shows the cost of channels between them"
    ),
}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; for few values, the extremes."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4], statistics.median(ordered), ordered[-1 - len(ordered) // 4]


def _made(about: dict[str, Any], what: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{what} on {about['date']}, commit {about['commit']}, CPython {about['python']},"
        f" {about['processors']} processors, our masks in {about['mask'].title()}; {versions}."
    )


def _introduction(result: dict[str, Any]) -> list[str]:
    return [_made(result["about"], "Measured"), *(f"Note: {note}." for note in result["notes"])]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def figures_table(result: dict[str, Any]) -> str:
    """Return a table with the values of the baseline, and the ratios of each server to it, with quartiles."""
    rows: list[dict[str, Any]] = result["rows"]
    texts = [_made(result["about"], f"Medians of {result['about']['rounds']} rounds [quartiles]")]
    for baseline, of_calls in (("picows", False), ("webshocket", True)):
        part = [row for row in rows if is_of_calls(row["figure"]) is of_calls]
        peers = sorted({row["peer"] for row in part} - {baseline}, key=lambda peer: (peer != "trio_ws", peer))
        lines: list[list[str]] = []
        for figure in dict.fromkeys(row["figure"] for row in part):
            mine = [row for row in part if row["figure"] == figure]
            unit = mine[0]["unit"]
            base = [row["value"] for row in mine if row["peer"] == baseline]
            line = [f"`{figure}`", f"{_number(statistics.median(base))} {unit}" if base else ""]
            for peer in peers:
                ratios = [row["ratio"] for row in mine if row["peer"] == peer and "ratio" in row]
                line.append(_ratio(ratios))
            cpu = [row["cpu_us"] for row in mine if row["peer"] == "trio_ws" and row["cpu_us"]]
            line.append(f"{statistics.median(cpu):.2f}" if cpu else "")
            lines.append(line)
        if lines:
            texts.append(_markdown(["figure", baseline, *peers, "trio_ws, CPU us"], lines))
    return "\n\n".join(texts)


def is_of_calls(figure: str) -> bool:
    """Whether a figure is about calls, and not about plain messages."""
    return figure.startswith(("rpc_", "stream", "channel_"))


def _ratio(ratios: list[float]) -> str:
    if not ratios:
        return ""
    low, middle, high = quartiles(ratios)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _median(result: dict[str, Any], figure: str, peer: str, key: str = "value") -> float:
    found: list[float] = [
        row[key] for row in result["rows"] if row["figure"] == figure and row["peer"] == peer
    ]
    return statistics.median(found)


def summary_table(result: dict[str, Any]) -> str:
    """Return the table of the project's README: a few figures of a few servers."""
    lines = [
        [
            peer,
            *(
                f"{_median(result, figure, peer, 'ratio'):.2f}"
                for figure in ("echo_rtt", "echo_pipe_32", "connects")
            ),
            f"{_median(result, 'memory_5000', peer):.1f} KiB",
        ]
        for peer in _ECHO_SERVERS
    ]
    head = ["echo server, times the speed of picows (compiled)", "one in flight", "100 in flight", "connects"]
    return _markdown([*head, "memory"], lines)


def extension_table(result: dict[str, Any]) -> str:
    """Return what the C extension adds to the figures on one connection."""
    titles = {
        "echo_pipe_32": "32 bytes, 100 in flight",
        "echo_pipe_1k": "1 KiB, 100 in flight",
        "echo_64k": "64 KiB, 4 in flight",
        "echo_1m": "1 MiB, 2 in flight",
    }
    lines = [
        [title, *(f"{_median(result, figure, peer, 'ratio'):.2f}" for peer in _WITH_EXTENSION)]
        for figure, title in titles.items()
    ]
    return _markdown(["messages", "with the extension", "in Python", "trio-websocket"], lines)


def _rounded(value: float) -> str:
    """Two digits, and zeros."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def answers_table(result: dict[str, Any]) -> str:
    """Return what a user wants to know first, in absolute figures."""
    names = {row["figure"] for row in result["rows"] if row["peer"] == "trio_ws"}
    ours = {name: _rounded(_median(result, name, "trio_ws")) for name in names}
    lines = [[question, answer.format_map(ours)] for question, answer in _ANSWERS.items()]
    return _markdown(["question", "answer"], lines)


def growth_table(result: dict[str, Any]) -> str:
    """Return a table for each curve, with a row for each point and a column for each server."""
    texts = _introduction(result)
    curves: list[dict[str, Any]] = result["curves"]
    for name in dict.fromkeys(curve["name"] for curve in curves):
        mine = [curve for curve in curves if curve["name"] == name]
        points = sorted({point for curve in mine for point, _ in curve["points"]})
        by_peer = [dict(curve["points"]) for curve in mine]
        lines = [
            [
                f"{point:,}",
                *(_number(values[point]) if point in values else "" for values in by_peer),
            ]
            for point in points
        ]
        title = f"{mine[0]['title']}, {mine[0]['unit']}"
        texts.append(
            f"**{title}**\n\n" + _markdown([mine[0]["along"], *(curve["peer"] for curve in mine)], lines)
        )
    return "\n\n".join(texts)


def fairness_table(result: dict[str, Any]) -> str:
    """Return the table of fairness.py."""
    lines = [
        [row["peer"], row["case"], *(f"{row[key]:.2f}" for key in ("idle_ms", "wall_ms", "cpu_ms"))]
        for row in result["rows"]
    ]
    head = ["server", "meanwhile", "idle, ms", "more than idle, ms", "CPU of the server in it, ms"]
    return "\n\n".join([*_introduction(result), _markdown(head, lines)])


def processes_table(result: dict[str, Any]) -> str:
    """What a message costs the same server in one and in two processes, and how much more two can do."""
    rows: list[dict[str, Any]] = result["rows"]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        costs = [
            _number(statistics.median(row[key] for row in mine)) for key in ("one_us", "two_us", "share")
        ]
        lines.append([kind, *costs, _ratio([row["times"] for row in mine])])
    head = ["", "CPU us in one process", "in two", "share of connections of the busier", "times as many"]
    return "\n\n".join([*_introduction(result), _markdown(head, lines)])


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the tables of a result, by the names of their places."""
    if "curves" in result:
        return {"growth": growth_table(result)}
    if result["rows"] and "case" in result["rows"][0]:
        return {"fairness": fairness_table(result)}
    if result["rows"] and "times" in result["rows"][0]:
        return {"processes": processes_table(result)}
    made = {"figures": figures_table(result)}
    if {row["peer"] for row in result["rows"]} >= {*_ECHO_SERVERS, *_WITH_EXTENSION} and {
        row["figure"] for row in result["rows"]
    } >= set(UNITS):
        made["summary"] = summary_table(result)
        made["extension"] = extension_table(result)
        made["answers"] = answers_table(result)
    return made


def fill(text: str, name: str, table: str) -> str:
    """Replace the table of this name in a text, if it has a place there."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", nargs="+", type=Path, metavar="PAGE")
    args = parser.parse_args()
    for file in args.files:
        for name, table in tables(json.loads(file.read_text())).items():
            if args.into is None:
                print(table)
            for page in args.into or ():
                page.write_text(fill(page.read_text(), name, table))


if __name__ == "__main__":
    main()
