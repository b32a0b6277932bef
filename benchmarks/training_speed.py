"""How fast the VAE trains and in how much memory, beside PyTorch, Keras' `fit` and the machine.

All ratios are of one run on one machine: the candidates take turns. Ours reads its batches from
shards; PyTorch and the matrix product have theirs in memory. The images are those of CelebA's
folder FACEVAE_CELEBA, or drawn faces where it is not set.
"""

import argparse
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import training_steps
from benchmarks.harness import (
    PEERS,
    PROJECT,
    Candidate,
    prepare_images,
    print_table,
    project_parameters,
    ratio,
    serve,
    spread,
    stage,
    take_turns,
    write_parameters,
)
from facevae.common.machine import instruction_sets, processor_name
from facevae.common.runtime import load_tensorflow

BATCH = 128
SMALL_BATCH = 32
MEMORY_STEPS = 80  # of batches of 128, three epochs: each holds images of its own to shuffle
ROUNDS = 15
EPOCH = 3180  # training images of the sample
EPOCH_ROUNDS = 11
BATCH_SIZES = (64, 128, 256, 512)
MATRIX = 4096

# What the peers train: the default networks with the sum of squares. Here as images and networks.
SETTINGS: dict[str, Any] = {
    "synthesize.images": EPOCH * 5 // 4,
    "data.resize": "lanczos",
    "data.limit.train": EPOCH,
    "data.limit.validation": 128,
    "data.limit.test": 128,
    "decoder.resize_layers": 0,  # as in the peers' networks
    "loss.reconstruction": "mse",
    "train.batch_size": BATCH,
}

# With glibc's defaults, a float32 step of PyTorch with batches of 128 takes 95,000 pages from the
# system and gives them back. TensorFlow's allocator keeps what it has; so does glibc's with these.
_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**33)}
PYTORCH: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    f"PyTorch, {name}{kept}": (flags, variables)
    for name, flags in {
        "channels_last": ("--channels-last",),
        "compiled, channels_last": ("--channels-last", "--compile"),
        "bfloat16, channels_last": ("--channels-last", "--bfloat16"),
    }.items()
    for kept, variables in {"": {}, ", memory kept": _KEPT}.items()
}
KERAS = "Keras, textbook fit"
PRODUCT = "matrix product, float32"
OURS = "ours, float32"


def ours(
    shards: Path, *, deterministic: bool = True, one_batch: bool = False, **changes: Any
) -> Candidate:
    """This project's training step with changes to `SETTINGS`, by names of the section train."""
    named = {f"train.{key}": value for key, value in changes.items()}
    parameters = project_parameters({**SETTINGS, **named})
    return training_steps.start(
        parameters, shards, deterministic=deterministic, one_batch=one_batch
    )


def pytorch(name: str, batch_size: int) -> Candidate:
    """A way of running PyTorch."""
    flags, variables = PYTORCH[name]
    return Candidate(
        "benchmarks.peers.torch_training", "--batch-size", batch_size, *flags,
        images=batch_size, python=PEERS, variables=variables,
    )  # fmt: skip


def serve_matrix_product() -> None:
    """Products of two square float32 matrices, by TensorFlow."""
    load_tensorflow()
    import tensorflow as tf

    left, right = (tf.random.normal((MATRIX, MATRIX)) for _ in range(2))
    product = tf.function(tf.matmul)

    def turn(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            product(left, right)[0, 0].numpy()
        return time.perf_counter() - start

    serve(turn)


def first_step(arguments: Sequence[str]) -> None:
    """Run the train stage and leave after its first step."""
    import facevae.training.loop

    training_step = facevae.training.loop.training_step

    def stopping(*built_from: Any) -> Any:
        step = training_step(*built_from)

        def first(*batch: Any) -> None:
            step(*batch).numpy()
            os._exit(0)

        return first

    facevae.training.loop.training_step = stopping  # type: ignore[assignment]
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(PROJECT / "stages" / "train.py"), run_name="__main__")


def peak_memory(candidate: Candidate, steps: int = 3) -> float:
    """Peak memory of a candidate's process, MiB, after so many steps."""
    candidate.turn(steps)
    return candidate.end()


