"""Stops writers before each step that changes the disk in a way that a kill must not cut in two.

A program, so that it can fork: without TensorFlow and without threads.

    python tests/common/stopped_writers.py FOLDER

For each writer of `writers`, a child process writes and kills itself before its first step; the
next one before its second step, and so on, until one comes to its end. Each begins with the old
state. Printed is JSON, per writer and stop: at which line of files.py it was; whether the old or
the new state was there at once, and when the next writer had begun; and what that one left of it.
"""

import contextlib
import functools
import inspect
import itertools
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from helpers import run_stage, write_params

from facevae.common import files
from facevae.data import preparation, synthetic
from facevae.data.synthetic import synthesize
from facevae.training.checkpoints import Checkpoint

STEPS = [(os, "replace"), (os, "fsync"), (os, "unlink"), (shutil, "rmtree"), (files, "_exchange")]


_any = files.has_only("*")  # whatever is there is replaced


@dataclass(frozen=True)
class Writer:
    """What writes, and what it writes.

    Attributes:
        write: brings the version 1 or 2 into a folder.
        outputs: in the folder.
        first: the versions that it begins with; 0: none.
    """

    write: Callable[[Path, int], int | None]
    outputs: tuple[str, ...]
    first: tuple[int, ...] = (0, 1)


def _file(folder: Path, version: int) -> None:
    files.write_text(folder / "file", f"version {version}")


def _folder(folder: Path, version: int) -> None:
    with files.exclusive_writer(folder / "out"), files.atomic_write(folder / "out", _any) as out:
        (out / "inner").mkdir(parents=True)
        for name in ("one", "inner/two"):
            (out / name).write_text(f"version {version}")


def _folder_by_renames(folder: Path, version: int) -> None:
    """On a disk that cannot exchange two names."""
    files._exchange = lambda one, other: False
    _folder(folder, version)


def _folder_after_a_kill(folder: Path, version: int) -> None:
    """Version 1 is in the scratch folder of a process that was killed between two renames."""
    if version == 1:
        _folder(folder, 1)
        steps = 4  # to the disk: two files and two folders
        assert _run(lambda: _folder_by_renames(folder, 2), steps + 2)
        assert not (folder / "out").exists()
    else:
        _folder(folder, version)


def _checkpoint(folder: Path, version: int) -> None:
    with Checkpoint(folder / "state") as checkpoint:
        checkpoint.write({"version": np.full(1000, version)})


def _prepare(folder: Path, version: int) -> int:
    data = {"source": str(folder.parent / "source"), "crop": 148 if version == 1 else 178,
            "image_size": 16, "images_per_shard": 32}  # fmt: skip
    params = write_params(folder.parent, data=data)
    return run_stage(
        "prepare", "--params", params, "--shards", folder / "out", "--metrics", folder / "data.json"
    )


def _synthesize(folder: Path, version: int) -> int:
    data = {"source": str(folder / "out")}
    params = write_params(folder.parent, data=data, synthesize={"images": 40, "seed": version})
    return run_stage("synthesize", "--params", params, "--target", folder / "out")


def writers() -> dict[str, Writer]:
    return {
        "a file": Writer(_file, ("file",)),
        "a folder": Writer(_folder, ("out",)),
        "a folder by renames": Writer(_folder_by_renames, ("out",)),
        "a folder after a kill": Writer(_folder_after_a_kill, ("out",), (1,)),
        "a checkpoint": Writer(_checkpoint, ("state/checkpoint.npz",)),
        "stage prepare": Writer(_prepare, ("out", "data.json"), (1,)),
        "stage synthesize": Writer(_synthesize, ("out",), (1,)),
    }


def _stop_before(number: int, report: int) -> None:
    """Have this process kill itself before its step of this number, and say at which line."""
    steps = itertools.count(1)

    def stopping(step: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **options: Any) -> Any:
            if next(steps) == number:
                frames = (each for each in inspect.stack(0) if each.filename == files.__file__)
                os.write(report, str(next((frame.lineno for frame in frames), 0)).encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **options)

        return stopped

    for module, name in STEPS:
        setattr(module, name, stopping(getattr(module, name)))


def _run(write: Callable[[], int | None], stop_before: int = 0) -> int | None:
    """Run in a child process. Returns the line at which it was stopped, None at its end."""
    line, report = os.pipe()
    if not (child := os.fork()):
        status = 70
        try:
            if stop_before:
                _stop_before(stop_before, report)
            status = write() or 0
        finally:
            if sys.exc_info()[0]:
                traceback.print_exc()
            os._exit(status)
    os.close(report)
    status = os.waitpid(child, 0)[1]
    told = os.read(line, 100)
    os.close(line)
    if told:
        return int(told)
    assert status == 0, f"a writer ended with {status}"
    return None


def _state(path: Path) -> object:
    if path.is_dir():
        return {
            str(file.relative_to(path)): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file()
        }
    return path.read_bytes() if path.exists() else None


def _states(folder: Path, writer: Writer) -> list[object]:
    return [_state(folder / name) for name in writer.outputs]


def _begin_and_fail(folder: Path, writer: Writer) -> None:
    """What any later writer does first, without a result of its own."""
    for name in writer.outputs:
        with contextlib.suppress(ZeroDivisionError), files.atomic_write(folder / name, _any):
            raise ZeroDivisionError


def _stops(folder: Path, writer: Writer, first: int) -> Iterator[dict[str, Any]]:
    """A record of each stop, from the state of version `first`; 0: nothing is there."""
    place = folder / "place"
    known = []
    for version in {first, 2}:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if version:
            _run(functools.partial(writer.write, place, version))
        if version == first:
            shutil.rmtree(folder / "first", ignore_errors=True)
            shutil.copytree(place, folder / "first")
        _begin_and_fail(place, writer)
        known.append(_states(place, writer))
    for number in itertools.count(1):
        shutil.rmtree(place)
        shutil.copytree(folder / "first", place)
        line = _run(lambda: writer.write(place, 2), number)
        if line is None:
            return
        at_once = _states(place, writer)
        _begin_and_fail(place, writer)
        record: dict[str, Any] = {"line": line}
        for when, found in (("at once", at_once), ("later", _states(place, writer))):
            record[when] = all(state in whole for state, *whole in zip(found, *known, strict=True))
        record["left"] = [path.name for path in place.rglob(".*.tmp-*")]
        yield record


def main() -> None:
    folder = Path(sys.argv[1])

    def threads() -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1)

    # In place of worker processes, which are not what is looked at here and take long to start.
    synthetic.local_executor = threads  # type: ignore[assignment]
    preparation.prepare.__kwdefaults__ |= {"executors": threads}  # type: ignore[operator]
    _run(lambda: synthesize(folder / "source", images=20, seed=3))
    print(
        json.dumps(
            {
                name: [record for first in writer.first for record in _stops(folder, writer, first)]
                for name, writer in writers().items()
            }
        )
    )


if __name__ == "__main__":
    main()
