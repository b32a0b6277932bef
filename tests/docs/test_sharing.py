"""What docs/sharing.md and README's experiments promise, with a DVC remote and a git remote.

And the pictures of README and docs, which come from a run.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documents import console_commands
from study import Study, finished_study, ran

pytestmark = pytest.mark.slow

OF_THE_MACHINE = {"cost@direct", "cost@inter_dense", "compare", "page"}


def _documented(start: str) -> list[str]:
    """The arguments of the only command of the documents that begins so."""
    (command,) = {each for _, each in console_commands() if each.startswith(start)}
    return shlex.split(command)[1:]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path, project: Path) -> Study:
    """A finished run in a clone of a bare repository."""
    folder = tmp_path_factory.mktemp("sharing")
    study = finished_study(folder, shared_folder, project)
    study.git("clone", "--quiet", "--bare", str(study.folder), str(folder / "origin.git"))
    study.git("clone", "--quiet", str(folder / "origin.git"), str(folder / "ours"))
    ours = Study(folder / "ours")
    shutil.copytree(study.folder / ".dvc" / "cache", ours.folder / ".dvc" / "cache")
    ours.git("checkout", "--quiet", "-B", "main", "first-run")
    ours.dvc("checkout", "--quiet")
    ours.dvc("remote", "add", "--default", "storage", str(folder / "storage"))
    ours.git("add", ".dvc/config")
    ours.commit("A run to share")
    ours.dvc(*_documented("dvc push"))
    ours.git("push", "--quiet", "origin", "main")
    return ours


@pytest.fixture
def theirs(ours: Study, tmp_path: Path) -> Study:
    """A clone that has pulled."""
    origin = ours.folder.parent / "origin.git"
    ours.git("clone", "--quiet", "--branch", "main", str(origin), str(tmp_path / "theirs"))
    theirs = Study(tmp_path / "theirs")
    theirs.dvc(*_documented("dvc pull"))
    return theirs


def _files(study: Study, *, without: str) -> dict[str, bytes]:
    folders = (study.folder / name for name in ("data", "models", "reports", "metrics"))
    return {
        str(path.relative_to(study.folder)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and not path.match(without)
    }


def test_a_second_clone_restores_everything_and_measures_its_own_costs(
    ours: Study, theirs: Study
) -> None:
    assert not list((theirs.folder / "metrics").glob("*_cost.json"))
    expected = _files(ours, without="*_cost.json")
    assert "models/direct.keras" in expected
    assert _files(theirs, without="*_cost.json") == expected
    assert ran(theirs.dvc("repro")) == OF_THE_MACHINE
    assert ran(theirs.dvc("repro")) == set()


def test_costs_are_in_no_remote(ours: Study) -> None:
    stored = {
        path.parent.name + path.name
        for path in (ours.folder.parent / "storage" / "files" / "md5").rglob("*")
        if path.is_file()
    }
    lock = ours.lock()
    for variant in ("direct", "inter_dense"):
        (cost,) = lock[f"cost@{variant}"]["outs"]
        assert cost["md5"] not in stored
        assert lock[f"train@{variant}"]["outs"][0]["md5"] in stored


def test_own_copy_of_the_images_trains_nothing(theirs: Study, tmp_path: Path) -> None:
    shutil.copytree(theirs.folder / "data" / "synthetic", tmp_path / "copy")
    path = theirs.folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["data"]["source"] = str(tmp_path / "copy")
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    assert ran(theirs.dvc("repro", "train")) == {"prepare"}


def _assert_compared_with_the_first_run(ours: Study) -> None:
    """In what DVC tells of the experiment in the working folder, and in what it draws."""
    rows = json.loads(ours.dvc("metrics", "diff", "HEAD", "--json"))
    changed = rows.get("diff", rows)
    flattened, latent = 2 * 2 * 8, 8
    more = (24 - 16) * (flattened + 1 + 2 * latent)
    assert changed["metrics/inter_dense.json"]["encoder.params"]["diff"] == more
    assert "metrics/direct.json" not in changed
    # This machine's costs are compared, too, although they are not in git.
    assert "images_per_second" in changed["metrics/inter_dense_cost.json"]
    assert "metrics/direct_cost.json" not in changed
    assert re.search(r"encoder\.inter_dense\s+16\s+24", ours.dvc("params", "diff", "HEAD"))
    plots = ours.folder.parent / "plots"
    ours.dvc("plots", "diff", "HEAD", "--out", str(plots))
    assert "reports/inter_dense/history.csv" in (plots / "index.html").read_text()
    assert list((plots / "static").glob("*samples.png"))


def _assert_pushed_pulled_and_shown(ours: Study, theirs: Study) -> None:
    ours.dvc(*_documented("dvc exp push"))
    assert "wider" in theirs.dvc(*_documented("dvc exp list"))
    theirs.dvc(*_documented("dvc exp pull"))
    table = theirs.dvc(*_documented("dvc exp show"))
    assert "[wider]" in table
    assert "encoder.inter_dense" in table
    assert "metrics/inter_dense.json:test.psnr" in table
    theirs.dvc(*_documented("dvc exp branch"))
    theirs.git("checkout", "--quiet", "--force", "wider-branch")
    theirs.dvc("checkout", "--allow-missing")
    for name in ("models/inter_dense.keras", "reports/memory.md"):
        assert (theirs.folder / name).read_bytes() == (ours.folder / name).read_bytes()


def test_an_experiment_runs_nine_stages_is_compared_and_shared_and_back_is_cached(
    ours: Study, theirs: Study
) -> None:
    run = _documented("dvc exp run --name wider")
    assert ran(ours.dvc(*run[:-1], run[-1].replace("320", "24"))) == {
        "train@inter_dense", "prior@inter_dense", "generate@inter_dense", "evaluate@inter_dense",
        "cost@inter_dense", "compare", "memory", "page", "explorer",
    }  # fmt: skip
    shown = json.loads(ours.dvc("exp", "show", "--json"))
    assert len(shown[1]["experiments"]) == 1
    _assert_compared_with_the_first_run(ours)
    _assert_pushed_pulled_and_shown(ours, theirs)
    ours.git("checkout", "--quiet", "--", "params.yaml")
    assert ran(ours.dvc("repro")) == set()
    assert ours.git("diff", "HEAD", "--stat") == ""


def test_the_table_of_experiments_fits_in_120_columns(
    ours: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = ours.dvc(*_documented("dvc exp show")).splitlines()
    assert max(map(len, lines)) <= 120
    assert not any("…" in line for line in lines), "a column is cut"


def test_figures_are_of_a_finished_run_on_drawn_faces(ours: Study) -> None:
    command = [sys.executable, "docs/figures.py"]
    docs, reports, lock = (ours.folder / name for name in ("docs", "reports", "dvc.lock"))
    subprocess.run(command, cwd=ours.folder, check=True)
    for name in ("memory_by_batch.svg", "memory_by_inter_dense.svg"):
        assert (docs / name).read_bytes() == (reports / name).read_bytes()
    try:
        text = lock.read_text(encoding="utf-8")
        lock.write_text(text.replace("source: data/synthetic", "source: /real/faces"), "utf-8")
        done = subprocess.run(command, cwd=ours.folder, capture_output=True, text=True, check=False)
        assert "only data/synthetic is shown" in done.stderr
    finally:
        ours.git("checkout", "--quiet", "--", "docs", "dvc.lock")
