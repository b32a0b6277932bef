"""Running tasks in local worker processes or on a Dask cluster, although workers may die.

The environment variable DASK_SCHEDULER_ADDRESS names a Dask cluster, as it does for Dask itself.
The workers of the cluster need this package, and the data under the same paths.
"""

import collections
import contextlib
import hashlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from facevae.common.errors import UserError

SCHEDULER = "DASK_SCHEDULER_ADDRESS"
# Pools that may break in a row, none of them with a task finished, before `run_tasks` gives up.
_ATTEMPTS = 3
# How long a Dask cluster may have no workers, if Dask's own setting does not say.
_LIMIT_KEY = "distributed.scheduler.no-workers-timeout"
_LIMIT = "60 s"
_POLL_SECONDS = 0.5
# What the workers of a Dask cluster import for their tasks.
_NEEDED = "facevae.data.preparation"

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Delay Ctrl-C until the end of this block; processes started in the block never receive it.

    A terminal sends the signal to all of its processes. Only the parent is to handle it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # The mask holds for this thread and for the processes it starts. Another thread may still
    # receive the signal, and Python would then interrupt the main thread while it starts a worker.
    main = threading.current_thread() is threading.main_thread()
    held_back: list[int] = []
    if main:
        handler = signal.signal(signal.SIGINT, lambda number, _: held_back.append(number))
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if held_back:
        signal.raise_signal(signal.SIGINT)


def _enter_worker() -> None:
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        # A killed parent cannot stop its workers, and they would wait for tasks forever.
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def local_executor(processes: int | None = None) -> Executor:
    """A pool of worker processes: this number, or one per core if None."""
    return ProcessPoolExecutor(
        processes or os.cpu_count(),
        # Spawned, not forked: a forked copy of a process with threads can hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_enter_worker,
    )


