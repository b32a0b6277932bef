"""What a trained VAE shows: samples, reconstructions, interpolations, attributes."""

import keras
import numpy as np

from facevae.latent.priors import Prior
from facevae.model.vae import VAE


def prior_codes(count: int, latent_size: int, seed: int, prior: Prior | None = None) -> np.ndarray:
    """`count` z-points from a prior, (count, latent_size) float32.

    Args:
        seed: of the points of N(0, I), alike for all priors, and of the choice of components.
        prior: where those points are carried to; None: they stay.
    """
    points = np.random.default_rng(seed).standard_normal((count, latent_size), dtype=np.float32)
    return points if prior is None else prior.transform_standard_normal(points, seed)


def samples(vae: VAE, count: int, seed: int, prior: Prior | None = None) -> np.ndarray:
    """Images decoded from `prior_codes`, (count, size, size, 3) in [0, 1].

    Example:
        >>> vae = facevae.model.saving.load_model("models/inter_dense.keras")
        >>> prior = facevae.latent.priors.load_prior("models/inter_dense_prior.npz")
        >>> samples(vae, 16, seed=1, prior=prior).shape
        (16, 96, 96, 3)
    """
    return _decoded(vae, prior_codes(count, vae.latent_size, seed, prior))


def reconstructions(vae: VAE, originals: np.ndarray) -> np.ndarray:
    """Images (count, size, size, 3) through the mean of their codes and back."""
    return _decoded(vae, _codes(vae, originals))


def interpolations(vae: VAE, first: np.ndarray, last: np.ndarray, steps: int) -> np.ndarray:
    """Straight lines in z between the codes of two lists of images.

    Args:
        first, last: (rows, size, size, 3).
        steps: images per line, both ends included.

    Returns:
        (rows * steps, size, size, 3), line by line.
    """
    start, end = _codes(vae, first)[:, None], _codes(vae, last)[:, None]
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[None, :, None]
    points = start * (1.0 - share) + end * share
    return _decoded(vae, points.reshape(-1, vae.latent_size))


def with_directions(vae: VAE, originals: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Images decoded from their codes, each plus every one of some directions in z.

    Args:
        originals: (rows, size, size, 3).
        directions: (columns, latent).

    Returns:
        (rows, columns, size, size, 3).
    """
    points = _codes(vae, originals)[:, None] + directions
    decoded = _decoded(vae, points.reshape(-1, vae.latent_size))
    return decoded.reshape(*points.shape[:2], *originals.shape[1:])


def _codes(vae: VAE, images: np.ndarray) -> np.ndarray:
    mu, _ = vae.encode(images)
    return keras.ops.convert_to_numpy(mu)


def _decoded(vae: VAE, points: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(vae.decoder(points, training=False))
