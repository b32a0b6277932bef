"""Metrics against formulas computed in another way, known answers, and known defects."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import blurred, make_vae, noisy, write_shards
from scipy import stats

from facevae.common.errors import UserError
from facevae.evaluation import sliced_wasserstein as swd_module
from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
from facevae.evaluation.image_metrics import (
    diversity,
    ms_ssim,
    ms_ssim_scales,
    sharpness,
    sharpness_ratio,
    ssim,
)
from facevae.evaluation.inputs import Inputs, ReconstructedBatch
from facevae.evaluation.likelihood import (
    RateAndDistortion,
    bits_per_dimension,
    decoder_sigma,
    elbo_bits_per_dimension,
)
from facevae.evaluation.sliced_wasserstein import (
    RealPatches,
    laplacian_level,
    pyramid_sides,
    sliced_wasserstein,
)
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.shards.batches import Shards


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def faces(source: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """60 drawn faces, (60, 48, 48, 3)."""
    from facevae.shards.batches import load_images

    folder = tmp_path_factory.mktemp("quality") / "shards"
    write_shards(source, folder, image_size=48)
    splits = ("train", "validation", "test")
    return np.concatenate([load_images(Shards(folder), split) for split in splits])


def ssim_maps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast-structure factor of one channel at every whole window, float64."""
    offsets = np.arange(11) - 5.0
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(values, (11, 11))
        return (windows * window).sum((-2, -1))

    a, b = mean(first), mean(second)
    c1, c2 = 0.01**2, 0.03**2
    variances = mean(first**2) - a**2 + mean(second**2) - b**2
    structure = (2 * (mean(first * second) - a * b) + c2) / (variances + c2)
    return (2 * a * b + c1) / (a**2 + b**2 + c1) * structure, structure


