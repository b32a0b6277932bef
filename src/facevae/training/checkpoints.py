"""Checkpoints: the state of an unfinished training, in one file that one process may use."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from facevae.common.errors import StoppedError, UserError
from facevae.common.files import atomic_write, check_zip
from facevae.common.locks import Lock, stale_note, try_lock
from facevae.common.machine import library_versions

# Between two checkpoints within an epoch: a kill costs at most this much work.
_SECONDS = 120.0

# The number of unfinished trainings whose state is kept, the newest ones. With the default models a
# state takes 65 to 90 MiB.
_KEPT = 8

_POLL_SECONDS = 0.5  # between two looks at a lock that another process holds

_TRAINING = "training"  # the entry of a checkpoint that says whose it is: the name of its folder


def content_digest(
    data: Iterable[str],
    project: Path,
    code: Sequence[str],
    stop_requested: Callable[[], bool] = lambda: False,
) -> str:
    """A BLAKE2b hash of the contents of data files and of the code that reads them.

    Args:
        data: files, in the order in which they are read.
        project: folder that contains the code; its location does not change the hash.
        code: Python files, and folders of them, relative to `project`.
        stop_requested: asked before every file.

    Returns:
        128 hexadecimal digits.

    Raises:
        UserError: a file cannot be read.
        StoppedError: `stop_requested` returned True.
    """
    digest = hashlib.blake2b()
    # Sorted by the whole relative path, because several files have the same name.
    files = {project / part for part in code if not (project / part).is_dir()}
    files |= {file for part in code for file in (project / part).rglob("*.py")}
    named = [(path.relative_to(project).as_posix(), path) for path in files]
    for name, path in [*((Path(path).name, Path(path)) for path in data), *sorted(named)]:
        if stop_requested():
            raise StoppedError("stopped before the first step")
        try:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, hashlib.blake2b).digest()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


def state_key(settings: dict[str, Any], content: str) -> str:
    """A key for everything that the outcome of a training on one machine depends on.

    Args:
        settings: the parameters, in types that JSON knows.
        content: digests of the data and the code, see `content_digest`.

    Returns:
        16 hexadecimal digits. They change with every setting, every byte of the data and the code,
        and the versions of Keras, NumPy and TensorFlow.
    """
    everything = json.dumps([settings, library_versions(), content], sort_keys=True)
    return hashlib.blake2b(everything.encode()).hexdigest()[:16]


class Checkpoint:
    """The last state of one training, in a folder of its own that is locked while it is open.

    Opening it waits while another process has it open, which is at the same training: two queued
    experiments may share one. The other's last state is then there, and training goes on from it:
    from its end, if the other has finished. It also deletes the states of other trainings beside
    the folder, except the newest ones.

    Args:
        folder: the folder of this training, which need not exist.
        seconds: time after which another checkpoint is due.
        on_wait: called once, before it waits, with a sentence that says for whom.
        stop_requested: asked while it waits.

    Example:
        >>> with Checkpoint(Path(".facevae/checkpoints/direct-5d41402abc4b2a76")) as checkpoint:
        ...     train(vae, shards, checkpoint=checkpoint, ...)
        ...     save_model(vae, path)
        ...     checkpoint.remove()

    Raises:
        StoppedError: `stop_requested` returned True.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float = _SECONDS,
        *,
        on_wait: Callable[[str], None] = lambda sentence: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._seconds = seconds
        self._on_wait = on_wait
        self._stop_requested = stop_requested
        self._file = folder / "checkpoint.npz"
        self._owner = folder / "owner.txt"
        self._lock: Lock | None = None
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        self._lock = self._take("lock") or self._wait()
        self._owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", "utf-8")
        self._delete_oldest()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.exists():
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock:
            self._lock.close()

    def _take(self, name: str) -> Lock | None:
        self._folder.mkdir(parents=True, exist_ok=True)  # whoever had it may have deleted it
        return try_lock(self._folder / name)

    def _wait(self) -> Lock:
        owner = self._read_owner()
        note = stale_note(self._folder / "lock")
        self._on_wait(f"this training is running already ({owner}); waiting until it ends{note}")
        turn = None  # the first of those who wait has it, and so `remove` knows that somebody waits
        try:
            while True:
                turn = turn or self._take("next")
                if turn and (lock := self._take("lock")):
                    return lock
                if self._stop_requested():
                    raise StoppedError(f"stopped while waiting for the same training ({owner})")
                time.sleep(_POLL_SECONDS)
        finally:
            if turn:
                turn.close()

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays that were written last; None if there are none.

        Raises:
            UserError: the file is damaged, or another training's.
        """
        remedy = "delete it to start this training from the beginning"
        try:
            check_zip(self._file, remedy)
        except FileNotFoundError:
            return None
        try:
            with np.load(self._file) as arrays:
                saved = dict(arrays)
        except (OSError, ValueError) as error:
            raise UserError(f"{self._file}: is not a checkpoint ({error}); {remedy}") from None
        if str(saved.pop(_TRAINING, "")) != self._folder.name:
            raise UserError(f"{self._file}: is of another training; {remedy}")
        return saved

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Write arrays. The file that they replace stays whole until they are written completely.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            with atomic_write(self._file) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays, **{_TRAINING: np.array(self._folder.name)})  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(
                f"{self._file}: cannot be written ({error.strerror}); the last complete "
                f"checkpoint is intact"
            ) from None
        self._written = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        return time.monotonic() - self._written > self._seconds

    def remove(self) -> None:
        """Delete the state of this training, which is complete, unless somebody waits for it."""
        if turn := self._take("next"):
            self._file.unlink(missing_ok=True)
            turn.close()

    def _read_owner(self) -> str:
        with contextlib.suppress(OSError):
            return self._owner.read_text("utf-8")
        return "just started"

    def _delete_oldest(self) -> None:
        others = [folder for folder in self._folder.parent.iterdir() if folder != self._folder]
        for folder in sorted(others, key=_age)[_KEPT - 1 :]:
            with contextlib.suppress(OSError):
                if lock := try_lock(folder / "lock"):
                    shutil.rmtree(folder, ignore_errors=True)
                    lock.close()


def _age(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime  # when its last checkpoint was renamed into it
    return 0.0
