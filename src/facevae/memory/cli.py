"""The command behind `make fits`: which batch sizes fit on a graphics card."""

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters, load_parameters
from facevae.memory.capacity import (
    CUDA_CONTEXT,
    MARGIN_PERCENT,
    MIB,
    RESERVE,
    RESERVE_VARIABLE,
    card_name,
    mib,
    parse_size,
    peak_breakdown,
    smallest_card,
    step_memory,
    tensorflow_reserve,
    whole_batch,
)
from facevae.memory.changes import Change, batch_setting, changes_that_fit, command
from facevae.memory.ledger import Ledger, largest_batch, ledger

_BATCH_SIZES = (16, 32, 64, 128, 256, 512)
_WIDTH = 92


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first column aligned left and the others right."""
    table = tabulate(
        rows,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(rows[0]) - 1)],
        preserve_whitespace=True,  # keeps the place of a missing star
    )
    return textwrap.indent(table, "  ")


def report(parameters: Parameters, card: int, batch_size: int) -> str:
    """Which batch sizes fit on a card, and how to make one fit: text for a terminal.

    Args:
        card: memory of the card, bytes.
        batch_size: the wanted `train.batch_size`.

    Raises:
        UserError: not even the smallest batch fits.
    """
    capacity = step_memory(card)
    wanted = parameters.with_changes({"train.batch_size": batch_size})
    largest = {name: largest_batch(wanted.variant(name), capacity) for name in VARIANTS}
    if not any(largest.values()):
        one = parameters.with_changes({"train.batch_size": whole_batch(parameters, 1)})
        least = min(ledger(one.variant(name)).peak for name in VARIANTS)
        raise UserError(
            f"a card of {card_name(card)} is too small for these parameters: a training step "
            f"with the smallest batch takes {mib(least)} MiB and needs a card of "
            f"{-(-smallest_card(least) // MIB):,} MiB"
        )

    sizes = sorted({*(whole_batch(parameters, size) for size in _BATCH_SIZES), batch_size})
    peaks = [["batch size", *map(str, sizes), "largest"]]
    for name in VARIANTS:
        row = [name]
        for size in sizes:
            peak = ledger(wanted.with_changes({"train.batch_size": size}).variant(name)).peak
            row.append(f"{mib(peak)}{' ' if peak <= capacity else '*'}")
        peaks.append([*row, f"{largest[name]:,}"])

    ledgers = {name: ledger(wanted.variant(name)) for name in VARIANTS}
    bytes_of = {name: peak_breakdown(account) for name, account in ledgers.items()}
    breakdown = [["", *VARIANTS]]
    breakdown += [[key, *(mib(bytes_of[v][key]) for v in VARIANTS)] for key in bytes_of["direct"]]
    breakdown.append(["peak", *(mib(account.peak) for account in ledgers.values())])

    return "\n".join(
        [
            *_capacity(card, capacity),
            "",
            "Estimated peak of a training step, MiB (* does not fit), and the largest batch size:",
            _table(peaks),
            "",
            f"Memory at the peak, batch size {batch_size}, MiB (gradients not yet computed: 0):",
            _table(breakdown),
            "",
            *_advice(parameters, wanted, ledgers, largest, capacity),
        ]
    )


def _capacity(card: int, capacity: int) -> list[str]:
    free = card - CUDA_CONTEXT
    reserve = tensorflow_reserve(free)
    text = (
        f"On a graphics card of {card_name(card)}, a training step may take {mib(capacity)} MiB. "
        f"CUDA takes about {mib(CUDA_CONTEXT)} MiB, TensorFlow leaves {mib(reserve)} MiB free, and "
        f"{MARGIN_PERCENT} % of the rest is a safety margin for this estimate."
    )
    if reserve == RESERVE:
        text += (
            f" For a card newer than the GTX 10 series, set the environment variable "
            f"{RESERVE_VARIABLE}=500; otherwise TensorFlow leaves more than 1,000 MiB free."
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
        return [f"Batch size {batch_size} fits: {command(batch)}"]

    excess = " and ".join(
        f"{name} takes {mib(account.peak - capacity)} MiB too much"
        for name, account in ledgers.items()
        if account.peak > capacity
    )
    heading = (
        f"Batch size {batch_size} does not fit: {excess}. Any one of the following makes it fit, "
        f"with these peaks in MiB. What costs least in quality and speed comes first:"
    )
    lines = textwrap.wrap(heading, _WIDTH)
    found = changes_that_fit(wanted, capacity)
    if not found:
        lines.append("  (of the known changes, not even two together are enough)")
    smaller = min(largest.values()) or max(largest.values())
    variants = [name for name in VARIANTS if largest[name] >= smaller]
    last = Change({"train.batch_size": smaller}, f"reduce the batch size to {smaller}", variants)
    for number, change in enumerate([*found, last], start=1):
        settings = {**batch, **change.settings}
        after = wanted.with_changes(settings)
        peaks = ", ".join(
            f"{name} {mib(ledger(after.variant(name)).peak)}" for name in change.variants
        )
        lines += textwrap.wrap(
            f"{number}. {change.meaning}: {peaks}",
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
        prog="python -m facevae.memory.cli",
        description="Estimate which batch sizes fit on a graphics card, and which changes of the "
        "parameters make a batch size fit. Nothing is trained.",
    )
    parser.add_argument(
        "card", nargs="*", metavar="MEMORY", help="memory of the card, such as 4GiB"
    )
    parser.add_argument(
        "--batch-size", metavar="N", help="the wanted batch size (default: train.batch_size)"
    )
    parser.add_argument("--params", default="params.yaml", help="parameters (default: %(default)s)")
    # An unknown option may be a negative size, and is then refused as a size.
    options, unknown = parser.parse_known_args(arguments)
    text = " ".join([*options.card, *unknown]).strip()
    try:
        if not text:
            raise UserError(
                "say how much memory the graphics card has: make fits VRAM=4GiB, or with a batch "
                "size: make fits VRAM=4GiB BATCH=256"
            )
        card = parse_size(text)
        parameters = load_parameters(options.params)
        batch_size = parameters.train.batch_size
        if options.batch_size is not None:
            batch_size = _batch_size(options.batch_size)
        print(report(parameters, card, batch_size))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
