"""Rows as CSV, read back."""

import csv
from typing import Any

import pytest

from facevae.common.files import rows_csv

ROWS: list[dict[str, Any]] = [{"unit": 0, "kl": 0.5}, {"unit": 1, "kl": None}]


def test_rows_csv_reads_back() -> None:
    read = list(csv.DictReader(rows_csv(ROWS).splitlines()))
    assert read == [{"unit": "0", "kl": "0.5"}, {"unit": "1", "kl": ""}]
    assert rows_csv(ROWS, ["kl"]) == 'kl\n0.5\n""\n'


def test_rows_csv_loses_nothing_unasked() -> None:
    with pytest.raises(ValueError, match="radius"):
        rows_csv([*ROWS, {"unit": 2, "kl": 1.0, "radius": 3.0}])
