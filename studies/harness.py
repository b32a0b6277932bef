"""What studies of settings share: the images, and models that are trained once and kept.

Settings are by their names in params.yaml, such as loss.kl_weight; what they leave out is as it is
there. All are trained by the train stage, for as many steps each, on the images of CelebA's folder
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

# By name, the candidates of a study.
Candidates = Mapping[str, Mapping[str, Any]]
TRAINED_BY = ("encoder", "loss", "train")  # sections of params.yaml


def parameters_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What params.yaml has, with some settings in place."""
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    for name, value in settings.items():
        section, key = name.split(".")
        content[section][key] = value
    return content


def is_trained(place: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether the model in a place was trained so; params.yaml may have changed since."""
    if not all((place / name).exists() for name in ("model.keras", "params.yaml")):
        return False
    before = yaml.safe_load((place / "params.yaml").read_text(encoding="utf-8"))
    return all(before[section] == parameters[section] for section in TRAINED_BY)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=PROJECT)


def prepared(folder: Path) -> Path:
    """All shards of the images, and the attribute network trained on them."""
    from facevae.data.preparation import ImageSettings, prepare

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


def train(settings: Mapping[str, Any], seed: int, epochs: int, folder: Path) -> Path:
    """The model of some settings, trained if it is not there or params.yaml has changed."""
    settings = {
        **settings, "train.batch_size": BATCH, "train.epochs": epochs, "train.seed": seed,
    }  # fmt: skip
    place = folder / "-".join(f"{name}-{value}" for name, value in sorted(settings.items()))
    place.mkdir(exist_ok=True)
    parameters = parameters_with(settings)
    if not is_trained(place, parameters):
        (place / "model.keras").unlink(missing_ok=True)
        (place / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
        run(
            sys.executable, "stages/train.py", "--params", place / "params.yaml",
            "--shards", folder / "shards", "--inter-dense", UNITS,
            "--model", place / "model.keras", "--history", place / "history.csv",
        )  # fmt: skip
    return place / "model.keras"


def commands(candidates: Candidates, epochs: int) -> list[str]:
    """What a user types to train each."""
    common = f"-S data.source=/path/to/the/images -S data.resize=lanczos -S train.epochs={epochs}"
    lines = []
    for name, settings in candidates.items():
        flags = [common, *(f"-S {key}={value}" for key, value in settings.items())]
        lines.append(f"dvc exp run {' '.join(flags)}   # {name}")
    return lines
