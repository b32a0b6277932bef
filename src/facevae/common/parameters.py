"""The parameters of params.yaml: read once, checked completely, read-only afterwards.

params.yaml holds the default of every key and says what the key means. The library repeats neither;
its classes and functions take the sections defined here.
"""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from facevae.common.errors import UserError
from facevae.common.requests import (
    check_face_packages,
    check_inception_weights,
    count_mistakes,
)
from facevae.common.yaml_text import read_mapping, shown, shown_key

VARIANTS = ("direct", "inter_dense")
CHANNELS = 3  # of every image: red, green, blue


# Where a larger number cannot be meant. What fits a machine's memory is another question.
_MAX_COUNT = 10_000_000  # of images
_MAX_SIZE = 65_536  # units or channels of a layer
_MAX_SIGMA = 1000


def _sigma(value: Any) -> Any:
    if value == "learned":
        return value
    if type(value) in (int, float) and 0 < value <= _MAX_SIGMA:
        return float(value)
    raise PydanticCustomError(
        "sigma", f"Input should be learned or a number greater than 0 and at most {_MAX_SIGMA}"
    )


def _path(value: str) -> str:
    if value.startswith("~"):
        # DVC takes the path as it stands, so that it must not mean another one here.
        home = Path(value.partition("/")[0])
        try:
            meant = f"write {home.expanduser()}{value[len(str(home)) :]}"
        except RuntimeError:
            meant = "write the whole path"
        raise PydanticCustomError("path", "{text}", {"text": f"~ is not expanded here; {meant}"})
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise PydanticCustomError("path", "Input should be a path without control characters")
    return value


Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
Size = Annotated[int, Field(ge=1, le=_MAX_SIZE)]
Steps = Annotated[int, Field(ge=1, le=512)]  # pixels, of which an image has at most so many a side
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_path)]
_MAX_LAYERS = 64


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Synthesize(_Section):
    images: int = Field(ge=20, le=899_999)
    seed: Seed


class Limit(_Section):
    train: Count | None
    validation: Count | None
    test: Count | None


class Data(_Section):
    source: FilePath
    layout: Literal["celeba", "folder"]
    split_seed: Seed
    crop: Literal["none", 178, 148, 140, 128]
    resize: Literal["bilinear", "bicubic", "lanczos", "box"]
    image_size: int = Field(ge=8, le=512)
    limit: Limit
    images_per_shard: Count
    record_format: Literal["raw", "png", "jpeg"]
    on_bad_image: Literal["fail", "skip"]
    max_bad_share: Number = Field(ge=0, le=1)


class Encoder(_Section):
    filters: list[Size] = Field(min_length=1, max_length=_MAX_LAYERS)
    kernel_sizes: list[Steps] = Field(min_length=1, max_length=_MAX_LAYERS)
    strides: list[Steps] = Field(min_length=1, max_length=_MAX_LAYERS)
    latent_size: Size
    inter_dense: int = Field(
        ge=0, le=_MAX_SIZE
    )  # 0 without the extra layer, which params.yaml may not say
    block: Literal["plain", "residual"]
    activation: Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
    batch_normalization: bool
    dropout: Number = Field(ge=0, lt=1)


class Decoder(_Section):
    resize_layers: int = Field(ge=0, le=_MAX_LAYERS)
    kernel_sizes: Annotated[list[Steps], Field(min_length=1, max_length=_MAX_LAYERS)] | None


class Loss(_Section):
    reconstruction: Literal["mse", "bce", "gaussian"]
    sigma: Annotated[float | Literal["learned"], BeforeValidator(_sigma)]
    kl_weight: Number = Field(ge=0, le=1e9)
    free_bits: Number = Field(ge=0, le=1e6)
    kl_warmup_epochs: int = Field(ge=0, le=100_000)


