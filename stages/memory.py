"""Account for the memory of a training step, both variants, without running it."""

from pathlib import Path

from _stage import arguments, run
from facevae.files import written_whole
from facevae.memory_report import (
    memory_markdown,
    memory_rows,
    save_memory_by_batch,
    save_memory_by_inter_dense,
)
from facevae.tables import rows_csv


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> None:
    options, parameters = arguments(
        __doc__,
        csv={"help": "table to write: a row per variant and batch size"},
        markdown={"help": "report to write"},
        by_batch={"help": "PNG to write: where the bytes go, over the batch size"},
        by_inter_dense={"help": "PNG to write: weights and peak, over the extra layer's units"},
    )
    _write(options.csv, rows_csv(memory_rows(parameters)))
    _write(options.markdown, memory_markdown(parameters))
    save_memory_by_batch(parameters, options.by_batch)
    save_memory_by_inter_dense(parameters, options.by_inter_dense)


if __name__ == "__main__":
    run(main)
