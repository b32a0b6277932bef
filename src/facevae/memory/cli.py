"""The command behind `make fits`: what of a training fits on a card, as text for a terminal."""

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
    """Rows as text, the first column to the left and the others to the right."""
    table = tabulate(
        rows,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(rows[0]) - 1)],
        preserve_whitespace=True,  # in the place of a star
    )
    return textwrap.indent(table, "  ")


def report(parameters: Parameters, card: int, batch_size: int) -> str:
    """What of a training fits on a card, as text for a terminal.

    Args:
        card: bytes of memory that the card has.
        batch_size: the `train.batch_size` that is wanted.

    Raises:
        UserError: not a single image fits.
    """
    capacity = step_memory(card)
    wanted = parameters.with_changes({"train.batch_size": batch_size})
    largest = {name: largest_batch(wanted.variant(name), capacity) for name in VARIANTS}
    if not any(largest.values()):
        one = parameters.with_changes({"train.batch_size": whole_batch(parameters, 1)})
        least = min(ledger(one.variant(name)).peak for name in VARIANTS)
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
            peak = ledger(wanted.with_changes({"train.batch_size": size}).variant(name)).peak
            row.append(f"{mib(peak)}{' ' if peak <= capacity else '*'}")
        peaks.append([*row, f"{largest[name]:,}"])

    ledgers = {name: ledger(wanted.variant(name)) for name in VARIANTS}
    bytes_of = {name: peak_breakdown(account) for name, account in ledgers.items()}
    places = [["", *VARIANTS]]
    places += [[key, *(mib(bytes_of[v][key]) for v in VARIANTS)] for key in bytes_of["direct"]]
    places.append(["peak", *(mib(account.peak) for account in ledgers.values())])

    return "\n".join(
        [
            *_margin(card, capacity),
            "",
            "Peak of a training step, MiB; * does not fit:",
            _table(peaks),
            "",
            f"At the peak of batch {batch_size}, MiB (gradients come as activations go):",
            _table(places),
            "",
            *_advice(parameters, wanted, ledgers, largest, capacity),
        ]
    )


def _margin(card: int, capacity: int) -> list[str]:
    free = card - CUDA_CONTEXT
    reserve = tensorflow_reserve(free)
    text = (
        f"A card of {card_name(card)} has {mib(capacity)} MiB for a training step: about "
        f"{mib(CUDA_CONTEXT)} MiB go to CUDA, {mib(reserve)} MiB TensorFlow leaves free, and a "
        f"tenth of the rest is for what this reckoning may be off."
    )
    if reserve == RESERVE:
        text += (
            f" On cards newer than the GTX 10 series set {RESERVE_VARIABLE}=500, or TensorFlow "
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
        after = wanted.with_changes(settings)
        needs = ", ".join(
            f"{name} {mib(ledger(after.variant(name)).peak)}" for name in change.variants
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
        prog="python -m facevae.memory.cli",
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
