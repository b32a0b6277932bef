"""How much of the latent space a VAE uses: active units, and the KL of each unit."""

from typing import Any

import numpy as np

from facevae.evaluation.inputs import ImageMean, Inputs, ReconstructedBatch, SplitMetrics

# A latent unit is active if the variance of its mu over the data is above this
# (Burda et al. 2015, arXiv 1509.00519, section 4).
MIN_ACTIVE_VARIANCE = 0.01


def active_units(mu: np.ndarray) -> int:
    """How many columns of mu (count, latent) vary by more than `MIN_ACTIVE_VARIANCE`."""
    return int(np.count_nonzero(mu.var(axis=0, dtype=np.float64) > MIN_ACTIVE_VARIANCE))


class LatentUnits(SplitMetrics):
    """active_units, and kl_per_unit: smallest, median and largest over the units.

    The KL of a unit is its mean over the images, nats.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._mu: list[np.ndarray] = []
        self._kl = ImageMean()

    def update(self, batch: ReconstructedBatch) -> None:
        self._mu.append(batch.mu)
        self._kl.update(batch.kl_per_unit, len(batch.images))

    def result(self) -> dict[str, Any]:
        kl = self._kl.result()
        return {
            "active_units": active_units(np.concatenate(self._mu)),
            "kl_per_unit": {
                "smallest": kl.min(),
                "median": np.median(kl),
                "largest": kl.max(),
            },
        }
