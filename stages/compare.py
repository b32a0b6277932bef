"""Put both variants side by side, and the source's claims beside what this run measured."""

import json
from pathlib import Path
from typing import Any

from _stage import arguments, run
from facevae.common.files import write_text
from facevae.common.parameters import VARIANTS
from facevae.reports.comparison import comparison_csv, comparison_markdown, comparison_rows


def _measured(folder: Path, variant: str) -> dict[str, Any]:
    metrics = json.loads((folder / f"{variant}.json").read_text(encoding="utf-8"))
    cost = json.loads((folder / f"{variant}_cost.json").read_text(encoding="utf-8"))
    return {**metrics, "cost": cost}


def main() -> None:
    options, parameters = arguments(
        __doc__,
        metrics="folder of the evaluate stages' JSON files",
        markdown="report to write",
        csv="table to write",
    )
    direct, inter_dense = (_measured(options.metrics, variant) for variant in VARIANTS)
    rows = comparison_rows(direct, inter_dense)
    write_text(options.csv, comparison_csv(rows))
    write_text(options.markdown, comparison_markdown(parameters, rows, direct, inter_dense))


if __name__ == "__main__":
    run(main)
