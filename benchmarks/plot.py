"""Plots out of the JSON files of run.py and growth.py.

``python -m benchmarks.plot FILE ... --into docs/plots``. SVG without a background, in middle tones, so that
they can be read on a light page and on a dark one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.load import UNITS
from benchmarks.report import is_of_calls

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

GREY = "#808080"
OURS = "#d9541e"
OTHERS = ["#2f81c7", "#2f9e6e", "#a06cc8", "#b8860b", "#c75b8a", "#4f9aa8", "#8c8c3a", "#9a6a4f"]
MARKS = "osD^vP*X"

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
    "svg.hashsalt": "trio_ws",  # the same bytes for the same figures
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def draw(result: dict[str, Any], into: Path) -> list[Path]:
    """Draw what a result holds; the files that were made."""
    into.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context():
        mpl.rcdefaults()  # none of a user's own settings may get in
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


def _colours(peers: list[str]) -> dict[str, str]:
    others = [peer for peer in peers if not peer.startswith("trio_ws")]
    ours = [peer for peer in peers if peer.startswith("trio_ws")]
    colours = {peer: OTHERS[number % len(OTHERS)] for number, peer in enumerate(others)}
    return colours | dict(zip(ours, (OURS, "#e8a33d"), strict=False))


def _draw_ratios(rows: list[dict[str, Any]], baseline: str, file: Path) -> Path:
    """A line for each figure, a mark on it for each server."""
    figures = [figure for figure in UNITS if any(row["figure"] == figure for row in rows)]
    peers = sorted({row["peer"] for row in rows} - {baseline}, key=lambda peer: peer != "trio_ws")
    colours = _colours(peers)
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(figures)), layout="constrained")
    axes = figure.subplots()
    for number, peer in enumerate(peers):
        at: list[int] = []
        ratios: list[float] = []
        for line, name in enumerate(figures):
            mine = [row["ratio"] for row in rows if row["figure"] == name and row["peer"] == peer]
            if mine:
                at.append(line)
                ratios.append(statistics.median(mine))
        ours = peer == "trio_ws"
        axes.scatter(
            ratios,
            at,
            s=70 if ours else 28,
            marker=MARKS[number % len(MARKS)],
            color=colours[peer],
            label=peer,
            zorder=3 if ours else 2,
        )
    axes.axvline(1.0, color=GREY, linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.set_xlabel(f"times {baseline}: more is better")
    axes.set_yticks(range(len(figures)), figures)
    axes.invert_yaxis()
    axes.grid(axis="both")
    figure.legend(loc="outside right upper", fontsize=8)
    return _save(figure, file)


def _draw_growth(curves: list[dict[str, Any]], file: Path) -> Path:
    """A panel for each kind of curve, both axes logarithmic."""
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
    colours = _colours([curve["peer"] for curve in curves])
    for number, curve in enumerate(curves):
        points, values = zip(*curve["points"], strict=True)
        axes.plot(
            points,
            values,
            marker=MARKS[number % len(MARKS)],
            markersize=4,
            color=colours[curve["peer"]],
            label=curve["peer"],
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(f"{curves[0]['title']}, {curves[0]['unit']}", fontsize=9)
    axes.set_xlabel(curves[0]["along"])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
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
