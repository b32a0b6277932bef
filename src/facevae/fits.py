"""What of a training fits on a card, and the cheapest change when it does not; nothing is run."""

import argparse
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from facevae.errors import UserError
from facevae.memory import Ledger, largest_batch, ledger
from facevae.parameters import VARIANTS, Parameters, load_parameters, shape_mistakes

MIB = 2**20

# What a process on a GPU takes before its first tensor. 300 MiB and more with PyTorch and CUDA 11.7
# (https://github.com/pytorch/pytorch/issues/107667); of a GTX 1050 Ti's 4 GiB TensorFlow found 125
# MiB gone (https://github.com/tensorflow/tensorflow/issues/24496). A screen takes its own share.
CUDA_CONTEXT = 300 * MIB

# What TensorFlow leaves, of the memory that is free when it starts, to cuDNN, cuBLAS and kernels:
# 225 MiB of less than 2 GiB, else 500 MiB on cards up to the GTX 10 series. On newer ones it is
# 1050 MiB and more, unless the environment says otherwise
# (https://github.com/tensorflow/tensorflow/pull/44810).
_SMALL_CARD = 2**31
RESERVE_OF_SMALL_CARD = 225 * MIB
RESERVE = 500 * MIB
_RESERVE_VARIABLE = "TF_DEVICE_MIN_SYS_MEMORY_IN_MB"

# The ledger is held to within a tenth of what is measured. What an allocator cannot use because it
# is in pieces, and cuDNN's scratch space, are not in it.
_TOLERANCE = Fraction(1, 10)

# Cards are sold in GB and have GiB: G, GB and GiB are the same here.
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([KMGT])(?:i?B)?|B|bytes?)", re.IGNORECASE
)

_BATCH_SIZES = (16, 32, 64, 128, 256, 512)
_WIDTH = 92


@dataclass(frozen=True)
class Change:
    """Something that makes a training smaller.

    Attributes:
        settings: parameters and their new values, such as {"train.accumulation_steps": 2}.
        meaning: what is done, and what it costs, in a few words.
        variants: those that are trained.
    """

    settings: Mapping[str, Any]
    meaning: str
    variants: Sequence[str] = VARIANTS


# In the order of what they cost in held-out loss, then in images per second, as `make bench-levers`
# measured; bfloat16 comes last, as it is for some cards only. The learning rates are those at which
# the tests' small images are learnt. Of one parameter the first value that is enough is offered.
CHANGES_CHEAPEST_FIRST = (
    Change(
        {
            "encoder.filters": [32, 64, 128],
            "encoder.kernel_sizes": [6, 4, 4],
            "encoder.strides": [4, 2, 2],
        },
        "three conv layers, the outer one with strides of 4",
    ),
    *(
        Change(
            {"train.accumulation_steps": steps},
            f"each batch in {steps} parts, one after the other",
        )
        for steps in (2, 4, 8, 16)
    ),
    Change({"train.rematerialization": True}, "compute activations again instead of keeping them"),
    Change({}, "train the variant inter_dense alone", variants=("inter_dense",)),
    *(
        Change({"encoder.inter_dense": units}, f"{units} units in the extra Dense layer")
        for units in (128, 64)
    ),
    Change(
        {"train.optimizer": "sgd", "train.learning_rate": 1e-4},
        "SGD with momentum, one slot a weight",
    ),
    Change(
        {"train.optimizer": "adafactor", "train.learning_rate": 0.01},
        "Adafactor, slots for rows and columns alone",
    ),
    Change({"train.precision": "bfloat16"}, "2 bytes a number, on cards that have bfloat16"),
)


