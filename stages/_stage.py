"""What all stages share: their command line, how they fail, and where unfinished work is kept."""

import argparse
import errno
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What PYTHONPATH names comes after the environment's packages: it may be of another Python.
_named = [Path(place).absolute() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
sys.path.sort(key=lambda place: Path(place) in _named)

# The library beside this file, not an installed one: it is what DVC has listed and hashed, also in
# the copies of the project that `dvc exp run --temp` and the queue make.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# A user's own style is not for these charts: the same results are to give the same pictures.
os.environ["MATPLOTLIBRC"] = os.devnull

try:
    import yaml

    from facevae.common.errors import StoppedError, UserError
    from facevae.common.parameters import VARIANTS, Parameters, load_parameters
    from facevae.common.runtime import before_abort
except ModuleNotFoundError as error:
    sys.exit(
        f"{sys.executable} lacks the package {error.name}: run `make repro`, which builds the "
        "environment, or activate one that has what requirements.txt lists; `dvc checkout` brings "
        "back the outputs that DVC has deleted"
    )

PROJECT = Path(__file__).resolve().parent.parent


# What several stages take.
_HELP = {
    "shards": "folder that the prepare stage wrote",
    "model": ".keras file of the train stage",
    "prior": ".npz file of the prior stage",
    "metrics": "folder of the metrics that other stages wrote",
    "reports": "folder of the reports and pictures that other stages wrote",
}


def arguments(
    description: str, *names: str, variant: bool = False, **paths: str
) -> tuple[argparse.Namespace, Parameters]:
    """Parse a stage's command line and read params.yaml.

    Args:
        description: of the stage.
        names: flags of `_HELP`, all required.
        variant: whether the stage takes `--variant`; the parameters are then those of the variant.
        paths: the help of further flags, all required.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", default="params.yaml", help="parameters (default: %(default)s)")
    if variant:
        parser.add_argument(
            "--variant", required=True, choices=VARIANTS, help="without the extra layer, or with it"
        )
    for name, text in {**{name: _HELP[name] for name in names}, **paths}.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, required=True, type=Path, metavar="PATH", help=text)
    options = parser.parse_args()
    parameters = load_parameters(options.params)
    _read.append(parameters)
    return options, parameters.variant(options.variant) if variant else parameters


_read: list[Parameters] = []  # by `arguments`


# The error numbers of a full disk, a read-only disk, a folder of somebody else.
_ENVIRONMENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run(stage: Callable[[], None]) -> None:
    """Run a stage; a UserError, a disk that refuses, or too little memory becomes a sentence and
    exit status 2.

    A stage that a signal has stopped, see `stop_on_signals`, says how to resume, and exits with 128
    plus the signal's number, as shells do.
    """
    before_abort(_before_abort)
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
        _refuse(str(error))
        sys.exit(2)
    except StoppedError as error:
        print(f"{error}; the same command again goes on from there", file=sys.stderr)
        # Without a signal here, it was another machine's, and all of them stop.
        sys.exit(128 + (_caught[-1] if _caught else signal.SIGTERM))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the memory that has run out
        from facevae.memory.host import is_shortage, shortage

        if not _read or not is_shortage(error):
            raise
        _refuse(shortage(_read[-1]))
        sys.exit(2)


def _refuse(sentence: str) -> None:
    _restore_outputs()
    print(sentence, file=sys.stderr, flush=True)


def _before_abort(no_memory: bool) -> None:
    from facevae.common.limits import address_space_is_used_up
    from facevae.memory.host import shortage

    no_memory = no_memory or address_space_is_used_up()
    # Behind a progress bar, which cannot be closed any more.
    _refuse(f"\n{'' if no_memory else 'aborted, see above; perhaps '}{shortage(_read[-1])}")
    if no_memory:
        os._exit(2)


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
