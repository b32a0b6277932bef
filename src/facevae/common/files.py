"""Reading and writing files and folders whole or not at all, by one process at a time."""

import contextlib
import ctypes
import errno
import fnmatch
import json
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from facevae.common.errors import UserError
from facevae.common.locks import stale_note, try_lock
from facevae.common.signals import interrupts_held_back


def has_only(*patterns: str) -> Callable[[Path], bool]:
    """For `atomic_write`: a folder is an earlier one if all names in it match one of these.

    Files whose names begin with a dot do not count: systems add them.
    """

    def is_earlier(folder: Path) -> bool:
        return all(
            any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)
            or (entry.name.startswith(".") and entry.is_file())
            for entry in folder.iterdir()
        )

    return is_earlier


@contextlib.contextmanager
def atomic_write(path: Path, is_earlier: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success, rename what was written there to `path`.

    The body may create a file or a folder. If it raises, the temporary path is removed and `path`
    stays as it was. When this returns, what was written is on the disk, so that a power cut takes
    nothing away. What killed processes have left beside `path` is removed.

    Args:
        is_earlier: the body creates a folder; tells whether a folder at `path` is what an earlier
            call has created. Only such a one is replaced.

    Raises:
        UserError: `path` is a folder that must not be replaced, a device, a pipe or a socket.
        OSError: the disk refuses.
    """
    path = Path(path)
    _check_target(path, is_earlier)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path)
    try:
        with _scratch_folder(path) as scratch:
            temporary = scratch / path.name
            yield temporary
            sync(temporary)
            if temporary.is_dir() and os.path.lexists(path):
                _replace_folder(temporary, path)
            else:
                os.replace(temporary, path)
            _sync_entry(path.parent)
    except OSError as error:
        raise named(error, path) from None


def _check_target(path: Path, is_earlier: Callable[[Path], bool] | None) -> None:
    """Refuse what must not be replaced. Of a link nothing is lost but the link."""
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except OSError:  # it is not there, or the disk says so when it is written
        return
    if kind == stat.S_IFDIR and is_earlier is not None:
        if not is_earlier(path):
            raise UserError(
                f"{path}: has files that no earlier run has written, and that would be deleted; "
                "name another folder"
            )
    elif kind in _KINDS:
        raise UserError(
            f"{path}: is {_KINDS[kind]}, where a file is to be written; name another path"
        )


def _replace_folder(new: Path, path: Path) -> None:
    """Replace what is at `path` by a folder, which a single rename cannot do."""
    if _exchange(new, path):
        return
    # In two renames. If the second fails, or a kill comes before it, `_discard` undoes the first.
    before = _before(new.parent, path)
    os.replace(path, before)
    os.replace(new, path)
    os.replace(before, new)  # so that it never comes back


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Returns whether this system and its disk can do that."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


@contextlib.contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, locked while this process uses it, deleted at the end."""
    scratch = Path(tempfile.mkdtemp(prefix=_scratch_prefix(path), dir=path.parent))
    try:
        # Another process may have taken it for a leftover, and deletes it in this moment.
        while (held := try_lock(_lock_file(scratch, path))) is None:
            time.sleep(0.001)
        with contextlib.closing(held):
            yield scratch
    finally:
        with interrupts_held_back():
            _discard(scratch, path)


def _clear_leftovers(path: Path) -> None:
    """Delete the scratch folders that killed processes have left beside `path`."""
    for scratch in list(path.parent.iterdir()):
        if scratch.name.startswith(_scratch_prefix(path)):
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                if held := try_lock(_lock_file(scratch, path)):
                    stack.callback(held.close)
                    _discard(scratch, path)


def _discard(scratch: Path, path: Path) -> None:
    """Delete a scratch folder; what it has taken from `path` without a successor goes back."""
    before = _before(scratch, path)
    if os.path.lexists(before) and not os.path.lexists(path):
        os.replace(before, path)
    shutil.rmtree(scratch, ignore_errors=True)


def _scratch_prefix(path: Path) -> str:
    return f".{path.name}.tmp-"


def _lock_file(scratch: Path, path: Path) -> Path:
    return scratch / f"{path.name}.lock"


def _before(scratch: Path, path: Path) -> Path:
    """Where a scratch folder keeps what was at `path` until its successor is there."""
    return scratch / f"{path.name}.before"


@contextlib.contextmanager
def exclusive_writer(path: Path) -> Iterator[None]:
    """Lock `path` for writing.

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
        yield


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


def sync(path: Path) -> None:
    """Have the system write a file, or a folder with all that is in it, to the disk.

    Raises:
        OSError: the disk refuses.
    """
    for entry in (*path.rglob("*"), path):
        _sync_entry(entry)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot do so, or not for a folder.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise named(error, path) from None
    finally:
        os.close(descriptor)


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
    kind = stat.S_IFMT(Path(path).stat().st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind in _KINDS:
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return open(path, "rb")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_file(path: Path) -> None:
    """Check, before it is opened, that a path is a file; as `open_regular`, with a sentence.

    Raises:
        UserError: it is something else.
        FileNotFoundError: it does not exist.
    """
    kind = _KINDS.get(stat.S_IFMT(Path(path).stat().st_mode))
    if kind:
        raise UserError(f"{path}: is {kind}, where a file is expected; move it away")


def check_zip(path: Path, remedy: str) -> None:
    """Check that a file is a zip archive, and each file in it by its checksum.

    NumPy's .npz files and Keras' .keras files are zip archives.

    Args:
        remedy: what to do if it is not, for the message.

    Raises:
        UserError: it is not, or a checksum is wrong.
        OSError: it cannot be opened.
    """
    check_file(path)
    with open(path, "rb") as file:
        try:
            damaged = zipfile.ZipFile(file).testzip()
            reason = damaged and f"the checksum of {damaged!r} is wrong"
        except Exception as error:  # of many kinds, by where the damage is
            reason = " ".join(str(error).split()) or type(error).__name__
    if reason:
        raise UserError(f"{path}: is damaged, or not such a file ({reason}); {remedy}")
