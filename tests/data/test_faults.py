"""Preparing images while processes die, disks fill up and others get in the way, all for real."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import data_settings, heed_interrupts, write_params

from facevae.common.errors import UserError
from facevae.common.files import atomic_write, exclusive_writer, has_only
from facevae.common.limits import PROCESSES
from facevae.data.executors import run_tasks
from facevae.data.preparation import prepare
from facevae.data.synthetic import synthesize

pytestmark = pytest.mark.slow

LARGER: dict[str, Any] = {"resize": "lanczos", "image_size": 64, "images_per_shard": 25}
PROGRAM = """
import sys
from pathlib import Path
from facevae.common.parameters import load_parameters
from facevae.data.preparation import prepare

if __name__ == "__main__":
    data = load_parameters(sys.argv[1]).data
    prepare(data, Path(sys.argv[2]), progress=lambda done, total: print(done, flush=True))
"""
# What a stage has written when its workers start, or have started; a pattern in its folder.
_UNFINISHED = {
    "prepare": ".out.tmp-*/*",
    "synthesize": ".out.tmp-*/out/img_align_celeba.zip",
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "source"
    synthesize(folder, images=400, seed=5)
    return folder


@pytest.fixture(scope="module")
def whole(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run gives."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    prepare(data_settings(many, **LARGER), folder)
    return _content(folder)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _start(tmp_path: Path, source: Path, **options) -> subprocess.Popen:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    params = write_params(tmp_path, data={"source": str(source), **LARGER})
    return subprocess.Popen(
        [sys.executable, program, params, tmp_path / "shards"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def _gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.parametrize("seed", range(5))
def test_faults_sigkill_at_a_random_moment(
    many: Path, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    target = tmp_path / "shards"
    target.mkdir()
    (target / "manifest.json").write_text("the last good ones")
    process = _start(tmp_path, many)
    delay = random.Random(seed).uniform(0.1, 2.5)
    time.sleep(delay)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert _gone(workers), f"workers outlive a kill after {delay} s"
    assert _content(target) in (whole, {"manifest.json": b"the last good ones"})

    second = _start(tmp_path, many)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert _content(target) == whole
    assert not list(tmp_path.glob(".*.tmp-*")), "a killed run's files are left"


def test_faults_a_worker_that_dies_costs_its_shard_again(
    many: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    process = _start(tmp_path, many)
    assert process.stdout is not None
    process.stdout.readline()  # a shard is done, so the workers are at work
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert _content(tmp_path / "shards") == whole


def test_faults_a_worker_that_dies_costs_its_drawn_faces_again(many: Path, tmp_path: Path) -> None:
    killed: list[psutil.Process] = []

    def kill_a_worker(done: int, total: int) -> None:
        if not killed:
            killed.extend(
                child
                for child in psutil.Process().children()
                if "spawn_main" in " ".join(child.cmdline())
            )
            killed[0].kill()

    synthesize(tmp_path / "source", images=400, seed=5, progress=kill_a_worker)
    assert _content(tmp_path / "source") == _content(many)


def _begun(
    stage: str, many: Path, project: Path, tmp_path: Path
) -> tuple[Path, subprocess.Popen, list[psutil.Process]]:
    """The folder of a stage that has begun to write, the stage, and its workers."""
    folder = tmp_path / "folder"
    folder.mkdir()
    arguments: dict[str, list[str | Path]] = {
        "prepare": ["--shards", folder / "out", "--metrics", folder / "data.json"],
        "synthesize": ["--target", folder / "out"],
    }
    params = write_params(tmp_path, data={"source": str(many)})
    process = subprocess.Popen(
        [sys.executable, f"stages/{stage}.py", *arguments[stage], "--params", params],
        cwd=project, text=True, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heed_interrupts,
    )  # fmt: skip

    def begun() -> bool:
        # A file may be renamed between the two.
        with contextlib.suppress(FileNotFoundError):
            return any(path.stat().st_size for path in folder.glob(_UNFINISHED[stage]))
        return False

    while not begun():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    return folder, process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("stage", "numbers"),
    [
        ("prepare", [signal.SIGINT]),
        ("synthesize", [signal.SIGINT]),
        ("synthesize", [signal.SIGINT] * 3),  # by somebody who does not wait
        ("prepare", [signal.SIGTERM]),
        ("synthesize", [signal.SIGTERM]),
        ("synthesize", [signal.SIGHUP]),  # the terminal is closed
    ],
    ids=[
        "prepare",
        "synthesize",
        "synthesize-thrice",
        "prepare-sigterm",
        "synthesize-sigterm",
        "synthesize-sighup",
    ],
)
def test_faults_interrupts_leave_nothing_behind(
    many: Path, project: Path, tmp_path: Path, stage: str, numbers: list[signal.Signals]
) -> None:
    folder, process, workers = _begun(stage, many, project, tmp_path)
    for number in numbers:
        os.killpg(process.pid, number)  # as a terminal does: to all of them
        time.sleep(0.02)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + numbers[0], errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted"
    assert _gone(workers)
    assert [path.name for path in folder.iterdir()] == [".out.lock"]


def test_faults_sigkill_leaves_no_workers_of_synthesize(
    many: Path, project: Path, tmp_path: Path
) -> None:
    folder, process, workers = _begun("synthesize", many, project, tmp_path)
    assert len(workers) >= 2  # one of them keeps books for Python's multiprocessing
    process.kill()
    process.communicate()
    assert _gone(workers)
    assert list(folder.glob(".out.tmp-*"))
    synthesize(folder / "out", images=20, seed=5)
    assert {path.name for path in folder.iterdir()} == {"out", ".out.lock"}


def test_faults_an_environment_variable_lowers_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROCESSES, "1")
    seen = []

    def count(done: int, total: int) -> None:
        commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
        seen.append(sum("spawn_main" in command for command in commands))

    synthesize(tmp_path / "source", images=150, seed=5, progress=count)  # three tasks
    assert set(seen) == {1}


def test_faults_two_runs_at_once(many: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    first = _start(tmp_path, many)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(UserError, match="shards: another run is writing it at this moment"):
        prepare(data_settings(many), tmp_path / "shards")
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert _content(tmp_path / "shards") == whole


def _stage(project: Path, source: Path, folder: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable, "stages/prepare.py", "--shards", folder / "shards",
            "--metrics", folder / "data.json",
            "--params", write_params(folder.parent, data={"source": str(source)}),
        ],
        cwd=project, text=True, capture_output=True, check=False, **options,
    )  # fmt: skip


def _is_refused_and_clean(done: subprocess.CompletedProcess, folder: Path, reason: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"shards.* cannot be written: {reason}", last), done.stderr
    assert [path.name for path in folder.iterdir()] == [".shards.lock"]


def test_faults_a_disk_that_fills_up(many: Path, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        done = _stage(project, many, folder)
        _is_refused_and_clean(done, folder, "No space left on device")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_faults_a_limit_on_the_size_of_files(many: Path, project: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = _stage(project, many, tmp_path, preexec_fn=limit)
    _is_refused_and_clean(done, tmp_path, "File too large")


def test_faults_a_file_or_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "output"
    for content in ("first", "second"):
        with atomic_write(target, has_only("*")) as folder:
            folder.mkdir()
            (folder / "file").write_text(content)
    with pytest.raises(ZeroDivisionError), atomic_write(target, has_only("*")) as folder:  # noqa: PT012
        folder.mkdir()
        (folder / "file").write_text(str(1 / 0))
    assert (target / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_faults_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    target = tmp_path / "output"
    with (
        exclusive_writer(target),
        pytest.raises(UserError, match="another run"),
        exclusive_writer(target),
    ):
        pass
    with exclusive_writer(target):
        pass


def test_results_come_in_the_order_of_the_tasks_and_few_wait() -> None:
    """The first task ends last, so the others of its window wait for it and no more start."""
    release, started = threading.Event(), []

    def work(task: int) -> int:
        started.append(task)
        if task == 0:
            assert release.wait(10)
        elif len(started) == 6:
            release.set()
        return task * task

    running = run_tasks(work, range(20), lambda: ThreadPoolExecutor(3), window=6)
    results = []
    for result in running:
        results.append(result)
        assert len(started) <= len(results) + 6
    assert results == [(task, task * task) for task in range(20)]


# Runs tasks whose pool breaks in the middle of a `submit`: before or after the second worker has
# started, the first one is killed, and the pool finds that out.
_BREAKING = """
import functools, operator, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnProcess
from facevae.data import executors

