"""What `make export` writes beside the models, and what it refuses."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from example_metrics import example_metrics
from helpers import PROJECT, data_settings, run_stage, settings, small_vae
from study import Study, finished_study

from facevae.common.files import write_json
from facevae.common.parameters import VARIANTS
from facevae.export.model_card import model_card
from facevae.model.saving import save_model

_ENDS = (".md", "_encoder.onnx", "_decoder.onnx")
_WRITTEN = {f"{name}{end}" for name in VARIANTS for end in _ENDS}


def _hash(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which both models are trained and evaluated, by what its dvc.lock says."""
    monkeypatch.chdir(tmp_path)
    data, train = data_settings("data/celeba"), settings(epochs=7).train
    shards = {"path": "data/tfrecords", "md5": "0123.dir"}
    stages: dict[str, Any] = {
        "prepare": {"params": {"params.yaml": {"data": data.model_dump()}}, "outs": [shards]}
    }
    for variant in VARIANTS:
        model, metrics = Path(f"models/{variant}.keras"), Path(f"metrics/{variant}.json")
        save_model(small_vae(inter_dense=0 if variant == "direct" else 8), model)
        write_json(metrics, example_metrics(1234, 20.25, 500.0, None))
        saved = {"path": str(model), "md5": _hash(model)}
        stages[f"train@{variant}"] = {
            "deps": [shards], "outs": [saved],
            "params": {"params.yaml": {"train": train.model_dump()}},
        }  # fmt: skip
        stages[f"evaluate@{variant}"] = {
            "deps": [saved], "outs": [{"path": str(metrics), "md5": _hash(metrics)}]
        }  # fmt: skip
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    return tmp_path


def test_export_writes_networks_and_a_card_of_the_recorded_training(
    folder: Path, capfd: pytest.CaptureFixture
) -> None:
    assert run_stage("export") == 0
    told = capfd.readouterr()
    assert told.err == ""
    assert {path.name for path in (folder / "models").iterdir()} == {
        *(f"{variant}.keras" for variant in VARIANTS), *_WRITTEN,
    }  # fmt: skip
    assert all(f"models/{name}" in told.out for name in _WRITTEN)
    card = (folder / "models" / "inter_dense.md").read_text(encoding="utf-8")
    assert "with an extra Dense layer of 8 units" in card
    assert "epochs: 7" in card
    assert re.search(r"`psnr` +\| +20\.25", card)
    assert "CelebA" in card
    assert "without an extra layer" in (folder / "models" / "direct.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("no model", "models/inter_dense.keras: no such model; train it first: dvc repro"),
        ("another model", "models/direct.keras: is not of the last run of `dvc repro` that"),
        ("other metrics", "metrics/direct.json: is not of the last run of `dvc repro` that"),
        ("no metrics", "metrics/direct.json: no such file; run dvc repro first"),
        ("no lock", "dvc.lock: no such file; run dvc repro first"),
        ("no run", "dvc.lock: does not say how models/direct.keras was trained and evaluated"),
        ("another version", "dvc.lock: does not say how models/direct.keras was trained and"),
        ("other images", "models/direct.keras: was trained on other images than data/tfrecords"),
        ("no yaml", "dvc.lock: does not say how models/direct.keras was trained and evaluated"),
    ],
)
def test_export_refuses_what_nothing_vouches_for(
    folder: Path, damage: str, sentence: str, capfd: pytest.CaptureFixture
) -> None:
    lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    stages = lock["stages"]
    if damage == "no model":
        (folder / "models" / "inter_dense.keras").unlink()
    elif damage == "another model":
        save_model(small_vae(seed=5), folder / "models" / "direct.keras")
    elif damage == "other metrics":
        write_json(folder / "metrics" / "direct.json", example_metrics(1, 2.0, 3.0, None))
    elif damage == "no metrics":
        (folder / "metrics" / "direct.json").unlink()
    elif damage == "no run":
        del stages["evaluate@direct"]
    elif damage == "another version":
        stages["train@direct"]["params"]["params.yaml"]["train"]["beta"] = 3
    elif damage == "other images":
        stages["train@direct"]["deps"] = [{"path": "data/tfrecords", "md5": "4567.dir"}]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    if damage == "no lock":
        (folder / "dvc.lock").unlink()
    elif damage == "no yaml":
        (folder / "dvc.lock").write_text("<<<<<<< HEAD: [", encoding="utf-8")
    assert run_stage("export") == 2
    told, errors = capfd.readouterr()
    assert told == ""
    assert errors.startswith(sentence)
    assert errors.count("\n") == 1
    assert not _WRITTEN & {path.name for path in (folder / "models").iterdir()}


def test_export_without_its_package_says_what_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    assert run_stage("export") == 2
    assert capfd.readouterr().err.endswith("lacks the package onnx: `make export` installs it\n")


@pytest.mark.parametrize(
    ("changes", "terms", "limit"),
    [
        ({"source": "data/synthetic"}, "nobody's terms restrict this model", "drawn faces"),
        ({"source": "data/celeba"}, "for non-commercial research only", "celebrities"),
        ({"source": "mine", "layout": "folder"}, "your own pictures", "the kind of pictures"),
    ],
)
def test_a_card_tells_the_terms_of_the_images(
    changes: dict[str, Any], terms: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    data, metrics = data_settings(**changes), example_metrics(1234, 20.25, 500.0, None)
    card = model_card("direct", small_vae(), data, settings().train, metrics, "commit 1")
    assert terms in card
    assert limit in card
    assert ("CelebA" in card) == (changes["source"] == "data/celeba")
    assert f"source: {changes['source']}" in card
    # What was not measured is not there.
    assert "`fid`" not in card
    assert "`ms_ssim`" not in card


@pytest.mark.slow
def test_the_code_of_a_card_draws_samples(
    tmp_path: Path, shared_folder: Path, project: Path
) -> None:
    """In a real project, as a reader of the card would who has the files in a folder of his own."""
    study: Study = finished_study(tmp_path, shared_folder, project)
    command = [sys.executable, "stages/export.py"]
    subprocess.run(command, cwd=study.folder, env=study.environment(), check=True)
    models = study.folder / "models"
    card = (models / "inter_dense.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    check = "assert samples.shape == reconstructions.shape == (1, 16, 16, 3), samples.shape\n"
    check += "assert 0 <= samples.min() < samples.max() <= 1\n"
    subprocess.run([sys.executable, "-c", code + check], cwd=models, check=True)
    assert study.git("status", "--porcelain") == ""
    assert study.git("rev-parse", "HEAD").strip() in card
