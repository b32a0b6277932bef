"""Too little memory: what is refused before it is tried, and what is said when it has run out.

On a processor the memory of a training is estimated beforehand, because the system kills a process
that takes more than there is, without a word. On a graphics card TensorFlow itself says it.
"""

import errno
import re
import sys
from fractions import Fraction

from facevae.common.errors import UserError
from facevae.common.limits import memory_limit
from facevae.common.machine import card_memory, device_name
from facevae.common.parameters import Parameters
from facevae.memory.capacity import MIB, mib, smallest_card, whole_batch
from facevae.memory.ledger import ledger

# What a training process on a processor holds beside its steps and its data: Python, TensorFlow,
# compiled kernels, and what its allocator rounds up (650 to 790 MiB were measured).
PROCESS = 700 * MIB

_NEAR = Fraction(9, 10)  # the ledger agrees with measurements to within 10 %


def _batch_of_one(parameters: Parameters, devices: int) -> int:
    return whole_batch(parameters, -(-parameters.train.batch_size // devices))


def of_one_device(parameters: Parameters, image_size: int, devices: int) -> Parameters:
    """The parameters of a training as one of its devices sees them.

    Args:
        image_size: of the images that there are, pixels.
        devices: over which each batch is divided.

    Raises:
        UserError: the networks cannot be built for images of this size.
    """
    return parameters.with_changes(
        {"data.image_size": image_size, "train.batch_size": _batch_of_one(parameters, devices)}
    )


def check_training(parameters: Parameters, data: int) -> str | None:
    """`compare` with this machine; None if it trains on graphics cards."""
    import tensorflow as tf

    on_card = tf.config.list_physical_devices("GPU")
    return None if on_card else compare(parameters, data, memory_limit())


def compare(parameters: Parameters, data: int, limit: int | None) -> str | None:
    """Compare what a training on a processor takes, by estimate, to the memory that there is.

    Args:
        parameters: of one variant and one device.
        data: bytes of data that the process holds beside the batch that it trains on.
        limit: bytes of memory and swap, see `facevae.common.limits.memory_limit`; None: unknown.

    Returns:
        A sentence if it takes more than 90 % of them; else None.

    Raises:
        UserError: it takes more than there are.
    """
    step = ledger(parameters).peak
    needed = step + PROCESS + data
    if limit is None or needed <= limit * _NEAR:
        return None
    batch_size = parameters.train.batch_size
    excess = "more than" if needed > limit else "nearly all of"
    sentence = (
        f"training with a batch of {batch_size} on this processor takes about {mib(needed)} MiB, "
        f"{mib(step)} of it for a step: {excess} the {mib(limit)} MiB of memory and swap that it "
        f"may use; {_what_fits(_like_a_card(limit - data), batch_size)}"
    )
    if needed > limit:
        raise UserError(sentence)
    return sentence


# How TensorFlow, its libraries and the C++ library say that memory has run out. TensorFlow calls
# other exhausted resources by the same name, such as open files.
_NO_MEMORY = re.compile(
    r"\bOOM\b|out.of.memory|ALLOC_FAILED|(failed|unable) to allocate|Dst tensor is not initialized"
    "|failed to map segment from shared object$|bad_alloc"
    "|Status: 1, message: could not create",  # 1: oneDNN's own number for it
    re.IGNORECASE,
)


def is_shortage(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, says that memory has run out."""
    while error is not None:
        errors = getattr(sys.modules.get("tensorflow"), "errors", None)
        speaks = (ImportError, RuntimeError, *([errors.OpError] if errors else []))
        if (
            isinstance(error, MemoryError)
            or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
            or (isinstance(error, speaks) and _NO_MEMORY.search(str(error)))
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def shortage(parameters: Parameters) -> str:
    """The sentence for a stage whose memory has run out.

    Args:
        parameters: of the stage.
    """
    config = getattr(sys.modules.get("tensorflow"), "config", None)
    limit = memory_limit()
    of_process = "" if limit is None else f": this process may use {mib(limit)} MiB"
    if config is None:  # no networks, to which `make fits` would apply
        return f"out of memory{of_process}; end other programs, or run it where there is more"
    cards = config.list_physical_devices("GPU")
    batch_size = _batch_of_one(parameters, max(1, len(cards)))
    if not cards:
        memory = None if limit is None else _like_a_card(limit)
        return f"out of memory{of_process}; {_what_fits(memory, batch_size)}"
    return (
        f"out of memory on {device_name()}; {_what_fits(card_memory(), batch_size)} "
        f"if no other program uses the card"
    )


def _like_a_card(memory: int) -> int:
    """The memory of a card that leaves to a training step what `memory` leaves on a processor."""
    return smallest_card(max(1, memory - PROCESS))


def _what_fits(card: int | None, batch_size: int) -> str:
    memory = "..." if card is None else f"{card // MIB}MiB"
    return f"`make fits VRAM={memory} BATCH={batch_size}` says what fits"