@contextlib.contextmanager
def dask_executor(address: str, shared: Sequence[Path] = ()) -> Iterator[Executor]:
    """An executor on the Dask cluster whose scheduler is at `address`, e.g. tcp://10.0.0.1:8786.

    Args:
        shared: files and folders that the workers must see under the same paths.

    Raises:
        UserError: Dask is not installed, no scheduler answers at the address, the cluster has no
            workers for a minute (or for Dask's distributed.scheduler.no-workers-timeout), a worker
            lacks what it needs, or the cluster gave up a task because its workers died.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise UserError(
            f"{SCHEDULER} is set, but Dask is not installed: pip install distributed"
        ) from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UserError(f"{SCHEDULER}: no Dask scheduler answers at {address} ({error})") from None
    with client:
        # Not pure: an equal task of an earlier run wrote another file, so run this one too.
        executor = client.get_executor(pure=False)
        try:
            with _workers_are_there(client, executor):
                _check_workers(client, shared)
                yield executor
        except KilledWorker as error:
            raise UserError(f"{SCHEDULER}: {error}") from None


@contextlib.contextmanager
def _workers_are_there(client: Any, executor: Executor) -> Iterator[None]:
    """Begin when a Dask cluster has a worker; cancel all tasks when it has had none for too long.

    Raises:
        UserError: it has had none for too long.
    """
    from dask import config, utils

    limit = utils.parse_timedelta(config.get(_LIMIT_KEY) or _LIMIT)
    sentence = f"{SCHEDULER}: the Dask scheduler at {client.scheduler.address} has no worker"
    leave = threading.Event()
    missing = False

    def watch() -> None:
        nonlocal missing
        there = time.monotonic()
        told = False
        while not leave.wait(_POLL_SECONDS) and not missing:
            if client.nthreads():
                there, told = time.monotonic(), False
            elif not told:
                print(f"{sentence}; waiting for one", file=sys.stderr, flush=True)
                told = True
            if time.monotonic() - there > limit:
                missing = True
                executor.shutdown(wait=False)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        try:
            # A task, and not only a question: some clusters start workers when there are tasks.
            executor.submit(os.getpid).result()
        except CancelledError:
            if not missing:
                raise UserError(f"{SCHEDULER}: the Dask scheduler is gone") from None
        else:
            yield
    finally:
        leave.set()
        watcher.join()
    if missing:
        raise UserError(
            f"{sentence}, for {limit:.0f} s now; start one: dask worker {client.scheduler.address} "
            f"(a longer wait: Dask's setting {_LIMIT_KEY})"
        )


def _check_workers(client: Any, shared: Sequence[Path]) -> None:
    """Check that all workers can do the tasks, and would do them as this process would.

    Raises:
        UserError: one cannot.
    """
    where = f"{SCHEDULER}: the Dask worker at"
    remedy = "install this project's environment there, or stop that worker"
    # `exec`, because a function of this package is a message that such a worker cannot read.
    answers = client.run(exec, f"import {_NEEDED}", {}, on_error="return")
    for worker, error in answers.items():
        if isinstance(error, Exception):
            raise UserError(f"{where} {worker} cannot import {_NEEDED} ({error}); {remedy}")
    own = _versions()
    for worker, versions in client.run(_versions, on_error="return").items():
        if versions != own:
            raise UserError(f"{where} {worker} has {versions}, and this machine {own}; {remedy}")
    for worker, unseen in client.run(_unseen, [str(path) for path in shared]).items():
        if unseen:
            raise UserError(
                f"{where} {worker} does not see {unseen[0]}; all workers need the data under the "
                f"same paths as this machine, on a disk that they share"
            )


def _versions() -> str:
    """The versions of all that decides the content of shards."""
    code = hashlib.sha256()
    for name in ("common", "data", "shards"):
        for path in sorted(Path(__file__).parent.with_name(name).glob("*.py")):
            code.update(path.read_bytes())
    libraries = [f"{name} {version(name)}" for name in ("numpy", "pillow")]
    return ", ".join([*libraries, f"code {code.hexdigest()[:12]}"])


def _unseen(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def default_executor(shared: Sequence[Path] = ()) -> contextlib.AbstractContextManager[Executor]:
    """The Dask cluster that the environment names, or local processes where it names none.

    Args:
        shared: as in `dask_executor`.
    """
    address = os.environ.get(SCHEDULER)
    return dask_executor(address, shared) if address else local_executor()


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    executors: Callable[[], contextlib.AbstractContextManager[Executor]] = default_executor,
    window: int | None = None,
) -> Generator[tuple[Task, Result], None, None]:
    """Run a function on every task in an executor; yield each task with its result, in order.

    After the death of a worker, the tasks without a result run again in a new executor. So it must
    do no harm to run a task twice, even at the same time.

    Args:
        executors: opens an executor.
        window: largest number of tasks that are submitted and whose results the caller has not
            taken yet, which bounds the memory of the results; None submits all tasks at once.

    Raises:
        UserError: workers keep dying, or the cluster is lost.
        Exception: the function raised it; the tasks that have not started are cancelled.
    """
    waiting = collections.deque(tasks)
    failures = 0
    while waiting:
        left = len(waiting)
        with executors() as executor:
            futures: collections.deque[Future] = collections.deque()  # of the first of `waiting`
            try:
                while waiting:
                    with _interrupts_held_back():  # submitting starts the local workers
                        for task in itertools.islice(waiting, len(futures), window):
                            futures.append(executor.submit(function, task))
                    result = futures[0].result()
                    futures.popleft()
                    yield waiting.popleft(), result
            except (BrokenExecutor, CancelledError):
                failures = failures + 1 if len(waiting) == left else 1
                if failures == _ATTEMPTS:
                    raise UserError(
                        f"worker processes died {_ATTEMPTS} times without finishing a task; "
                        f"check that there is enough memory for all of them"
                    ) from None
            finally:
                for future in futures:
                    future.cancel()
