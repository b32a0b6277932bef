"""Ctrl-C and SIGTERM, where they must not end a block of code in its middle."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delay what Ctrl-C and SIGTERM do in Python until the end of this block.

    Processes that are started in the block never receive Ctrl-C. A terminal sends it to all of its
    processes, and only the parent is to handle it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # The mask holds for this thread and for the processes it starts. Another thread may still
    # receive the signal, and Python would then interrupt the main thread in the block.
    held_back: list[int] = []
    handlers: dict[int, Callable[..., object]] = {}
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):
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