class Train(_Section):
    epochs: Epochs
    batch_size: Count
    accumulation_steps: Count
    rematerialization: bool
    optimizer: Literal["adam", "sgd", "adafactor"]
    learning_rate: Number = Field(gt=0, le=1)
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_steps: int = Field(ge=0, le=1_000_000_000)
    ema_momentum: Annotated[Number, Field(gt=0, lt=1)] | None
    gradient_clip_norm: Annotated[Number, Field(gt=0, le=1e12)] | None
    early_stopping_patience: Epochs | None
    horizontal_flips: bool
    precision: Literal["float32", "bfloat16", "float16"]
    seed: Seed


class Generate(_Section):
    rows: int = Field(ge=1, le=32)
    columns: int = Field(ge=2, le=32)
    prior: Literal["normal", "gaussian", "mixture"]
    attributes: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(max_length=32)
    seed: Seed


class Evaluate(_Section):
    inception_weights: FilePath | None
    faces: bool


class Parameters(_Section):
    """All of params.yaml."""

    synthesize: Synthesize
    data: Data
    encoder: Encoder
    decoder: Decoder
    loss: Loss
    train: Train
    generate: Generate
    evaluate: Evaluate

    def variant(self, name: str) -> "Parameters":
        """The parameters of one variant.

        Args:
            name: "inter_dense", or "direct", whose `encoder.inter_dense` is 0.

        Raises:
            UserError: there is no such variant.
        """
        if name not in VARIANTS:
            raise UserError(f"there is no variant {name!r}; there are {' and '.join(VARIANTS)}")
        if name == "inter_dense":
            return self
        encoder = self.encoder.model_copy(update={"inter_dense": 0})
        return self.model_copy(update={"encoder": encoder})

    def with_changes(self, changes: Mapping[str, Any]) -> "Parameters":
        """A copy with some values changed, checked in the same way as params.yaml.

        What is asked of the data is not checked: a copy may be for another number of images.

        Args:
            changes: new values by full name, such as {"train.batch_size": 128}. Unlike in
                params.yaml, "encoder.inter_dense" may be 0, which is the variant direct.

        Raises:
            UserError: a name is unknown or a value is not allowed. One line per mistake, with the
                key's full name.
        """
        content = self.content()
        unknown = []
        for key, value in changes.items():
            *sections, name = key.split(".")
            place: Any = content
            for section in sections:
                place = place.get(section) if isinstance(place, dict) else None
            if isinstance(place, dict):
                place[name] = value
            else:
                unknown.append(f"{key}: unknown parameter")
        changed, mistakes = _check(content)
        if unknown or mistakes or changed is None:
            raise UserError("\n".join([*unknown, *mistakes]))
        return changed

    def content(self) -> dict[str, Any]:
        """All values, as dicts, for checks: what a result depends on is read by its name.

        Unlike `model_dump`, this does not count as a read of every parameter in the test that each
        parameter on which a stage's results depend is listed in dvc.yaml.
        """
        return _content(self)


def _content(section: BaseModel) -> dict[str, Any]:
    return {
        name: _content(value) if isinstance(value, BaseModel) else value for name, value in section
    }


class DecoderLayer(NamedTuple):
    """A layer of the Decoder that mirrors a conv layer of the Encoder.

    Attributes:
        filters: channels of its output.
        kernel_size: side of its trained kernel.
        stride: how many times as many pixels a side its output has as its input.
        resize: whether pixels are repeated and then convolved; else a transposed convolution.
    """

    filters: int
    kernel_size: int
    stride: int
    resize: bool


def decoder_layers(encoder: Encoder, decoder: Decoder) -> list[DecoderLayer]:
    """The Decoder's layers in the order of the forward pass, without residual blocks.

    They are the Encoder's conv layers in the opposite order: the last one mirrors the first.
    """
    mirrored = zip(
        [CHANNELS, *encoder.filters[:-1]],
        decoder.kernel_sizes or encoder.kernel_sizes,
        encoder.strides,
        [number < decoder.resize_layers for number in range(len(encoder.filters))],
        strict=True,
    )
    return [DecoderLayer(*layer) for layer in mirrored][::-1]


