"""What is the same on every run: sizes of a trained VAE, and the quality of what it makes.

A figure that is not defined, for the loss or for images so small, is None.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from facevae.common.parameters import CHANNELS
from facevae.evaluation.attribute_classifier import AttributeClassifier, features
from facevae.evaluation.feature_metrics import NEIGHBOURS, frechet_distance, precision_and_recall
from facevae.evaluation.image_metrics import (
    MS_SSIM_SIDE,
    SSIM_SIDE,
    diversity,
    ms_ssim,
    psnr,
    sharpness_ratio,
    ssim,
)
from facevae.evaluation.inception import inception_features, load_inception
from facevae.evaluation.likelihood import (
    bits_per_dimension,
    decoder_sigma,
    importance_weighted_bits_per_dimension,
    log_density,
)
from facevae.evaluation.sliced_wasserstein import WASSERSTEIN_SIDE, sliced_wasserstein
from facevae.latent.generation import prior_codes
from facevae.latent.priors import Prior
from facevae.model.losses import kl_per_unit
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, images, load_images, noise

# A latent unit is active if the variance of its mu over the data is above this
# (Burda et al. 2015, arXiv 1509.00519, section 4).
MIN_ACTIVE_VARIANCE = 0.01

# Images in a set of samples, at most. Three such sets are held, 226 MB each at 96 pixels; and the
# distances between them take a minute or two on two cores.
_SAMPLES = 2048

# The importance-weighted bound decodes each image as often as it has draws: seconds.
_WEIGHTED_IMAGES = 256
_WEIGHTED_DRAWS = 4

_SEED = 0  # of all that is drawn here


def active_units(mu: np.ndarray) -> int:
    """How many columns of mu (count, latent) vary by more than `MIN_ACTIVE_VARIANCE`."""
    return int(np.count_nonzero(mu.var(axis=0, dtype=np.float64) > MIN_ACTIVE_VARIANCE))


def _sizes(model: keras.Model) -> dict[str, int]:
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return {"params": model.count_params(), "trainable_params": trainable}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _distances(real: np.ndarray, others: np.ndarray, suffix: str = "") -> dict[str, Any]:
    """Both forms of the sliced Wasserstein distance: per side of a level, and their mean."""
    forms: dict[str, dict[int, float]] = {"swd": {}, "swd_real_normalization": {}}
    if real.shape[1] >= WASSERSTEIN_SIDE:
        found = sliced_wasserstein(real, others, seed=_SEED)
        forms = dict(zip(forms, found, strict=True))
    return {
        f"{name}{suffix}": {
            **{str(side): _rounded(distance) for side, distance in levels.items()},
            "mean": _rounded(sum(levels.values()) / len(levels)) if levels else None,
        }
        for name, levels in forms.items()
    }


def _diversity(pictures: np.ndarray) -> float | None:
    if pictures.shape[1] < MS_SSIM_SIDE or len(pictures) < 2:
        return None
    return _rounded(diversity(pictures, seed=_SEED))


def _on_attributes(
    network: AttributeClassifier | None, real: np.ndarray, others: dict[str, np.ndarray]
) -> dict[str, float | None]:
    """Frechet distance, precision and recall of sets of images, each with its suffix."""
    names = ("frechet_distance", "precision", "recall")
    if network is None or len(real) <= NEIGHBOURS:
        return {f"{name}{suffix}": None for suffix in others for name in names}
    reference, found = features(network, real), {}
    for suffix, pictures in others.items():
        described = features(network, pictures)
        values = (
            frechet_distance(reference, described),
            *precision_and_recall(reference, described),
        )
        for name, value in zip(names, values, strict=True):
            found[f"{name}{suffix}"] = _rounded(value)
    return found


def _on_inception(
    weights: Path | None, real: np.ndarray, others: dict[str, np.ndarray]
) -> dict[str, float | None]:
    """FID of sets of images, each with its suffix."""
    if weights is None or len(real) < 2:
        return {f"fid{suffix}": None for suffix in others}
    inception = load_inception(weights)
    reference = inception_features(inception, real)
    return {
        f"fid{suffix}": _rounded(
            frechet_distance(reference, inception_features(inception, pictures))
        )
        for suffix, pictures in others.items()
    }


def _of_samples(
    vae: VAE,
    shards: Shards,
    batch_size: int,
    attribute_classifier: AttributeClassifier | None,
    inception_weights: Path | None,
    prior: Prior | None,
) -> dict[str, Any]:
    count = min(shards.counts["test"], shards.counts["train"], _SAMPLES)
    real = load_images(shards, "test", count)
    fresh = load_images(shards, "train", count)
    points = prior_codes(count, vae.latent_size, _SEED, prior)
    decode = tf.function(
        lambda z: vae.decoder(z, training=False), reduce_retracing=True, autograph=False
    )
    starts = range(0, count, batch_size)
    made = np.concatenate([decode(points[start : start + batch_size]) for start in starts])
    others = {"": made, "_floor": fresh}
    return {
        "count": count,
        **_on_attributes(attribute_classifier, real, others),
        **_on_inception(inception_weights, real, others),
        **_distances(real, made),
        **_distances(real, fresh, "_floor"),
        "sharpness": _rounded(sharpness_ratio(made, real)),
        "sharpness_floor": _rounded(sharpness_ratio(fresh, real)),
        "diversity": _diversity(made),
        "diversity_of_real": _diversity(real),
    }


def evaluate(
    vae: VAE,
    shards: Shards,
    *,
    batch_size: int,
    prior: Prior | None = None,
    attribute_classifier: AttributeClassifier | None = None,
    inception_weights: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Sizes of both networks, the loss, its terms and quality on the test split, and samples.

    Args:
        prior: where samples are drawn from; None: N(0, I). The bits per dimension are those under
            N(0, I) all the same.
        attribute_classifier: of the module of that name, trained on the same data; None if the data
            has no labels.
        inception_weights: file of `facevae.evaluation.inception`; None if there is none.
        progress: called with (images done, images in all) after each batch.

    Returns:
        encoder: params, trainable_params, flattened (units that Flatten hands on)
        decoder: params, trainable_params
        test: images; reconstruction, kl and loss per image, with one z sampled for each from a
            fixed seed; sigma of the Decoder, None if its loss stands for no Gaussian; psnr (dB),
            ssim and ms_ssim of reconstructions from mu, mean over images; active_units;
            kl_per_unit: nats of the smallest, the median and the largest unit, each a mean over
            images; elbo_bits_per_dimension, of all images with that one z each; and
            importance_weighted_bits_per_dimension, of the first 256 images with 4 z each
        samples: count: images decoded from the prior, as many as there are test images, of the same
            number of which, and of train images, the rest is made (at most 2,048);
            frechet_distance, precision and recall, on the features of `attribute_classifier`, and
            fid, on those of Inception, against the test images, each None without it; swd and
            swd_real_normalization: per level and their mean, against the test images; sharpness,
            over theirs; diversity; and diversity_of_real, theirs, which is its floor. Each
            `_floor` is the same of train images in place of samples: what fresh real images get

    The metrics are defined in the modules beside this one. Precision on these features sees neither
    blur nor noise: such images move in between the faces, where the balls around those overlap, and
    it may even rise. Recall and the distances see both.

    Raises:
        UserError: `inception_weights` cannot be used.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def look(batch, position):
        epsilon = noise(0, position, (tf.shape(batch)[0], vae.latent_size))
        sampled = vae({"images": batch, "epsilon": epsilon}, training=False)
        terms = tf.stack(vae.loss_terms(batch, sampled))
        per_unit = tf.reduce_mean(kl_per_unit(sampled["mu"], sampled["log_var"]), axis=0)
        return terms, per_unit, sampled["mu"], vae.decoder(sampled["mu"], training=False)

    measures: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"psnr": psnr}
    if shards.image_size >= SSIM_SIDE:
        measures["ssim"] = ssim
    if shards.image_size >= MS_SSIM_SIDE:
        measures["ms_ssim"] = ms_ssim
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    totals, units, count, codes = np.zeros(2), np.zeros(vae.latent_size), 0, []
    for position, batch in enumerate(images(shards, "test", batch_size)):
        terms, per_unit, mu, reconstructed = look(batch, tf.constant(position, tf.int64))
        totals += terms.numpy().astype(np.float64) * len(batch)
        units += per_unit.numpy().astype(np.float64) * len(batch)
        codes.append(mu.numpy())
        for name, measure in measures.items():
            found[name].append(measure(batch.numpy(), reconstructed.numpy()))
        count += len(batch)
        progress(count, shards.counts["test"])
    reconstruction, kl = (totals / count).tolist()
    quality = {name: _rounded(np.mean(np.concatenate(values))) for name, values in found.items()}
    units /= count
    sigma = decoder_sigma(vae)
    elbo = weighted = None
    if sigma is not None:
        dimensions = CHANNELS * shards.image_size**2
        density = -reconstruction
        if vae.reconstruction == "mse":
            density = log_density(reconstruction, sigma=sigma, dimensions=dimensions)
        elbo = bits_per_dimension(density - kl, dimensions)
        few = load_images(shards, "test", _WEIGHTED_IMAGES)
        weighted = importance_weighted_bits_per_dimension(
            vae, few, sigma=sigma, samples=_WEIGHTED_DRAWS, seed=_SEED
        ).mean()
    flattened = vae.encoder.get_layer("flatten").output.shape[1]
    return {
        "encoder": {**_sizes(vae.encoder), "flattened": flattened},
        "decoder": _sizes(vae.decoder),
        "test": {
            "images": count,
            "loss": round(reconstruction + vae.kl_weight * kl, 6),
            "reconstruction": round(reconstruction, 6),
            "kl": round(kl, 6),
            "sigma": _rounded(sigma),
            "psnr": quality["psnr"],
            "ssim": quality.get("ssim"),
            "ms_ssim": quality.get("ms_ssim"),
            "active_units": active_units(np.concatenate(codes)),
            "kl_per_unit": {
                "smallest": _rounded(units.min()),
                "median": _rounded(np.median(units)),
                "largest": _rounded(units.max()),
            },
            "elbo_bits_per_dimension": _rounded(elbo),
            "importance_weighted_bits_per_dimension": _rounded(weighted),
        },
        "samples": _of_samples(
            vae, shards, batch_size, attribute_classifier, inception_weights, prior
        ),
    }
