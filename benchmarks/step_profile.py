"""Where the time of a training step goes: operations, oneDNN's implementations and page faults.

The default networks with the extra Dense layer, on a batch that stays in memory. Each measurement
is a process of its own, because a profiler slows what it looks at: page faults and the time of a
step without one, TensorFlow's operations by its profiler, oneDNN's primitives by ONEDNN_VERBOSE.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.harness import PROJECT, print_table, project_parameters
from benchmarks.training_steps import build_step
from facevae.common.machine import instruction_sets, processor_name
from facevae.common.runtime import enable_determinism, load_tensorflow

BATCH_SIZES = (32, 128)
STEPS = 20
LEAST = 0.005  # share of all operations below which one is not listed

# An event of an operation: a path of scopes, a colon and the operation's kind.
_OPERATION = re.compile(r"^[^:]+:(\w+)$")
# A line of ONEDNN_VERBOSE: ..., primitive, implementation, direction, ..., milliseconds.
_EXECUTED = re.compile(r"^onednn_verbose,.*?exec,cpu,([^,]*),([^,]*),([^,]*),.*,([\d.]+)$")


def build_turn(batch_size: int) -> Callable[[], None]:
    """A function that takes a training step, which is compiled and warm."""
    load_tensorflow()
    import tensorflow as tf

    enable_determinism(1)
    parameters = project_parameters({"train.batch_size": batch_size})
    vae, step = build_step(parameters)
    size = parameters.data.image_size
    batch = {
        "images": tf.random.uniform((batch_size, size, size, 3)),
        "epsilon": tf.random.normal((batch_size, vae.latent_size)),
    }
    weight = tf.constant(vae.kl_weight, tf.float32)

    def turn() -> None:
        step(batch, weight).numpy()

    for _ in range(3):
        turn()
    return turn


def measure_steps(batch_size: int, steps: int) -> None:
    """Print the milliseconds and the page faults of each step, medians."""
    turn = build_turn(batch_size)
    seconds, faults = [], []
    for _ in range(steps):
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        turn()
        seconds.append(time.perf_counter() - began)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    middle = steps // 2
    print("step", 1e3 * sorted(seconds)[middle], sorted(faults)[middle])


def measure_operations(batch_size: int, steps: int) -> None:
    """Print each operation of TensorFlow's executor: its name, runs and milliseconds of all steps.

    An operation's time is that of the thread that called it, also while others help it.
    """
    turn = build_turn(batch_size)
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(steps):
            turn()
        tf.profiler.experimental.stop()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            if not line.name.startswith("tf_Compute"):
                continue  # threads that help, and Python's
            for event in line.events:
                operation = _OPERATION.match(plane.event_metadata[event.metadata_id].name)
                if operation:
                    print("operation", operation[1], event.duration_ps / 1e9)


def measure_primitives(batch_size: int, steps: int) -> None:
    """Print a mark, and then take steps of which oneDNN prints each primitive."""
    turn = build_turn(batch_size)
    print("begin", flush=True)
    for _ in range(steps):
        turn()


_MEASURES: dict[str, Callable[[int, int], None]] = {
    "steps": measure_steps,
    "operations": measure_operations,
    "primitives": measure_primitives,
}


def _lines(measure: str, batch_size: int, steps: int, **variables: str) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.step_profile", "--measure", measure,
               "--batch-size", str(batch_size), "--steps", str(steps)]  # fmt: skip
    return subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **variables}, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ).stdout.splitlines()  # fmt: skip


Times = list[tuple[tuple[str, ...], float]]  # of each run: what has run, and its milliseconds


def _operations(lines: Iterable[str]) -> Times:
    words = (line.split() for line in lines)
    return [((name,), float(each)) for mark, name, each in words if mark == "operation"]


def _primitives(lines: list[str]) -> Times:
    """What `measure_primitives` has written: primitive with its direction, and implementation."""
    found = (_EXECUTED.match(line) for line in lines[lines.index("begin") :])
    return [
        ((f"{each[1]} {each[3]}".removesuffix(" undef"), each[2] or "gemm"), float(each[4]))
        for each in found
        if each
    ]


def shares(times: Times, steps: int) -> Iterator[tuple[str, ...]]:
    """Rows of a table: what has run, runs and milliseconds per step, and the share of all."""
    total: dict[tuple[str, ...], float] = defaultdict(float)
    runs: dict[tuple[str, ...], int] = defaultdict(int)
    for name, milliseconds in times:
        total[name] += milliseconds
        runs[name] += 1
    whole = sum(total.values())
    for name, milliseconds in sorted(total.items(), key=lambda each: -each[1]):
        if milliseconds >= LEAST * whole:
            yield (*name, f"{runs[name] / steps:.0f}", f"{milliseconds / steps:.2f}",
                   f"{milliseconds / whole:.0%}")  # fmt: skip


def print_profile(batch_size: int, steps: int) -> None:
    """Print what a step of a batch size consists of."""
    (words,) = [
        line.split()[1:]
        for line in _lines("steps", batch_size, steps)
        if line.startswith("step ")
    ]  # fmt: skip
    print(f"Batch {batch_size}: {float(words[0]):.1f} ms and {words[1]} page faults a step\n")
    columns = ("runs", "ms", "share")
    operations = _operations(_lines("operations", batch_size, steps))
    print_table(("operation", *columns), shares(operations, steps))
    executed = _primitives(_lines("primitives", batch_size, steps, ONEDNN_VERBOSE="1"))
    head = ("oneDNN's primitive", "implementation", *columns)
    print_table(head, shares(executed, steps), text=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--measure", choices=tuple(_MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help="only this one")
    options = parser.parse_args()
    if options.measure:
        _MEASURES[options.measure](options.batch_size, options.steps)
        return
    print(f"{processor_name()} ({' '.join(instruction_sets())})\n", flush=True)
    for batch_size in [options.batch_size] if options.batch_size else BATCH_SIZES:
        print_profile(batch_size, options.steps)


if __name__ == "__main__":
    main()
