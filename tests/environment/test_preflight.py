"""What is missing on a machine is named, a sentence each, before anything is installed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """The checks and what they read, in a git repository."""
    made = tmp_path / "project"
    shutil.copytree(project / "tools", made / "tools")
    shutil.copy(project / "pyproject.toml", made)
    subprocess.run(["git", "init", "--quiet", made], check=True)
    return made


@pytest.fixture
def check(folder: Path, tmp_path: Path) -> Check:
    """Runs the checks of a subject, for a user who has configured nothing."""
    home = tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def run(subject: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, folder / "tools" / "preflight.py", subject],
            env={**inherited, **own, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def _change(file: Path, old: str, new: str) -> None:
    content = file.read_text(encoding="utf-8")
    assert old in content
    file.write_text(content.replace(old, new), encoding="utf-8")


def _sentence(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    return line


def test_preflight_finds_nothing_missing(check: Check) -> None:
    done = check("environment")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("subject", ["repository", "environment"])
def test_preflight_downloaded_zip(check: Check, folder: Path, subject: str) -> None:
    shutil.rmtree(folder / ".git")
    sentence = _sentence(check(subject))
    assert f"{folder} is not a git repository" in sentence
    assert "`git init`" in sentence


def test_preflight_files_of_another_user(check: Check, tmp_path: Path) -> None:
    """git can be told to take any file for another user's. What the sentence says mends it."""
    another = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    sentence = _sentence(check("repository", **another))
    assert "belongs to another user" in sentence
    command = sentence.split("`")[1]
    subprocess.run(
        command, shell=True, env={**os.environ, "HOME": str(tmp_path / "home")}, check=True
    )
    assert check("repository", **another).returncode == 0


def test_preflight_missing_identity_is_a_warning(check: Check, tmp_path: Path) -> None:
    done = check("repository")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: git has no name and address")
    for unable in ("dvc exp run", "--queue", "--temp"):
        assert unable in line
    commands = line[line.index("git config") :]
    home = {"HOME": str(tmp_path / "home")}
    subprocess.run(commands, shell=True, env={**os.environ, **home}, check=True)
    assert check("repository").stderr == ""


def test_preflight_identity_in_variables_is_enough(check: Check) -> None:
    people = {f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")}
    addresses = {f"GIT_{who}_EMAIL": "a@localhost" for who in ("AUTHOR", "COMMITTER")}
    assert check("repository", **people, **addresses).stderr == ""


def test_preflight_git_is_not_installed(check: Check, tmp_path: Path) -> None:
    assert "git is not installed" in _sentence(check("repository", PATH=str(tmp_path)))


def test_preflight_python_of_another_version(check: Check, folder: Path) -> None:
    _change(folder / "pyproject.toml", '">=3.11,<3.14"', '">=3.98,<3.101"')
    sentence = _sentence(check("environment"))
    assert f"is Python 3.{sys.version_info[1]}, and facevae needs 3.98 to 3.100" in sentence
    assert "make PYTHON=python3.98" in sentence


def test_preflight_is_valid_for_old_python(project: Path) -> None:
    script = str(project / "tools" / "preflight.py")
    names = ["python2", *(f"python3.{minor}" for minor in range(4, 11))]
    old = [name for name in names if os.system(f"{name} -c '' 2>/dev/null") == 0]
    if not old:
        pytest.skip("needs a Python of before 3.11 on PATH")
    for name in old:
        command = [name, script, "environment"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "and facevae needs 3.11 to 3.13" in _sentence(done)


def test_preflight_python_without_venv(check: Check, tmp_path: Path) -> None:
    """As Debian's Python without the package python3-venv."""
    error = 'raise ModuleNotFoundError("No module named \'ensurepip\'", name="ensurepip")'
    (tmp_path / "ensurepip.py").write_text(error, encoding="utf-8")
    sentence = _sentence(check("environment", PYTHONPATH=str(tmp_path)))
    assert "lacks Python's module ensurepip" in sentence
    assert f"apt install python3.{sys.version_info[1]}-venv" in sentence


def test_preflight_full_disk(check: Check, folder: Path) -> None:
    _change(folder / "tools" / "preflight.py", "= 2.6, 0.7", "= 1e9, 0.7")
    sentence = _sentence(check("environment"))
    assert f"the disk of {folder} has " in sentence
    assert "1000000000.0 for itself" in sentence


def test_preflight_tells_all_at_once(check: Check, folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    _change(folder / "tools" / "preflight.py", "= 2.6, 0.7", "= 1e9, 0.7")
    done = check("environment")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
