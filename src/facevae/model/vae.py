"""The VAE: Encoder, sampling and Decoder with their loss, on any Keras backend."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from facevae.common.errors import UserError
from facevae.common.parameters import Encoder, Loss, shape_mistakes
from facevae.model.layers import (
    MOMENTUM,
)
from facevae.model.losses import (
    LOG_VAR_RANGE,
    RECONSTRUCTION_LOSSES,
    gaussian_negative_log_density,
    kl_beyond_free_bits,
    kl_per_unit,
    optimal_log_sigma,
    sample_latent,
)
from facevae.model.networks import build_decoder, build_encoder
from facevae.model.rematerialization import rematerialized_call

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def _computing_in(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _run(network: keras.Model, inputs, training: bool, rematerialization: bool):
    if training and rematerialization:
        return rematerialized_call(network, inputs)
    return network(inputs, training=training)


@keras.saving.register_keras_serializable("facevae")
class VAE(keras.Model):
    """Variational autoencoder (Kingma & Welling 2013, arXiv 1312.6114) for square colour images.

    Args:
        image_size: pixels per side; the product of `strides` divides it.
        filters, kernel_sizes, strides: one entry per conv layer of the Encoder.
        latent_size: dimensions of z.
        inter_dense: units of the extra Dense layer in the Encoder; 0 for none.
        block: "residual" for a residual block after each conv layer but the Decoder's last, or
            "plain".
        activation: name of a Keras activation, after every hidden layer.
        batch_normalization: whether conv layers are normalised.
        dropout: rate after each conv layer's activation.
        reconstruction: "mse", "bce" or "gaussian", see `facevae.model.losses`.
        kl_weight: factor of the KL term.
        sigma: standard deviation of the Gaussian of "gaussian", in units of the pixel values, or
            "learned": that of each training batch, of which a moving average is kept as a weight
            and used outside of training, as batch normalisation does.
        free_bits: nats of a latent unit's KL that training does not press on.
        precision: "float32", or "bfloat16" or "float16" for what the layers compute; the weights,
            the outputs and the losses are float32.

    Attributes:
        encoder, decoder: the two Keras models, usable alone.
        log_sigma: ln sigma outside of training; None unless `reconstruction` is "gaussian".

    Example:
        >>> vae = VAE(image_size=96, inter_dense=256)
        >>> vae.encoder.count_params()
        2881472
        >>> vae.compile("adam")
        >>> vae.fit(training_batches(...), shuffle=False)  # of facevae.shards.batches

    `facevae.training.loop.train` is a faster loop for TensorFlow, with history and KL warm-up.

    Raises:
        UserError: the lists differ in length, or a stride does not divide its layer's input.
    """

    def __init__(
        self,
        *,
        image_size: int,
        filters: Sequence[int] = (32, 64, 128, 256),
        kernel_sizes: Sequence[int] = (3, 3, 3, 3),
        strides: Sequence[int] = (2, 2, 2, 2),
        latent_size: int = 256,
        inter_dense: int = 0,
        block: str = "plain",
        activation: str = "leaky_relu",
        batch_normalization: bool = True,
        dropout: float = 0.0,
        reconstruction: str = "mse",
        kl_weight: float = 1.0,
        sigma: float | str = "learned",
        free_bits: float = 0.0,
        precision: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        mistakes = shape_mistakes(image_size, filters, kernel_sizes, strides)
        if mistakes:
            raise UserError("\n".join(mistakes))
        shared: dict[str, Any] = {
            "image_size": image_size,
            "filters": list(filters),
            "kernel_sizes": list(kernel_sizes),
            "strides": list(strides),
            "latent_size": latent_size,
            "block": block,
            "activation": activation,
            "batch_normalization": batch_normalization,
            "dropout": dropout,
        }
        self.image_size = image_size
        self.latent_size = latent_size
        self.inter_dense = inter_dense
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        self.sigma = sigma
        self.free_bits = free_bits
        self.precision = precision
        with _computing_in(precision):
            self.encoder = build_encoder(inter_dense=inter_dense, **shared)
            self.decoder = build_decoder(**shared)
        self._config = {
            **shared,
            "inter_dense": inter_dense,
            "reconstruction": reconstruction,
            "kl_weight": kl_weight,
            "sigma": sigma,
            "free_bits": free_bits,
            "precision": precision,
        }
        self.log_sigma: Any = None
        if reconstruction == "gaussian" and not isinstance(sigma, str):
            self.log_sigma = math.log(sigma)
        elif reconstruction == "gaussian":
            # Starts at about what is left of a face when grey is taken from it. It is ln sigma
            # that is averaged: the mean of sigma^2 would remember its start for long.
            self.log_sigma = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(-1.0),
                dtype="float32",
                trainable=False,
                autocast=False,
                name="log_sigma",
            )
        self.built = True  # both halves have their weights already

    def encode(self, images, training: bool = False, rematerialization: bool = False):
        """Images (batch, size, size, 3) to mu and the clamped log_var, each (batch, latent)."""
        mu, log_var = _run(self.encoder, images, training, rematerialization)
        return mu, keras.ops.clip(log_var, *LOG_VAR_RANGE)

    def call(self, inputs, training: bool = False, rematerialization: bool = False):
        """Encode, sample and decode.

        Args:
            inputs: images (batch, size, size, 3) in [0, 1], reconstructed from mu; or a dict with
                "images" and "epsilon" (batch, latent) drawn from N(0, I), reconstructed from
                z = mu + sigma * epsilon.
            rematerialization: in training on TensorFlow, whether what lies between convolutions is
                computed again for the gradients, see `facevae.model.rematerialization`.

        Returns:
            A dict with "reconstructions", "mu" and "log_var".
        """
        if isinstance(inputs, dict):
            mu, log_var = self.encode(inputs["images"], training, rematerialization)
            z = sample_latent(mu, log_var, inputs["epsilon"])
        else:
            mu, log_var = self.encode(inputs, training, rematerialization)
            z = mu
        return {
            "reconstructions": _run(self.decoder, z, training, rematerialization),
            "mu": mu,
            "log_var": log_var,
        }

    def loss_terms(self, images, outputs, training: bool = False):
        """Mean over the batch of the two terms of the loss, as they are reported.

        Args:
            images: (batch, size, size, 3).
            outputs: what `call` returned for them.
            training: whether a learned sigma is this batch's, and moves its average.

        Returns:
            reconstruction and KL, two float32 scalars; the KL is the true one, not weighted.
        """
        per_image = self._reconstruction_term(images, outputs["reconstructions"], training)
        kl = keras.ops.sum(kl_per_unit(outputs["mu"], outputs["log_var"]), axis=1)
        return keras.ops.mean(per_image), keras.ops.mean(kl)

    def _reconstruction_term(self, images, reconstructions, training: bool):
        if self.reconstruction != "gaussian":
            return RECONSTRUCTION_LOSSES[self.reconstruction](images, reconstructions)
        log_sigma = self.log_sigma
        if training and isinstance(self.sigma, str):
            log_sigma = optimal_log_sigma(images, reconstructions)
            moved = self.log_sigma * MOMENTUM + log_sigma * (1.0 - MOMENTUM)
            self.log_sigma.assign(moved)
        return gaussian_negative_log_density(images, reconstructions, log_sigma)

    def training_loss(self, images, outputs, kl_weight):
        """What a training step minimises, with the terms that it reports.

        Args:
            images, outputs: as of `loss_terms`.
            kl_weight: factor of the KL term in this step.

        Returns:
            loss, reconstruction and KL, three float32 scalars. The loss is reconstruction +
            kl_weight * KL, but that with free bits the KL in it is that beyond them.
        """
        reconstruction, kl = self.loss_terms(images, outputs, training=True)
        kl_penalty = kl
        if self.free_bits:
            per_unit = kl_per_unit(outputs["mu"], outputs["log_var"])
            kl_penalty = kl_beyond_free_bits(per_unit, self.free_bits)
        return reconstruction + kl_weight * kl_penalty, reconstruction, kl

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss that `compile` and `fit` minimise, on any backend: no other is needed.

        In training that of `training_loss`; in validation the weighted sum of `loss_terms`.
        """
        if training:
            return self.training_loss(x["images"], y_pred, self.kl_weight)[0]
        reconstruction, kl = self.loss_terms(x["images"], y_pred)
        return reconstruction + self.kl_weight * kl

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), **self._config}
        # As in files from before there were these.
        if config["reconstruction"] != "gaussian":
            del config["sigma"]
        if not config["free_bits"]:
            del config["free_bits"]
        if config["block"] == "plain":
            del config["block"]
        return config


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
        precision: that of the layers, see `facevae.model.vae.VAE`.
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
