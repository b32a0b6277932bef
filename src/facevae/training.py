"""The training loop, in TensorFlow, explicit so that it can be read from top to bottom.

`VAE.compile(...)` and `fit` minimise the same loss on any Keras backend, without KL warm-up,
history and checkpoints; see `facevae.networks.VAE`.
"""

import csv
from collections.abc import Callable
from typing import TextIO

import keras
import numpy as np
import tensorflow as tf

from facevae.checkpoints import Checkpoint
from facevae.datasets import Shards, images, noise, steps_per_epoch, training_batches
from facevae.devices import Workers, check_batch_size, split_batches
from facevae.errors import StoppedError, UserError
from facevae.networks import VAE
from facevae.optimizers import WarmUp, build_optimizer
from facevae.parameters import Encoder, Loss

HISTORY_COLUMNS = (
    "epoch",
    "kl_weight",
    "loss",
    "reconstruction",
    "kl",
    "val_loss",
    "val_reconstruction",
    "val_kl",
)

_SMALLER_STEPS = "try a smaller train.learning_rate"


def build_vae(
    encoder: Encoder,
    loss: Loss,
    *,
    image_size: int,
    inter_dense: int,
    precision: str = "float32",
) -> VAE:
    """An untrained VAE from checked parameters.

    Args:
        inter_dense: units of the extra Dense layer, 0 for none; stands in the place of
            `encoder.inter_dense`, for the variants differ in it.
        precision: that of the layers, see `facevae.networks.VAE`.
    """
    return VAE(
        image_size=image_size,
        filters=encoder.filters,
        kernel_sizes=encoder.kernel_sizes,
        strides=encoder.strides,
        latent_size=encoder.latent_size,
        inter_dense=inter_dense,
        block=encoder.block,
        activation=encoder.activation,
        batch_normalization=encoder.batch_normalization,
        dropout=encoder.dropout,
        reconstruction=loss.reconstruction,
        kl_weight=loss.kl_weight,
        sigma=loss.sigma,
        free_bits=loss.free_bits,
        precision=precision,
    )


def kl_weight_at(epoch: int, kl_weight: float, warmup_epochs: int) -> float:
    """The KL weight of an epoch, counted from 0: full after `warmup_epochs` epochs.

    It grows in equal steps from kl_weight / (warmup_epochs + 1) in the first epoch.
    """
    return kl_weight * min(1.0, (epoch + 1) / (warmup_epochs + 1))


def training_step(
    vae: VAE,
    optimizer: keras.Optimizer,
    gradient_clip_norm: float | None = None,
    accumulation_steps: int = 1,
    rematerialization: bool = False,
) -> Callable:
    """A compiled function (batch, kl_weight) -> (reconstruction, KL) that also updates `vae`.

    It minimises `vae.minimised_loss` and hands out the terms as `vae.loss_terms` has them.

    It runs on the devices of the strategy in whose scope `vae` and `optimizer` were made, each with
    an equal part of the batch, as `split_batches` hands them out.

    Args:
        gradient_clip_norm: L2 norm that all gradients together are shortened to if they are
            longer; None: they are taken as they are.
        accumulation_steps: equal parts of a device's batch that go through the networks one after
            the other, so that the activations of one part at a time are kept; the optimizer then
            makes one step with the mean of their gradients. Batch normalisation takes its
            statistics of each part, and moves its averages with each; so do a learned sigma and
            the means that free bits look at.
        rematerialization: whether what lies between convolutions is computed again for the
            gradients, see `facevae.rematerialization`.
    """
    strategy = vae.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        optimizer.build(vae.trainable_variables)

    def compute(batch, kl_weight):
        with tf.GradientTape() as tape:
            outputs = vae(batch, training=True, rematerialization=rematerialization)
            loss, reconstruction, kl = vae.minimised_loss(batch["images"], outputs, kl_weight)
            # The optimizer sums the gradients of all replicas.
            loss = optimizer.scale_loss(loss / (replicas * accumulation_steps))
        gradients = tape.gradient(loss, vae.trainable_variables)
        return gradients, tf.stack([reconstruction, kl])

    def update(gradients):
        if gradient_clip_norm is not None:
            # Their sum is what is to be clipped, and here it is needed before the optimizer's.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            longest = optimizer.scale_loss(gradient_clip_norm)
            gradients, _ = tf.clip_by_global_norm(gradients, longest)
            gradients = [gradient / replicas for gradient in gradients]
        optimizer.apply(gradients, vae.trainable_variables)

    def replica_step(batch, kl_weight):
        gradients, terms = compute(batch, kl_weight)
        update(gradients)
        return terms

    def zeros(kl_weight):
        # 0, but only when it runs: TensorFlow would keep constant zeros as long as the function.
        zero = tf.minimum(kl_weight, 0.0)
        return [tf.fill(weight.shape, zero) for weight in vae.trainable_variables], tf.zeros(2)

    def add_part(number, sums, batch, kl_weight):
        # Every so many-th image: then the parts of several devices make up that of a single one.
        part = {
            name: tf.reshape(value, (-1, accumulation_steps, *value.shape[1:]))[:, number]
            for name, value in batch.items()
        }
        return tf.nest.map_structure(tf.add, sums, compute(part, kl_weight))

    def update_with(sums):
        gradients, terms = sums
        update(gradients)
        return terms / accumulation_steps

    def accumulate(batch, kl_weight):
        # A loop, and outside of `strategy.run`: in the loop's body devices may exchange statistics.
        _, sums = tf.while_loop(
            lambda number, sums: number < accumulation_steps,
            lambda number, sums: (
                number + 1,
                strategy.run(add_part, (number, sums, batch, kl_weight)),
            ),
            (0, strategy.run(zeros, (kl_weight,))),
            parallel_iterations=1,
        )
        return strategy.run(update_with, (sums,))

    @tf.function(reduce_retracing=True, autograph=False)
    def step(batch, kl_weight):
        if accumulation_steps == 1:
            terms = strategy.run(replica_step, (batch, kl_weight))
        else:
            terms = accumulate(batch, kl_weight)
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, terms, axis=None)

    return step


