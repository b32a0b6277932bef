"""Stages run with the environment's packages and defaults, whatever a shell or a user has set."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_PRINT = "import os, sys; print(sys.executable, os.environ.get('PYTHONHOME'))"


def _run(*command: str | Path, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """A project with the stages' starter and an environment, which no shell has activated."""
    made = tmp_path / "a project"
    (made / "stages").mkdir(parents=True)
    shutil.copy(project / "stages" / "python.sh", made / "stages")
    (made / ".venv" / "bin").mkdir(parents=True)
    (made / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return made


def _tools(folder: Path) -> str:
    """A PATH with what the starter itself calls, and no Python."""
    binaries = folder.parent / "binaries"
    binaries.mkdir()
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found
        (binaries / name).symlink_to(found)
    return str(binaries)


@pytest.mark.parametrize("copy", ["", ".dvc/tmp/exps/standalone/tmpa1", ".dvc/tmp/exps/tmpa1"])
def test_stages_find_the_environment_that_is_not_activated(folder: Path, copy: str) -> None:
    """Also from the copies that DVC makes for --temp and the queue."""
    if copy:
        shutil.copytree(folder / "stages", folder / copy / "stages")
    starter = Path(copy, "stages", "python.sh")
    done = _run(
        "sh", starter, "-c", _PRINT, folder=folder, PATH=_tools(folder), PYTHONHOME="/nowhere"
    )
    assert done.stdout.strip() == f"{folder.resolve() / '.venv' / 'bin' / 'python'} None"


def test_stages_take_the_shells_python_where_there_is_no_environment(folder: Path) -> None:
    shutil.rmtree(folder / ".venv")
    path = _tools(folder)
    (Path(path) / "python").symlink_to(sys.executable)
    done = _run("sh", "stages/python.sh", "-c", _PRINT, folder=folder, PATH=path)
    assert done.stdout.startswith(f"{path}/python ")


def test_stages_without_any_python_say_so(folder: Path) -> None:
    shutil.rmtree(folder / ".venv")
    done = _run("sh", "stages/python.sh", "x.py", folder=folder, PATH=_tools(folder))
    assert done.returncode == 2
    assert done.stderr.startswith("No Python found")
    assert "`make repro`" in done.stderr


def test_stages_with_a_python_that_lacks_the_packages_say_so(project: Path) -> None:
    done = _run(sys.executable, "-S", "stages/train.py", folder=project)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{sys.executable} lacks the package yaml: run `make repro`")


def test_stages_draw_the_same_charts_whatever_is_set(project: Path, tmp_path: Path) -> None:
    """A notebook's and a user's settings of matplotlib, another Python's packages in PYTHONPATH."""
    others = tmp_path / "others"
    others.mkdir()
    for package in ("yaml", "numpy", "pydantic", "matplotlib"):
        (others / f"{package}.py").write_text("raise SystemExit('of another')", encoding="utf-8")
    style = tmp_path / "config"
    style.mkdir()
    (style / "matplotlibrc").write_text("font.size: 30\nbackend: ipympl\n", encoding="utf-8")
    hostile = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": str(style),
        "MATPLOTLIBRC": str(style), "PYTHONPATH": str(others), "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "many", "PYTHONSTARTUP": "/nowhere.py", "PYTHONOPTIMIZE": "2",
        "PYTHONNOUSERSITE": "1",
    }  # fmt: skip
    starter = ("sh", "stages/python.sh", "stages/memory.py", "--reports")
    assert _run(*starter, tmp_path / "plain", folder=project).returncode == 0
    done = _run(*starter, tmp_path / "hostile", folder=project, **hostile)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert "memory_by_batch.svg" in names
    for name in names:
        same = (tmp_path / "hostile" / name).read_bytes() == (
            tmp_path / "plain" / name
        ).read_bytes()
        assert same, name


def test_charts_are_imported_whatever_backend_is_set(project: Path) -> None:
    def backend(package: str, name: str) -> str:
        script = f"import facevae.{package}.charts, matplotlib; print(matplotlib.get_backend())"
        variables = {"PYTHONPATH": str(project / "src"), "MPLBACKEND": name}
        done = _run(sys.executable, "-c", script, folder=project, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for package in ("plotting", "reports"):
        assert "ipympl" not in backend(package, "module://ipympl.backend_nbagg")
    # One that is there is left to the notebook.
    assert backend("plotting", "svg") == "svg"


def test_keras_and_tensorflow_take_nothing_over(project: Path, tmp_path: Path) -> None:
    settings = {"backend": "torch", "floatx": "float16", "epsilon": 1e-3}
    settings["image_data_format"] = "channels_first"
    folder = tmp_path / ".keras"
    folder.mkdir()
    (folder / "keras.json").write_text(json.dumps(settings), encoding="utf-8")
    hostile = {
        "HOME": str(tmp_path), "KERAS_HOME": str(folder), "KERAS_BACKEND": "jax",
        "KERAS_NNX_ENABLED": "1", "KERAS_MAX_EPOCHS": "one", "TF_USE_LEGACY_KERAS": "1",
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "cpp", "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "all", "OMP_NUM_THREADS": "many", "TF_CONFIG": "{}",
        "PYTHONPATH": str(project / "src"),
    }  # fmt: skip
    script = """
from facevae.common.runtime import load_tensorflow
load_tensorflow()
import keras
layer = keras.layers.Conv2D(3, 1)
layer.build((None, 4, 4, 2))
print(keras.config.backend(), layer.dtype, layer.data_format, keras.config.epsilon())
"""
    done = _run(sys.executable, "-c", script, folder=project, **hostile)
    assert done.stdout.strip() == "tensorflow float32 channels_last 1e-07", done.stderr
