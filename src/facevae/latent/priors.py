"""Priors that latent codes of samples are drawn from: N(0, I), or a density fitted after training.

The latent codes of all images together need not be distributed as N(0, I), and the Decoder makes no
faces of codes in regions where there are none. A Gaussian, or a mixture of ten, that is fitted to
the codes of a trained VAE stays where the codes are: ex-post density estimation (Ghosh et al. 2020,
arXiv 1903.12436, section 4). A mixture has ten times as many numbers to fit, and gives held-out
codes less density where there are few codes: docs/results.md has figures.

All priors have the same form, a mixture of k Gaussians. A component gives z = mean + factor @
epsilon, where epsilon is drawn from N(0, I) and factor is the lower Cholesky factor of the
component's covariance. N(0, I) has one component, with mean 0 and factor I.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError
from facevae.common.files import atomic_write, check_zip
from facevae.common.requests import GAUSSIANS, prior_mistake
from facevae.latent.codes import encode_split, sample_posterior
from facevae.model.vae import VAE
from facevae.shards.batches import Shards
from facevae.shards.subsets import random_subset

MAX_CODES = 20_000  # used for a fit
# This share of the codes' mean variance is added to the diagonal of every covariance. Without it a
# component with fewer codes than latent units would have a singular covariance.
_REGULARIZATION = 0.01
_SEED = 0


@dataclass(frozen=True)
class Prior:
    """A mixture of k Gaussians over z.

    Attributes:
        weights: (k,) float32, with sum 1, the largest first.
        means: (k, latent) float32.
        factors: (k, latent, latent) float32, the covariances' lower Cholesky factors.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def transform_standard_normal(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Transform draws from N(0, I) into draws from this prior.

        The component of each draw is chosen by a uniform random number, which is looked up in the
        cumulative weights. These numbers depend on the seed alone, not on the prior.

        Args:
            points: draws from N(0, I), (count, latent) float32.
            seed: of the choice of components.

        Returns:
            (count, latent) float32.

        Raises:
            UserError: the prior is for another number of latent units.
        """
        own, units = self.means.shape[1], points.shape[1]
        if own != units:
            raise UserError(
                f"the prior is for {own} latent units, and the model has {units}; fit the prior "
                f"again: dvc repro"
            )
        # Not the stream of `seed` itself, from which `prior_codes` draws the points.
        chances = np.random.default_rng((seed, 1)).random(len(points))
        chosen = np.searchsorted(np.cumsum(self.weights.astype(np.float64)), chances, "right")
        chosen = np.minimum(chosen, len(self.weights) - 1)  # the sum may be below 1 by rounding
        codes = np.empty_like(points)
        for component, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            own = chosen == component
            codes[own] = mean + points[own] @ factor.T
        return codes

    @property
    def is_standard_normal(self) -> bool:
        """Whether it is N(0, I)."""
        identity = np.eye(self.means.shape[1], dtype=np.float32)
        return bool(
            len(self.weights) == 1 and not self.means.any() and (self.factors[0] == identity).all()
        )

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """ln p(z) of latent codes, nats.

        Args:
            z: (count, latent).

        Returns:
            (count,) float64.
        """
        # Imported here because drawing samples does not need it.
        from scipy.linalg import solve_triangular
        from scipy.special import logsumexp

        constant = 0.5 * z.shape[1] * math.log(2.0 * math.pi)
        found = []
        for mean, factor in zip(self.means, self.factors.astype(np.float64), strict=True):
            epsilon = solve_triangular(factor, (z.astype(np.float64) - mean).T, lower=True)
            squares = np.square(epsilon).sum(axis=0)
            found.append(-0.5 * squares - np.log(np.diagonal(factor)).sum() - constant)
        return logsumexp(found, axis=0, b=self.weights.astype(np.float64)[:, None])


def normal_prior(latent_size: int) -> Prior:
    """N(0, I): `transform_standard_normal` returns the points themselves."""
    return Prior(
        np.ones(1, np.float32),
        np.zeros((1, latent_size), np.float32),
        np.eye(latent_size, dtype=np.float32)[None],
    )


def fit_prior(kind: str, z: np.ndarray) -> Prior:
    """Fit a prior to latent codes with scikit-learn's `GaussianMixture`.

    The covariances are full, with 0.01 of the codes' mean variance added to their diagonals. The
    same codes give the same bits.

    Args:
        kind: "gaussian", or "mixture" with 10 components.
        z: (images, latent), one code per image, drawn from q(z|x).

    Raises:
        UserError: fewer than 10 images per component.
    """
    if mistake := prior_mistake(kind, len(z)):
        raise UserError(mistake)
    # Imported here because it takes a second, and drawing samples does not need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    z = z.astype(np.float64)
    mixture = GaussianMixture(
        GAUSSIANS[kind], reg_covar=_REGULARIZATION * z.var(axis=0).mean(), random_state=_SEED
    )
    # With several threads the order of additions would vary, and with it the result.
    with threadpool_limits(1), warnings.catch_warnings():
        # A mixture that is not fully converged is as good to draw samples from.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z)
    order = np.argsort(-mixture.weights_, kind="stable")
    parts = (mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_))
    return Prior(*(part[order].astype(np.float32) for part in parts))


def prior_of_dataset(kind: str, vae: VAE, shards: Shards) -> Prior:
    """The prior for a trained VAE, fitted to one z per training image, or per one of 20,000.

    Of more training images a random subset is taken.

    Args:
        kind: "normal", which needs no images, or a kind of `fit_prior`.

    Raises:
        UserError: as `fit_prior`.
    """
    if kind == "normal":
        return normal_prior(vae.latent_size)
    numbers = random_subset(shards.counts["train"], MAX_CODES)
    mu, log_var = encode_split(vae, shards, "train", numbers)
    return fit_prior(kind, sample_posterior(mu, log_var, _SEED))


def save_prior(prior: Prior, path: Path) -> None:
    """Write a .npz file with the arrays `weights`, `means` and `factors`."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, weights=prior.weights, means=prior.means, factors=prior.factors)


def load_prior(path: str | Path, for_latent_size: int | None = None) -> Prior:
    """Read a file that `save_prior` wrote.

    Args:
        for_latent_size: of the model that it is wanted for; None: any.

    Raises:
        UserError: there is no such file, it is not a prior or is damaged, or it is of codes of
            another size.
    """
    remedy = "fit it again: dvc repro"
    try:
        check_zip(Path(path), remedy)
    except FileNotFoundError:
        raise UserError(f"{path}: no such prior; fit it first: dvc repro") from None
    try:
        with np.load(path) as arrays:
            prior = Prior(*(arrays[name] for name in ("weights", "means", "factors")))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is not a prior ({error}); {remedy}") from None
    parts = prior.weights, prior.means, prior.factors
    count, size = prior.means.shape if prior.means.ndim == 2 else (0, 0)
    shapes = (count,), (count, size), (count, size, size)
    if tuple(part.shape for part in parts) != shapes or not all(
        part.size and part.dtype == np.float32 and np.isfinite(part).all() for part in parts
    ):
        raise UserError(f"{path}: is not a prior; {remedy}")
    if for_latent_size not in (None, size):
        raise UserError(
            f"{path}: is of {size} latent units, and the model has {for_latent_size}; {remedy}"
        )
    return prior
