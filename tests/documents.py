"""The commands and links of README and docs, and which commands are run to check them.

    python tests/documents.py

runs the commands in order, as a reader would, in a clone of the project at a small setting. It
takes minutes: `make check-docs`. tests/docs tests that every command is run or listed here.
"""

import contextlib
import functools
import hashlib
import http.server
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from study import Study

import facevae.data.download
from facevae.data.celeba import ARCHIVE, ATTRIBUTES, FOLDER, PARTITION

PROJECT = Path(__file__).resolve().parent.parent
# In the order in which their commands are run.
DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in (
    "memory", "results", "performance", "metrics", "data", "distributed", "sharing",
    "troubleshooting",
)))  # fmt: skip
LINKED = (*DOCUMENTS, "CONTRIBUTING.md", "CHANGELOG.md")
RUN, SHOWN = {"console", "python"}, {"text", "mermaid"}  # languages of fenced blocks

_WAIT = "while dvc queue status | grep --quiet -E 'Queued|Running'; do sleep 2; done"
_COSTS = shutil.ignore_patterns("*_cost.json")
_STUDY = "takes an hour"
_BENCHMARK = "takes minutes, and measures nothing on a busy machine"
_TRAINING = "the same kind of training as in README"
# Commands that are not run as they stand: what is run instead (nothing if empty), and why.
EXCEPTIONS = {
    "make test": ("", "the tests have a run of their own"),
    "make celeba": ("", "fetches from Google Drive; the mirror in docs/data.md is a local server"),
    "dvc exp run -S data.source=data/celeba -S train.epochs=30": (
        "", "what make celeba fetches is not there; the next command names another folder",
    ),
    "dvc exp run -S data.source=/path/to/celeba -S train.epochs=30": (
        "dvc exp run -S data.source=$CELEBA -S train.epochs=1", "drawn faces, and one epoch",
    ),
    "dvc queue status": (_WAIT, "waits until the queue has ended"),
    "make study-losses": ("make --dry-run study-losses", _STUDY),
    "make study-kl-weight": ("make --dry-run study-kl-weight", _STUDY),
    "make study-decoder": ("make --dry-run study-decoder", _STUDY),
    "make study-memory-options": ("make --dry-run study-memory-options", _STUDY),
    "make bench-memory": ("make --dry-run bench-memory", _BENCHMARK),
    "make bench-data": ("make --dry-run bench-data", _BENCHMARK),
    "make bench-train": ("make --dry-run bench-train", _BENCHMARK),
    "make bench-onednn": ("make --dry-run bench-onednn", _BENCHMARK),
    "make bench-decoder": ("make --dry-run bench-decoder", _BENCHMARK),
    "make bench-start": ("make --dry-run bench-start", _BENCHMARK),
    "make bench-profile": ("make --dry-run bench-profile", _BENCHMARK),
    "make bench-rewrites": ("make --dry-run bench-rewrites", _BENCHMARK),
    "make bench-quality": ("make --dry-run bench-quality", _BENCHMARK),
    "make bench-faces": ("make --dry-run bench-faces", _BENCHMARK),
    "make bench-explorer": ("make --dry-run bench-explorer", _BENCHMARK),
    "dvc exp run -S 'encoder.filters=[32,64,128]' -S 'encoder.kernel_sizes=[6,4,4]' "
    "-S 'encoder.strides=[4,2,2]' -S decoder.resize_layers=0": (
        "dvc exp run -S 'encoder.filters=[32,64,128]' -S 'encoder.kernel_sizes=[6,4,4]' "
        "-S 'encoder.strides=[4,2,2]' -S decoder.resize_layers=0 memory", _TRAINING,
    ),
    "dvc exp run -S decoder.resize_layers=0 -S train.batch_size=128": (
        "dvc exp run -S decoder.resize_layers=0 -S train.batch_size=128 memory", _TRAINING,
    ),
    "dvc exp run -S decoder.resize_layers=0 -S train.batch_size=128 -S loss.reconstruction=bce "
    "-S loss.kl_weight=15.0": (
        "dvc exp run -S decoder.resize_layers=0 -S train.batch_size=128 -S loss.reconstruction=bce "
        "-S loss.kl_weight=15.0 memory && git checkout params.yaml", _TRAINING,
    ),
    "dvc exp run -S evaluate.faces=true": (
        "dvc exp run -S evaluate.faces=true evaluate@direct && git checkout params.yaml",
        "for one variant",
    ),
    "dvc exp run -S data.source=/path/to/celeba": (
        "dvc exp run -S data.source=$CELEBA prepare", _TRAINING,
    ),
    "dvc exp run -S data.source=/path/to/celeba -S data.limit.train=5000 -S data.limit.test=500": (
        "dvc exp run -S data.source=$CELEBA -S data.limit.train=120 -S data.limit.test=5 prepare",
        _TRAINING,
    ),
    "dvc exp run -S data.layout=folder -S data.source=/path/to/pictures": (
        "dvc exp run -S data.layout=folder -S data.source=$PICTURES prepare && "
        "git checkout params.yaml", _TRAINING,
    ),
    "make celeba FOLDER=/path/to/celeba": ("make celeba FOLDER=$CELEBA", "a folder that exists"),
    "python -m facevae.data.download --mirror https://mirror.example.org/celeba": (
        "python -m facevae.data.download --mirror $MIRROR", "a local server",
    ),
    "DASK_SCHEDULER_ADDRESS=tcp://10.0.0.1:8786 dvc repro prepare": (
        "", "needs a cluster; tests/data/test_dask.py has one on this machine",
    ),
    "export TF_CONFIG='{\"cluster\": {\"worker\": [\"10.0.0.1:2222\", \"10.0.0.2:2222\"]}, "
    "\"task\": {\"type\": \"worker\", \"index\": 0}}'": (
        "", "needs two machines; tests/training/test_distributed.py has two processes",
    ),
    "dvc cache dir --local /path/to/other/disk/dvc-cache": (
        "", "the clone's results are in the cache that it has",
    ),
    "dvc config --local cache.type symlink": ("", "only with a cache on another disk"),
    "dvc remote add --default storage /path/to/storage": (
        "dvc remote add --default storage $STORAGE", "a folder that exists",
    ),
    "git clone /path/to/project.git theirs && cd theirs": (
        "git clone $ORIGIN theirs && cd theirs && ln -s ../.venv && touch --date=@0 *.toml *.txt",
        "a repository that exists, and an environment that need not be installed",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        document: name of the file.
        line: number of its first line.
        language: what stands behind the fence.
        text: without the fences.
    """

    document: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """One a line, without comments."""
        lines = (re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in self.text.splitlines())
        return [line for line in lines if line]


def blocks(document: str) -> list[Block]:
    found: list[Block] = []
    language, start, lines = None, 0, list[str]()
    text = (PROJECT / document).read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, start, lines = line[3:].strip(), number, []
        else:
            found.append(Block(document, start, language, "\n".join(lines)))
            language = None
    assert language is None, f"{document}:{start}: this block has no end"
    return found


def console_commands() -> list[tuple[str, str]]:
    """All commands of all documents, each with its document."""
    return [
        (document, command)
        for document in DOCUMENTS
        for block in blocks(document)
        if block.language == "console"
        for command in block.commands()
    ]


def _prose(document: str) -> str:
    text = (PROJECT / document).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(document: str) -> list[str]:
    """The targets of links and pictures that are in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _prose(document))
    return [target for target in targets if not target.startswith(("http://", "https://"))]


def anchors(document: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _prose(document), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in plain}


def make_targets(document: str) -> set[str]:
    """The targets that a document names, in commands and in its text."""
    console = [each.commands() for each in blocks(document) if each.language == "console"]
    code = [*itertools.chain.from_iterable(console), *re.findall(r"`([^`]+)`", _prose(document))]
    found = (re.match(r"make (?:[A-Z]+=\S+ )*([a-z][a-z-]*)", each) for each in code)
    return {match[1] for match in found if match}


def script(document: str) -> str:
    """A bash script that runs a document's commands in order and stops at the first that fails."""
    parts = ['fail() { echo "FAILED: $1" >&2; exit 1; }']
    for block in blocks(document):
        where = f"{document}:{block.line}"
        if block.language == "python":
            parts.append(f"echo '=== {where}: python'")
            parts.append(f"python - <<'END' || fail '{where}'\n{block.text}\nEND")
        elif block.language == "console":
            for written in block.commands():
                command, _ = EXCEPTIONS.get(written, (written, ""))
                if command:
                    quoted = command.replace("'", "'\\''")
                    parts.append(f"echo '=== {where}:' '{quoted}' \"($SECONDS s)\"")
                    # Not a subshell: cd and export last, as in a reader's terminal.
                    parts.append(f"{{ {command}\n}} || fail '{where}'")
    return "\n".join([*parts, ""])


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The address of a web server of a folder's files."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _expect_files_of(folder: Path, clone: Path) -> None:
    """Have a clone's download expect the sizes and checksums of a folder's files."""
    module = Path(facevae.data.download.__file__).relative_to(PROJECT)
    path = clone / module
    code = path.read_text(encoding="utf-8")
    known = {file.name: file for file in facevae.data.download.FILES}
    for name in (PARTITION, ATTRIBUTES, ARCHIVE):
        content = (folder / name).read_bytes()
        for old, new in (
            (f"{known[name].size:_}", f"{len(content)}"),
            (known[name].sha256, hashlib.sha256(content).hexdigest()),
        ):
            assert old in code
            code = code.replace(old, new)
    path.write_text(code, encoding="utf-8")


def _environment(folder: Path, clone: Path) -> Path:
    """This environment again, in a folder, with a python that takes a clone's library."""
    tools = folder / "bin"
    tools.mkdir(parents=True)
    for tool in (Path(sys.prefix) / "bin").iterdir():
        (tools / tool.name).symlink_to(tool)
    python = tools / "python"
    python.unlink()
    command = f'PYTHONPATH="{clone}/src" exec "{sys.executable}" "$@"'
    python.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    python.chmod(0o755)
    return folder


def _git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def _run(folder: Path) -> int:
    """Run everything in a folder; the number of documents with a command that failed."""
    from facevae.data.synthetic import synthesize

    celeba, origin, first = folder / "celeba", folder / "origin.git", folder / "first"
    synthesize(celeba, images=200, seed=2)
    Study.new(first, PROJECT)
    # A reader's clone has these.
    shutil.copy(PROJECT / "dvc.lock", first)
    shutil.copytree(PROJECT / "metrics", first / "metrics", ignore=_COSTS)
    shutil.unpack_archive(celeba / ARCHIVE, folder / "unpacked")
    _expect_files_of(celeba, first)
    identity = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", "reader"), ("EMAIL", "reader@localhost"))
    }
    os.environ.update(identity)
    _git(first, "add", "--all")
    _git(first, "commit", "--quiet", "--message", "the files of a local server")
    _git(folder, "clone", "--quiet", "--bare", str(first), str(origin))
    _git(folder, "clone", "--quiet", str(origin), "facevae")
    clone = folder / "facevae"
    (clone / ".venv").symlink_to(_environment(folder / "environment", clone))
    # To make, the environment is newer than these.
    for name in ("pyproject.toml", *(path.name for path in PROJECT.glob("requirements*.txt"))):
        os.utime(clone / name, (0, 0))
    with _server(celeba) as mirror:
        environment = {
            **os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}", "COLUMNS": "120",
            "CELEBA": str(celeba), "MIRROR": mirror, "ORIGIN": str(origin),
            "STORAGE": str(folder / "storage"), "PICTURES": str(folder / "unpacked" / FOLDER),
        }  # fmt: skip
        (folder / "storage").mkdir()
        failed = 0
        for document in DOCUMENTS:
            start = time.monotonic()
            done = subprocess.run(
                ["bash", "-c", script(document)],
                cwd=clone, env=environment, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
            failed += done.returncode != 0
            result = "failed" if done.returncode else "passed"
            print(f"=== {document}: {result}, {time.monotonic() - start:.0f} s", flush=True)
            # The next document begins where the first commit was.
            _git(clone, "checkout", "--quiet", "--force", "HEAD", "--", ".")
            dvc = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force"]
            subprocess.run(dvc, cwd=clone, env=environment, check=True)
    return failed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(1 if _run(Path(temporary)) else 0)
