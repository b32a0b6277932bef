"""Compare both variants, and the claims of the blog post of 2022 with what this run measured."""

from pathlib import Path
from typing import Any

from _stage import arguments, run
from facevae.common.files import write_text
from facevae.common.parameters import VARIANTS
from facevae.reports.comparison import comparison_csv, comparison_markdown, comparison_rows
from facevae.reports.inputs import read_json


def _measured(folder: Path, variant: str) -> dict[str, Any]:
    measured = read_json(folder / f"{variant}.json")
    measured["cost"] = read_json(folder / f"{variant}_cost.json")
    return measured


def main() -> None:
    options, parameters = arguments(
        __doc__, "metrics", markdown="Markdown report to write", csv="CSV table to write"
    )
    direct, inter_dense = (_measured(options.metrics, variant) for variant in VARIANTS)
    train_images = read_json(options.metrics / "data.json")["images"]["train"]
    rows = comparison_rows(parameters, direct, inter_dense, train_images)
    write_text(options.csv, comparison_csv(rows))
    write_text(options.markdown, comparison_markdown(parameters, rows, direct, inter_dense))


if __name__ == "__main__":
    run(main)
