"""Figures and pictures against TensorFlow's own and against known answers."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from facevae.datasets import Shards, images, noise
from facevae.evaluation import active_units, evaluate, psnr
from facevae.generation import interpolations, prior_points, reconstructions, samples
from facevae.networks import VAE
from facevae.pictures import image_grid


@pytest.fixture(scope="module")
def vae() -> VAE:
    keras.utils.set_random_seed(0)
    return VAE(
        image_size=16, filters=[8, 16], kernel_sizes=[3, 3], strides=[2, 2], latent_size=4,
        inter_dense=8, kl_weight=0.5,
    )  # fmt: skip


def test_psnr_is_tensorflows_and_falls_with_noise() -> None:
    random = np.random.default_rng(0)
    originals = random.random((6, 20, 20, 3))
    last = np.inf
    for strength in (0.01, 0.05, 0.2):
        noisy = np.clip(originals + strength * random.standard_normal(originals.shape), 0, 1)
        got = psnr(originals, noisy)
        np.testing.assert_allclose(got, tf.image.psnr(originals, noisy, 1.0), rtol=1e-5)
        assert got.mean() < last
        last = got.mean()


def test_active_units_counts_what_varies() -> None:
    mu = np.random.default_rng(0).standard_normal((5000, 4)) * [1.0, 0.2, 0.05, 0.0]
    assert active_units(mu) == 2  # variances 1, 0.04, 0.0025 and 0 around the bar of 0.01


def test_evaluation_by_hand(vae: VAE, shards: Path) -> None:
    got = evaluate(vae, Shards(shards), batch_size=4)
    test = np.concatenate(list(images(Shards(shards), "test", 6)))
    mu, log_var = (np.asarray(x, np.float64) for x in vae.encoder(test))
    decoded = np.asarray(vae.decoder(mu))
    kl = -0.5 * (1 + log_var - mu**2 - np.exp(log_var)).sum(1).mean()
    assert got["test"]["images"] == len(test) == 6
    assert got["test"]["kl"] == pytest.approx(kl, rel=1e-4)
    assert got["test"]["psnr"] == pytest.approx(psnr(test, decoded).mean(), rel=1e-5)
    expected = got["test"]["reconstruction"] + 0.5 * got["test"]["kl"]
    assert got["test"]["loss"] == pytest.approx(expected, abs=1e-5)
    epsilon = np.concatenate(
        [noise(0, tf.constant(k, tf.int64), (n, 4)) for k, n in ((0, 4), (1, 2))]
    )
    z = (mu + np.exp(log_var / 2) * epsilon).astype(np.float32)
    errors = np.square(np.asarray(vae.decoder(z), np.float64) - test).sum((1, 2, 3))
    assert got["test"]["reconstruction"] == pytest.approx(errors.mean(), rel=1e-5)
    assert got["encoder"]["params"] == vae.encoder.count_params()
    assert got["encoder"]["flattened"] == 4 * 4 * 16


def test_samples_are_the_same_points_whatever_the_model(vae: VAE) -> None:
    points = prior_points(6, 4, seed=5)
    assert points.shape == (6, 4)
    np.testing.assert_array_equal(points, prior_points(6, 4, seed=5))
    assert not np.array_equal(points, prior_points(6, 4, seed=6))
    np.testing.assert_array_equal(samples(vae, 6, seed=5), vae.decoder(points))


def test_interpolations_end_at_the_two_faces(vae: VAE, shards: Path) -> None:
    test = np.concatenate(list(images(Shards(shards), "test", 6)))
    lines = interpolations(vae, test[:2], test[2:4], 5).reshape(2, 5, 16, 16, 3)
    np.testing.assert_allclose(lines[:, 0], reconstructions(vae, test[:2]), atol=1e-5)
    np.testing.assert_allclose(lines[:, -1], reconstructions(vae, test[2:4]), atol=1e-5)
    mu = np.asarray(vae.encode(test)[0])
    np.testing.assert_allclose(lines[1, 2], vae.decoder((mu[1:2] + mu[3:4]) / 2)[0], atol=1e-5)


def test_grid_puts_images_in_reading_order() -> None:
    greys = np.linspace(0, 1, 6, dtype=np.float32)
    grid = np.asarray(image_grid(np.broadcast_to(greys[:, None, None, None], (6, 4, 4, 3)), 3))
    assert grid.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    middles = [grid[4 + 6 * row, 4 + 6 * column, 0] for row in range(2) for column in range(3)]
    assert middles == [0, 51, 102, 153, 204, 255]
    assert grid[0].min() == 255
    with pytest.raises(ValueError, match="do not fill rows of 4"):
        image_grid(np.zeros((6, 4, 4, 3)), 4)
