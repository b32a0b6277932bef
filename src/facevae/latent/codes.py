"""Latent codes of images: means and samples of q(z|x), and their statistics beside N(0, I)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from facevae.model.losses import kl_per_unit
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, StoredImages
from facevae.shards.blocks import blocks, images_at_once

AT_ONCE = 64  # images of up to 96 pixels that go through the VAE at a time; more are hardly faster

_BINS_PER_UNIT = 4
_MAX_BINS = 200  # reached without a KL term, when codes may be far from 0
_MIN_EXTENT = 5  # histograms of z span at least -5 to 5: all but one in two million of N(0, 1)


def encode_dataset(vae: VAE, batches: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Encode batches of images.

    Args:
        batches: each (batch, size, size, 3) in [0, 1].

    Returns:
        mu and log_var of q(z|x), each (images, latent) float32.
    """
    encoded = [vae.encode(batch) for batch in batches]
    mu, log_var = (
        np.concatenate([keras.ops.convert_to_numpy(each) for each in part]).astype(np.float32)
        for part in zip(*encoded, strict=True)
    )
    return mu, log_var


def encode_split(
    vae: VAE, shards: Shards, split: str, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`encode_dataset` of the images of a split with these numbers, which ascend."""
    stored = StoredImages(shards, split, numbers)
    at_once = images_at_once(shards.image_size, AT_ONCE)
    return encode_dataset(vae, (stored[block] for block in blocks(len(stored), at_once)))


def attribute_directions(mu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each attribute: the mean mu of images with it, minus the mean mu of images without it.

    An image whose label is unknown is in neither mean.

    Larsen et al. 2016, arXiv 1512.09300. White 2016, arXiv 1609.04468, also balances the images for
    correlated attributes. This function does not: whatever is correlated with smiling in the data
    is part of the direction of smiling.

    Args:
        mu: (images, latent).
        labels: (images, attributes), 1, -1 or 0 (unknown); every column holds 1 and -1.

    Returns:
        (attributes, latent) float32.
    """
    with_it, without = (each.astype(np.float64) for each in (labels.T == 1, labels.T == -1))
    means = [(chosen @ mu) / chosen.sum(axis=1, keepdims=True) for chosen in (with_it, without)]
    return (means[0] - means[1]).astype(np.float32)


def sample_posterior(mu: np.ndarray, log_var: np.ndarray, seed: int) -> np.ndarray:
    """Draw one z per image from q(z|x): mu + sigma * epsilon.

    Args:
        mu, log_var: (images, latent).
        seed: of epsilon.

    Returns:
        (images, latent) float32.
    """
    noise = np.random.default_rng(seed).standard_normal(mu.shape, dtype=np.float32)
    return mu + np.exp(0.5 * log_var) * noise


def unit_rows(mu: np.ndarray, log_var: np.ndarray) -> list[dict[str, Any]]:
    """Statistics of every latent unit over the images.

    Args:
        mu, log_var: (images, latent).

    Returns:
        One row per unit: `unit`, its number from 0; `mu_mean` and `mu_std`, mean and standard
        deviation of mu; `sigma_mean`, mean of sigma; `kl`, mean of KL(q(z|x) || N(0, 1)), nats; and
        `kl_rank`, its rank by that KL, 1 for the largest.
    """
    from scipy import stats

    kl = keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).mean(axis=0, dtype=np.float64)
    rank = stats.rankdata(-kl, method="ordinal")
    columns = {
        "mu_mean": mu.mean(axis=0, dtype=np.float64),
        "mu_std": mu.std(axis=0, dtype=np.float64),
        "sigma_mean": np.exp(0.5 * log_var).mean(axis=0, dtype=np.float64),
        "kl": kl,
    }
    return [
        {
            "unit": unit,
            **{name: round(float(values[unit]), 6) for name, values in columns.items()},
            "kl_rank": int(rank[unit]),
        }
        for unit in range(kl.size)
    ]


def _edges(lowest: int, highest: int) -> np.ndarray:
    """Edges of bins of equal width. Since the limits are whole, most models share their bins."""
    count = min(_BINS_PER_UNIT * (highest - lowest), _MAX_BINS)
    return np.linspace(lowest, highest, count + 1)


def z_rows(z: np.ndarray) -> list[dict[str, float]]:
    """Histograms of latent codes: of all latent units together, and of each unit.

    Args:
        z: (images, latent).

    Returns:
        One row per bin: `z`, its middle; `normal_density`, the density of N(0, 1) there; `density`,
        that of all units together; `unit_0`, `unit_1` and so on, that of each unit. The bins span
        all values.
    """
    from scipy import stats  # imported here because it takes a second

    extent = max(_MIN_EXTENT, math.ceil(np.abs(z).max()))
    edges = _edges(-extent, extent)
    middles = 0.5 * (edges[:-1] + edges[1:])
    units = [np.histogram(unit, edges, density=True)[0] for unit in z.T]
    columns = {
        "z": middles,
        "normal_density": stats.norm.pdf(middles),
        "density": np.mean(units, axis=0),
        **{f"unit_{number}": density for number, density in enumerate(units)},
    }
    return _rows(columns)


def radius_rows(z: np.ndarray) -> list[dict[str, float]]:
    """A histogram of the distances |z| of latent codes from the origin.

    Args:
        z: (images, latent).

    Returns:
        One row per bin: `radius`, its middle; `density`, the density of the codes there; and
        `chi_density`, that of N(0, I): the chi distribution with `latent` degrees of freedom. The
        bins span all codes, and N(0, I) except for about 10 in a million of its points.
    """
    from scipy import stats

    dimension = z.shape[1]
    radii = np.linalg.norm(z.astype(np.float64), axis=1)
    # Close to the mean of the chi distribution, whose standard deviation is at most 0.71.
    centre = math.sqrt(dimension - 0.5)
    lowest = max(0, math.floor(min(radii.min(), centre - 3)))
    highest = math.ceil(max(radii.max(), centre + 3))
    edges = _edges(lowest, highest)
    middles = 0.5 * (edges[:-1] + edges[1:])
    columns = {
        "radius": middles,
        "density": np.histogram(radii, edges, density=True)[0],
        "chi_density": stats.chi.pdf(middles, dimension),
    }
    return _rows(columns)


def _rows(columns: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
    values = [np.round(column, 6).tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
