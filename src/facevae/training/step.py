"""One training step, and the loss terms of a whole split."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from facevae.common.parameters import Train
from facevae.model.layers import MOMENTUM
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, images, noise


def training_step(vae: VAE, optimizer: keras.Optimizer, settings: Train) -> Callable:
    """Build a compiled function that takes one training step.

    The step minimises `vae.training_loss`. It runs on the devices of the strategy in whose scope
    `vae` and `optimizer` were created, each with an equal part of the batch as `split_batches`
    gives it.

    Args:
        vae: its weights are updated.
        optimizer: its state is updated.
        settings: these keys are read:
            gradient_clip_norm: maximum global L2 norm of the gradients; None: no clipping.
            accumulation_steps: equal parts of a device's batch that go through the networks one
                after the other, so that only one part's activations are in memory. The optimizer
                then takes one step with the mean of their gradients. Batch normalisation computes
                its statistics from each part, and updates its averages with each, by so much less
                that a whole batch moves them as far as without parts. The same goes for a learned
                sigma. Free bits compare the means of a part.
            rematerialization: whether activations between convolutions are recomputed for the
                gradients; see `facevae.model.rematerialization`.

    Returns:
        A function (batch, kl_weight) -> (2,) float32: the reconstruction term and the KL of the
        batch, as `vae.loss_terms` returns them. `kl_weight` is () float32.
    """
    gradient_clip_norm = settings.gradient_clip_norm
    accumulation_steps = settings.accumulation_steps
    rematerialization = settings.rematerialization
    strategy = vae.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        optimizer.build(vae.trainable_variables)
    vae.set_momentum(MOMENTUM ** (1 / accumulation_steps))

    def compute(batch, kl_weight):
        with tf.GradientTape() as tape:
            outputs = vae(batch, training=True, rematerialization=rematerialization)
            loss, reconstruction, kl = vae.training_loss(batch["images"], outputs, kl_weight)
            # The optimizer sums the gradients of all replicas.
            loss = optimizer.scale_loss(loss / (replicas * accumulation_steps))
        gradients = tape.gradient(loss, vae.trainable_variables)
        return gradients, tf.stack([reconstruction, kl])

    def update(gradients):
        if gradient_clip_norm is not None:
            # Clipping needs the sum over the replicas before the optimizer computes it.
            context = tf.distribute.get_replica_context()
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
            max_norm = optimizer.scale_loss(gradient_clip_norm)
            gradients, _ = tf.clip_by_global_norm(gradients, max_norm)
            gradients = [gradient / replicas for gradient in gradients]
        optimizer.apply(gradients, vae.trainable_variables)

    def replica_step(batch, kl_weight):
        gradients, terms = compute(batch, kl_weight)
        update(gradients)
        return terms

    def zeros(kl_weight):
        # 0, but computed: TensorFlow would keep constant zeros for as long as the function exists.
        zero = tf.minimum(kl_weight, 0.0)
        return [tf.fill(weight.shape, zero) for weight in vae.trainable_variables], tf.zeros(2)

    def add_part(number, sums, batch, kl_weight):
        # A strided split: the parts of several devices together then equal one device's part.
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
        # The loop is outside `strategy.run`, because devices exchange statistics within its body.
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
    """Build a compiled function that computes the loss terms of a batch, with one z per image.

    Returns:
        A function (images, position) -> (2,) float32: the reconstruction term and the KL, means
        over the batch. `position` is the number of the batch, () int64; the noise is a function of
        (seed, position).
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def step(batch, position):
        shape = (tf.shape(batch)[0], vae.latent_size)
        # Training uses the positions from 0 upwards; this noise must be different.
        epsilon = noise(seed, -1 - position, shape)
        outputs = vae({"images": batch, "epsilon": epsilon}, training=False)
        return tf.stack(vae.loss_terms(batch, outputs))

    return step


def evaluate_split(
    step: Callable,
    shards: Shards,
    split: str,
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Mean reconstruction term and mean KL over a whole split.

    Args:
        step: from `validation_step`.
        batch_size: images that are evaluated at a time.
        after_batch: called after every batch.

    Returns:
        Reconstruction term (nats, or squared error with "mse") and KL (nats) per image.
    """
    total, count = np.zeros(2), 0
    for position, batch in enumerate(images(shards, split, batch_size)):
        size = int(batch.shape[0])
        total += step(batch, tf.constant(position, tf.int64)).numpy().astype(np.float64) * size
        count += size
        after_batch()
    reconstruction, kl = (total / count).tolist()
    return reconstruction, kl
