"""Each stage as a command: its help, a quiet log, and one sentence for a mistake."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_stage, settings, write_params

STAGES = (
    "synthesize", "prepare", "attributes", "train", "prior", "generate", "evaluate", "cost",
    "compare", "memory", "page", "explorer",
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


def test_help_of_the_command_that_is_no_stage(project: Path) -> None:
    done = _run(project, "export", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "as ONNX files" in done.stdout


@pytest.mark.slow
def test_standard_error_may_be_closed(project: Path, tmp_path: Path) -> None:
    """As cron's jobs have it, and 2>&- in a shell."""
    params = write_params(tmp_path, synthesize={"images": 40}, data={"source": f"{tmp_path}/out"})
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "stages/synthesize.py",
         "--params", params, "--target", tmp_path / "out"],
        cwd=project, stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out" / "img_align_celeba.zip").exists()


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"generate": {"rows": 8, "columns": 8}}, "8 x 8 needs 32 held-out images, and the test"),
        ({"data": {"source": "data/synthetic", "limit": {"test": 1}}}, "and the test split has 1;"),
        ({"train": {"batch_size": 81}}, "train.batch_size"),
    ],
)
def test_too_few_drawn_faces_are_told_before_they_are_drawn(
    stage, tmp_path: Path, capfd: pytest.CaptureFixture, changes: dict, sentence: str
) -> None:
    limits = {"train": None, "validation": None, "test": None}
    if "data" in changes:
        changes["data"]["limit"] = {**limits, **changes["data"]["limit"]}
    assert stage("synthesize", "--target", "data/synthetic",
                 **{**changes, "synthesize": {"images": 100}}) == 2  # fmt: skip
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_source_that_is_a_link_to_itself_is_a_sentence(
    stage, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert stage("synthesize", "--target", "drawn", data={"source": "loop"}) == 2
    told = capfd.readouterr().err
    assert told.startswith("data.source: ")
    assert "Traceback" not in told


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


# What can be known before training. Each stage that has the shards tells it, so that the first one
# after `prepare` does, whatever ran before.
_EARLY: dict[str, tuple[dict[str, dict], str]] = {
    "attribute": (
        {"generate": {"attributes": ["Beard"]}},
        "generate.attributes: the data has no Beard; it has Bald, ",
    ),
    "rows": (
        {"generate": {"rows": 8}},
        "generate.rows, generate.columns: 8 x 2 needs 16 held-out images, and the test split has 6",
    ),
    "prior": (
        {"generate": {"prior": "mixture"}},
        "generate.prior: a mixture needs at least 100 training images, and there are 48; take no",
    ),
    "batch": ({"train": {"batch_size": 49}}, "train.batch_size: 49 is more than the 48 images of"),
    "weights": (
        {"evaluate": {"inception_weights": "/no/such.h5"}},
        "evaluate.inception_weights: there is no file /no/such.h5",
    ),
    "relative weights": (
        {"evaluate": {"inception_weights": "such.h5"}},
        "evaluate.inception_weights: there is no file such.h5 in /",
    ),
}


@pytest.mark.parametrize("mistake", _EARLY)
def test_told_before_training(
    stage, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture, mistake: str
) -> None:
    changes, sentence = _EARLY[mistake]
    attributes = ["attributes", "--shards", str(shards), "--network", "n", "--metrics", "m.json"]
    for arguments in (attributes, _train(shards)):
        assert stage(*arguments, **changes) == 2
        told = capfd.readouterr().err
        assert told.startswith(sentence)
        assert told.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_told_before_training_all_together(
    stage, shards: Path, capfd: pytest.CaptureFixture
) -> None:
    assert stage(*_train(shards), generate={"rows": 8, "attributes": ["Beard"]}) == 2
    assert capfd.readouterr().err.count("\n") == 2


def test_told_before_training_a_file_that_is_no_weights_is_known_to_every_stage(
    stage, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    page = tmp_path / "page.h5"
    page.write_text("<!DOCTYPE html>")
    assert stage("synthesize", "--target", "faces", evaluate={"inception_weights": str(page)}) == 2
    assert "page.h5 is not an .h5 file or is incomplete" in capfd.readouterr().err
    assert not (tmp_path / "faces").exists()


def test_told_before_training_packages_that_are_missing_are_known_to_every_stage(
    stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for module in ("dlib", "face_recognition_models"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert stage("synthesize", "--target", "faces", evaluate={"faces": True}) == 2
    told = capfd.readouterr().err
    assert told.startswith("evaluate.faces: true needs dlib-bin and face-recognition-models, which")
    assert "`make faces`" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "faces").exists()


def test_a_linked_folder_is_refused_before_the_work(
    stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "other disk").mkdir()
    (tmp_path / "data").symlink_to("other disk")
    monkeypatch.setenv("DVC_STAGE", "no stage")
    assert stage("synthesize", "--target", "data/synthetic") == 2
    told = capfd.readouterr().err
    assert told.startswith(f"data: is a link to {tmp_path}/other disk, and DVC keeps track of")
    assert told.count("\n") == 1
    assert not list((tmp_path / "other disk").iterdir())
    (tmp_path / "reports").symlink_to("other disk")
    assert stage("memory", "--reports", "reports") == 2
    assert capfd.readouterr().err.startswith("reports: is a link to ")
    # DVC itself makes links to files.
    (tmp_path / "model.keras").symlink_to("other disk/a model")
    arguments = ["--model", "model.keras", "--shards", "shards", "--prior", "p.npz"]
    assert stage("prior", *arguments, evaluate={"inception_weights": "/no/such.h5"}) == 2
    assert "there is no file /no/such.h5" in capfd.readouterr().err


def test_a_relative_source_in_a_copy_of_the_project_is_told_with_its_place(
    stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "project" / "my data").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    assert stage("synthesize", "--target", "data/synthetic", data={"source": "my data"}) == 2
    assert capfd.readouterr().err == (
        f"data.source: my data is not in the copy of the project in which DVC runs this "
        f"experiment; write the absolute path: {tmp_path}/project/my data\n"
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "in/a"), "in/a: cannot be read: Permi"),
        (OSError(errno.EIO, "Input/output error", "in"), "in: cannot be read: Input/output error"),
        (OSError(errno.ENOSPC, "No space left", "out/.a.tmp-1/a"), "out/a: cannot be written: No"),
        (PermissionError(errno.EACCES, "Permission denied", b"out"), "out: cannot be written: Pe"),
        (OSError(errno.ELOOP, "Too many levels", "elsewhere"), "elsewhere: cannot be used: Too"),
        (OSError(errno.ENOSPC, "No space left"), "an output: cannot be written: No space left"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "out"), "out of memory"),
    ],
)
def test_an_error_of_the_file_system_names_the_file_and_what_was_done(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture,
    error: OSError, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(str(project / "stages"))
    import _stage

    monkeypatch.setattr(_stage, "_inputs", [Path("in")])
    monkeypatch.setattr(_stage, "_outputs", [Path("out")])
    monkeypatch.setattr(_stage, "_parameters", [settings()])

    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        _stage.run(fails)
    assert stopped.value.code == 2
    assert capfd.readouterr().err.startswith(sentence)


def test_an_input_that_cannot_be_read_is_not_called_written(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads to itself, which even root cannot open."""
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "direct.json").symlink_to("direct.json")
    outputs = ["--markdown", "comparison.md", "--csv", "comparison.csv"]
    assert run_stage("compare", "--metrics", "metrics", *outputs) == 2
    told = capfd.readouterr().err
    assert told.startswith("metrics/direct.json: cannot be read: Too many levels")
    assert "Traceback" not in told
