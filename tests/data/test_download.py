"""Fetching and verifying, against a server on this machine; Google Drive itself is out of reach."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers import heed_interrupts

from facevae.common.errors import UserError
from facevae.common.runtime import counting
from facevae.data.celeba import ARCHIVE
from facevae.data.download import OfficialFile, download, main, override

_CONTENT = {"list.txt": b"000001.jpg 0\n" * 9, "images.zip": random.Random(5).randbytes(3 << 20)}
_FILES = tuple(
    OfficialFile(name, len(content), hashlib.sha256(content).hexdigest(), "none")
    for name, content in _CONTENT.items()
)
_ZIP = _CONTENT["images.zip"]
_QUOTA_PAGE = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>
<body><p class="uc-error-caption">Sorry, you can't view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>"""


@dataclasses.dataclass
class _Request:
    name: str
    range: str | None
    sent: int = 0


class _Server(http.server.ThreadingHTTPServer):
    """Serves _CONTENT; `fault` is what happens to images.zip, `log` what was asked and sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/celeba"
        self.fault = ""
        self.log: list[_Request] = []
        self.over = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        request = _Request(self.path.rpartition("/")[2], self.headers["Range"])
        self.server.log.append(request)
        content = _CONTENT[request.name]
        fault = self.server.fault if request.name == "images.zip" else ""
        if fault.isdigit():
            self.send_error(int(fault))
            return
        if fault == "silence":
            self.server.over.wait()
            return
        content = {"quota page": _QUOTA_PAGE, "wrong content": bytes(len(content))}.get(
            fault, content
        )
        start = int(request.range.strip("bytes=-")) if request.range and fault != "no ranges" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if fault.startswith("cut") else len(content)
        if fault == "cut once":
            self.server.fault = ""
        with contextlib.suppress(ConnectionError):  # the client may hang up, or be killed
            for offset in range(start, end, 1 << 16):
                request.sent += self.wfile.write(content[offset : min(offset + (1 << 16), end)])
                if fault == "slow" and self.server.over.wait(0.1):
                    return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _part(folder: Path) -> Path:
    (part,) = (folder / ".download").glob("images.zip*")
    return part


def _command(folder: Path, server: _Server, first: str = "") -> list[str]:
    """The command on the small files, in a process of its own that runs `first` before it."""
    code = (
        f"import sys; from facevae.data.download import OfficialFile, main; {first}\n"
        f"sys.exit(main([{str(folder)!r}, '--mirror', {server.url!r}], {_FILES!r}))"
    )
    return [sys.executable, "-c", code]


@contextlib.contextmanager
def _running(folder: Path, server: _Server) -> Iterator[subprocess.Popen]:
    """That command, once it has a first part of a slow images.zip."""
    server.fault = "slow"
    command = _command(folder, server)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_interrupts,
    ) as child:  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            while not [p for p in folder.glob(".download/images.zip*") if p.stat().st_size]:
                assert child.poll() is None, child.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield child
        finally:
            child.kill()
    server.fault = ""
    server.log.clear()


def _assert_only_the_rest_is_sent(folder: Path, server: _Server) -> None:
    had = _part(folder).stat().st_size
    assert 0 < had < len(_ZIP)
    download(folder, _FILES, mirror=server.url)
    # gdown first asks without a range, and hangs up when it has seen the headers.
    assert [request.range for request in server.log] == [None, f"bytes={had}-"]
    assert server.log[1].sent == len(_ZIP) - had
    assert (folder / "images.zip").read_bytes() == _ZIP
    assert _names(folder) == set(_CONTENT)


def test_fetches_all_and_names_the_next_command(
    tmp_path: Path, server: _Server, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my data" / "celeba"
    assert main([str(folder), "--mirror", f"{server.url}/"], _FILES) == 0
    assert {name: (folder / name).read_bytes() for name in _names(folder)} == _CONTENT
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{folder}/list.txt: fetched, verified",
        f"{folder}/images.zip: fetched, verified",
        f"""Next: dvc exp run -S 'data.source='"'"'{folder}'"'"''""",
    ]
    assert re.search(r"images.zip: 100%.* 3.00M/3.00M \[.*B/s\]", err)


@pytest.mark.parametrize(
    "name",
    [
        "celeba", "my faces", "faces (2)", "a,b", "[a]", "{a: b}", "~", "~me", "Müller é 顔",
        "$HOME", "${HOME}", "${data.source}", "\\${HOME}", "`id`", "$(id)", "a=b", "a#b", "it's",
        'a "quoted" one', "\\", "back\\slash", "ends in \\", "\\'", "\\\\'x\\", "'", "a:b",
        "*?|&;<>!", "null", "1e5", "true", " spaces ", "-rf", "%@+", "glob(*)", "choice(a,b)",
        "int(3)",
    ],
)  # fmt: skip
def test_the_next_command_is_what_a_shell_and_dvc_read(tmp_path: Path, name: str) -> None:
    """DVC reads an argument twice: once for a sweep, and once to change params.yaml."""
    from dvc.utils.hydra import (  # type: ignore[import-untyped]
        apply_overrides,
        get_hydra_sweeps,
    )

    folder = tmp_path / name
    (argument,) = shlex.split(override(folder))
    (changes,) = get_hydra_sweeps({"params.yaml": [argument]})
    params = tmp_path / "params.yaml"
    params.write_text("data:\n  source: data/synthetic\n", encoding="utf-8")
    apply_overrides(params, changes["params.yaml"])
    assert yaml.safe_load(params.read_text(encoding="utf-8")) == {"data": {"source": str(folder)}}


def test_the_next_command_is_plain_where_it_can_be_and_absolute(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert override(Path("/data/celeba_1.0-a+b")) == "data.source=/data/celeba_1.0-a+b"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    for given, folder in (("celeba", "celeba"), ("~/celeba", "home/celeba")):
        assert main([given, "--mirror", server.url], _FILES) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"={tmp_path}/{folder}")
        assert _names(tmp_path / folder) == set(_CONTENT)
    assert not (tmp_path / "~").exists()
    assert main(["~no-such-user/celeba", "--mirror", server.url], _FILES) == 2
    assert "there is no such home; write the whole path" in capsys.readouterr().err


def test_the_rate_of_a_resumed_download_counts_only_what_it_fetches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with counting("images.zip", "B") as progress:
        progress(1000 << 20, 1376 << 20)
        time.sleep(0.2)
        progress(1001 << 20, 1376 << 20)
    err = capsys.readouterr().err
    shown = re.search(r"0.98G/1.34G \[.* ([0-9.]+)MB/s\]", err)
    assert shown, err
    assert float(shown[1]) * 1e6 <= 1.01 * (1 << 20) / 0.2  # tqdm gives rates in powers of 1000


def test_a_file_that_is_there_is_verified_and_not_fetched(
    tmp_path: Path, server: _Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images.zip").write_bytes(_ZIP)
    assert main([str(tmp_path), "--mirror", server.url], _FILES) == 0
    assert [request.name for request in server.log] == ["list.txt"]
    assert f"{tmp_path}/images.zip: already there, verified\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (_QUOTA_PAGE, "is a web page"),
        (_ZIP[:-7], "is cut short: 3,145,721 of 3,145,728 bytes"),
        (_ZIP + b"\n", "is another file: it has 3,145,729 bytes and not 3,145,728"),
        (bytes(len(_ZIP)), "its SHA-256 checksum is wrong"),
    ],
)
def test_bad_input_of_the_user_is_told_and_kept(
    tmp_path: Path,
    server: _Server,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    sentence: str,
) -> None:
    (tmp_path / "images.zip").write_bytes(content)
    assert main([str(tmp_path), "--mirror", server.url], _FILES) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"{tmp_path}/images.zip: ")
    assert sentence in message
    assert message.count("\n") == 1
    assert (tmp_path / "images.zip").read_bytes() == content
    assert server.log == []


def test_bad_input_is_told_by_the_real_command(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(_QUOTA_PAGE)
    command = [sys.executable, "-m", "facevae.data.download", str(tmp_path)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{tmp_path}/{ARCHIVE}: is a web page, perhaps about a quota or a login, and not the file; "
        f"move it away and run this again to fetch the file\n"
    )


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("quota page", "is a web page, perhaps about a quota or a login, and not the file"),
        ("403", "403 Client Error: Forbidden for url: http"),
        ("404", "404 Client Error: Not Found"),
        ("503", "503 Server Error: Service Unavailable"),
        ("wrong content", "its SHA-256 checksum is wrong; it was removed; try again in a day"),
    ],
)
def test_faults_of_the_server_leave_nothing_wrong(
    tmp_path: Path,
    server: _Server,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    sentence: str,
) -> None:
    server.fault = fault
    assert main([str(tmp_path), "--mirror", server.url], _FILES) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"{tmp_path}/images.zip: ")
    assert sentence in message
    assert _names(tmp_path) == {"list.txt", ".download"}
    assert not list(tmp_path.glob(".download/images.zip*"))

    server.fault = ""
    assert main([str(tmp_path), "--mirror", server.url], _FILES) == 0
    assert (tmp_path / "images.zip").read_bytes() == _ZIP


def test_faults_of_the_connection_are_resumed_by_the_next_run(
    tmp_path: Path, server: _Server
) -> None:
    server.fault = "cut"
    with pytest.raises(UserError, match=r"failed \(IncompleteRead.*run this again to resume"):
        download(tmp_path, _FILES, mirror=server.url, retries=0)
    assert _part(tmp_path).read_bytes() == _ZIP[: len(_ZIP) // 2]
    server.fault = ""
    server.log.clear()
    _assert_only_the_rest_is_sent(tmp_path, server)


def test_faults_of_the_connection_are_resumed_by_the_same_run(
    tmp_path: Path, server: _Server
) -> None:
    server.fault = "cut once"
    download(tmp_path, _FILES, mirror=server.url)
    ranges = [request.range for request in server.log if request.name == "images.zip"]
    assert ranges == [None, f"bytes={len(_ZIP) // 2}-"]
    assert (tmp_path / "images.zip").read_bytes() == _ZIP


def test_a_part_is_removed_when_the_file_was_brought(tmp_path: Path, server: _Server) -> None:
    server.fault = "cut"
    with pytest.raises(UserError):
        download(tmp_path, _FILES, mirror=server.url, retries=0)
    (tmp_path / "images.zip").write_bytes(_ZIP)
    download(tmp_path, _FILES, mirror=server.url)
    assert _names(tmp_path) == set(_CONTENT)


def test_a_server_without_ranges_sends_all_again(
    tmp_path: Path, server: _Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault = "cut"
    with pytest.raises(UserError):
        download(tmp_path, _FILES, mirror=server.url, retries=0)
    server.fault = "no ranges"
    download(tmp_path, _FILES, mirror=server.url)
    assert "does not resume the download; it starts again\n" in capsys.readouterr().out
    assert (tmp_path / "images.zip").read_bytes() == _ZIP


def test_faults_silence_times_out(tmp_path: Path, server: _Server) -> None:
    server.fault = "silence"
    with pytest.raises(UserError, match=r"failed \(timed out\)"):
        download(tmp_path, _FILES, mirror=server.url, timeout=0.3, retries=0)


def test_faults_no_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        mirror = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(UserError, match=f"the connection to {mirror} failed .*Connection refused"):
        download(tmp_path, _FILES, mirror=mirror, retries=0)


@pytest.mark.parametrize("mirror", ["example.org/celeba", "ftp://example.org", "http://"])
def test_bad_input_mirror(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError, match=f"^--mirror: {mirror} is not an address"):
        download(tmp_path, _FILES, mirror=mirror)


def test_bad_input_folder_is_a_file(tmp_path: Path, server: _Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/\.download: Not a directory; correct this"):
        download(tmp_path / "file", _FILES, mirror=server.url)


def test_faults_disk_full(tmp_path: Path, server: _Server) -> None:
    # A limit on the size of files stands in for the disk: the same kind of error in the same place.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    command = _command(tmp_path, server, limit)
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{tmp_path}: File too large; correct this")
    server.log.clear()
    _assert_only_the_rest_is_sent(tmp_path, server)


def test_a_killed_run_is_resumed(tmp_path: Path, server: _Server) -> None:
    with _running(tmp_path, server) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert _names(tmp_path) == {"list.txt", ".download"}
    _assert_only_the_rest_is_sent(tmp_path, server)


def test_an_interrupted_run_keeps_others_out_and_is_resumed(
    tmp_path: Path, server: _Server
) -> None:
    with _running(tmp_path, server) as child:
        with pytest.raises(UserError, match="another download into this folder is running"):
            download(tmp_path, _FILES, mirror=server.url)
        os.kill(child.pid, signal.SIGINT)
        _, err = child.communicate()
    assert child.returncode == 130
    last = err.splitlines()[-1]
    assert last == "interrupted; run the same command again to resume"
    _assert_only_the_rest_is_sent(tmp_path, server)
