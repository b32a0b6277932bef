"""Write Encoder and Decoder as ONNX files, and a card, beside each model: `make export`.

This is a command and no stage of dvc.yaml: whoever wants the files asks for them. What a card says
is what dvc.lock records of the training, whatever params.yaml holds by now.
"""

import argparse
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from _stage import run
from facevae.common.errors import UserError
from facevae.common.files import write_text
from facevae.common.parameters import VARIANTS, Data, Train
from facevae.common.runtime import load_tensorflow

MODELS, METRICS, SHARDS = Path("models"), Path("metrics"), "data/tfrecords"


def _check_record(stages: dict[str, Any], variant: str, model: Path, metrics: Path) -> None:
    """Check that dvc.lock is about these two files, and about the images that are its source.

    Raises:
        UserError: it is not.
    """
    entries = (stages[f"train@{variant}"], stages[f"evaluate@{variant}"], stages["prepare"])
    train, evaluate, prepare = (
        {each["path"]: each["md5"] for kind in ("deps", "outs") for each in entry.get(kind, ())}
        for entry in entries
    )
    for path, recorded in ((model, train), (model, evaluate), (metrics, evaluate)):
        if hashlib.md5(path.read_bytes()).hexdigest() != recorded[str(path)]:
            raise UserError(
                f"{path}: is not of the last run of `dvc repro` that dvc.lock records; bring that "
                f"back with dvc checkout, or run dvc repro"
            )
    if train[SHARDS] != prepare[SHARDS]:
        raise UserError(f"{model}: was trained on other images than {SHARDS} has; run dvc repro")


def _record(variant: str, model: Path, metrics: Path) -> tuple[Data, Train]:
    """The sections of the parameters with which a model was trained.

    Raises:
        UserError: nothing says how it was trained.
    """
    try:
        stages = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))["stages"]
        _check_record(stages, variant, model, metrics)
        prepared, trained = (
            stages[stage]["params"]["params.yaml"] for stage in ("prepare", f"train@{variant}")
        )
        return Data(**prepared["data"]), Train(**trained["train"])
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; run dvc repro first") from None
    except (KeyError, TypeError, ValidationError, yaml.YAMLError):
        raise UserError(
            f"dvc.lock: does not say how {model} was trained and evaluated; run dvc repro"
        ) from None


def _code() -> str:
    """The commit of this folder, for a sentence."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if not commit:
        return "without a commit"
    return f"commit {commit}" + (", with later changes" if git("status", "--porcelain") else "")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if missing := [variant for variant in VARIANTS if not (MODELS / f"{variant}.keras").exists()]:
        names = " and ".join(str(MODELS / f"{variant}.keras") for variant in missing)
        raise UserError(f"{names}: no such model; train it first: dvc repro")
    if importlib.util.find_spec("onnx") is None:
        raise UserError(f"{sys.executable} lacks the package onnx: `make export` installs it")
    code = _code()
    load_tensorflow()
    from facevae.export.model_card import model_card
    from facevae.export.onnx_files import write_decoder, write_encoder
    from facevae.model.saving import load_model

    for variant in VARIANTS:
        model, metrics = MODELS / f"{variant}.keras", METRICS / f"{variant}.json"
        data, train = _record(variant, model, metrics)
        vae = load_model(model)
        measured = json.loads(metrics.read_text(encoding="utf-8"))
        encoder, decoder = (MODELS / f"{variant}_{part}.onnx" for part in ("encoder", "decoder"))
        write_encoder(vae, encoder)
        write_decoder(vae, decoder)
        card = MODELS / f"{variant}.md"
        write_text(card, model_card(variant, vae, data, train, measured, code))
        print(f"{encoder}, {decoder}, {card}")


if __name__ == "__main__":
    run(main)
