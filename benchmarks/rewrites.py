"""What each rewrite of Keras' layers and optimizer gains a training step, in speed and in memory.

Each candidate lacks one of them, and has Keras' own in its place; the last lacks all. They compute
the same function (see tests/test_networks.py and tests/test_training.py), take turns (see
`worker.py`) and are fed as those of `training.py`.
"""

import argparse
import importlib
import operator
import statistics
import sys
import tempfile
from pathlib import Path

from facevae.common.runtime import load_tensorflow
from training import BATCH, INTER_DENSE, prepared, serve_training
from worker import Candidate, ratio, take_turns

BATCH_SIZES = (32, BATCH)  # the pipeline's default, and that of the other benchmarks
ROUNDS = 15

# Where each is used, and what of Keras takes its place.
REWRITES = {
    "fused batch normalisation": (
        "facevae.model.networks",
        {"FusedBatchNormalization": "layers.BatchNormalization"},
    ),
    "fused Adam": ("facevae.training.optimizers", {"FusedAdam": "optimizers.Adam"}),
    "no bias gradients in front of a normalisation": (
        "facevae.model.networks",
        {
            "ZeroBiasGradConv2D": "layers.Conv2D",
            "ZeroBiasGradConv2DTranspose": "layers.Conv2DTranspose",
        },
    ),
    "leaky ReLU whose gradient reads the output": (
        "facevae.model.networks",
        {"output_grad_leaky_relu": "activations.leaky_relu"},
    ),
}


def _leave_out(rewrite: str) -> None:
    import keras

    module, replacements = REWRITES[rewrite]
    for name, own in replacements.items():
        setattr(importlib.import_module(module), name, operator.attrgetter(own)(keras))


def serve_steps(shards: Path, batch_size: int, left_out: list[str]) -> None:
    """Take the train stage's steps, without some of the rewrites."""
    load_tensorflow()
    for rewrite in left_out:
        _leave_out(rewrite)

    from facevae.common.runtime import enable_determinism
    from facevae.model.vae import VAE
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    enable_determinism(1)
    vae = VAE(image_size=96, inter_dense=INTER_DENSE)
    step = training_step(vae, build_optimizer("adam", 1e-3, "float32"))
    serve_training(step, vae, shards, batch_size)


def print_gains(shards: Path, batch_size: int) -> None:
    """Table of what the steps with all rewrites are ahead of those without one, or without any."""
    left_out = {"all": [], **{name: [name] for name in REWRITES}, "none": list(REWRITES)}
    start = [sys.executable, __file__, "steps", "--shards", shards, "--batch-size", batch_size]
    candidates = {
        name: Candidate([*start, "--without", *names], batch_size)
        for name, names in left_out.items()
    }
    rates = take_turns(candidates, ROUNDS)
    peaks = {name: candidate.end() for name, candidate in candidates.items()}
    print(f"| rewrite, batch {batch_size} | speed over that without (quartiles) | saved, MiB |")
    print("| --- | ---: | ---: |")
    for name in candidates:
        if name == "all":
            continue
        what = "all of them" if name == "none" else name
        middle, low, high = ratio(rates["all"], rates[name])
        saved = peaks[name] - peaks["all"]
        print(f"| {what} | {middle:.2f} ({low:.2f} to {high:.2f}) | {saved:.0f} |")
    images = statistics.median(rates["all"])
    print(f"\nWith all of them: {images:.0f} images/s, {peaks['all']:.0f} MiB.\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    # What this file starts processes of itself for.
    steps = commands.add_parser("steps")
    steps.add_argument("--shards", type=Path, required=True)
    steps.add_argument("--batch-size", type=int, required=True)
    steps.add_argument("--without", nargs="*", choices=REWRITES)
    options = parser.parse_args()
    if options.command == "steps":
        serve_steps(options.shards, options.batch_size, options.without)
        return
    with tempfile.TemporaryDirectory() as name:
        shards = prepared(Path(name))
        for batch_size in BATCH_SIZES:
            print_gains(shards, batch_size)


if __name__ == "__main__":
    main()
