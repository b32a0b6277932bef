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
from facevae.evaluation.inputs import ImageMean, Inputs, ReconstructedBatch, SplitMetrics
from facevae.model.vae import VAE

_BITS_OF_A_PIXEL = 8.0


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


def pixel_log_likelihood(vae: VAE, reconstruction, *, dimensions: int):
    """ln p(x|z), nats, from the reconstruction term of the loss; None if `decoder_sigma` is None.

    Args:
        reconstruction: of one image, or of each, or their mean.
        dimensions: pixel values of an image.
    """
    sigma = decoder_sigma(vae)
    if sigma is None:
        return None
    if vae.reconstruction == "mse":
        return log_density(reconstruction, sigma=sigma, dimensions=dimensions)
    return -reconstruction


def elbo_bits_per_dimension(vae: VAE, reconstruction, rate, *, dimensions: int):
    """The evidence lower bound in bits per dimension, from its two terms, or None.

    ELBO = ln p(x|z) - KL(q(z|x) || p(z)) with z drawn from q(z|x) (Kingma & Welling 2013,
    arXiv 1312.6114). In bits per dimension it is an upper bound, in expectation, of the
    likelihood's.

    Args:
        reconstruction: term of the loss of one image, or of each, or their mean.
        rate: the KL from the prior, nats, of the same images: with N(0, I), that of the loss.
        dimensions: pixel values of an image.

    Returns:
        Bits per dimension, of the shape of the terms; None if `decoder_sigma` is None.
    """
    density = pixel_log_likelihood(vae, reconstruction, dimensions=dimensions)
    return None if density is None else bits_per_dimension(density - rate, dimensions)


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


class RateAndDistortion(_OfLossTerms):
    """What an image costs under N(0, I), and under the prior that samples are drawn from.

    Means over the test split, with one z per image, drawn from q(z|x). Of N(0, I):

        codes_log_likelihood: ln N(z; 0, I), nats.
        elbo_bits_per_dimension: of ln p(x|z) - kl, `kl` being that of `LossTerms`.

    Of the prior p(z), here called "the prior", which the training has not seen:

        codes_log_likelihood_under_prior: ln p(z), nats. Held-out, as p is fitted to training codes.
        rate_under_prior: ln q(z|x) - ln p(z), nats. It is an upper bound of the information that
            codes hold about images, which it exceeds by KL(q(z) || p(z)) (Alemi et al. 2018,
            arXiv 1711.00464, section 2).
        elbo_bits_per_dimension_under_prior: of ln p(x|z) - rate_under_prior.

    distortion is -ln p(x|z), nats, the other term of both bounds.

    mismatch_to_normal: kl - rate_under_prior = ln p(z) - ln N(z; 0, I), nats: the part of kl that
    says nothing of an image, since codes as a whole, q(z), are not distributed as N(0, I). It is a
    lower bound of KL(q(z) || N(0, I)), and equal to it if p is q(z) (Hoffman & Johnson 2016, "ELBO
    surgery"). None if the prior is N(0, I): then it is not known.

    In all of these, ln q(z|x) and ln N(z; 0, I) are expectations over q(z|x) in closed form; ln
    p(x|z) and ln p(z) are of the one z. The bounds and the distortion are None if `decoder_sigma`
    is None.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._prior = inputs.fitted_prior
        self._normal, self._fitted = ImageMean(), ImageMean()

    def update(self, batch: ReconstructedBatch) -> None:
        super().update(batch)
        images = len(batch.images)
        squares = np.square(batch.mu.astype(np.float64)) + np.exp(batch.log_var, dtype=np.float64)
        normal = -0.5 * (squares + math.log(2.0 * math.pi)).sum(axis=1)
        self._normal.update(normal.mean(), images)
        if self._prior is not None:
            self._fitted.update(self._prior.log_density(batch.z).mean(), images)

    def result(self) -> dict[str, Any]:
        vae = self.inputs.vae
        dimensions = CHANNELS * self.inputs.shards.image_size**2
        reconstruction, kl = self._terms.result()
        normal = self._normal.result()
        fitted = normal if self._prior is None else self._fitted.result()
        rate = kl - (fitted - normal)
        density = pixel_log_likelihood(vae, reconstruction, dimensions=dimensions)
        bounds = [
            elbo_bits_per_dimension(vae, reconstruction, each, dimensions=dimensions)
            for each in (kl, rate)
        ]
        return {
            "distortion": None if density is None else -density,
            "rate_under_prior": rate,
            "mismatch_to_normal": None if self._prior is None else fitted - normal,
            "codes_log_likelihood": normal,
            "codes_log_likelihood_under_prior": fitted,
            "elbo_bits_per_dimension": bounds[0],
            "elbo_bits_per_dimension_under_prior": bounds[1],
        }
