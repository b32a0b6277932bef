"""Running tasks in local worker processes or on a Dask cluster, although workers may die."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from facevae.common.errors import UserError
from facevae.common.limits import PROCESSES, worker_processes
from facevae.common.signals import interrupts_held_back
from facevae.data.dask_cluster import SCHEDULER, dask_executor

# Pools that may break in a row, none of them with a task finished, before `run_tasks` gives up.
_ATTEMPTS = 3

Task = TypeVar("Task")
Result = TypeVar("Result")


def _enter_worker() -> None:
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        # A killed parent cannot stop its workers, and they would wait for tasks forever.
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def local_executor(processes: int | None = None) -> Executor:
    """A pool of worker processes: this number, or `worker_processes` if None."""
    with interrupts_held_back():  # Python starts a process that keeps books of its locks
        return ProcessPoolExecutor(
            processes or worker_processes(),
            # Spawned, not forked: a forked copy of a process with threads can hang.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_enter_worker,
        )


def default_executor(shared: Sequence[Path] = ()) -> contextlib.AbstractContextManager[Executor]:
    """The Dask cluster that the environment names, or local processes where it names none.

    Args:
        shared: files and folders that a cluster's workers must see under the same paths.
    """
    address = os.environ.get(SCHEDULER)
    return dask_executor(address, shared) if address else local_executor()


def _is_broken(future: Future) -> bool:
    return (
        future.done() and not future.cancelled() and isinstance(future.exception(), BrokenExecutor)
    )


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
        # The end of the executor waits for tasks at work, which is not to be interrupted again.
        with contextlib.ExitStack() as ending, executors() as executor:
            futures: collections.deque[Future] = collections.deque()  # of the first of `waiting`
            try:
                while waiting:
                    with interrupts_held_back():  # submitting starts the local workers
                        for task in itertools.islice(waiting, len(futures), window):
                            futures.append(executor.submit(function, task))
                    result = futures[0].result()
                    futures.popleft()
                    yield waiting.popleft(), result
            except (BrokenExecutor, CancelledError, OSError) as error:
                # A pool that breaks in the middle of `submit` has closed its pipes there.
                if isinstance(error, OSError) and not any(map(_is_broken, futures)):
                    raise
                failures = failures + 1 if len(waiting) == left else 1
                if failures == _ATTEMPTS:
                    raise UserError(
                        f"worker processes died {_ATTEMPTS} times without finishing a task; "
                        f"check that there is enough memory for all of them, or start fewer: "
                        f"{PROCESSES}=1"
                    ) from None
            finally:
                ending.enter_context(interrupts_held_back())
                if any(map(_is_broken, futures)):
                    # Python 3.11 would wait forever for a worker that `submit` started while the
                    # pool broke: its own thread had ended the others already.
                    for process in multiprocessing.active_children():
                        process.kill()
                # By its own thread: where all processes are stopped together, it finds its workers
                # dead, and fails over futures that others have cancelled.
                executor.shutdown(cancel_futures=True)
