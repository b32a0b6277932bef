"""Changes of parameters that reduce the memory of a training, in the order of their cost."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facevae.common.errors import UserError
from facevae.common.parameters import VARIANTS, Parameters
from facevae.memory.ledger import ledger


@dataclass(frozen=True)
class Change:
    """A change that reduces the memory of a training.

    Attributes:
        settings: parameters and their new values, such as {"train.accumulation_steps": 2}.
        meaning: a short description for the user.
        variants: the variants that are trained with it.
    """

    settings: Mapping[str, Any]
    meaning: str
    variants: Sequence[str] = VARIANTS


# The first two cost no held-out loss in any seed of `make study-memory-options`, whose Decoders are
# those of the post; the order of the
# others is a judgement, because their losses are of one seed each. bfloat16 comes last: only some
# cards support it. With the learning rates given here the tests' small images are learnt. Of the
# values of one parameter, the first that is enough is suggested.
CHANGES_CHEAPEST_FIRST = (
    Change(
        {
            "encoder.filters": [32, 64, 128],
            "encoder.kernel_sizes": [6, 4, 4],
            "encoder.strides": [4, 2, 2],
        },
        "three conv layers, the first with stride 4",
    ),
    *(
        Change(
            {"train.accumulation_steps": steps},
            f"gradient accumulation, each batch in {steps} parts",
        )
        for steps in (2, 4, 8, 16)
    ),
    Change({"train.rematerialization": True}, "recompute activations, do not store them"),
    Change({}, "train only the variant inter_dense", variants=("inter_dense",)),
    *(
        Change({"encoder.inter_dense": units}, f"{units} units in the extra Dense layer")
        for units in (128, 64)
    ),
    Change(
        {"train.optimizer": "sgd", "train.learning_rate": 1e-4},
        "SGD with momentum (stores 1 number per weight, Adam 2)",
    ),
    Change(
        {"train.optimizer": "adafactor", "train.learning_rate": 0.01},
        "Adafactor (stores 1 number per row and column of a weight)",
    ),
    Change({"train.precision": "bfloat16"}, "bfloat16 (2 bytes a number), if the card supports it"),
)


def batch_setting(before: Parameters, after: Parameters) -> dict[str, Any]:
    """The batch size as a setting that leads from `before` to `after`; empty if it is the same."""
    batch_size = after.train.batch_size
    return {} if batch_size == before.train.batch_size else {"train.batch_size": batch_size}


def applied(parameters: Parameters, change: Change) -> Parameters | None:
    """The parameters with a change; None if they are not allowed together."""
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
    """Changes with which `train.batch_size` fits, in the order of their cost.

    Args:
        capacity: bytes that a training step may take, see `facevae.memory.capacity.step_memory`.

    Returns:
        Single changes: for each parameter, the first value that is enough. If no single change is
        enough, at most three pairs of changes. Empty if no pair is enough.
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
    """The command line of `dvc exp run` that trains the variants with the settings."""
    words = ["dvc exp run"]
    for key, value in settings.items():
        if isinstance(value, list):  # quoted, because brackets are patterns in a shell
            words.append(f"-S '{key}={','.join(map(str, value)).join('[]')}'")
        else:
            words.append(f"-S {key}={str(value).lower() if isinstance(value, bool) else value}")
    if len(variants) < len(VARIANTS):
        words += [f"train@{variant}" for variant in variants]
    return " ".join(words)
