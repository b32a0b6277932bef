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
its convolutions on a GPU, what an allocator rounds up, and on the CPU the batches that the input
pipeline prepares ahead (on a GPU's machine they wait in the host's memory).
"""

import math
from collections import Counter
from dataclasses import dataclass

from facevae.parameters import Encoder, Train

_CHANNELS = 3
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

    @property
    def workspace(self) -> int:
        """What is needed at the peak beside all the rest."""
        return self.at_peak["workspace"]


@dataclass(frozen=True)
class _Layer:
    """A layer with weights, and what follows it up to the next one.

    Attributes:
        weights: shapes of what is trained.
        statistics: numbers that are not, float32.
        inputs, outputs: numbers per image.
        kept: numbers per image in each tensor that is kept for the backward pass, by what it is.
    """

    name: str
    weights: tuple[tuple[int, ...], ...]
    statistics: int
    inputs: int
    outputs: int
    kept: dict[str, int]

    @property
    def trained(self) -> int:
        return sum(map(math.prod, self.weights))


def _layers(encoder: Encoder, image_size: int, inter_dense: int) -> list[_Layer]:
    """All layers with weights, in the order of the forward pass."""

    def hidden(outputs: int, *, normalized: bool) -> dict[str, int]:
        kept = {"output": outputs}
        if normalized:
            kept["normalisation's input"] = outputs
        if encoder.activation in ("gelu", "silu"):
            kept["activation's input"] = outputs
        return kept

    def convolution(name: str, kernel: tuple[int, ...], inputs: int, outputs: int) -> _Layer:
        count = filters_of[name]
        normalized = encoder.batch_normalization
        weights = (kernel, (count,), *([(count,), (count,)] if normalized else []))
        return _Layer(
            name, weights, 2 * count * normalized, inputs, outputs,
            hidden(outputs, normalized=normalized),
        )  # fmt: skip

    filters_of: dict[str, int] = {}
    layers = []
    side, channels = image_size, _CHANNELS
    shape = zip(encoder.filters, encoder.kernel_sizes, encoder.strides, strict=True)
    for number, (count, kernel, stride) in enumerate(shape, start=1):
        name = f"conv_{number}"
        filters_of[name] = count
        inputs = side * side * channels
        side //= stride
        layers.append(
            convolution(name, (kernel, kernel, channels, count), inputs, side * side * count)
        )
        channels = count
    flattened = side * side * channels
    width = flattened
    if inter_dense:
        layers.append(
            _Layer(
                "inter_dense", ((width, inter_dense), (inter_dense,)), 0, width, inter_dense,
                hidden(inter_dense, normalized=False),
            )
        )  # fmt: skip
        width = inter_dense
    latent = encoder.latent_size
    for name in ("mu", "log_var"):
        layers.append(
            _Layer(name, ((width, latent), (latent,)), 0, width, latent, {"output": latent})
        )
    layers.append(
        _Layer(
            "dense", ((latent, flattened), (flattened,)), 0, latent, flattened,
            {"output": flattened},
        )
    )  # fmt: skip
    outward = zip(
        [*encoder.filters[-2::-1], _CHANNELS],
        encoder.kernel_sizes[::-1],
        encoder.strides[::-1],
        strict=True,
    )
    for number, (count, kernel, stride) in enumerate(outward, start=1):
        name = f"conv_transpose_{number}"
        filters_of[name] = count
        inputs = side * side * channels
        side *= stride
        outputs = side * side * count
        shape_of_kernel = (kernel, kernel, count, channels)
        if number < len(encoder.filters):
            layers.append(convolution(name, shape_of_kernel, inputs, outputs))
        else:
            layers.append(_Layer(name, (shape_of_kernel, (count,)), 0, inputs, outputs, {}))
        channels = count
    return layers


def _slots(optimizer: str, shape: tuple[int, ...]) -> int:
    """Numbers that an optimizer keeps beside a weight of this shape."""
    if optimizer == "adafactor" and len(shape) > 1:
        return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))
    return {"adam": 2, "sgd": 1, "adafactor": 1}[optimizer] * math.prod(shape)


class _Step:
    """What is alive as a step goes on, and what was when most was."""

    def __init__(self) -> None:
        self.alive: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.moment = ""

    def moment_of(self, moment: str, workspace: int) -> None:
        """Note a moment, with what is needed in passing."""
        now = self.alive + Counter(workspace=workspace)
        if now.total() > self.peak.total():
            self.peak, self.moment = now, moment


def ledger(
    encoder: Encoder,
    train: Train,
    *,
    image_size: int,
    inter_dense: int,
    reconstruction: str = "mse",
) -> Ledger:
    """The ledger of a training step.

    Args:
        encoder, train: sections of the parameters.
        image_size: pixels per side.
        inter_dense: units of the extra Dense layer, 0 for none; stands in the place of
            `encoder.inter_dense`, for the variants differ in it.
        reconstruction: "mse" or "bce", as `loss.reconstruction`.
    """
    layers = _layers(encoder, image_size, inter_dense)
    images = train.batch_size
    number = _FLOAT32 if train.precision == "float32" else 2
    pixels = image_size * image_size * _CHANNELS
    weights = _FLOAT32 * sum(layer.trained + layer.statistics for layer in layers)
    gradients = _FLOAT32 * sum(layer.trained for layer in layers)
    slots = _FLOAT32 * sum(
        _slots(train.optimizer, shape) for layer in layers for shape in layer.weights
    )
    batch = _FLOAT32 * train.batch_size * (pixels + encoder.latent_size)
    activations = {
        layer.name: number * images * sum(layer.kept.values()) for layer in layers if layer.kept
    }
    step = _Step()
    step.alive.update(weights=weights, optimizer_slots=slots, input_batches=batch)
    step.alive["activations"] = sum(activations.values())

    # The reconstructions, their difference from the images, its square, and for the gradient the
    # square's derivative and the sum's, a 1 for every pixel.
    step.moment_of("loss", 5 * _FLOAT32 * images * pixels)

    for layer, before in zip(layers[::-1], [*layers[-2::-1], None], strict=True):
        incoming = number * images * layer.outputs
        if "normalisation's input" in layer.kept:
            # From the gradient of its output it makes that of its input, a second tensor.
            step.moment_of(f"gradients of {layer.name}'s normalisation", 2 * incoming)
        outgoing = number * images * layer.inputs if before else 0
        # What is kept of this layer goes with the gradient of its own output, but the output
        # itself is the next layer's input and went with that.
        step.alive["activations"] -= activations.get(layer.name, 0)
        step.alive["gradients"] += _FLOAT32 * layer.trained
        step.moment_of(f"gradients of {layer.name}", incoming + outgoing)
    step.moment_of("weight update", 0)
    return Ledger(
        weights=weights,
        gradients=gradients,
        optimizer_slots=slots,
        input_batches=batch,
        activations=activations,
        at_peak={
            kind: step.peak[kind]
            for kind in (
                "weights", "optimizer_slots", "input_batches", "activations", "gradients",
                "workspace",
            )
        },
        moment=step.moment,
    )  # fmt: skip


def largest_batch(
    encoder: Encoder,
    train: Train,
    *,
    image_size: int,
    inter_dense: int,
    capacity: int,
    reconstruction: str = "mse",
) -> int:
    """The largest batch whose step's peak is at most `capacity` bytes; 0 if not even one fits.

    Args: otherwise as `ledger`; `train.batch_size` does not matter.
    """

    def fits(batch_size: int) -> bool:
        changed = train.model_copy(update={"batch_size": batch_size})
        return (
            ledger(
                encoder,
                changed,
                image_size=image_size,
                inter_dense=inter_dense,
                reconstruction=reconstruction,
            ).peak
            <= capacity
        )

    smallest = 1
    if not fits(smallest):
        return 0
    largest = smallest
    while fits(2 * largest):
        largest *= 2
    low, high = largest, 2 * largest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def encoder_parameters(encoder: Encoder, *, image_size: int, inter_dense: int) -> int:
    """The Encoder's parameters as Keras counts them, running statistics included.

    Args: as of `ledger`.
    """
    count = 0
    for layer in _layers(encoder, image_size, inter_dense):
        if layer.name == "dense":  # the Decoder's first
            break
        count += layer.trained + layer.statistics
    return count
