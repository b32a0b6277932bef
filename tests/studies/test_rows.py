"""The rows of a study's CSV: what identifies them, who may write them, and what mixes them."""

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from facevae.common.errors import UserError
from studies.rows import Origin, Origins, Row, append_row, flat, read_rows, settings_text

ORIGIN = Origin("0123abc", "c0de", "face", "CPU of some kind, 2 cores")
SETTINGS = settings_text({"train.epochs": 6, "loss.kl_weight": 0.001})
WRITER = """
import sys
from pathlib import Path
from studies.rows import Origin, Row, append_row

file, name, count = sys.argv[1:]
for seed in range(int(count)):
    origin = Origin("commit", "digest", "images", "device")
    append_row(Path(file), Row("study", name, seed, origin, {f"of.{name}": seed / 3}))
"""


def _row(seed: int = 1, settings: str = SETTINGS, **metrics: float) -> Row:
    return Row("losses", settings, seed, ORIGIN, metrics)


def test_settings_are_sorted_and_without_the_paths_of_a_machine() -> None:
    paths = {"data.source": "/somewhere/faces", "evaluate.inception_weights": "/weights.h5"}
    given = {"train.epochs": 6, "loss.kl_weight": 0.001, **paths}
    assert settings_text(given) == '{"loss.kl_weight": 0.001, "train.epochs": 6}'


def test_metrics_are_flat_and_what_is_not_defined_is_left_out() -> None:
    nested = {"test": {"psnr": 20.5, "ssim": None, "kl_per_unit": {"median": 1}}, "seconds": 3}
    assert flat(nested) == {"test.psnr": 20.5, "test.kl_per_unit.median": 1, "seconds": 3}


def test_rows_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "reports" / "losses.csv"
    assert read_rows(file) == []
    first = _row(psnr=0.1 + 0.2, kl=-1e-9)
    second = _row(seed=2, psnr=7.0, recall=0.25)  # has a metric that the first lacks, and lacks one
    for row in (first, second):
        append_row(file, row)
    assert read_rows(file) == [first, second]
    head, line, _ = file.read_text(encoding="utf-8").splitlines()
    assert head == "study,settings,seed,commit,digest,images,device,psnr,kl,recall"
    assert line.endswith(",0.30000000000000004,-1e-09,")


def test_a_row_is_one_of_study_settings_and_seed(tmp_path: Path) -> None:
    file = tmp_path / "losses.csv"
    first = _row(psnr=1.0)
    append_row(file, first)
    elsewhere = Origin("other", "other", "other", "other")
    append_row(file, Row("losses", SETTINGS, 1, elsewhere, {"psnr": 2.0}))
    assert read_rows(file) == [first]
    others = [
        _row(seed=2),
        _row(settings=settings_text({"train.epochs": 7})),
        Row("kl_weight", SETTINGS, 1, ORIGIN),
    ]
    for row in others:
        append_row(file, row)
    assert read_rows(file) == [first, *others]


def test_a_metric_cannot_take_the_place_of_a_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names of columns: device"):
        append_row(tmp_path / "losses.csv", _row(device=1.0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed,commit", "seed,revision", "lacks the columns commit"),
        (",1.5", ",much", "line 2: could not convert string to float: 'much'; correct or"),
        ("}\",2,", "}\",1,", "line 3: is a second row of these settings; delete one"),
    ],
)  # fmt: skip
def test_bad_input_of_edited_rows_is_a_sentence(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "losses.csv"
    append_row(file, _row(psnr=1.5))
    append_row(file, _row(seed=2, psnr=2.5))
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_rows(file)


def _write(project: Path, file: Path, name: str, count: int, before: str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", before + WRITER, str(file), name, str(count)]
    return subprocess.Popen(command, cwd=project)


def test_processes_that_write_at_once_lose_no_row(project: Path, tmp_path: Path) -> None:
    file, names, count = tmp_path / "study.csv", ("a", "b", "c"), 12
    writers = [_write(project, file, name, count) for name in names]
    while any(writer.poll() is None for writer in writers):
        read_rows(file)  # whole at any moment
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    rows = read_rows(file)
    assert {row.key for row in rows} == {
        ("study", name, seed) for name, seed in itertools.product(names, range(count))
    }
    assert all(row.metrics == {f"of.{row.settings}": row.seed / 3} for row in rows)


def test_a_kill_while_a_row_is_written_leaves_the_others(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "study.csv"
    assert _write(project, file, "a", 2).wait() == 0
    before = file.read_bytes()
    # The new file is complete then and has not yet taken the place of the old one.
    killed = "import os, signal\nos.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    assert _write(project, file, "b", 1, killed).wait() == -signal.SIGKILL
    assert file.read_bytes() == before
    assert list(tmp_path.glob(".*.tmp-*"))
    assert _write(project, file, "b", 1).wait() == 0
    assert len(read_rows(file)) == 3
    assert not list(tmp_path.glob(".*.tmp-*"))


def test_rows_of_one_kind_are_not_marked() -> None:
    same = Origin("later", "c0de", "face", ORIGIN.device)  # another commit of the same code
    origins = Origins([_row(), Row("losses", SETTINGS, 2, same)])
    assert not origins.mixed
    assert origins.columns() == origins.cells([_row()]) == []
    assert origins.note() == [
        "Measured at commits 0123abc, later on CPU of some kind, 2 cores."
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        Origin("later", "c0de", "face", "GPU of another kind"),
        Origin("later", "ed17", "face", ORIGIN.device),
        Origin("later", "c0de", "cats", ORIGIN.device),
    ],
)
def test_rows_of_several_kinds_are_marked_and_named(other: Origin) -> None:
    first, second = _row(), Row("losses", SETTINGS, 2, other)
    origins = Origins([first, second])
    assert origins.mixed
    assert origins.columns() == ["measured as"]
    assert origins.cells([second, first]) == ["1, 2"]
    assert origins.cells([second]) == ["2"]
    note = "\n".join(origins.note())
    assert "not all measured in the same way" in note
    for origin in (ORIGIN, other):
        assert f"commit {origin.commit} on {origin.device}; code and parameters" in note
        assert f"{origin.digest}, images {origin.images}." in note
