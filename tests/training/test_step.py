"""A step is gradient descent on the loss, however it is computed."""

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import FIRST_BATCHES, small_vae, train_settings, trained

from facevae.common.errors import UserError
from facevae.common.runtime import enable_determinism
from facevae.shards.batches import Shards, training_batches
from facevae.training.optimizers import build_optimizer
from facevae.training.step import training_step


def test_a_step_is_plain_gradient_descent_on_the_loss(shards: Path) -> None:
    """One SGD step against gradients computed separately, without normalisation."""
    enable_determinism(1)
    vae = small_vae(batch_normalization=False)
    batch = next(iter(training_batches(Shards(shards), **FIRST_BATCHES)))
    before = [weight.numpy() for weight in vae.trainable_variables]
    with tf.GradientTape() as tape:
        mu, log_var = vae.encoder(batch["images"])
        z = mu + tf.exp(log_var / 2) * batch["epsilon"]
        squares = tf.reduce_sum((vae.decoder(z) - batch["images"]) ** 2, (1, 2, 3))
        kl = -0.5 * tf.reduce_sum(1 + log_var - mu**2 - tf.exp(log_var), 1)
        loss = tf.reduce_mean(squares + 0.7 * kl)
    gradients = tape.gradient(loss, vae.trainable_variables)
    step = training_step(vae, keras.optimizers.SGD(1e-3), train_settings())
    reconstruction, kl_term = step(batch, tf.constant(0.7)).numpy()
    assert reconstruction + 0.7 * kl_term == pytest.approx(float(loss), rel=1e-5)
    for old, gradient, weight in zip(before, gradients, vae.trainable_variables, strict=True):
        step_taken = (old - weight.numpy()) / 1e-3
        np.testing.assert_allclose(step_taken, gradient, rtol=1e-3, atol=1e-2)


def test_fit_of_keras_takes_the_same_steps(shards: Path) -> None:
    # Without normalisation: in front of it, Keras' biases would take steps of rounding errors.
    enable_determinism(1)
    ours = small_vae(batch_normalization=False)
    trained(shards, ours, epochs=1)
    enable_determinism(1)
    theirs = small_vae(batch_normalization=False)
    theirs.compile(keras.optimizers.Adam(0.003))
    batches = training_batches(Shards(shards), **FIRST_BATCHES)
    theirs.fit(batches, epochs=1, verbose=0, shuffle=False)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)  # six steps of 0.003


def test_keras_fit_learns_sigma_and_heeds_free_bits(shards: Path) -> None:
    enable_determinism(1)
    vae = small_vae(reconstruction="gaussian", free_bits=0.5)
    vae.compile(keras.optimizers.SGD(0.0))
    batch = next(iter(training_batches(Shards(shards), **FIRST_BATCHES)))
    outputs = vae(batch, training=True)
    mu, log_var = (np.asarray(outputs[name], np.float64) for name in ("mu", "log_var"))
    of_units = -0.5 * (1 + log_var - mu**2 - np.exp(log_var)).mean(axis=0)
    loss, reconstruction, kl = (
        float(each) for each in vae.training_loss(batch["images"], outputs, 0.1)
    )
    assert kl == pytest.approx(of_units.sum(), rel=1e-4)
    pressed = np.maximum(of_units, 0.5).sum()
    assert pressed > kl
    assert loss == pytest.approx(reconstruction + 0.1 * pressed, rel=1e-5)
    vae.log_sigma.assign(-1.0)
    logs = vae.fit(tf.data.Dataset.from_tensors(batch), verbose=0, shuffle=False).history
    assert logs["loss"][0] == pytest.approx(loss, rel=1e-4)
    assert float(vae.log_sigma) != -1.0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_precision_is_that_of_the_layers_alone(shards: Path, precision: str, block: str) -> None:
    vae = small_vae(precision=precision, block=block)
    batch = next(iter(training_batches(Shards(shards), **FIRST_BATCHES)))
    outputs = vae(batch, training=True)
    assert {output.dtype for output in outputs.values()} == {tf.float32}
    assert {term.dtype for term in vae.loss_terms(batch["images"], outputs)} == {tf.float32}
    optimizer = build_optimizer(train_settings(precision=precision), 0.003)
    training_step(vae, optimizer, train_settings())(batch, tf.constant(0.1))
    floats = [variable for variable in optimizer.variables if "int" not in str(variable.dtype)]
    assert {str(variable.dtype) for variable in (*vae.weights, *floats)} == {"float32"}
    hidden = [*vae.encoder.layers[1:-2], *vae.decoder.layers[1:-1]]
    assert {layer.compute_dtype for layer in hidden} == {precision}


