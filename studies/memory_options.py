"""What each lever on a training's memory saves, and what it costs in speed and held-out loss.

At batch 128, each beside the default. Memory is reckoned and measured (see `ledger.py`). For the
speed all candidates take turns (see `worker.py`). For the loss, the train stage trains each for
the same number of steps, on the images of CelebA's folder FACEVAE_CELEBA, or drawn faces.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from facevae.common.parameters import Parameters, load_parameters
from facevae.common.runtime import load_tensorflow
from facevae.measurement.step_peak import measure_peak
from facevae.memory.ledger import ledger
from training import PROJECT, prepared, serve_training
from worker import Candidate, ratio, take_turns

BATCH = 128
EPOCHS = 6
ROUNDS = 9
LAST_EPOCHS = 2  # whose validation losses are averaged: a single one jitters
SEEDS = (1, 2, 3)
MIB = 2**20

DEFAULT = "default: inter_dense 256"
LEVERS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no extra Dense layer": {"inter_dense": 0},
    "inter_dense 64": {"inter_dense": 64},
    "batch in 4 parts": {"train.accumulation_steps": 4},
    "rematerialization": {"train.rematerialization": True},
    "SGD, learning rate 1e-4": {"train.optimizer": "sgd", "train.learning_rate": 1e-4},
    "Adafactor, learning rate 0.01": {
        "train.optimizer": "adafactor",
        "train.learning_rate": 0.01,
    },
    "bfloat16": {"train.precision": "bfloat16"},
    "three conv layers, strides 4 2 2": {
        "encoder.filters": [32, 64, 128],
        "encoder.kernel_sizes": [3, 3, 3],
        "encoder.strides": [4, 2, 2],
    },
    # Kernels of 3 at strides of 4 never see a quarter of the rows, and leave as many unpainted.
    "the same, kernels 6 4 4": {
        "encoder.filters": [32, 64, 128],
        "encoder.kernel_sizes": [6, 4, 4],
        "encoder.strides": [4, 2, 2],
    },
    "five conv layers": {
        "encoder.filters": [32, 64, 128, 256, 256],
        "encoder.kernel_sizes": [3, 3, 3, 3, 3],
        "encoder.strides": [2, 2, 2, 2, 2],
    },
    "residual blocks": {"encoder.block": "residual"},
}
# Half the default's peak is wanted for no worse a loss: these are trained with every seed.
RIVALS = (DEFAULT, "batch in 4 parts", "the same, kernels 6 4 4")


def write_parameters(lever: Mapping[str, Any], file: Path) -> int:
    """Write a params.yaml for a lever; the units of the extra Dense layer are returned."""
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    # What README tells was measured so; sums of squares are easier to compare than nats.
    content["loss"]["reconstruction"] = "mse"
    content["train"] |= {
        "batch_size": BATCH, "epochs": EPOCHS, "learning_rate_schedule": "constant",
    }  # fmt: skip
    for key, value in lever.items():
        if key != "inter_dense":
            section, name = key.split(".")
            content[section][name] = value
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return lever.get("inter_dense", content["encoder"]["inter_dense"])


def serve_steps(parameters: Parameters, shards: Path, inter_dense: int) -> None:
    """Take training steps, as the train stage does."""
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.model.vae import build_vae
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    enable_determinism(1)
    train = parameters.train
    vae = build_vae(
        parameters.encoder,
        parameters.loss,
        image_size=parameters.data.image_size,
        inter_dense=inter_dense,
        precision=train.precision,
    )
    optimizer = build_optimizer(train.optimizer, train.learning_rate, train.precision)
    step = training_step(
        vae,
        optimizer,
        accumulation_steps=train.accumulation_steps,
        rematerialization=train.rematerialization,
    )
    serve_training(step, vae, shards, BATCH)


def held_out_loss(file: Path, shards: Path, inter_dense: int, folder: Path) -> float:
    """Validation loss after training, the mean of the last epochs'."""
    history = folder / "history.csv"
    subprocess.run(
        [
            sys.executable, PROJECT / "stages" / "train.py", "--params", file, "--shards", shards,
            "--inter-dense", str(inter_dense), "--model", folder / "model.keras",
            "--history", history,
        ],
        check=True, cwd=folder, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with open(history, encoding="utf-8") as rows:
        losses = [float(row["val_loss"]) for row in csv.DictReader(rows)]
    return statistics.mean(losses[-LAST_EPOCHS:])


def print_memory_and_speed(shards: Path, folder: Path) -> None:
    """Table of the peaks, reckoned and measured, and of images per second over the default's."""
    files, units, candidates = {}, {}, {}
    for number, (lever, changes) in enumerate(LEVERS.items()):
        files[lever] = folder / f"params-{number}.yaml"
        units[lever] = write_parameters(changes, files[lever])
        command = [
            sys.executable, __file__, "steps", "--params", files[lever], "--shards", shards,
            "--inter-dense", units[lever],
        ]  # fmt: skip
        candidates[lever] = Candidate(command, BATCH)
    rates = take_turns(candidates, ROUNDS)
    for candidate in candidates.values():
        candidate.end()
    print("| | ledger, MiB | measured, MiB | of default's | speed over default's (quartiles) |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    peaks: dict[str, float] = {}
    for lever in LEVERS:
        parameters = load_parameters(files[lever])
        step: dict[str, Any] = {
            "encoder": parameters.encoder,
            "train": parameters.train,
            "image_size": parameters.data.image_size,
            "inter_dense": units[lever],
        }
        peaks[lever] = measure_peak(**step) / MIB
        middle, low, high = ratio(rates[lever], rates[DEFAULT])
        print(
            f"| {lever} | {ledger(**step).peak / MIB:.0f} | {peaks[lever]:.0f} "
            f"| {peaks[lever] / peaks[DEFAULT]:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) |",
            flush=True,
        )


def print_losses(shards: Path, folder: Path) -> None:
    """Table of held-out losses after the same number of steps."""
    print("| | held-out loss per image, by seed |")
    print("| --- | ---: |", flush=True)
    for lever, changes in LEVERS.items():
        losses = []
        for seed in SEEDS if lever in RIVALS else SEEDS[:1]:
            file = folder / "params.yaml"
            units = write_parameters({**changes, "train.seed": seed}, file)
            losses.append(held_out_loss(file, shards, units, folder))
        print(f"| {lever} | {', '.join(f'{loss:.1f}' for loss in losses)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    # What this file starts processes of itself for.
    steps = commands.add_parser("steps")
    steps.add_argument("--params", type=Path, required=True)
    steps.add_argument("--shards", type=Path, required=True)
    steps.add_argument("--inter-dense", type=int, required=True)
    options = parser.parse_args()
    if options.command == "steps":
        serve_steps(load_parameters(options.params), options.shards, options.inter_dense)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = prepared(folder)
        print_memory_and_speed(shards, folder)
        print()
        print_losses(shards, folder)


if __name__ == "__main__":
    main()
