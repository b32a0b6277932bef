"""The Encoder and the Decoder, on any Keras backend.

Every layer draws its start weights and its dropout from (seed, name of the layer). So networks that
are built with one seed start alike wherever they have the same layers: a comparison of two variants
with the same seed then is one of pairs.
"""

import hashlib
import math

import keras

from facevae.common.parameters import CHANNELS, Decoder, Encoder, decoder_layers
from facevae.model.layers import (
    MOMENTUM,
    EinsumGradDense,
    FusedBatchNormalization,
    ReplicaConsistentDropout,
    ResizeConv2D,
    SubpixelConv2DTranspose,
    SubpixelResizeConv2D,
    ZeroBiasGradConv2D,
    ZeroBiasGradConv2DTranspose,
    ZeroBiasGradResizeConv2D,
    output_grad_leaky_relu,
)


def _is_residual(encoder: Encoder) -> bool:
    if encoder.block not in ("plain", "residual"):
        raise ValueError(f"encoder.block: there is no block {encoder.block!r}")
    return encoder.block == "residual"


def _layer_seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1  # 31 bits


def _kernel_initializer(seed: int, name: str) -> keras.initializers.Initializer:
    """Keras' default, Glorot & Bengio 2010, with a seed of its own."""
    return keras.initializers.GlorotUniform(_layer_seed(seed, name))


def _activate(x, name: str, encoder: Encoder, seed: int, *, normalized: bool):
    if normalized:
        x = FusedBatchNormalization(momentum=MOMENTUM, name=f"{name}_normalization")(x)
    function = output_grad_leaky_relu if encoder.activation == "leaky_relu" else encoder.activation
    x = keras.layers.Activation(function, name=f"{name}_activation")(x)
    if encoder.dropout:
        name = f"{name}_dropout"
        x = ReplicaConsistentDropout(encoder.dropout, seed=_layer_seed(seed, name), name=name)(x)
    return x


def _add_residual(x, name: str, encoder: Encoder, seed: int):
    """activation(x + normalised 3x3 convolution of x), with as many channels as x.

    The post-activation block of He et al. 2015, arXiv 1512.03385, with one convolution in place of
    two: x is the activated output of a convolution already.
    """
    name = f"{name}_residual"
    normalized = encoder.batch_normalization
    convolution = ZeroBiasGradConv2D if normalized else keras.layers.Conv2D
    kernels = _kernel_initializer(seed, name)
    change = convolution(x.shape[-1], 3, padding="same", kernel_initializer=kernels, name=name)(x)
    if normalized:
        normalization = FusedBatchNormalization(momentum=MOMENTUM, name=f"{name}_normalization")
        change = normalization(change)
    x = keras.layers.Add(name=f"{name}_sum")([x, change])
    return _activate(x, name, encoder, seed, normalized=False)


def build_encoder(encoder: Encoder, image_size: int, seed: int) -> keras.Model:
    """Images (batch, size, size, 3) in [0, 1] to [mu, log_var], each (batch, latent_size).

    Conv2D -> BatchNormalization -> activation (-> Dropout) per entry of `filters`, each followed by
    a residual block if `block` is "residual"; then Flatten; then, unless `inter_dense` is 0, one
    Dense layer with that many units in front of the two heads. It is the extra layer of this study,
    and removes most of the heads' weights.

    Raises:
        ValueError: an unknown block.
    """
    residual, normalized = _is_residual(encoder), encoder.batch_normalization
    convolution = ZeroBiasGradConv2D if normalized else keras.layers.Conv2D
    images = keras.Input((image_size, image_size, CHANNELS), name="images")
    x = images
    inward = zip(encoder.filters, encoder.kernel_sizes, encoder.strides, strict=True)
    for number, (count, kernel, stride) in enumerate(inward, start=1):
        name = f"conv_{number}"
        kernels = _kernel_initializer(seed, name)
        x = convolution(
            count, kernel, stride, padding="same", kernel_initializer=kernels, name=name
        )(x)
        x = _activate(x, name, encoder, seed, normalized=normalized)
        if residual:
            x = _add_residual(x, name, encoder, seed)
    x = keras.layers.Flatten(name="flatten")(x)
    if encoder.inter_dense:
        x = EinsumGradDense(
            encoder.inter_dense,
            activation=encoder.activation,
            kernel_initializer=_kernel_initializer(seed, "inter_dense"),
            name="inter_dense",
        )(x)
    # The inputs of the losses are computed in float32, whatever the precision of the networks.
    heads = [
        EinsumGradDense(
            encoder.latent_size,
            kernel_initializer=_kernel_initializer(seed, name),
            dtype="float32",
            name=name,
        )
        for name in ("mu", "log_var")
    ]
    return keras.Model(images, [head(x) for head in heads], name="encoder")


def build_decoder(encoder: Encoder, decoder: Decoder, image_size: int, seed: int) -> keras.Model:
    """z (batch, latent_size) to images (batch, size, size, 3) in [0, 1]: the Encoder mirrored.

    Dense -> Reshape; then an upsampling convolution -> BatchNormalization -> activation
    (-> Dropout) per entry of `filters`, each followed by a residual block if `block` is "residual".
    The last convolution has 3 filters and a sigmoid, without normalisation and block. The last
    `resize_layers` are `ResizeConv2D`, the others Conv2DTranspose; the names and shapes of the
    weights are the same.

    Raises:
        ValueError: an unknown block.
    """
    residual = _is_residual(encoder)
    outward = decoder_layers(encoder, decoder)
    innermost = image_size // math.prod(encoder.strides)
    channels = encoder.filters[-1]
    z = keras.Input((encoder.latent_size,), name="z")
    x = EinsumGradDense(
        innermost * innermost * channels,
        kernel_initializer=_kernel_initializer(seed, "dense"),
        name="dense",
    )(z)
    x = keras.layers.Reshape((innermost, innermost, channels), name="reshape")(x)
    for number, (count, kernel, stride, resize) in enumerate(outward, start=1):
        name = f"conv_transpose_{number}"
        last = number == len(outward)
        normalized = encoder.batch_normalization and not last
        if last:
            layer = SubpixelResizeConv2D if resize else SubpixelConv2DTranspose
        elif resize:
            layer = ZeroBiasGradResizeConv2D if normalized else ResizeConv2D
        else:
            layer = ZeroBiasGradConv2DTranspose if normalized else keras.layers.Conv2DTranspose
        kernels = _kernel_initializer(seed, name)
        x = layer(count, kernel, stride, padding="same", kernel_initializer=kernels, name=name)(x)
        if last:
            x = keras.layers.Activation("sigmoid", dtype="float32", name="pixels")(x)
        else:
            x = _activate(x, name, encoder, seed, normalized=normalized)
            if residual:
                x = _add_residual(x, name, encoder, seed)
    return keras.Model(z, x, name="decoder")
