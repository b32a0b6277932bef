"""The statistics that a trained model keeps, against NumPy's, and how a step moves them."""

import io
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import settings, small_vae

from facevae.model.layers import MOMENTUM
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, training_batches
from facevae.training.loop import train
from facevae.training.optimizers import build_optimizer
from facevae.training.statistics import recompute_statistics
from facevae.training.step import training_step


def _train_settings(**changes: Any):
    changes = {"batch_size": 16, "epochs": 2, "warmup_steps": 0, **changes}
    return settings(**changes).train


def _last_pass(vae: VAE, shards: Shards, batch_size: int, epochs: int) -> list[dict[str, Any]]:
    """The batches that statistics are computed from."""
    batches = training_batches(
        shards,
        batch_size=batch_size,
        latent_size=vae.latent_size,
        horizontal_flips=False,
        seed=1,
        epoch=epochs,
    )
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def _inputs_of_normalizations(network: keras.Model, inputs: Any) -> list[np.ndarray]:
    found = [layer for layer in network.layers if hasattr(layer, "moving_mean")]
    whole = keras.Model(network.input, [layer.input for layer in found])
    outputs = whole(inputs, training=True)
    return [np.asarray(each, np.float64) for each in tf.nest.flatten(outputs)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_statistics_of_a_trained_model_are_those_of_its_last_weights(
    shards: Path, parts: int
) -> None:
    """Every layer's, as NumPy computes them from what comes into the layer; then sigma's."""
    vae = small_vae(reconstruction="gaussian", sigma="learned")
    content = Shards(shards)
    settings = _train_settings(accumulation_steps=parts)
    train(vae, content, settings, history=io.StringIO())
    recompute_statistics(vae, content, settings)
    kept = [weight.numpy() for weight in vae.weights]
    batches = _last_pass(vae, content, settings.batch_size // parts, settings.epochs)

    moments: list[list[tuple[np.ndarray, np.ndarray]]] = []
    for batch in batches:
        mu, log_var = (np.asarray(each) for each in vae.encode(batch["images"], training=True))
        z = mu + np.exp(0.5 * log_var) * batch["epsilon"]
        inputs = [
            *_inputs_of_normalizations(vae.encoder, batch["images"]),
            *_inputs_of_normalizations(vae.decoder, z),
        ]
        moments.append([(each.mean((0, 1, 2)), each.var((0, 1, 2))) for each in inputs])
    for variable, value in zip(vae.weights, kept, strict=True):  # the passes above moved averages
        variable.assign(value)

    assert len(vae.normalizations) == len(moments[0]) == 3
    for number, layer in enumerate(vae.normalizations):
        mean, variance = np.mean([each[number] for each in moments], axis=0)
        np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-4)

    errors = [
        np.mean((np.asarray(vae(batch)["reconstructions"]) - batch["images"]) ** 2)
        for batch in batches
    ]
    assert float(vae.log_sigma) == pytest.approx(0.5 * math.log(np.mean(errors)), abs=1e-4)


def test_statistics_are_computed_alike_a_second_time(shards: Path) -> None:
    """They depend on the weights and the images alone, not on the averages before."""
    vae, content = small_vae(), Shards(shards)
    recompute_statistics(vae, content, _train_settings())
    first = [weight.numpy() for weight in vae.weights]
    for layer in vae.normalizations:
        layer.moving_mean.assign(layer.moving_mean + 5.0)
    recompute_statistics(vae, content, _train_settings())
    for before, after in zip(first, vae.weights, strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    assert [layer.momentum for layer in vae.normalizations] == [MOMENTUM] * 3


def test_a_batch_in_parts_moves_averages_as_far_as_a_whole_one() -> None:
    """Four parts of the same images have the statistics of the whole batch."""
    images = np.tile(np.random.default_rng(0).random((2, 16, 16, 3), np.float32), (4, 1, 1, 1))
    # A strided split: every fourth image goes into one part.
    batch = {"images": np.repeat(images[:2], 4, axis=0), "epsilon": np.zeros((8, 4), np.float32)}
    moved = []
    for parts in (1, 4):
        vae = small_vae(reconstruction="gaussian", sigma="learned")
        settings = _train_settings(accumulation_steps=parts, batch_size=8)
        step = training_step(vae, build_optimizer(settings, 1e-3), settings)
        step({name: tf.constant(value) for name, value in batch.items()}, tf.constant(1.0))
        moved.append(
            [layer.moving_mean.numpy() for layer in vae.normalizations] + [vae.log_sigma.numpy()]
        )
    for whole, in_parts in zip(*moved, strict=True):
        np.testing.assert_allclose(in_parts, whole, rtol=1e-4, atol=1e-7)