def parse_size(text: str) -> int:
    """Bytes from text such as "4GiB", "4096 MiB", "1.5G" or "4GB"; G, GB and GiB are the same.

    Raises:
        UserError: it is no size.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(Fraction(match[1]) * 2 ** _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise UserError(f"{text!r} is not a card's memory; give it as 4GiB, 4096MiB or 1.5GB")
    return size


def step_memory(card: int) -> int:
    """Bytes that a training step may take on a card.

    Args:
        card: bytes of memory that the card has.

    Returns:
        What is left without `CUDA_CONTEXT`, TensorFlow's reserve and a tenth of the rest; 0 if
        nothing is.
    """
    free = card - CUDA_CONTEXT
    return max(0, int((free - _reserve(free)) * (1 - _TOLERANCE)))


def _reserve(free: int) -> int:
    return RESERVE_OF_SMALL_CARD if free < _SMALL_CARD else RESERVE


def smallest_card(step: int) -> int:
    """Bytes of the smallest card on which a step may take `step` bytes."""
    needed = CUDA_CONTEXT - (-step // (1 - _TOLERANCE))
    small = needed + RESERVE_OF_SMALL_CARD
    return int(small if small - CUDA_CONTEXT < _SMALL_CARD else needed + RESERVE)


def changed(parameters: Parameters, settings: Mapping[str, Any]) -> Parameters:
    """The parameters, some replaced as in {"train.batch_size": 128}; they are not checked."""
    for key, value in settings.items():
        section, name = key.split(".")
        replaced = getattr(parameters, section).model_copy(update={name: value})
        parameters = parameters.model_copy(update={section: replaced})
    return parameters


def whole_batch(parameters: Parameters, batch_size: int) -> int:
    """The batch size, or the next one that `train.accumulation_steps` divides."""
    steps = parameters.train.accumulation_steps
    return -(-batch_size // steps) * steps


def inter_dense_units(parameters: Parameters, variant: str) -> int:
    """Units of the extra Dense layer, 0 for none."""
    return parameters.encoder.inter_dense if variant == "inter_dense" else 0


def variant_ledger(parameters: Parameters, variant: str) -> Ledger:
    """The ledger of a variant's training step."""
    return ledger(
        parameters.encoder,
        parameters.train,
        image_size=parameters.data.image_size,
        inter_dense=inter_dense_units(parameters, variant),
        reconstruction=parameters.loss.reconstruction,
    )


def variant_largest_batch(parameters: Parameters, variant: str, capacity: int) -> int:
    """The largest `train.batch_size` whose step takes at most `capacity` bytes; 0 if none does."""
    return largest_batch(
        parameters.encoder,
        parameters.train,
        image_size=parameters.data.image_size,
        inter_dense=inter_dense_units(parameters, variant),
        reconstruction=parameters.loss.reconstruction,
        capacity=capacity,
    )


def parts(account: Ledger) -> dict[str, int]:
    """What is alive at the peak, bytes by kind; their sum is the peak."""
    order = (
        "weights",
        "optimizer_slots",
        "gradients",
        "activations",
        "workspace",
        "input_batches",
    )
    return {kind.replace("_", " "): account.at_peak[kind] for kind in order}


def possible(parameters: Parameters) -> bool:
    """Whether the networks fit the images, and `train.accumulation_steps` divides the batch."""
    encoder = parameters.encoder
    return parameters.train.batch_size % parameters.train.accumulation_steps == 0 and not (
        shape_mistakes(
            parameters.data.image_size, encoder.filters, encoder.kernel_sizes, encoder.strides
        )
    )


def batch_setting(before: Parameters, after: Parameters) -> dict[str, Any]:
    """The batch size to set for going from `before` to `after`, if it is another one."""
    batch_size = after.train.batch_size
    return {} if batch_size == before.train.batch_size else {"train.batch_size": batch_size}


def _enough(parameters: Parameters, change: Change, capacity: int) -> bool:
    after = changed(parameters, change.settings)
    return possible(after) and all(
        variant_ledger(after, variant).peak <= capacity for variant in change.variants
    )


