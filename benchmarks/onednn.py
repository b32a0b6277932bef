"""How fast a training step is with oneDNN's kernels and without them, beside PyTorch.

TensorFlow leaves oneDNN off on processors without AVX-512 VNNI or AVX-VNNI; the library turns it
on. The candidates take turns, in the default networks with the extra Dense layer.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import training_steps
from benchmarks.harness import (
    PEERS,
    prepare_images,
    print_table,
    project_parameters,
    ratio,
    spread,
    take_turns,
)
from benchmarks.training_speed import BATCH, SETTINGS, pytorch
from facevae.common.machine import instruction_sets, processor_name

BATCH_SIZES = (32, BATCH)
ROUNDS = 15
ON = "ours, oneDNN on"
VARIABLES = {ON: "1", "ours, oneDNN off": "0"}
PEER_NAMES = ("PyTorch, channels_last", "PyTorch, compiled, channels_last")


def print_speeds(shards: Path, batch_size: int, rounds: int) -> None:
    """Print images per second of each candidate, and how far oneDNN's steps are ahead of it."""
    parameters = project_parameters({**SETTINGS, "train.batch_size": batch_size})
    candidates = {
        name: training_steps.start(parameters, shards, variables={"TF_ENABLE_ONEDNN_OPTS": value})
        for name, value in VARIABLES.items()
    }
    if PEERS.exists():
        candidates |= {name: pytorch(name, batch_size) for name in PEER_NAMES}
    rates, _ = take_turns(candidates, rounds)

    def rows() -> Iterator[tuple[str, ...]]:
        for name, of_rounds in rates.items():
            speed = spread(ratio(of_rounds, [1.0] * len(of_rounds)), ".0f")
            yield name, speed, spread(ratio(rates[ON], of_rounds))

    print_table((f"batch {batch_size}", "images/s (quartiles)", f"{ON}, over it"), rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    print(f"{processor_name()} ({' '.join(instruction_sets())})\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        shards = prepare_images(Path(name), project_parameters(SETTINGS))
        for batch_size in BATCH_SIZES:
            print_speeds(shards, batch_size, rounds)


if __name__ == "__main__":
    main()
