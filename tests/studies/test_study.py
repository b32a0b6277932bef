"""A study as a whole: what is measured, what is skipped, what a mistake says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import FACES
from studies import harness
from studies.harness import Results, Study, Title, Work
from studies.rows import read_rows

TITLES: tuple[Title, ...] = (("first",), ("second",))
ARGUMENTS = ("synthesize.images=40", "data.image_size=16", "--seeds", "1", "2")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Title, int]]:
    """What has been measured, on drawn faces."""
    monkeypatch.delenv(FACES, raising=False)
    return []


def _run(
    folder: Path,
    measured: list[tuple[Title, int]],
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    code_changes_at: int | None = None,
) -> int:
    def measure(work: Work, title: Title, seed: int) -> dict[str, object]:
        if len(measured) == code_changes_at:
            monkeypatch.setattr(harness, "_STAGES", ("train",))
        measured.append((title, seed))
        manifest = json.loads((work.shards / "manifest.json").read_text(encoding="utf-8"))
        return {"train": {"images": manifest["splits"]["train"]["images"]}, "twice_seed": 2 * seed}

    def report(results: Results) -> list[str]:
        return [f"{title[0]}: {len(rows)}" for title, rows in results.rows.items()]

    study = Study(
        name="tiny",
        report_file="tiny.md",
        common={"train.epochs": 1},
        candidates={TITLES[0]: {}, TITLES[1]: {"loss.kl_weight": 0.5}},
        seeds={TITLES[0]: 2},
        measure=measure,
        report=report,
    )
    places = ("--folder", str(folder / "work"), "--reports", str(folder / "reports"))
    monkeypatch.setattr(sys, "argv", ["study", *arguments, *places])
    try:
        harness.main(study, "")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.mark.slow
def test_study_continues_where_it_stopped_and_measures_nothing_twice(
    measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    file, report = tmp_path / "reports" / "tiny.csv", tmp_path / "reports" / "tiny.md"
    with monkeypatch.context() as changed:
        assert _run(tmp_path, measured, changed, *ARGUMENTS, code_changes_at=1) == 2
    assert "the code or params.yaml was changed" in capfd.readouterr().err
    assert len(read_rows(file)) == 1
    assert not report.exists()
    assert _run(tmp_path, measured, monkeypatch, *ARGUMENTS) == 0
    assert measured == [(TITLES[0], 1), (TITLES[1], 1), (TITLES[1], 1), (TITLES[0], 2)]
    content = file.read_bytes()
    first, second, third = read_rows(file)
    assert first.metrics == {"train.images": 32.0, "twice_seed": 2.0}
    assert json.loads(second.settings) == {
        "data.image_size": 16,
        "loss.kl_weight": 0.5,
        "synthesize.images": 40,
        "synthesize.seed": 1,
        "train.epochs": 1,
    }
    assert first.origin == second.origin == third.origin
    assert report.read_text(encoding="utf-8") == "first: 2\nsecond: 1\n"

    assert _run(tmp_path, measured, monkeypatch, *ARGUMENTS) == 0
    assert len(measured) == 4
    report.unlink()
    assert _run(tmp_path, measured, monkeypatch, *ARGUMENTS, "--report") == 0
    assert report.read_text(encoding="utf-8") == "first: 2\nsecond: 1\n"
    assert file.read_bytes() == content


def test_a_part_of_a_study_can_be_measured_alone(
    measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _run(tmp_path, measured, monkeypatch, *ARGUMENTS, "--only", "second") == 0
    assert measured == [(TITLES[1], 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "third"], "--only third: no title of a candidate begins so"),
        (["train.epochs"], "train.epochs: must be a parameter and its value"),
        (["train.epochs=0"], "train.epochs: must be greater than or equal to 1, not 0"),
        (["train.epoch=1"], "train.epoch: unknown parameter"),
        (["train.seed=4"], "train.seed: give the seeds with --seeds"),
        (["--report"], "tiny.csv: has no rows of these settings; measure some"),
    ],
)
def test_bad_input_of_a_study_is_a_sentence(
    measured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    assert _run(tmp_path, measured, monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert measured == []


def test_rows_name_the_commit_and_whether_files_differ_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    monkeypatch.setattr(harness, "PROJECT", tmp_path)
    assert harness.commit() == "unknown"
    (tmp_path / "code.py").touch()
    git("init", "--quiet")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "all")
    head = git("rev-parse", "HEAD")
    assert harness.commit() == head
    # What a study writes itself is no change of it.
    (tmp_path / "reports" / "studies").mkdir(parents=True)
    (tmp_path / "reports" / "studies" / "tiny.csv").touch()
    assert harness.commit() == head
    (tmp_path / "code.py").write_text("pass\n", encoding="utf-8")
    assert harness.commit() == f"{head}+changes"
