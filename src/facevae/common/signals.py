"""The signals that interrupt, and where they must not end a block of code in its middle."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

# Ctrl-C, a batch system's end of a job, and a terminal that is closed.
INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded_interrupts() -> list[signal.Signals]:
    """Those that this process does not ignore: `nohup` ignores SIGHUP, a script's `&` Ctrl-C."""
    return [each for each in INTERRUPTS if signal.getsignal(each) != signal.SIG_IGN]


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delay what the `INTERRUPTS` do in Python until the end of this block.

    Processes that are started in the block never receive Ctrl-C, or the end of their terminal. A
    terminal sends these to all of its processes, and only the parent is to handle them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    # The mask holds for this thread and for the processes it starts. Another thread may still
    # receive the signal, and Python would then interrupt the main thread in the block.
    held_back: list[int] = []
    handlers: dict[int, Callable[..., object]] = {}
    if threading.current_thread() is threading.main_thread():
        for each in INTERRUPTS:
            if callable(handler := signal.getsignal(each)):
                handlers[each] = handler
                signal.signal(each, lambda number, _: held_back.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in held_back:
            signal.raise_signal(number)