if __name__ == "__main__":
    spawn, start, pools = ProcessPoolExecutor._spawn_process, SpawnProcess.start, []

    def spawn_and_remember(pool):
        pools.append(pool)
        spawn(pool)

    def start_while_breaking(process):
        def break_pool():
            if len(pools) == 2:
                os.kill(*pools[0]._processes, signal.SIGKILL)
                # Later versions of Python let the pool break only after the start.
                deadline = time.monotonic() + 2
                while not pools[0]._broken and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(float(sys.argv[2]))

        if sys.argv[1] == "before":
            break_pool()
        start(process)
        if sys.argv[1] == "after":
            break_pool()

    ProcessPoolExecutor._spawn_process = spawn_and_remember
    SpawnProcess.start = start_while_breaking
    double = functools.partial(operator.mul, 2)
    print(list(executors.run_tasks(double, range(4), lambda: executors.local_executor(2))))
"""


@pytest.mark.parametrize(
    ("moment", "seconds"), [("before", "0.3"), ("after", "0"), ("after", "0.3")]
)
def test_a_pool_that_breaks_while_a_worker_starts_is_replaced(
    tmp_path: Path, moment: str, seconds: str
) -> None:
    (tmp_path / "breaking.py").write_text(_BREAKING)
    done = subprocess.run(
        [sys.executable, "breaking.py", moment, seconds],
        cwd=tmp_path, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{[(each, 2 * each) for each in range(4)]}\n")
