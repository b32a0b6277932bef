"""Everything a user can set: read once from params.yaml, checked whole, handed on read-only."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from facevae.common.errors import UserError

VARIANTS = ("direct", "inter_dense")
CHANNELS = 3  # of every image: red, green, blue


def _number(value: Any) -> Any:
    # YAML 1.1, which PyYAML reads, takes `1e-3` for text; YAML 1.2, which DVC writes, does not.
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _sigma(value: Any) -> Any:
    value = _number(value)
    if value == "learned":
        return value
    if type(value) in (int, float) and 0 < value < float("inf"):
        return float(value)
    raise PydanticCustomError("sigma", "Input should be learned or a number greater than 0")


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


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
    source: str = Field(min_length=1)
    crop: Literal["none", 178, 148, 140, 128]
    resize: Literal["bilinear", "bicubic", "lanczos", "box"]
    image_size: int = Field(ge=8, le=512)
    limit: Limit
    images_per_shard: Count
    record_format: Literal["raw", "png", "jpeg"]
    on_bad_image: Literal["fail", "skip"]
    max_bad_share: Number = Field(ge=0, le=1)


class Encoder(_Section):
    filters: list[Count] = Field(min_length=1)
    kernel_sizes: list[Count] = Field(min_length=1)
    strides: list[Count] = Field(min_length=1)
    latent_size: Count
    inter_dense: Count
    block: Literal["plain", "residual"]
    activation: Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
    batch_normalization: bool
    dropout: Number = Field(ge=0, lt=1)


class Loss(_Section):
    reconstruction: Literal["mse", "bce", "gaussian"]
    sigma: Annotated[float | Literal["learned"], BeforeValidator(_sigma)]
    kl_weight: Number = Field(ge=0)
    free_bits: Number = Field(ge=0)
    kl_warmup_epochs: int = Field(ge=0)


class Train(_Section):
    epochs: Count
    batch_size: Count
    accumulation_steps: Count
    rematerialization: bool
    optimizer: Literal["adam", "sgd", "adafactor"]
    learning_rate: Number = Field(gt=0, le=1)
    learning_rate_schedule: Literal["constant", "cosine"]
    warmup_steps: int = Field(ge=0)
    gradient_clip_norm: Annotated[Number, Field(gt=0)] | None
    early_stopping_patience: Count | None
    precision: Literal["float32", "bfloat16", "float16"]
    seed: Seed


class Generate(_Section):
    rows: int = Field(ge=1, le=32)
    columns: int = Field(ge=2, le=32)
    prior: Literal["normal", "gaussian", "mixture"]
    attributes: list[Annotated[str, Field(min_length=1)]] = Field(max_length=32)
    seed: Seed


class Evaluate(_Section):
    inception_weights: Annotated[str, Field(min_length=1)] | None


class Parameters(_Section):
    """All of params.yaml. What each key means is said there, beside its value."""

    synthesize: Synthesize
    data: Data
    encoder: Encoder
    loss: Loss
    train: Train
    generate: Generate
    evaluate: Evaluate


def shape_mistakes(
    image_size: int, filters: Sequence[int], kernel_sizes: Sequence[int], strides: Sequence[int]
) -> list[str]:
    """Why such an Encoder, or the Decoder that mirrors it, cannot be built: a line per reason."""
    layers = len(filters)
    mistakes = [
        f"encoder.{name}: has {len(entries)} entries and encoder.filters has {layers}; "
        f"give one per conv layer"
        for name, entries in (("kernel_sizes", kernel_sizes), ("strides", strides))
        if len(entries) != layers
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


_SHAPE = (
    ("data", "image_size"),
    ("encoder", "filters"),
    ("encoder", "kernel_sizes"),
    ("encoder", "strides"),
)


def _mistake(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown parameter"
    if error["type"] == "missing":
        return f"{key}: missing"
    message = error["msg"].replace("Input should be", "must be")
    return f"{key}: {message}, not {error['input']!r}"


def load_parameters(path: str | Path = "params.yaml") -> Parameters:
    """Read and check a params.yaml.

    Raises:
        UserError: the file is missing, is not YAML or holds mistakes: one line each, with the
            key's full name.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; run from the project's folder, or name one with --params"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold sections (data, encoder, ...), not {content!r}")
    parameters, errors = None, []
    try:
        parameters = Parameters.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
    mistakes = [_mistake(error) for error in errors]
    wrong = {error["loc"][:length] for error in errors for length in (1, 2)}
    if not wrong & {*_SHAPE, ("data",), ("encoder",)}:
        mistakes += shape_mistakes(*(content[section][key] for section, key in _SHAPE))
    if mistakes or parameters is None:
        raise UserError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return parameters


def _main() -> int:
    try:
        load_parameters(sys.argv[1] if len(sys.argv) > 1 else "params.yaml")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
