"""What all stages share: their command line, how they fail, and a quiet TensorFlow."""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The library beside this file, not an installed one: it is what DVC has listed and hashed, also in
# the copies of the project that `dvc exp run --temp` and the queue make.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from tqdm import tqdm

from facevae.errors import UserError


def arguments(description: str, **options: dict[str, Any]) -> argparse.Namespace:
    """Parse a stage's command line: `--params` and what `options` names, all required."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", default="params.yaml", help="parameters (default: %(default)s)")
    for name, settings in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, **{"required": True, "type": Path, **settings})
    return parser.parse_args()


def run(stage: Callable[[], None]) -> None:
    """Run a stage; a UserError becomes its message and exit status 2."""
    try:
        stage()
    except UserError as error:
        _restore_outputs()
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _restore_outputs() -> None:
    # DVC deletes a stage's outputs before it runs it. A refusal must not cost the user the last
    # good ones: fetch them back from DVC's cache.
    stage = os.environ.get("DVC_STAGE")
    if stage:
        command = [sys.executable, "-m", "dvc", "checkout", "--quiet", stage]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def progress_bar(description: str, unit: str, total: int) -> tqdm:
    """A bar on standard error: live on a terminal, a line every half minute in a log."""
    live = sys.stderr.isatty()
    return tqdm(
        desc=description,
        unit=unit,
        total=total,
        mininterval=0.2 if live else 30,
        maxinterval=1 if live else 60,
        dynamic_ncols=live,
    )


@contextlib.contextmanager
def counting(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback (done, total)."""
    with progress_bar(description, unit, 0) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def load_tensorflow() -> None:
    """Import TensorFlow without its start-up messages, which come from before any log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
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
            os.dup2(terminal, 2)
            os.close(terminal)
