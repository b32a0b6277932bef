"""Batch normalisation's statistics and a learned sigma, computed again when a training ends.

During training they are moving averages, which are noisy and lag behind the weights. Averages over
many batches with the final weights are better ones: "precise batch normalisation", Wu & Johnson
2021, arXiv 2105.07576, section 3.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.common.parameters import CHANNELS, Train
from facevae.model.layers import MOMENTUM
from facevae.model.losses import MIN_LOG_SIGMA, squared_error
from facevae.model.vae import VAE
from facevae.shards.batches import Shards, training_batches
from facevae.training.devices import split_batches

# More gain nothing that could be measured.
_IMAGES = 1600


def recompute_statistics(vae: VAE, shards: Shards, settings: Train) -> None:
    """Replace the moving averages of `vae` by means over some 1,600 training images.

    Batch normalisation gets the mean, over batches, of each batch's mean and variance. Then a
    learned sigma becomes the root of the mean squared error of reconstructions outside training.

    Args:
        vae: its weights stay.
        shards: the train split is used, shuffled with the seed of the training.
        settings: batch_size, accumulation_steps, epochs, horizontal_flips and seed are read.
    """
    strategy = vae.distribute_strategy
    part = settings.batch_size // settings.accumulation_steps  # a size that fits in memory
    pixels = vae.image_size**2 * CHANNELS

    def batches() -> Iterable[Any]:
        shuffled = training_batches(
            shards,
            batch_size=part,
            latent_size=vae.latent_size,
            horizontal_flips=settings.horizontal_flips,
            seed=settings.seed,
            epoch=settings.epochs,  # another order than in any epoch of the training
        )
        return split_batches(strategy, shuffled.take(max(1, _IMAGES // part)), part)

    def everywhere(function: Callable) -> Callable:
        @tf.function(reduce_retracing=True, autograph=False)
        def run(batch):
            return strategy.reduce(
                tf.distribute.ReduceOp.MEAN, strategy.run(function, (batch,)), axis=None
            )

        return run

    def pass_in_training_mode(batch):
        vae(batch, training=True)
        return tf.zeros(())

    def mean_squared_error(batch):
        outputs = vae(batch, training=False)
        return tf.reduce_mean(squared_error(batch["images"], outputs["reconstructions"])) / pixels

    averages = [
        average
        for layer in vae.normalizations
        for average in (layer.moving_mean, layer.moving_variance)
    ]
    if averages:
        vae.set_momentum(0.0)  # a batch's statistics replace those of the batch before
        step, found = everywhere(pass_in_training_mode), []
        for batch in batches():
            step(batch)
            found.append([average.numpy() for average in averages])
        vae.set_momentum(MOMENTUM)
        for average, values in zip(averages, zip(*found, strict=True), strict=True):
            average.assign(np.mean(values, axis=0, dtype=np.float64))
    if vae.learns_sigma:
        step = everywhere(mean_squared_error)
        error = float(np.mean([step(batch).numpy() for batch in batches()], dtype=np.float64))
        vae.log_sigma.assign(max(0.5 * math.log(error), MIN_LOG_SIGMA) if error else MIN_LOG_SIGMA)
