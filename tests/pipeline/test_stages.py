"""Each stage as a command: its help, a quiet log, and one sentence for a mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_params

STAGES = (
    "synthesize", "prepare", "attributes", "train", "prior", "generate", "evaluate", "cost",
    "compare", "memory", "page",
)  # fmt: skip


def _run(project: Path, stage: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(project / "stages" / f"{stage}.py"), *arguments]
    return subprocess.run(command, cwd=project, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("name", STAGES)
def test_help_names_every_argument(stage, capfd: pytest.CaptureFixture, name: str) -> None:
    assert stage(name, "--help") == 0
    told, errors = capfd.readouterr()
    assert "--params" in told
    assert errors == ""


def test_train_alone_prints_the_device_and_one_bar_and_nothing_else(
    project: Path, shards: Path, tmp_path: Path
) -> None:
    params = write_params(tmp_path, train={"batch_size": 8, "epochs": 1})
    model = tmp_path / "models" / "alone.keras"
    done = _run(
        project, "train", "--params", str(params), "--shards", str(shards),
        "--variant", "inter_dense", "--model", str(model), "--history", f"{tmp_path}/history.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.replace("\r", "\n").split("\n") if line.strip()]
    first, *bars = lines
    assert re.fullmatch("Training alone on (CPU .+, [0-9]+ cores|GPU .+), oneDNN (on|off)", first)
    assert all(line.startswith("Training alone:") for line in bars), done.stderr
    assert "images/s" in bars[-1]
    assert model.is_file()


def _train(shards: Path) -> list[str]:
    options = ["--variant", "direct", "--model", "m.keras", "--history", "h.csv"]
    return ["train", "--shards", str(shards), *options]


def test_missing_shards_are_a_sentence(stage, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    assert stage(*_train(tmp_path / "empty")) == 2
    assert capfd.readouterr() == (
        "",
        f"{tmp_path}/empty: holds no manifest.json; write the shards first: dvc repro\n",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "params.yaml"}


def test_bad_input_batch_larger_than_the_train_split(
    stage, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert stage(*_train(shards), train={"batch_size": 49}) == 2
    assert "train.batch_size: 49 is more than the 48 images" in capfd.readouterr().err
    assert not (tmp_path / "m.keras").exists()


def test_bad_input_damaged_shard_is_a_sentence(
    stage, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in shards.iterdir():
        content = bytearray(path.read_bytes())
        if path.name.startswith("train-00001"):
            content[len(content) // 2] ^= 1
        (folder / path.name).write_bytes(content)
    assert stage(*_train(folder)) == 2
    told = capfd.readouterr().err
    assert "train-00001-of-00003.tfrecord: record 11 is damaged; write the shards" in told
    assert not (tmp_path / "m.keras").exists()
