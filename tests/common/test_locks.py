"""Locks on file systems with and without locks, and errors that name their file."""

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from facevae.common.errors import StoppedError, UserError
from facevae.common.files import atomic_write, exclusive_writer, named, target_of
from facevae.common.locks import stale_note, try_lock
from facevae.training.checkpoints import Checkpoint


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path: Path) -> None:
    first = try_lock(tmp_path / "lock")
    assert first
    assert try_lock(tmp_path / "lock") is None
    assert stale_note(tmp_path / "lock") == ""
    first.close()
    second = try_lock(tmp_path / "lock")
    assert second
    second.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_has_a_file_for_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with exclusive_writer(tmp_path / "output"):
        assert (tmp_path / ".output.lock.held").exists()
        sentence = (
            r"another run is writing it .+; if there is no such run any more, delete .+\.held"
        )
        with pytest.raises(UserError, match=sentence), exclusive_writer(tmp_path / "output"):
            pass
    assert not (tmp_path / ".output.lock.held").exists()
    with exclusive_writer(tmp_path / "output"):
        pass


def test_a_file_system_without_locks_keeps_the_state_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    told: list[str] = []
    for complete in (False, True):
        with Checkpoint(tmp_path / "one") as checkpoint:
            assert bool(checkpoint.read()) == complete
            checkpoint.write({"x": np.ones(1)})
            second = Checkpoint(tmp_path / "one", on_wait=told.append, stop_requested=lambda: True)
            with pytest.raises(StoppedError), second:
                pass
            if complete:
                checkpoint.remove()
    assert f"if there is no such run any more, delete {tmp_path}/one/lock.held" in told[0]
    assert not (tmp_path / "one").exists()


def _take_and_die(path: Path) -> None:
    fcntl.flock = _no_locks
    lock = try_lock(path)
    assert lock
    os.kill(os.getpid(), signal.SIGKILL)


def _no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_killed_holder_on_this_machine_is_ignored_without_locks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_take_and_die, args=(tmp_path / "lock",)
    )
    process.start()
    process.join()
    assert (tmp_path / "lock.held").exists()
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    with contextlib.closing(try_lock(tmp_path / "lock") or pytest.fail("it is held")):
        pass


def test_an_error_without_a_file_gets_the_one_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised, atomic_write(tmp_path / "output"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "output")
    with pytest.raises(FileNotFoundError) as missing, atomic_write(tmp_path / "output"):
        open(tmp_path / "input").close()
    assert missing.value.filename == str(tmp_path / "input")
    assert named(OSError("no number"), "file").filename is None
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_path_is_told_as_what_it_becomes() -> None:
    assert target_of(Path("models/.direct.keras.tmp-x7/direct.keras")) == Path(
        "models/direct.keras"
    )
    assert target_of(Path("data/.tfrecords.tmp-x7/tfrecords/train")) == Path("data/tfrecords")
    assert target_of(Path("data/a.tmp-x7/b")) == Path("data/a.tmp-x7/b")
