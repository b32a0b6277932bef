"""make builds the environment once, and again where it is half-made or another folder's.

The project here is a small one: the real Makefile and tools, no requirements, and a library that
says where it is.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# A build backend that needs nothing from an index.
_BACKEND = """
import os, zipfile

def build_editable(folder, settings=None, metadata=None):
    name = "facevae-0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("facevae.pth", os.path.abspath("src"))
        info = "facevae-0.dist-info/"
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: facevae\\nVersion: 0")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true")
        wheel.writestr(info + "RECORD", "")
    return name
"""
_PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
requires-python = ">=3.11,<3.14"
"""


def _files(project: Path, folder: Path) -> None:
    shutil.copytree(project / "tools", folder / "tools")
    shutil.copy(project / "Makefile", folder)
    (folder / "backend.py").write_text(_BACKEND, encoding="utf-8")
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (folder / "requirements.txt").touch()
    common = folder / "src" / "facevae" / "common"
    common.mkdir(parents=True)
    (folder / "src" / "facevae" / "__init__.py").touch()
    (common / "__init__.py").touch()
    (common / "parameters.py").write_text("print(__file__)\n", encoding="utf-8")
    data = folder / "src" / "facevae" / "data"
    data.mkdir()
    (data / "__init__.py").touch()
    (data / "download.py").write_text("import sys; print(sys.argv[1:])\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", folder], check=True)


def _make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = ["make", f"PYTHON={sys.executable}", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), **variables}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def _builds(folder: Path) -> bool:
    """Whether make would build the environment."""
    done = _make(folder, "--dry-run", "check")
    assert done.returncode == 0, done.stderr
    return "-m venv .venv" in done.stdout


def _runs_its_own_code(done: subprocess.CompletedProcess, folder: Path) -> bool:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1] == str(folder / "src/facevae/common/parameters.py")


@pytest.fixture(scope="module")
def original(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an environment, built from a shell that is set up for another Python and another pip."""
    folder = tmp_path_factory.mktemp("made") / "a project"
    _files(project, folder)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "facevae.py").write_text("raise SystemExit('of PYTHONPATH')", encoding="utf-8")
    hostile = {
        "PYTHONHOME": "/nowhere", "PYTHONPATH": str(elsewhere), "PYTHONSAFEPATH": "1",
        "PYTHONSTARTUP": "/nowhere.py", "PYTHONWARNINGS": "error", "PYTHONNOUSERSITE": "1",
        "PIP_USER": "1", "PIP_TARGET": str(elsewhere), "PIP_PREFIX": str(elsewhere),
        "PIP_ROOT": str(elsewhere), "PIP_PYTHON": "/nowhere/python", "PIP_DRY_RUN": "1",
        "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INDEX": "1",
        "VIRTUAL_ENV": "/nowhere", "CONDA_PREFIX": "/nowhere",
    }  # fmt: skip
    assert _runs_its_own_code(_make(folder, "check", **hostile), folder)
    assert [path.name for path in elsewhere.iterdir()] == ["facevae.py"]
    assert _runs_its_own_code(_make(folder, "check", **hostile), folder)
    return folder


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "copy", symlinks=True)


def test_make_takes_a_whole_environment_as_it_is(original: Path) -> None:
    assert not _builds(original)


@pytest.mark.parametrize(
    "folder",
    ["a b", "it's", "$HOME", "$(HOME) ${HOME}", "$$", "`id`", '"', "a,b (2) é", "\\", "-x", "~"],
)
def test_make_celeba_hands_on_the_folder_as_it_is(original: Path, folder: str) -> None:
    done = _make(original, "celeba", f"FOLDER={folder}")
    assert done.stdout == f"{['--', folder]}\n", done.stderr


def test_make_builds_again_in_a_copied_or_moved_folder(original: Path, copied: Path) -> None:
    """Python in the copied environment finds the original's library."""
    done = _make(copied, "check")
    assert "Building .venv again" in done.stderr
    assert _runs_its_own_code(done, copied)
    moved = copied.rename(copied.parent / "moved")
    assert _builds(moved)
    assert not _builds(original)


def test_make_builds_again_where_python_has_gone(copied: Path) -> None:
    for name in ("python", "python3"):
        python = copied / ".venv" / "bin" / name
        python.unlink(missing_ok=True)
        python.symlink_to("/nowhere/python3")
    assert _builds(copied)


def test_make_builds_again_where_python_is_of_another_version(original: Path) -> None:
    """Which looks for the packages in a folder of another name."""
    packages = original / ".venv" / "lib" / f"python3.{sys.version_info[1]}"
    older = packages.rename(packages.with_name("python3.7"))
    assert _builds(original)
    older.rename(packages)
    assert not _builds(original)


@pytest.mark.parametrize("damage", ["unstamped", "stopped"])
def test_make_builds_again_what_is_half_made(original: Path, damage: str) -> None:
    stamp, mark = original / ".venv" / "bin" / ".installed", original / ".venv" / ".unfinished"
    if damage == "unstamped":
        away = stamp.rename(original / "stamp")
        assert _builds(original)
        away.rename(stamp)
    else:
        mark.touch()
        assert _builds(original)
        mark.unlink()


def test_make_takes_a_linked_environment_as_it_is(
    project: Path, original: Path, tmp_path: Path
) -> None:
    _files(project, tmp_path / "other")
    (tmp_path / "other" / ".venv").symlink_to(original / ".venv")
    os.utime(original / ".venv" / "bin" / ".installed")
    assert not _builds(tmp_path / "other")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_make_builds_again_after_it_was_stopped_in_pip(original: Path, number: int) -> None:
    """pip waits for an index that does not answer, until all processes get the signal."""
    requirements, mark = original / "requirements.txt", original / ".venv" / ".unfinished"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        requirements.write_text("a-package==1\n", encoding="utf-8")
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = subprocess.Popen(
            ["make", "check"], cwd=original, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "PIP_INDEX_URL": address},
        )  # fmt: skip
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            assert mark.exists()
            os.killpg(process.pid, number)
            assert process.wait(20) != 0
    requirements.write_text("", encoding="utf-8")
    assert _builds(original)
    mark.unlink()
    (original / ".venv" / "bin" / ".installed").touch()
    assert not _builds(original)


def test_make_without_the_packages_says_so_and_harms_nothing(original: Path) -> None:
    (original / "requirements.txt").write_text("a-package==1\n", encoding="utf-8")
    done = _make(original, "check", PIP_NO_INDEX="1")
    assert done.returncode == 2
    sentence = [line for line in done.stderr.splitlines() if line.startswith("pip could not")]
    assert "pip could not install -r requirements.txt" in sentence[0]
    assert ".venv/bin/pip config list" in sentence[0]
    (original / "requirements.txt").write_text("", encoding="utf-8")
    assert not _builds(original)
    assert _runs_its_own_code(_make(original, "check"), original)


def test_make_checks_before_anything_is_installed(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unzipped"
    _files(project, folder)
    shutil.rmtree(folder / ".git")
    done = _make(folder, "repro", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert done.returncode == 2
    assert "is not a git repository" in done.stderr
    assert not (folder / ".venv").exists()


def test_make_without_python_says_so(project: Path, tmp_path: Path) -> None:
    _files(project, tmp_path / "project")
    done = _make(tmp_path / "project", ".venv/bin/.installed", "PYTHON=/nowhere/python3")
    assert done.returncode == 2
    assert "facevae needs Python: make PYTHON=python3.11 ..." in done.stderr
