"""Optimizers are Keras' own, learn in each precision, and average the weights."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import FIRST_BATCHES, small_vae, train_settings, trained

from facevae.common.runtime import enable_determinism
from facevae.shards.batches import Shards, training_batches
from facevae.training.optimizers import (
    FactoredAdafactor,
    FusedAdam,
    FusedSGD,
    build_optimizer,
    learning_rate,
)
from facevae.training.step import evaluate_split, training_step, validation_step


@pytest.mark.parametrize(
    ("lean", "plain"),
    [
        (FusedAdam(0.01), keras.optimizers.Adam(0.01)),
        (FusedSGD(0.01, momentum=0.9), keras.optimizers.SGD(0.01, momentum=0.9)),
        (FactoredAdafactor(0.01), keras.optimizers.Adafactor(0.01, relative_step=False)),
    ],
    ids=["adam", "sgd", "adafactor"],
)
def test_optimizers_are_kerass(lean: keras.Optimizer, plain: keras.Optimizer) -> None:
    random = np.random.default_rng(0)
    shapes = [(50, 20), (3, 3, 4, 5), (7,)]
    starts = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    ours, theirs = ([keras.Variable(start) for start in starts] for _ in range(2))
    for _ in range(20):
        gradients = [tf.constant(random.standard_normal(shape), tf.float32) for shape in shapes]
        lean.apply(gradients, ours)
        plain.apply(gradients, theirs)
    for got, expected, start in zip(ours, theirs, starts, strict=True):
        # The same arithmetic in another order; a step is about 0.01.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
        assert np.abs(np.asarray(got) - start).mean() > 0.01


def test_adafactors_learning_rate_is_what_it_is_given() -> None:
    """Also when it is above 1 / sqrt(step). The size of a step is that of the paper."""
    weight = keras.Variable(np.full((4, 6), 2.0, np.float32))
    optimizer = FactoredAdafactor(0.5)
    for _ in range(6):
        before = np.asarray(weight)
        optimizer.apply([tf.ones((4, 6))], [weight])
        size = np.sqrt(np.mean(np.square(before)))
        np.testing.assert_allclose(before - np.asarray(weight), 0.5 * size, rtol=1e-5)


@pytest.mark.parametrize(("name", "slots"), [("adam", 2.0), ("sgd", 1.0), ("adafactor", 0.02)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_what_an_optimizer_keeps(name: str, slots: float, precision: str) -> None:
    """Counts numbers per weight. The optimizer also works with a scaled loss."""
    weights = keras.Variable(np.ones((200, 300), np.float32))
    optimizer = build_optimizer(train_settings(optimizer=name, precision=precision), 0.01)
    optimizer.build([weights])
    kept = sum(int(np.prod(variable.shape)) for variable in optimizer.variables)
    assert kept <= slots * 60_000 + 10
    optimizer.apply([optimizer.scale_loss(tf.ones((200, 300)))], [weights])
    assert np.all(np.asarray(weights) < 1)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 1e-3), ("adafactor", 0.03)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_each_optimizer_learns(
    shards: Path, optimizer: str, learning_rate: float, precision: str
) -> None:
    _, history = trained(
        shards, epochs=8, optimizer=optimizer, learning_rate=learning_rate, precision=precision
    )
    assert float(history[-1]["loss"]) < 0.8 * float(history[0]["loss"])


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_trained_weights_are_the_moving_averages(shards: Path, precision: str) -> None:
    """They are averaged after each step, from the first on; the steps themselves are the same."""
    changes: dict[str, Any] = {"optimizer": "sgd", "precision": precision, "learning_rate": 0.001}
    enable_determinism(1)
    plain = small_vae(precision=precision)
    train = train_settings(batch_size=8, **changes)
    step = training_step(plain, build_optimizer(train, 0.001), train)
    before = [weight.numpy() for weight in plain.trainable_variables]
    averages: list[np.ndarray] = []
    for epoch in (0, 1):
        for batch in training_batches(Shards(shards), **{**FIRST_BATCHES, "epoch": epoch}):
            step(batch, tf.constant(plain.kl_weight))
            weights = [weight.numpy() for weight in plain.trainable_variables]
            if (weights[0] == before[0]).all():
                continue  # in float16, a step that was left out
            averages = [
                0.8 * average + 0.2 * weight
                for average, weight in zip(averages or weights, weights, strict=True)
            ]
            before = weights
    averaged, history = trained(shards, **changes, ema_momentum=0.8)
    for expected, weight in zip(averages, averaged.trainable_variables, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)
    # The validation is that of the averages.
    reconstruction, kl = evaluate_split(
        validation_step(averaged, 1), Shards(shards), "validation", 8
    )
    loss = reconstruction + averaged.kl_weight * kl
    assert float(history[-1]["val_loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_learning_rate_grows_linearly_then_falls_as_a_cosine(warmup: int) -> None:
    steps = np.arange(warmup + 12)
    rising = np.minimum(1, (steps + 1) / (warmup + 1))
    constant, cosine = (
        learning_rate(
            train_settings(learning_rate=0.3, warmup_steps=warmup, learning_rate_schedule=schedule),
            warmup + 10,
        )
        for schedule in ("constant", "cosine")
    )
    found = [constant(step) if callable(constant) else constant for step in steps]
    np.testing.assert_allclose(found, 0.3 * rising, rtol=1e-6)
    falling = np.cos(np.pi / 2 * np.clip((steps - warmup) / 10, 0, 1)) ** 2
    expected = 0.3 * rising * falling
    assert callable(cosine)
    np.testing.assert_allclose([cosine(step) for step in steps], expected, atol=1e-7)