def _pairs() -> Iterator[Change]:
    ranked = enumerate(CHANGES_CHEAPEST_FIRST)
    pairs = sorted(itertools.combinations(ranked, 2), key=lambda pair: pair[0][0] + pair[1][0])
    for (_, first), (_, second) in pairs:
        if not first.settings.keys() & second.settings.keys():
            yield Change(
                {**first.settings, **second.settings},
                f"{first.meaning}; {second.meaning}",
                min(first.variants, second.variants, key=len),
            )


def changes_that_fit(parameters: Parameters, capacity: int) -> list[Change]:
    """What makes `train.batch_size` fit, the cheapest first: single changes, or else pairs.

    Args:
        capacity: bytes that a training step may take, see `step_memory`.

    Returns:
        Of each parameter, or each pair of them, the first value that is enough; at most three
        pairs. Empty if no pair is enough.
    """
    found: dict[tuple[str, ...], Change] = {}
    for change in CHANGES_CHEAPEST_FIRST:
        if tuple(change.settings) not in found and _enough(parameters, change, capacity):
            found[tuple(change.settings)] = change
    if not found:
        for change in _pairs():
            if tuple(change.settings) not in found and _enough(parameters, change, capacity):
                found[tuple(change.settings)] = change
            if len(found) == 3:
                break
    return list(found.values())


def command(settings: Mapping[str, Any], variants: Sequence[str] = VARIANTS) -> str:
    """The `dvc exp run` that trains these variants with these settings."""
    words = ["dvc exp run"]
    for key, value in settings.items():
        if isinstance(value, list):  # quoted, for shells take brackets for patterns
            words.append(f"-S '{key}={','.join(map(str, value)).join('[]')}'")
        else:
            words.append(f"-S {key}={str(value).lower() if isinstance(value, bool) else value}")
    if len(variants) < len(VARIANTS):
        words += [f"train@{variant}" for variant in variants]
    return " ".join(words)


def mib(size: int) -> str:
    """Bytes as whole MiB, in words."""
    return f"{round(size / MIB):,}"


