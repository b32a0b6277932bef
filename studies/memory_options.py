"""What each way to a training of less memory saves, and what it costs in speed and held-out loss.

At batch 128, each beside the default. The peak memory of a training step is estimated and measured
(see `benchmarks.memory_model`). For the speed each takes turns with the default. For the loss all
are trained for the same number of steps.
"""

import csv
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import training_steps
from benchmarks.harness import MIB, ratio, spread, table, take_turns
from facevae.measurement.step_peak import measure_peak
from facevae.memory.ledger import ledger
from studies.harness import EPOCHS, Results, Settings, Study, Title, Work, main

BATCH = 128
ROUNDS = 9
LAST_EPOCHS = 2  # whose validation losses are averaged: a single one jitters

DEFAULT = ("default: inter_dense 256",)
CANDIDATES: dict[Title, Settings] = {
    DEFAULT: {"encoder.inter_dense": 256},
    ("no extra Dense layer",): {"encoder.inter_dense": 0},
    ("inter_dense 64",): {"encoder.inter_dense": 64},
    ("batch in 4 parts",): {"train.accumulation_steps": 4},
    ("rematerialization",): {"train.rematerialization": True},
    ("SGD, learning rate 1e-4",): {"train.optimizer": "sgd", "train.learning_rate": 1e-4},
    ("Adafactor, learning rate 0.01",): {
        "train.optimizer": "adafactor",
        "train.learning_rate": 0.01,
    },
    ("bfloat16",): {"train.precision": "bfloat16"},
    ("three conv layers, strides 4 2 2",): {
        "encoder.filters": [32, 64, 128],
        "encoder.kernel_sizes": [3, 3, 3],
        "encoder.strides": [4, 2, 2],
    },
    # Kernels of 3 at strides of 4 never see a quarter of the rows, and leave as many unpainted.
    ("the same, kernels 6 4 4",): {
        "encoder.filters": [32, 64, 128],
        "encoder.kernel_sizes": [6, 4, 4],
        "encoder.strides": [4, 2, 2],
    },
    ("five conv layers",): {
        "encoder.filters": [32, 64, 128, 256, 256],
        "encoder.kernel_sizes": [3, 3, 3, 3, 3],
        "encoder.strides": [2, 2, 2, 2, 2],
    },
    ("residual blocks",): {"encoder.block": "residual"},
}


def measure(work: Work, title: Title, seed: int) -> Mapping[str, Any]:
    """Peak memory, speed beside the default's, and held-out loss."""
    with open(work.train(title, seed) / "history.csv", encoding="utf-8") as lines:
        losses = [float(row["val_loss"]) for row in csv.DictReader(lines)]
    parameters = work.parameters(title, seed)
    speed = (1.0, 1.0, 1.0)
    if title != DEFAULT:
        candidates = {
            name: training_steps.start(each, work.shards)
            for name, each in (("ours", parameters), ("default", work.parameters(DEFAULT, seed)))
        }
        rates, _ = take_turns(candidates, ROUNDS)
        speed = ratio(rates["ours"], rates["default"])
    return {
        "peak": {
            "estimated_mib": ledger(parameters).peak / MIB,
            "measured_mib": measure_peak(parameters) / MIB,
        },
        "speed": dict(zip(("median", "lower_quartile", "upper_quartile"), speed, strict=True)),
        "validation.loss": statistics.mean(losses[-LAST_EPOCHS:]),
    }


def report(results: Results) -> list[str]:
    """The lines of the Markdown report."""
    lines = []
    for title, rows in results.rows.items():
        found = {metric: results.mean(title, metric) or 0.0 for metric in rows[0].metrics}
        share = ""
        if DEFAULT in results.rows:
            usual = results.mean(DEFAULT, "peak.measured_mib") or 0.0
            share = f"{found['peak.measured_mib'] / usual:.2f}"
        speed = [found[f"speed.{name}"] for name in ("median", "lower_quartile", "upper_quartile")]
        losses = ", ".join(f"{row.metrics['validation.loss']:.1f}" for row in rows)
        lines.append([*title, f"{found['peak.estimated_mib']:.0f}",
                      f"{found['peak.measured_mib']:.0f}", share, spread(speed), losses,
                      *results.origins.cells(rows)])  # fmt: skip
    head = ["", "estimated, MiB", "measured, MiB", "of default's", "speed over default's "
            "(quartiles)", "held-out loss per image, by seed", *results.origins.columns()
            ]  # fmt: skip
    common = results.settings[DEFAULT]
    return [
        "# What less memory costs",
        "",
        f"Each candidate beside the default, {common['train.epochs']} epochs of batch "
        f"{common['train.batch_size']} with the sum of "
        "squares and a constant learning rate. The peak memory of a training step is estimated "
        f"and measured; for the speed a candidate took {ROUNDS} turns with the default; the loss "
        f"is that of the validation split, the mean of the last {LAST_EPOCHS} epochs.",
        "",
        *table(head, lines),
        "",
        *results.origins.note(),
    ]


STUDY = Study(
    name="memory_options",
    report_file="memory_options.md",
    common={
        "data.resize": "lanczos",
        "decoder.resize_layers": 0,
        # Sums of squares are easier to compare than nats.
        "loss.reconstruction": "mse",
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
        "train.learning_rate_schedule": "constant",
    },
    candidates=CANDIDATES,
    # Half the default's peak is wanted for no worse a loss: these decide about it.
    seeds=dict.fromkeys([DEFAULT, ("batch in 4 parts",), ("the same, kernels 6 4 4",)], 3),
    measure=measure,
    report=report,
)

if __name__ == "__main__":
    main(STUDY, __doc__)
