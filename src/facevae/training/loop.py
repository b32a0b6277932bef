"""The training loop, in TensorFlow, explicit so that it can be read from top to bottom.

`VAE.compile(...)` and `fit` minimise the same loss on any Keras backend, without KL warm-up,
history and checkpoints; see `facevae.model.vae.VAE`.
"""

import csv
from collections.abc import Callable
from typing import TextIO

import numpy as np
import tensorflow as tf

from facevae.common.errors import StoppedError, UserError
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, steps_per_epoch, training_batches
from facevae.training.checkpoints import Checkpoint
from facevae.training.devices import Workers, check_batch_size, split_batches
from facevae.training.optimizers import WarmUp, build_optimizer
from facevae.training.state import HISTORY_COLUMNS, SMALLER_STEPS, TrainingState
from facevae.training.step import evaluate_split, training_step, validation_step


def kl_weight_at(epoch: int, kl_weight: float, warmup_epochs: int) -> float:
    """The KL weight of an epoch, counted from 0: full after `warmup_epochs` epochs.

    It grows in equal steps from kl_weight / (warmup_epochs + 1) in the first epoch.
    """
    return kl_weight * min(1.0, (epoch + 1) / (warmup_epochs + 1))


class _History:
    """The history as CSV, each row flushed at once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(HISTORY_COLUMNS)

    def write(self, row: np.ndarray) -> None:
        epoch, *others = row.tolist()
        self._rows.writerow([int(epoch), *(round(value, 6) for value in others)])
        self._file.flush()


def _check_finite(terms: np.ndarray, kl_weight: np.float32, place: str) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        weighted = kl_weight * terms[1]
    named = {"reconstruction": terms[0], "kl": terms[1]}
    remedy = SMALLER_STEPS
    if np.isfinite(terms).all():
        named, remedy = {"weighted kl": weighted}, "try a smaller loss.kl_weight"
    faults = [f"the {name} term is {x}" for name, x in named.items() if not np.isfinite(x)]
    if faults:
        raise UserError(f"{' and '.join(faults)} in {place}; {remedy}")


def train(
    vae: VAE,
    shards: Shards,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    optimizer: str = "adam",
    learning_rate_schedule: str = "constant",
    warmup_steps: int = 0,
    gradient_clip_norm: float | None = None,
    accumulation_steps: int = 1,
    rematerialization: bool = False,
    early_stopping_patience: int | None = None,
    kl_warmup_epochs: int,
    seed: int,
    history: TextIO,
    checkpoint: Checkpoint | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    on_start: Callable[[int], None] = lambda images_done: None,
    after_step: Callable[[int, float], None] = lambda images_done, loss: None,
    after_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> int:
    """Train `vae` in place.

    It runs on the devices of the strategy in whose scope `vae` was made, see
    `facevae.training.devices`. If these are of several machines, each calls this with the same
    arguments, but for `checkpoint`, which only the chief has.

    Args:
        shards: train and validation splits are used.
        optimizer: name of one of `facevae.training.optimizers.build_optimizer`.
        learning_rate_schedule: "constant", or "cosine", which falls to 0 with the last step.
        warmup_steps: steps over which the learning rate grows to `learning_rate`.
        gradient_clip_norm, accumulation_steps, rematerialization: see `training_step`.
        early_stopping_patience: stop after so many epochs in a row without a smaller validation
            loss, and go back to the weights of the epoch that had the smallest; None: never.
        kl_warmup_epochs: epochs over which the KL weight grows to `vae.kl_weight`.
        history: gets one CSV row an epoch, flushed at once. Validation terms are those of the
            full KL weight, so that epochs of a warm-up can be compared. Every loss in it is
            reconstruction + kl_weight * KL, with the true KL whatever `vae.free_bits`.
        checkpoint: where to go on from, if it holds a state, and to leave the state after every
            epoch and whenever it is due. The weights and the history at the end are, to the bit,
            those of a run that was never stopped.
        stop_requested: asked after every batch.
        on_start: called once with the images seen before, 0 if there is no state to go on from.
        after_step: called with the images seen so far and the loss of the step's batch.
        after_epoch: called with the epoch's history row.

    Returns:
        The epoch, counted from 1, whose weights `vae` has now.

    Raises:
        UserError: too few images for one batch; a batch that does not split evenly over the
            devices and into parts; a loss that is not finite; another machine that is gone.
        StoppedError: `stop_requested`; the checkpoint has the state.
    """
    steps = steps_per_epoch(shards, batch_size)
    strategy = vae.distribute_strategy
    check_batch_size(strategy, batch_size, accumulation_steps)
    workers = Workers(strategy)
    schedule: float | WarmUp = learning_rate
    if learning_rate_schedule == "cosine":
        schedule = WarmUp(learning_rate, warmup_steps, max(1, epochs * steps - warmup_steps))
    elif warmup_steps:
        schedule = WarmUp(learning_rate, warmup_steps, None)
    with strategy.scope():
        built = build_optimizer(optimizer, schedule, vae.precision)
    step = training_step(vae, built, gradient_clip_norm, accumulation_steps, rematerialization)
    evaluate = validation_step(vae, seed)
    patience = early_stopping_patience
    state = TrainingState(vae, built, epochs, keep_best=patience is not None)
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

    def pause() -> None:
        if workers.any(stop_requested()):
            save()
            raise StoppedError(
                f"stopped in epoch {state.epoch + 1}, after step {state.step} of {steps}"
            )
        if checkpoint and checkpoint.due():
            save()

    on_start((state.epoch * steps + state.step) * batch_size)
    for epoch in range(state.epoch, epochs):
        if patience is not None and epoch - state.best_epoch() >= patience:
            break
        kl_weight = kl_weight_at(epoch, vae.kl_weight, kl_warmup_epochs)
        weight = tf.constant(kl_weight, tf.float32)
        batches = training_batches(
            shards,
            batch_size=batch_size,
            latent_size=vae.latent_size,
            seed=seed,
            epoch=epoch,
            skip=state.step,
        )
        for batch in split_batches(strategy, batches, batch_size):
            terms = step(batch, weight).numpy()
            state.step += 1
            state.totals += terms
            _check_finite(terms, weight.numpy(), f"epoch {epoch + 1}, step {state.step}")
            reconstruction, kl = terms.tolist()
            after_step((epoch * steps + state.step) * batch_size, reconstruction + kl_weight * kl)
            pause()
        reconstruction, kl = (state.totals / np.float32(steps)).tolist()
        # Each machine goes through the whole split, but what decides is the chief's last bit.
        part = batch_size // accumulation_steps  # what is known to fit
        validation = evaluate_split(evaluate, shards, "validation", part, pause)
        val_reconstruction, val_kl = workers.chiefs(np.array(validation)).tolist()
        _check_finite(
            np.array([val_reconstruction, val_kl], np.float32),
            np.float32(vae.kl_weight),
            f"the validation after epoch {epoch + 1}",
        )
        named = {
            "epoch": epoch + 1,
            "kl_weight": kl_weight,
            "loss": reconstruction + kl_weight * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "val_loss": val_reconstruction + vae.kl_weight * val_kl,
            "val_reconstruction": val_reconstruction,
            "val_kl": val_kl,
        }
        state.end_epoch(named)
        rows.write(state.history[epoch])
        save()
        after_epoch(named)
    if state.best is None:
        return state.epoch
    vae.set_weights(state.best)
    return state.best_epoch()