def start_seconds(shards: Path, folder: Path, rounds: int = 5) -> tuple[float, float]:
    """Medians of: process start to the end of the first training step; to TensorFlow imported."""
    parameters = folder / "params.yaml"
    variant = write_parameters(project_parameters({"train.batch_size": BATCH}), parameters)
    _, _, *arguments = stage(
        "train", "--params", parameters, "--variant", variant, "--shards", shards,
        "--model", folder / "model.keras", "--history", folder / "history.csv",
    )  # fmt: skip
    commands = (
        ["-m", "benchmarks.training_speed", "first-step", "--", *arguments],
        ["-c", "import tensorflow"],
    )
    # The stages import what they share from their own folder.
    paths = [str(PROJECT / "stages"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for command, times in zip(commands, seconds, strict=True):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *command],
                check=True,
                cwd=PROJECT,
                env=environment,
                stderr=subprocess.DEVNULL,
            )
            times.append(time.perf_counter() - start)
    first, importing = map(statistics.median, seconds)
    return first, importing


def print_speed(shards: Path, folder: Path, rounds: int) -> None:
    """Print a table of the bars, and one of all candidates."""
    load_tensorflow()
    from benchmarks.arithmetic import step_flop

    vae, _ = training_steps.build_step(project_parameters(SETTINGS))
    float32, bfloat16 = OURS, "ours, bfloat16"
    unordered = "ours, float32, not deterministic"
    candidates = {
        float32: ours(shards),
        bfloat16: ours(shards, precision="bfloat16"),
        unordered: ours(shards, deterministic=False),
        **{name: pytorch(name, BATCH) for name in PYTORCH},
        KERAS: Candidate("benchmarks.peers.keras_fit", "--batch-size", BATCH, images=BATCH),
        PRODUCT: Candidate("benchmarks.training_speed", "matrix-product", images=1),
    }
    rates, peaks = take_turns(candidates, rounds)
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    theirs16, theirs32 = (
        max((name for name in PYTORCH if ("bfloat16" in name) == is16), key=medians.__getitem__)
        for is16 in (True, False)
    )

    def speed(what: str, name: str, peer: str, bar: str = "") -> tuple[str, ...]:
        measured = f"{medians[name]:.0f} and {medians[peer]:.0f} images/s"
        return what, measured, spread(ratio(rates[name], rates[peer])), bar

    def bars() -> Iterator[tuple[str, ...]]:
        yield speed(f"float32 over {theirs32}", float32, theirs32, ">= 1.5")
        yield speed(f"bfloat16 over {theirs16}", bfloat16, theirs16, ">= 1.5")
        yield speed("float32 over Keras' textbook `fit`", float32, KERAS, ">= 1.6")
        flop = step_flop(vae.encoder, vae.decoder)
        arithmetic = [rate * flop / 1e9 for rate in rates[float32]]
        machine = [rate * 2 * MATRIX**3 / 1e9 for rate in rates[PRODUCT]]
        middle = [statistics.median(each) for each in (arithmetic, machine)]
        both = f"{middle[0]:.0f} and {middle[1]:.0f} GFLOP/s"
        over = spread(ratio(arithmetic, machine))
        yield "float32 arithmetic over the matrix product", both, over, ""
        leanest = "PyTorch, channels_last"  # compiling takes memory of its own
        most, least = peaks[float32], peaks[leanest]
        both = f"{most:.0f} and {least:.0f} MiB"
        yield f"peak memory over {leanest}", both, f"{most / least:.2f}", ""
        theirs = least - peak_memory(pytorch(leanest, 1))
        for what, one_batch, bar in (("", False, "<= 1.4"), (", one batch in memory", True, "")):
            sizes = [
                peak_memory(ours(shards, one_batch=one_batch, batch_size=size), MEMORY_STEPS)
                for size in (1, BATCH)
            ]
            both = f"{sizes[1]:.0f} over {sizes[0]:.0f} and {least:.0f} over {least - theirs:.0f}"
            grown = f"{(sizes[1] - sizes[0]) / theirs:.2f}"
            yield f"growth from batch 1{what}", f"{both} MiB", grown, bar
        first, importing = start_seconds(shards, folder)
        both, gap = f"{first:.1f} and {importing:.1f} s", f"{first - importing:.1f} s"
        yield "first step after `import tensorflow`", both, gap, "<= 3 s"
        yield speed("float32 deterministic over not", float32, unordered)
        yield speed("bfloat16 over float32", bfloat16, float32)

    print_table(["what", "measured", "ratio (quartiles)", "bar"], bars())
    ones = [1.0] * rounds
    print_table(
        ["candidate", "images/s (quartiles)", "peak memory, MiB"],
        (
            (name, spread(ratio(rates[name], ones), ".0f"), f"{peaks[name]:.0f}")
            for name in rates
            if name != PRODUCT
        ),
    )