def validation_step(vae: VAE, seed: int) -> Callable:
    """A compiled function (images, position) -> (reconstruction, KL), z sampled once per image.

    The noise is a function of (seed, position), the number of the batch.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def step(batch, position):
        shape = (tf.shape(batch)[0], vae.latent_size)
        # Training counts its noise upwards from 0; this must not be the same.
        epsilon = noise(seed, -1 - position, shape)
        outputs = vae({"images": batch, "epsilon": epsilon}, training=False)
        return tf.stack(vae.loss_terms(batch, outputs))

    return step


def split_terms(
    step: Callable,
    shards: Shards,
    split: str,
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean reconstruction term and mean KL over a whole split.

    Args:
        step: from `validation_step`.

    Returns:
        Two floats, nats (or squared error) per image.
    """
    total, count = np.zeros(2), 0
    for position, batch in enumerate(images(shards, split, batch_size)):
        size = int(batch.shape[0])
        total += step(batch, tf.constant(position, tf.int64)).numpy().astype(np.float64) * size
        count += size
        after_batch()
    reconstruction, kl = (total / count).tolist()
    return reconstruction, kl


class _State:
    """All that decides how a training goes on and what its history says.

    Attributes:
        epoch: epochs that are through.
        step: steps taken in the epoch after them.
        totals: the two terms, summed over these steps; (2,) float32.
        history: a row per epoch, NaN in those to come; (epochs, columns) float64.
        best: the weights after the epoch of the smallest validation loss; None if not wanted.
    """

    def __init__(
        self, vae: VAE, optimizer: keras.Optimizer, epochs: int, *, keep_best: bool
    ) -> None:
        self.epoch = 0
        self.step = 0
        self.totals = np.zeros(2, np.float32)
        self.history = np.full((epochs, len(HISTORY_COLUMNS)), np.nan)
        # The VAE's include the statistics of batch normalisation and the seeds of dropout.
        self._variables = [*vae.variables, *optimizer.variables]
        self._weights = vae.weights
        self.best = [weight.numpy() for weight in vae.weights] if keep_best else None

    def end_epoch(self, row: dict[str, float]) -> None:
        self.history[self.epoch] = [row[column] for column in HISTORY_COLUMNS]
        self.epoch += 1
        self.step = 0
        if self.best is not None and self.best_epoch() == self.epoch:
            self.best = [weight.numpy() for weight in self._weights]
        self.totals = np.zeros(2, np.float32)

    def best_epoch(self) -> int:
        """The first epoch, counted from 1, with the smallest validation loss; 0 before its end."""
        losses = self.history[: self.epoch, HISTORY_COLUMNS.index("val_loss")]
        return 1 + int(np.argmin(losses)) if len(losses) else 0

    def arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint.

        Raises:
            UserError: a weight is not finite, and going on from there of no use.
        """
        variables = [variable.numpy() for variable in self._variables]
        if not all(np.isfinite(variable).all() for variable in variables):
            raise UserError(
                f"a weight is not finite after step {self.step} of epoch {self.epoch + 1}; "
                f"{_SMALLER_STEPS}"
            )
        return {
            "position": np.array([self.epoch, self.step]),
            "totals": self.totals,
            "history": self.history,
            **{f"variable_{number}": value for number, value in enumerate(variables)},
            **{f"best_{number}": value for number, value in enumerate(self.best or [])},
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go back to where `arrays` was called."""
        self.epoch, self.step = arrays["position"].tolist()
        self.totals = arrays["totals"]
        self.history = arrays["history"]
        for number, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable_{number}"])
        if self.best is not None:
            self.best = [arrays[f"best_{number}"] for number in range(len(self.best))]


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
    remedy = _SMALLER_STEPS
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

    It runs on the devices of the strategy in whose scope `vae` was made, see `facevae.devices`. If
    these are of several machines, each calls this with the same arguments, but for `checkpoint`,
    which only the chief has.

    Args:
        shards: train and validation splits are used.
        optimizer: name of one of `facevae.optimizers.build_optimizer`.
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
    state = _State(vae, built, epochs, keep_best=patience is not None)
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
        validation = split_terms(evaluate, shards, "validation", part, pause)
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
