"""Images that a trained VAE decodes: samples, reconstructions, interpolations, attributes."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from facevae.common.parameters import CHANNELS
from facevae.latent.codes import AT_ONCE, encode_dataset
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.shards.blocks import Images, blocks, images_at_once


class DecodedImages:
    """Images that are decoded from latent codes each time they are asked for.

    A set of them is `facevae.shards.blocks.Images`, and takes the memory of its codes.

    Args:
        decode: codes (count, latent) to images (count, size, size, 3) in [0, 1].
        codes: of all images, (images, latent) float32.
        size: side of the images, pixels.
        at_once: images that are decoded at a time.

    Attributes:
        shape: (images, size, size, 3).
    """

    def __init__(
        self, decode: Callable[[np.ndarray], Any], codes: np.ndarray, size: int, at_once: int
    ) -> None:
        self._decode, self._codes, self._at_once = decode, codes, at_once
        self.shape = (len(codes), size, size, CHANNELS)

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Images (count, size, size, 3) float32 in [0, 1]."""
        codes = self._codes[chosen]
        found = np.empty((len(codes), *self.shape[1:]), np.float32)
        for block in blocks(len(codes), self._at_once):
            found[block] = keras.ops.convert_to_numpy(self._decode(codes[block]))
        return found


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
    return decoded(vae, prior_codes(count, vae.latent_size, seed, prior))[:]


def mean_codes(vae: VAE, images: Images) -> np.ndarray:
    """The means of q(z|x) of images (count, size, size, 3): (count, latent) float32."""
    at_once = images_at_once(vae.image_size, AT_ONCE)
    mu, _ = encode_dataset(vae, (images[block] for block in blocks(len(images), at_once)))
    return mu


def decoded(vae: VAE, codes: np.ndarray) -> DecodedImages:
    """The images of latent codes (count, latent)."""
    at_once = images_at_once(vae.image_size, AT_ONCE)
    return DecodedImages(lambda z: vae.decoder(z, training=False), codes, vae.image_size, at_once)


def reconstructions(vae: VAE, originals: Images) -> np.ndarray:
    """Encode images (count, size, size, 3), and decode the means of q(z|x) to the same shape."""
    return decoded(vae, mean_codes(vae, originals))[:]


def interpolation_codes(first: np.ndarray, last: np.ndarray, steps: int) -> np.ndarray:
    """Latent codes along straight lines between pairs of codes.

    Args:
        first, last: the codes at both ends, (rows, latent).
        steps: codes per line, both ends included.

    Returns:
        (rows * steps, latent) float32, line by line.
    """
    share = np.linspace(0.0, 1.0, steps, dtype=np.float32)[None, :, None]
    codes = first[:, None] * (1.0 - share) + last[:, None] * share
    return codes.reshape(-1, codes.shape[-1])


def codes_with_directions(codes: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Each code plus each direction.

    Args:
        codes: (rows, latent).
        directions: (columns, latent).

    Returns:
        (rows * columns, latent), code by code.
    """
    return (codes[:, None] + directions).reshape(-1, codes.shape[-1])
