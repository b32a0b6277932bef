"""The ledger of a training step's memory: where its bytes go, by arithmetic, without running it.

Pure Python, so that it answers at once. All numbers are bytes, for one device. With B images in a
part of the batch (`train.batch_size` over `train.accumulation_steps`), C bytes per number in the
networks (4 in float32, 2 in bfloat16 and float16) and N weights that are trained:

    weights            4 (N + running mean and variance of every normalised channel)
    gradients          4 N
    optimizer slots    adam 8 N; sgd 4 N; adafactor 4 (rows + columns) per weight of two or more
                       dimensions and 4 N of the others
    input batch        4 batch_size (size * size * 3 + latent), the images and the noise
    activations        C B out for each of the tensors that the gradient of a layer with `out`
                       outputs per image reads, see `_Layer.kept`
    workspace          whatever else is needed in passing

They are never all there together: activations go while gradients come. So the step is played
through in the order of its layers, forwards and backwards, and its peak is where most is alive.

What is counted is what TensorFlow asks its allocator for. Not counted, because it does not follow
from the parameters: the process or CUDA context itself, the scratch space that cuDNN takes for
its convolutions on a GPU, what an allocator rounds up, constants of up to 10 MiB that TensorFlow
computes once and keeps, and on the CPU the batches that the input pipeline prepares ahead (on a
GPU's machine they wait in the host's memory). Nor is it said which of two kernels that are ready
runs first: a tensor may go one kernel later than it could.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace

from facevae.common.parameters import CHANNELS, Encoder, Parameters, Train

_FLOAT32 = 4  # bytes; of weights, gradients, slots, inputs and losses in every precision


@dataclass(frozen=True)
class Ledger:
    """Where the bytes of a training step go.

    Attributes:
        weights: those that are trained, and the running statistics of batch normalisation.
        gradients: of all weights that are trained.
        optimizer_slots: what the optimizer keeps beside the weights.
        input_batches: the batch that is trained on.
        activations: kept for the backward pass, by layer; all of them at the end of the forward
            pass, of one part of the batch where gradients are accumulated.
        at_peak: what is alive when most is, by kind: "weights", "optimizer_slots",
            "input_batches", "activations", "gradients", "workspace".
        moment: when that is, in words.
    """

    weights: int
    gradients: int
    optimizer_slots: int
    input_batches: int
    activations: dict[str, int]
    at_peak: dict[str, int]
    moment: str

    @property
    def peak(self) -> int:
        """The most that is alive at once."""
        return sum(self.at_peak.values())


@dataclass(frozen=True)
class _Layer:
    """A layer with weights, and what follows it up to the next one.

    Attributes:
        weights: shapes of what is trained, the kernel first.
        statistics: numbers that are not, float32.
        inputs, outputs: numbers per image.
        kept: tensors kept for the backward pass, bytes per image each, by what they are. The
            output of a layer is the input of the next one, and is here only once.
        recomputed: bytes per image that rematerialization computes again of what follows it.
        residual: whether its input is added to its output.
    """

    name: str
    weights: tuple[tuple[int, ...], ...]
    statistics: int
    inputs: int
    outputs: int
    kept: dict[str, int]
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
    image_size: int,
    number: int = _FLOAT32,
    rematerialization: bool = False,
) -> list[_Layer]:
    """All layers with weights, in the order of the forward pass.

    Args:
        number: bytes of a number in the networks.
    """

    def convolution(
        name: str, kernel: tuple[int, ...], count: int, inputs: int, outputs: int
    ) -> _Layer:
        tensor = number * outputs
        # The gradients of output_grad_leaky_relu, relu and elu read their output, which is the
        # next layer's input.
        behind = {_OUTPUT: tensor}
        if encoder.activation == "silu":
            behind[_ACTIVATED] = tensor
        elif encoder.activation == "gelu":
            # Half of it, its square, and 1 plus its error function.
            behind[_ACTIVATED] = 3 * tensor
        if encoder.dropout:
            behind["dropout's input and mask"] = tensor + outputs  # a byte per number
        normalized = encoder.batch_normalization
        weights = (kernel, (count,), *([(count,), (count,)] if normalized else []))
        statistics = 2 * count * normalized
        kept = {_NORMALIZED: tensor} if normalized else {}
        recomputed, residual = 0, name.endswith("residual")
        if rematerialization:
            # Of what is behind a sum, all that led to either part of it.
            recomputed = sum(behind.values()) * (2 if residual else 1)
            kept, behind = kept or {_ACTIVATED: tensor}, {}
        return _Layer(
            name, weights, statistics, inputs, outputs, kept | behind, recomputed, residual
        )

    def block(
        name: str, kernel: tuple[int, ...], count: int, inputs: int, outputs: int
    ) -> list[_Layer]:
        first = convolution(name, kernel, count, inputs, outputs)
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
        kept = {_OUTPUT: number * units}
        if encoder.activation not in ("relu", "elu"):
            # Its leaky ReLU is Keras' own, and has a gradient of its input.
            kept[_ACTIVATED] = number * units
        layers.append(dense("inter_dense", width, units, kept))
        width = units
    latent = encoder.latent_size
    for name in ("mu", "log_var"):
        layers.append(dense(name, width, latent, {_OUTPUT: _FLOAT32 * latent}))
    layers.append(dense("dense", latent, flattened, {_OUTPUT: number * flattened}))
    outward = zip(
        [*encoder.filters[-2::-1], CHANNELS],
        encoder.kernel_sizes[::-1],
        encoder.strides[::-1],
        strict=True,
    )
    for place, (count, kernel, stride) in enumerate(outward, start=1):
        inputs = side * side * channels
        side *= stride
        shape = (kernel, kernel, count, channels)
        layers += block(f"conv_transpose_{place}", shape, count, inputs, side * side * count)
        channels = count
    if encoder.block == "residual":
        layers.pop()
    # No normalisation behind the last one; its sigmoid is counted with the loss.
    layers[-1] = replace(
        layers[-1], weights=layers[-1].weights[:2], statistics=0, kept={}, recomputed=0
    )
    return layers


def _slots(optimizer: str, shape: tuple[int, ...]) -> int:
    """Numbers that an optimizer keeps beside a weight of this shape."""
    if optimizer == "adafactor" and len(shape) > 1:
        return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))
    return {"adam": 2, "sgd": 1, "adafactor": 1}[optimizer] * math.prod(shape)


# Bytes per number of the images that are needed for the loss beside the reconstructions: float32
# tensors and, of what is clipped, two of a byte that say where.
# mse and gaussian: the difference, its square, and for the gradient the derivatives of the square
# and of the mean. bce: 1 - x, the clipped x', ln x', ln(1 - x'), and for the gradient the
# derivative of the mean times 1 - x, 1 / x' and 1 - x'.
_LOSS = {"mse": 4 * _FLOAT32, "gaussian": 4 * _FLOAT32, "bce": 7 * _FLOAT32 + 2}


class _Step:
    """What is alive as a step goes on, and what was when most was."""

    def __init__(self, **alive: int) -> None:
        self.alive = Counter(alive)
        self.most: Counter[str] = Counter()
        self.moment = ""

    def at(self, moment: str, workspace: int) -> None:
        """Note a moment, with what is needed in passing."""
        now = self.alive + Counter(workspace=workspace)
        if now.total() > self.most.total():
            self.most, self.moment = now, moment


def ledger(parameters: Parameters) -> Ledger:
    """The ledger of a training step.

    Args:
        parameters: those of one variant, see `Parameters.variant`.
    """
    encoder, train = parameters.encoder, parameters.train
    image_size = parameters.data.image_size
    accumulated = train.accumulation_steps > 1
    images = math.ceil(train.batch_size / train.accumulation_steps)
    lower = train.precision != "float32"
    number = 2 if lower else _FLOAT32
    layers = _layers(encoder, image_size, number, train.rematerialization)
    pixels = image_size * image_size * CHANNELS

    weights = _FLOAT32 * sum(layer.trained + layer.statistics for layer in layers)
    gradients = _FLOAT32 * sum(layer.trained for layer in layers)
    slots = _FLOAT32 * sum(
        _slots(train.optimizer, shape) for layer in layers for shape in layer.weights
    )
    batch = train.batch_size + (images if accumulated else 0)
    batch *= _FLOAT32 * (pixels + encoder.latent_size)

    # Copies in the lower precision: of the images, and of the kernels, which the gradient of the
    # inputs is computed from. The heads compute in float32 and have a copy of their input.
    copies = dict.fromkeys((layer.name for layer in layers), 0)
    if lower:
        for layer in layers:
            if layer.name == "mu":
                copies["mu"] = _FLOAT32 * images * layer.inputs
            elif layer.name != "log_var":
                copies[layer.name] = number * layer.kernel
        copies["conv_1"] += number * images * pixels
    activations = {
        layer.name: images * sum(layer.kept.values()) + copies[layer.name] for layer in layers
    }
    activations["pixels"] = _FLOAT32 * images * pixels

    step = _Step(
        weights=weights,
        optimizer_slots=slots,
        input_batches=batch,
        gradients=gradients if accumulated else 0,  # their sum over the parts
        activations=sum(activations.values()),
    )
    step.at("loss", images * pixels * _LOSS[parameters.loss.reconstruction])
    step.alive["activations"] -= activations["pixels"]
    for before, layer in zip([None, *layers[:-1]][::-1], layers[::-1], strict=True):
        # The layers behind have gone, and with them the need for the output as their input. The
        # gradient of most activations is written over that of their output, silu's needs two
        # tensors more; the normalisation's is always a second tensor.
        incoming = number * images * layer.outputs
        output = images * layer.kept.get(_OUTPUT, 0)
        step.alive["activations"] -= output
        if layer.kept and encoder.activation == "silu":
            step.at(
                f"gradient of the activation behind {layer.name}",
                3 * incoming + images * layer.recomputed,
            )
        if _NORMALIZED in layer.kept:
            # Behind a sum that is computed again, the other part's gradients are made with it, from
            # its output, which is there again, too.
            tensors = 5 if layer.residual and train.rematerialization else 2
            step.at(f"gradient of the normalisation behind {layer.name}", tensors * incoming)
        step.alive["activations"] -= images * sum(layer.kept.values()) - output
        step.alive["gradients"] += 0 if accumulated else _FLOAT32 * layer.trained
        part = _FLOAT32 * layer.trained if accumulated else 0  # until it is added to their sum
        outgoing = number * images * layer.inputs if before else 0
        again = images * before.recomputed if before else 0
        rounded = number * layer.kernel if lower else 0  # its gradient, before it is in float32
        added = incoming if layer.residual else 0  # waits to be added to the outgoing one
        passing = incoming + outgoing + added + again + rounded + part
        step.at(f"gradients of {layer.name}", passing)
        step.alive["activations"] -= copies[layer.name]
    step.at("weight update", _update(train, layers))
    return Ledger(
        weights=weights,
        gradients=gradients,
        optimizer_slots=slots,
        input_batches=batch,
        activations={name: count for name, count in activations.items() if count},
        at_peak={kind: step.most[kind] for kind in (*step.alive, "workspace")},
        moment=step.moment,
    )


def _update(train: Train, layers: list[_Layer]) -> int:
    """Bytes that the weight update needs beside the gradients.

    TensorFlow runs what has become ready last first. So updates wait for the end of the backward
    pass, and all gradients are there at once.
    """
    trained = _FLOAT32 * sum(layer.trained for layer in layers)
    needed = 0
    if train.gradient_clip_norm is not None:
        needed += trained  # the shortened ones
    if train.precision == "float16":
        needed += trained  # those divided by the scale of the loss
    if train.optimizer == "adafactor":
        # The gradient's square, and the update before and after its division by the columns.
        needed += 2 * _FLOAT32 * max(layer.kernel for layer in layers)
    return needed


def largest_batch(parameters: Parameters, capacity: int) -> int:
    """The largest batch whose step's peak is at most `capacity` bytes, in whole accumulation steps.

    0 if not even the smallest fits.

    Args:
        parameters: those of one variant; `train.batch_size` does not matter.
    """
    parts = parameters.train.accumulation_steps

    def fits(images_per_part: int) -> bool:
        changed = parameters.with_changes({"train.batch_size": images_per_part * parts})
        return ledger(changed).peak <= capacity

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * parts


def encoder_parameters(parameters: Parameters) -> int:
    """The Encoder's parameters as Keras counts them, running statistics included.

    Args:
        parameters: those of one variant.
    """
    count = 0
    for layer in _layers(parameters.encoder, parameters.data.image_size):
        if layer.name == "dense":  # the Decoder's first
            break
        count += layer.trained + layer.statistics
    return count
