"""Files and folders are there whole or not at all, whatever happens to who writes them."""

import ast
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facevae.common import files
from facevae.common.errors import UserError
from facevae.common.files import (
    atomic_write,
    check_file,
    check_zip,
    exclusive_writer,
    has_only,
    write_text,
)

Stops = dict[str, list[dict[str, Any]]]
_STEPS = {"replace", "fsync", "unlink", "rmtree", "_exchange"}


@pytest.fixture(scope="module")
def stops(project: Path) -> Stops:
    """What tests/common/stopped_writers.py tells, in memory where the system has a folder there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        done = subprocess.run(
            [sys.executable, project / "tests" / "common" / "stopped_writers.py", folder],
            env={**os.environ, "PYTHONPATH": str(project / "src")},
            text=True, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_stopped_writers_leave_the_old_or_the_new_state(stops: Stops) -> None:
    print({name: len(records) for name, records in stops.items()})
    for name, records in stops.items():
        assert len(records) >= 8, name
        for record in records:
            assert record["later"], (name, record)
            assert record["left"] == [], (name, record)
            # Between two renames there is neither, until the next writer has begun.
            assert record["at once"] or name in ("a folder by renames", "a folder after a kill")
    assert sum(not record["at once"] for record in stops["a folder by renames"]) == 1


@pytest.mark.slow
def test_stopped_writers_are_stopped_at_every_step_of_the_file(stops: Stops) -> None:
    lines = {
        node.lineno
        for node in ast.walk(ast.parse(inspect.getsource(files)))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in _STEPS
    }
    stopped = Counter(record["line"] for records in stops.values() for record in records)
    assert len(lines) >= 7
    assert lines <= stopped.keys(), f"no writer was stopped at {sorted(lines - stopped.keys())}"


def test_two_writers_at_once_do_not_clear_each_other_away(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with atomic_write(tmp_path / "file") as temporary:
            temporary.write_text("slow")
            begun.set()
            assert go_on.wait(10)

    slow = threading.Thread(target=write_slowly)
    slow.start()
    assert begun.wait(10)
    write_text(tmp_path / "file", "quick")
    assert (tmp_path / "file").read_text() == "quick"
    go_on.set()
    slow.join()
    assert (tmp_path / "file").read_text() == "slow"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_names_with_patterns_in_them_are_names(tmp_path: Path) -> None:
    leftover = tmp_path / ".a[1]*.tmp-x"
    leftover.mkdir()
    (leftover / "a[1]*").write_text("half")
    other = tmp_path / ".a1b.tmp-x"
    other.mkdir()
    write_text(tmp_path / "a[1]*", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a[1]*", other.name}


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    """As DVC makes them, into its cache, with cache.type symlink."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "old").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "cache")
    nothing = has_only()
    with exclusive_writer(tmp_path / "out"), atomic_write(tmp_path / "out", nothing) as folder:
        folder.mkdir()
        (folder / "new").write_text("new")
    assert not (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["old"]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a folder": Path.mkdir,
    "a named pipe": _pipe,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_not_a_file_is_named_and_not_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("input")
    SPECIAL[kind](path)
    for check in (check_file, lambda path: check_zip(path, "write it again")):
        with pytest.raises(UserError, match=f"^input: is {kind}, where a file is expected"):
            check(path)


def test_what_is_not_there_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "nothing")


def test_a_zip_is_whole_or_a_sentence_whichever_byte_is_flipped(tmp_path: Path) -> None:
    """And what is read from it is right, if the flipped byte is of no account, as a date is."""
    path = tmp_path / "archive.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("one", "two"):
            archive.writestr(zipfile.ZipInfo(name), name * 20)
    whole = path.read_bytes()
    sentences = []
    for position in range(len(whole)):
        for mask in (0x01, 0x08, 0x80):
            content = bytearray(whole)
            content[position] ^= mask
            path.write_bytes(content)
            try:
                check_zip(path, "write it again")
            except UserError as error:
                sentences.append(str(error))
                continue
            with zipfile.ZipFile(path) as archive:
                for name in {"one", "two"} & set(archive.namelist()):
                    assert archive.read(name) == name.encode() * 20
    assert len(sentences) > len(whole)  # of three flips per byte
    for sentence in sentences:
        assert sentence.startswith(f"{path}: is damaged, or not such a file (")
        assert sentence.endswith("); write it again")
        assert "\n" not in sentence


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a socket"])
def test_what_is_no_file_in_place_of_an_output_is_a_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be replaced, and so lost."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = Path("model.keras")
    SPECIAL[kind](path)
    before = path.lstat()
    with pytest.raises(UserError, match=f"model.keras: is {kind}, where a file is to be written"):
        write_text(path, "weights")
    assert path.lstat() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]


def test_only_a_folder_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    path, is_earlier = tmp_path / "out", has_only("*.tfrecord", "manifest.json")

    def write(name: str) -> None:
        with atomic_write(path, is_earlier) as folder:
            folder.mkdir()
            (folder / name).touch()

    write("a.tfrecord")
    (path / ".DS_Store").touch()
    write("manifest.json")
    assert [each.name for each in path.iterdir()] == ["manifest.json"]
    (path / "thesis.odt").touch()
    with pytest.raises(UserError, match=r"out: has files that no earlier run has written"):
        write("a.tfrecord")
    assert {each.name for each in path.iterdir()} == {"manifest.json", "thesis.odt"}
    assert list(tmp_path.iterdir()) == [path]