def test_quality_ssim_and_ms_ssim_are_those_of_the_papers(faces: np.ndarray) -> None:
    first, second = faces[:3], noisy(faces[:3], 0.05)
    single, multiple = [], []
    weights = np.array([0.0448, 0.2856, 0.3001])[: ms_ssim_scales(48)]
    for x, y in zip(first.astype(np.float64), second.astype(np.float64), strict=True):
        of_channels, of_scales = [], []
        for c in range(3):
            a, b, powers = x[..., c], y[..., c], []
            of_channels.append(ssim_maps(a, b)[0].mean())
            for scale in range(len(weights)):
                values, structure = ssim_maps(a, b)
                last = scale == len(weights) - 1
                powers.append((values if last else structure).mean())
                a, b = (v.reshape(len(v) // 2, 2, -1, 2).mean((1, 3)) for v in (a, b))
            of_scales.append(np.prod(np.array(powers) ** (weights / weights.sum())))
        single.append(np.mean(of_channels))
        multiple.append(np.mean(of_scales))
    np.testing.assert_allclose(ssim(first, second), single, rtol=1e-4)
    np.testing.assert_allclose(ms_ssim(first, second), multiple, rtol=1e-4)


def test_quality_ssim_falls_with_noise_and_blur(faces: np.ndarray) -> None:
    for measure in (ssim, ms_ssim):
        np.testing.assert_allclose(measure(faces, faces), 1.0, atol=1e-6)
        values = [measure(faces, noisy(faces, s)).mean() for s in (0.01, 0.05, 0.2)]
        assert 1 > values[0] > values[1] > values[2] > 0
        once, twice = blurred(faces), blurred(blurred(faces))
        assert 1 > measure(faces, once).mean() > measure(faces, twice).mean()


def test_quality_ms_ssim_has_the_scales_that_fit() -> None:
    assert [ms_ssim_scales(side) for side in (16, 22, 64, 96, 175, 176, 512)] == [
        1,
        2,
        3,
        4,
        4,
        5,
        5,
    ]
    pair = np.random.default_rng(0).random((2, 2, 176, 176, 3)).astype(np.float32)
    whole = tf.image.ssim_multiscale(*pair, 1.0)
    np.testing.assert_allclose(
        ms_ssim(*pair), whole, rtol=1e-3
    )  # TensorFlow's exponents sum to 1.0001


def test_quality_refuses_images_that_are_too_small(random: np.random.Generator) -> None:
    tiny = random.random((4, 10, 10, 3))
    for measure in (ssim, ms_ssim, sliced_wasserstein):
        with pytest.raises(UserError, match=r"needs images of .* pixels or more, not 10 x 10"):
            measure(tiny, tiny)
    with pytest.raises(UserError, match="MS-SSIM needs images of 22 x 22"):
        diversity(random.random((4, 16, 16, 3)))
    with pytest.raises(ValueError, match="not pairs"):
        ssim(random.random((4, 16, 16, 3)), random.random((3, 16, 16, 3)))
    with pytest.raises(ValueError, match="no pairs"):
        diversity(random.random((1, 32, 32, 3)))


def test_quality_diversity_falls_when_modes_are_dropped(faces: np.ndarray) -> None:
    """Diversity is measured as a similarity, which rises."""
    few = faces[np.arange(60) % 3]
    assert diversity(np.repeat(faces[:1], 5, axis=0)) == pytest.approx(1.0, abs=1e-6)
    assert diversity(few) > diversity(faces) + 0.1
    assert diversity(faces, seed=3) == diversity(faces, seed=3) != diversity(faces, seed=4)
    # Two images make the same pair twice.
    assert diversity(faces[:2]) == pytest.approx(ms_ssim(faces[:1], faces[1:2])[0], rel=1e-6)


def test_quality_diversity_is_the_mean_over_pairs_and_takes_no_copy_of_the_set() -> None:
    images = np.random.default_rng(1).random((1000, 24, 24, 3), np.float32)
    order = np.random.default_rng(3).permutation(len(images))
    pairs = np.mean(ms_ssim(images[order], images[np.roll(order, 1)]))
    tracemalloc.start()
    try:
        assert diversity(images, seed=3) == pytest.approx(pairs, rel=1e-9)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < images.nbytes / 2


def test_quality_sharpness_of_a_known_image(faces: np.ndarray) -> None:
    """A wave a cos(kx) has the Laplacian (2 cos k - 2) a cos(kx)."""
    k = 2 * np.pi / 8
    wave = 0.5 + 0.25 * np.cos(k * np.arange(34))
    images = np.broadcast_to(wave[:, None, None], (2, 34, 34, 3))
    expected = (2 * np.cos(k) - 2) ** 2 * 0.25**2 / 2
    assert sharpness(images) == pytest.approx(expected, rel=1e-9)
    assert sharpness_ratio(0.5 * images, images) == pytest.approx(0.25, rel=1e-9)
    assert sharpness_ratio(images, np.full((1, 9, 9, 3), 0.5)) is None

    assert sharpness_ratio(faces, faces) == 1.0
    once = sharpness_ratio(blurred(faces), faces)
    twice = sharpness_ratio(blurred(blurred(faces)), faces)
    noise = sharpness_ratio(noisy(faces, 0.05), faces)
    assert once is not None
    assert twice is not None
    assert noise is not None
    assert 0.5 > once > twice
    assert noise > 1


def test_quality_pyramid_is_that_of_the_paper(random: np.random.Generator) -> None:
    """Against inserted zeros, a 5x5 filter and mirrored edges, pixel by pixel."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    def smoothed(image: np.ndarray) -> np.ndarray:
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(0, 1))
        return np.einsum("hwcij,ij->hwc", windows, kernel)

    image = random.random((32, 32, 3))
    half = smoothed(image)[::2, ::2]
    spread = np.zeros_like(image)
    spread[::2, ::2] = half
    expected = image - 4 * smoothed(spread)
    np.testing.assert_allclose(laplacian_level(image[None], 0, 2)[0], expected, atol=1e-6)
    np.testing.assert_allclose(laplacian_level(image[None], 1, 2)[0], half, atol=1e-6)
    assert [pyramid_sides(side) for side in (96, 48, 16, 15)] == [[96, 48, 24], [48, 24], [16], []]
    assert pyramid_sides(66) == [66, 33]


def test_quality_swd_of_known_sets(random: np.random.Generator) -> None:
    """A constant added to a channel: normalisation by the set itself removes it.

    With real normalisation it shifts every patch by the same vector v. The distance along a
    direction d is then |v . d|, whatever the distribution of the patches.
    """
    real = random.random((40, 16, 16, 3)).astype(np.float32)
    got = sliced_wasserstein(real, real)
    # Some processors' matrix products round a row by the number of rows: 1e-5 on AMD's Zen 3.
    for distances in got:
        assert distances == pytest.approx({16: 0.0}, abs=1e-3)
    moved = real + np.array([0.1, 0.0, 0.0], np.float32)
    got = sliced_wasserstein(real, moved)
    assert got.published[16] < 0.01
    # 49 values move by 0.1 / deviation; mean |d . v| over random unit d of 147 dimensions.
    length = 0.1 / np.sqrt(1 / 12) * 7
    directions = random.standard_normal((200_000, 147))
    share = np.abs(directions[:, 0] / np.linalg.norm(directions, axis=1)).mean()
    # |cos| has a standard deviation of 0.75 of its mean: 3.3 % for the mean of 512 directions.
    assert got.real_normalization[16] == pytest.approx(1e3 * length * share, rel=0.1)
    assert sliced_wasserstein(real, 1 - moved).published[16] > 1  # another distribution


def test_quality_swd_by_sorting_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One level, patches cut out one by one."""
    source = np.random.default_rng(5)
    real, generated = source.random((2, 3, 17, 17, 3)).astype(np.float32)
    generated = generated**2
    got = sliced_wasserstein(real, generated, seed=7)

    random = np.random.default_rng(7)
    corners = random.integers(11, size=(3, 128, 2), dtype=np.int16)
    directions = random.standard_normal((147, 512))
    directions /= np.sqrt((directions**2).sum(0))
    cut = [
        np.array(
            [x[i : i + 7, j : j + 7] for x, at in zip(images, corners, strict=True) for i, j in at],
            np.float64,
        )
        for images in (real, generated)
    ]

    def normalized(patches: np.ndarray, like: np.ndarray) -> np.ndarray:
        scaled = (patches - like.mean((0, 1, 2))) / like.std((0, 1, 2))
        return np.sort(scaled.reshape(-1, 147) @ directions, axis=0)

    reference = normalized(cut[0], cut[0])
    for name, like in (("published", cut[1]), ("real_normalization", cut[0])):
        expected = 1e3 * np.abs(reference - normalized(cut[1], like)).mean()
        assert getattr(got, name)[17] == pytest.approx(expected, rel=1e-4)

    monkeypatch.setenv("FACEVAE_PROCESSES", "1")
    monkeypatch.setattr(swd_module, "_PROJECTIONS", 10 * 3 * 4 * 3 * 128)  # ten at a time
    in_parts = sliced_wasserstein(real, generated, seed=7)
    assert in_parts.published[17] == pytest.approx(got.published[17], rel=1e-6)
    # Held projections serve several sets.
    monkeypatch.undo()
    held = RealPatches(real, seed=7, held=True)
    assert held.distances(real).published[17] < 1e-3
    assert held.distances(generated) == got


def test_quality_swd_grows_with_every_defect(faces: np.ndarray) -> None:
    real, fresh = faces[:30], faces[30:]
    reference = sliced_wasserstein(real, fresh)
    assert list(reference.published) == list(reference.real_normalization) == [48, 24]
    finest = max(reference.published[48], reference.real_normalization[48])
    noise = [sliced_wasserstein(real, noisy(fresh, s)).published[48] for s in (0.05, 0.2)]
    assert finest < noise[0] < noise[1]
    once = sliced_wasserstein(real, blurred(fresh))
    twice = sliced_wasserstein(real, blurred(blurred(fresh)))
    assert finest < once.real_normalization[48] < twice.real_normalization[48]
    assert once.real_normalization[48] > once.published[48]  # which hides blur
    one = sliced_wasserstein(real, np.repeat(fresh[:1], 30, axis=0))
    assert one.real_normalization[24] > 1.5 * reference.real_normalization[24]
    grey = sliced_wasserstein(
        real, np.full_like(fresh, 0.5)
    )  # images of one colour: no division by 0
    assert all(math.isfinite(x) for form in grey for x in form.values())
    assert grey.real_normalization[48] > twice.real_normalization[48]


def test_quality_swd_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 64 * 2**20
    monkeypatch.setattr(swd_module, "_PROJECTIONS", bound)
    random = np.random.default_rng(0)
    real, other = random.random((2, 300, 16, 16, 3), np.float32)
    tracemalloc.start()
    try:
        sliced_wasserstein(real, other)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # In addition: the patches of both sets, and a copy of one block's with their indices,
    # 64 * 128 * 147 * (4 + 8) bytes. All projections at once would take 225 MiB.
    patches = 2 * 300 * 128 * 147 * 4
    assert peak < bound + patches + 30 * 2**20


def test_quality_frechet_distance_of_known_gaussians(random: np.random.Generator) -> None:
    """Commuting covariances: |m1 - m2|^2 + sum of (s1 - s2)^2; exact for standardised samples."""
    x = random.standard_normal((500, 4))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T  # covariance I exactly
    turn, _ = np.linalg.qr(random.standard_normal((4, 4)))
    first, second = np.array([1.0, 2.0, 3.0, 0.5]), np.array([2.0, 2.0, 1.0, 0.0])
    mean = np.array([0.3, 0.0, -1.0, 2.0])
    got = frechet_distance((x * first) @ turn, (x * second + mean) @ turn)
    assert got == pytest.approx(((first - second) ** 2).sum() + (mean**2).sum(), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    # In one dimension; and for covariances that do not commute, by the product's own eigenvalues.
    assert frechet_distance(x[:, :1], 3 * x[:, :1] + 1) == pytest.approx(4 + 1, rel=1e-9)
    other = x @ random.standard_normal((4, 4))
    values = np.linalg.eigvals(np.diag(first**2) @ np.cov(other, rowvar=False)).real
    expected = (first**2).sum() + np.cov(other, rowvar=False).trace() - 2 * np.sqrt(values).sum()
    assert frechet_distance(x * first, other) == pytest.approx(expected, rel=1e-6)


def test_quality_precision_and_recall_of_a_mixture(random: np.random.Generator) -> None:
    """Two modes far apart, of which the other set has one; a set with half its points far off."""
    left, right, nowhere = (random.standard_normal((200, 5)) + at for at in (0, 50, 1000))
    both = np.concatenate([left, right])
    one = random.standard_normal((400, 5))
    precision, recall = precision_and_recall(both, one)
    assert precision > 0.9
    assert 0.45 < recall <= 0.5  # the right half is out of reach
    precision, recall = precision_and_recall(one, np.concatenate([left, nowhere]))
    assert 0.45 < precision <= 0.5
    assert recall > 0.9
    assert precision_and_recall(both, both) == (1.0, 1.0)
    assert precision_and_recall(left, nowhere) == (0.0, 0.0)
    with pytest.raises(ValueError, match="3 neighbours"):
        precision_and_recall(both, both[:3])


def test_quality_precision_and_recall_by_hand() -> None:
    """Points on a line; radii are distances to the second nearest neighbour."""
    real = np.array([[0.0], [1.0], [3.0], [7.0]])  # radii 3, 2, 3, 6: [-3, 13] in all
    generated = np.array([[-3.1], [-2.9], [12.0], [40.0], [41.0]])
    # radii 15.1, 14.9, 15.1, 29, 29: [-18.2, 27.1] and [11, 70]
    assert precision_and_recall(real, generated, neighbours=2) == (2 / 5, 1.0)
    precision, recall = precision_and_recall(generated, real + 30, neighbours=2)
    assert precision == 1.0  # 30, 31, 33 and 37 are within [11, 70]
    assert recall == 2 / 5  # [27, 43] holds 40 and 41


@pytest.fixture
def vae() -> VAE:
    """One latent unit: the likelihood is an integral over a line."""
    keras.utils.set_random_seed(1)
    vae = make_vae(
        image_size=16, filters=[8, 16], kernel_sizes=[3, 3], strides=[2, 2], latent_size=1,
        kl_weight=0.5,
    )  # fmt: skip
    for weights in vae.decoder.trainable_weights:
        weights.assign(weights + 0.3 * np.random.default_rng(2).standard_normal(weights.shape))
    return vae


def marginal_and_elbo(vae: VAE, image: np.ndarray, sigma: float) -> tuple[float, float]:
    """ln p(x) and the ELBO, nats, summed over a fine grid of z."""
    z = np.linspace(-8, 8, 4001)
    decoded = np.asarray(vae.decoder(z[:, None].astype(np.float32)), np.float64)
    residuals = ((decoded - image) / sigma).reshape(len(z), -1)
    density = (-0.5 * residuals**2 - np.log(sigma * np.sqrt(2 * np.pi))).sum(1)
    prior = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    mu, log_var = (float(x[0, 0]) for x in vae.encode(image[None]))
    deviation = np.exp(log_var / 2)
    posterior = -0.5 * ((z - mu) / deviation) ** 2 - np.log(deviation * np.sqrt(2 * np.pi))
    step = z[1] - z[0]
    marginal = np.logaddexp.reduce(density + prior) + np.log(step)
    elbo = (np.exp(posterior) * (density + prior - posterior)).sum() * step
    return marginal, elbo


def elbo_bits(vae: VAE, images: np.ndarray, sigma: float) -> np.ndarray:
    """The ELBO of each image with one z, from squared errors and KL terms computed in NumPy."""
    mu, log_var = (np.asarray(x, np.float64) for x in vae.encode(images))
    z = mu + np.exp(log_var / 2) * np.random.default_rng(4).standard_normal(mu.shape)
    errors = np.square(np.asarray(vae.decoder(z.astype(np.float32)), np.float64) - images)
    kl = -0.5 * (1 + log_var - mu**2 - np.exp(log_var)).sum(1)
    # The loss then implies a Gaussian Decoder of this sigma.
    vae.loss_settings = vae.loss_settings.model_copy(update={"kl_weight": 2 * sigma**2})
    return elbo_bits_per_dimension(vae, errors.sum((1, 2, 3)), kl, dimensions=images[0].size)


def test_metric_bounds_against_the_integral(vae: VAE) -> None:
    """Means over 4,000 draws of one image, within five standard errors."""
    sigma = 1.5
    image = np.random.default_rng(3).random((16, 16, 3)).astype(np.float32)
    marginal, elbo = marginal_and_elbo(vae, image, sigma)
    assert marginal - elbo > 0.02  # far enough apart to distinguish

    copies = np.broadcast_to(image, (4000, *image.shape))
    got = elbo_bits(vae, copies, sigma)
    expected = bits_per_dimension(elbo, image.size)
    error = got.std() / np.sqrt(len(got))
    assert abs(got.mean() - expected) <= 5 * error
    assert 5 * error < 0.3 * (marginal - elbo) / (image.size * np.log(2))


def test_metric_rate_distortion_and_mismatch_of_a_linear_gaussian_model(shards: Path) -> None:
    """x = W z + noise with z from the prior N(a, S), and the exact posterior, all in closed form.

    q(z) is then the prior, the mismatch is KL(N(a, S) || N(0, I)), and the bound under the prior is
    ln p(x) itself. Means over 20,000 images, within five standard errors.
    """
    random, count, latent, sigma = np.random.default_rng(7), 20_000, 3, 0.5
    dimensions = 16 * 16 * 3
    weights = np.linalg.qr(random.standard_normal((dimensions, latent)))[0] * [3.0, 1.0, 0.3]
    mean, variance = np.array([0.5, -1.0, 2.0]), np.array([4.0, 0.25, 1.0])
    codes = mean + np.sqrt(variance) * random.standard_normal((count, latent))
    # W's columns are orthogonal: projected onto them, the rest of the noise plays no part.
    scale = np.square(weights).sum(0)
    seen = codes + sigma / np.sqrt(scale) * random.standard_normal((count, latent))
    rest = random.chisquare(dimensions - latent, count) * sigma**2  # of it, the squared length
    posterior = 1 / (1 / variance + scale / sigma**2)
    mu = posterior * (mean / variance + seen * scale / sigma**2)
    z = mu + np.sqrt(posterior) * random.standard_normal((count, latent))
    errors = rest + (scale * np.square(seen - z)).sum(1)
    constant = dimensions / 2 * np.log(2 * np.pi * sigma**2)

    prior = Prior(
        np.ones(1, np.float32),
        mean[None].astype(np.float32),
        np.diag(np.sqrt(variance))[None].astype(np.float32),
    )
    vae = make_vae(
        image_size=16, filters=[2], kernel_sizes=[3], strides=[4], latent_size=latent,
        reconstruction="gaussian", sigma=sigma,
    )  # fmt: skip
    metrics = RateAndDistortion(Inputs(vae, Shards(shards), 32, prior, None, None, False))
    log_var = np.broadcast_to(np.log(posterior), mu.shape)
    kl = 0.5 * (np.square(mu) + posterior - 1 - log_var)
    terms = np.stack([errors / (2 * sigma**2) + constant, kl.sum(1)], axis=1)
    for block in (slice(0, 7000), slice(7000, count)):
        blank = np.empty((len(mu[block]), 0))
        of_block = terms[block].mean(0), kl[block].mean(0)
        metrics.update(
            ReconstructedBatch(blank, blank, mu[block], log_var[block], z[block], *of_block)
        )
    got = metrics.result()

    def within(name: str, expected: float, per_image: np.ndarray) -> None:
        error = per_image.std() / np.sqrt(count)
        assert error < 0.02 * abs(expected), name
        assert abs(got[name] - expected) <= 5 * error, name

    under_prior = stats.norm(mean, np.sqrt(variance)).logpdf(z).sum(1)
    information = 0.5 * np.log(variance / posterior).sum()  # of z about x: 1/2 ln det
    mismatch = 0.5 * (variance + np.square(mean) - 1 - np.log(variance)).sum()
    within("rate_under_prior", information, under_prior)
    within("mismatch_to_normal", mismatch, under_prior - stats.norm.logpdf(z).sum(1))
    within(
        "codes_log_likelihood_under_prior",
        -stats.norm(mean, np.sqrt(variance)).entropy().sum(),
        under_prior,
    )
    assert got["rate_under_prior"] + got["mismatch_to_normal"] == pytest.approx(terms[:, 1].mean())
    # ln p(x): of the part that codes see, N(W a, W S W' + sigma^2), and of the rest.
    spread = np.sqrt(variance + sigma**2 / scale)
    marginal = stats.norm(mean, spread).logpdf(seen).sum(1) - 0.5 * np.log(scale).sum()
    marginal += -rest / (2 * sigma**2) - (dimensions - latent) / 2 * np.log(2 * np.pi * sigma**2)
    bits = bits_per_dimension(marginal, dimensions)
    loose = -(terms[:, 0] + terms[:, 1])
    noise = np.std(loose - marginal) / np.sqrt(count) / (dimensions * np.log(2))
    assert abs(got["elbo_bits_per_dimension_under_prior"] - bits.mean()) <= 5 * noise
    # Under N(0, I) the bound is worse by the mismatch, which is far more than that.
    worse = got["elbo_bits_per_dimension"] - got["elbo_bits_per_dimension_under_prior"]
    assert worse == pytest.approx(mismatch / (dimensions * np.log(2)), rel=0.02)
    assert worse > 50 * noise


def test_metric_bits_per_dimension_of_known_densities(vae: VAE, faces: np.ndarray) -> None:
    # A uniform density over [0, 1] takes the 8 bits of 256 levels.
    assert bits_per_dimension(0.0, 100) == 8
    assert bits_per_dimension(100 * math.log(2.0), 100) == 7
    # The posterior is now N(0, I), and with a sigma this large only the constant remains.
    for head in ("mu", "log_var"):
        for weights in vae.encoder.get_layer(head).weights:
            weights.assign(np.zeros(weights.shape))
    images = faces[:3, :16, :16]
    got = elbo_bits(vae, images, 1e4)
    constant = math.log2(1e4 * math.sqrt(2 * math.pi)) + 8
    np.testing.assert_allclose(got, constant, rtol=1e-6)
    assert np.all(elbo_bits(vae, noisy(images, 0.5), 0.5) > elbo_bits(vae, blurred(images), 0.5))


def test_metric_sigma_is_what_the_loss_implies() -> None:
    """The loss is 2 sigma^2 times the negative ELBO, up to a constant."""

    def sigma(**loss) -> float | None:
        small: dict[str, Any] = {"filters": [2], "kernel_sizes": [3], "strides": [2]}
        return decoder_sigma(make_vae(image_size=8, latent_size=1, **small, **loss))

    assert sigma(kl_weight=1.0) == pytest.approx(math.sqrt(0.5))
    assert sigma(kl_weight=0.08) == pytest.approx(0.2)
    assert sigma(reconstruction="bce") is None
    assert sigma(kl_weight=0.0) is None
    assert sigma(reconstruction="gaussian", sigma=0.3, kl_weight=5.0) == pytest.approx(0.3)
    # A learned sigma, before the first batch.
    assert sigma(reconstruction="gaussian") == pytest.approx(math.exp(-1.0))
