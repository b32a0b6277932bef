"""Files that other stages wrote, or a sentence about the one that is missing."""

import json
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError


def missing(path: Path) -> UserError:
    """The error to raise where an output of another stage does not exist."""
    return UserError(f"{path}: is not there; write it first: dvc repro")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: the file does not exist.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file does not exist.
    """
    return json.loads(read_text(path))
