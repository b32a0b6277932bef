"""Densities of N(0, I): of a coordinate, and of the distance from the origin."""

import math

import numpy as np


def normal_density(z: np.ndarray) -> np.ndarray:
    """Density of N(0, 1) at z."""
    return np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)


def chi_density(radius: np.ndarray, dimension: int) -> np.ndarray:
    """Density of the chi distribution, that of |z| for z from N(0, I) in `dimension` dimensions.

    f(r) = r^(k-1) exp(-r^2 / 2) / (2^(k/2-1) Gamma(k/2)), k the dimension
    (https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.chi.html).

    Args:
        radius: any shape, greater than 0.
    """
    half = dimension / 2
    # In logarithms: at 256 dimensions the factors are beyond what a float holds.
    scale = (half - 1) * math.log(2) + math.lgamma(half)
    return np.exp((dimension - 1) * np.log(radius) - 0.5 * np.square(radius) - scale)
