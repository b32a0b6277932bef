"""The loss on the test split, and bounds of a VAE's likelihood, in bits per dimension.

A likelihood needs a Decoder that is a density of real-valued pixels. Here this is a Gaussian around
the Decoder's output x', with one standard deviation sigma for all D = height * width * channels
pixel values in [0, 1]:

    ln p(x|z) = -sum over D of (x - x')^2 / (2 sigma^2) - D/2 ln(2 pi sigma^2)    nats

Binary cross-entropy on real-valued pixels is not the logarithm of a density, so that the bounds are
not defined for it.

Bits per dimension are -ln p(x) / (D ln 2) + 8, as the literature reports them; the 8 is for pixels
of 256 levels scaled to [0, 1]. Smaller is better. They are those of a density, not of the
probabilities of the levels, and may be negative.
"""

import math
from typing import Any

import keras
import numpy as np

from facevae.common.parameters import CHANNELS
from facevae.evaluation.image_metrics import image_blocks
from facevae.evaluation.inputs import (
    SEED,
    ImageMean,
    Inputs,
    ReconstructedBatch,
    SplitMetrics,
)
from facevae.model.losses import sample_latent, squared_error
from facevae.model.vae import VAE
from facevae.shards.batches import StoredImages
from facevae.shards.blocks import Images

_BITS_OF_A_PIXEL = 8.0

# The importance-weighted bound decodes each image once per draw. These take seconds.
_WEIGHTED_IMAGES = 256
_WEIGHTED_DRAWS = 4


def decoder_sigma(vae: VAE) -> float | None:
    """Standard deviation of the Gaussian Decoder that a loss implies; see `model.losses`.

    With "gaussian" it is the loss' own sigma, whatever the KL weight. With "mse", sigma^2 =
    kl_weight / 2. None if the loss implies no Gaussian Decoder: with "bce", and with "mse" and a KL
    weight of 0, the loss of a plain autoencoder.
    """
    if vae.reconstruction == "gaussian":
        return math.exp(float(keras.ops.convert_to_numpy(vae.log_sigma)))
    if vae.reconstruction != "mse" or vae.kl_weight == 0.0:
        return None
    return math.sqrt(vae.kl_weight / 2.0)


def log_density(error, *, sigma: float, dimensions: int):
    """ln p(x|z) of a Gaussian Decoder, nats, from the sum of the squared errors of an image."""
    variance = sigma**2
    return -error / (2.0 * variance) - dimensions / 2.0 * math.log(2.0 * math.pi * variance)


def bits_per_dimension(log_likelihood, dimensions: int):
    """Convert the log density, nats, of an image with pixels in [0, 1]; see the module."""
    return -log_likelihood / (dimensions * math.log(2.0)) + _BITS_OF_A_PIXEL


def elbo_bits_per_dimension(vae: VAE, reconstruction, kl, *, dimensions: int):
    """The evidence lower bound in bits per dimension, from the two terms of the loss, or None.

    ELBO = ln p(x|z) - KL(q(z|x) || N(0, I)) with z drawn from q(z|x) (Kingma & Welling 2013,
    arXiv 1312.6114). In bits per dimension it is an upper bound, in expectation, of the
    likelihood's.

    Args:
        reconstruction, kl: terms of the loss of one image, or of each, or their means.
        dimensions: pixel values of an image.

    Returns:
        Bits per dimension, of the shape of the terms; None if `decoder_sigma` is None.
    """
    sigma = decoder_sigma(vae)
    if sigma is None:
        return None
    density = -reconstruction
    if vae.reconstruction == "mse":
        density = log_density(reconstruction, sigma=sigma, dimensions=dimensions)
    return bits_per_dimension(density - kl, dimensions)


def importance_weighted_bits_per_dimension(
    vae: VAE, images: Images, *, sigma: float, samples: int, seed: int = 0
) -> np.ndarray:
    """The importance-weighted bound of each image, bits per dimension: tighter than the ELBO.

    ln (1/K sum over K of p(x, z) / q(z|x)) with K draws of z from q(z|x). In expectation it rises
    with K, towards ln p(x) (Burda et al. 2015, arXiv 1509.00519, equation 8). Each image is decoded
    K times.

    Args:
        images: (count, size, size, 3) in [0, 1].
        sigma: standard deviation of the Gaussian Decoder, in units of the pixel values.
        samples: K.
        seed: of z.

    Returns:
        (count,) float64.
    """
    random = np.random.default_rng(seed)
    dimensions, bounds = math.prod(images.shape[1:]), []
    for part in image_blocks(images):
        block = images[part]
        mu, log_var = vae.encode(block)
        spread = keras.ops.convert_to_numpy(log_var).astype(np.float64)
        weights = []
        for _ in range(samples):
            epsilon = random.standard_normal(mu.shape, dtype=np.float32)
            z = sample_latent(mu, log_var, epsilon)
            decoded = vae.decoder(z, training=False)
            error = keras.ops.convert_to_numpy(squared_error(block, decoded)).astype(np.float64)
            # ln p(z) - ln q(z|x); their constants cancel.
            squares = np.square(keras.ops.convert_to_numpy(z).astype(np.float64))
            ratio = 0.5 * (np.square(epsilon.astype(np.float64)) + spread - squares).sum(axis=1)
            weights.append(log_density(error, sigma=sigma, dimensions=dimensions) + ratio)
        bounds.append(np.logaddexp.reduce(weights, axis=0) - math.log(samples))
    return bits_per_dimension(np.concatenate(bounds), dimensions)


class _OfLossTerms(SplitMetrics):
    """A family that needs the means of the two terms of the loss."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._terms = ImageMean()

    def update(self, batch: ReconstructedBatch) -> None:
        self._terms.update(batch.loss_terms, len(batch.images))


class LossTerms(_OfLossTerms):
    """images, loss, reconstruction, kl and sigma.

    images is their number. reconstruction, kl and loss = reconstruction + kl_weight * kl are means
    over images, as `facevae.model.losses` defines them. sigma is `decoder_sigma`.
    """

    def result(self) -> dict[str, Any]:
        reconstruction, kl = self._terms.result()
        return {
            "images": self._terms.images,
            "loss": reconstruction + self.inputs.vae.kl_weight * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "sigma": decoder_sigma(self.inputs.vae),
        }


class LikelihoodBounds(_OfLossTerms):
    """elbo_bits_per_dimension and importance_weighted_bits_per_dimension, both under N(0, I).

    The first is the mean over all images, with one z each; the second is the mean over the first
    256 images, with 4 z each. Both are None if `decoder_sigma` is None.
    """

    def result(self) -> dict[str, Any]:
        vae, shards = self.inputs.vae, self.inputs.shards
        dimensions = CHANNELS * shards.image_size**2
        elbo = elbo_bits_per_dimension(vae, *self._terms.result(), dimensions=dimensions)
        sigma, weighted = decoder_sigma(vae), None
        if sigma is not None:
            count = min(shards.counts["test"], _WEIGHTED_IMAGES)
            images = StoredImages(shards, "test", range(count))
            weighted = importance_weighted_bits_per_dimension(
                vae, images, sigma=sigma, samples=_WEIGHTED_DRAWS, seed=SEED
            ).mean()
        return {
            "elbo_bits_per_dimension": elbo,
            "importance_weighted_bits_per_dimension": weighted,
        }
