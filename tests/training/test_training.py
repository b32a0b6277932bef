"""Training learns, is bit-reproducible, and takes the same steps as Keras' own fit."""

import functools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import settings, small_vae, train_settings, train_vae

from facevae.common.errors import UserError
from facevae.common.runtime import enable_determinism
from facevae.evaluation.likelihood import decoder_sigma
from facevae.model.saving import load_model, save_model
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, load_images, training_batches
from facevae.training.loop import kl_weight_at
from facevae.training.optimizers import (
    FactoredAdafactor,
    FusedAdam,
    FusedSGD,
    build_optimizer,
    learning_rate,
)
from facevae.training.step import evaluate_split, training_step, validation_step

# What `training_batches` takes for the first epoch of `small_vae`.
BATCHES: dict[str, Any] = {
    "batch_size": 8, "latent_size": 4, "horizontal_flips": False, "seed": 1, "epoch": 0,
}  # fmt: skip


def _train(
    shards: Path, vae: VAE | None = None, dropout: float = 0.0, **changes: Any
) -> tuple[VAE, list[dict[str, str]]]:
    enable_determinism(1)
    vae = vae or small_vae(dropout=dropout, precision=changes.get("precision", "float32"))
    return vae, train_vae(vae, shards, **changes)


def test_it_learns(shards: Path) -> None:
    _, history = _train(shards, epochs=12, learning_rate=0.01)
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
    first, first_history = _train(shards, **changes)
    second, second_history = _train(shards, **changes)
    assert first_history == second_history
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_seed_is_another_training(shards: Path) -> None:
    first, other = (_train(shards, epochs=1, seed=seed)[0] for seed in (1, 2))
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("block", ["plain", "residual"])
def test_precision_is_that_of_the_layers_alone(shards: Path, precision: str, block: str) -> None:
    vae = small_vae(precision=precision, block=block)
    batch = next(iter(training_batches(Shards(shards), **BATCHES)))
    outputs = vae(batch, training=True)
    assert {output.dtype for output in outputs.values()} == {tf.float32}
    assert {term.dtype for term in vae.loss_terms(batch["images"], outputs)} == {tf.float32}
    optimizer = build_optimizer(train_settings(precision=precision), 0.003)
    training_step(vae, optimizer, train_settings())(batch, tf.constant(0.1))
    floats = [variable for variable in optimizer.variables if "int" not in str(variable.dtype)]
    assert {str(variable.dtype) for variable in (*vae.weights, *floats)} == {"float32"}
    hidden = [*vae.encoder.layers[1:-2], *vae.decoder.layers[1:-1]]
    assert {layer.compute_dtype for layer in hidden} == {precision}


@pytest.fixture(scope="module")
def exact(shards: Path) -> list[dict[str, str]]:
    """The history in float32."""
    return _train(shards, epochs=8)[1]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_learns_the_same(
    shards: Path, exact: list[dict[str, str]], precision: str
) -> None:
    vae, rounded = _train(shards, epochs=8, precision=precision)
    assert vae.precision == precision
    losses = [[float(row["loss"]) for row in rows] for rows in (exact, rounded)]
    np.testing.assert_allclose(
        losses[1][-1], losses[0][-1], rtol=0.15
    )  # float16 skips its first steps
    assert losses[0] != losses[1]


def test_history_adds_up(shards: Path) -> None:
    vae, history = _train(shards, small_vae(kl_warmup_epochs=3), epochs=3)
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


def test_a_step_is_plain_gradient_descent_on_the_loss(shards: Path) -> None:
    """One SGD step against gradients computed separately, without normalisation."""
    enable_determinism(1)
    vae = small_vae(batch_normalization=False)
    batch = next(iter(training_batches(Shards(shards), **BATCHES)))
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


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("sgd", 1e-3), ("adafactor", 0.03)])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_each_optimizer_learns(
    shards: Path, optimizer: str, learning_rate: float, precision: str
) -> None:
    _, history = _train(
        shards, epochs=8, optimizer=optimizer, learning_rate=learning_rate, precision=precision
    )
    assert float(history[-1]["loss"]) < 0.8 * float(history[0]["loss"])


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
    (batch,) = training_batches(Shards(shards), **BATCHES).take(1)
    vae = small_vae()
    step = training_step(vae, keras.optimizers.SGD(0.0), train_settings(accumulation_steps=2))
    step(batch, tf.constant(1.0))
    layer = vae.encoder.get_layer("conv_1_normalization")
    convolved = vae.encoder.get_layer("conv_1")(batch["images"]).numpy()
    means = [convolved[part::2].mean((0, 1, 2)) for part in (0, 1)]
    kept = 0.97**0.5  # twice: as much as a whole batch keeps
    expected = (1 - kept) * (kept * means[0] + means[1])
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-4, atol=1e-6)


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
    dataset = training_batches(Shards(shards), **BATCHES)
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
        for batch in training_batches(Shards(shards), **{**BATCHES, "epoch": epoch}):
            step(batch, tf.constant(plain.kl_weight))
            weights = [weight.numpy() for weight in plain.trainable_variables]
            if (weights[0] == before[0]).all():
                continue  # in float16, a step that was left out
            averages = [
                0.8 * average + 0.2 * weight
                for average, weight in zip(averages or weights, weights, strict=True)
            ]
            before = weights
    averaged, history = _train(shards, **changes, ema_momentum=0.8)
    for expected, weight in zip(averages, averaged.trainable_variables, strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-4, atol=1e-6)
    # The validation is that of the averages.
    reconstruction, kl = evaluate_split(
        validation_step(averaged, 1), Shards(shards), "validation", 8
    )
    loss = reconstruction + averaged.kl_weight * kl
    assert float(history[-1]["val_loss"]) == pytest.approx(loss, rel=1e-5)


