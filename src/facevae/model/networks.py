"""The Encoder and the Decoder, on any Keras backend."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from facevae.common.parameters import CHANNELS
from facevae.model.layers import (
    MOMENTUM,
    FusedBatchNormalization,
    ReplicaConsistentDropout,
    ZeroBiasGradConv2D,
    ZeroBiasGradConv2DTranspose,
    output_grad_leaky_relu,
)


def _activate(x, name: str, *, activation: str, batch_normalization: bool, dropout: float):
    if batch_normalization:
        x = FusedBatchNormalization(momentum=MOMENTUM, name=f"{name}_normalization")(x)
    function = output_grad_leaky_relu if activation == "leaky_relu" else activation
    x = keras.layers.Activation(function, name=f"{name}_activation")(x)
    if dropout:
        x = ReplicaConsistentDropout(dropout, name=f"{name}_dropout")(x)
    return x


def _add_residual(x, name: str, *, activation: str, batch_normalization: bool, dropout: float):
    """activation(x + normalised 3x3 convolution of x), one layer deep, as wide as x.

    The post-activation block of He et al. 2015, arXiv 1512.03385, with one convolution in place of
    two: x, activated, is the first one's output.
    """
    name = f"{name}_residual"
    convolution = ZeroBiasGradConv2D if batch_normalization else keras.layers.Conv2D
    change = convolution(x.shape[-1], 3, padding="same", name=name)(x)
    if batch_normalization:
        normalization = FusedBatchNormalization(momentum=MOMENTUM, name=f"{name}_normalization")
        change = normalization(change)
    x = keras.layers.Add(name=f"{name}_sum")([x, change])
    return _activate(x, name, activation=activation, batch_normalization=False, dropout=dropout)


def build_encoder(
    *,
    image_size: int,
    filters: Sequence[int],
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    latent_size: int,
    inter_dense: int,
    block: str,
    activation: str,
    batch_normalization: bool,
    dropout: float,
) -> keras.Model:
    """Images (batch, size, size, 3) in [0, 1] to [mu, log_var], each (batch, latent_size).

    Conv2D -> BatchNormalization -> activation (-> Dropout) per entry of `filters`, each followed by
    a residual block if `block` is "residual", Flatten, and, if `inter_dense` is not 0, one Dense
    layer of so many units in front of the two heads: the extra layer of this study, which takes
    most of the heads' weights away.
    """
    hidden: dict[str, Any] = {
        "activation": activation,
        "batch_normalization": batch_normalization,
        "dropout": dropout,
    }
    convolution = ZeroBiasGradConv2D if batch_normalization else keras.layers.Conv2D
    images = keras.Input((image_size, image_size, CHANNELS), name="images")
    x = images
    inward = zip(filters, kernel_sizes, strides, strict=True)
    for number, (count, kernel, stride) in enumerate(inward, start=1):
        name = f"conv_{number}"
        x = convolution(count, kernel, stride, padding="same", name=name)(x)
        x = _activate(x, name, **hidden)
        if block == "residual":
            x = _add_residual(x, name, **hidden)
    x = keras.layers.Flatten(name="flatten")(x)
    if inter_dense:
        x = keras.layers.Dense(inter_dense, activation=activation, name="inter_dense")(x)
    # What the losses read is computed in float32, whatever the precision of the rest.
    mu = keras.layers.Dense(latent_size, dtype="float32", name="mu")(x)
    log_var = keras.layers.Dense(latent_size, dtype="float32", name="log_var")(x)
    return keras.Model(images, [mu, log_var], name="encoder")


def build_decoder(
    *,
    image_size: int,
    filters: Sequence[int],
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    latent_size: int,
    block: str,
    activation: str,
    batch_normalization: bool,
    dropout: float,
) -> keras.Model:
    """z (batch, latent_size) to images (batch, size, size, 3) in [0, 1]: the Encoder mirrored.

    Dense -> Reshape -> Conv2DTranspose -> BatchNormalization -> activation (-> Dropout) per layer,
    each followed by a residual block if `block` is "residual"; the last Conv2DTranspose has 3
    filters and a sigmoid, and neither normalisation nor block.
    """
    hidden: dict[str, Any] = {
        "activation": activation,
        "batch_normalization": batch_normalization,
        "dropout": dropout,
    }
    innermost = image_size // math.prod(strides)
    z = keras.Input((latent_size,), name="z")
    x = keras.layers.Dense(innermost * innermost * filters[-1], name="dense")(z)
    x = keras.layers.Reshape((innermost, innermost, filters[-1]), name="reshape")(x)
    outward = zip([*filters[-2::-1], CHANNELS], kernel_sizes[::-1], strides[::-1], strict=True)
    for number, (count, kernel, stride) in enumerate(outward, start=1):
        name = f"conv_transpose_{number}"
        last = number == len(filters)
        normalized = batch_normalization and not last
        layer = ZeroBiasGradConv2DTranspose if normalized else keras.layers.Conv2DTranspose
        x = layer(count, kernel, stride, padding="same", name=name)(x)
        if last:
            x = keras.layers.Activation("sigmoid", dtype="float32", name="pixels")(x)
        else:
            x = _activate(x, name, **hidden)
            if block == "residual":
                x = _add_residual(x, name, **hidden)
    return keras.Model(z, x, name="decoder")
