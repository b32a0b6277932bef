"""Changes that make a training smaller, the cheapest first, and which of them are enough."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters
from facevae.memory.ledger import ledger


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


def batch_setting(before: Parameters, after: Parameters) -> dict[str, Any]:
    """The batch size to set for going from `before` to `after`, if it is another one."""
    batch_size = after.train.batch_size
    return {} if batch_size == before.train.batch_size else {"train.batch_size": batch_size}


def applied(parameters: Parameters, change: Change) -> Parameters | None:
    """The parameters with a change; None where it does not suit them."""
    try:
        return parameters.with_changes(change.settings)
    except UserError:
        return None


def _enough(parameters: Parameters, change: Change, capacity: int) -> bool:
    after = applied(parameters, change)
    return after is not None and all(
        ledger(after.variant(name)).peak <= capacity for name in change.variants
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
