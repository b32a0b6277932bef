"""What a training step costs with each way in which the Decoder can enlarge its images.

Each is compared with the transposed convolutions of the post of 2022, in speed and in memory. The
candidates take turns, in the default networks with the extra Dense layer.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from facevae.common.machine import instruction_sets, processor_name

BATCH_SIZES = (32, BATCH)
SMALLER = 16  # half of the first, compared in images per second
ROUNDS = 15
TRANSPOSED = {"decoder.resize_layers": 0, "decoder.kernel_sizes": [3, 3, 3, 3]}
POST = "transposed, kernel 3: the post's"
DEFAULT = "resize in the three outermost layers"
WAYS: dict[str, dict[str, Any]] = {
    POST: TRANSPOSED,
    "resize, kernel 3": {**TRANSPOSED, "decoder.resize_layers": 4},
    DEFAULT: {**TRANSPOSED, "decoder.resize_layers": 3},
    "resize in the two outermost layers": {**TRANSPOSED, "decoder.resize_layers": 2},
    "transposed, kernel 4": {**TRANSPOSED, "decoder.kernel_sizes": [4, 4, 4, 4]},
    "transposed, kernel 4 in the two outermost layers": {
        **TRANSPOSED,
        "decoder.kernel_sizes": [4, 4, 3, 3],
    },
    "transposed, kernel 4 in the Encoder, too": {
        "decoder.resize_layers": 0,
        "decoder.kernel_sizes": [4, 4, 4, 4],
        "encoder.kernel_sizes": [4, 4, 4, 4],
    },
}


def print_costs(shards: Path, batch_size: int, rounds: int) -> None:
    """Print time and memory of each way, relative to the post's."""
    settings = {
        name: {**SETTINGS, **way, "train.batch_size": batch_size} for name, way in WAYS.items()
    }
    if batch_size == 2 * SMALLER:
        settings[f"{DEFAULT}, batch {SMALLER}"] = {
            **settings[DEFAULT],
            "train.batch_size": SMALLER,
        }
    candidates = {
        name: training_steps.start(project_parameters(changed), shards)
        for name, changed in settings.items()
    }
    rates, peaks = take_turns(candidates, rounds)

    def rows() -> Iterator[tuple[str, ...]]:
        for name, of_rounds in rates.items():
            speed = spread(ratio(of_rounds, [1.0] * len(of_rounds)), ".0f")
            time = spread(ratio(rates[POST], of_rounds))
            yield name, speed, time, f"{peaks[name] - peaks[POST]:+.0f}"

    head = (f"batch {batch_size}", "images/s (quartiles)", "time over the post's", "MiB more")
    print_table(head, rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at least 2")
    rounds = parser.parse_args().rounds
    print(f"{processor_name()} ({' '.join(instruction_sets())})\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        shards = prepare_images(Path(name), project_parameters(SETTINGS))
        for batch_size in BATCH_SIZES:
            print_costs(shards, batch_size, rounds)


if __name__ == "__main__":
    main()
