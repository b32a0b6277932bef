"""Which loss, schedule and prior make the best plain VAE: at equal steps, measured.

Every candidate is the variant with the extra Dense layer, trained by the train stage for the same
number of steps on the images of CelebA's folder FACEVAE_CELEBA, or drawn faces; the last one is the
same networks in pythae, with its defaults. One piece of code measures them all, on the validation
split. What is trained stays in the folder, and is not trained again.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facevae.common.files import atomic_write
from facevae.common.parameters import load_parameters
from facevae.common.runtime import load_tensorflow
from study import BATCH, FOLDER, UNITS, Candidates, commands, prepared, run, train
from training import PEERS, PROJECT

PRIORS = ("normal", "gaussian", "mixture")
SPLIT = "validation"

LEARNED = {"loss.reconstruction": "gaussian", "loss.sigma": "learned"}
CANDIDATES: Candidates = {
    "mse, weight 1": {"loss.reconstruction": "mse"},
    "sigma 0.3": {"loss.reconstruction": "gaussian", "loss.sigma": 0.3},
    "sigma 0.1": {"loss.reconstruction": "gaussian", "loss.sigma": 0.1},
    "sigma learned": LEARNED,
    "sigma learned, KL warm-up": {**LEARNED, "loss.kl_warmup_epochs": 2},
    "sigma learned, free bits": {**LEARNED, "loss.free_bits": 0.1},
    "sigma learned, constant rate": {**LEARNED, "train.learning_rate_schedule": "constant"},
    "the series: bce, weight 15": {"loss.reconstruction": "bce", "loss.kl_weight": 15.0},
    "Keras' example: bce, weight 1": {"loss.reconstruction": "bce", "loss.kl_weight": 1.0},
}
PYTHAE = "pythae's VAE, its defaults"
FLOOR = "fresh real images"

DEFAULT = "sigma learned"
PUBLISHED = (
    "the series: bce, weight 15",
    "Keras' example: bce, weight 1",
    PYTHAE,
)  # as published they draw from N(0, I)
RIVALS = (DEFAULT, *PUBLISHED)  # trained with every seed


class Column(NamedTuple):
    key: str
    title: str
    form: str
    best: Callable[[Iterable[float]], float]
    headline: bool = False


COLUMNS = (
    Column("bits", "bits per dimension", ".3f", min, headline=True),
    Column("psnr", "PSNR, dB", ".2f", max, headline=True),
    Column("swd", "SWD", ".0f", min, headline=True),
    Column("frechet", "Frechet distance", ".2f", min, headline=True),
    Column("precision", "precision", ".2f", max),
    Column("recall", "recall", ".2f", max),
    Column("sharpness", "sharpness", ".3f", max),
)
# By loss and prior, the columns' figures of every seed.
Rows = dict[tuple[str, str], list[dict[str, float]]]


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


def train_pythae(shards: Any, held_out: np.ndarray, seed: int, epochs: int, folder: Path) -> Made:
    """What the peer makes, as `Made`, trained if it is not there."""
    from facevae.shards.batches import images

    file = folder / f"pythae-seed-{seed}-epochs-{epochs}.npz"
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

    from facevae.latent.codes import encode_dataset, sample_posterior
    from facevae.latent.generation import reconstructions, samples
    from facevae.latent.priors import fit_prior, normal_prior
    from facevae.model.losses import kl_per_unit, squared_error
    from facevae.model.saving import load_model
    from facevae.shards.batches import images

    vae = load_model(model)
    mu, log_var = encode_dataset(vae, [held_out])
    of_sampled = keras.ops.convert_to_numpy(
        vae.decoder(sample_posterior(mu, log_var, 0), training=False)
    )
    errors = keras.ops.convert_to_numpy(squared_error(held_out, of_sampled))
    kl = keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).sum(axis=1)
    reconstructed = reconstructions(vae, held_out)
    z = sample_posterior(*encode_dataset(vae, images(shards, "train", BATCH)), 0)
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
    from facevae.evaluation.attribute_classifier import features
    from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
    from facevae.evaluation.image_metrics import psnr, sharpness_ratio
    from facevae.evaluation.likelihood import bits_per_dimension, log_density
    from facevae.evaluation.sliced_wasserstein import sliced_wasserstein

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


def measure(folder: Path, epochs: int, seeds: list[int]) -> Rows:
    """Figures of every row of the table, of every seed; and a picture of samples each."""
    load_tensorflow()
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.plotting.grids import save_grid
    from facevae.shards.batches import Shards, images

    shards = Shards(prepared(folder))
    held_out = np.concatenate([batch.numpy() for batch in images(shards, SPLIT, BATCH)])
    network = load_classifier(folder / "attributes")
    rows: Rows = {}
    for name in (*CANDIDATES, PYTHAE):
        for seed in seeds if name in RIVALS else seeds[:1]:
            if name == PYTHAE:
                made = {"normal": train_pythae(shards, held_out, seed, epochs, folder)}
            else:
                made = made_by(train(CANDIDATES[name], seed, epochs, folder), shards, held_out)
            for prior, of_prior in made.items():
                found = figures(of_prior, held_out, network)
                rows.setdefault((name, prior), []).append(found)
                save_grid(of_prior.samples[:40], 10, folder / f"{name}, {prior}, {seed}.png")
                print(name, prior, seed, found, flush=True)
    fresh = np.concatenate([batch.numpy() for batch in images(shards, "train", BATCH)])
    fresh = fresh[: len(held_out)]
    same = np.zeros(len(held_out))  # for the figures of reconstructions, which are left out below
    floor = figures(Made(same + 1, same, fresh, fresh), held_out, network)
    rows[FLOOR, "the train split"] = [
        {column: floor[column] for column in ("swd", "frechet", "precision", "recall", "sharpness")}
    ]
    return rows


def _means(rows: Rows) -> dict[tuple[str, str], dict[str, float]]:
    return {
        row: {key: statistics.mean(each[key] for each in found) for key in found[0]}
        for row, found in rows.items()
    }


def in_words(means: dict[tuple[str, str], dict[str, float]], prior: str) -> list[str]:
    """The default beside what is published, in each headline figure."""
    lines = []
    for name in PUBLISHED:
        gaps = []
        ahead = 0
        for column in COLUMNS:
            if column.headline:
                ours, theirs = (
                    means[row][column.key] for row in ((DEFAULT, prior), (name, "normal"))
                )
                ahead += column.best((ours, theirs)) == ours
                gaps.append(f"{column.title} {ours:{column.form}} to {theirs:{column.form}}")
        lines.append(f"- Ahead of {name} in {ahead} of {len(gaps)}: {', '.join(gaps)}.")
    return lines


def report(rows: Rows, prior: str, steps: int, seeds: list[int], epochs: int) -> str:
    """Markdown."""
    means = _means(rows)
    over = f"One training each, of seed {seeds[0]}."
    if len(seeds) > 1:
        of = ", ".join(map(str, seeds))
        over = f"They and `{DEFAULT}` are means over the seeds {of}, the others of {seeds[0]}."
    titles = " | ".join(column.title for column in COLUMNS)
    table = [f"| loss | samples from | {titles} |", "| --- | --- |" + " ---: |" * len(COLUMNS)]
    for (name, source), mean in means.items():
        cells = []
        for column in COLUMNS:
            ours = [each[column.key] for row, each in means.items() if row[0] != FLOOR]
            if column.key not in mean:
                cells.append("")
            elif mean[column.key] == column.best(ours):
                cells.append(f"**{mean[column.key]:{column.form}}**")
            else:
                cells.append(f"{mean[column.key]:{column.form}}")
        mark = "**" if (name, source) == (DEFAULT, prior) else ""
        named = f"{mark}{name}{mark} | {mark}{source}{mark}"
        table.append(f"| {named} | {' | '.join(cells)} |")
    return "\n".join(
        [
            "# Which loss, and which prior?",
            "",
            f"The variant with {UNITS} units in the extra Dense layer, trained with each loss for "
            f"the same {steps:,} steps of batch {BATCH}, and measured on the validation split. All "
            "else is as in params.yaml. The last three losses are what others publish: the "
            "weighting of the series of posts (its `fact` 5), that of Keras' example, and the same "
            "networks in pythae with all of that library's defaults, its constant learning rate "
            f"among them. {over} The row of the default is bold, and so is the best of each "
            "column.",
            "",
            *table,
            "",
            "Bits per dimension are those of a Gaussian Decoder with the sigma that is best for "
            "each row, so that they compare; SWD is in the real images' normalisation.",
            "",
            "In plain words:",
            "",
            *in_words(means, prior),
            "",
            "```console",
            *commands(CANDIDATES, epochs),
            "```",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument(
        "--report", type=Path, default=PROJECT / "reports" / "studies" / "defaults.md"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = measure(options.folder.resolve(), options.epochs, options.seeds)
    from facevae.shards.batches import Shards, steps_per_epoch

    steps = options.epochs * steps_per_epoch(Shards(options.folder / "shards"), BATCH)
    prior = load_parameters(PROJECT / "params.yaml").generate.prior
    text = report(rows, prior, steps, options.seeds, options.epochs)
    with atomic_write(options.report) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
