"""Priors: N(0, I) exactly, and fits that find the distribution the codes were drawn from."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import make_vae
from scipy import stats

from facevae.common.errors import UserError
from facevae.latent import priors as priors_module
from facevae.latent.codes import encode_dataset, sample_posterior
from facevae.latent.generation import prior_codes, samples
from facevae.latent.priors import (
    Prior,
    fit_prior,
    load_prior,
    normal_prior,
    prior_of_dataset,
    save_prior,
)
from facevae.model.saving import save_model
from facevae.shards.batches import Shards, load_images
from facevae.shards.subsets import random_subset


def _covariances(prior: Prior) -> np.ndarray:
    return prior.factors @ prior.factors.transpose(0, 2, 1)


def test_normal_leaves_the_points_where_they_are_to_the_bit() -> None:
    points = prior_codes(64, 256, seed=1)
    np.testing.assert_array_equal(prior_codes(64, 256, seed=1, prior=normal_prior(256)), points)


def test_gaussian_is_that_of_the_codes() -> None:
    random = np.random.default_rng(0)
    covariance = np.array([[4.0, 1.2, 0.0], [1.2, 1.0, -0.3], [0.0, -0.3, 0.5]])
    z = random.multivariate_normal([1.0, -2.0, 0.5], covariance, 5000).astype(np.float32)
    prior = fit_prior("gaussian", z)
    np.testing.assert_allclose(prior.means[0], z.mean(axis=0), atol=1e-4)
    added = 0.01 * z.var(axis=0).mean() * np.eye(3)
    np.testing.assert_allclose(
        _covariances(prior)[0], np.cov(z.T, bias=True) + added, rtol=1e-4, atol=1e-4
    )
    drawn = prior_codes(50_000, 3, seed=2, prior=prior)
    np.testing.assert_allclose(drawn.mean(axis=0), prior.means[0], atol=0.03)
    np.testing.assert_allclose(np.cov(drawn.T), _covariances(prior)[0], atol=0.1)


def test_mixture_finds_the_clusters_and_keeps_to_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = 40.0 * np.stack([np.cos(np.arange(10) * 0.6), np.sin(np.arange(10) * 0.6)], axis=1)
    shares = np.arange(1, 11) / 55
    chosen = random.choice(10, 4000, p=shares)
    z = (centres[chosen] + random.standard_normal((4000, 2))).astype(np.float32)
    prior = fit_prior("mixture", z)
    np.testing.assert_allclose(prior.weights, np.sort(shares)[::-1], atol=0.03)
    np.testing.assert_allclose(prior.means, centres[::-1], atol=1.0)
    drawn = prior_codes(20_000, 2, seed=3, prior=prior)
    distances = np.linalg.norm(drawn[:, None] - prior.means, axis=2)
    nearest = distances.argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / 20_000, prior.weights, atol=0.02)
    # A single Gaussian fitted to the same codes draws codes between the clusters.
    between = prior_codes(20_000, 2, seed=3, prior=fit_prior("gaussian", z))
    assert np.median(distances.min(axis=1)) < 5
    assert np.median(np.linalg.norm(between[:, None] - prior.means, axis=2).min(axis=1)) > 8

    for name, each in (("a", prior), ("b", fit_prior("mixture", z))):
        save_prior(each, tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = load_prior(tmp_path / "a.npz", for_latent_size=2)
    np.testing.assert_array_equal(prior_codes(20_000, 2, seed=3, prior=loaded), drawn)
    with pytest.raises(UserError, match=r"a.npz: is of 2 latent units, and the model has 3; fit"):
        load_prior(tmp_path / "a.npz", for_latent_size=3)


def test_codes_in_a_plane_can_be_fitted() -> None:
    """A mixture component with fewer codes than latent units is regularised, not singular."""
    z = np.random.default_rng(0).standard_normal((100, 40)).astype(np.float32)
    assert np.isfinite(prior_codes(50, 40, seed=0, prior=fit_prior("mixture", z))).all()


def test_the_choice_of_components_is_the_same_for_all_priors() -> None:
    far = np.array([[-100.0], [100.0]], np.float32)
    ones = np.ones((2, 1, 1), np.float32)
    first, second = (
        Prior(np.array([share, 1 - share], np.float32), far, ones) for share in (0.5, 0.7)
    )
    a, b = (prior_codes(1000, 1, seed=4, prior=prior)[:, 0] for prior in (first, second))
    assert np.mean(a < 0) == pytest.approx(0.5, abs=0.05)
    assert np.mean(b < 0) == pytest.approx(0.7, abs=0.05)
    assert not ((a < 0) & (b > 0)).any()
    np.testing.assert_array_equal(a[a < 0], b[a < 0])


def test_too_few_images_and_broken_files_are_a_sentence(tmp_path: Path) -> None:
    z = np.zeros((99, 4), np.float32)
    with pytest.raises(UserError, match="at least 100 training images, and there are 99; take no"):
        fit_prior("mixture", z)
    with pytest.raises(UserError, match="no such prior; fit it first"):
        load_prior(tmp_path / "prior.npz")
    save_prior(normal_prior(4), tmp_path / "prior.npz")
    whole = (tmp_path / "prior.npz").read_bytes()
    (tmp_path / "prior.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"prior.npz: is damaged, .+; fit it again: dvc repro"):
        load_prior(tmp_path / "prior.npz")


def test_prior_with_a_flipped_byte_is_a_sentence_or_the_same(tmp_path: Path) -> None:
    path = tmp_path / "prior.npz"
    prior = fit_prior("gaussian", np.random.default_rng(0).standard_normal((100, 3)))
    save_prior(prior, path)
    whole = path.read_bytes()
    sentences = 0
    for position in range(0, len(whole), 2):
        content = bytearray(whole)
        content[position] ^= (0x01, 0x08, 0x80)[position % 3]
        path.write_bytes(content)
        try:
            found = load_prior(path)
        except UserError:
            sentences += 1
            continue
        for name in ("weights", "means", "factors"):
            np.testing.assert_array_equal(getattr(found, name), getattr(prior, name))
    assert sentences > len(whole) / 4  # the others are dates and the like


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": np.ones(2, np.float32)},
        {"means": np.zeros((1, 3), np.float64)},
        {"means": np.full((1, 3), np.nan, np.float32)},
        {"factors": np.ones((1, 3, 4), np.float32)},
        {"means": np.zeros((0, 3), np.float32), "weights": np.zeros(0, np.float32)},
        {"factors": np.array(["a"])},
    ],
)
def test_arrays_that_are_no_prior_are_a_sentence(
    tmp_path: Path, changes: dict[str, np.ndarray]
) -> None:
    prior = normal_prior(3)
    arrays = {"weights": prior.weights, "means": prior.means, "factors": prior.factors}
    np.savez(tmp_path / "prior.npz", **{**arrays, **changes})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"prior.npz: is not a prior; fit it again"):
        load_prior(tmp_path / "prior.npz")
    np.savez(tmp_path / "prior.npz", other=np.ones(3))
    with pytest.raises(UserError, match=r"prior.npz: is not a prior \(.*weights"):
        load_prior(tmp_path / "prior.npz")


def test_density_of_a_prior_is_scipys() -> None:
    random = np.random.default_rng(5)
    z = (3 * random.standard_normal((40, 3))).astype(np.float32)
    normal = stats.multivariate_normal(np.zeros(3), np.eye(3))
    assert normal_prior(3).is_standard_normal
    np.testing.assert_allclose(normal_prior(3).log_density(z), normal.logpdf(z), rtol=1e-12)

    factors = np.tril(random.standard_normal((2, 3, 3))).astype(np.float32)
    factors[:, range(3), range(3)] = [[0.5, 1.0, 2.0], [1.5, 0.25, 1.0]]
    means = random.standard_normal((2, 3)).astype(np.float32)
    prior = Prior(np.array([0.75, 0.25], np.float32), means, factors)
    assert not prior.is_standard_normal
    parts = [
        weight * stats.multivariate_normal(mean, factor.astype(np.float64) @ factor.T).pdf(z)
        for weight, mean, factor in zip(prior.weights, means, factors, strict=True)
    ]
    np.testing.assert_allclose(prior.log_density(z), np.log(np.sum(parts, axis=0)), rtol=1e-9)
    # In 256 dimensions the density itself is not a float64.
    far = np.full((1, 256), 10.0, np.float32)
    expected = -0.5 * 256 * (100 + np.log(2 * np.pi))
    np.testing.assert_allclose(normal_prior(256).log_density(far), [expected], rtol=1e-12)


def test_a_prior_for_another_latent_size_is_a_sentence() -> None:
    with pytest.raises(
        UserError, match="is for 3 latent units, and the model has 4; fit the prior"
    ):
        prior_codes(5, 4, seed=1, prior=normal_prior(3))


def test_stage_writes_a_prior_that_samples_are_drawn_from(
    stage, shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    keras.utils.set_random_seed(0)
    vae = make_vae(
        image_size=16, filters=[8, 16], kernel_sizes=[3, 3], strides=[2, 2], latent_size=4,
    )  # fmt: skip
    save_model(vae, tmp_path / "vae.keras")

    def fit(kind: str) -> int:
        return stage(
            "prior", "--model", "vae.keras", "--shards", str(shards), "--prior", f"{kind}.npz",
            generate={"prior": kind},
        )  # fmt: skip

    assert fit("gaussian") == 0
    prior = load_prior(tmp_path / "gaussian.npz")
    assert [each.shape for each in (prior.weights, prior.means, prior.factors)] == [
        (1,), (1, 4), (1, 4, 4),
    ]  # fmt: skip
    drawn = samples(vae, 5, seed=1, prior=prior)
    expected = vae.decoder(prior_codes(5, 4, seed=1, prior=prior))
    # A batch of another size may be summed in another order.
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert not np.array_equal(drawn, samples(vae, 5, seed=1))
    capfd.readouterr()
    assert fit("mixture") == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert "there are 48; take normal, or gaussian" in told.err
    assert not (tmp_path / "mixture.npz").exists()


def test_a_prior_is_fitted_to_a_random_subset_of_many_images(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.utils.set_random_seed(0)
    vae = make_vae(image_size=16, filters=[8], kernel_sizes=[3], strides=[4], latent_size=2)
    whole = load_images(Shards(shards), "train")

    def fitted_to(numbers: np.ndarray) -> np.ndarray:
        z = sample_posterior(*encode_dataset(vae, [whole[numbers]]), seed=0)
        return fit_prior("gaussian", z).means

    everything = prior_of_dataset("gaussian", vae, Shards(shards)).means
    np.testing.assert_allclose(everything, fitted_to(np.arange(48)), atol=1e-5)
    monkeypatch.setattr(priors_module, "MAX_CODES", 20)
    some = prior_of_dataset("gaussian", vae, Shards(shards)).means
    np.testing.assert_allclose(some, fitted_to(random_subset(48, 20)), atol=1e-5)
    assert not np.allclose(some, fitted_to(np.arange(20)), atol=1e-3)
