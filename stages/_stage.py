"""What all stages share: their command line, how they fail, and where unfinished work is kept."""

# ruff: noqa: E402

import signal

# Ctrl-C waits until `run` can end the stage without a traceback. stages/python.sh begins to do so
# before Python starts.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

import os

# Where standard error is closed (2>&-), the next file would get its number, and its text.
for _number in range(3):
    try:
        os.fstat(_number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)

import argparse
import contextlib
import errno
import hashlib
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115

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
    from facevae.common.files import atomic_write, target_of
    from facevae.common.parameters import VARIANTS, Parameters, load_parameters
    from facevae.common.requests import check_face_packages, check_inception_weights
    from facevae.common.runtime import before_abort
    from facevae.common.signals import INTERRUPTS, heeded_interrupts
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
    "models": "folder of the models and priors of both variants",
    "attributes": "folder that the attributes stage wrote",
    "metrics": "folder of the metrics that other stages wrote",
    "reports": "folder of the reports and pictures that other stages wrote",
}


def arguments(
    description: str, *names: str, variant: bool = False, **paths: str
) -> tuple[argparse.Namespace, Parameters]:
    """Parse a stage's command line, read params.yaml and check what can be known before the work.

    Every stage checks all of params.yaml, also what others use: the first one that runs tells a
    mistake. No result depends on what is only checked, so dvc.yaml does not list it.

    Args:
        description: of the stage.
        names: flags of `_HELP`, which the stage reads; all required.
        variant: whether the stage takes `--variant`; the parameters are then those of the variant.
        paths: the help of further flags, which the stage writes; all required.

    Raises:
        UserError: a mistake in params.yaml, or in the file of weights that it names; packages that
            it needs are missing; the shards do not suffice for what it asks for; or an output is in
            a folder that is a link, while DVC runs the stage.
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
    _inputs.extend(Path(getattr(options, name)) for name in ("params", *names))
    _outputs.extend(getattr(options, name) for name in paths)
    parameters = load_parameters(options.params)
    _parameters.append(parameters)
    content = parameters.content()
    _inputs.append(Path(content["data"]["source"]))
    _refuse_links([getattr(options, name) for name in (*names, *paths)])
    if (weights := content["evaluate"]["inception_weights"]) is not None:
        _inputs.append(Path(weights))
        check_inception_weights(Path(weights))
    if content["evaluate"]["faces"]:
        check_face_packages()
    if "shards" in names and options.shards.exists():
        from facevae.shards.requests import check_request

        check_request(parameters, options.shards)
    return options, parameters.variant(options.variant) if variant else parameters


_parameters: list[Parameters] = []  # of the stage, when they are read
_inputs: list[Path] = []  # what the stage reads, as far as it is known
_outputs: list[Path] = []  # and what it writes


def _refuse_links(paths: list[Path]) -> None:
    # DVC would refuse them, too, but after the stage's work.
    if "DVC_STAGE" not in os.environ:
        return
    places = {place for path in paths if not path.is_absolute() for place in (path, *path.parents)}
    for folder in sorted(places):
        if folder.is_symlink() and folder.is_dir():  # DVC itself makes links to files
            raise UserError(
                f"{folder}: is a link to {folder.resolve()}, and DVC keeps track of nothing that "
                f"is outside the project; make {folder} a folder, and keep what is large on the "
                f"other disk as docs/troubleshooting.md says"
            )


# The error numbers of a full disk, a read-only disk, a file that is too large for its disk.
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def _sentence(error: OSError) -> str | None:
    """What a file system has refused; None if the error is not a file system's."""
    reason = error.strerror
    if error.errno == errno.ENOMEM:
        return None  # too little memory, which `run` tells
    if not isinstance(error.filename, str | bytes):
        return f"an output: cannot be written: {reason}" if error.errno in _OF_WRITING else None
    path = target_of(Path(os.fsdecode(error.filename)))

    def among(places: list[Path]) -> bool:
        return any(path.absolute().is_relative_to(place.absolute()) for place in places)

    if error.errno in _OF_WRITING or among(_outputs):
        return f"{path}: cannot be written: {reason}"
    return f"{path}: cannot be {'read' if among(_inputs) else 'used'}: {reason}"


