"""Writing files and folders whole or not at all, by one process at a time."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from facevae.common.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success, rename what was written there to `path`.

    The body may create a file or a folder. If it raises, the temporary path is removed and `path`
    stays as it was. A file at `path` is replaced by a file, a folder by a folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=_scratch_prefix(path), dir=path.parent))
    try:
        temporary = scratch / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            # A folder cannot replace an existing one in one rename. If the second of two fails,
            # undo the first.
            replaced = scratch / "replaced"
            os.replace(path, replaced)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(replaced, path)
                raise
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Lock `path` for writing, and delete what killed processes left half-written beside it.

    The lock is a file `.<name>.lock` beside `path`; the system releases it when a process ends.

    Raises:
        UserError: another process holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.parent / f".{path.name}.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{path}: another run is writing it at this moment; wait until it ends, or stop it"
        ) from None
    with held:
        for leftover in path.parent.glob(f"{_scratch_prefix(path)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _scratch_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, and nothing else: to read a pipe or a device may never end.

    Raises:
        OSError: there is no file, it is a folder, a pipe, a socket or a device, or it cannot be
            opened.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")
