"""The training loop, written out in TensorFlow so that it can be read from top to bottom.

Keras' `fit` minimises the same loss on any backend, without KL warm-up, history and checkpoints:
see `facevae.model.vae.VAE`.
"""

import contextlib
import csv
from collections.abc import Callable, Iterator
from typing import TextIO

import keras
import numpy as np
import tensorflow as tf

from facevae.common.errors import StoppedError, UserError
from facevae.common.files import named
from facevae.common.parameters import Loss, Train
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, steps_per_epoch, training_batches
from facevae.training.checkpoints import Checkpoint
from facevae.training.devices import Workers, check_batch_size, split_batches
from facevae.training.optimizers import build_optimizer, learning_rate
from facevae.training.state import HISTORY_COLUMNS, SMALLER_STEPS, TrainingState
from facevae.training.step import evaluate_split, training_step, validation_step


def kl_weight_at(epoch: int, loss: Loss) -> float:
    """The KL weight of an epoch: kl_weight * min(1, (epoch + 1) / (kl_warmup_epochs + 1)).

    Args:
        epoch: counted from 0.
        loss: kl_weight and kl_warmup_epochs are read.
    """
    return loss.kl_weight * min(1.0, (epoch + 1) / (loss.kl_warmup_epochs + 1))


class _History:
    """Writes the history as CSV and flushes every row."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(HISTORY_COLUMNS)

    def write(self, row: np.ndarray) -> None:
        epoch, *others = row.tolist()
        try:
            self._rows.writerow([int(epoch), *(round(value, 6) for value in others)])
            self._file.flush()
        except OSError as error:
            raise named(error, self._file.name) from None


def _check_finite(terms: np.ndarray, kl_weight: np.float32, place: str) -> None:
    """Raise a UserError if a term of the loss is not finite, or the KL times its weight."""
    if np.isfinite(terms).all():
        with np.errstate(over="ignore"):
            checked, remedy = {"weighted kl": kl_weight * terms[1]}, "try a smaller loss.kl_weight"
    else:
        checked, remedy = {"reconstruction": terms[0], "kl": terms[1]}, SMALLER_STEPS
    faults = [f"the {name} term is {x}" for name, x in checked.items() if not np.isfinite(x)]
    if faults:
        raise UserError(f"{' and '.join(faults)} in {place}; {remedy}")


@contextlib.contextmanager
def _averaged(vae: VAE, optimizer: keras.Optimizer, settings: Train) -> Iterator[None]:
    """Within it, `vae` has the moving averages of its weights if the optimizer keeps some."""
    if settings.ema_momentum is None:
        yield
        return
    weights = [weight.numpy() for weight in vae.trainable_variables]
    optimizer.finalize_variable_values(vae.trainable_variables)
    try:
        yield
    finally:
        for weight, value in zip(vae.trainable_variables, weights, strict=True):
            weight.assign(value)


def train(
    vae: VAE,
    shards: Shards,
    settings: Train,
    *,
    history: TextIO,
    checkpoint: Checkpoint | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_start: Callable[[int], None] = lambda images_done: None,
    after_step: Callable[[int, float], None] = lambda images_done, loss: None,
    after_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> int:
    """Train `vae` in place.

    Training runs on the devices of the strategy in whose scope `vae` was created, see
    `facevae.training.devices`. If these are on several machines, each machine calls this function
    with the same settings and data; only the chief passes a `checkpoint`. Afterwards
    `facevae.training.statistics.recompute_statistics` improves the averages that `vae` keeps.

    Args:
        vae: a VAE whose weights are updated.
        shards: the train and validation splits are used.
        settings: section `train` of the parameters. `vae` must have its precision already.
        history: receives one CSV row per epoch, flushed at once; the columns are
            `HISTORY_COLUMNS`. The validation is that of the moving averages of the weights, if
            there are some. Every loss in it is reconstruction + kl_weight * KL, with the true KL
            even with free bits. The validation loss uses the full KL weight, so that epochs of the
            warm-up are comparable.
        checkpoint: if it holds a state, training resumes from it. The state is saved after every
            epoch, and whenever the checkpoint is due. The final weights and history are
            bit-identical to those of a training without interruption.
        stop_requested: called after every batch; training stops if it returns True.
        on_start: called once with the number of images trained on before, 0 without a state.
        after_step: called with the number of images trained on so far and the loss of the batch.
        after_epoch: called with the history row of the epoch.

    Returns:
        The epoch, counted from 1, whose weights `vae` has now: the last one, or with early stopping
        the one with the smallest validation loss.

    Raises:
        UserError: the train split is smaller than one batch; a batch does not split evenly over
            the devices and accumulation steps; a loss or a weight is not finite; or the checkpoint
            cannot be read or written.
        StoppedError: `stop_requested` returned True. The checkpoint holds the state.
    """
    epochs, batch_size = settings.epochs, settings.batch_size
    steps = steps_per_epoch(shards, batch_size)
    strategy = vae.distribute_strategy
    check_batch_size(strategy, batch_size, settings.accumulation_steps)
    workers = Workers(strategy)
    with strategy.scope():
        optimizer = build_optimizer(settings, learning_rate(settings, epochs * steps))
    step = training_step(vae, optimizer, settings)
    evaluate = validation_step(vae, settings.seed)
    patience = settings.early_stopping_patience
    state = TrainingState(vae, optimizer, epochs, keep_best=patience is not None)
    if checkpoint and (saved := checkpoint.read()):
        state.restore(saved)
    if not workers.alone:
        state.restore({name: workers.chiefs(value) for name, value in state.arrays().items()})
    rows = _History(history)
    for row in state.history[: state.epoch]:
        rows.write(row)

    def save() -> None:
        if checkpoint:
            checkpoint.write(state.arrays())

    def stop_if_requested() -> None:
        if workers.any(stop_requested()):
            raise StoppedError(
                f"stopped in epoch {state.epoch + 1}, after step {state.step} of {steps}"
            )

    def take_steps(epoch: int) -> None:
        """The steps of an epoch that are not taken yet."""
        kl_weight = kl_weight_at(epoch, vae.loss_settings)
        kl_weight_tensor = tf.constant(kl_weight, tf.float32)
        batches = training_batches(
            shards,
            batch_size=batch_size,
            latent_size=vae.latent_size,
            horizontal_flips=settings.horizontal_flips,
            seed=settings.seed,
            epoch=epoch,
            skip=state.step,
        )
        for batch in split_batches(strategy, batches, batch_size):
            terms = step(batch, kl_weight_tensor).numpy()
            state.step += 1
            state.totals += terms
            place = f"epoch {epoch + 1}, step {state.step}"
            _check_finite(terms, kl_weight_tensor.numpy(), place)
            reconstruction, kl = terms.tolist()
            after_step((epoch * steps + state.step) * batch_size, reconstruction + kl_weight * kl)
            stop_if_requested()
            if checkpoint and checkpoint.due():
                save()

    def validate(epoch: int) -> dict[str, float]:
        """The row of an epoch in the history."""
        kl_weight = kl_weight_at(epoch, vae.loss_settings)
        reconstruction, kl = (state.totals / np.float32(steps)).tolist()
        part = batch_size // settings.accumulation_steps  # a size that fits in memory
        validation = evaluate_split(evaluate, shards, "validation", part, stop_if_requested)
        # Machines may differ in the last bit: all take the chief's result, to decide alike.
        val_reconstruction, val_kl = workers.chiefs(np.array(validation)).tolist()
        _check_finite(
            np.array([val_reconstruction, val_kl], np.float32),
            np.float32(vae.kl_weight),
            f"the validation after epoch {epoch + 1}",
        )
        return {
            "epoch": epoch + 1,
            "kl_weight": kl_weight,
            "loss": reconstruction + kl_weight * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "val_loss": val_reconstruction + vae.kl_weight * val_kl,
            "val_reconstruction": val_reconstruction,
            "val_kl": val_kl,
        }

    on_start((state.epoch * steps + state.step) * batch_size)
    try:
        for epoch in range(state.epoch, epochs):
            # `epoch` epochs are done, and the best one is counted from 1: no improvement since.
            if patience is not None and epoch - state.best_epoch() >= patience:
                break
            take_steps(epoch)
            with _averaged(vae, optimizer, settings):
                row = validate(epoch)
                state.end_epoch(row)
            rows.write(state.history[epoch])
            save()
            after_epoch(row)
    except StoppedError:
        save()
        raise
    if state.best is not None:
        vae.set_weights(state.best)
        return state.best_epoch()
    if settings.ema_momentum is not None:
        optimizer.finalize_variable_values(vae.trainable_variables)
    return state.epoch
