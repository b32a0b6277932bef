"""What interrupts a stage, from its first moment on: no traceback, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import heed_interrupts

pytestmark = pytest.mark.slow


def _start(project: Path, *command: str | Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        command, cwd=project, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts, **options,
    )  # fmt: skip


def test_signals_ctrl_c_in_the_first_second_is_clean(project: Path, tmp_path: Path) -> None:
    """As DVC starts a stage. Where the shell is still at work, it dies of the signal itself."""
    starter = "stages/python.sh", "stages/memory.py", "--reports", tmp_path
    ends = []
    for moment in (0.0, 0.03, 0.06, 0.1, 0.15, 0.25, 0.4, 0.7):
        process = _start(project, "sh", *starter)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGINT)
        told, _ = process.communicate(timeout=30)
        ends.append(process.returncode)
        expected = {-signal.SIGINT: "", 130: "interrupted\n", 0: ""}
        assert told == expected[process.returncode], f"after {moment:.2f} s: {told}"
    assert ends.count(130) >= 3, ends
    assert not list(tmp_path.glob(".*.tmp-*"))


def test_signals_ctrl_c_before_the_imports_waits_for_them(project: Path) -> None:
    """The stage is held at its first import until the signal is there."""
    held = (
        "import os, signal, sys; sys.path[:0] = ['stages']; import _stage;"
        "os.kill(os.getpid(), signal.SIGINT); import memory;"
        "print('imported', flush=True); _stage.run(lambda: print('begun'))"
    )
    process = _start(project, sys.executable, "-c", held)
    assert process.communicate(timeout=30)[0] == "imported\ninterrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_that_meet_a_destructor_are_not_lost(
    project: Path, number: str, status: int
) -> None:
    script = (
        "import sys; sys.path[:0] = ['stages']; import _stage, os, signal, time\n"
        "class Thing:\n"
        f"    def __del__(self): os.kill(os.getpid(), signal.{number})\n"
        "def begin():\n"
        "    Thing()\n"
        "    time.sleep(20)\n"
        "    print('went on')\n"
        "_stage.run(begin)"
    )
    process = _start(project, sys.executable, "-c", script)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert process.returncode == status


def test_signals_that_nohup_ignores_stay_ignored(project: Path) -> None:
    script = (
        "import sys; sys.path[:0] = ['stages']; import _stage, os, signal\n"
        "def begin():\n"
        "    stop_requested = _stage.stop_on_signals()\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print('went on', stop_requested())\n"
        "_stage.run(begin)"
    )
    process = _start(project, "nohup", sys.executable, "-c", script, stdin=subprocess.DEVNULL)
    assert process.communicate(timeout=30)[0] == "went on False\n"
    assert process.returncode == 0


def test_signals_ctrl_c_while_tensorflow_is_imported(project: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    process = _start(
        project, sys.executable, "stages/prior.py",
        "--model", nothing, "--prior", nothing, "--shards", nothing,
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("this system does not show which libraries a process has loaded")
    while "libtensorflow" not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    others = psutil.Process(process.pid).children()
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 130
    assert not psutil.wait_procs(others, timeout=10)[1]


def test_signals_ctrl_c_when_all_is_done_is_clean(project: Path) -> None:
    """While Python ends, it would show where it was interrupted."""
    late = (
        "import atexit, os, signal, sys; sys.path[:0] = ['stages']; import _stage;"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT));"
        "_stage.run(lambda: print('done', flush=True))"
    )
    process = _start(project, sys.executable, "-c", late)
    assert process.communicate(timeout=30)[0] == "done\n"
    assert process.returncode == -signal.SIGINT
