"""A KL weight near zero beside the plain autoencoder and the default: their z-points, and samples.

What the series of posts announced. All are the variant with the extra Dense layer, trained for the
same number of steps (see `study.py`) and measured on the validation split.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "stages"))

from _stage import load_tensorflow
from facevae.files import written_whole
from study import BATCH, FOLDER, UNITS, Candidates, commands, prepared, train
from training import PROJECT

SPLIT = "validation"
SEED = 1
SHOWN = 6  # samples of each
EXTENT = 6.0  # of z in the picture, on both sides of 0

CANDIDATES: Candidates = {
    "default": {"loss.reconstruction": "gaussian", "loss.sigma": "learned"},
    "mse, weight 1": {"loss.reconstruction": "mse"},
    # The series' squared error with its fact of 0.02: see `facevae.losses`.
    "mse, weight 0.06": {"loss.reconstruction": "mse", "loss.kl_weight": 0.06},
    "mse, weight 0.001": {"loss.reconstruction": "mse", "loss.kl_weight": 0.001},
    "plain autoencoder": {"loss.reconstruction": "mse", "loss.kl_weight": 0.0},
}
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "#D55E00")


def measured(vae: Any, held_out: np.ndarray, train_images: Any, network: Any) -> dict[str, Any]:
    """Where a model's z-points lie, and what becomes of random ones."""
    import keras

    from facevae.attributes import features
    from facevae.evaluation import psnr
    from facevae.generation import reconstructions, samples
    from facevae.latents import codes, sampled
    from facevae.losses import kl_per_unit
    from facevae.priors import fit_prior
    from facevae.quality import frechet_distance, sliced_wasserstein

    mu, log_var = codes(vae, [held_out])
    z = sampled(mu, log_var, SEED)
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
    fitted = fit_prior("gaussian", sampled(*codes(vae, train_images), SEED))
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
    from facevae.densities import normal_density
    from facevae.pictures import save_grid
    from facevae.plots import REFERENCE, Curve, save_curves

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
    normal = Curve("N(0, 1)", fine, normal_density(fine), REFERENCE, dashed=True)
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
    from facevae.attributes import load_network
    from facevae.datasets import Shards, images, steps_per_epoch
    from facevae.model_files import load_model

    shards = Shards(prepared(folder))
    held_out = np.concatenate([batch.numpy() for batch in images(shards, SPLIT, BATCH)])
    network = load_network(folder / "attributes")
    found, latent = {}, 0
    for name, settings in CANDIDATES.items():
        vae = load_model(train(settings, SEED, options.epochs, folder))
        latent = vae.latent_size
        found[name] = measured(vae, held_out, images(shards, "train", BATCH), network)
    steps = options.epochs * steps_per_epoch(shards, BATCH)
    text = report(found, latent, steps, options.epochs)
    with written_whole(options.report / "kl_weights.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_pictures(found, options.report)
    print(text)


if __name__ == "__main__":
    main()
