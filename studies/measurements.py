"""Metrics that studies measure themselves, on the validation split.

The evaluate stage measures on the test split, and only models of this project.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import PEERS, run
from facevae.common.errors import UserError
from studies.harness import Settings, Work

SPLIT = "validation"
SEED = 0  # of the noise and of the samples


class Made(NamedTuple):
    """What a trained VAE makes of held-out images, and from its prior.

    Attributes:
        errors: (count,) squared errors of images decoded from a sampled z, summed.
        kl: (count,) nats.
        reconstructed: (count, size, size, 3), decoded from mu.
        samples: (count, size, size, 3), decoded from z-points of the prior.
    """

    errors: np.ndarray
    kl: np.ndarray
    reconstructed: np.ndarray
    samples: np.ndarray


def check_peers(command: str) -> None:
    """Raise a UserError with the command that installs the peers if they are not there."""
    if not PEERS.exists():  # before hours are spent
        raise UserError(f"{PEERS}: is not there; install the peers first: {command}")


@cache
def reference(shards: Path, attributes: Path) -> tuple[np.ndarray, Any]:
    """The held-out images, and the attribute network whose features compare others with them."""
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.shards.batches import Shards, load_images

    return load_images(Shards(shards), SPLIT), load_classifier(attributes)


def made_by(model: Path, shards: Path, held_out: np.ndarray, prior: str) -> Made:
    """What one of this project's models makes, with samples from a kind of prior."""
    import keras

    from facevae.latent.codes import encode_dataset, sample_posterior
    from facevae.latent.generation import reconstructions, samples
    from facevae.latent.priors import prior_of_dataset
    from facevae.model.losses import kl_per_unit, squared_error
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    vae, as_array = load_model(model), keras.ops.convert_to_numpy
    mu, log_var = encode_dataset(vae, [held_out])
    decoded = vae.decoder(sample_posterior(mu, log_var, SEED), training=False)
    return Made(
        as_array(squared_error(held_out, as_array(decoded))),
        as_array(kl_per_unit(mu, log_var)).sum(axis=1),
        reconstructions(vae, held_out),
        samples(vae, len(held_out), SEED, prior_of_dataset(prior, vae, Shards(shards))),
    )


def made_by_pythae(
    work: Work,
    held_out: np.ndarray,
    settings: Settings,
    seed: int,
    *,
    learning_rate: float,
    resize_layers: int,
    prior: str,
) -> Made:
    """What pythae's VAE makes, trained on the images of a study.

    Args:
        settings: train.epochs and train.batch_size are read.
        learning_rate: constant.
        resize_layers, prior: as in params.yaml; the prior is "normal" or "gaussian".
    """
    from facevae.shards.batches import Shards, load_images

    folder, file = work.folder / "pythae", work.folder / "pythae" / "made.npz"
    folder.mkdir(exist_ok=True)
    train_images = load_images(Shards(work.shards), "train")
    for split, pictures in (("train", train_images), (SPLIT, held_out)):
        np.save(folder / f"{split}.npy", np.round(pictures * 255).astype(np.uint8))
    run(
        PEERS, "-m", "studies.peers.pythae", "--images", folder, "--seed", seed, "--made", file,
        "--epochs", settings["train.epochs"], "--batch-size", settings["train.batch_size"],
        "--learning-rate", learning_rate, "--resize-layers", resize_layers, "--prior", prior,
    )  # fmt: skip
    with np.load(file) as arrays:
        return Made(**arrays)


def sample_metrics(samples: np.ndarray, held_out: np.ndarray, network: Any) -> dict[str, float]:
    """Distances of samples to held-out images, their precision, recall and sharpness."""
    from facevae.evaluation.attribute_classifier import features
    from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
    from facevae.evaluation.image_metrics import sharpness_ratio
    from facevae.evaluation.sliced_wasserstein import sliced_wasserstein

    real, generated = features(network, held_out), features(network, samples)
    levels = sliced_wasserstein(held_out, samples).real_normalization
    precision, recall = precision_and_recall(real, generated)
    return {
        "swd": sum(levels.values()) / len(levels),
        "frechet_distance": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
        "sharpness": sharpness_ratio(samples, held_out) or 0.0,
    }


