"""Tables as CSV and as Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def rows_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """CSV text: a line with the names of the columns, then one line per row.

    Args:
        rows: at least one; None becomes an empty cell.
        columns: the columns to write, in this order. None: all columns of the first row.

    Raises:
        ValueError: `columns` is None, and a row has a column that the first row lacks.
    """
    text = io.StringIO()
    names = columns or list(rows[0])
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in names} if columns else row for row in rows)
    return text.getvalue()


def markdown_table(
    rows: Sequence[Sequence[str]], headers: Sequence[str], align: Sequence[str] | None = None
) -> str:
    """A table in GitHub's Markdown. A vertical bar in a cell is escaped.

    Args:
        rows: the cells; each row has one per header.
        align: "left" or "right" per column. None: left for the first column, right for the others.
    """

    def escaped(cells: Sequence[str]) -> list[str]:
        return [cell.replace("|", r"\|") for cell in cells]

    return tabulate(
        [escaped(row) for row in rows],
        escaped(headers),
        tablefmt="pipe",
        disable_numparse=True,  # keep numbers as the caller formatted them
        colalign=align or ["left", *["right"] * (len(headers) - 1)],
    )
