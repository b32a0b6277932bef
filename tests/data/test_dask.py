"""Preparing images on a real Dask cluster on this machine."""

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import data_settings

from facevae.common.errors import UserError
from facevae.data import dask_cluster
from facevae.data.dask_cluster import SCHEDULER, dask_executor
from facevae.data.preparation import prepare

pytestmark = pytest.mark.slow

Client = pytest.importorskip("distributed", reason="Dask is not installed").Client
dask = pytest.importorskip("dask")
LIMIT = "distributed.scheduler.no-workers-timeout"


@contextlib.contextmanager
def _process(*command: str, log: Path) -> Iterator[subprocess.Popen]:
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def _wait_for(pattern: str, log: Path, count: int = 1) -> str:
    deadline = time.monotonic() + 60
    while len(found := re.findall(pattern, log.read_text())) < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found[0]


@contextlib.contextmanager
def _scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler without workers: its address and its process."""
    log = folder / "scheduler.log"
    with _process(
        "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
        "--no-dashboard", "--no-jupyter", log=log,
    ) as process:  # fmt: skip
        yield _wait_for(r"Scheduler at:\s+(tcp://\S+)", log), process


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, each watched by a nanny of Dask's."""
    folder = tmp_path_factory.mktemp("dask")
    with _scheduler(folder) as (address, _):
        log = folder / "worker.log"
        with _process(
            "-m", "distributed.cli.dask_worker", address, "--nworkers", "2", "--nthreads", "1",
            "--no-dashboard", "--local-directory", str(folder), log=log,
        ):  # fmt: skip
            _wait_for(r"Registered to:", log, count=2)
            yield address


@pytest.fixture(scope="module")
def empty_scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler without workers."""
    with _scheduler(tmp_path_factory.mktemp("empty")) as (address, _):
        yield address


@contextlib.contextmanager
def _worker(scheduler: str, folder: Path, *places: Path) -> Iterator[subprocess.Popen]:
    """A worker without a nanny that finds this package at none but these places.

    Without `site` (-S), Python does not read the file that the installed package is named in.
    """
    libraries = [sysconfig.get_path("purelib"), *map(str, places)]
    code = (
        f"import sys\nsys.path += {libraries}\n"
        "from distributed.cli.dask_worker import main\nmain()\n"
    )
    log = folder / "worker.log"
    with _process(
        "-S", "-c", code, scheduler, "--no-nanny", "--nthreads", "1", "--no-dashboard",
        "--local-directory", str(folder), log=log,
    ) as process:  # fmt: skip
        _wait_for(r"Registered to:", log)
        yield process


def test_dask_gives_the_same_bytes(
    scheduler: str, source: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCHEDULER, scheduler)
    prepare(data_settings(source), tmp_path / "shards")
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_dask_tells_bad_images_as_the_local_pool_does(
    scheduler: str, source: Path, tmp_path: Path
) -> None:
    settings = data_settings(source, crop="none", image_size=200)
    with pytest.raises(UserError, match=r"000001.jpg: is 178x218 pixels, smaller than"):
        prepare(settings, tmp_path / "shards", executors=lambda: dask_executor(scheduler))


def test_dask_worker_that_dies_costs_its_shard_again(
    scheduler: str, source: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_a_worker(done: int, total: int) -> None:
        if not killed:
            with Client(scheduler) as client:
                killed.append(min(client.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)

    settings = data_settings(source, resize="lanczos", image_size=96, images_per_shard=1)
    prepare(settings, tmp_path / "undisturbed")
    prepare(
        settings,
        tmp_path / "shards",
        progress=kill_a_worker,
        executors=lambda: dask_executor(scheduler),
    )
    assert not psutil.pid_exists(killed[0])
    for path in (tmp_path / "undisturbed").iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_dask_scheduler_that_does_not_answer_is_a_sentence(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCHEDULER, "tcp://127.0.0.1:1")
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        prepare(data_settings(source), tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_dask_scheduler_without_workers_is_a_sentence_after_a_wait(
    empty_scheduler: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(SCHEDULER, empty_scheduler)
    with dask.config.set({LIMIT: "1 s"}), pytest.raises(UserError) as raised:
        prepare(data_settings(source), tmp_path / "shards")
    sentence = f"{SCHEDULER}: the Dask scheduler at {empty_scheduler} has no worker"
    assert capsys.readouterr().err == f"{sentence}; waiting for one\n"
    start = f"dask worker {empty_scheduler}"
    assert str(raised.value).startswith(f"{sentence}, for 1 s now; start one: {start} (")
    assert not (tmp_path / "shards").exists()


def test_dask_worker_without_this_package_is_a_sentence(
    empty_scheduler: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SCHEDULER, empty_scheduler)
    with (
        _worker(empty_scheduler, tmp_path),
        pytest.raises(UserError, match=r"worker at tcp://\S+ cannot import facevae\.data\.prepar.+"
                      r"\(No module named 'facevae'\); install this project's environment there"),
    ):  # fmt: skip
        prepare(data_settings(source), tmp_path / "shards")


def test_dask_worker_with_other_code_is_a_sentence(
    empty_scheduler: str, source: Path, project: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(project / "src", tmp_path / "src")
    with open(tmp_path / "src" / "facevae" / "data" / "celeba.py", "a") as file:
        file.write("# changed\n")
    monkeypatch.setenv(SCHEDULER, empty_scheduler)
    with (
        _worker(empty_scheduler, tmp_path, tmp_path / "src"),
        pytest.raises(UserError, match=r"worker at \S+ has numpy .+, code (\w+), and this machine "
                      r"has numpy .+, code (?!\1)\w+; install"),
    ):  # fmt: skip
        prepare(data_settings(source), tmp_path / "shards")


def test_dask_worker_that_does_not_see_the_data_is_a_sentence(
    scheduler: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "of another machine"
    with (
        pytest.raises(
            UserError, match=rf"worker at \S+ does not see {elsewhere}; all workers need"
        ),
        dask_executor(scheduler, [tmp_path, elsewhere]),
    ):
        pass


def test_dask_cluster_that_loses_its_last_worker_is_a_sentence(
    empty_scheduler: str, source: Path, project: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(SCHEDULER, empty_scheduler)
    settings = data_settings(source, images_per_shard=1)
    with (
        _worker(empty_scheduler, tmp_path, project / "src") as worker,
        dask.config.set({LIMIT: "1 s"}),
        pytest.raises(UserError, match=r"has no worker, for 1 s now; start one"),
    ):
        prepare(settings, tmp_path / "shards", progress=lambda done, total: worker.kill())
    assert not (tmp_path / "shards").exists()


def test_dask_scheduler_that_dies_is_a_sentence(
    source: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(dask_cluster, "_CONNECT_SECONDS", 1)
    settings = data_settings(source, images_per_shard=1)
    with (
        _scheduler(tmp_path) as (address, process),
        _worker(address, tmp_path, project / "src"),
        pytest.raises(UserError, match=rf"no Dask scheduler answers at {address}"),
    ):
        prepare(
            settings,
            tmp_path / "shards",
            progress=lambda done, total: process.kill(),
            executors=lambda: dask_executor(address),
        )
    # What a user would see: Dask says at a lower level, or not, that the connection has ended.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not (tmp_path / "shards").exists()
