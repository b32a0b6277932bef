"""Locks of which one process holds one at a time, also on file systems that know no locks."""

import errno
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

# What a file system answers that knows no locks, such as some network drives.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


class Lock:
    """A lock that this process holds; `close` releases it, as the end of the process does."""

    def __init__(self, held: FileLock | SoftFileLock) -> None:
        self._held = held

    def close(self) -> None:
        self._held.release()


def try_lock(path: Path) -> Lock | None:
    """Take the lock of a file, which is created beside what it protects.

    Where the file system knows no locks, a second file beside it stands for the lock while it
    exists. A killed process leaves that file. It is ignored on the same machine; on another one the
    user must delete it, see `stale_note`.

    Returns:
        None if another process holds the lock.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        return _take(FileLock(path, fallback_to_soft=False))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return _take(SoftFileLock(_stand_in(path)))


def stale_note(path: Path) -> str:
    """The end of a sentence on a lock that another process holds, which may be a dead one's."""
    file = _stand_in(path)
    return f"; if there is no such run any more, delete {file}" if file.exists() else ""


def _stand_in(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


def _take(lock: FileLock | SoftFileLock) -> Lock | None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return Lock(lock)
