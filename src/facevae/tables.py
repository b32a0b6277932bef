"""Rows of figures as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def rows_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The rows below a line with the columns' names.

    Args:
        rows: at least one; None becomes an empty cell.
        columns: those to write, in this order; None: all of the first row, and no row has others.
    """
    text = io.StringIO()
    names = columns or list(rows[0])
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: row[name] for name in names} if columns else row for row in rows)
    return text.getvalue()
