"""An executor on a Dask cluster, whose workers are there and can do what is asked of them.

The environment variable DASK_SCHEDULER_ADDRESS names a cluster, as it does for Dask itself. Its
workers need this package, and the data under the same paths. Left to itself, Dask waits without a
word for a worker, and for ever if all workers lack this package.
"""

import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from facevae.common.errors import UserError

SCHEDULER = "DASK_SCHEDULER_ADDRESS"
# How long a cluster may have no worker: Dask's own setting, and its value if that is not set.
_LIMIT_KEY = "distributed.scheduler.no-workers-timeout"
_LIMIT = "60 s"
_CONNECT_SECONDS = 10
_POLL_SECONDS = 0.5
# What the workers import for their tasks.
_NEEDED = "facevae.data.preparation"


@contextlib.contextmanager
def dask_executor(address: str, shared: Sequence[Path] = ()) -> Iterator[Executor]:
    """An executor on the Dask cluster whose scheduler is at `address`, e.g. tcp://10.0.0.1:8786.

    Args:
        shared: files and folders that all workers must see under the same paths.

    Raises:
        UserError: Dask is not installed, no scheduler answers at the address, the cluster has had
            no worker for a minute (or for distributed.scheduler.no-workers-timeout), a worker lacks
            what it needs, or the cluster gave up a task because its workers died.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError(
            f"{SCHEDULER} is set, but Dask is not installed: pip install distributed"
        ) from None
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UserError(f"{SCHEDULER}: no Dask scheduler answers at {address} ({error})") from None
    with _without_log(), client:
        executor = _DaskExecutor(client)
        try:
            with _while_there_are_workers(client, executor, address):
                _check_workers(client, shared)
                yield executor
        except KilledWorker as error:
            raise UserError(f"{SCHEDULER}: {error}") from None


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    # Tracebacks about a lost scheduler, which is a sentence here.
    logs = [logging.getLogger(name) for name in ("distributed.client", "tornado.application")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


class _DaskExecutor(Executor):
    """Dask's executor, whose tasks can be given up.

    Dask's own way to cancel tasks leaves a caller waiting whose result a dead worker had.
    """

    def __init__(self, client: Any) -> None:
        # Not pure: an equal task of an earlier run wrote another file, so run this one too.
        self._executor = client.get_executor(pure=False)
        self._futures: weakref.WeakSet[Future] = weakref.WeakSet()

    def submit(self, *task: Any, **arguments: Any) -> Future:
        future = self._executor.submit(*task, **arguments)
        self._futures.add(future)
        return future

    def give_up(self) -> None:
        """Cancel all tasks."""
        for future in list(self._futures):
            future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self.give_up()


@contextlib.contextmanager
def _while_there_are_workers(client: Any, executor: _DaskExecutor, address: str) -> Iterator[None]:
    """Begin when the cluster has a worker; cancel all tasks when it has had none for too long.

    Raises:
        UserError: it has had none for too long.
    """
    from dask import config, utils

    limit = utils.parse_timedelta(config.get(_LIMIT_KEY) or _LIMIT)
    sentence = f"{SCHEDULER}: the Dask scheduler at {address} has no worker"
    leave = threading.Event()
    missing = False

    def watch() -> None:
        nonlocal missing
        there = time.monotonic()
        told = False
        while not leave.wait(_POLL_SECONDS) and not missing:
            if client.status in ("closing", "closed"):  # by itself, without a scheduler
                executor.give_up()
                return
            try:
                workers = client.nthreads()
            except Exception:  # of several kinds, while the scheduler does not answer
                workers = None
            if workers:
                there, told = time.monotonic(), False
            elif not told:
                print(f"{sentence}; waiting for one", file=sys.stderr, flush=True)
                told = True
            if time.monotonic() - there > limit:
                missing = True
                executor.give_up()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        try:
            # A task, and not only a question: some clusters start workers when there are tasks.
            executor.submit(os.getpid).result()
        except CancelledError:
            if not missing:
                raise UserError(f"{SCHEDULER}: the Dask scheduler at {address} has gone") from None
        else:
            yield
    finally:
        leave.set()
        watcher.join()
    if missing:
        raise UserError(
            f"{sentence}, for {limit:g} s now; start one: dask worker {address} (Dask's setting "
            f"{_LIMIT_KEY} makes the wait longer)"
        )


def _check_workers(client: Any, shared: Sequence[Path]) -> None:
    """Check that all workers can do the tasks, and would write the same bytes as this process.

    Raises:
        UserError: one cannot, or would not.
    """

    def ask(function: Any, *arguments: Any) -> Iterator[tuple[str, Any]]:
        for worker, answer in client.run(function, *arguments, on_error="return").items():
            if not isinstance(answer, OSError):  # otherwise it has gone in the meantime
                yield f"{SCHEDULER}: the Dask worker at {worker}", answer

    remedy = "install this project's environment there, or stop that worker"
    # `exec`, because a function of this package is a message that such a worker cannot read.
    for worker, error in ask(exec, f"import {_NEEDED}", {}):
        if error is not None:
            raise UserError(f"{worker} cannot import {_NEEDED} ({error}); {remedy}")
    own = _versions()
    for worker, versions in ask(_versions):
        if versions != own:
            raise UserError(f"{worker} has {versions}, and this machine has {own}; {remedy}")
    for worker, unseen in ask(_unseen, [str(path) for path in shared]):
        if unseen:
            raise UserError(
                f"{worker} does not see {unseen[0]}; all workers need the source and the target "
                f"under the same paths as this machine, on a disk that they share"
            )


def _versions() -> str:
    """The versions of what decides the bytes of a shard."""
    code = hashlib.blake2b(digest_size=6)
    for folder in ("common", "data", "shards"):
        for path in sorted(Path(__file__).parent.with_name(folder).glob("*.py")):
            code.update(path.read_bytes())
    return f"numpy {version('numpy')}, pillow {version('pillow')}, code {code.hexdigest()}"


def _unseen(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
