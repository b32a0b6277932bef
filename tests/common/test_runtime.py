"""How TensorFlow starts: with its fast kernels, quietly, and with its last words if it cannot."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from facevae.common.machine import describe_machine, unused_nvidia_card
from facevae.common.runtime import progress_bar

# What a stage does, with a stand-in for TensorFlow in the folder that it runs in.
_START = "from facevae.common.runtime import load_tensorflow; load_tensorflow(); print('started')"


def _run(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    return subprocess.run(
        command, env={**inherited, **variables}, text=True, capture_output=True, check=False
    )


def _stand_in(folder: Path, body: str) -> None:
    (folder / "tensorflow.py").write_text(f"import os, sys\n{body}\n")


def test_start_is_quiet_when_all_is_well(tmp_path: Path) -> None:
    body = "os.write(2, b'oneDNN custom operations are on')\nclass config:\n"
    _stand_in(tmp_path, f"{body}    list_physical_devices = staticmethod(lambda: [])")
    done = _run(tmp_path, _START)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_start_shows_the_last_words_of_an_import_that_aborts(tmp_path: Path) -> None:
    """As TensorFlow does on a processor without AVX."""
    words = (
        "The TensorFlow library was compiled to use AVX instructions, but these aren't available"
    )
    _stand_in(tmp_path, f"os.write(2, {words.encode()!r})\nos.abort()")
    done = _run(tmp_path, _START)
    assert done.returncode == -signal.SIGABRT
    assert words in done.stderr


def test_start_shows_what_an_import_that_fails_wrote(tmp_path: Path) -> None:
    _stand_in(tmp_path, "os.write(2, b'libcudart: wrong version')\nraise ImportError('no CUDA')")
    done = _run(tmp_path, _START)
    assert done.returncode == 1
    assert done.stderr.index("libcudart: wrong version") < done.stderr.index("Traceback")
    assert "ImportError: no CUDA" in done.stderr


@pytest.mark.parametrize(("given", "expected"), [({}, "1"), ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "0")])
def test_onednn_is_on_unless_the_user_says_otherwise(
    tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    """TensorFlow's library alone is asked: the rest takes ten times as long to load."""
    code = """
import facevae, importlib.util, sys, types
(place,) = importlib.util.find_spec("tensorflow").submodule_search_locations
for name in ("tensorflow", "tensorflow.python", "tensorflow.python.util"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place + name.removeprefix("tensorflow").replace(".", "/")]
from facevae.common.machine import onednn_is_on
print(onednn_is_on())
"""
    assert _run(tmp_path, code, **given).stdout == f"{expected == '1'}\n"


def test_onednn_is_warned_of_when_tensorflow_came_first(tmp_path: Path) -> None:
    """With a stand-in, for on many processors TensorFlow turns it on by itself."""
    util = tmp_path / "tensorflow" / "python" / "util"
    util.mkdir(parents=True)
    for folder in (tmp_path / "tensorflow", tmp_path / "tensorflow" / "python", util):
        (folder / "__init__.py").touch()
    answer = util / "_pywrap_util_port.py"
    for enabled in (False, True):
        answer.write_text(f"def IsMklEnabled():\n    return {enabled}\n")
        done = _run(tmp_path, "import tensorflow, facevae, facevae.common.errors")
        assert done.returncode == 0
        assert done.stderr.count("import facevae first") == (not enabled), done.stderr


def test_an_unused_nvidia_card_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert unused_nvidia_card(tmp_path) is None
    (tmp_path / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0").mkdir(parents=True)
    sentence = unused_nvidia_card(tmp_path)
    assert sentence is not None
    assert "make gpu" in sentence
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hidden on purpose
    assert unused_nvidia_card(tmp_path) is None


def test_the_machine_is_described_in_full() -> None:
    described = describe_machine()
    assert described["device"].startswith(("CPU ", "GPU "))
    assert described["onednn"] in ("on", "off")
    assert described["threads"] >= 1
    assert {"instruction_sets", "threads", "python", "tensorflow", "keras", "numpy"} <= set(
        described
    )


def test_an_interrupt_while_a_progress_bar_is_made_leaves_nothing_half_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tqdm._get_free_pos  # type: ignore[attr-defined]
    unraisable: list[object] = []

    def interrupted(*arguments: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return place(*arguments)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tqdm, "_get_free_pos", staticmethod(interrupted))
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            progress_bar("Drawing faces", " faces", 3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not unraisable
