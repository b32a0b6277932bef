"""Lists of images, such as list_eval_partition.txt: their lines, and the line of each image."""

import codecs
import csv
import io
import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError
from facevae.common.files import open_regular
from facevae.data.images import is_image

_MAX_LINE = 2**20  # characters; the longest lines of CelebA's lists have a few hundred


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line of a list that is not empty.

    Fields are separated by blanks; or, if the first line has any, by commas or semicolons. A file's
    name in front may have blanks, if it has an ending.

    Raises:
        UserError: the file is not text, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            # Windows' programs begin a text with a byte order mark, and some write UTF-16.
            wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            file.seek(0)
            text = io.TextIOWrapper(file, encoding="utf-16" if wide else "utf-8-sig")
            lines = _lines(path, text)
            number, first = next(((n, line) for n, line in lines if line.strip()), (0, ""))
            if not number:
                return
            separator = next((each for each in ",;" if each in first), None)
            if separator is None or is_image(_words(first)[0]):
                yield number, _words(first)
                for number, line in lines:
                    if fields := _words(line):
                        yield number, fields
                return
            remaining = itertools.chain([first], (line for _, line in lines))
            reader = csv.reader(remaining, delimiter=separator, skipinitialspace=True, strict=True)
            start = None
            for fields in filter(any, reader):
                if start is None:
                    start = int(not fields[0])  # pandas counts rows in a column without a name
                yield number + reader.line_num - 1, [field.strip() for field in fields[start:]]
    except csv.Error as error:
        raise UserError(f"{path}: is not a list with fields between commas ({error})") from None
    except UnicodeError:
        raise UserError(f"{path}: is not a text file in UTF-8; fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


_NAME = re.compile(r"\s*(\S.*\.[A-Za-z]\w*)(?:\s+(.*))?$", re.DOTALL)


def _words(line: str) -> list[str]:
    named = _NAME.match(line)
    return [named[1], *(named[2] or "").split()] if named else line.split()


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    for number in itertools.count(1):
        line = text.readline(_MAX_LINE)
        if not line:
            return
        if len(line) == _MAX_LINE or "\0" in line:
            raise UserError(f"{path}: line {number}: is not text; fetch the file again")
        yield number, line


def match(names: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """For each image, the row of a list that is about it, or -1.

    This is the row with the image's name. An image without such a row takes the only row that
    differs from its name no more than copies of CelebA differ: in the ending (000001.png for
    000001.jpg), in upper and lower case, in a folder's name in front or in the way of writing an
    accent. Such a row belongs to no image if several could take it.

    Args:
        names: the images' names, (images,) bytes.
        listed: the names in the list, sorted, (rows,) bytes.
    """
    rows = _equal(names, listed)
    without = np.flatnonzero(rows < 0)
    free = np.setdiff1d(np.arange(len(listed)), rows) if len(without) else without
    if len(free):
        plain, place, count = _plain(listed[free])
        plain, free = plain[count == 1], free[place[count == 1]]
        own, place, count = _plain(names[without])
        own, without = own[count == 1], without[place[count == 1]]
        found = _equal(own, plain)
        rows[without[found >= 0]] = free[found[found >= 0]]
    return rows


def _equal(names: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """For each name, the place of the same name in the sorted `listed`, or -1."""
    places = np.searchsorted(listed, names)
    within = places < len(listed)
    places[~within] = -1
    places[within] = np.where(listed[places[within]] == names[within], places[within], -1)
    return places


def _plain(names: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of names that all copies have in common, each once, sorted.

    Returns:
        These parts; for each, the place of a name that has it, and the number of such names.
    """
    made = []
    for name in names.tolist():
        text = name.decode("utf-8", "surrogateescape").replace("\\", "/").rpartition("/")[2]
        stem = text.rpartition(".")[0] if is_image(text) else text
        made.append(
            unicodedata.normalize("NFC", stem.casefold()).encode("utf-8", "surrogateescape")
        )
    return np.unique(np.array(made, "S"), return_index=True, return_counts=True)


def among(names: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each name is among the sorted `others`: `np.isin` in a tenth of its memory."""
    if not len(others):
        return np.zeros(len(names), bool)
    places = np.searchsorted(others, names)
    return others[np.minimum(places, len(others) - 1)] == names
