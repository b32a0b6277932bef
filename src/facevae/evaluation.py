"""What is the same on every run: sizes of a trained VAE, and its quality on held-out images."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from facevae.datasets import Shards, images, noise
from facevae.networks import VAE

# A latent unit is active if the variance of its mu over the data is above this
# (Burda et al. 2015, arXiv 1509.00519, section 4).
ACTIVE_VARIANCE = 0.01


def psnr(originals: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB, for pixel values in [0, 1].

    PSNR = -10 log10(MSE), the MSE over height, width and channels.

    Args:
        originals, reconstructed: (count, height, width, channels).

    Returns:
        (count,) float64.
    """
    difference = reconstructed.astype(np.float64) - originals
    return -10.0 * np.log10(np.mean(np.square(difference), axis=(1, 2, 3)))


def active_units(mu: np.ndarray) -> int:
    """How many columns of mu (count, latent) vary by more than `ACTIVE_VARIANCE` over the data."""
    return int(np.count_nonzero(mu.var(axis=0, dtype=np.float64) > ACTIVE_VARIANCE))


def _sizes(model: keras.Model) -> dict[str, int]:
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    return {"params": model.count_params(), "trainable_params": trainable}


def evaluate(
    vae: VAE,
    shards: Shards,
    *,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Sizes of both networks, and the loss, its terms and quality on the test split.

    Args:
        progress: called with (images done, images in all) after each batch.

    Returns:
        encoder: params, trainable_params, flattened (units that Flatten hands on)
        decoder: params, trainable_params
        test: images; reconstruction, kl and loss per image, with one z sampled for each from a
            fixed seed; psnr of reconstructions from mu, dB, mean over images; active_units
    """

    @tf.function(reduce_retracing=True)
    def look(batch, position):
        epsilon = noise(0, position, (tf.shape(batch)[0], vae.latent_size))
        sampled = vae({"images": batch, "epsilon": epsilon}, training=False)
        terms = tf.stack(vae.loss_terms(batch, sampled))
        return terms, sampled["mu"], vae.decoder(sampled["mu"], training=False)

    totals, count, codes, ratios = np.zeros(2), 0, [], []
    for position, batch in enumerate(images(shards, "test", batch_size)):
        terms, mu, reconstructed = look(batch, tf.constant(position, tf.int64))
        totals += terms.numpy().astype(np.float64) * len(batch)
        codes.append(mu.numpy())
        ratios.append(psnr(batch.numpy(), reconstructed.numpy()))
        count += len(batch)
        progress(count, shards.counts["test"])
    reconstruction, kl = (totals / count).tolist()
    flattened = vae.encoder.get_layer("flatten").output.shape[1]
    return {
        "encoder": {**_sizes(vae.encoder), "flattened": flattened},
        "decoder": _sizes(vae.decoder),
        "test": {
            "images": count,
            "loss": round(reconstruction + vae.kl_weight * kl, 6),
            "reconstruction": round(reconstruction, 6),
            "kl": round(kl, 6),
            "psnr": round(float(np.mean(np.concatenate(ratios))), 6),
            "active_units": active_units(np.concatenate(codes)),
        },
    }
