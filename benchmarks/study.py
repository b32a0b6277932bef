"""What studies of the loss share: the images, and models that are trained once and kept.

All are trained by the train stage, for as many steps each, on the images of CelebA's folder
FACEVAE_CELEBA, or drawn faces.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from training import PROJECT, drawn_or_real

BATCH = 32
UNITS = 256  # of the extra Dense layer
FOLDER = PROJECT / ".facevae" / "studies"

_LOSS = {"sigma": "learned", "kl_weight": 1.0, "free_bits": 0.0, "kl_warmup_epochs": 0}


def _write_parameters(loss: Mapping[str, Any], epochs: int, seed: int, file: Path) -> None:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    content["loss"] = {**_LOSS, **loss}
    content["train"] |= {"batch_size": BATCH, "epochs": epochs, "seed": seed}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=PROJECT)


def prepared(folder: Path) -> Path:
    """All shards of the images, and the attribute network trained on them."""
    from facevae.preparation import ImageSettings, prepare

    shards = folder / "shards"
    if not shards.exists():
        limits = {"train": None, "validation": None, "test": None}
        settings = ImageSettings(148, "lanczos", 96)
        prepare(drawn_or_real(folder), shards, settings, limits=limits, images_per_shard=2048)
    if not (folder / "attributes").exists():
        run(
            sys.executable, "stages/attributes.py", "--shards", shards,
            "--network", folder / "attributes", "--metrics", folder / "attributes.json",
        )  # fmt: skip
    return shards


def train(loss: Mapping[str, Any], seed: int, epochs: int, folder: Path) -> Path:
    """The model of some settings of the loss, trained if it is not there."""
    settings = "-".join(f"{key}-{value}" for key, value in sorted(loss.items()))
    place = folder / f"{settings}-seed-{seed}-epochs-{epochs}"
    place.mkdir(exist_ok=True)
    if not (place / "model.keras").exists():
        _write_parameters(loss, epochs, seed, place / "params.yaml")
        run(
            sys.executable, "stages/train.py", "--params", place / "params.yaml",
            "--shards", folder / "shards", "--inter-dense", UNITS,
            "--model", place / "model.keras", "--history", place / "history.csv",
        )  # fmt: skip
    return place / "model.keras"


def commands(candidates: Mapping[str, Mapping[str, Any]], epochs: int) -> list[str]:
    """What a user types to train each of some settings of the loss, by name."""
    common = f"-S data.source=/path/to/the/images -S data.resize=lanczos -S train.epochs={epochs}"
    lines = []
    for name, loss in candidates.items():
        flags = " ".join(f"-S loss.{key}={value}" for key, value in loss.items())
        lines.append(f"dvc exp run {common} {flags}   # {name}")
    return lines
