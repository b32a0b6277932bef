"""What all stages share: their command line, how they fail, and where unfinished work is kept."""

import argparse
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# The library beside this file, not an installed one: it is what DVC has listed and hashed, also in
# the copies of the project that `dvc exp run --temp` and the queue make.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from facevae.common.errors import StoppedError, UserError
from facevae.common.parameters import Parameters, load_parameters

PROJECT = Path(__file__).resolve().parent.parent


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


def code_of(stage: str) -> list[str]:
    """The files and folders of code that dvc.yaml lists for a stage, relative to `PROJECT`."""
    entry = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    deps = entry.get("do", entry)["deps"]
    return [dep for dep in deps if dep.startswith(("src/", "stages/"))]
