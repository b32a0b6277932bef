"""What a run has found, in four figures with a sentence each: for the page and a terminal."""

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from facevae.common.errors import UserError
from facevae.reports.inputs import damaged, read_text

_REPORTS = Path("reports")  # of the project, which is the working folder

# The values of direct and of inter_dense; None of what was not measured.
Values = tuple[float | None, float | None]


@dataclass(frozen=True)
class Finding:
    """One figure of both variants.

    Attributes:
        name: of the quantity.
        without, with_layer: the values, written for people; None if not measured.
        unit: of both, may be empty.
        sentence: what the layer does to it.
    """

    name: str
    without: str | None
    with_layer: str | None
    unit: str
    sentence: str


def read_values(path: Path) -> dict[str, Values]:
    """The values in a comparison.csv by the key of the metric.

    Raises:
        UserError: the file does not exist, or is damaged.
    """
    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
        if not rows:
            raise ValueError("it has no rows")
        return {row["key"]: (_number(row, "direct"), _number(row, "inter_dense")) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise damaged(path, error) from None


def _number(row: Mapping[str, str], column: str) -> float | None:
    return float(row[column]) if row[column] else None


def findings(values: Mapping[str, Values]) -> list[Finding]:
    """Encoder parameters, peak memory, time per epoch and quality, in this order.

    Args:
        values: of `read_values`. What is not among them was not measured.
    """

    def of(key: str) -> Values:
        return values.get(key, (None, None))

    return [
        _parameters(of("encoder.params")),
        _memory(
            of("cost.peak_memory_mib"), of("cost.estimated_peak_mib"), of("cost.batch_size")[0]
        ),
        _time(
            of("cost.seconds_per_epoch"),
            of("cost.images_per_second_lower_quartile"),
            of("cost.images_per_second_upper_quartile"),
        ),
        _quality(of("test.psnr")),
    ]


def _finding(name: str, values: Values, form: str, unit: str, sentence: str) -> Finding:
    without, with_layer = (None if value is None else form.format(value) for value in values)
    return Finding(name, without, with_layer, unit, sentence)


def _share(without: float, with_layer: float) -> str:
    percent = 100 * abs(with_layer - without) / without
    return f"{percent:.0f} %" if percent >= 0.5 else "less than 1 %"


_NOT_MEASURED = "This run has not measured it."


def _parameters(values: Values) -> Finding:
    without, with_layer = values
    unit, form = "", "{:,.0f}"
    if without is None or with_layer is None:
        sentence = _NOT_MEASURED
    else:
        if min(without, with_layer) >= 1e5:
            values, unit, form = (without / 1e6, with_layer / 1e6), "million", "{:,.2f}"
        if with_layer < without:
            sentence = f"The layer removes {_share(without, with_layer)} of them."
        elif with_layer > without:
            sentence = f"The layer adds {_share(without, with_layer)}."
        else:
            sentence = "As many with the layer as without it."
    return _finding("Encoder parameters", values, form, unit, sentence)


def _memory(values: Values, estimated: Values, batch_size: float | None) -> Finding:
    without, with_layer = values
    batch = "" if batch_size is None else f" at batch {batch_size:,.0f}"
    if without is None or with_layer is None:
        sentence = _NOT_MEASURED
    elif without == with_layer:
        sentence = "As much with the layer as without it."
    else:
        change = "saves" if with_layer < without else "costs"
        sentence = f"The layer {change} {_share(without, with_layer)}."
    if estimated[0] is not None and estimated[1] is not None:
        sentence += (
            f" The step itself: an estimated {estimated[0]:,.0f} MiB without it, "
            f"{estimated[1]:,.0f} with it."
        )
    return _finding(f"Peak memory{batch}", values, "{:,.0f}", "MiB", sentence)


def _time(values: Values, lowest: Values, highest: Values) -> Finding:
    """The quartiles `lowest` and `highest` are of images per second."""
    without, with_layer = values
    unit, form = "s", "{:,.1f}"
    if without is None or with_layer is None:
        sentence = _NOT_MEASURED
    elif not (without and with_layer):
        sentence, form = "Too short to be measured.", "{:,.3f}"
    else:
        longest = max(without, with_layer)
        if longest >= 120:
            values, unit = (without / 60, with_layer / 60), "min"
        elif longest < 1:
            form = "{:,.3f}"
        if without == with_layer:
            sentence = "As long with the layer as without it."
        elif _overlap(lowest, highest):
            sentence = "No difference beyond that between single steps."
        else:
            change = "saves" if with_layer < without else "costs"
            sentence = f"The layer {change} {_share(without, with_layer)}."
    return _finding("Time per epoch", values, form, unit, sentence)


def _overlap(lowest: Values, highest: Values) -> bool:
    (low, low_with), (high, high_with) = lowest, highest
    if low is None or low_with is None or high is None or high_with is None:
        return False
    return low <= high_with and low_with <= high


def _quality(values: Values) -> Finding:
    without, with_layer = values
    if without is None or with_layer is None:
        sentence = _NOT_MEASURED
    elif (change := round(with_layer - without, 2)) == 0:
        sentence = "Reconstructions of unseen faces are as good with the layer as without it."
    else:
        grade = "worse" if change < 0 else "better"
        sentence = (
            f"Reconstructions of unseen faces are {abs(change):.2f} dB {grade} with the layer."
        )
    return _finding("Quality (PSNR)", values, "{:,.1f}", "dB", sentence)


def summary(found: list[Finding], page: Path) -> str:
    """A line for each finding, and one that says where to see more."""

    def figures(finding: Finding) -> str:
        if finding.without is None and finding.with_layer is None:
            return "not measured"
        values = [value or "not measured" for value in (finding.without, finding.with_layer)]
        return f"{' -> '.join(values)} {finding.unit}".rstrip()

    columns = [(finding.name, figures(finding)) for finding in found]
    names, shown = (max(map(len, column)) for column in zip(*columns, strict=True))
    lines = [
        f"{name:<{names}}  {values:<{shown}}  {finding.sentence}"
        for (name, values), finding in zip(columns, found, strict=True)
    ]
    return "\n".join([*lines, f"Open {page} in a browser to see both variants' faces."])


def main() -> int:
    """Print the summary of the project's last run. Returns the exit status."""
    try:
        values = read_values(_REPORTS / "comparison.csv")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(findings(values), _REPORTS / "index.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
