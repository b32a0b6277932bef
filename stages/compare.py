"""Put both variants side by side, and the source's claims beside what this run measured."""

import json
from pathlib import Path
from typing import Any

from _stage import arguments, run
from facevae.comparison import comparison_csv, comparison_markdown, comparison_rows
from facevae.files import written_whole
from facevae.parameters import VARIANTS


def _measured(folder: Path, variant: str) -> dict[str, Any]:
    metrics = json.loads((folder / f"{variant}.json").read_text(encoding="utf-8"))
    cost = json.loads((folder / f"{variant}_cost.json").read_text(encoding="utf-8"))
    return {**metrics, "cost": cost}


def main() -> None:
    options, parameters = arguments(
        __doc__,
        metrics={"help": "folder of the evaluate stages' JSON files"},
        markdown={"help": "report to write"},
        csv={"help": "table to write"},
    )
    direct, inter_dense = (_measured(options.metrics, variant) for variant in VARIANTS)
    rows = comparison_rows(direct, inter_dense)
    with written_whole(options.csv) as temporary:
        temporary.write_text(comparison_csv(rows), encoding="utf-8")
    with written_whole(options.markdown) as temporary:
        report = comparison_markdown(parameters, rows, direct, inter_dense)
        temporary.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    run(main)
