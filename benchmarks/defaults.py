"""Which settings of the loss, and which prior, make the best plain VAE: at equal steps, measured.

Every candidate is the variant with the extra Dense layer, trained by the train stage for the same
number of steps on the images of CelebA's folder FACEVAE_CELEBA, or drawn faces; the last one is the
same networks in pythae, with its defaults. One piece of code measures them all, on the validation
split. What is trained stays in the folder, and is not trained again.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "stages"))

from _stage import load_tensorflow
from training import PEERS, PROJECT, drawn_or_real

BATCH = 32
UNITS = 256
PRIORS = ("normal", "gaussian", "mixture")
SPLIT = "validation"

LEARNED = {"reconstruction": "gaussian", "sigma": "learned"}
CANDIDATES: dict[str, dict[str, Any]] = {
    "mse, weight 1": {"reconstruction": "mse"},
    "sigma 0.3": {"reconstruction": "gaussian", "sigma": 0.3},
    "sigma 0.1": {"reconstruction": "gaussian", "sigma": 0.1},
    "sigma learned": LEARNED,
    "sigma learned, KL warm-up": {**LEARNED, "kl_warmup_epochs": 2},
    "sigma learned, free bits": {**LEARNED, "free_bits": 0.1},
    "the series: bce, weight 15": {"reconstruction": "bce", "kl_weight": 15.0},
    "Keras' example: bce, weight 1": {"reconstruction": "bce", "kl_weight": 1.0},
}
PYTHAE = "pythae's VAE, its defaults"

COLUMNS = {
    "bits": ("bits per dimension", ".3f"),
    "psnr": ("PSNR, dB", ".2f"),
    "swd": ("SWD", ".0f"),
    "frechet": ("Frechet distance", ".2f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "sharpness": ("sharpness", ".2f"),
}


class Made(NamedTuple):
    """What a trained VAE makes of held-out images, and from its prior.

    Attributes:
        errors: (count,) squared errors of images decoded from a sampled z, summed.
        kl: (count,) nats.
        reconstructed: (count, size, size, 3), decoded from mu.
        samples: likewise, from the prior.
    """

    errors: np.ndarray
    kl: np.ndarray
    reconstructed: np.ndarray
    samples: np.ndarray


def write_parameters(loss: dict[str, Any], epochs: int, seed: int, file: Path) -> None:
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    content["loss"] = {
        "sigma": "learned", "kl_weight": 1.0, "free_bits": 0.0, "kl_warmup_epochs": 0, **loss
    }  # fmt: skip
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


def train(name: str, seed: int, epochs: int, folder: Path) -> Path:
    """The model of a candidate, trained if it is not there."""
    place = folder / f"{list(CANDIDATES).index(name)}-{seed}"
    place.mkdir(exist_ok=True)
    if not (place / "model.keras").exists():
        write_parameters(CANDIDATES[name], epochs, seed, place / "params.yaml")
        run(
            sys.executable, "stages/train.py", "--params", place / "params.yaml",
            "--shards", folder / "shards", "--inter-dense", UNITS,
            "--model", place / "model.keras", "--history", place / "history.csv",
        )  # fmt: skip
    return place / "model.keras"


def train_pythae(shards: Any, held_out: np.ndarray, seed: int, epochs: int, folder: Path) -> Made:
    """What the peer makes, as `Made`, trained if it is not there."""
    from facevae.datasets import images

    file = folder / f"pythae-{seed}.npz"
    if not file.exists():
        train = np.concatenate([batch.numpy() for batch in images(shards, "train", BATCH)])
        for split, pictures in (("train", train), (SPLIT, held_out)):
            np.save(folder / f"{split}.npy", np.round(pictures * 255).astype(np.uint8))
        run(
            PEERS, PROJECT / "benchmarks" / "pythae_peer.py", "--images", folder,
            "--epochs", epochs, "--batch-size", BATCH, "--seed", seed, "--made", file,
        )  # fmt: skip
    with np.load(file) as arrays:
        return Made(**arrays)


def made_by(model: Path, shards: Any, held_out: np.ndarray) -> dict[str, Made]:
    """What one of our models makes, by the prior of its samples."""
    import keras

    from facevae.datasets import images
    from facevae.generation import reconstructions, samples
    from facevae.latents import codes, sampled
    from facevae.losses import kl_per_unit, squared_error
    from facevae.model_files import load_model
    from facevae.priors import fit_prior, normal_prior

    vae = load_model(model)
    mu, log_var = codes(vae, [held_out])
    of_sampled = keras.ops.convert_to_numpy(vae.decoder(sampled(mu, log_var, 0), training=False))
    errors = keras.ops.convert_to_numpy(squared_error(held_out, of_sampled))
    kl = keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).sum(axis=1)
    reconstructed = reconstructions(vae, held_out)
    z = sampled(*codes(vae, images(shards, "train", BATCH)), 0)
    made = {}
    for name in PRIORS:
        prior = normal_prior(vae.latent_size) if name == "normal" else fit_prior(name, z)
        pictures = samples(vae, len(held_out), seed=0, prior=prior)
        made[name] = Made(errors, kl, reconstructed, pictures)
    return made


def figures(made: Made, held_out: np.ndarray, network: Any) -> dict[str, float]:
    """The columns of the table.

    The bits per dimension are those of a Gaussian Decoder with the sigma that is best for the very
    images, whatever the loss was, so that they compare.
    """
    from facevae.attributes import features
    from facevae.evaluation import psnr
    from facevae.likelihood import bits_per_dimension, log_density
    from facevae.quality import (
        frechet_distance,
        precision_and_recall,
        sharpness_ratio,
        sliced_wasserstein,
    )

    dimensions = held_out[0].size
    errors = made.errors.astype(np.float64)
    sigma = float(np.sqrt(errors.mean() / dimensions))
    density = log_density(errors, sigma=sigma, dimensions=dimensions)
    real, generated = features(network, held_out), features(network, made.samples)
    levels = sliced_wasserstein(held_out, made.samples).real_normalization
    precision, recall = precision_and_recall(real, generated)
    return {
        "bits": float(np.mean(bits_per_dimension(density - made.kl, dimensions))),
        "psnr": float(np.mean(psnr(held_out, made.reconstructed))),
        "swd": sum(levels.values()) / len(levels),
        "frechet": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
        "sharpness": sharpness_ratio(made.samples, held_out) or 0.0,
    }


def measure(folder: Path, epochs: int, seeds: list[int], names: list[str]) -> dict[str, Any]:
    """Figures of every row of the table, a list of one dict per seed."""
    load_tensorflow()
    from facevae.attributes import load_network
    from facevae.datasets import Shards, images
    from facevae.pictures import save_grid

    shards = Shards(prepared(folder))
    held_out = np.concatenate([batch.numpy() for batch in images(shards, SPLIT, BATCH)])
    network = load_network(folder / "attributes")
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for name in names:
            if name == PYTHAE:
                made = {"normal": train_pythae(shards, held_out, seed, epochs, folder)}
            else:
                made = made_by(train(name, seed, epochs, folder), shards, held_out)
            for prior, of_prior in made.items():
                row = f"{name} | {prior}"
                rows.setdefault(row, []).append(figures(of_prior, held_out, network))
                save_grid(of_prior.samples[:40], 10, folder / f"{row} {seed}.png")
                print(f"{row} {seed}", rows[row][-1], flush=True)
    return rows


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    titles = " | ".join(title for title, _ in COLUMNS.values())
    lines = [f"| loss | samples from | {titles} |", "| --- | --- |" + " ---: |" * len(COLUMNS)]
    for row, found in rows.items():
        cells = [
            ", ".join(f"{each[column]:{form}}" for each in found)
            for column, (_, form) in COLUMNS.items()
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--folder", type=Path, default=PROJECT / ".facevae" / "defaults")
    parser.add_argument("--only", nargs="+", default=[*CANDIDATES, PYTHAE], help="rows' losses")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = measure(options.folder.resolve(), options.epochs, options.seeds, options.only)
    print(table(rows))


if __name__ == "__main__":
    main()
