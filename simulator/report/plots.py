"""Curves as SVG text: the same input gives the same bytes, and the colours follow the page they are put into.

Text and axes are drawn in stand-in colours that become CSS variables, so that one drawing reads on light and on dark.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simulator.report import units

INK, GRID = "#010203", "#040506"
PALETTE = ("#3b7dd8", "#d9792b", "#2f9e77", "#b9499a", "#8a6fd1", "#b5972a")
"""Six hues of middle lightness: told apart on white and on near-black, also with red-green blindness."""

DASHES = ("solid", (0, (5, 1.6)), (0, (1.5, 1.4)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}

WAITS = {
    "0": 0,
    "10 s": 10,
    "1 min": 60,
    "10 min": 600,
    "1 h": 3600,
    "6 h": 21600,
    "1 d": 86400,
    "7 d": 604800,
    "30 d": 2592000,
}

STEPS = 700
"""Points kept of one curve: more than the pixels that it is drawn on."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One named line; `x` ascending."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def over_time(name: str, curves: Sequence[Curve], label: str, top: float | None = None) -> str:
    """Draw step curves over virtual time in seconds; `top` fixes the upper end of the axis."""
    figure, axes = _canvas()
    unit = units.time_unit(max((float(c.x[-1]) for c in curves if c.x.size), default=0.0))
    for number, curve in enumerate(curves):
        x, y = thin(curve.x, curve.y)
        axes.step(x / unit.seconds, y, where="post", label=curve.name, lw=1.5, **_look(number))
    axes.set(xlabel=f"time ({unit.name})", ylabel=label)
    axes.set_ylim(0, top)
    axes.margins(x=0.01)
    return _finish(figure, axes, name, len(curves))


def distribution(name: str, curves: Sequence[Curve], label: str) -> str:
    """Draw cumulative shares (`y` in 0..1) of times in seconds, on an axis that keeps zero and spans decades."""
    figure, axes = _canvas()
    longest = max((float(c.x.max()) for c in curves if c.x.size), default=0.0)
    for number, curve in enumerate(curves):
        x, y = thin(curve.x, curve.y)
        axes.step(x, 100 * y, where="post", label=curve.name, lw=1.5, **_look(number))
    axes.set_xscale("symlog", linthresh=10.0, linscale=0.5)
    ticks = {name: t for name, t in WAITS.items() if t <= max(longest, 60)}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.minorticks_off()
    axes.set(xlabel=label, ylabel="share of jobs (%)", ylim=(0, 101), xlim=(0, max(longest * 1.05, 60)))
    return _finish(figure, axes, name, len(curves))


def bars(
    name: str, groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], label: str, below: str = ""
) -> str:
    """Draw grouped bars: one group per entry of `groups`, one bar per series; NaN leaves a gap."""
    figure, axes = _canvas()
    width = 0.8 / max(1, len(series))
    for number, (title, heights) in enumerate(series):
        places = np.arange(len(groups)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, heights, width * 0.92, label=title, color=PALETTE[number % len(PALETTE)])
    axes.set_xticks(range(len(groups)), list(groups))
    axes.grid(False, axis="x")
    axes.set(ylabel=label, xlabel=below)
    return _finish(figure, axes, name, len(series))


def thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep the ends and, of every stretch of the curve, its lowest and highest point, so that peaks survive."""
    if x.size <= STEPS:
        return x, y
    keep = [0, x.size - 1]
    for stretch in np.array_split(np.arange(x.size), STEPS // 2):
        keep += [int(stretch[y[stretch].argmin()]), int(stretch[y[stretch].argmax()])]
    rows = np.unique(keep)
    return x[rows], y[rows]


def _look(number: int) -> dict[str, Any]:
    """Return colour and dash of the n-th curve: told apart in print too."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}


def _canvas() -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, name: str, curves: int) -> str:
    """Add a legend where there is a choice, and return the SVG element with ids of its own."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        if curves > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(curves, 4))
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('xlink:href="#', f'xlink:href="#{name}-').replace("url(#", f"url(#{name}-")
    return text.replace(INK, "var(--ink)").replace(GRID, "var(--line)")


def standalone(svg: str) -> str:
    """Return a drawing as a file of its own: dark on white."""
    filled = svg.replace("var(--ink)", "#1d2329").replace("var(--line)", "#dfe2e5")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + filled.replace("<svg ", '<svg style="background:#fff" ', 1)
