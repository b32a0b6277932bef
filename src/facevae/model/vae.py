"""The VAE: Encoder, sampling of z, Decoder and loss, on any Keras backend."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras

from facevae.common.errors import UserError
from facevae.common.parameters import Decoder, Encoder, Loss, shape_mistakes
from facevae.model.layers import MOMENTUM, FusedBatchNormalization
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
        encoder: section `encoder` of the parameters; the Decoder mirrors the Encoder.
        decoder: section `decoder` of the parameters.
        loss: section `loss` of the parameters; see `facevae.model.losses`.
        image_size: pixels per side, a multiple of the product of the strides.
        precision: "float32", "bfloat16" or "float16", in which the layers compute. The weights, the
            outputs and the losses are float32 in any case.
        seed: each layer draws its start weights and its dropout from (seed, name of the layer).

    Attributes:
        encoder, decoder: the two Keras models, usable alone.
        encoder_settings, decoder_settings, loss_settings, image_size, precision, seed: as given.
        log_sigma: ln sigma outside training, sigma in pixel values; None unless the reconstruction
            is "gaussian". A number if sigma is given. If sigma is learned, training computes it
            from each batch, and this is a weight with the moving average of ln sigma, as in batch
            normalisation; `facevae.training.statistics` computes it again when the training ends.

    Example:
        >>> parameters = load_parameters("params.yaml")
        >>> sections = parameters.encoder, parameters.decoder, parameters.loss
        >>> vae = VAE(*sections, image_size=96, precision="float32", seed=1)
        >>> vae.encoder.count_params()
        2881472
        >>> vae.compile("adam")
        >>> vae.fit(training_batches(...), shuffle=False)  # of facevae.shards.batches

    `facevae.training.loop.train` is a faster loop for TensorFlow, with history and KL warm-up.

    Raises:
        UserError: the lists differ in length, or a stride does not divide its layer's input.
        ValueError: an unknown name of a block, a reconstruction or a precision.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        loss: Loss,
        *,
        image_size: int,
        precision: str,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        mistakes = shape_mistakes(
            image_size,
            encoder.filters,
            encoder.kernel_sizes,
            encoder.strides,
            decoder.kernel_sizes,
        )
        if mistakes:
            raise UserError("\n".join(mistakes))
        if loss.reconstruction not in ("gaussian", *RECONSTRUCTION_LOSSES):
            raise ValueError(f"loss.reconstruction: there is no {loss.reconstruction!r}")
        if precision not in POLICIES:
            raise ValueError(f"train.precision: there is no {precision!r}")
        self.encoder_settings = encoder
        self.decoder_settings = decoder
        self.loss_settings = loss
        self.image_size = image_size
        self.precision = precision
        self.seed = seed
        with _computing_in(precision):
            self.encoder = build_encoder(encoder, image_size, seed)
            self.decoder = build_decoder(encoder, decoder, image_size, seed)
        self._momentum = MOMENTUM
        self.log_sigma: Any = None
        if self.learns_sigma:
            # It is ln sigma that is averaged: an average of sigma^2 forgets its start slowly.
            self.log_sigma = self.add_weight(
                shape=(),
                # Near the standard deviation of faces around mid-grey.
                initializer=keras.initializers.Constant(-1.0),
                dtype="float32",
                trainable=False,
                autocast=False,
                name="log_sigma",
            )
        elif not isinstance(loss.sigma, str) and loss.reconstruction == "gaussian":
            self.log_sigma = math.log(loss.sigma)
        self.built = True  # the Encoder and the Decoder have their weights already

    @property
    def latent_size(self) -> int:
        """Dimensions of z."""
        return self.encoder_settings.latent_size

    @property
    def learns_sigma(self) -> bool:
        """Whether the sigma of a Gaussian Decoder is learned, not given."""
        return self.reconstruction == "gaussian" and self.loss_settings.sigma == "learned"

    @property
    def reconstruction(self) -> str:
        """Name of the reconstruction term."""
        return self.loss_settings.reconstruction

    @property
    def kl_weight(self) -> float:
        """Factor of the KL term, after its warm-up."""
        return self.loss_settings.kl_weight

    @property
    def normalizations(self) -> list[FusedBatchNormalization]:
        """The layers that keep moving averages of their input, in the order of their calls."""
        layers = [*self.encoder.layers, *self.decoder.layers]
        return [layer for layer in layers if isinstance(layer, FusedBatchNormalization)]

    def set_momentum(self, momentum: float) -> None:
        """Set how much of the moving averages stays when a batch updates them.

        To be called before a training step is compiled. The averages are those of `normalizations`
        and of a learned sigma.

        Args:
            momentum: between 0, each batch replaces the averages, and 1.
        """
        self._momentum = momentum
        for layer in self.normalizations:
            layer.momentum = momentum

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
            training: whether batch normalisation and dropout work as in training.
            rematerialization: in training on TensorFlow, whether activations between convolutions
                are recomputed for the gradients; see `facevae.model.rematerialization`.

        Returns:
            A dict with "reconstructions" (batch, size, size, 3) in [0, 1], and "mu" and "log_var"
            (batch, latent), all float32.
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
        """The two terms of the loss, as they are reported: means over the batch.

        Args:
            images: (batch, size, size, 3) in [0, 1].
            outputs: what `call` returned for them.
            training: whether a learned sigma is computed from this batch and updates its moving
                average.

        Returns:
            The reconstruction term (unit: see `facevae.model.losses`) and the KL in nats, without
            its weight; two () float32.
        """
        per_image = self._reconstruction_term(images, outputs["reconstructions"], training)
        kl = keras.ops.sum(kl_per_unit(outputs["mu"], outputs["log_var"]), axis=1)
        return keras.ops.mean(per_image), keras.ops.mean(kl)

    def _reconstruction_term(self, images, reconstructions, training: bool):
        """Per image; in training, a learned sigma's moving average is updated."""
        if self.reconstruction != "gaussian":
            return RECONSTRUCTION_LOSSES[self.reconstruction](images, reconstructions)
        log_sigma = self.log_sigma
        if training and self.learns_sigma:
            log_sigma = optimal_log_sigma(images, reconstructions)
            moved = self.log_sigma * self._momentum + log_sigma * (1.0 - self._momentum)
            self.log_sigma.assign(moved)
        return gaussian_negative_log_density(images, reconstructions, log_sigma)

    def training_loss(self, images, outputs, kl_weight):
        """The loss that a training step minimises, and the two terms that it reports.

        Args:
            images, outputs: as `loss_terms` takes them.
            kl_weight: factor of the KL term in this step.

        Returns:
            Loss, reconstruction term and KL, three () float32. The loss is reconstruction +
            kl_weight * KL; with free bits, the KL in it is `kl_beyond_free_bits`.
        """
        reconstruction, kl = self.loss_terms(images, outputs, training=True)
        # The penalty is minimised, the KL is reported.
        if free_bits := self.loss_settings.free_bits:
            per_unit = kl_per_unit(outputs["mu"], outputs["log_var"])
            kl_penalty = kl_beyond_free_bits(per_unit, free_bits)
        else:
            kl_penalty = kl
        return reconstruction + kl_weight * kl_penalty, reconstruction, kl

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss that Keras' `fit` minimises, on any backend; `compile` needs no other.

        In training it is that of `training_loss`, in validation the weighted sum of `loss_terms`.

        Args:
            x: a dict with "images" and "epsilon", as `call` takes it.
            y_pred: what `call` returned for it.
        """
        if training:
            return self.training_loss(x["images"], y_pred, self.kl_weight)[0]
        reconstruction, kl = self.loss_terms(x["images"], y_pred)
        return reconstruction + self.kl_weight * kl

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": self.encoder_settings.model_dump(),
            "decoder": self.decoder_settings.model_dump(),
            "loss": self.loss_settings.model_dump(),
            "image_size": self.image_size,
            "precision": self.precision,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "VAE":
        """The VAE that `get_config` described.

        Raises:
            KeyError, TypeError, ValueError: another version of this project wrote the settings.
        """
        settings = {**config}
        sections = {"encoder": Encoder, "decoder": Decoder, "loss": Loss}
        given = [section(**settings.pop(name)) for name, section in sections.items()]
        return cls(*given, **settings)
