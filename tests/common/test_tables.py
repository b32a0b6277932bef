"""Tables as CSV and as Markdown, read back by independent parsers."""

import csv
from itertools import pairwise
from typing import Any

import pytest
from markdown_it import MarkdownIt

from facevae.common.tables import markdown_table, rows_csv

ROWS: list[dict[str, Any]] = [{"unit": 0, "kl": 0.5}, {"unit": 1, "kl": None}]


def test_rows_csv_reads_back() -> None:
    read = list(csv.DictReader(rows_csv(ROWS).splitlines()))
    assert read == [{"unit": "0", "kl": "0.5"}, {"unit": "1", "kl": ""}]
    assert rows_csv(ROWS, ["kl"]) == 'kl\n0.5\n""\n'


def test_rows_csv_loses_nothing_unasked() -> None:
    with pytest.raises(ValueError, match="radius"):
        rows_csv([*ROWS, {"unit": 2, "kl": 1.0, "radius": 3.0}])


def test_markdown_table_keeps_every_cell_as_it_was_written() -> None:
    rows = [["a | b", "0.10", "1,000"], ["", "-0", "1e5"]]
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(markdown_table(rows, ["", "x | y", "z"]))
    cells = [
        (inline.content, cell.attrGet("style"))
        for cell, inline in pairwise(tokens)
        if cell.type in {"th_open", "td_open"}
    ]
    left, right = "text-align:left", "text-align:right"
    assert cells == [
        ("", left), ("x | y", right), ("z", right),
        ("a | b", left), ("0.10", right), ("1,000", right),
        ("", left), ("-0", right), ("1e5", right),
    ]  # fmt: skip


def test_markdown_table_aligns_columns_as_asked() -> None:
    table = markdown_table([["1", "x"]], ["a", "b"], ["right", "left"])
    assert [line.replace(" ", "") for line in table.splitlines()][::2] == ["|a|b|", "|1|x|"]
    assert table.splitlines()[1].strip("|").split("|")[0].strip("-") == ":"
