"""The rows of a study: a CSV of what was measured, with which settings, code, images and machine.

A row is identified by its study, settings and seed. The other columns in front of the metrics say
how it was measured, so that rows can be compared although they were written on several days and
machines.
"""

import csv
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError
from facevae.common.files import exclusive_writer, write_text
from facevae.common.tables import rows_csv

_WAIT = 60.0  # seconds for other processes to append their rows

# Settings that name folders and files of one machine.
_PATHS = ("data.source", "evaluate.inception_weights")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings by full name as sorted JSON, without those that are paths of a machine."""
    named = {key: value for key, value in settings.items() if key not in _PATHS}
    return json.dumps(named, sort_keys=True)


@dataclass(frozen=True)
class Origin:
    """How a row was measured.

    Attributes:
        commit: of the project, with "+changes" if its files differed from it.
        digest: of the code and the parameters that decide the outcome.
        images: digest of the prepared images.
        device: the processor.
    """

    commit: str
    digest: str
    images: str
    device: str


@dataclass(frozen=True)
class Row:
    """What was measured of one candidate with one seed.

    Attributes:
        settings: as `settings_text` writes them.
        metrics: by flat dotted name; those that are not defined are left out.
    """

    study: str
    settings: str
    seed: int
    origin: Origin
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the row."""
        return self.study, self.settings, self.seed


_KEY = ("study", "settings", "seed")
_ORIGIN = tuple(each.name for each in fields(Origin))


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics by dotted names; None is left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found


def read_rows(file: Path) -> list[Row]:
    """The rows of a CSV file in its order; none if there is no file.

    Raises:
        UserError: a column is missing, a value is no number, or a row stands there twice.
    """
    if not file.exists():
        return []
    rows: list[Row] = []
    with open(file, newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        missing = {*_KEY, *_ORIGIN}.difference(reader.fieldnames or ())
        if missing:
            raise UserError(f"{file}: lacks the columns {', '.join(sorted(missing))}")
        for cells in reader:
            place = f"{file}: line {reader.line_num}"
            study, settings, seed = (cells.pop(name) for name in _KEY)
            origin = Origin(*(cells.pop(name) for name in _ORIGIN))
            try:
                metrics = {name: float(cell) for name, cell in cells.items() if cell}
                rows.append(Row(study, settings, int(seed), origin, metrics))
            except (TypeError, ValueError) as error:
                raise UserError(f"{place}: {error}; correct or delete this line") from None
            if rows[-1].key in (row.key for row in rows[:-1]):
                raise UserError(f"{place}: is a second row of these settings; delete one of them")
    return rows


def _text(rows: Sequence[Row]) -> str:
    metrics = dict.fromkeys(name for row in rows for name in row.metrics)
    return rows_csv(
        [
            {
                **dict(zip(_KEY, row.key, strict=True)),
                **asdict(row.origin),
                **{name: row.metrics.get(name) for name in metrics},
            }
            for row in rows
        ]
    )


def append_row(file: Path, row: Row) -> None:
    """Add a row to a CSV file, which is whole at any moment; several processes may do so at once.

    A row that the file has already stays as it is.

    Raises:
        UserError: another process has held the file for a minute; see also `read_rows`.
        ValueError: a metric has the name of a column that every row has.
    """
    if taken := {*_KEY, *_ORIGIN} & {*row.metrics}:
        raise ValueError(f"metrics with names of columns: {', '.join(sorted(taken))}")
    deadline = time.monotonic() + _WAIT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive_writer(file))
                break
            except UserError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        rows = read_rows(file)
        if row.key not in (each.key for each in rows):
            write_text(file, _text([*rows, row]))


class Origins:
    """Numbers the ways in which the rows of a report were measured, from 1.

    Rows were measured in one way if their code, parameters, images and processor are the same.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._commits: dict[tuple[str, str, str], dict[str, None]] = {}
        for row in rows:
            self._commits.setdefault(self._way(row), {})[row.origin.commit] = None

    @staticmethod
    def _way(row: Row) -> tuple[str, str, str]:
        return row.origin.digest, row.origin.images, row.origin.device

    @property
    def mixed(self) -> bool:
        """Whether there are several."""
        return len(self._commits) > 1

    def mark(self, rows: Iterable[Row]) -> str:
        """The numbers that some rows have, for a table's cell."""
        ways = list(self._commits)
        return ", ".join(map(str, sorted({ways.index(self._way(row)) + 1 for row in rows})))

    def columns(self) -> list[str]:
        """The title of the column of marks, if there is to be one."""
        return ["measured as"] if self.mixed else []

    def cells(self, rows: Iterable[Row]) -> list[str]:
        """The cell of that column for the rows that a line is made of."""
        return [self.mark(rows)] if self.mixed else []

    def note(self) -> list[str]:
        """Markdown lines to stand below a table: what was measured how."""
        if not self.mixed:
            return [f"Measured at {self._told(way)}." for way in self._commits]
        return [
            "**These rows were not all measured in the same way**: code, parameters, images or "
            "processors differ, and so the differences between them may. The column `measured as` "
            "says which row was measured how:",
            "",
            *(
                f"{number}. {self._told(way)}; code and parameters {way[0]}, images {way[1]}."
                for number, way in enumerate(self._commits, start=1)
            ),
        ]

    def _told(self, way: tuple[str, str, str]) -> str:
        commits = list(self._commits[way])
        return f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)} on {way[2]}"
