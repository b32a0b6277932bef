"""How much of a graphics card's memory a training step may take, and what fits into it."""

import re
from fractions import Fraction

from facevae.common.errors import UserError
from facevae.common.parameters import Parameters
from facevae.memory.ledger import Ledger, ledger

MIB = 2**20

# Memory that a process takes on a GPU before its first tensor. 300 MiB and more with PyTorch and
# CUDA 11.7 (https://github.com/pytorch/pytorch/issues/107667); TensorFlow found 125 MiB of a GTX
# 1050 Ti's 4 GiB in use (https://github.com/tensorflow/tensorflow/issues/24496). A screen on the
# same card takes more.
CUDA_CONTEXT = 300 * MIB

# Memory that TensorFlow leaves to cuDNN, cuBLAS and kernels, out of what is free when it starts:
# 225 MiB if less than 2 GiB is free, else 500 MiB on cards up to the GTX 10 series. On newer cards
# it is 1050 MiB and more, unless the environment variable says otherwise
# (https://github.com/tensorflow/tensorflow/pull/44810).
_SMALL_CARD = 2**31
RESERVE_OF_SMALL_CARD = 225 * MIB
RESERVE = 500 * MIB
RESERVE_VARIABLE = "TF_DEVICE_MIN_SYS_MEMORY_IN_MB"

# The ledger counts neither the copies and the scratch space of cuDNN's convolutions nor memory that
# is too fragmented for the allocator to use. On an NVIDIA H100, steps took 1.08 to 1.34 times the
# estimate (docs/memory.md).
MARGIN_PERCENT = 30
_USABLE = 1 - Fraction(MARGIN_PERCENT, 100)

# Cards are sold in GB and have GiB: here G, GB and GiB are the same.
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(
    r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*(?:([KMGT])(?:i?B)?|B|bytes?)", re.IGNORECASE
)


def parse_size(text: str) -> int:
    """Bytes from text such as "4GiB", "4096 MiB", "1.5G" or "4GB"; G, GB and GiB are the same.

    Raises:
        UserError: the text is not a size, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(Fraction(match[1]) * 2 ** _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 1:
        raise UserError(f"{text!r} is not an amount of memory; write 4GiB, 4096MiB or 1.5GB")
    return size


def step_memory(card: int) -> int:
    """Bytes that a training step may take on a card.

    Args:
        card: memory of the card, bytes.

    Returns:
        The memory without `CUDA_CONTEXT` and TensorFlow's reserve, less `MARGIN_PERCENT`; 0 if
        nothing is left.
    """
    free = card - CUDA_CONTEXT
    return max(0, int((free - tensorflow_reserve(free)) * _USABLE))


def tensorflow_reserve(free: int) -> int:
    """Bytes that TensorFlow does not use of `free` bytes, see `RESERVE`."""
    return RESERVE_OF_SMALL_CARD if free < _SMALL_CARD else RESERVE


def smallest_card(step: int) -> int:
    """Memory in bytes of the smallest card on which a training step may take `step` bytes."""
    needed = CUDA_CONTEXT - (-step // _USABLE)
    small = needed + RESERVE_OF_SMALL_CARD
    return int(small if small - CUDA_CONTEXT < _SMALL_CARD else needed + RESERVE)


def whole_batch(parameters: Parameters, batch_size: int) -> int:
    """The batch size, rounded up to a multiple of `train.accumulation_steps`."""
    steps = parameters.train.accumulation_steps
    return -(-batch_size // steps) * steps


def break_even(parameters: Parameters) -> int:
    """The most units with which the extra Dense layer reduces the weights; 0 if it never does."""

    def weights(units: int) -> int:
        encoder = {"encoder.inter_dense": units}
        return ledger(parameters.with_changes(encoder).variant("inter_dense")).weights

    without = ledger(parameters.variant("direct")).weights
    # Each unit adds the same number of weights.
    first, each = weights(1), weights(2) - weights(1)
    return max(0, -((first - without) // each))


def peak_breakdown(account: Ledger) -> dict[str, int]:
    """Bytes in memory at the peak, by kind; their sum is the peak."""
    order = (
        "weights",
        "optimizer_slots",
        "gradients",
        "activations",
        "workspace",
        "input_batches",
    )
    return {kind.replace("_", " "): account.at_peak[kind] for kind in order}


def mib(size: int) -> str:
    """Bytes as text in whole MiB, without the unit, such as "1,371"."""
    return f"{round(size / MIB):,}"


def card_name(card: int) -> str:
    """Memory of a card (bytes) as text, such as "4 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", MIB)):
        if card >= size:
            return f"{card / size:,.4g} {unit}"
    return f"{card:,} bytes"
