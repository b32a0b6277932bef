"""The ledger of a training step: its estimated memory by kind, without running the step.

It is computed from the parameters in pure Python, without TensorFlow, so that the answer is
immediate. All numbers are bytes on one device. With B images in an accumulation step (batch_size /
accumulation_steps), C bytes per number in the networks (4 in float32, 2 in bfloat16 and float16)
and N trained weights:

    weights            4 (N + moving mean and variance of every normalised channel)
    gradients          4 N
    optimizer slots    adam 8 N; sgd 4 N; adafactor 4 (rows + columns) per weight of two or more
                       dimensions and 4 N of the others; with train.ema_momentum 4 N more
    input batch        4 batch_size (size * size * 3 + latent), the images and the noise; with
                       accumulation, also the part in use
    activations        C B out for each tensor that the gradient of a layer with `out` outputs per
                       image reads, see `_Layer.kept`
    workspace          temporary tensors

These are never in memory all at once: activations are freed while gradients are computed. The step
is therefore simulated layer by layer, forwards and backwards. Its peak is the moment at which most
bytes are in use.

The estimate counts the bytes that TensorFlow requests from its allocator. It leaves out what does
not follow from the parameters: the process or CUDA context itself; cuDNN's scratch space for
convolutions on a GPU; what an allocator rounds up; constants of up to 10 MiB that TensorFlow
computes once and keeps; and, on a CPU, the batches that the input pipeline prepares ahead (with a
GPU, these are in the host's memory). It also does not know which of two ready kernels runs first,
so that a tensor may be freed one kernel later than assumed.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

from facevae.common.parameters import (
    CHANNELS,
    Decoder,
    Encoder,
    Parameters,
    Train,
    decoder_layers,
)

_FLOAT32 = 4  # bytes of a number in weights, gradients, slots, inputs and losses


@dataclass(frozen=True)
class Ledger:
    """The memory of a training step by kind, bytes.

    Attributes:
        weights: the trained weights, and the moving statistics of batch normalisation.
        gradients: of all trained weights.
        optimizer_slots: the state that the optimizer stores per weight.
        activations: stored for the backward pass, by layer, at the end of the forward pass; with
            accumulation, those of one part of the batch.
        at_peak: what is in memory at the peak, by kind: "weights", "optimizer_slots",
            "input_batches", "activations", "gradients", "workspace".
        moment: a description of the moment of the peak.
    """

    weights: int
    gradients: int
    optimizer_slots: int
    activations: dict[str, int]
    at_peak: dict[str, int]
    moment: str

    @property
    def peak(self) -> int:
        """The most bytes that are in use at once."""
        return sum(self.at_peak.values())


@dataclass(frozen=True)
class _Layer:
    """A layer with weights, together with the layers without weights that follow it.

    Attributes:
        weights: shapes of the trained weights, the kernel first.
        statistics: how many float32 numbers are not trained.
        inputs, outputs: numbers per image.
        kept: tensors stored for the backward pass, by what they are: bytes per image. The output
            of a layer is the input of the next one, and is counted once.
        enlarged: numbers of the kernel that a resize-convolution computes from its own; else 0.
        recomputed: bytes per image of the following activations that rematerialization recomputes.
        residual: whether the input is added to the output.
    """

    name: str
    weights: tuple[tuple[int, ...], ...]
    statistics: int
    inputs: int
    outputs: int
    kept: dict[str, int]
    enlarged: int = 0
    recomputed: int = 0
    residual: bool = False

    @property
    def trained(self) -> int:
        return sum(map(math.prod, self.weights))

    @property
    def kernel(self) -> int:
        return math.prod(self.weights[0])


_OUTPUT, _NORMALIZED, _ACTIVATED = "output", "normalisation's input", "activation's input"


def _layers(
    encoder: Encoder,
    decoder: Decoder,
    image_size: int,
    itemsize: int = _FLOAT32,
    rematerialization: bool = False,
) -> list[_Layer]:
    """All layers with weights, in the order of the forward pass.

    Args:
        itemsize: bytes of a number in the networks.
    """

    def convolution(
        name: str,
        kernel: tuple[int, ...],
        count: int,
        inputs: int,
        outputs: int,
        enlarged: int = 0,
    ) -> _Layer:
        tensor = itemsize * outputs
        # The gradients of output_grad_leaky_relu, relu and elu read their output, which is the
        # next layer's input.
        behind = {_OUTPUT: tensor}
        if encoder.activation == "silu":
            behind[_ACTIVATED] = tensor
        elif encoder.activation == "gelu":
            # Half of the input, its square, and 1 plus its error function.
            behind[_ACTIVATED] = 3 * tensor
        if encoder.dropout:
            behind["dropout's input and mask"] = tensor + outputs  # the mask has a byte per number
        normalized = encoder.batch_normalization
        weights = (kernel, (count,), *([(count,), (count,)] if normalized else []))
        statistics = 2 * count * normalized
        kept = {_NORMALIZED: tensor} if normalized else {}
        recomputed, residual = 0, name.endswith("residual")
        if rematerialization:
            # Behind a sum, everything that leads to either of its summands is recomputed.
            recomputed = sum(behind.values()) * (2 if residual else 1)
            kept, behind = kept or {_ACTIVATED: tensor}, {}
        kept |= behind
        return _Layer(
            name, weights, statistics, inputs, outputs, kept, enlarged, recomputed, residual
        )

    def block(
        name: str,
        kernel: tuple[int, ...],
        count: int,
        inputs: int,
        outputs: int,
        enlarged: int = 0,
    ) -> list[_Layer]:
        first = convolution(name, kernel, count, inputs, outputs, enlarged)
        if encoder.block == "plain":
            return [first]
        shape = (3, 3, count, count)
        return [first, convolution(f"{name}_residual", shape, count, outputs, outputs)]

    def dense(name: str, width: int, units: int, kept: dict[str, int]) -> _Layer:
        return _Layer(name, ((width, units), (units,)), 0, width, units, kept)

    layers = []
    side, channels = image_size, CHANNELS
    inward = zip(encoder.filters, encoder.kernel_sizes, encoder.strides, strict=True)
    for place, (count, kernel, stride) in enumerate(inward, start=1):
        inputs = side * side * channels
        side //= stride
        shape = (kernel, kernel, channels, count)
        layers += block(f"conv_{place}", shape, count, inputs, side * side * count)
        channels = count
    flattened = width = side * side * channels
    if units := encoder.inter_dense:
        kept = {_OUTPUT: itemsize * units}
        if encoder.activation not in ("relu", "elu"):
            # Here leaky ReLU is Keras' own, whose gradient reads the input.
            kept[_ACTIVATED] = itemsize * units
        layers.append(dense("inter_dense", width, units, kept))
        width = units
    latent = encoder.latent_size
    for name in ("mu", "log_var"):
        layers.append(dense(name, width, latent, {_OUTPUT: _FLOAT32 * latent}))
    layers.append(dense("dense", latent, flattened, {_OUTPUT: itemsize * flattened}))
    outward = decoder_layers(encoder, decoder)
    for place, (count, kernel, stride, resize) in enumerate(outward, start=1):
        inputs = side * side * channels
        side *= stride
        shape = (kernel, kernel, count, channels)
        enlarged = 0
        if resize:
            enlarged = (kernel + stride - 1) ** 2 * count * channels
        outputs = side * side * count
        layers += block(f"conv_transpose_{place}", shape, count, inputs, outputs, enlarged)
        channels = count
    if encoder.block == "residual":
        layers.pop()
    # The last layer has no normalisation; its sigmoid is counted with the loss.
    layers[-1] = replace(
        layers[-1], weights=layers[-1].weights[:2], statistics=0, kept={}, recomputed=0
    )
    return layers


def _slots(optimizer: str, shape: tuple[int, ...]) -> int:
    """Numbers that an optimizer stores for a weight of this shape."""
    if optimizer == "adafactor" and len(shape) > 1:
        return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))
    return {"adam": 2, "sgd": 1, "adafactor": 1}[optimizer] * math.prod(shape)


# Bytes of temporary tensors for the loss, per pixel value, beside the reconstructions.
# mse and gaussian, float32: the difference, its square, and for the gradient the derivatives of the
# square and of the mean. bce, float32: 1 - x, the clipped x', ln x', ln(1 - x'), and for the
# gradient the derivative of the mean times 1 - x, 1 / x' and 1 - x'; and two masks of a byte that
# say where x' was clipped.
_LOSS = {"mse": 4 * _FLOAT32, "gaussian": 4 * _FLOAT32, "bce": 7 * _FLOAT32 + 2}


class _Step:
    """Simulates a step: the bytes in use by kind, now and at the peak so far."""

    def __init__(self, **in_use: int) -> None:
        self.in_use = Counter(in_use)
        self.at_peak: Counter[str] = Counter()
        self.moment = ""

    def at(self, moment: str, workspace: int) -> None:
        """Compare a moment, with temporary tensors of `workspace` bytes, to the peak so far."""
        now = self.in_use + Counter(workspace=workspace)
        if now.total() > self.at_peak.total():
            self.at_peak, self.moment = now, moment


def ledger(parameters: Parameters) -> Ledger:
    """The ledger of a training step.

    Args:
        parameters: of one variant, see `Parameters.variant`.
    """
    encoder, train = parameters.encoder, parameters.train
    image_size = parameters.data.image_size
    accumulated = train.accumulation_steps > 1
    images = train.batch_size // train.accumulation_steps
    lower = train.precision != "float32"
    itemsize = 2 if lower else _FLOAT32
    layers = _layers(encoder, parameters.decoder, image_size, itemsize, train.rematerialization)
    pixels = image_size * image_size * CHANNELS

    weights = _FLOAT32 * sum(layer.trained + layer.statistics for layer in layers)
    gradients = _FLOAT32 * sum(layer.trained for layer in layers)
    slots = _FLOAT32 * sum(
        _slots(train.optimizer, shape) for layer in layers for shape in layer.weights
    )
    slots += gradients if train.ema_momentum is not None else 0
    batch = train.batch_size + (images if accumulated else 0)
    batch *= _FLOAT32 * (pixels + encoder.latent_size)

    # The gradients of the layers' inputs read the kernels: enlarged ones, and copies in the lower
    # precision, which there are of the images, too. The heads compute in float32, and keep a
    # float32 copy of their input.
    copies = {layer.name: itemsize * layer.enlarged for layer in layers}
    if lower:
        for layer in layers:
            if layer.name == "mu":
                copies["mu"] = _FLOAT32 * images * layer.inputs
            elif layer.name != "log_var":
                copies[layer.name] = itemsize * (layer.enlarged or layer.kernel)
        copies["conv_1"] += itemsize * images * pixels
    activations = {
        layer.name: images * sum(layer.kept.values()) + copies[layer.name] for layer in layers
    }
    activations["pixels"] = _FLOAT32 * images * pixels

    step = _Step(
        weights=weights,
        optimizer_slots=slots,
        input_batches=batch,
        gradients=gradients if accumulated else 0,  # the sum over the accumulation steps
        activations=sum(activations.values()),
    )
    step.at("loss", images * pixels * _LOSS[parameters.loss.reconstruction])
    step.in_use["activations"] -= activations["pixels"]
    for before, layer in zip([None, *layers[:-1]][::-1], layers[::-1], strict=True):
        # The backward pass of the following layers is done, so that the output is freed, which was
        # their input. The gradient of most activations overwrites that of their output; silu's
        # needs two more tensors. The gradient of the normalisation is always a second tensor.
        incoming = itemsize * images * layer.outputs
        output = images * layer.kept.get(_OUTPUT, 0)
        step.in_use["activations"] -= output
        if layer.kept and encoder.activation == "silu":
            step.at(
                f"gradient of the activation behind {layer.name}",
                3 * incoming + images * layer.recomputed,
            )
        if _NORMALIZED in layer.kept:
            # Behind a recomputed sum, the gradients of its other summand are computed at the same
            # time, from that summand's output, which was recomputed as well.
            tensors = 5 if layer.residual and train.rematerialization else 2
            step.at(f"gradient of the normalisation behind {layer.name}", tensors * incoming)
        step.in_use["activations"] -= images * sum(layer.kept.values()) - output
        step.in_use["gradients"] += 0 if accumulated else _FLOAT32 * layer.trained
        part = _FLOAT32 * layer.trained if accumulated else 0  # until it is added to the sum
        outgoing = itemsize * images * layer.inputs if before else 0
        recomputed = images * before.recomputed if before else 0
        rounded = itemsize * layer.kernel if lower else 0  # its gradient, before it is in float32
        added = incoming if layer.residual else 0  # waits to be added to the outgoing one
        enlarged = itemsize * layer.enlarged  # its gradient, before that of the kernel
        workspace = incoming + outgoing + added + recomputed + rounded + enlarged + part
        step.at(f"gradients of {layer.name}", workspace)
        step.in_use["activations"] -= copies[layer.name]
    step.at("weight update", _update(train, layers))
    return Ledger(
        weights=weights,
        gradients=gradients,
        optimizer_slots=slots,
        activations={name: count for name, count in activations.items() if count},
        at_peak={kind: step.at_peak[kind] for kind in (*step.in_use, "workspace")},
        moment=step.moment,
    )


def _update(train: Train, layers: list[_Layer]) -> int:
    """Temporary bytes that the weight update needs beside the gradients.

    TensorFlow runs first what became ready last. The updates therefore wait for the end of the
    backward pass, when all gradients are in memory.
    """
    trained = _FLOAT32 * sum(layer.trained for layer in layers)
    needed = 0
    if train.gradient_clip_norm is not None:
        needed += trained  # the clipped gradients
    if train.precision == "float16":
        needed += trained  # the gradients divided by the scale of the loss
    if train.optimizer == "adafactor":
        # The squared gradient, and the update before and after its division by the columns.
        needed += 2 * _FLOAT32 * max(layer.kernel for layer in layers)
    return needed


def largest_batch(parameters: Parameters, capacity: int) -> int:
    """The largest batch size with which a training step takes at most `capacity` bytes.

    Args:
        parameters: of one variant; `train.batch_size` is not read.
        capacity: bytes.

    Returns:
        A multiple of `train.accumulation_steps`; 0 if not even the smallest batch fits.
    """
    parts = parameters.train.accumulation_steps

    def fits(images_per_part: int) -> bool:
        # Beyond the bounds of params.yaml as well, where a network is tiny and a card large.
        train = parameters.train.model_copy(update={"batch_size": images_per_part * parts})
        return ledger(parameters.model_copy(update={"train": train})).peak <= capacity

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * parts


def encoder_parameters(parameters: Parameters) -> int:
    """The number of the Encoder's parameters as Keras counts them, with the moving statistics.

    Args:
        parameters: of one variant.
    """
    count = 0
    for layer in _layers(parameters.encoder, parameters.decoder, parameters.data.image_size):
        if layer.name == "dense":  # the Decoder's first
            break
        count += layer.trained + layer.statistics
    return count
