"""Statistics of latent codes, against NumPy, closed forms and numerical integration."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import make_vae

from facevae.latent import gallery
from facevae.latent.codes import (
    attribute_directions,
    encode_dataset,
    radius_rows,
    sample_posterior,
    unit_rows,
    z_rows,
)
from facevae.shards.batches import Shards, load_images
from facevae.shards.subsets import random_subset


def test_unit_rows_are_numpys_statistics() -> None:
    generator = np.random.default_rng(1)
    mu = generator.normal(0.3, (0.0, 0.5, 2.0), (50, 3)).astype(np.float32)
    log_var = generator.normal(-1.0, 0.5, (50, 3)).astype(np.float32)
    rows = unit_rows(mu, log_var)
    variance = np.exp(log_var.astype(np.float64))
    # ln(sigma_2 / sigma_1) + (sigma_1^2 + (mu_1 - mu_2)^2) / (2 sigma_2^2) - 1 / 2.
    kl = (np.log(1 / np.sqrt(variance)) + (variance + mu.astype(np.float64) ** 2) / 2 - 0.5).mean(0)
    for unit, row in enumerate(rows):
        assert row["unit"] == unit
        assert row["mu_mean"] == pytest.approx(np.mean(mu[:, unit]), abs=2e-6)
        assert row["mu_std"] == pytest.approx(np.std(mu[:, unit]), abs=2e-6)
        assert row["sigma_mean"] == pytest.approx(np.sqrt(variance[:, unit]).mean(), abs=2e-6)
        assert row["kl"] == pytest.approx(kl[unit], abs=2e-6)
    ranks = {row["kl_rank"]: row["kl"] for row in rows}
    assert sorted(ranks) == [1, 2, 3]
    assert ranks[1] >= ranks[2] >= ranks[3]


def test_histograms_of_points_from_the_prior_are_the_priors() -> None:
    count = 200_000
    points = np.random.default_rng(2).standard_normal((count, 4), dtype=np.float32)
    z, radius = z_rows(points), radius_rows(points)
    for rows, x, expected, found, drawn in (
        (z, "z", "normal_density", "density", 4 * count),
        (z, "z", "normal_density", "unit_3", count),
        (radius, "radius", "chi_density", "density", count),
    ):
        width = rows[1][x] - rows[0][x]
        assert sum(row[found] for row in rows) * width == pytest.approx(1, abs=1e-4)
        for row in rows:
            # Five standard deviations of a bin's count. The 0.0015 is for the density at a bin's
            # middle, which differs from its mean over the bin.
            noise = 5 * math.sqrt(max(row[expected], 1e-3) / (width * drawn))
            assert row[found] == pytest.approx(row[expected], abs=noise + 0.0015)


def test_histograms_span_points_far_out_and_units_that_do_nothing() -> None:
    points = np.zeros((10, 2), np.float32)
    points[3, 1] = 1234.5
    for rows, x in ((z_rows(points), "z"), (radius_rows(points), "radius")):
        width = rows[1][x] - rows[0][x]
        assert sum(row["density"] for row in rows) * width == pytest.approx(1, rel=1e-4)
    assert rows[-1]["density"] > 0


def test_directions_go_from_those_without_to_those_with() -> None:
    random = np.random.default_rng(4)
    labels = np.where(random.random((500, 3)) < [0.1, 0.5, 0.9], 1, -1)
    labels[random.random((500, 3)) < 0.3] = 0  # unknown: in neither mean
    mu = random.standard_normal((500, 6), dtype=np.float32)
    found = attribute_directions(mu, labels)
    assert found.dtype == np.float32
    for direction, having in zip(found, labels.T, strict=True):
        expected = np.mean([z for z, has in zip(mu, having, strict=True) if has == 1], axis=0)
        expected -= np.mean([z for z, has in zip(mu, having, strict=True) if has == -1], axis=0)
        assert direction == pytest.approx(expected, abs=1e-5)
    # The directions of uncorrelated attributes are found exactly.
    apart = np.array(list(itertools.product([-1, 1], repeat=3)))
    true = random.standard_normal((3, 6)).astype(np.float32)
    np.testing.assert_allclose(attribute_directions(5 + apart @ true, apart), 2 * true, atol=1e-5)


def test_codes_are_the_networks() -> None:
    vae = make_vae(image_size=16, filters=[4] * 4, latent_size=6, inter_dense=8)
    images = np.random.default_rng(3).random((5, 16, 16, 3), dtype=np.float32)
    mu, log_var = encode_dataset(vae, [images[:2], images[2:4], images[4:]])
    whole_mu, whole_log_var = encode_dataset(vae, [images])
    assert mu.shape == log_var.shape == (5, 6)
    assert mu == pytest.approx(whole_mu, abs=1e-5)
    assert log_var == pytest.approx(whole_log_var, abs=1e-5)

    z = sample_posterior(mu, log_var, seed=4)
    assert np.array_equal(z, sample_posterior(mu, log_var, seed=4))
    noise = (z - mu) / np.exp(0.5 * log_var)
    assert np.abs(noise).max() < 5
    assert not np.array_equal(z, sample_posterior(mu, log_var, seed=5))


def test_directions_of_many_images_are_those_of_a_random_subset(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "LABELLED_IMAGES", 20)
    vae = make_vae(image_size=16, filters=[4], kernel_sizes=[3], strides=[4], latent_size=2)
    data, names = Shards(shards), ["Smiling", "Bangs"]
    mu, _ = encode_dataset(vae, [load_images(data, "train")])

    def directions(numbers: np.ndarray) -> np.ndarray:
        return attribute_directions(mu[numbers], data.labels("train", names)[numbers])

    got = gallery.labelled_directions(vae, data, names)
    np.testing.assert_allclose(got, directions(random_subset(48, 20)), atol=1e-5)
    assert not np.allclose(got, directions(np.arange(20)), atol=1e-3)
