"""Charts as PNG files, the same bytes for the same numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from facevae.files import written_whole

# Okabe and Ito's, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/).
_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_LINE, _LEVEL, _MARK = "#0072B2", "#D55E00", "#333333"
_LEVEL_LINE: dict[str, Any] = {"color": _MARK, "linewidth": 1, "linestyle": "--"}


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as temporary:
        # Matplotlib's own entry names its version.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


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
    figure = _figure(5)
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
    _save(figure, path)


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
            for (part, value), colour in zip(parts.items(), _COLOURS, strict=True):
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
            axes.text(-0.48, value, name, ha="left", va="bottom", fontsize=8, color=_MARK)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(places, labels, rotation=90, fontsize=8, minor=True)
    axes.set_xticks(range(len(groups)), names)
    axes.tick_params(axis="x", which="both", length=0)
    axes.tick_params(axis="x", which="major", pad=58)  # below the bars' own names
    _tidy(axes)


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
    figure = _figure(6)
    figure.suptitle(title, fontsize=12)
    position, words = mark
    for axes, (label, (values, constant)) in zip(
        figure.subplots(len(panels), 1, sharex=True), panels.items(), strict=True
    ):
        axes.plot(x, values, color=_LINE, linewidth=2, label=line)
        axes.axhline(constant, color=_LEVEL, linewidth=2, linestyle="--", label=level)
        if x[0] <= position <= x[-1]:
            axes.axvline(position, color=_MARK, linewidth=1, linestyle=":", label=words)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        _tidy(axes)
    figure.axes[0].legend(loc="lower right", frameon=False, fontsize=9)
    figure.axes[-1].set_xlabel(x_label)
    _save(figure, path)


def save_labelled_points(
    panels: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]],
    highlighted: str,
    path: Path,
    *,
    title: str,
) -> None:
    """Write panels, two in a row, with a few points that bear their names.

    Args:
        panels: by the labels of the x and the y axis, the points by name.
        highlighted: the point to set off from the others.
    """
    figure = _figure(6.5)
    figure.suptitle(title, fontsize=12)
    axes_of = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).flat
    for axes, ((x_label, y_label), points) in zip(axes_of, panels.items(), strict=True):
        for name, (x, y) in points.items():
            other = name == highlighted
            axes.plot(x, y, "D" if other else "o", color=_LEVEL if other else _LINE)
            axes.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=8)
        axes.margins(0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
    _save(figure, path)
