"""Files that other stages wrote, or a sentence about the one that is missing."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError
from facevae.common.files import check_file


def missing(path: Path) -> UserError:
    """The error to raise where an output of another stage does not exist."""
    return UserError(f"{path}: is not there; write it first: dvc repro")


def damaged(path: Path, reason: object) -> UserError:
    """The error to raise where an output of another stage cannot be read."""
    return UserError(f"{path}: is damaged ({reason}); delete it and write it again: dvc repro")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: the file does not exist, or is not a text file.
    """
    try:
        check_file(path)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path) from None
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None


class Content(dict[str, Any]):
    """What a file holds by name. A name that it lacks is a UserError that tells the file.

    Args:
        path: of the file.
        pairs: names and values.
    """

    def __init__(self, path: Path, pairs: Iterable[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"{self._path}: has no {name!r}, so another version wrote it; write it again: dvc repro"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, it and all objects in it as `Content`.

    Raises:
        UserError: the file does not exist, or does not hold an object.
    """
    try:
        content = json.loads(read_text(path), object_pairs_hook=partial(Content, path))
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(content, dict):
        raise damaged(path, "it holds no object")
    return content
