"""Images that a trained VAE decodes: samples, reconstructions, interpolations, attributes."""

import keras
import numpy as np

from facevae.latent.priors import Prior
from facevae.model.vae import VAE


def prior_codes(count: int, latent_size: int, seed: int, prior: Prior | None = None) -> np.ndarray:
    """Draw latent codes from a prior.

    Args:
        seed: of the draws from N(0, I), which are the same for all priors, and of the choice of
            mixture components.
        prior: transforms the draws; None: N(0, I).

    Returns:
        (count, latent_size) float32.
    """
    codes = np.random.default_rng(seed).standard_normal((count, latent_size), dtype=np.float32)
    return codes if prior is None else prior.transform_standard_normal(codes, seed)


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
    """Encode images (count, size, size, 3), and decode the means of q(z|x) to the same shape."""
    return _decoded(vae, _codes(vae, originals))


def interpolations(vae: VAE, first: np.ndarray, last: np.ndarray, steps: int) -> np.ndarray:
    """Images decoded along straight lines in latent space, between the codes of pairs of images.

    Args:
        first, last: the images at both ends, (rows, size, size, 3) in [0, 1].
        steps: images per line, both ends included.

    Returns:
        (rows * steps, size, size, 3), line by line.
    """
    start, end = _codes(vae, first)[:, None], _codes(vae, last)[:, None]
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[None, :, None]
    codes = start * (1.0 - share) + end * share
    return _decoded(vae, codes.reshape(-1, vae.latent_size))


def with_directions(vae: VAE, originals: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Images decoded from the code of each image plus each direction.

    Args:
        originals: (rows, size, size, 3) in [0, 1].
        directions: in latent space, (columns, latent).

    Returns:
        (rows, columns, size, size, 3) in [0, 1].
    """
    codes = _codes(vae, originals)[:, None] + directions
    decoded = _decoded(vae, codes.reshape(-1, vae.latent_size))
    return decoded.reshape(*codes.shape[:2], *originals.shape[1:])


def _codes(vae: VAE, images: np.ndarray) -> np.ndarray:
    mu, _ = vae.encode(images)
    return keras.ops.convert_to_numpy(mu)


def _decoded(vae: VAE, codes: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(vae.decoder(codes, training=False))
