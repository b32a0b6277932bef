"""The estimated memory of a training step, both variants side by side: tables and charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facevae.common.parameters import VARIANTS, Parameters
from facevae.common.tables import markdown_table
from facevae.memory.capacity import (
    MARGIN_PERCENT,
    MIB,
    break_even,
    card_name,
    mib,
    peak_breakdown,
    step_memory,
    whole_batch,
)
from facevae.memory.changes import (
    CHANGES_CHEAPEST_FIRST,
    Change,
    applied,
    batch_setting,
    command,
)
from facevae.memory.ledger import encoder_parameters, largest_batch, ledger
from facevae.plotting.charts import save_lines_and_levels, save_stacked_bars

BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
POST_BATCH_SIZE = 128  # of the blog post of 2022
CARDS = tuple(gibibytes * 2**30 for gibibytes in (2, 4, 6, 8))

# The x axis of the chart of the extra Dense layer.
UNITS = tuple(range(16, 1025, 16))


def _at(parameters: Parameters, batch_size: int) -> Parameters:
    return parameters.with_changes({"train.batch_size": whole_batch(parameters, batch_size)})


def memory_rows(parameters: Parameters) -> list[dict[str, Any]]:
    """One row per variant and batch size: memory at the peak by kind, and the peak itself, MiB."""
    rows = []
    for batch_size in BATCH_SIZES:
        setting = _at(parameters, batch_size)
        for variant in VARIANTS:
            account = ledger(setting.variant(variant))
            sizes = {**peak_breakdown(account), "peak": account.peak}
            rows.append(
                {
                    "variant": variant,
                    "batch_size": setting.train.batch_size,
                    **{
                        f"{name.replace(' ', '_')}_mib": round(size / MIB, 2)
                        for name, size in sizes.items()
                    },
                }
            )
    return rows


def _encoder_millions(parameters: Parameters, variant: str) -> float:
    return encoder_parameters(parameters.variant(variant)) / 1e6


def save_memory_by_batch(parameters: Parameters, path: Path) -> None:
    """Draw memory by kind over the batch size, both variants side by side, as an SVG file."""
    settings = [_at(parameters, batch_size) for batch_size in BATCH_SIZES]
    train = parameters.train
    save_stacked_bars(
        [
            {
                variant: {
                    part: size / MIB
                    for part, size in peak_breakdown(ledger(each.variant(variant))).items()
                }
                for variant in VARIANTS
            }
            for each in settings
        ],
        [str(each.train.batch_size) for each in settings],
        {f"{card_name(card)} card": step_memory(card) / MIB for card in CARDS},
        path,
        title=f"Where the memory of a training step goes: {train.optimizer}, {train.precision}",
        level="what a card has for it",
        x_label="batch size",
        y_label="MiB",
    )


def save_memory_by_inter_dense(parameters: Parameters, path: Path) -> None:
    """Draw the Encoder's parameters and the peak over the extra layer's units, as an SVG file."""
    post = _at(parameters, POST_BATCH_SIZE)
    by_units = [post.with_changes({"encoder.inter_dense": units}) for units in UNITS]
    units = break_even(parameters)
    save_lines_and_levels(
        UNITS,
        {
            "Encoder parameters, million": (
                [_encoder_millions(each, "inter_dense") for each in by_units],
                _encoder_millions(post, "direct"),
            ),
            f"peak at batch {post.train.batch_size}, MiB": (
                [ledger(each.variant("inter_dense")).peak / MIB for each in by_units],
                ledger(post.variant("direct")).peak / MIB,
            ),
        },
        (units, f"up to {units:,} units there are fewer weights"),
        path,
        title=f"What the extra Dense layer saves, latent size {post.encoder.latent_size}",
        x_label="units of the extra Dense layer (encoder.inter_dense)",
    )


def _table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table: headers, then rows. Columns are aligned right, except those in `left`."""
    headers, *body = rows
    align = ["left" if n in left else "right" for n in range(len(headers))]
    return markdown_table(body, headers, align)


def _breakdowns(parameters: Parameters, post: Parameters) -> tuple[str, str]:
    """Tables of memory by kind and of activations by layer, at the batch sizes of both settings."""
    settings = {each.train.batch_size: each for each in (parameters, post)}
    accounts = {
        f"{variant}, batch {size}": ledger(each.variant(variant))
        for size, each in settings.items()
        for variant in VARIANTS
    }
    columns = [{**peak_breakdown(each), "**peak**": each.peak} for each in accounts.values()]
    layers = dict.fromkeys(name for each in accounts.values() for name in each.activations)
    by_part = [[part, *(mib(column[part]) for column in columns)] for part in columns[0]]
    by_layer = [
        [f"`{name}`", *(mib(each.activations.get(name, 0)) for each in accounts.values())]
        for name in layers
    ]
    return _table([["kind", *accounts], *by_part]), _table([["layer", *accounts], *by_layer])


def _cards(parameters: Parameters) -> str:
    rows = [["card", "for a training step", *(f"largest batch, {v}" for v in VARIANTS)]]
    for card in CARDS:
        capacity = step_memory(card)
        largest = (largest_batch(parameters.variant(v), capacity) for v in VARIANTS)
        rows.append([card_name(card), mib(capacity), *(f"{batch:,}" for batch in largest)])
    return _table(rows)


def _changes(parameters: Parameters, post: Parameters) -> str:
    batch = batch_setting(parameters, post)
    rows = [["change", *VARIANTS, "command"]]
    unchanged = Change({}, "none")
    for change in (unchanged, *CHANGES_CHEAPEST_FIRST):
        after = applied(post, change)
        if after is None:
            continue
        peaks = [
            mib(ledger(after.variant(v)).peak) if v in change.variants else "" for v in VARIANTS
        ]
        command_line = command({**batch, **change.settings}, change.variants)
        rows.append([change.meaning, *peaks, f"`{command_line}`"])
    return _table(rows, left=(0, 3))


def memory_markdown(parameters: Parameters) -> str:
    """The report as Markdown: memory by kind and layer, batch sizes that fit, and changes."""
    post = _at(parameters, POST_BATCH_SIZE)
    by_part, by_layer = _breakdowns(parameters, post)
    return f"""\
# Memory of a training step

All amounts of memory are estimates in MiB, computed from the parameters without training. For
another graphics card or batch size, run `make fits VRAM=3GiB BATCH=256`.

## Memory by kind

What is in memory at the peak. Gradients that are not computed yet count as 0.

{by_part}

Activations that are stored for the backward pass, by layer:

{by_layer}

The extra Dense layer reduces the weights if it has up to {break_even(parameters):,} units.

## What fits on a card

{_cards(parameters)}

A training step may not take all memory of a card: CUDA takes a part, TensorFlow leaves a part free,
and {MARGIN_PERCENT} % of the rest is a safety margin for this estimate. `make fits` prints the
amounts.

## How to reduce it

The peak at batch size {post.train.batch_size}, with one change per row. Those that cost least in
quality and speed come first.

{_changes(parameters, post)}
"""
