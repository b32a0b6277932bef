"""Preparing images on a real Dask cluster on this machine."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import data_settings

from facevae.common.errors import UserError
from facevae.data.executors import SCHEDULER, dask_executor
from facevae.data.preparation import prepare

pytestmark = pytest.mark.slow

Client = pytest.importorskip("distributed", reason="Dask is not installed").Client


@contextlib.contextmanager
def _process(*command: str, log: Path) -> Iterator[subprocess.Popen]:
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=file, stderr=subprocess.STDOUT
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


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler with two workers, each watched by a nanny of Dask's."""
    folder = tmp_path_factory.mktemp("dask")
    log = folder / "scheduler.log"
    with _process(
        "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
        "--no-dashboard", "--no-jupyter", log=log,
    ):  # fmt: skip
        address = _wait_for(r"Scheduler at:\s+(tcp://\S+)", log)
        worker_log = folder / "worker.log"
        with _process(
            "distributed.cli.dask_worker", address, "--nworkers", "2", "--nthreads", "1",
            "--no-dashboard", "--local-directory", str(folder), log=worker_log,
        ):  # fmt: skip
            _wait_for(r"Registered to:", worker_log, count=2)
            yield address


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
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        prepare(data_settings(source), tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