@functools.cache
def _one_step(shards: Path, precision: str, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Terms and gradients of a step with 24 images, without layers that mix images of a batch."""
    enable_determinism(1)
    dataset = training_batches(
        Shards(shards), batch_size=24, latent_size=4, horizontal_flips=False, seed=1, epoch=0
    )
    batch = next(iter(dataset))
    enable_determinism(1)
    vae = small_vae(batch_normalization=False, precision=precision)
    before = vae.get_weights()
    optimizer: keras.Optimizer = keras.optimizers.SGD(1.0)
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    step = training_step(vae, optimizer, train_settings(batch_size=24, **changes))
    terms = step(batch, tf.constant(0.7)).numpy()
    moves = (old - new for old, new in zip(before, vae.get_weights(), strict=True))
    return terms, np.concatenate([move.ravel() for move in moves])


@pytest.mark.parametrize(("clip", "parts"), [(None, 2), (None, 24), (1.0, 3)])
def test_accumulated_parts_are_one_batch(shards: Path, clip: float | None, parts: int) -> None:
    terms, gradient = _one_step(shards, "float32", gradient_clip_norm=clip)
    found, accumulated = _one_step(
        shards, "float32", gradient_clip_norm=clip, accumulation_steps=parts
    )
    np.testing.assert_allclose(found, terms, rtol=1e-5)
    assert np.linalg.norm(accumulated - gradient) < 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_accumulated_parts_are_no_less_precise(shards: Path, precision: str) -> None:
    terms, gradient = _one_step(shards, "float32", gradient_clip_norm=None)
    errors = []
    for parts in (1, 3):
        found, rounded = _one_step(shards, precision, accumulation_steps=parts)
        np.testing.assert_allclose(found, terms, rtol=1e-2)
        errors.append(np.linalg.norm(rounded - gradient))
    assert errors[1] < 1.1 * errors[0]


def test_accumulated_parts_move_the_averages_of_normalisation_each(shards: Path) -> None:
    (batch,) = training_batches(Shards(shards), **FIRST_BATCHES).take(1)
    vae = small_vae()
    step = training_step(vae, keras.optimizers.SGD(0.0), train_settings(accumulation_steps=2))
    step(batch, tf.constant(1.0))
    layer = vae.encoder.get_layer("conv_1_normalization")
    convolved = vae.encoder.get_layer("conv_1")(batch["images"]).numpy()
    means = [convolved[part::2].mean((0, 1, 2)) for part in (0, 1)]
    kept = 0.97**0.5  # twice: as much as a whole batch keeps
    expected = (1 - kept) * (kept * means[0] + means[1])
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_that_does_not_split_into_parts_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 8 images .+ 3 equal parts .+ of 3$"):
        trained(shards, accumulation_steps=3)


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ({"dropout": 0.2}, {}),
        ({"dropout": 0.2, "inter_dense": 0, "activation": "elu"}, {"accumulation_steps": 2}),
        ({"batch_normalization": False, "activation": "gelu"}, {"gradient_clip_norm": 1.0}),
        ({"block": "residual", "dropout": 0.2}, {}),
        ({"block": "residual", "batch_normalization": False}, {"accumulation_steps": 2}),
    ],
)
def test_rematerialised_steps_are_the_same(
    shards: Path, network: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Loss terms, weights, averages of normalisation and seeds of dropout, over three steps."""
    dataset = training_batches(Shards(shards), **FIRST_BATCHES)
    results = []
    for rematerialization in (False, True):
        enable_determinism(1)
        vae = small_vae(**network)
        train = train_settings(rematerialization=rematerialization, **changes)
        step = training_step(vae, keras.optimizers.SGD(1e-3), train)
        terms = [step(batch, tf.constant(0.7)).numpy() for batch in dataset.take(3)]
        results.append([np.array(terms), *(variable.numpy() for variable in vae.variables)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_clipping_shortens_all_gradients_together(shards: Path) -> None:
    batch = next(iter(training_batches(Shards(shards), **FIRST_BATCHES)))

    def movement(clip: float | None) -> np.ndarray:
        enable_determinism(1)
        vae = small_vae()
        before = [weight.numpy() for weight in vae.trainable_variables]
        train = train_settings(gradient_clip_norm=clip)
        training_step(vae, keras.optimizers.SGD(1e-3), train)(batch, tf.constant(0.1))
        after = [weight.numpy() for weight in vae.trainable_variables]
        moves = (old - new for old, new in zip(before, after, strict=True))
        return np.concatenate([move.ravel() for move in moves]) / 1e-3

    free = movement(None)
    norm = float(np.linalg.norm(free))
    # Clipped or not, TensorFlow multiplies: by clip * (1 / clip) here, which may not be quite 1.
    # Weights are float32, which leaves some 1e-5 of a movement that was divided by 1e-3.
    np.testing.assert_allclose(movement(2 * norm), free, rtol=1e-5, atol=1e-6 * norm)
    np.testing.assert_allclose(movement(norm / 4), free / 4, rtol=1e-2, atol=1e-3 * norm)