def shape_mistakes(
    image_size: int,
    filters: Sequence[int],
    kernel_sizes: Sequence[int],
    strides: Sequence[int],
    decoder_kernel_sizes: Sequence[int] | None,
) -> list[str]:
    """Reasons why an Encoder, or the Decoder that mirrors it, cannot be built with this shape.

    Args:
        image_size: pixels per side.
        filters, kernel_sizes, strides: of section `encoder`, one entry per conv layer.
        decoder_kernel_sizes: of section `decoder`.

    Returns:
        One line per reason; empty if both can be built.
    """
    layers = len(filters)
    lists = {
        "encoder.kernel_sizes": kernel_sizes,
        "encoder.strides": strides,
        "decoder.kernel_sizes": decoder_kernel_sizes,
    }
    mistakes = [
        f"{name}: has {len(entries)} entries and encoder.filters has {layers}; "
        f"give one per conv layer"
        for name, entries in lists.items()
        if entries is not None and len(entries) != layers
    ]
    size = image_size
    for layer, stride in enumerate(strides, start=1):
        if size % stride:
            mistakes.append(
                f"encoder.strides: layer {layer} has stride {stride}, which does not divide its "
                f"input of {size}x{size} pixels (data.image_size {image_size}), so the Decoder "
                f"could not mirror it"
            )
            break
        size //= stride
    return mistakes


# What `shape_mistakes` takes, in its order.
_SHAPE = (
    ("data", "image_size"),
    *(("encoder", key) for key in ("filters", "kernel_sizes", "strides")),
    ("decoder", "kernel_sizes"),
)


def parts_mistakes(batch_size: int, accumulation_steps: int) -> list[str]:
    """The reason why a batch does not divide into `accumulation_steps` equal parts.

    Returns:
        One line, or an empty list if the batch divides.
    """
    if batch_size % accumulation_steps == 0:
        return []
    return [
        f"train.batch_size: {batch_size} images do not divide into {accumulation_steps} equal "
        f"parts (train.accumulation_steps); take a multiple of {accumulation_steps}"
    ]


_BATCH = (("train", "batch_size"), ("train", "accumulation_steps"))


_LISTED = 20  # mistakes, at most


def _mistake(error: Any) -> str:
    key = ".".join(shown_key(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown parameter"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].replace("Input should be", "must be")
    return f"{key}: {message}, not {shown(error['input'])}"


def _listed(mistakes: Sequence[str]) -> list[str]:
    more = len(mistakes) - _LISTED
    return [*mistakes[:_LISTED], *([f"... and {more} more mistakes"] if more > 0 else [])]


def _check(content: dict[str, Any]) -> tuple[Parameters | None, list[str]]:
    """The parameters read from `content` (None if a value is not allowed), and all mistakes."""
    parameters, errors = None, []
    try:
        parameters = Parameters.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
    mistakes = [_mistake(error) for error in errors]
    wrong = {error["loc"][:length] for error in errors for length in (1, 2)}
    if not wrong & {*_SHAPE, ("data",), ("encoder",), ("decoder",)}:
        mistakes += shape_mistakes(*(content[section][key] for section, key in _SHAPE))
    if not wrong & {*_BATCH, ("train",)}:
        mistakes += parts_mistakes(*(content[section][key] for section, key in _BATCH))
    return parameters, mistakes


def load_parameters(path: str | Path = "params.yaml") -> Parameters:
    """Read and check a params.yaml, with the YAML reader that DVC uses.

    Raises:
        UserError: the file is missing, is not YAML or holds mistakes: one line each, with the
            key's full name, and at most 21 lines.
    """
    path = Path(path)
    parameters, mistakes = _check(read_mapping(path))
    if parameters is not None:
        content = parameters.content()
        mistakes += count_mistakes(content, content["data"]["limit"])
    if parameters is not None and parameters.encoder.inter_dense == 0:
        mistakes.append(
            "encoder.inter_dense: must be greater than or equal to 1, not 0; the variant direct "
            "is the one without the extra layer"
        )
    if mistakes or parameters is None:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in _listed(mistakes)))
    return parameters


def _main() -> int:
    try:
        parameters = load_parameters(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")
        if (weights := parameters.evaluate.inception_weights) is not None:
            check_inception_weights(Path(weights))
        if parameters.evaluate.faces:
            check_face_packages()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