def test_flips_mirror_half_of_the_images(shards: Path) -> None:
    plain, flipped, again, other = (
        np.concatenate(
            [
                batch["images"]
                for batch in training_batches(
                    Shards(shards), **{**BATCHES, "horizontal_flips": flips, "epoch": epoch}
                )
            ]
        )
        for flips, epoch in ((False, 0), (True, 0), (True, 0), (True, 1))
    )
    mirrored = plain[:, :, ::-1]
    is_mirrored = (flipped == mirrored).all((1, 2, 3))
    np.testing.assert_array_equal(
        np.where(is_mirrored[:, None, None, None], mirrored, plain), flipped
    )
    assert 12 <= is_mirrored.sum() <= 36  # of 48: beyond three standard deviations otherwise
    np.testing.assert_array_equal(flipped, again)
    # The same images in another order, others of them mirrored.
    assert {image.tobytes() for image in flipped} != {image.tobytes() for image in other}


def test_a_batch_that_does_not_split_into_parts_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 8 images .+ 3 equal parts .+ of 3$"):
        _train(shards, accumulation_steps=3)


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


def test_clipping_shortens_all_gradients_together(shards: Path) -> None:
    batch = next(iter(training_batches(Shards(shards), **BATCHES)))

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


def test_early_stopping_keeps_the_best_weights(shards: Path) -> None:
    vae = small_vae()
    _, history = _train(shards, vae, epochs=30, learning_rate=0.1, early_stopping_patience=2)
    losses = [float(row["val_loss"]) for row in history]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 1 - 2
    reconstruction, kl = evaluate_split(validation_step(vae, 1), Shards(shards), "validation", 8)
    assert reconstruction + 0.1 * kl == pytest.approx(min(losses), rel=1e-5)


def test_fit_of_keras_takes_the_same_steps(shards: Path) -> None:
    # Without normalisation: in front of it, Keras' biases would take steps of rounding errors.
    enable_determinism(1)
    ours = small_vae(batch_normalization=False)
    _train(shards, ours, epochs=1)
    enable_determinism(1)
    theirs = small_vae(batch_normalization=False)
    theirs.compile(keras.optimizers.Adam(0.003))
    batches = training_batches(Shards(shards), **BATCHES)
    theirs.fit(batches, epochs=1, verbose=0, shuffle=False)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5)  # six steps of 0.003


def test_every_image_once_an_epoch_in_another_order(shards: Path) -> None:
    def epoch(number: int, seed: int = 1) -> np.ndarray:
        batches = training_batches(
            Shards(shards),
            batch_size=8,
            latent_size=4,
            horizontal_flips=False,
            seed=seed,
            epoch=number,
        )
        return np.concatenate([batch["images"] for batch in batches])

    in_order = load_images(Shards(shards), "train")

    def order(shuffled: np.ndarray) -> list[int]:
        return [int(np.argmax((in_order == image).all((1, 2, 3)))) for image in shuffled]

    first, second, again, other = epoch(0), epoch(1), epoch(0), epoch(0, seed=2)
    assert sorted(order(first)) == sorted(order(second)) == list(range(48))
    assert order(first) == order(again)
    assert len({tuple(order(x)) for x in (first, second, other, in_order)}) == 4


def test_noise_is_standard_normal_and_never_repeats(shards: Path) -> None:
    drawn = [
        batch["epsilon"].numpy()
        for epoch in range(20)
        for batch in training_batches(
            Shards(shards),
            batch_size=8,
            latent_size=32,
            horizontal_flips=False,
            seed=1,
            epoch=epoch,
        )
    ]
    noise = np.concatenate(drawn)
    assert len(np.unique(noise[:, 0])) == len(noise) == 960
    standard_error = noise.size**-0.5
    assert abs(noise.mean()) < 5 * standard_error
    assert abs(noise.var() - 1) < 5 * 2**0.5 * standard_error


def test_a_batch_larger_than_the_split_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 49 is more than the 48 images"):
        _train(shards, batch_size=49)


def test_a_loss_that_is_not_finite_stops_with_its_place(shards: Path) -> None:
    vae = small_vae(batch_normalization=False)
    mu = vae.encoder.get_layer("mu")
    kernel, bias = mu.get_weights()
    mu.set_weights([kernel, np.full_like(bias, 1e30)])
    with pytest.raises(UserError, match=r"the kl term is inf in epoch 1, step 1"):
        _train(shards, vae)


def test_learned_sigma_follows_the_error_and_is_kept(shards: Path, tmp_path: Path) -> None:
    """As with the statistics of batch normalisation, the moving average is used afterwards."""
    vae, history = _train(shards, small_vae(reconstruction="gaussian", kl_weight=1.0), epochs=30)
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


def test_keras_fit_learns_sigma_and_heeds_free_bits(shards: Path) -> None:
    enable_determinism(1)
    vae = small_vae(reconstruction="gaussian", free_bits=0.5)
    vae.compile(keras.optimizers.SGD(0.0))
    batch = next(iter(training_batches(Shards(shards), **BATCHES)))
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


def test_free_bits_hold_the_kl_up_and_history_has_the_true_one(shards: Path) -> None:
    pressed, free = (
        _train(shards, small_vae(kl_weight=50.0, free_bits=bits), epochs=8)[1]
        for bits in (0.0, 1.0)
    )
    assert 1.0 < float(free[-1]["kl"]) < 8.0  # about a nat for each of the four units, at most
    assert float(pressed[-1]["kl"]) < 0.1 * float(free[-1]["kl"])
    for row in free:
        expected = float(row["reconstruction"]) + 50.0 * float(row["kl"])
        assert float(row["loss"]) == pytest.approx(expected, abs=1e-3)
