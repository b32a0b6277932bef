"""Estimate the memory of a training step of both variants, without running it."""

from _stage import arguments, run
from facevae.common.files import write_text
from facevae.common.tables import rows_csv
from facevae.memory.report import (
    memory_markdown,
    memory_rows,
    save_memory_by_batch,
    save_memory_by_inter_dense,
)


def main() -> None:
    options, parameters = arguments(
        __doc__, reports="folder to write memory.csv, memory.md and two charts into"
    )
    folder = options.reports
    write_text(folder / "memory.csv", rows_csv(memory_rows(parameters)))
    write_text(folder / "memory.md", memory_markdown(parameters))
    save_memory_by_batch(parameters, folder / "memory_by_batch.svg")
    save_memory_by_inter_dense(parameters, folder / "memory_by_inter_dense.svg")


if __name__ == "__main__":
    run(main)
