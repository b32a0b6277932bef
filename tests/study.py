"""A clone of the project at a small setting, and what DVC does in it.

    python tests/study.py FOLDER

gives the params.yaml of a clone the small setting, for `.ci/run`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock

STAGES = {
    "synthesize", "prepare", "attributes", "train@direct", "train@inter_dense", "prior@direct",
    "prior@inter_dense", "generate@direct", "generate@inter_dense", "evaluate@direct",
    "evaluate@inter_dense", "cost@direct", "cost@inter_dense", "compare", "memory", "page",
    "explorer",
}  # fmt: skip

_SMALL = {
    "synthesize": {"images": 200},
    "data": {"image_size": 16},
    "encoder": {
        "filters": [8, 8], "kernel_sizes": [3, 3], "strides": [4, 2], "latent_size": 8,
        "inter_dense": 16,
    },
    "train": {"epochs": 2, "batch_size": 16},
    "generate": {"rows": 2, "columns": 2},
}  # fmt: skip

_RECORDING = Path(__file__).resolve().parent / "recording"


def make_small(folder: Path) -> None:
    """Write the small setting into the params.yaml of a folder."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, changes in _SMALL.items():
        params[section].update(changes)
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


class Study:
    """A clone of the project, with its own DVC and git repository.

    Attributes:
        folder: the clone.
        records: what each stage imported and read, see tests/recording.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = folder.parent / f"{folder.name}-records"

    @classmethod
    def new(cls, folder: Path, project: Path) -> "Study":
        """Of the project as it stands, without what it has measured, and with a first commit."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.check_output(listed, cwd=project, text=True).split("\0")
        for name in filter(None, files):
            if (project / name).exists() and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(project / name, folder / name)
        shutil.rmtree(folder / "metrics", ignore_errors=True)
        make_small(folder)
        study = cls(folder)
        study.git("init", "--quiet")
        study.commit("project")
        return study

    def git(self, *arguments: str) -> str:
        name = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.check_output(["git", *name, *arguments], cwd=self.folder, text=True)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def environment(self, *, recorded: bool = False) -> dict[str, str]:
        """In which stages find this Python, and are recorded if asked for."""
        python = Path(sys.executable).parent
        found = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
        # Each stage takes the library beside it, whatever the tests themselves were given.
        found.pop("PYTHONPATH", None)
        if recorded:
            self.records.mkdir(exist_ok=True)
            found |= {"PYTHONPATH": str(_RECORDING), "FACEVAE_RECORDS": str(self.records)}
        return found

    def dvc(self, *arguments: str, recorded: bool = False, status: int = 0) -> str:
        """Run dvc; its standard output and error."""
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.folder, env=self.environment(recorded=recorded), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    def lock(self) -> dict:
        return yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]

    def keep_as_first_run(self) -> None:
        """Commit what there is, to go `back` to."""
        self.commit("first run")
        self.git("tag", "first-run")

    def back(self) -> None:
        """As after the first run."""
        self.git("reset", "--quiet", "--hard", "first-run")
        self.dvc("checkout", "--quiet", "--force")


def finished_study(folder: Path, shared: Path, project: Path) -> Study:
    """A study that has run once, recorded and tagged first-run: a copy in a folder of its own.

    Args:
        folder: where the copy is made.
        shared: folder of all test processes, which one run serves. FACEVAE_STUDY may name that run:
            .ci/run has one of a fresh clone.
        project: what the study is of.
    """
    given = os.environ.get("FACEVAE_STUDY")
    with FileLock(shared / "study.lock"):
        study = Study(Path(given) if given else shared / "study")
        if not given and not (shared / "finished").exists():
            shutil.rmtree(study.folder, ignore_errors=True)
            study = Study.new(study.folder, project)
            assert ran(study.dvc("repro", recorded=True)) == STAGES
            (shared / "finished").touch()
        if "first-run" not in study.git("tag"):
            study.keep_as_first_run()
    copy = Study(folder / "study")
    shutil.copytree(study.folder, copy.folder, symlinks=True)
    shutil.copytree(study.records, copy.records)
    return copy


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran."""
    return set(re.findall(r"Running stage '(.+?)':", output))


if __name__ == "__main__":
    make_small(Path(sys.argv[1]))
