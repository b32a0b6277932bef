"""What each rewrite of Keras' layers and optimizer gains a training step, in speed and in memory.

Each candidate lacks one of them and has Keras' own in its place; the last lacks all. They compute
the same function (see tests/model and tests/training), take turns, and read
their batches from shards.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import training_steps
from benchmarks.harness import (
    prepare_images,
    print_table,
    project_parameters,
    ratio,
    spread,
    take_turns,
)
from benchmarks.training_speed import BATCH, SETTINGS

BATCH_SIZES = (32, BATCH)  # the pipeline's default, and that of the other benchmarks
ROUNDS = 15

# Names where they are used, and what of Keras takes their place.
REWRITES = {
    "fused batch normalisation": {
        "facevae.model.networks.FusedBatchNormalization": "layers.BatchNormalization"
    },
    "fused Adam": {"facevae.training.optimizers.FusedAdam": "optimizers.Adam"},
    "no bias gradients in front of a normalisation": {
        "facevae.model.networks.ZeroBiasGradConv2D": "layers.Conv2D",
        "facevae.model.networks.ZeroBiasGradConv2DTranspose": "layers.Conv2DTranspose",
    },
    "the image as a sub-pixel convolution": {
        "facevae.model.networks.SubpixelConv2DTranspose": "layers.Conv2DTranspose"
    },
    "einsum as a gradient of Dense layers": {
        "facevae.model.networks.EinsumGradDense": "layers.Dense"
    },
    "leaky ReLU whose gradient reads the output": {
        "facevae.model.networks.output_grad_leaky_relu": "activations.leaky_relu"
    },
}
ALL = "all of them"


def print_gains(shards: Path, batch_size: int, rounds: int) -> None:
    """Print how far the steps with all rewrites are ahead of those without one, or without any."""
    everything = {name: own for each in REWRITES.values() for name, own in each.items()}
    lacking: dict[str, dict[str, str]] = {"ours": {}, **REWRITES, ALL: everything}
    parameters = project_parameters({**SETTINGS, "train.batch_size": batch_size})
    candidates = {
        name: training_steps.start(parameters, shards, replaced=replaced)
        for name, replaced in lacking.items()
    }
    rates, peaks = take_turns(candidates, rounds)

    def rows() -> Iterator[tuple[str, ...]]:
        for name in (*REWRITES, ALL):
            gain = spread(ratio(rates["ours"], rates[name]))
            yield name, gain, f"{peaks[name] - peaks['ours']:.0f}"

    print_table(
        [f"rewrite, batch {batch_size}", "speed over that without (quartiles)", "saved, MiB"],
        rows(),
    )
    images = statistics.median(rates["ours"])
    print(f"With {ALL}: {images:.0f} images/s, {peaks['ours']:.0f} MiB.\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least 2")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        shards = prepare_images(Path(name), project_parameters(SETTINGS))
        for batch_size in BATCH_SIZES:
            print_gains(shards, batch_size, options.rounds)


if __name__ == "__main__":
    main()
