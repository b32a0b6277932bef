"""The training loop, in TensorFlow, explicit so that it can be read from top to bottom.

`VAE.compile(...)` and `fit` minimise the same loss on any Keras backend, without KL warm-up and
history; see `facevae.networks.VAE`.
"""

import csv
import math
from collections.abc import Callable
from typing import TextIO

import keras
import numpy as np
import tensorflow as tf

from facevae.datasets import Shards, images, noise, steps_per_epoch, training_batches
from facevae.errors import UserError
from facevae.networks import VAE
from facevae.optimizers import FusedAdam
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


def build_vae(encoder: Encoder, loss: Loss, *, image_size: int, inter_dense: int) -> VAE:
    """An untrained VAE from checked parameters.

    Args:
        inter_dense: units of the extra Dense layer, 0 for none; stands in the place of
            `encoder.inter_dense`, for the variants differ in it.
    """
    return VAE(
        image_size=image_size,
        filters=encoder.filters,
        kernel_sizes=encoder.kernel_sizes,
        strides=encoder.strides,
        latent_size=encoder.latent_size,
        inter_dense=inter_dense,
        activation=encoder.activation,
        batch_normalization=encoder.batch_normalization,
        dropout=encoder.dropout,
        reconstruction=loss.reconstruction,
        kl_weight=loss.kl_weight,
    )


def kl_weight_at(epoch: int, kl_weight: float, warmup_epochs: int) -> float:
    """The KL weight of an epoch, counted from 0: full after `warmup_epochs` epochs.

    It grows in equal steps from kl_weight / (warmup_epochs + 1) in the first epoch.
    """
    return kl_weight * min(1.0, (epoch + 1) / (warmup_epochs + 1))


def training_step(vae: VAE, optimizer: keras.Optimizer) -> Callable:
    """A compiled function (batch, kl_weight) -> (reconstruction, KL) that also updates `vae`."""
    optimizer.build(vae.trainable_variables)

    @tf.function(reduce_retracing=True)
    def step(batch, kl_weight):
        with tf.GradientTape() as tape:
            outputs = vae(batch, training=True)
            reconstruction, kl = vae.loss_terms(batch["images"], outputs)
            loss = reconstruction + kl_weight * kl
        gradients = tape.gradient(loss, vae.trainable_variables)
        optimizer.apply(gradients, vae.trainable_variables)
        return tf.stack([reconstruction, kl])

    return step


def split_terms(vae: VAE, shards: Shards, split: str, batch_size: int, seed: int):
    """Mean reconstruction term and mean KL over a whole split, z sampled once per image.

    Returns:
        Two floats, nats (or squared error) per image.
    """

    @tf.function(reduce_retracing=True)
    def terms(batch, position):
        shape = (tf.shape(batch)[0], vae.latent_size)
        # Training counts its noise upwards from 0; this must not be the same.
        epsilon = noise(seed, -1 - position, shape)
        outputs = vae({"images": batch, "epsilon": epsilon}, training=False)
        return tf.stack(vae.loss_terms(batch, outputs))

    total, count = np.zeros(2), 0
    for position, batch in enumerate(images(shards, split, batch_size)):
        size = int(batch.shape[0])
        total += terms(batch, tf.constant(position, tf.int64)).numpy().astype(np.float64) * size
        count += size
    reconstruction, kl = (total / count).tolist()
    return reconstruction, kl


def train(
    vae: VAE,
    shards: Shards,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    kl_warmup_epochs: int,
    seed: int,
    history: TextIO,
    after_step: Callable[[int, float], None] = lambda images_done, loss: None,
    after_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> None:
    """Train `vae` in place with Adam (Kingma & Ba 2014, arXiv 1412.6980).

    Args:
        shards: train and validation splits are used.
        kl_warmup_epochs: epochs over which the KL weight grows to `vae.kl_weight`.
        history: gets one CSV row an epoch, flushed at once. Validation terms are those of the
            full KL weight, so that epochs of a warm-up can be compared.
        after_step: called with the images seen so far and the loss of the step's batch.
        after_epoch: called with the epoch's history row.

    Raises:
        UserError: too few images for one batch; a loss that is not finite.
    """
    steps = steps_per_epoch(shards, batch_size)
    rows = csv.DictWriter(history, HISTORY_COLUMNS, lineterminator="\n")
    rows.writeheader()
    optimizer = FusedAdam(learning_rate)
    step = training_step(vae, optimizer)
    for epoch in range(epochs):
        kl_weight = kl_weight_at(epoch, vae.kl_weight, kl_warmup_epochs)
        total = tf.zeros(2)
        batches = training_batches(
            shards, batch_size=batch_size, latent_size=vae.latent_size, seed=seed, epoch=epoch
        )
        for number, batch in enumerate(batches, start=1):
            terms = step(batch, tf.constant(kl_weight, tf.float32))
            total += terms
            reconstruction, kl = terms.numpy().tolist()
            loss = reconstruction + kl_weight * kl
            if not math.isfinite(loss):
                name = "kl" if math.isfinite(reconstruction) else "reconstruction"
                raise UserError(
                    f"the {name} term is {kl if name == 'kl' else reconstruction} in epoch "
                    f"{epoch + 1}, step {number}; try a smaller train.learning_rate"
                )
            after_step((epoch * steps + number) * batch_size, loss)
        reconstruction, kl = (total / steps).numpy().tolist()
        val_reconstruction, val_kl = split_terms(vae, shards, "validation", batch_size, seed)
        row = {
            "epoch": epoch + 1,
            "kl_weight": kl_weight,
            "loss": reconstruction + kl_weight * kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "val_loss": val_reconstruction + vae.kl_weight * val_kl,
            "val_reconstruction": val_reconstruction,
            "val_kl": val_kl,
        }
        rows.writerow({key: round(value, 6) for key, value in row.items()})
        history.flush()
        after_epoch(row)