def run(stage: Callable[[], None]) -> None:
    """Run a stage; a UserError, a file that a disk refuses, or too little memory becomes a sentence
    and exit status 2.

    A stage that a signal has stopped, see `stop_on_signals`, says how to resume, and exits with 128
    plus the signal's number, as shells do. So does one that Ctrl-C, SIGTERM or the end of its
    terminal has interrupted, when its temporary files are deleted. Whatever stops a stage but a
    kill, its outputs are as before.
    """
    stage = _open_to_signals(stage)
    before_abort(_before_abort)
    try:
        try:
            with _outputs_kept():
                stage()
        except OSError as error:
            if sentence := _sentence(error):
                raise UserError(sentence) from None
            raise
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except StoppedError as error:
        print(f"{error}; the same command again goes on from there", file=sys.stderr)
        # Without a signal here, it was another machine's, and all of them stop.
        sys.exit(128 + (_caught[-1] if _caught else signal.SIGTERM))
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception as error:
        from facevae.memory.host import is_shortage, shortage

        if not _parameters or not is_shortage(error):
            raise
        print(shortage(_parameters[-1]), file=sys.stderr)
        sys.exit(2)
    finally:
        # Python is ending, and would show where Ctrl-C has met it. A training that is complete, see
        # `stop_on_signals`, ends as if there were none.
        for number in INTERRUPTS:
            if signal.getsignal(number) in (signal.default_int_handler, _interrupt):
                signal.signal(number, signal.SIG_DFL)


def _before_abort(no_memory: bool) -> None:
    from facevae.common.limits import address_space_is_used_up
    from facevae.memory.host import shortage

    if stage := os.environ.get("DVC_STAGE"):
        with contextlib.suppress(Exception):  # the sentence matters more
            _restore_outputs(stage)
    if not _parameters:
        return
    no_memory = no_memory or address_space_is_used_up()
    reason = "" if no_memory else "aborted, see above; perhaps "
    # Behind a progress bar, which cannot be closed any more.
    print(f"\n{reason}{shortage(_parameters[-1])}", file=sys.stderr, flush=True)
    if no_memory:
        os._exit(2)


def _open_to_signals(stage: Callable[[], None]) -> Callable[[], None]:
    """The stage, which the `INTERRUPTS`, also an earlier Ctrl-C, end with a KeyboardInterrupt."""

    def opened() -> None:
        for number in heeded_interrupts():
            if number != signal.SIGINT:  # Python's own handler does so
                signal.signal(number, _interrupt)
        before = sys.unraisablehook

        def interrupt_again(unraisable: Any) -> None:
            # Python drops what a destructor raises, and so a Ctrl-C that meets one.
            if not isinstance(unraisable.exc_value, KeyboardInterrupt):
                before(unraisable)
                return
            number = unraisable.exc_value.args[0] if unraisable.exc_value.args else signal.SIGINT
            # Later, because it would be dropped here, too.
            timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()

        sys.unraisablehook = interrupt_again
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            stage()
        finally:
            sys.unraisablehook = before

    return opened


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


@contextlib.contextmanager
def _outputs_kept() -> Iterator[None]:
    """Bring the last good outputs back, if the stage fails: DVC deletes them before it runs it."""
    process = os.getpid()
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they may hold the memory that has run out
        stage = os.environ.get("DVC_STAGE") if os.getpid() == process else None  # not in a fork
        if stage and not (isinstance(error, SystemExit) and not error.code):
            handlers = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
            try:
                with contextlib.suppress(
                    OSError, MemoryError
                ):  # what has stopped the stage matters more
                    _restore_outputs(stage)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python
        raise


def _output_of(*command: str) -> bytes:
    # In a session of its own, because a terminal's Ctrl-C goes to all processes of this one.
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, check=False,
    ).stdout  # fmt: skip


def _restore_outputs(stage: str) -> None:
    """Make a stage's outputs what dvc.lock says, as far as their contents are known.

    Before the stage's first run there are none.
    """
    dvc = sys.executable, "-m", "dvc"
    _output_of(*dvc, "checkout", "--quiet", "--force", stage)
    try:
        entry = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"][stage]
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError):
        return
    # `dvc checkout` leaves out what is listed with `cache: false`, although the cache has it, for
    # the stage's next run with the same parameters. In a fresh clone, git alone has it.
    lost = {
        out["path"]: out["md5"]
        for out in entry.get("outs", [])
        if not out.get("md5", ".dir").endswith(".dir") and not _has(out["path"], out["md5"])
    }
    cache = Path(os.fsdecode(_output_of(*dvc, "cache", "dir")).strip()) if lost else Path()
    for path, md5 in lost.items():
        cached = cache / "files" / "md5" / md5[:2] / md5[2:]
        content = (
            cached.read_bytes() if cached.is_file() else _output_of("git", "show", f":./{path}")
        )
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            with atomic_write(Path(path)) as temporary:
                temporary.write_bytes(content)


def _has(path: str, md5: str) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() == md5
    except OSError:
        return False


_caught: list[int] = []


def stop_on_signals() -> Callable[[], bool]:
    """From here on the `INTERRUPTS` are requests to stop, and end the process only when repeated.

    Returns:
        A function that tells whether there has been one.
    """

    before: dict[int, Any] = {}

    def catch(number: int, _: object) -> None:
        _caught.append(number)
        signal.signal(number, before[number])

    for number in heeded_interrupts():
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
