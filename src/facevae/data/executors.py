"""Where tasks run: in local processes, or on a Dask cluster; a worker that dies costs its tasks.

A Dask cluster is named as Dask's own users do it, by DASK_SCHEDULER_ADDRESS in the environment. Its
workers need this package installed and see the files under the same paths.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from typing import TypeVar

from facevae.common.errors import UserError

SCHEDULER = "DASK_SCHEDULER_ADDRESS"
# A pool that breaks so often without finishing a single task will not finish any.
_ATTEMPTS = 3

Task = TypeVar("Task")
Result = TypeVar("Result")


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the end of this block; processes started in it never hear of it.

    A terminal sends it to all its processes, and the parent alone decides what it means.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # The mask is that of this thread, and of what it starts. If another thread takes the signal,
    # Python still raises it in the main one, in the midst of starting a worker.
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
        # A killed parent cannot stop its workers, which would wait for tasks for ever.
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def local_executor(processes: int | None = None) -> Executor:
    """So many worker processes; one per core if None."""
    return ProcessPoolExecutor(
        processes or os.cpu_count(),
        # Spawned, not forked: a fork of a process with threads can hang.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_enter_worker,
    )


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The Dask cluster with a scheduler at `address`, such as tcp://10.0.0.1:8786.

    Raises:
        UserError: Dask is not installed, or no scheduler answers there.
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
        try:
            # pure: equal tasks of two runs are not the same, for each writes a file.
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise UserError(f"{SCHEDULER}: {error}") from None


def default_executor() -> contextlib.AbstractContextManager[Executor]:
    """The Dask cluster that the environment names, or else the local processes."""
    address = os.environ.get(SCHEDULER)
    return dask_executor(address) if address else local_executor()


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
                    with _interrupts_held_back():  # for submitting is what starts local workers
                        for task in itertools.islice(waiting, len(futures), window):
                            futures.append(executor.submit(function, task))
                    result = futures[0].result()
                    futures.popleft()
                    yield waiting.popleft(), result
            except (BrokenExecutor, CancelledError):
                failures = failures + 1 if len(waiting) == left else 1
                if failures == _ATTEMPTS:
                    raise UserError(
                        f"workers died {_ATTEMPTS} times without finishing a task; "
                        f"is there enough memory for {os.cpu_count()} of them?"
                    ) from None
            finally:
                for future in futures:
                    future.cancel()
