"""Metrics and image grids against TensorFlow's functions and against known answers."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import make_vae, small_vae, write_shards
from PIL import Image
from scipy import stats

from facevae.evaluation import evaluate as evaluate_module
from facevae.evaluation.attribute_classifier import AttributeClassifier, features
from facevae.evaluation.evaluate import OfSamples, evaluate
from facevae.evaluation.feature_metrics import frechet_distance, precision_and_recall
from facevae.evaluation.image_metrics import psnr, sharpness_ratio, ssim
from facevae.evaluation.inputs import RealSets, SampleMetrics
from facevae.evaluation.latent_units import active_units
from facevae.evaluation.sliced_wasserstein import sliced_wasserstein
from facevae.latent.generation import (
    codes_with_directions,
    decoded,
    interpolation_codes,
    mean_codes,
    prior_codes,
    reconstructions,
    samples,
)
from facevae.latent.priors import Prior, normal_prior
from facevae.model.vae import VAE
from facevae.plotting.grids import image_grid, save_grid
from facevae.shards.batches import Shards, load_images, noise
from facevae.shards.blocks import Images


@pytest.fixture(scope="module")
def vae() -> VAE:
    keras.utils.set_random_seed(0)
    return small_vae(kl_weight=0.5)


def test_psnr_equals_tensorflows_and_falls_with_noise() -> None:
    random = np.random.default_rng(0)
    originals = random.random((6, 20, 20, 3))
    last = np.inf
    for strength in (0.01, 0.05, 0.2):
        noisy = np.clip(originals + strength * random.standard_normal(originals.shape), 0, 1)
        got = psnr(originals, noisy)
        np.testing.assert_allclose(got, tf.image.psnr(originals, noisy, 1.0), rtol=1e-5)
        assert got.mean() < last
        last = got.mean()


def test_active_units_are_those_that_vary() -> None:
    mu = np.random.default_rng(0).standard_normal((5000, 4)) * [1.0, 0.2, 0.05, 0.0]
    assert active_units(mu) == 2  # variances 1, 0.04, 0.0025 and 0; the threshold is 0.01


def test_evaluation_by_hand(vae: VAE, shards: Path) -> None:
    got = evaluate(vae, Shards(shards), batch_size=4)
    test = load_images(Shards(shards), "test")
    mu, log_var = (np.asarray(x, np.float64) for x in vae.encoder(test))
    decoded = np.asarray(vae.decoder(mu))
    kl = -0.5 * (1 + log_var - mu**2 - np.exp(log_var)).sum(1).mean()
    assert got["test"]["images"] == len(test) == 6
    assert got["test"]["face_pairs"] is None  # not measured, which is not 0
    assert got["test"]["same_person"] is got["samples"]["face_share"] is None
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
    per_unit = (-0.5 * (1 + log_var - mu**2 - np.exp(log_var))).mean(0)
    summary = [per_unit.min(), np.median(per_unit), per_unit.max()]
    np.testing.assert_allclose(list(got["test"]["kl_per_unit"].values()), summary, atol=1e-6)
    # kl_weight 0.5: sigma is 0.5; the constant is ln(sigma sqrt(2 pi)) per dimension.
    nats = errors.mean() / (2 * 0.25) + kl + test[0].size * np.log(0.5 * np.sqrt(2 * np.pi))
    bits = nats / (test[0].size * np.log(2)) + 8
    assert got["test"]["elbo_bits_per_dimension"] == pytest.approx(bits, rel=1e-6)
    distortion = bits * test[0].size * np.log(2) - 8 * test[0].size * np.log(2) - kl
    assert got["test"]["distortion"] == pytest.approx(distortion, rel=1e-6)
    normal = stats.norm.logpdf(mu).sum(1) - 0.5 * np.exp(log_var).sum(1)
    assert got["test"]["codes_log_likelihood"] == pytest.approx(normal.mean(), rel=1e-5)
    # Without a fitted prior, samples come from N(0, I).
    for name in ("elbo_bits_per_dimension", "codes_log_likelihood"):
        assert got["test"][f"{name}_under_prior"] == got["test"][name]
    assert got["test"]["rate_under_prior"] == got["test"]["kl"]
    assert got["test"]["mismatch_to_normal"] is None
    fitted = Prior(np.ones(1, np.float32), np.ones((1, 4), np.float32), 2 * normal_prior(4).factors)
    under = evaluate(vae, Shards(shards), batch_size=4, prior=fitted)["test"]
    expected = stats.norm(1, 2).logpdf(z).sum(1).mean()
    assert under["codes_log_likelihood_under_prior"] == pytest.approx(expected, rel=1e-5)
    assert got["test"]["ssim"] == pytest.approx(ssim(test, decoded).mean(), rel=1e-5)
    assert got["encoder"]["params"] == vae.encoder.count_params()
    assert got["encoder"]["flattened"] == 4 * 4 * 16


def test_evaluation_of_samples_and_of_other_real_images(vae: VAE, shards: Path) -> None:
    """Means and standard deviations over five draws from each prior, computed here one by one."""
    network, elsewhere = AttributeClassifier(16, 20), 2.0 + np.zeros((1, 4), np.float32)
    prior = replace(normal_prior(4), means=elsewhere)
    options: dict = {"batch_size": 4, "attribute_classifier": network, "prior": prior}
    got = evaluate(vae, Shards(shards), **options)
    assert got == evaluate(vae, Shards(shards), **options)
    real, other = (load_images(Shards(shards), split) for split in ("test", "validation"))
    of_real = features(network, real)

    def measured(images: np.ndarray) -> dict[str, float]:
        of_images = features(network, images)
        published, real_normalization = sliced_wasserstein(real, images)
        precision, recall = precision_and_recall(of_real, of_images)
        return {
            "frechet_distance": frechet_distance(of_real, of_images),
            "precision": precision,
            "recall": recall,
            "swd": published[16],
            "swd_real_normalization": real_normalization[16],
            "sharpness": sharpness_ratio(images, real) or 0.0,
        }

    def level(found: dict) -> dict:
        """In the place of the distances by level, of which there is one."""
        for name in ("swd", "swd_real_normalization"):
            assert found[name].keys() == {"16", "mean"}
            assert found[name]["mean"] == found[name]["16"]
        return {**found, **{name: found[name]["16"] for name in found if name.startswith("swd")}}

    for section, drawn_from in (("samples", prior), ("samples_normal", None)):
        draws = [measured(samples(vae, 6, seed, drawn_from)) for seed in range(5)]
        assert (got[section]["count"], got[section]["draws"]) == (6, 5)
        means, spread = level(got[section]), got[f"{section}_spread"]
        for name in draws[0]:
            values = [draw[name] for draw in draws]
            assert means[name] == pytest.approx(np.mean(values), rel=1e-3, abs=1e-5), name
            assert spread[name] == pytest.approx(np.std(values, ddof=1), rel=0.02, abs=1e-4), name
    assert got["samples"]["sharpness"] != got["samples_normal"]["sharpness"]
    references, expected = level(got["real_images"]), measured(other)
    for name, value in expected.items():
        assert references[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    # The VAE is not trained: its samples are further from faces than other faces are.
    assert means["swd_real_normalization"] > references["swd_real_normalization"]


def test_evaluation_of_a_gaussian_decoder_and_of_a_prior(vae: VAE, shards: Path) -> None:
    """A KL weight of 0.5 implies a sigma of 0.5; no prior means N(0, I)."""
    expected = evaluate(vae, Shards(shards), batch_size=4)
    gaussian = small_vae(kl_weight=0.5, reconstruction="gaussian", sigma=0.5)
    gaussian.set_weights(vae.get_weights())
    got = evaluate(gaussian, Shards(shards), batch_size=4, prior=normal_prior(4))
    assert got["samples"] == got["samples_normal"] == expected["samples"]
    assert got["samples_spread"] == got["samples_normal_spread"] == expected["samples_spread"]
    assert got["test"]["sigma"] == expected["test"]["sigma"] == 0.5
    for name in ("elbo_bits_per_dimension", "distortion", "rate_under_prior"):
        assert got["test"][name] == pytest.approx(expected["test"][name], rel=1e-5)


def test_evaluation_does_not_depend_on_the_train_split(
    vae: VAE, source: Path, tmp_path: Path
) -> None:
    """The attribute classifier has memorised it, so it is no reference for held-out images."""
    found = []
    for images in (48, 4):
        folder = tmp_path / str(images)
        write_shards(source, folder, limit={"train": images, "validation": 5})
        found.append(evaluate(vae, Shards(folder), batch_size=4))
    assert found[0] == found[1]
    assert found[0]["samples"]["count"] == 5  # of 6 test images, and 5 in the validation split


def test_evaluation_takes_another_family_from_the_list(
    vae: VAE, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brightness(SampleMetrics):
        def __init__(self, sets: RealSets) -> None:
            self.sets = sets

        def of(self, images: Images) -> dict[str, float]:
            return {"brightness": float(images[:].mean())}

    # It alone, since the others take time.
    families = [each for each in evaluate_module.FAMILIES if not isinstance(each, OfSamples)]
    monkeypatch.setattr(evaluate_module, "FAMILIES", (*families, OfSamples(Brightness)))
    got = evaluate(vae, Shards(shards), batch_size=4)
    brightness = [samples(vae, 6, seed).mean() for seed in range(5)]
    assert got["samples"]["brightness"] == pytest.approx(np.mean(brightness), abs=1e-5)
    of_real = load_images(Shards(shards), "validation").mean()
    assert got["real_images"] == {"brightness": pytest.approx(of_real, abs=1e-5)}
    assert got["test"]["psnr"] > 0


def test_evaluation_gives_none_for_undefined_metrics(source: Path, tmp_path: Path) -> None:
    """Images of 8 pixels are too small for most metrics; with bce there is no likelihood."""
    write_shards(source, tmp_path, image_size=8, limit={"test": 1})
    small = make_vae(
        image_size=8, filters=[4], kernel_sizes=[3], strides=[2], latent_size=2,
        reconstruction="bce",
    )  # fmt: skip
    network = AttributeClassifier(8, 20)
    got = evaluate(small, Shards(tmp_path), batch_size=4, attribute_classifier=network)
    bounds = "distortion", "elbo_bits_per_dimension", "elbo_bits_per_dimension_under_prior"
    for name in ("ssim", "ms_ssim", *bounds):
        assert got["test"][name] is None
    assert got["test"]["rate_under_prior"] == got["test"]["kl"]
    assert got["samples"]["count"] == 1
    for section in ("samples", "samples_normal", "real_images"):
        assert got[section]["swd"] == {"mean": None}
        for name in ("frechet_distance", "precision", "recall", "fid", "diversity"):
            assert got[section][name] is None
        assert got[section]["sharpness"] > 0
    assert got["samples_spread"]["swd"] is got["samples_spread"]["fid"] is None
    assert got["samples_spread"]["sharpness"] > 0


def test_samples_of_all_models_have_the_same_latent_codes(vae: VAE) -> None:
    points = prior_codes(6, 4, seed=5)
    assert points.shape == (6, 4)
    np.testing.assert_array_equal(points, prior_codes(6, 4, seed=5))
    assert not np.array_equal(points, prior_codes(6, 4, seed=6))
    # A batch of another size may be summed in another order.
    np.testing.assert_allclose(samples(vae, 6, seed=5), vae.decoder(points), atol=1e-6)


def test_interpolations_end_at_the_two_faces(vae: VAE, shards: Path) -> None:
    test = load_images(Shards(shards), "test")
    codes = mean_codes(vae, test[:4])
    lines = decoded(vae, interpolation_codes(codes[:2], codes[2:], 5))[:].reshape(2, 5, 16, 16, 3)
    np.testing.assert_allclose(lines[:, 0], reconstructions(vae, test[:2]), atol=1e-5)
    np.testing.assert_allclose(lines[:, -1], reconstructions(vae, test[2:4]), atol=1e-5)
    mu = np.asarray(vae.encode(test)[0])
    np.testing.assert_allclose(lines[1, 2], vae.decoder((mu[1:2] + mu[3:4]) / 2)[0], atol=1e-5)


def test_directions_are_added_in_z(vae: VAE, shards: Path) -> None:
    test = load_images(Shards(shards), "test", 2)
    directions = np.array([[0, 0, 0, 0], [1, -2, 0, 3]], np.float32)
    made = decoded(vae, codes_with_directions(mean_codes(vae, test), directions))
    assert made.shape == (4, 16, 16, 3)
    shown = made[:].reshape(2, 2, 16, 16, 3)
    np.testing.assert_allclose(shown[:, 0], reconstructions(vae, test), atol=1e-5)
    mu = np.asarray(vae.encode(test)[0])
    np.testing.assert_allclose(shown[:, 1], vae.decoder(mu + directions[1]), atol=1e-5)


def test_grid_has_a_title_over_each_column(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).random((6, 64, 64, 3))
    save_grid(pictures, 3, tmp_path / "bare.png")
    save_grid(pictures, 3, tmp_path / "titled.png", ["one", "+ Mouth\nSlightly\nOpen", "three"])
    bare, titled = (np.asarray(Image.open(tmp_path / name)) for name in ("bare.png", "titled.png"))
    above = len(titled) - len(bare)
    np.testing.assert_array_equal(titled[above:], bare)
    ink = titled[:above].min(axis=(0, 2)) < 128
    for column in range(3):
        middle = 2 + 66 * column + 32
        assert ink[middle - 20 : middle + 20].any()
        assert not ink[middle - 34 : middle - 31].any()  # no title reaches its neighbour


def test_grid_puts_images_in_reading_order() -> None:
    greys = np.linspace(0, 1, 6, dtype=np.float32)
    grid = np.asarray(image_grid(np.broadcast_to(greys[:, None, None, None], (6, 4, 4, 3)), 3))
    assert grid.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    middles = [grid[4 + 6 * row, 4 + 6 * column, 0] for row in range(2) for column in range(3)]
    assert middles == [0, 51, 102, 153, 204, 255]
    assert grid[0].min() == 255
    with pytest.raises(ValueError, match="do not fill rows of 4"):
        image_grid(np.zeros((6, 4, 4, 3)), 4)
