"""What all stages share: their command line, how they fail, and a quiet TensorFlow."""

import argparse
import contextlib
import errno
import json
import os
import signal
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

from facevae.errors import StoppedError, UserError
from facevae.files import written_whole
from facevae.parameters import Parameters, load_parameters


def arguments(description: str, **options: dict[str, Any]) -> tuple[argparse.Namespace, Parameters]:
    """Parse a stage's command line: `--params`, and what `options` names, all required.

    The parameters are checked before the rest of the line: it is made of them, and their mistakes
    are told by name.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", default="params.yaml", help="parameters (default: %(default)s)")
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--params", default="params.yaml")
    for name, settings in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, **{"required": True, "type": Path, **settings})
    if {"-h", "--help"} & set(sys.argv):
        parser.parse_args()
    parameters = load_parameters(first.parse_known_args()[0].params)
    return parser.parse_args(), parameters


# What a full disk, a folder of somebody else's and the like say of themselves.
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run(stage: Callable[[], None]) -> None:
    """Run a stage; a UserError, or a disk that refuses, becomes a sentence and exit status 2.

    A stage that a signal has stopped, see `stop_on_signals`, says how to go on, and exits with 128
    and the signal's number, as shells have it.
    """
    try:
        try:
            stage()
        except OSError as error:
            if error.errno in _ENVIRONMENT:
                raise UserError(
                    f"{error.filename or 'an output'}: cannot be written: {error.strerror}"
                ) from None
            raise
    except UserError as error:
        _restore_outputs()
        print(error, file=sys.stderr)
        sys.exit(2)
    except StoppedError as error:
        print(f"{error}; the same command again goes on from there", file=sys.stderr)
        # Without a signal here, it was another machine's, and all of them stop.
        sys.exit(128 + (_caught[-1] if _caught else signal.SIGTERM))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _restore_outputs() -> None:
    # DVC deletes a stage's outputs before it runs it. A refusal must not cost the user the last
    # good ones: fetch them back from DVC's cache. There are none before the first run.
    stage = os.environ.get("DVC_STAGE")
    if stage:
        command = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", stage]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a metrics file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_caught: list[int] = []


def stop_on_signals() -> Callable[[], bool]:
    """From here on SIGTERM and Ctrl-C are requests to stop, and end the process only when repeated.

    Returns:
        A function that tells whether there has been one.
    """

    before: dict[int, Any] = {}

    def catch(number: int, _: object) -> None:
        _caught.append(number)
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, catch)
    return lambda: bool(_caught)


def state_folder() -> Path:
    """Where unfinished work is kept, out of DVC's reach, which deletes outputs before each run."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".facevae"


def loaded_code() -> list[Path]:
    """The source files of stages and library that this process has imported so far."""
    stages = Path(__file__).resolve().parent
    homes = (stages, stages.parent / "src")
    loaded = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = [Path(file).resolve() for file in loaded if file]
    return [file for file in files if any(file.is_relative_to(home) for home in homes)]


def progress_bar(description: str, unit: str, total: int, done: int = 0) -> tqdm:
    """A bar on standard error: live on a terminal, refreshed every half minute in a log.

    What was `done` before does not count in its rate.
    """
    live = sys.stderr.isatty()
    return tqdm(
        desc=description,
        unit=unit,
        total=total,
        initial=done,
        mininterval=0.2 if live else 30,
        maxinterval=1 if live else 60,
        dynamic_ncols=live,
    )


@contextlib.contextmanager
def counting(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar as a callback (done, total), shown from the first call on."""
    with contextlib.ExitStack() as stack:
        bar: tqdm | None = None

        def report(done: int, total: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(progress_bar(description, unit, total))
            bar.update(done - bar.n)

        yield report


def load_tensorflow() -> None:
    """Import TensorFlow without its start-up messages, which come from before any log level."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
