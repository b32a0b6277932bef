"""What charts share: figures, colours, curves, and PNG files, the same bytes for the same data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import facevae.plotting.backend  # noqa: F401

# isort: split
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from facevae.common.files import atomic_write

# Okabe and Ito's, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
# Two things that are compared, and what both are measured by.
FIRST, SECOND, REFERENCE = COLOURS[0], COLOURS[4], "#333333"

_LEVEL_LINE: dict[str, Any] = {"color": REFERENCE, "linewidth": 1, "linestyle": "--"}
_GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.8}


def new_figure(height: float) -> Figure:
    """A figure 8 inches wide and `height` inches high, at 150 pixels per inch."""
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, the same bytes for the same figure."""
    with atomic_write(path) as temporary:
        # Matplotlib's own entry names its version.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def tidy(axes: Axes) -> None:
    """Show horizontal grid lines behind what is drawn, and numbers in full on the y axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", **_GRID)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def save_stacked_bars(
    groups: Sequence[Mapping[str, Mapping[str, float]]],
    names: Sequence[str],
    levels: Mapping[str, float],
    path: Path,
    *,
    title: str,
    level: str,
    x_label: str,
    y_label: str,
) -> None:
    """Write a chart of stacked bars that stand in groups, side by side.

    The smaller half of the groups has an axis of its own, on the left.

    Args:
        groups: of each group its bars by name, of each bar its parts by name, all with the same
            names in the same order; from small to large.
        names: what the groups are called.
        levels: horizontal lines by name, drawn where they are within the bars' heights.
        level: what the lines stand for.
    """
    figure = new_figure(5)
    figure.suptitle(title, fontsize=12)
    half = len(groups) // 2
    for axes, part in zip(figure.subplots(1, 2), (slice(0, half), slice(half, None)), strict=True):
        _bars(axes, groups[part], names[part], levels)
        axes.set_xlabel(x_label)
    figure.axes[0].set_ylabel(y_label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # As the parts lie on each other.
    handles, labels = handles[::-1], labels[::-1]
    handles.append(Line2D([], [], **_LEVEL_LINE))
    labels.append(level)
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    save_figure(figure, path)


def _bars(
    axes: Axes,
    groups: Sequence[Mapping[str, Mapping[str, float]]],
    names: Sequence[str],
    levels: Mapping[str, float],
) -> None:
    width = 0.38
    places: list[float] = []
    labels: list[str] = []
    highest = 0.0
    for position, group in enumerate(groups):
        for number, (bar, parts) in enumerate(group.items()):
            place = position + (number - (len(group) - 1) / 2) * (width + 0.04)
            bottom = 0.0
            for (part, value), colour in zip(parts.items(), COLOURS, strict=True):
                first = not places
                axes.bar(place, value, width, bottom, color=colour, label=part if first else None)
                bottom += value
            places.append(place)
            labels.append(bar)
            highest = max(highest, bottom)
            axes.text(
                place,
                bottom + 0.008 * highest,
                f"{bottom:,.0f}",
                ha="center",
                va="bottom",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
    axes.set_ylim(0, 1.1 * highest)
    for name, value in levels.items():
        if value < 1.1 * highest:
            axes.axhline(value, **_LEVEL_LINE)
            axes.text(-0.48, value, name, ha="left", va="bottom", fontsize=8, color=REFERENCE)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(places, labels, rotation=90, fontsize=8, minor=True)
    axes.set_xticks(range(len(groups)), names)
    axes.tick_params(axis="x", which="both", length=0)
    axes.tick_params(axis="x", which="major", pad=58)  # below the bars' own names
    tidy(axes)


def save_lines_and_levels(
    x: Sequence[float],
    panels: Mapping[str, tuple[Sequence[float], float]],
    mark: tuple[float, str],
    path: Path,
    *,
    title: str,
    x_label: str,
    line: str,
    level: str,
) -> None:
    """Write panels, one above the other, with a line over `x` and a constant to compare it to.

    Args:
        panels: by the label of the y axis, the line's values and the constant.
        mark: where on the x axis a vertical line stands, and what it says; left out beyond the
            ends of `x`.
        line, level: what the line and the constant are called.
    """
    figure = new_figure(6)
    figure.suptitle(title, fontsize=12)
    position, words = mark
    for axes, (label, (values, constant)) in zip(
        figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True
    ):
        axes.plot(x, values, color=SECOND, linewidth=2, label=line)
        axes.axhline(constant, color=FIRST, linewidth=2, linestyle="--", label=level)
        if x[0] <= position <= x[-1]:
            axes.axvline(position, color=REFERENCE, linewidth=1, linestyle=":", label=words)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        tidy(axes)
    figure.axes[0].legend(loc="lower right", frameon=False, fontsize=9)
    figure.axes[-1].set_xlabel(x_label)
    save_figure(figure, path)


@dataclass(frozen=True)
class Curve:
    """Values over x, as a line of a colour, or as the steps of a histogram with bins about x."""

    name: str
    x: np.ndarray
    values: np.ndarray
    colour: str
    dashed: bool = False
    steps: bool = False


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw curves over each other, with whole numbers along the x axis."""
    for curve in curves:
        axes.plot(
            curve.x,
            curve.values,
            color=curve.colour,
            linewidth=1.5,
            linestyle="--" if curve.dashed else "-",
            drawstyle="steps-mid" if curve.steps else "default",
            marker="o" if len(curve.x) == 1 else None,
            label=curve.name,
        )
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    tidy(axes)


def save_curves(
    panels: Mapping[str, Sequence[Curve]], path: Path, *, title: str, x_label: str
) -> None:
    """Write panels, one above the other, with curves over each other, as a PNG file.

    Args:
        panels: curves by the label of the y axis; those of the first are named in a legend.
    """
    figure = new_figure(1.4 + 2.3 * len(panels) if len(panels) > 1 else 4)
    figure.suptitle(title, fontsize=12)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(rows, panels.items(), strict=True):
        draw_curves(axes, curves)
        axes.set_ylabel(label)
        # The loss of a Gaussian Decoder is a density's, and falls below 0.
        if all(np.min(curve.values) >= 0 for curve in curves):
            axes.set_ylim(bottom=0)
    rows[0].legend(frameon=False, fontsize=9)
    rows[-1].set_xlabel(x_label)
    save_figure(figure, path)
