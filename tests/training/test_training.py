"""Training learns, is bit-reproducible, and stops where it should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import settings, small_vae, trained

from facevae.common.errors import UserError
from facevae.evaluation.likelihood import decoder_sigma
from facevae.model.saving import load_model, save_model
from facevae.shards.batches import Shards, load_images
from facevae.training.loop import kl_weight_at
from facevae.training.step import evaluate_split, validation_step


def test_it_learns(shards: Path) -> None:
    _, history = trained(shards, epochs=12, learning_rate=0.01)
    losses = [float(row["val_loss"]) for row in history]
    assert [int(row["epoch"]) for row in history] == list(range(1, 13))
    pixels = load_images(Shards(shards), "validation")
    mean = load_images(Shards(shards), "train").mean(axis=0)
    baseline = np.square(pixels - mean).sum((1, 2, 3)).mean()
    # Better than the mean training image, which is all that a collapsed VAE can give.
    assert losses[-1] < 0.8 * baseline


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_deterministic_to_the_bit(shards: Path, precision: str) -> None:
    """With other optimizers and float16: see tests/training/test_resume.py."""
    changes: dict[str, Any] = {"dropout": 0.1, "precision": precision}
    first, first_history = trained(shards, **changes)
    second, second_history = trained(shards, **changes)
    assert first_history == second_history
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_is_another_training(shards: Path) -> None:
    first, other = (trained(shards, epochs=1, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


@pytest.fixture(scope="module")
def exact(shards: Path) -> list[dict[str, str]]:
    """The history in float32."""
    return trained(shards, epochs=8)[1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_the_same(
    shards: Path, exact: list[dict[str, str]], precision: str
) -> None:
    vae, rounded = trained(shards, epochs=8, precision=precision)
    assert vae.precision == precision
    losses = [[float(row["loss"]) for row in rows] for rows in (exact, rounded)]
    np.testing.assert_allclose(
        losses[1][-1], losses[0][-1], rtol=0.15
    )  # float16 skips its first steps
    assert losses[0] != losses[1]


def test_history_adds_up(shards: Path) -> None:
    vae, history = trained(shards, small_vae(kl_warmup_epochs=3), epochs=3)
    for row in history:
        value = {key: float(cell) for key, cell in row.items()}
        expected = value["reconstruction"] + value["kl_weight"] * value["kl"]
        assert value["loss"] == pytest.approx(expected, abs=1e-4)
        expected = value["val_reconstruction"] + 0.1 * value["val_kl"]
        assert value["val_loss"] == pytest.approx(expected, abs=1e-4)
    assert [float(row["kl_weight"]) for row in history] == [0.025, 0.05, 0.075]
    got = evaluate_split(validation_step(vae, 1), Shards(shards), "validation", 8)
    assert got == pytest.approx(
        (float(history[-1]["val_reconstruction"]), float(history[-1]["val_kl"])), abs=1e-5
    )


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_kl_weight_grows_linearly_and_stays(warmup: int) -> None:
    loss = settings(kl_weight=2.0, kl_warmup_epochs=warmup).loss
    weights = [kl_weight_at(epoch, loss) for epoch in range(warmup + 3)]
    expected = np.minimum(2.0, 2.0 * np.arange(1, warmup + 4) / (warmup + 1))
    np.testing.assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(shards: Path) -> None:
    vae = small_vae()
    _, history = trained(shards, vae, epochs=30, learning_rate=0.1, early_stopping_patience=2)
    losses = [float(row["val_loss"]) for row in history]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 1 - 2
    reconstruction, kl = evaluate_split(validation_step(vae, 1), Shards(shards), "validation", 8)
    assert reconstruction + 0.1 * kl == pytest.approx(min(losses), rel=1e-5)


def test_a_batch_larger_than_the_split_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 49 is more than the 48 images"):
        trained(shards, batch_size=49)


def test_a_loss_that_is_not_finite_stops_with_its_place(shards: Path) -> None:
    vae = small_vae(batch_normalization=False)
    mu = vae.encoder.get_layer("mu")
    kernel, bias = mu.get_weights()
    mu.set_weights([kernel, np.full_like(bias, 1e30)])
    with pytest.raises(UserError, match=r"the kl term is inf in epoch 1, step 1"):
        trained(shards, vae)


@pytest.mark.slow
def test_learned_sigma_follows_the_error_and_is_kept(shards: Path, tmp_path: Path) -> None:
    """As with the statistics of batch normalisation, the moving average is used afterwards."""
    vae, history = trained(shards, small_vae(reconstruction="gaussian", kl_weight=1.0), epochs=30)
    assert float(history[-1]["loss"]) < float(history[0]["loss"])
    save_model(vae, tmp_path / "vae.keras")
    vae = load_model(tmp_path / "vae.keras")
    sigma = decoder_sigma(vae)
    assert sigma is not None
    pixels = 16 * 16 * 3
    # The reported term at the optimum is D (ln sigma + (1 + ln 2 pi) / 2).
    of_last = float(history[-1]["reconstruction"]) / pixels - 0.5 * (1 + np.log(2 * np.pi))
    assert np.log(sigma) == pytest.approx(of_last, abs=0.1)
    test = load_images(Shards(shards), "test")
    outputs = vae(test)
    error = np.square(test - outputs["reconstructions"]).sum((1, 2, 3)).mean()
    expected = error / (2 * sigma**2) + pixels * (np.log(sigma) + 0.5 * np.log(2 * np.pi))
    assert float(vae.loss_terms(test, outputs)[0]) == pytest.approx(expected, rel=1e-4)
    assert decoder_sigma(vae) == sigma  # evaluating does not change it


@pytest.mark.slow
def test_free_bits_hold_the_kl_up_and_history_has_the_true_one(shards: Path) -> None:
    pressed, free = (
        trained(shards, small_vae(kl_weight=50.0, free_bits=bits), epochs=8)[1]
        for bits in (0.0, 1.0)
    )
    assert 1.0 < float(free[-1]["kl"]) < 8.0  # about a nat for each of the four units, at most
    assert float(pressed[-1]["kl"]) < 0.1 * float(free[-1]["kl"])
    for row in free:
        expected = float(row["reconstruction"]) + 50.0 * float(row["kl"])
        assert float(row["loss"]) == pytest.approx(expected, abs=1e-3)