def print_small_batches(shards: Path, rounds: int) -> None:
    """Print the speed beside that of PyTorch in float32, with batches of 32."""
    peers = [name for name in PYTORCH if "bfloat16" not in name]
    rates, _ = take_turns(
        {
            OURS: ours(shards, batch_size=SMALL_BATCH),
            **{name: pytorch(name, SMALL_BATCH) for name in peers},
        },
        rounds,
    )
    best = max(peers, key=lambda name: statistics.median(rates[name]))

    def rows() -> Iterator[tuple[str, ...]]:
        for name, of_rounds in rates.items():
            speed = spread(ratio(of_rounds, [1.0] * rounds), ".0f")
            over = spread(ratio(rates[OURS], of_rounds))
            yield name, speed, over, ">= 1.3" if name == best else ""

    print_table(
        [f"batch {SMALL_BATCH}", "images/s (quartiles)", "ours over it (quartiles)", "bar"], rows()
    )


def print_epochs(shards: Path, rounds: int) -> None:
    """Print seconds per epoch of 3,180 images, both variants at several batch sizes.

    All take turns, as whole epochs one after the other would measure the machine's drift.
    """
    variants = ("direct", "inter_dense")
    rates, _ = take_turns(
        {
            f"{variant} {size}": training_steps.start(
                project_parameters({**SETTINGS, "train.batch_size": size}).variant(variant), shards
            )
            for variant in variants
            for size in BATCH_SIZES
        },
        rounds,
    )
    seconds = {name: [EPOCH / rate for rate in each] for name, each in rates.items()}
    ones = [1.0] * rounds

    def rows() -> Iterator[list[str]]:
        for size in BATCH_SIZES:
            direct, layer = (seconds[f"{variant} {size}"] for variant in variants)
            cells = [spread(ratio(times, ones), ".1f") for times in (direct, layer)]
            cells.append(spread(ratio(layer, direct)))
            for variant, times in zip(variants, (direct, layer), strict=True):
                usual = seconds[f"{variant} {BATCH}"]
                cells.append("1" if size == BATCH else spread(ratio(times, usual)))
            yield [str(size), *cells]

    head = [
        "batch size",
        *(f"{variant}, s per epoch" for variant in variants),
        "inter_dense over direct",
        *(f"{variant} over its batch {BATCH}" for variant in variants),
    ]
    print_table(head, rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="at least 2")
    # Without a command both tables; the commands are what this module starts itself for.
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("matrix-product")
    commands.add_parser("first-step").add_argument("arguments", nargs="*")
    options = parser.parse_args()
    if options.command == "matrix-product":
        serve_matrix_product()
        return
    if options.command == "first-step":
        first_step(options.arguments)
        return
    if not PEERS.exists():
        raise SystemExit(f"{PEERS}: is not there; install the peers first: make bench-train")
    print(f"{processor_name()} ({' '.join(instruction_sets())})\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        shards = prepare_images(Path(name), project_parameters(SETTINGS))
        print_speed(shards, Path(name), options.rounds or ROUNDS)
        print_small_batches(shards, options.rounds or ROUNDS)
        print_epochs(shards, options.rounds or EPOCH_ROUNDS)


if __name__ == "__main__":
    main()
