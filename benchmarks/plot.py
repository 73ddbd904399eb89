"""Draw plots from the JSON files of run.py and growth.py.

``python -m benchmarks.plot FILE ... --into docs/plots``. The plots are SVG files without a background, in
medium tones, so that they are readable on light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.load import UNITS
from benchmarks.report import is_of_calls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

__all__ = ["draw"]

GREY = "#808080"
#: The colour and the marker of each library; those of variants are hollow.
LOOKS = {
    "trio_ws": ("#d9541e", "o"),
    "trio_ws App": ("#e58a5f", "o"),
    "trio_ws listener": ("#a8330a", "h"),
    "picows": ("#2f81c7", "s"),
    "granian": ("#6b6f2a", "p"),
    "aiohttp": ("#2f9e6e", "D"),
    "websockets": ("#a06cc8", "^"),
    "websockets.trio": ("#b8860b", "v"),
    "trio-websocket": ("#c75b8a", "P"),
    "webshocket": ("#4f9aa8", "X"),
}

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.labelcolor": GREY,
    "legend.frameon": False,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "trio_ws",  # the same bytes for the same figures
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw(result: dict[str, Any], into: Path) -> list[Path]:
    """Draw the plots of a result, and return their files."""
    into.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context():
        mpl.rcdefaults()  # ignore the settings of the user
        mpl.rcParams.update(STYLE)
        if "curves" in result:
            return [_draw_growth(result["curves"], into / "growth.svg")]
        rows = result["rows"]
        of_calls = {row["figure"] for row in rows if is_of_calls(row["figure"])}
        made = []
        for name, baseline, wanted in (
            ("messages", "picows", {row["figure"] for row in rows} - of_calls),
            ("calls", "webshocket", of_calls),
        ):
            part = [row for row in rows if row["figure"] in wanted and "ratio" in row]
            if part:
                made.append(_draw_ratios(part, baseline, into / f"{name}.svg"))
        return made


def _look(peer: str) -> dict[str, Any]:
    library = re.split(r" \+ |, ", peer)[0]
    colour, mark = LOOKS[library]
    hollow = peer not in (library, f"{library}, broadcast")
    return {"color": colour, "marker": mark, "markerfacecolor": "none" if hollow else colour}


def _ticks(axis: Axis, unit: str = "") -> None:
    """Label an axis with plain numbers at 1, 2 and 5 of each decade, or only at 1 if there are many."""
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}{unit}"))


def _draw_ratios(rows: list[dict[str, Any]], baseline: str, file: Path) -> Path:
    """Draw a line for each figure, with a marker for each server."""
    figures = [figure for figure in UNITS if any(row["figure"] == figure for row in rows)]
    peers = sorted({row["peer"] for row in rows} - {baseline}, key=lambda peer: (peer != "trio_ws", peer))
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(figures)), layout="constrained")
    axes = figure.subplots()
    for peer in peers:
        at: list[int] = []
        ratios: list[float] = []
        for line, name in enumerate(figures):
            mine = [row["ratio"] for row in rows if row["figure"] == name and row["peer"] == peer]
            if mine:
                at.append(line)
                ratios.append(statistics.median(mine))
        ours = peer == "trio_ws"
        size = 9 if ours else 5
        axes.plot(
            ratios, at, linestyle="", markersize=size, label=peer, zorder=3 if ours else 2, **_look(peer)
        )
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.set_xscale("log")
    _ticks(axes.xaxis, "x")
    axes.set_xlabel(f"times {baseline}: more is better")
    axes.set_yticks(range(len(figures)), figures)
    axes.invert_yaxis()
    axes.grid(axis="both")
    figure.legend(loc="outside right upper", fontsize=8)
    return _save(figure, file)


def _draw_growth(curves: list[dict[str, Any]], file: Path) -> Path:
    """Draw a panel for each kind of curve, with logarithmic axes."""
    names = list(dict.fromkeys(curve["name"] for curve in curves))
    lines = (len(names) + 1) // 2
    figure = Figure(figsize=(9, 2.6 * lines), layout="constrained")
    panels = list(figure.subplots(lines, 2, squeeze=False).flat)
    for panel, name in zip(panels, names, strict=False):
        _draw_panel(panel, [curve for curve in curves if curve["name"] == name])
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    return _save(figure, file)


def _draw_panel(axes: Axes, curves: list[dict[str, Any]]) -> None:
    for curve in curves:
        points = [point for point, value in curve["points"] if value > 0]
        values = [value for _, value in curve["points"] if value > 0]
        line = "--" if curve["peer"] == "trio_ws, channel" else "-"
        axes.plot(points, values, linestyle=line, markersize=4, label=curve["peer"], **_look(curve["peer"]))
    axes.set_xscale("log")
    axes.set_yscale("log")
    _ticks(axes.xaxis)
    _ticks(axes.yaxis)
    axes.set_title(f"{curves[0]['title']}, {curves[0]['unit']}", fontsize=9)
    axes.set_xlabel(curves[0]["along"])
    axes.grid(visible=True)
    axes.legend(fontsize=7)


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, default=Path("docs/plots"))
    args = parser.parse_args()
    for file in args.files:
        for made in draw(json.loads(file.read_text()), args.into):
            print(made)


if __name__ == "__main__":
    main()
