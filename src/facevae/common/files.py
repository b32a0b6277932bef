"""Files that are either whole or not there."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from facevae.common.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename what was written there to `path`.

    Works for a file or for a folder (the body creates whichever it wants). If the body raises,
    the temporary is removed and `path` stays as it was. A folder that stands at `path` is
    replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=_workshop_prefix(path), dir=path.parent))
    try:
        temporary = workshop / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            # A folder cannot be renamed onto another one; should the second step fail, go back.
            replaced = workshop / "replaced"
            os.replace(path, replaced)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(replaced, path)
                raise
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, and remove what killed ones have left beside it.

    The lock is a file `.<name>.lock` beside `path`; the system gives it up when a process dies.

    Raises:
        UserError: another process is at it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{path}: another run is writing it at this moment; wait for it, or stop it first"
        ) from None
    with held:
        for left in path.parent.glob(f"{_workshop_prefix(path)}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _workshop_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
