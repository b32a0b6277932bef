"""What a process sets up before it works: TensorFlow, determinism, progress bars."""

import contextlib
import ctypes
import faulthandler
import mmap
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from facevae.common.inherited import ignore_inherited_settings
from facevae.common.signals import INTERRUPTS, interrupts_held_back


def enable_determinism(seed: int) -> None:
    """Seed all random generators and order TensorFlow's kernels: the same calls, the same bits."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


_ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def prefer_onednn() -> None:
    """Let TensorFlow, imported later, use oneDNN's kernels, unless the environment says otherwise.

    On processors without AVX-512 VNNI or AVX-VNNI it leaves them off, and a training step of the
    default networks then takes 1.7 to 1.95 times as long (AMD Zen 3, `make bench-onednn`).
    """
    if _ONEDNN in os.environ:
        return
    os.environ[_ONEDNN] = "1"
    if "tensorflow" in sys.modules:
        from facevae.common.machine import onednn_is_on

        if not onednn_is_on():
            warnings.warn(
                f"TensorFlow was imported before facevae, without oneDNN, which halves its speed "
                f"on this processor: import facevae first, or set {_ONEDNN}=1",
                stacklevel=2,
            )


_NO_FAILURE = b"\0"


@contextlib.contextmanager
def _messages_held_back() -> Iterator[None]:
    """Show what this block writes to standard error if it fails, and nothing if it does not.

    A child process holds the messages, so that they appear also when this one aborts.
    """
    sys.stderr.flush()
    end, start = os.pipe()
    if not (keeper := os.fork()):
        try:
            # They go to this process as well.
            for number in INTERRUPTS:
                signal.signal(number, signal.SIG_IGN)
            os.close(start)
            messages = b""
            while chunk := os.read(end, 2**16):
                messages += chunk
            if not messages.endswith(_NO_FAILURE):
                os.write(2, messages)
        finally:
            os._exit(0)
    os.close(end)
    terminal = os.dup(2)
    os.dup2(start, 2)
    os.close(start)
    try:
        yield
        os.write(2, _NO_FAILURE)
    finally:
        os.dup2(terminal, 2)  # closes the pipe: the keeper ends
        os.close(terminal)
        os.waitpid(keeper, 0)


_ARENAS = "MALLOC_ARENA_MAX"
_M_ARENA_MAX = -8  # of glibc's malloc.h


def _share_one_heap() -> None:
    """Let all threads of this process allocate from one heap, unless the environment says another.

    With glibc, each thread that reads images has a heap of its own, and what it frees there serves
    no other. From epoch to epoch other threads read, so that a training would hold the images that
    it shuffles several times (`make bench-train`, growth of memory).
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option and _ARENAS not in os.environ:
        set_option(_M_ARENA_MAX, 1)


def load_tensorflow(*, find_devices: bool = True) -> None:
    """Import TensorFlow without its start-up messages, which no log level keeps back.

    If the import fails, or aborts the process, they are shown. Ctrl-C waits until the import ends:
    in its middle, parts of TensorFlow report it as an error of their own.

    Args:
        find_devices: find this machine's GPUs, which reports about them, too. Not in a process that
            is to be forked: CUDA works in the process that has looked for its devices alone.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    ignore_inherited_settings()
    _share_one_heap()
    # Keras imports these where it finds them, for functions that no stage calls. Without them a
    # stage starts in 2.8 s, less than the 3.9 s of a bare `import tensorflow` (`make bench-start`).
    unneeded = [name for name in ("matplotlib", "scipy", "sklearn") if name not in sys.modules]
    for name in unneeded:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        with interrupts_held_back(), _messages_held_back():
            import tensorflow as tf

            if find_devices:
                tf.config.list_physical_devices()
    finally:
        for name in unneeded:
            del sys.modules[name]


class _TypeOfException(ctypes.Structure):
    _fields_ = (("table", ctypes.c_void_p), ("name", ctypes.c_char_p))


_kept: list[Any] = []  # what C refers to
_RESERVE = 64 * 2**20  # bytes of address space, given back when there is no more: to tell it with


def before_abort(act: Callable[[bool], None]) -> None:
    """Have a function called where C or C++ aborts this process, before it ends.

    Where memory runs out, kernels of TensorFlow throw std::bad_alloc in threads of their own, where
    nothing catches it, and threads cannot be started. Python's own handlers of signals run too late
    for that. Under Python's faulthandler, and without GNU's C++ library, this does nothing.

    Args:
        act: called with whether the reason is std::bad_alloc.
    """
    try:
        library = ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return
    if faulthandler.is_enabled():
        return
    thrown = library.__getattr__("__cxa_current_exception_type")
    thrown.restype = ctypes.POINTER(_TypeOfException)
    set_terminate = library.__getattr__("_ZSt13set_terminatePFvvE")
    set_terminate.restype = ctypes.CFUNCTYPE(None)

    acting: list[int] = []
    reserve = mmap.mmap(-1, _RESERVE)

    def act_once(no_memory: bool) -> None:
        if not acting:
            acting.append(threading.get_ident())
            reserve.close()
            act(no_memory)
        elif acting[0] != threading.get_ident():
            time.sleep(60)  # several threads may fail at once; the first is still at work

    @ctypes.CFUNCTYPE(None)
    def terminate() -> None:
        kind = thrown()
        if kind and kind.contents.name == b"St9bad_alloc":
            act_once(True)
        before()

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def aborting(number: int) -> None:
        act_once(False)
        library.signal(number, ctypes.c_void_p(None))  # the system's own action

    before = set_terminate(terminate)
    library.signal(signal.SIGABRT, aborting)
    _kept.extend([terminate, aborting])


def progress_bar(description: str, unit: str, total: int, done: int = 0) -> tqdm:
    """A progress bar on standard error: live on a terminal, refreshed every half minute in a log.

    Args:
        unit: of `total`, with the space before it, such as " images"; "B", bytes, is shown in
            multiples: k, M, G.
        done: where the bar starts; it does not count in the bar's rate.
    """
    live = sys.stderr.isatty()
    with interrupts_held_back():  # half a bar cannot be closed
        return tqdm(
            desc=description,
            unit=unit,
            unit_scale=unit == "B",
            unit_divisor=1024,
            total=total,
            initial=done,
            mininterval=0.2 if live else 30,
            maxinterval=1 if live else 60,
            dynamic_ncols=live,
        )


@contextlib.contextmanager
def counting(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback (done, total), which appears at the first call.

    What is done at the first call does not count in the rate, for its time is not known.
    """
    with contextlib.ExitStack() as stack:
        bar: tqdm | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(progress_bar(description, unit, total, done))
            bar.update(done - bar.n)

        yield report
