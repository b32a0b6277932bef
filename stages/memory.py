"""Account for the memory of a training step, both variants, without running it."""

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
        __doc__,
        csv={"help": "table to write: a row per variant and batch size"},
        markdown={"help": "report to write"},
        by_batch={"help": "PNG to write: where the bytes go, over the batch size"},
        by_inter_dense={"help": "PNG to write: weights and peak, over the extra layer's units"},
    )
    write_text(options.csv, rows_csv(memory_rows(parameters)))
    write_text(options.markdown, memory_markdown(parameters))
    save_memory_by_batch(parameters, options.by_batch)
    save_memory_by_inter_dense(parameters, options.by_inter_dense)


if __name__ == "__main__":
    run(main)
