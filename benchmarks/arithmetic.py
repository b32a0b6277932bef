"""How much arithmetic a training step takes, from the layers of the networks."""

import math

import keras

from facevae.model.layers import ResizeConv2D


def forward_flop(layer: keras.Layer) -> int:
    """Multiplications and additions with a layer's kernel, for one image; 0 without a kernel.

    All else in a network, such as normalisation, is a few operations per number and not counted.

    Raises:
        TypeError: a layer with a kernel is of a kind that is not known.
    """
    if not hasattr(layer, "kernel"):
        return 0
    kernel = list(layer.kernel.shape)
    if isinstance(layer, ResizeConv2D):  # the kernel that it computes from its own
        kernel[:2] = [side + layer.strides[0] - 1 for side in kernel[:2]]
    if isinstance(layer, keras.layers.Conv2DTranspose):
        positions = math.prod(layer.input.shape[1:3])
    elif isinstance(layer, keras.layers.Conv2D):
        positions = math.prod(layer.output.shape[1:3])
    elif isinstance(layer, keras.layers.Dense):
        positions = 1
    else:
        raise TypeError(f"{layer.name}: no rule for {type(layer).__name__}")
    return 2 * positions * math.prod(kernel)


def step_flop(encoder: keras.Model, decoder: keras.Model) -> int:
    """Those of a training step, for one image.

    The gradient of the kernel and that of the input take as many as the layer itself. The gradient
    of the image is never computed.
    """
    first, *others = (flop for layer in encoder.layers if (flop := forward_flop(layer)))
    return 2 * first + 3 * (sum(others) + sum(map(forward_flop, decoder.layers)))
