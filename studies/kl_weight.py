"""A KL weight near zero beside the plain autoencoder and the default: their z-points, and samples.

What the series of posts announced. All are the variant with the extra Dense layer, trained for the
same number of steps (see `study.py`) and measured on the validation split.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from facevae.common.files import atomic_write
from facevae.common.runtime import load_tensorflow
from study import BATCH, FOLDER, UNITS, Candidates, commands, prepared, train
from training import PROJECT

SPLIT = "validation"
SEED = 1
SHOWN = 6  # samples of each
EXTENT = 6.0  # of z in the picture, on both sides of 0

CANDIDATES: Candidates = {
    "default": {"loss.reconstruction": "gaussian", "loss.sigma": "learned"},
    "mse, weight 1": {"loss.reconstruction": "mse"},
    # The series' squared error with its fact of 0.02: see `facevae.model.losses`.
    "mse, weight 0.06": {"loss.reconstruction": "mse", "loss.kl_weight": 0.06},
    "mse, weight 0.001": {"loss.reconstruction": "mse", "loss.kl_weight": 0.001},
    "plain autoencoder": {"loss.reconstruction": "mse", "loss.kl_weight": 0.0},
}
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00")


def measured(vae: Any, held_out: np.ndarray, train_images: Any, network: Any) -> dict[str, Any]:
    """Where a model's z-points lie, and what becomes of random ones."""
    import keras

    from facevae.evaluation.attribute_classifier import features
    from facevae.evaluation.feature_metrics import frechet_distance
    from facevae.evaluation.image_metrics import psnr
    from facevae.evaluation.sliced_wasserstein import sliced_wasserstein
    from facevae.latent.codes import encode_dataset, sample_posterior
    from facevae.latent.generation import reconstructions, samples
    from facevae.latent.priors import fit_prior
    from facevae.model.losses import kl_per_unit

    mu, log_var = encode_dataset(vae, [held_out])
    z = sample_posterior(mu, log_var, SEED)
    deviations = mu.std(axis=0)
    found: dict[str, Any] = {
        "z": z,
        "mu_mean": float(deviations.mean()),
        "mu_largest": float(deviations.max()),
        "sigma": float(np.exp(0.5 * log_var).mean()),
        "radius": float(np.median(np.linalg.norm(z, axis=1))),
        "kl": float(keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).sum(axis=1).mean()),
        "psnr": float(np.mean(psnr(held_out, reconstructions(vae, held_out)))),
    }
    fitted = fit_prior("gaussian", sample_posterior(*encode_dataset(vae, train_images), SEED))
    real = features(network, held_out)
    for name, prior in (("normal", None), ("gaussian", fitted)):
        pictures = samples(vae, len(held_out), seed=SEED, prior=prior)
        levels = sliced_wasserstein(held_out, pictures).real_normalization
        found[name] = {
            "samples": pictures[:SHOWN],
            "swd": sum(levels.values()) / len(levels),
            "frechet": frechet_distance(real, features(network, pictures)),
        }
    return found


def report(found: dict[str, dict[str, Any]], latent: int, steps: int, epochs: int) -> str:
    """Markdown."""
    table = [
        "| | deviation of mu: mean, largest unit | mean sigma | median length of z | KL, nats "
        "| PSNR, dB | Frechet distance of samples: N(0, I), fitted | SWD: N(0, I), fitted |",
        "| --- |" + " ---: |" * 7,
    ]
    for name, of in found.items():
        normal, fitted = of["normal"], of["gaussian"]
        table.append(
            f"| {name} | {of['mu_mean']:.2f}, {of['mu_largest']:.2f} | {of['sigma']:.3f} "
            f"| {of['radius']:.1f} | {of['kl']:,.0f} | {of['psnr']:.2f} "
            f"| {normal['frechet']:.1f}, {fitted['frechet']:.1f} "
            f"| {normal['swd']:.0f}, {fitted['swd']:.0f} |"
        )
    return "\n".join(
        [
            "# A KL weight near zero, and none",
            "",
            f"The variant with {UNITS} units in the extra Dense layer, {steps:,} steps of batch "
            f"{BATCH}, seed {SEED}, with less and less weight on the KL term; measured on the "
            "validation split. Points of N(0, I) have a deviation of 1 in "
            f"each unit, and a length of {np.sqrt(latent):.1f} in {latent} dimensions. `fitted` "
            "samples are drawn from a Gaussian fitted to the training codes, SWD is in the real "
            "images' normalisation.",
            "",
            *table,
            "",
            "```console",
            *commands(CANDIDATES, epochs),
            "```",
            "",
        ]
    )


def save_pictures(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Samples, a column for each candidate and prior; and histograms of z."""
    from scipy import stats

    from facevae.plotting.charts import REFERENCE, Curve, save_curves
    from facevae.plotting.grids import save_grid

    columns = {
        "\n".join([*name.split(", "), source]): of[prior]["samples"]
        for prior, source in (("normal", "N(0, I)"), ("gaussian", "fitted"))
        for name, of in found.items()
    }
    pictures = np.stack(list(columns.values()), axis=1)
    pictures = pictures.reshape(-1, *pictures.shape[2:])
    save_grid(pictures, len(columns), folder / "kl_weights_samples.png", list(columns))
    edges = np.linspace(-EXTENT, EXTENT, 97)
    middles = 0.5 * (edges[:-1] + edges[1:])
    curves = [
        Curve(name, middles, np.histogram(of["z"], edges)[0] / of["z"].size / (edges[1] - edges[0]),
              colour)
        for (name, of), colour in zip(found.items(), _COLOURS, strict=True)
    ]  # fmt: skip
    fine = np.linspace(-EXTENT, EXTENT, 400)
    normal = Curve("N(0, 1)", fine, stats.norm.pdf(fine), REFERENCE, dashed=True)
    save_curves(
        {"density": [*curves, normal]},
        folder / "kl_weights_z.png",
        title="z of held-out faces, all units together, by the KL weight",
        x_label="z",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what is trained is kept here")
    parser.add_argument("--report", type=Path, default=PROJECT / "reports" / "studies")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    load_tensorflow()
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards, images, steps_per_epoch

    shards = Shards(prepared(folder))
    held_out = np.concatenate([batch.numpy() for batch in images(shards, SPLIT, BATCH)])
    network = load_classifier(folder / "attributes")
    found, latent = {}, 0
    for name, settings in CANDIDATES.items():
        vae = load_model(train(settings, SEED, options.epochs, folder))
        latent = vae.latent_size
        found[name] = measured(vae, held_out, images(shards, "train", BATCH), network)
    steps = options.epochs * steps_per_epoch(shards, BATCH)
    text = report(found, latent, steps, options.epochs)
    with atomic_write(options.report / "kl_weights.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_pictures(found, options.report)
    print(text)


if __name__ == "__main__":
    main()
