"""Encoder and Decoder as ONNX files, which run without Keras and without this project.

Each Keras layer becomes one ONNX node or a few. Keras' own export, which takes tf2onnx, fails for
some parameters: GELU, bfloat16, a transposed convolution whose kernel is smaller than its stride.

The files take and give what the networks do: images (batch, height, width, channels). Inside,
channels come before rows and columns, as ONNX has them. All is float32, also if the training
computed in bfloat16 or float16. A file needs operator set 17, which runtimes have since 2022.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

import facevae
from facevae.common.files import atomic_write
from facevae.model.layers import (
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
from facevae.model.losses import LOG_VAR_RANGE
from facevae.model.vae import VAE

_OPERATOR_SET, _FORMAT = 17, 8
_CHANNELS_FIRST, _CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class _Graph:
    """Nodes and weights of a file that is being written; a value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operation: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Add a node with one output, which has the node's name; returns it."""
        self.nodes.append(helper.make_node(operation, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any, name: str) -> str:
        """Add a weight; returns its name."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, variable: keras.Variable, name: str, axes: list[int] | None = None) -> str:
        """Add a weight of a layer, its axes in another order if one is given."""
        value = keras.ops.convert_to_numpy(variable).astype(np.float32)
        return self.constant(value if axes is None else value.transpose(axes), name)


def _activation(graph: _Graph, function: Callable[..., Any], x: str, name: str) -> str:
    known = keras.activations
    if function in (output_grad_leaky_relu, known.leaky_relu):
        return graph.add("LeakyRelu", [x], name, alpha=0.2)
    if function is known.elu:
        return graph.add("Elu", [x], name)
    if function is known.relu:
        return graph.add("Relu", [x], name)
    if function is known.sigmoid:
        return graph.add("Sigmoid", [x], name)
    if function is known.silu:
        return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}/sigmoid")], name)
    if function is known.gelu:  # x/2 (1 + erf(x / sqrt 2)): the operator set has no node for it
        scale, one, half = (
            graph.constant(np.float32(value), f"{name}/{part}")
            for part, value in (("scale", math.sqrt(0.5)), ("one", 1.0), ("half", 0.5))
        )
        scaled = graph.add("Mul", [x, scale], f"{name}/scaled")
        error = graph.add("Erf", [scaled], f"{name}/erf")
        factor = graph.add("Add", [error, one], f"{name}/factor")
        return graph.add("Mul", [graph.add("Mul", [x, half], f"{name}/halved"), factor], name)
    raise TypeError(f"{name}: there is no ONNX node for the activation {function}")


def _input(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    given = layer.output.name
    if len(layer.output.shape) == 2:
        return given
    return graph.add("Transpose", [given], name, perm=_CHANNELS_FIRST)


def _dense(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    weights = [
        graph.weight(layer.kernel, f"{name}/kernel"), graph.weight(layer.bias, f"{name}/bias")
    ]  # fmt: skip
    if layer.activation is keras.activations.linear:
        return graph.add("Gemm", [*inputs, *weights], name)
    product = graph.add("Gemm", [*inputs, *weights], f"{name}/product")
    return _activation(graph, layer.activation, product, name)


def _geometry(layer: Any) -> dict[str, Any]:
    """Attributes of a convolution with padding "same", of a side that the stride divides."""
    (side, _), (stride, _) = layer.kernel_size, layer.strides
    total = max(side - stride, 0)
    begin, end = total // 2, total - total // 2
    return {"strides": [stride] * 2, "pads": [begin, begin, end, end]}


def _convolution(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    kernel = graph.weight(layer.kernel, f"{name}/kernel", [3, 2, 0, 1])
    bias = graph.weight(layer.bias, f"{name}/bias")
    return graph.add("Conv", [*inputs, kernel, bias], name, **_geometry(layer))


def _transposed(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    (side, _), (stride, _) = layer.kernel_size, layer.strides
    kernel = graph.weight(layer.kernel, f"{name}/kernel", [3, 2, 0, 1])
    bias = graph.weight(layer.bias, f"{name}/bias")
    # A kernel that is smaller than the stride reaches no last rows and columns.
    beyond = [max(stride - side, 0)] * 2
    attributes = {**_geometry(layer), "output_padding": beyond}
    return graph.add("ConvTranspose", [*inputs, kernel, bias], name, **attributes)


def _resized(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    (side, _), (stride, _) = layer.kernel_size, layer.strides
    scales = graph.constant(np.array([1, 1, stride, stride], np.float32), f"{name}/scales")
    larger = graph.add(
        "Resize", [*inputs, "", scales], f"{name}/larger",
        mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    kernel = graph.weight(layer.kernel, f"{name}/kernel", [2, 3, 0, 1])
    bias = graph.weight(layer.bias, f"{name}/bias")
    # The layer is a transposed convolution, so that with an even side its longer edge comes first.
    begin, end = side // 2, (side - 1) // 2
    return graph.add("Conv", [larger, kernel, bias], name, pads=[begin, begin, end, end])


def _normalization(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    parts = ("gamma", "beta", "moving_mean", "moving_variance")
    weights = [graph.weight(getattr(layer, part), f"{name}/{part}") for part in parts]
    return graph.add("BatchNormalization", [*inputs, *weights], name, epsilon=layer.epsilon)


def _flatten(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    pixels = graph.add("Transpose", inputs, f"{name}/pixels", perm=_CHANNELS_LAST)
    return graph.add("Flatten", [pixels], name)


def _reshape(graph: _Graph, layer: Any, inputs: list[str], name: str) -> str:
    shape = graph.constant(np.array([0, *layer.target_shape], np.int64), f"{name}/shape")
    pixels = graph.add("Reshape", [*inputs, shape], f"{name}/pixels")
    return graph.add("Transpose", [pixels], name, perm=_CHANNELS_FIRST)


_NODES: dict[type, Callable[[_Graph, Any, list[str], str], str]] = {
    keras.layers.InputLayer: _input,
    keras.layers.Activation: lambda graph, layer, inputs, name: _activation(
        graph, layer.activation, inputs[0], name
    ),
    keras.layers.Add: lambda graph, layer, inputs, name: graph.add("Add", inputs, name),
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.Dense: _dense,
    keras.layers.Flatten: _flatten,
    keras.layers.Reshape: _reshape,
    EinsumGradDense: _dense,
    FusedBatchNormalization: _normalization,
    ReplicaConsistentDropout: lambda graph, layer, inputs, name: inputs[0],
    ResizeConv2D: _resized,
    SubpixelConv2DTranspose: _transposed,
    SubpixelResizeConv2D: _resized,
    ZeroBiasGradConv2D: _convolution,
    ZeroBiasGradConv2DTranspose: _transposed,
    ZeroBiasGradResizeConv2D: _resized,
}


def _values(graph: _Graph, network: keras.Model) -> list[str]:
    """Add nodes for all layers; the names of the outputs, of images with channels first."""
    names: dict[int, str] = {}
    for layer in network.layers:  # in the order of their calls
        inputs = [names[id(each)] for each in keras.tree.flatten(layer.input)]
        names[id(layer.output)] = _NODES[type(layer)](graph, layer, inputs, f"{layer.name}/output")
    return [names[id(each)] for each in network.outputs]


def _write(graph: _Graph, network: keras.Model, outputs: list[str], path: Path) -> None:
    def tensor(name: str, like: Any) -> onnx.ValueInfoProto:
        shape = ["batch", *like.shape[1:]]
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            network.name,
            [tensor(each.name, each) for each in network.inputs],
            [tensor(name, each) for name, each in zip(outputs, network.outputs, strict=True)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", _OPERATOR_SET)],
        ir_version=_FORMAT,
        producer_name="facevae",
        producer_version=facevae.__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(path) as temporary:
        onnx.save(model, temporary)


def write_encoder(vae: VAE, path: Path) -> None:
    """Write the Encoder: `images` (batch, size, size, 3) in [0, 1] to `mu` and `log_var`.

    They are (batch, latent_size), and log_var is clamped: what `VAE.encode` returns. The same
    weights give the same bytes.

    Raises:
        TypeError, KeyError: a layer or an activation that this module does not know.
    """
    graph = _Graph()
    mu, log_var = _values(graph, vae.encoder)
    limits = [
        graph.constant(np.float32(limit), f"log_var/{name}")
        for name, limit in zip(("least", "most"), LOG_VAR_RANGE, strict=True)
    ]
    outputs = [graph.add("Identity", [mu], "mu"), graph.add("Clip", [log_var, *limits], "log_var")]
    _write(graph, vae.encoder, outputs, path)


def write_decoder(vae: VAE, path: Path) -> None:
    """Write the Decoder: `z` (batch, latent_size) to `images` (batch, size, size, 3) in [0, 1].

    The same weights give the same bytes.

    Raises:
        TypeError, KeyError: as `write_encoder`.
    """
    graph = _Graph()
    (pixels,) = _values(graph, vae.decoder)
    outputs = [graph.add("Transpose", [pixels], "images", perm=_CHANNELS_LAST)]
    _write(graph, vae.decoder, outputs, path)