def reconstruction_metrics(made: Made, held_out: np.ndarray) -> dict[str, float]:
    """Bits per dimension, and PSNR in dB.

    The bits are those of a Gaussian Decoder with the sigma that is best for the images, whatever
    the loss was, so that they can be compared.
    """
    from facevae.evaluation.image_metrics import psnr
    from facevae.evaluation.likelihood import bits_per_dimension, log_density

    dimensions = held_out[0].size
    errors = made.errors.astype(np.float64)
    sigma = float(np.sqrt(errors.mean() / dimensions))
    density = log_density(errors, sigma=sigma, dimensions=dimensions)
    return {
        "bits_per_dimension": float(np.mean(bits_per_dimension(density - made.kl, dimensions))),
        "psnr": float(np.mean(psnr(held_out, made.reconstructed))),
    }


def face_metrics(made: Made, held_out: np.ndarray) -> dict[str, Any]:
    """What people see in a face, of at most 256 images drawn at random.

    See `facevae.evaluation.face_metrics`.

    Raises:
        UserError: the packages of the extra `faces` are not installed.
    """
    from facevae.evaluation.face_metrics import (
        MOST,
        describe,
        identity_metrics,
        pair_distances,
        set_metrics,
    )

    drawn = np.random.default_rng(SEED).permutation(len(held_out))[:MOST]
    originals, reconstructed, samples = (
        describe(images[drawn], MOST) for images in (held_out, made.reconstructed, made.samples)
    )
    return {
        "reconstructions": identity_metrics(pair_distances(originals, reconstructed)),
        "samples": set_metrics(originals, samples),
    }


def code_metrics(model: Path, held_out: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Where a model's z-points of held-out images lie, and those points, (count, latent)."""
    import keras

    from facevae.latent.codes import encode_dataset, sample_posterior
    from facevae.model.losses import kl_per_unit
    from facevae.model.saving import load_model

    mu, log_var = encode_dataset(load_model(model), [held_out])
    z = sample_posterior(mu, log_var, SEED)
    deviations = mu.std(axis=0)
    return {
        "mu_deviation.mean": float(deviations.mean()),
        "mu_deviation.largest": float(deviations.max()),
        "sigma": float(np.exp(0.5 * log_var).mean()),
        "radius": float(np.median(np.linalg.norm(z, axis=1))),
        "kl": float(keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).sum(axis=1).mean()),
    }, z


class ImageMetrics(NamedTuple):
    """Metrics of each image, all (images,).

    Attributes:
        bits: ELBO in bits per dimension, under the given prior.
        rate: ln q(z|x) - ln p(z), nats, under the given prior.
        psnr: of the image decoded from mu, dB.
    """

    bits: np.ndarray
    rate: np.ndarray
    psnr: np.ndarray


def image_metrics(vae: Any, prior: Any, images: np.ndarray) -> ImageMetrics:
    """What the evaluate stage measures of a split, image by image.

    Args:
        prior: of `facevae.latent.priors`.
        images: (images, size, size, 3) in [0, 1].

    Raises:
        ValueError: the loss of the VAE implies no Gaussian Decoder.
    """
    import keras

    from facevae.evaluation.image_metrics import psnr
    from facevae.evaluation.likelihood import bits_per_dimension, decoder_sigma, log_density
    from facevae.latent.codes import AT_ONCE, encode_dataset, sample_posterior
    from facevae.latent.generation import decoded, reconstructions
    from facevae.model.losses import squared_error

    sigma = decoder_sigma(vae)
    if sigma is None:
        raise ValueError("the loss of the VAE implies no Gaussian Decoder")
    as_array, dimensions = keras.ops.convert_to_numpy, images[0].size
    batches = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
    mu, log_var = encode_dataset(vae, batches)
    z = sample_posterior(mu, log_var, SEED)
    errors = as_array(squared_error(images, decoded(vae, z)[:])).astype(np.float64)
    density = log_density(errors, sigma=sigma, dimensions=dimensions)
    # ln q(z|x) as its expectation over q(z|x).
    log_q = -0.5 * (1.0 + np.log(2.0 * np.pi) + log_var.astype(np.float64)).sum(axis=1)
    rate = log_q - prior.log_density(z)
    return ImageMetrics(
        bits_per_dimension(density - rate, dimensions),
        rate,
        np.asarray(psnr(images, reconstructions(vae, images))),
    )
