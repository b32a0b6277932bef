"""A trained Decoder as a list of convolutions with 8-bit weights, which `decoder.js` computes.

Every layer of a Decoder is a transposed convolution, or can be written as one:

- a Dense layer is one of an image of a single pixel, with a kernel of a single pixel;
- a convolution with stride 1 is one with the mirrored kernel;
- repeating pixels and then convolving is one with a larger kernel, which the browser computes.

Batch normalisation multiplies each channel by a number and adds another, which the kernel and the
bias in front of it take over.
"""

from dataclasses import dataclass

import keras
import numpy as np

from facevae.model.layers import ResizeConv2D

_LARGEST = 127  # int8, without -128, so that 0 is in the middle


@dataclass
class Layer:
    """A transposed convolution with padding "same", then perhaps a sum, then an activation.

    Attributes:
        size: side of its input, pixels.
        kernel: (side, side, outputs, inputs) float32.
        bias: (outputs,) float32.
        stride: how many times as many pixels a side its output has as its input.
        resize: whether pixels are repeated `stride` times a side before they are convolved.
        residual: whether its input is added to its output, before the activation.
        activation: a name in `params.yaml`, "sigmoid" or "linear".
    """

    size: int
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1
    resize: bool = False
    residual: bool = False
    activation: str = "linear"


def decoder_layers(decoder: keras.Model) -> list[Layer]:
    """The layers of a Decoder that `facevae.model.networks.build_decoder` built, in their order.

    Raises:
        ValueError: it has a layer of another kind.
    """
    found: list[Layer] = []
    for layer in decoder.layers:
        match layer:
            case keras.layers.Dense():
                kernel = _array(layer.kernel).T[None, None]
                found.append(Layer(1, kernel, _array(layer.bias)))
            case keras.layers.Conv2DTranspose():  # ResizeConv2D is one, too
                resize = isinstance(layer, ResizeConv2D)
                parts = _array(layer.kernel), _array(layer.bias), layer.strides[0], resize
                found.append(Layer(layer.input.shape[1], *parts))
            case keras.layers.Conv2D():
                kernel = _array(layer.kernel)[::-1, ::-1].swapaxes(2, 3)
                found.append(Layer(layer.input.shape[1], kernel, _array(layer.bias)))
            case keras.layers.BatchNormalization():
                _fold(layer, found[-1])
            case keras.layers.Add():
                found[-1].residual = True
            case keras.layers.Activation():
                found[-1].activation = layer.activation.__name__.removeprefix("output_grad_")
            case keras.layers.InputLayer() | keras.layers.Reshape() | keras.layers.Dropout():
                pass
            case _:
                raise ValueError(f"{layer.name}: decoder.js has no {type(layer).__name__}")
    return found


def _array(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float32)


def _fold(normalization: keras.layers.BatchNormalization, layer: Layer) -> None:
    mean, variance = map(_array, (normalization.moving_mean, normalization.moving_variance))
    factor = _array(normalization.gamma) / np.sqrt(variance + normalization.epsilon)
    layer.kernel = layer.kernel * factor[:, None]
    layer.bias = (layer.bias - mean) * factor + _array(normalization.beta)


def quantized(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of a layer as whole numbers, and what each output channel's are multiplied by.

    Args:
        kernel: (side, side, outputs, inputs).

    Returns:
        int8 of the same shape, from -127 to 127, and the scales, (outputs,) float32. Their product
        is at most half a scale from the kernel.
    """
    scales = np.abs(kernel).max(axis=(0, 1, 3)).astype(np.float32) / np.float32(_LARGEST)
    steps = np.where(scales > 0, scales, 1)[:, None]  # a channel of zeros
    return np.round(kernel / steps).astype(np.int8), scales
