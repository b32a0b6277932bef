"""Where a trained Encoder puts images in z, beside N(0, I), from which samples are drawn."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from facevae.model.losses import kl_per_unit
from facevae.model.vae import VAE

_BINS_PER_UNIT = 4
_MAX_BINS = 200  # for a training without a KL term, whose z may lie anywhere
_MIN_EXTENT = 5  # of z, on both sides of 0; of N(0, 1), one in two million is beyond


def encode_dataset(vae: VAE, batches: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """mu and log_var, each (images, latent) float32, of batches (batch, size, size, 3)."""
    encoded = [vae.encode(batch) for batch in batches]
    mu, log_var = (
        np.concatenate([keras.ops.convert_to_numpy(each) for each in part]).astype(np.float32)
        for part in zip(*encoded, strict=True)
    )
    return mu, log_var


def attribute_directions(mu: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean mu of the images with an attribute less that of those without, of each attribute.

    Larsen et al. 2016, arXiv 1512.09300; White 2016, arXiv 1609.04468, who balances the images for
    attributes that go together, which this does not: what comes with smiling in the data comes
    with its direction, too.

    Args:
        mu: (images, latent).
        labels: (images, attributes) bool; each attribute holds for some of them, and not for all.

    Returns:
        (attributes, latent) float32.
    """
    with_it = labels.T.astype(np.float64)
    without = 1.0 - with_it
    means = [(some @ mu) / some.sum(axis=1, keepdims=True) for some in (with_it, without)]
    return (means[0] - means[1]).astype(np.float32)


def sample_posterior(mu: np.ndarray, log_var: np.ndarray, seed: int) -> np.ndarray:
    """One z per image, (images, latent) float32: mu + sigma * noise, the noise from the seed."""
    noise = np.random.default_rng(seed).standard_normal(mu.shape, dtype=np.float32)
    return mu + np.exp(0.5 * log_var) * noise


def unit_rows(mu: np.ndarray, log_var: np.ndarray) -> list[dict[str, Any]]:
    """Statistics of every latent unit over the images.

    Args:
        mu, log_var: (images, latent).

    Returns:
        One row per unit: its number from 0; mean and standard deviation of mu; mean of sigma; mean
        of KL(q(z|x) || N(0, 1)), nats; and its rank by that KL, from 1, the largest.
    """
    kl = keras.ops.convert_to_numpy(kl_per_unit(mu, log_var)).mean(axis=0, dtype=np.float64)
    rank = np.empty(kl.size, int)
    rank[np.argsort(-kl, kind="stable")] = np.arange(1, kl.size + 1)
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
    """Bins of one width that span a range; most often those of other models, too."""
    count = min(_BINS_PER_UNIT * (highest - lowest), _MAX_BINS)
    return np.linspace(lowest, highest, count + 1)


def z_rows(z: np.ndarray) -> list[dict[str, float]]:
    """Histograms of z (images, latent): over all units together, and of each.

    Returns:
        One row per bin: its middle `z`; the density of N(0, 1) there, `normal_density`; that of
        all units together, `density`; and of each, `unit_0` and so on. The bins span all values.
    """
    from scipy import stats  # here, for it takes a second

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
    """A histogram of the distances |z| from the origin, z (images, latent).

    Returns:
        One row per bin: its middle `radius`; the density of the images there, `density`; and that
        of N(0, I), `chi_density`. The bins span all images, and N(0, I) but for some 10 in a
        million of its points.
    """
    from scipy import stats

    dimension = z.shape[1]
    radii = np.sqrt(np.square(z.astype(np.float64)).sum(axis=1))
    # The chi distribution has a standard deviation of at most 0.71 about this, nearly its mean.
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
