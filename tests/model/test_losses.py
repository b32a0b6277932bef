"""The loss terms against separate float64 formulas, and against the quantities they stand for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from facevae.model.losses import (
    binary_crossentropy,
    gaussian_negative_log_density,
    kl_beyond_free_bits,
    kl_per_unit,
    optimal_log_sigma,
    sample_latent,
    squared_error,
)

# float32 sums of a few thousand terms of order 1: relative rounding of about 1e-6.
RELATIVE = 5e-6


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_reconstruction_terms_sum_over_pixels_and_channels(random: np.random.Generator) -> None:
    images = random.random((5, 24, 24, 3))
    decoded = random.uniform(0.01, 0.99, images.shape)
    got = squared_error(images.astype("float32"), decoded.astype("float32"))
    expected = [
        sum((a - b) ** 2 for a, b in zip(x.flat, y.flat, strict=True))
        for x, y in zip(images, decoded, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)

    got = binary_crossentropy(images.astype("float32"), decoded.astype("float32"))
    expected = -(images * np.log(decoded) + (1 - images) * np.log(1 - decoded)).sum((1, 2, 3))
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)


def test_gaussian_is_the_density_of_each_pixel(random: np.random.Generator) -> None:
    images, decoded = random.random((2, 5, 12, 12, 3))
    sigma = 0.07
    densities = np.exp(-0.5 * ((images - decoded) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    expected = -np.log(densities).sum((1, 2, 3))
    got = gaussian_negative_log_density(
        images.astype("float32"), decoded.astype("float32"), np.float32(np.log(sigma))
    )
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)


def test_learned_sigma_is_the_best_one_and_has_no_gradient(random: np.random.Generator) -> None:
    images, decoded = random.random((2, 5, 12, 12, 3)).astype("float32")
    best = float(optimal_log_sigma(images, decoded))
    assert best == pytest.approx(0.5 * np.log(np.mean((images - decoded) ** 2)), abs=1e-5)

    def total(log_sigma: float) -> float:
        return float(np.sum(gaussian_negative_log_density(images, decoded, log_sigma)))

    assert total(best) < min(total(best - 0.1), total(best + 0.1))
    assert float(optimal_log_sigma(images, images)) == -6.0  # not minus infinity
    with tf.GradientTape() as tape:
        inputs = tf.constant(decoded)
        tape.watch(inputs)
        log_sigma = optimal_log_sigma(images, inputs)
    assert tape.gradient(log_sigma, inputs) is None


def test_free_bits_are_not_pressed_on() -> None:
    of_units = tf.constant([[0.1, 0.9, 0.3], [0.3, 1.1, 0.1]])  # means 0.2, 1.0, 0.2
    with tf.GradientTape() as tape:
        tape.watch(of_units)
        pressed = kl_beyond_free_bits(of_units, 0.5)
    assert float(pressed) == pytest.approx(0.5 + 1.0 + 0.5)
    expected = [[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]]
    np.testing.assert_allclose(tape.gradient(pressed, of_units), expected)


def test_crossentropy_stays_finite_where_the_sigmoid_saturates() -> None:
    images = np.array([0.0, 1.0, 0.5], "float32").reshape(3, 1, 1, 1)
    for decoded in (0.0, 1.0):
        values = binary_crossentropy(images, np.full_like(images, decoded))
        assert np.all(np.isfinite(values))


def test_the_series_fact_is_a_third_of_the_kl_weight(random: np.random.Generator) -> None:
    """The 2022 series averages the reconstruction over channels and multiplies the KL by fact."""
    images, decoded = random.random((2, 4, 8, 8, 3)).astype("float32")
    mu, log_var = random.standard_normal((2, 4, 6)).astype("float32")
    fact = 5.0
    theirs = np.mean(
        ((images - decoded) ** 2).mean(-1).sum((1, 2))
        - 0.5 * fact * (1 + log_var - mu**2 - np.exp(log_var)).sum(1)
    )
    ours = np.mean(squared_error(images, decoded)) + 3 * fact * np.mean(
        np.sum(kl_per_unit(mu, log_var), axis=1)
    )
    np.testing.assert_allclose(ours, 3 * theirs, rtol=1e-5)


def test_kl_against_sampling(random: np.random.Generator) -> None:
    """KL = E_q[ln q(z) - ln p(z)], estimated with a million z: an independent computation."""
    mu, log_var = np.array([0.0, 1.5, -0.3]), np.array([0.0, -2.0, 1.0])
    sigma = np.exp(log_var / 2)
    z = mu + sigma * random.standard_normal((1_000_000, 3))
    log_ratio = -0.5 * ((z - mu) / sigma) ** 2 - np.log(sigma) + 0.5 * z**2
    error = log_ratio.std(axis=0) / 1000
    got = kl_per_unit(mu[None].astype("float32"), log_var[None].astype("float32"))[0]
    assert np.all(np.abs(np.asarray(got) - log_ratio.mean(axis=0)) <= 5 * error + 1e-6)


def test_kl_of_an_almost_collapsed_unit_is_exact() -> None:
    mu, log_var = np.array([[1e-5]], "float32"), np.array([[1e-4]], "float32")
    expected = 0.5 * (np.float64(mu) ** 2 + np.expm1(np.float64(log_var)) - np.float64(log_var))
    np.testing.assert_allclose(kl_per_unit(mu, log_var), expected, atol=1e-11)


def test_sample_has_the_mean_and_spread_it_is_given(random: np.random.Generator) -> None:
    epsilon = random.standard_normal((200_000, 2)).astype("float32")
    mu = np.array([[2.0, -1.0]], "float32")
    log_var = np.log(np.array([[0.25, 9.0]], "float32"))
    z = keras.ops.convert_to_numpy(sample_latent(mu, log_var, epsilon))
    np.testing.assert_allclose(z.mean(0), [2.0, -1.0], atol=0.03)
    np.testing.assert_allclose(z.std(0), [0.5, 3.0], rtol=0.01)
