"""Building blocks of charts, as SVG or PNG files; the same data gives the same bytes.

An SVG file turns dark where its reader's page is dark.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import facevae.plotting.backend  # noqa: F401

# isort: split
import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from facevae.common.files import atomic_write, write_text

# Okabe and Ito's palette, which colour-blind readers can distinguish
# (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
# Of the variants in every chart, and of what both are compared with.
VARIANT_COLOURS = {"direct": COLOURS[0], "inter_dense": COLOURS[4]}
REFERENCE = "#333333"

_LEVEL_LINE: dict[str, Any] = {"color": REFERENCE, "linewidth": 1, "linestyle": "--"}
_GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.8}


# In a dark page: the page's ground, and what would be too dark on it.
_DARK = {
    "#ffffff": "#14171a",
    "#000000": "#e4e6e8",
    REFERENCE: "#c3c7cb",
    _GRID["color"]: "#363b40",
    COLOURS[0].lower(): "#2a8ad4",
}
# Matplotlib writes no colour where it is black, the default of SVG.
_DARK_RULES = "".join(
    f'[style*="{kind}: {light}"] {{{kind}: {dark} !important}} '
    for light, dark in _DARK.items()
    for kind in ("fill", "stroke")
)
_DARK_STYLE = (
    f"@media (prefers-color-scheme: dark) {{svg {{fill: {_DARK['#000000']}}} {_DARK_RULES}}}"
)


def new_figure(height: float) -> Figure:
    """A figure 6.4 inches wide, which a phone can show, and `height` inches high."""
    figure = Figure(figsize=(6.4, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure with the same bytes for the same figure: SVG if the path ends so, or PNG."""
    # By default Matplotlib adds its version and the time to the file.
    if path.suffix != ".svg":
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        return
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "facevae"}):
        figure.savefig(text, format="svg", metadata={"Creator": None, "Date": None})
    write_text(path, text.getvalue().replace("</style>", f"{_DARK_STYLE}</style>", 1))


def tidy(axes: Axes) -> None:
    """Draw horizontal grid lines behind the data, and write the numbers of the y axis in full."""
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
    """Write a chart of stacked bars in groups, as an SVG or PNG file.

    The first half of the groups, those with the lower bars, has its own y axis, on the left.

    Args:
        groups: for each group, its bars by name; for each bar, the heights of its parts by name.
            All have the same names in the same order. The groups go from low to high bars.
        names: labels of the groups.
        levels: horizontal lines by label; a line above the bars is not drawn.
        path: the file, .svg or .png.
        title: of the figure.
        level: what the horizontal lines stand for, in the legend.
        x_label, y_label: of the axes.
    """
    figure = new_figure(5.4)
    figure.suptitle(title, fontsize=12)
    half = len(groups) // 2
    for axes, part in zip(figure.subplots(1, 2), (slice(0, half), slice(half, None)), strict=True):
        _bars(axes, groups[part], names[part], levels)
        axes.set_xlabel(x_label)
    figure.axes[0].set_ylabel(y_label)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    # In the order in which the parts are stacked, the top one first.
    handles, labels = handles[::-1], labels[::-1]
    handles.append(Line2D([], [], **_LEVEL_LINE))
    labels.append(level)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
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
    axes.tick_params(axis="x", which="major", pad=58)  # below the names of the bars
    tidy(axes)


def save_lines_and_levels(
    x: Sequence[float],
    panels: Mapping[str, tuple[Sequence[float], float]],
    mark: tuple[float, str],
    path: Path,
    *,
    title: str,
    x_label: str,
) -> None:
    """Write panels, one above the other, each with a line and a constant over `x`, as a file.

    Args:
        x: values on the x axis, ascending.
        panels: by the label of the y axis, the values of inter_dense, a line, and of direct, a
            constant.
        mark: position of a vertical line, and its entry in the legend; outside the range of `x`
            it is not drawn.
        path: the file, .svg or .png.
        title: of the figure.
        x_label: of the x axis.
    """
    figure = new_figure(6)
    figure.suptitle(title, fontsize=12)
    position, mark_label = mark
    for axes, (label, (values, constant)) in zip(
        figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True
    ):
        colours = VARIANT_COLOURS
        axes.plot(x, values, color=colours["inter_dense"], linewidth=2, label="inter_dense")
        axes.axhline(constant, color=colours["direct"], linewidth=2, linestyle="--", label="direct")
        if x[0] <= position <= x[-1]:
            axes.axvline(position, color=REFERENCE, linewidth=1, linestyle=":", label=mark_label)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        tidy(axes)
    figure.axes[0].legend(loc="lower right", frameon=False, fontsize=9)
    figure.axes[-1].set_xlabel(x_label)
    save_figure(figure, path)


@dataclass(frozen=True)
class Curve:
    """Values over x, drawn as a line or as the steps of a histogram.

    Attributes:
        name: entry in the legend.
        x, values: both (count,); with `steps`, x is the middle of each bin.
        colour: a Matplotlib colour.
        dashed: whether the line is dashed.
        steps: whether to draw steps.
    """

    name: str
    x: np.ndarray
    values: np.ndarray
    colour: str
    dashed: bool = False
    steps: bool = False


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw curves into one panel, with whole numbers along the x axis."""
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
    """Write panels, one above the other, each with one or more curves, as an SVG or PNG file.

    Args:
        panels: the curves of each panel, by the label of its y axis. The legend names the curves
            of the first panel.
        path: the file, .svg or .png.
        title: of the figure.
        x_label: of the x axis.
    """
    figure = new_figure(1.4 + 2.3 * len(panels) if len(panels) > 1 else 4)
    figure.suptitle(title, fontsize=12)
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(rows, panels.items(), strict=True):
        draw_curves(axes, curves)
        axes.set_ylabel(label)
        # The loss of a Gaussian Decoder is a negative log density, and can be below 0.
        if all(np.min(curve.values) >= 0 for curve in curves):
            axes.set_ylim(bottom=0)
    # Named, because the default warns where the machine is busy.
    rows[0].legend(loc="best", frameon=False, fontsize=9)
    rows[-1].set_xlabel(x_label)
    save_figure(figure, path)
