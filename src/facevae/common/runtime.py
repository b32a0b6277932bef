"""What a process sets up before it works: TensorFlow, determinism, progress bars."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

from tqdm import tqdm

from facevae.common.inherited import ignore_inherited_settings


def enable_determinism(seed: int) -> None:
    """Seed all random generators and order TensorFlow's kernels: the same calls, the same bits."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def load_tensorflow() -> None:
    """Import TensorFlow without its start-up messages, which come from before any log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    ignore_inherited_settings()
    sys.stderr.flush()
    terminal = os.dup(2)
    # Keras imports these where it finds them, for functions that no stage calls: two seconds.
    unneeded = [name for name in ("matplotlib", "scipy", "sklearn") if name not in sys.modules]
    for name in unneeded:
        sys.modules[name] = None  # type: ignore[assignment]
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            for name in unneeded:
                del sys.modules[name]
            os.dup2(terminal, 2)
            os.close(terminal)


def progress_bar(description: str, unit: str, total: int, done: int = 0) -> tqdm:
    """A progress bar on standard error: live on a terminal, refreshed every half minute in a log.

    Args:
        unit: of `total`, with the space before it, such as " images"; "B", bytes, is shown in
            multiples: k, M, G.
        done: where the bar starts; it does not count in the bar's rate.
    """
    live = sys.stderr.isatty()
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
