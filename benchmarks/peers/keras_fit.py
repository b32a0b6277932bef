"""The default networks as the textbooks train them in Keras, for `training_speed`.

Keras' own layers and Adam, a `train_step` with GradientTape, `fit` on a Python generator of float32
arrays: the form of the 2022 series.
"""

import argparse
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from benchmarks.harness import serve

FILTERS = (32, 64, 128, 256)
LATENT = 256


def _activate(x):
    return keras.layers.LeakyReLU(0.2)(keras.layers.BatchNormalization()(x))


def encoder() -> keras.Model:
    images = x = keras.Input((96, 96, 3))
    for filters in FILTERS:
        x = _activate(keras.layers.Conv2D(filters, 3, 2, padding="same")(x))
    x = keras.layers.Dense(256)(keras.layers.Flatten()(x))
    x = keras.layers.LeakyReLU(0.2)(x)
    return keras.Model(images, [keras.layers.Dense(LATENT)(x), keras.layers.Dense(LATENT)(x)])


def decoder() -> keras.Model:
    z = keras.Input((LATENT,))
    x = keras.layers.Reshape((6, 6, 256))(keras.layers.Dense(6 * 6 * 256)(z))
    for filters in FILTERS[-2::-1]:
        x = _activate(keras.layers.Conv2DTranspose(filters, 3, 2, padding="same")(x))
    x = keras.layers.Conv2DTranspose(3, 3, 2, padding="same", activation="sigmoid")(x)
    return keras.Model(z, x)


class VAE(keras.Model):
    """Encoder, sampling, Decoder, and a `train_step` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()
        assert self.encoder.count_params() + self.decoder.count_params() == 5_639_043

    def train_step(self, data):
        images = data[0]
        with tf.GradientTape() as tape:
            mu, log_var = self.encoder(images, training=True)
            z = mu + tf.exp(0.5 * log_var) * tf.random.normal(tf.shape(mu))
            squares = tf.square(images - self.decoder(z, training=True))
            reconstruction = tf.reduce_mean(tf.reduce_sum(squares, (1, 2, 3)))
            kl = -0.5 * tf.reduce_sum(1 + log_var - tf.square(mu) - tf.exp(log_var), 1)
            kl = tf.reduce_mean(kl)
            loss = reconstruction + kl
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}


class _Clock(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.ends: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, required=True)
    batch_size = parser.parse_args().batch_size
    random = np.random.default_rng(1)
    images = random.random((3180, 96, 96, 3), dtype=np.float32)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            order = random.permutation(len(images))
            for start in range(0, len(images) - batch_size + 1, batch_size):
                batch = images[order[start : start + batch_size]]
                yield batch, batch

    vae = VAE()
    vae.compile(optimizer=keras.optimizers.Adam(1e-3))
    clock = _Clock()

    def turn(steps: int) -> float:
        # One step more than are counted: what `fit` does before its first is left out.
        vae.fit(batches(), steps_per_epoch=steps + 1, verbose=0, callbacks=[clock])
        return clock.ends[-1] - clock.ends[0]

    serve(turn)


if __name__ == "__main__":
    main()
