"""Where z-points of samples come from: N(0, I), or a density fitted to the codes of a trained VAE.

A VAE's codes of all images together need not lie as N(0, I) does, and what the Decoder makes of
points between them is no face. A Gaussian or a mixture of ten, fitted to the codes after training,
keeps to where they lie (Ghosh et al. 2020, arXiv 1903.12436, section 4).

Every prior has one form, a mixture of k Gaussians: z = mean + factor @ epsilon, epsilon from
N(0, I), with the lower Cholesky factor of the component's covariance. N(0, I) has one component,
of mean 0 and factor I.
"""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError
from facevae.common.files import atomic_write
from facevae.latent.codes import encode_dataset, sample_posterior
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, images

MAX_CODES = 20_000  # that are fitted to
_COMPONENTS = {"gaussian": 1, "mixture": 10}
_CODES_PER_COMPONENT = 10  # at least
# Of the codes' mean variance, added to each unit's in every component: of a component that is left
# with fewer codes than there are units, the covariance is singular without.
_REGULARIZATION = 0.01
_SEED = 0
_BATCH_SIZE = 64  # little memory; larger ones are hardly faster


@dataclass(frozen=True)
class Prior:
    """A mixture of k Gaussians over z.

    Attributes:
        weights: (k,) float32, of sum 1, the largest first.
        means: (k, latent) float32.
        factors: (k, latent, latent) float32, the covariances' lower Cholesky factors.
    """

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def transform_standard_normal(self, points: np.ndarray, seed: int) -> np.ndarray:
        """Points (count, latent) of N(0, I), carried to this prior: float32 of the same shape.

        Which component a point goes to is drawn from the seed: the same point of (0, 1) for each,
        whatever the prior, looked up in the cumulated weights.
        """
        # Another stream than that of the points, which are drawn from the seed itself.
        chances = np.random.default_rng((seed, 1)).random(len(points))
        chosen = np.searchsorted(np.cumsum(self.weights.astype(np.float64)), chances, "right")
        chosen = np.minimum(chosen, len(self.weights) - 1)  # the sum is 1 but for rounding
        carried = np.empty_like(points)
        for component, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            own = chosen == component
            carried[own] = mean + points[own] @ factor.T
        return carried


def normal_prior(latent_size: int) -> Prior:
    """N(0, I): points stay where they are."""
    return Prior(
        np.ones(1, np.float32),
        np.zeros((1, latent_size), np.float32),
        np.eye(latent_size, dtype=np.float32)[None],
    )


def fit_prior(kind: str, z: np.ndarray) -> Prior:
    """Fit a prior to codes, by scikit-learn's `GaussianMixture`; the same codes give the same bits.

    The covariances are full, with 0.01 of the codes' mean variance added to their diagonals.

    Args:
        kind: "gaussian", or "mixture" of 10 components.
        z: (images, latent), one code per image, drawn from q(z|x).

    Raises:
        UserError: fewer than 10 images per component.
    """
    components = _COMPONENTS[kind]
    needed = components * _CODES_PER_COMPONENT
    if len(z) < needed:
        raise UserError(
            f"generate.prior: a {kind} is fitted to at least {needed} training images, and there "
            f"are {len(z)}; take normal{', or gaussian' if components > 1 else ''}"
        )
    # Here, for it takes a second, and most who draw samples fit nothing.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    z = z.astype(np.float64)
    mixture = GaussianMixture(
        components, reg_covar=_REGULARIZATION * z.var(axis=0).mean(), random_state=_SEED
    )
    # Several threads add up in any order.
    with threadpool_limits(1), warnings.catch_warnings():
        # A mixture that could still gain a little is as good to draw from.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z)
    order = np.argsort(-mixture.weights_, kind="stable")
    parts = (mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_))
    return Prior(*(part[order].astype(np.float32) for part in parts))


def prior_of_dataset(kind: str, vae: VAE, shards: Shards) -> Prior:
    """The prior of a kind for the codes of the first 20,000 training images, one z drawn for each.

    Args:
        kind: "normal", which needs no codes, or one of `fit_prior`.

    Raises:
        UserError: too few images.
    """
    if kind == "normal":
        return normal_prior(vae.latent_size)
    batches = images(shards, "train", _BATCH_SIZE).take(-(-MAX_CODES // _BATCH_SIZE))
    mu, log_var = encode_dataset(vae, batches)
    return fit_prior(kind, sample_posterior(mu[:MAX_CODES], log_var[:MAX_CODES], _SEED))


def save_prior(prior: Prior, path: Path) -> None:
    """Write a .npz file with weights, means and factors."""
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, weights=prior.weights, means=prior.means, factors=prior.factors)


def load_prior(path: str | Path) -> Prior:
    """Read a file of `save_prior`.

    Raises:
        UserError: there is no such file, or it is none of those.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Prior(*(arrays[name] for name in ("weights", "means", "factors")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such prior; fit it first: dvc repro") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: is not a whole prior; fit it again") from None
