"""The estimated peak memory of a training step beside the measured one.

Estimated is the peak of `facevae.memory.ledger`. Every configuration is trained in fresh processes;
see `facevae.measurement.step_peak` for what is measured.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from benchmarks.harness import MIB, print_table, project_parameters
from facevae.common.parameters import Decoder, Encoder, Loss, Parameters, Train
from facevae.measurement.step_peak import measure_peaks
from facevae.memory.ledger import ledger

REPEATED = ("direct, batch 32", "inter_dense, batch 128")
REPETITIONS = 5

_THREE_WIDE = {"filters": [32, 64, 128], "kernel_sizes": [3, 3, 3], "strides": [4, 2, 2]}
_THREE_COVERED = {**_THREE_WIDE, "kernel_sizes": [6, 4, 4]}
_THREE_DEEP = {"filters": [32, 128, 256], "kernel_sizes": [3, 3, 3], "strides": [2, 4, 4]}
_FIVE = {"filters": [32, 64, 128, 256, 256], "kernel_sizes": [3] * 5, "strides": [2] * 5}

# Changes to params.yaml by name, without their sections.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "direct, batch 32": {"inter_dense": 0, "batch_size": 32},
    "direct, batch 128": {"inter_dense": 0, "batch_size": 128},
    "direct, latent 512, batch 64": {"inter_dense": 0, "latent_size": 512, "batch_size": 64},
    "direct, bfloat16, batch 128": {"inter_dense": 0, "batch_size": 128, "precision": "bfloat16"},
    "inter_dense, batch 32": {"batch_size": 32},
    "inter_dense, batch 128": {"batch_size": 128},
    "inter_dense, batch 512": {"batch_size": 512},
    "inter_dense, latent 512, batch 64": {"latent_size": 512, "batch_size": 64},
    "64 units, batch 32": {"inter_dense": 64, "batch_size": 32},
    "bfloat16, batch 128": {"batch_size": 128, "precision": "bfloat16"},
    "strides 4 2 2, batch 128": {**_THREE_WIDE, "batch_size": 128},
    "strides 4 2 2, kernels 6 4 4, batch 128": {**_THREE_COVERED, "batch_size": 128},
    "strides 2 4 4, batch 128": {**_THREE_DEEP, "batch_size": 128},
    "five layers, batch 128": {**_FIVE, "batch_size": 128},
    "sgd, direct, batch 32": {"inter_dense": 0, "batch_size": 32, "optimizer": "sgd"},
    "adafactor, direct, batch 32": {"inter_dense": 0, "batch_size": 32, "optimizer": "adafactor"},
    "adafactor, direct, batch 4": {"inter_dense": 0, "batch_size": 4, "optimizer": "adafactor"},
    "in 4 parts, batch 128": {"batch_size": 128, "accumulation_steps": 4},
    "in 4 parts, direct, batch 32": {
        "inter_dense": 0, "batch_size": 32, "accumulation_steps": 4
    },
    "rematerialization, batch 128": {"batch_size": 128, "rematerialization": True},
    "rematerialization in 4 parts, batch 128": {
        "batch_size": 128, "accumulation_steps": 4, "rematerialization": True,
    },
    "bfloat16, rematerialization, batch 128": {
        "batch_size": 128, "precision": "bfloat16", "rematerialization": True,
    },
    "residual, batch 64": {"batch_size": 64, "block": "residual"},
    "residual, rematerialization, batch 64": {
        "batch_size": 64,
        "block": "residual",
        "rematerialization": True,
    },
    "no normalisation, batch 128": {"batch_size": 128, "batch_normalization": False},
    "dropout, batch 64": {"batch_size": 64, "dropout": 0.1},
    "silu, batch 64": {"batch_size": 64, "activation": "silu"},
    "gelu, batch 64": {"batch_size": 64, "activation": "gelu"},
    "bce, batch 64": {"batch_size": 64, "reconstruction": "bce"},
    "gaussian, batch 64": {"batch_size": 64, "reconstruction": "gaussian"},
    "averaged weights, batch 32": {"batch_size": 32, "ema_momentum": 0.99},
    "transposed, batch 128": {"batch_size": 128, "resize_layers": 0},
    "clipped gradients, batch 32": {"batch_size": 32, "gradient_clip_norm": 1.0},
    "direct, batch 2": {"inter_dense": 0, "batch_size": 2},
}  # fmt: skip


def configuration(name: str) -> Parameters:
    """The parameters of one of the configurations."""
    sections: dict[str, type[BaseModel]] = {
        "encoder": Encoder, "decoder": Decoder, "loss": Loss, "train": Train
    }  # fmt: skip
    changes = {"reconstruction": "mse", **CONFIGURATIONS[name]}
    return project_parameters(
        {
            f"{section}.{key}": value
            for section, fields in sections.items()
            for key, value in changes.items()
            if key in fields.model_fields and (section, key) != ("decoder", "kernel_sizes")
        }
    )


def measured(settings: Sequence[Parameters], *, own_allocator: bool = False) -> Iterator[int]:
    """`measure_peaks`, bytes; two processes at a time."""
    halves = [measure_peaks(settings[first::2], own_allocator=own_allocator) for first in (0, 1)]
    for number in range(len(settings)):
        yield next(halves[number % 2])


def comparisons(names: list[str]) -> Iterator[tuple[str, ...]]:
    """Rows of the table of both peaks."""
    for name, peak in zip(names, measured([configuration(name) for name in names]), strict=True):
        expected = ledger(configuration(name))
        peaks = f"{expected.peak / MIB:.1f}", f"{peak / MIB:.1f}"
        yield name, *peaks, f"{expected.peak / peak:.3f}", expected.moment


def repetitions() -> Iterator[tuple[str, ...]]:
    """Rows of the table of how far measured peaks differ from process to process."""
    for name, own in itertools.product(REPEATED, (False, True)):
        peaks = [
            peak / MIB for peak in measured([configuration(name)] * REPETITIONS, own_allocator=own)
        ]
        middle, least, most = statistics.median(peaks), min(peaks), max(peaks)
        allocator = ", TensorFlow's own allocator" if own else ""
        spread = f"{(most - least) / middle:.2%}"
        yield f"{name}{allocator}", f"{middle:.1f}", f"{least:.1f} to {most:.1f}", spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="configurations; all if none is named")
    names = parser.parse_args().names or list(CONFIGURATIONS)
    print_table(
        ["configuration", "estimated, MiB", "measured, MiB", "estimated over measured",
         "at its peak"],
        comparisons(names),
    )  # fmt: skip
    if names == list(CONFIGURATIONS):
        head = [f"{REPETITIONS} processes each", "median, MiB", "least to most, MiB", "spread"]
        print_table(head, repetitions())


if __name__ == "__main__":
    main()
