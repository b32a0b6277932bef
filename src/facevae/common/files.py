"""Writing files and folders whole or not at all, by one process at a time."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError
from facevae.common.locks import stale_note, try_lock


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
    except OSError as error:
        raise named(error, path) from None
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
    name = path.parent / f".{path.name}.lock"
    held = try_lock(name)
    if held is None:
        raise UserError(
            f"{path}: another run is writing it at this moment; wait until it ends, or stop it"
            f"{stale_note(name)}"
        )
    with contextlib.closing(held):
        for leftover in path.parent.glob(f"{_scratch_prefix(path)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _scratch_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def target_of(path: Path) -> Path:
    """What a path becomes that may be one of `atomic_write`'s temporary ones; else the path."""
    for folder in (path, *path.parents):
        name, mark, _ = folder.name.partition(".tmp-")
        if mark and name.startswith("."):
            return folder.with_name(name[1:])
    return path


def named(error: OSError, path: str | Path) -> OSError:
    """The error as it is if it names a file; else one that names `path`."""
    if error.filename is not None or error.errno is None:
        return error
    return OSError(error.errno, error.strerror, str(path))


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