def card_name(card: int) -> str:
    """A card's memory in words, such as "4 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", MIB)):
        if card >= size:
            return f"{card / size:,.4g} {unit}"
    return f"{card:,} bytes"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{text:>{width}}" for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"  {first:<{widths[0]}}", *cells]))
    return lines


def report(parameters: Parameters, card: int, batch_size: int) -> str:
    """What of a training fits on a card, as text for a terminal.

    Args:
        card: bytes of memory that the card has.
        batch_size: the `train.batch_size` that is wanted.

    Raises:
        UserError: not a single image fits.
    """
    capacity = step_memory(card)
    wanted = changed(parameters, {"train.batch_size": batch_size})
    largest = {name: variant_largest_batch(wanted, name, capacity) for name in VARIANTS}
    if not any(largest.values()):
        one = changed(parameters, {"train.batch_size": whole_batch(parameters, 1)})
        least = min(variant_ledger(one, name).peak for name in VARIANTS)
        raise UserError(
            f"a card of {card_name(card)} is too small for these parameters: a step with the "
            f"smallest batch takes {mib(least)} MiB, and so a card of "
            f"{-(-smallest_card(least) // MIB):,} MiB"
        )

    sizes = sorted({*(whole_batch(parameters, size) for size in _BATCH_SIZES), batch_size})
    peaks = [["batch size", *map(str, sizes), "largest"]]
    for name in VARIANTS:
        row = [name]
        for size in sizes:
            peak = variant_ledger(changed(wanted, {"train.batch_size": size}), name).peak
            row.append(f"{mib(peak)}{' ' if peak <= capacity else '*'}")
        peaks.append([*row, f"{largest[name]:,}"])

    ledgers = {name: variant_ledger(wanted, name) for name in VARIANTS}
    bytes_of = {name: parts(account) for name, account in ledgers.items()}
    places = [["", *VARIANTS]]
    places += [[key, *(mib(bytes_of[v][key]) for v in VARIANTS)] for key in bytes_of["direct"]]
    places.append(["peak", *(mib(account.peak) for account in ledgers.values())])

    return "\n".join(
        [
            *_margin(card, capacity),
            "",
            "Peak of a training step, MiB; * does not fit:",
            *_table(peaks),
            "",
            f"At the peak of batch {batch_size}, MiB (gradients come as activations go):",
            *_table(places),
            "",
            *_advice(parameters, wanted, ledgers, largest, capacity),
        ]
    )


def _margin(card: int, capacity: int) -> list[str]:
    free = card - CUDA_CONTEXT
    reserve = _reserve(free)
    text = (
        f"A card of {card_name(card)} has {mib(capacity)} MiB for a training step: about "
        f"{mib(CUDA_CONTEXT)} MiB go to CUDA, {mib(reserve)} MiB TensorFlow leaves free, and a "
        f"tenth of the rest is for what this reckoning may be off."
    )
    if reserve == RESERVE:
        text += (
            f" On cards newer than the GTX 10 series set {_RESERVE_VARIABLE}=500, or TensorFlow "
            f"leaves more than 1,000 MiB free."
        )
    return textwrap.wrap(text, _WIDTH)


def _advice(
    parameters: Parameters,
    wanted: Parameters,
    ledgers: Mapping[str, Ledger],
    largest: Mapping[str, int],
    capacity: int,
) -> list[str]:
    batch_size = wanted.train.batch_size
    batch = batch_setting(parameters, wanted)
    if all(account.peak <= capacity for account in ledgers.values()):
        return [f"Batch {batch_size} fits: {command(batch)}"]

    over = " and ".join(
        f"{name} is {mib(account.peak - capacity)} MiB too large"
        for name, account in ledgers.items()
        if account.peak > capacity
    )
    heading = f"Batch {batch_size} does not fit: {over}. What makes it fit, the cheapest first:"
    lines = textwrap.wrap(heading, _WIDTH)
    found = changes_that_fit(wanted, capacity)
    if not found:
        lines.append("  (no change, nor two of them together, is enough)")
    smaller = min(largest.values()) or max(largest.values())
    variants = [name for name in VARIANTS if largest[name] >= smaller]
    last = Change({"train.batch_size": smaller}, f"a smaller batch, {smaller}", variants)
    for number, change in enumerate([*found, last], start=1):
        settings = {**batch, **change.settings}
        after = changed(wanted, settings)
        needs = ", ".join(
            f"{name} {mib(variant_ledger(after, name).peak)}" for name in change.variants
        )
        lines += textwrap.wrap(
            f"{number}. {change.meaning}: {needs} MiB",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="     ",
        )
        lines.append(f"     {command(settings, change.variants)}")
    return lines


def _batch_size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < 1:
        raise UserError(f"{text!r} is not a batch size; give a whole number, 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m facevae.fits",
        description="Tell what of a training fits on a card, before training, and the cheapest "
        "change that makes a wanted batch fit. Nothing is run.",
    )
    parser.add_argument("card", nargs="*", metavar="MEMORY", help="the card's, such as 4GiB")
    parser.add_argument(
        "--batch-size", metavar="N", help="the batch that is wanted (default: train.batch_size)"
    )
    parser.add_argument("--params", default="params.yaml", help="parameters (default: %(default)s)")
    # What looks like an option may be a size with a minus, and is refused as such.
    options, unknown = parser.parse_known_args(arguments)
    text = " ".join([*options.card, *unknown]).strip()
    try:
        if not text:
            raise UserError(
                "say how much memory the card has: make fits VRAM=4GiB, or with a wanted batch: "
                "make fits VRAM=4GiB BATCH=256"
            )
        card = parse_size(text)
        parameters = load_parameters(options.params)
        batch_size = parameters.train.batch_size
        if options.batch_size is not None:
            batch_size = _batch_size(options.batch_size)
        steps = parameters.train.accumulation_steps
        if batch_size % steps:
            raise UserError(
                f"a batch of {batch_size} does not split into train.accumulation_steps {steps} "
                f"equal parts"
            )
        print(report(parameters, card, batch_size))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
