"""What a training holds in memory above `import tensorflow`, and which phase of its start adds it.

The default networks with the extra Dense layer and batches of 1, so that nearly all is what every
training holds. Linux only: the figures are those of /proc/self/status.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import PROJECT, prepare_images, print_table, project_parameters
from benchmarks.training_speed import SETTINGS

STEPS = 20
_FIELDS = ("VmHWM", "RssAnon", "RssFile")  # the peak; resident now, of no file and of files


def print_phase(phase: str) -> None:
    """Print a phase that has just ended, and the memory of this process, MiB."""
    status = Path("/proc/self/status").read_text("ascii")
    sizes = [re.search(rf"{field}:\s*(\d+) kB", status) for field in _FIELDS]
    print("phase", phase, *(int(size[1]) / 2**10 for size in sizes if size), sep="\t", flush=True)


def run_phases(shards: Path) -> None:
    """Start a training as the train stage does, and print the memory after each phase."""
    from facevae.common.runtime import enable_determinism, load_tensorflow

    print_phase("Python")
    load_tensorflow()
    print_phase("TensorFlow, as the library imports it")
    import tensorflow as tf

    from benchmarks.training_steps import build_step, endless_batches
    from facevae.model.saving import save_model

    enable_determinism(1)
    parameters = project_parameters({"train.batch_size": 1})
    print_phase("the library, and the parameters")
    vae, step = build_step(parameters)
    print_phase("weights, and the optimizer's state")
    batches = endless_batches(shards, 1, vae.latent_size)
    batch, weight = next(batches), tf.constant(vae.kl_weight, tf.float32)
    print_phase("shuffled images, and batches that are ready")
    step.get_concrete_function(batch, weight)  # type: ignore[attr-defined]
    print_phase("the step's graph")
    step(batch, weight).numpy()
    print_phase("the first step")
    for batch in itertools.islice(batches, STEPS):
        step(batch, weight).numpy()
    print_phase(f"{STEPS} more steps")
    with tempfile.TemporaryDirectory() as folder:
        save_model(vae, Path(folder) / "model.keras")
    print_phase("writing the model")


def _phases(*command: object) -> Iterator[tuple[str, list[float]]]:
    words = [sys.executable, *map(str, command)]
    lines = subprocess.run(
        words, cwd=PROJECT, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.splitlines()
    for line in lines:
        mark, *cells = line.split("\t")
        if mark == "phase":
            yield cells[0], [float(cell) for cell in cells[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, help=argparse.SUPPRESS)
    shards = parser.parse_args().shards
    if shards:
        run_phases(shards)
        return
    bare = (
        "import tensorflow; from benchmarks.start_memory import print_phase;"
        "print_phase('`import tensorflow` alone')"
    )
    with tempfile.TemporaryDirectory() as name:
        prepared = prepare_images(Path(name), project_parameters(SETTINGS))
        ((title, alone),) = _phases("-c", bare)
        found = list(_phases("-m", "benchmarks.start_memory", "--shards", prepared))
    imported = found[1][1][0]

    def rows() -> Iterator[tuple[str, ...]]:
        yield title, *(f"{size:.0f}" for size in alone), ""
        for phase, sizes in found:
            above = f"{sizes[0] - imported:+.0f}" if sizes[0] >= imported else ""
            yield phase, *(f"{size:.0f}" for size in sizes), above

    head = ["after", "peak, MiB", "resident, of no file", "of files", "above the import"]
    print_table(head, rows())


if __name__ == "__main__":
    main()
