"""How fast the VAE trains and in how much memory, beside PyTorch, Keras' `fit` and the machine.

All ratios are of one run on one machine: the candidates take turns (see `worker.py`). Ours reads
its batches from shards; PyTorch and the matrix product have theirs in memory. The images are those
of CelebA's folder FACEVAE_CELEBA, or drawn faces where it is not set.
"""

import argparse
import itertools
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from facevae.common.runtime import load_tensorflow
from worker import Candidate, ratio, serve, take_turns

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PEERS = PROJECT / ".venv-peers" / "bin" / "python"

BATCH = 128
INTER_DENSE = 256
ROUNDS = 7
EPOCH = 3180  # training images of the sample
EPOCH_ROUNDS = 11
BATCH_SIZES = (64, 128, 256, 512)
MFLOP = 448  # of one image in one step
MATRIX = 4096


def drawn_or_real(folder: Path) -> Path:
    """FACEVAE_CELEBA, or drawn faces, 3,180 of them for training."""
    from facevae.data.synthetic import synthesize

    source = Path(os.environ.get("FACEVAE_CELEBA") or folder / "drawn")
    if not source.exists():
        synthesize(source, images=EPOCH * 5 // 4, seed=1)
    return source


def prepared(folder: Path) -> Path:
    """Shards of 96x96 images, 3,180 of them for training."""
    from facevae.data.preparation import ImageSettings, prepare

    source = drawn_or_real(folder)
    limits = {"train": EPOCH, "validation": 128, "test": 128}
    shards = folder / "shards"
    prepare(source, shards, ImageSettings(148, "lanczos", 96), limits=limits, images_per_shard=2048)
    return shards


def serve_training(step: Callable, vae: Any, folder: Path, batch_size: int) -> None:
    """Take training steps, fed from a folder of shards."""
    import tensorflow as tf

    from facevae.shards.batches import Shards, training_batches

    shards = Shards(folder)

    def batches() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from training_batches(
                shards, batch_size=batch_size, latent_size=vae.latent_size, seed=1, epoch=epoch
            )

    endless, weight = batches(), tf.constant(vae.kl_weight, tf.float32)

    def turn(steps: int) -> float:
        start = time.perf_counter()
        for batch in itertools.islice(endless, steps):
            step(batch, weight).numpy()
        return time.perf_counter() - start

    serve(turn)


def serve_ours(options: argparse.Namespace) -> None:
    """The steps that the train stage takes."""
    load_tensorflow()

    from facevae.common.runtime import enable_determinism
    from facevae.model.vae import VAE
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    if options.repeatable:
        enable_determinism(1)
    vae = VAE(image_size=96, inter_dense=options.inter_dense, precision=options.precision)
    step = training_step(vae, build_optimizer("adam", 1e-3, options.precision))
    serve_training(step, vae, options.shards, options.batch_size)


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


def first_step(arguments: list[str]) -> None:
    """Run the train stage and leave after its first step."""
    import facevae.training.loop

    training_step = facevae.training.loop.training_step

    def stopping(*built_from: Any, **settings: Any) -> Any:
        step = training_step(*built_from, **settings)

        def first(*batch: Any) -> None:
            step(*batch).numpy()
            os._exit(0)

        return first

    facevae.training.loop.training_step = stopping
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(PROJECT / "stages" / "train.py"), run_name="__main__")


def ours(shards: Path, batch_size: int, *flags: str, inter_dense: int = INTER_DENSE) -> Candidate:
    """This project's training step, as the train stage takes it if told to be repeatable."""
    command = [
        sys.executable, __file__, "ours", "--shards", shards, "--batch-size", batch_size,
        "--inter-dense", inter_dense, *flags,
    ]  # fmt: skip
    return Candidate(command, batch_size)


PYTORCH = {
    "PyTorch, eager": [],
    "PyTorch, channels_last": ["--channels-last"],
    "PyTorch, compiled": ["--compile"],
    "PyTorch, compiled, channels_last": ["--channels-last", "--compile"],
    "PyTorch, bfloat16, channels_last": ["--channels-last", "--bfloat16"],
}


def pytorch(name: str, batch_size: int) -> Candidate:
    """A way of running PyTorch."""
    command = [PEERS, HERE / "torch_peer.py", "--batch-size", batch_size, *PYTORCH[name]]
    return Candidate(command, batch_size)


def peers() -> dict[str, Candidate]:
    """The other programs, by the names that the tables give them."""
    return {
        **{name: pytorch(name, BATCH) for name in PYTORCH},
        "Keras, textbook fit": Candidate(
            [sys.executable, HERE / "keras_peer.py", "--batch-size", BATCH], BATCH
        ),
    }


def floor(candidate: Candidate) -> float:
    """Peak memory of a candidate's process, MiB, after a few steps."""
    candidate.turn(3)
    return candidate.end()


def start_seconds(shards: Path, folder: Path, rounds: int = 5) -> tuple[float, float]:
    """Medians of: process start to the end of the first training step; to TensorFlow imported."""
    parameters = folder / "params.yaml"
    content = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    content["train"] |= {"batch_size": BATCH}
    parameters.write_text(yaml.safe_dump(content), encoding="utf-8")
    stage = [
        "--params", parameters, "--shards", shards, "--inter-dense", str(INTER_DENSE),
        "--model", folder / "model.keras", "--history", folder / "history.csv",
    ]  # fmt: skip
    commands: list[list[Any]] = [
        [sys.executable, __file__, "first-step", "--", *stage],
        [sys.executable, "-c", "import tensorflow"],
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for command, times in zip(commands, seconds, strict=True):
            start = time.perf_counter()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
    first_step, importing = map(statistics.median, seconds)
    return first_step, importing


def print_speed(shards: Path, folder: Path) -> None:
    """Table of the bars, and one of all candidates."""
    float32, bfloat16 = "ours, float32", "ours, bfloat16"
    unordered = "ours, float32, not repeatable"
    product = "matrix product, float32"
    candidates = {
        float32: ours(shards, BATCH, "--repeatable"),
        bfloat16: ours(shards, BATCH, "--repeatable", "--precision", "bfloat16"),
        unordered: ours(shards, BATCH),
        **peers(),
        product: Candidate([sys.executable, __file__, "matrix-product"], 1),
    }
    rates = take_turns(candidates, ROUNDS)
    peaks = {name: candidate.end() for name, candidate in candidates.items()}
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    theirs16 = "PyTorch, bfloat16, channels_last"
    theirs32 = max((name for name in PYTORCH if name != theirs16), key=medians.__getitem__)
    first_step, importing = start_seconds(shards, folder)

    def row(what: str, measured: str, numbers: tuple[float, float, float], bar: str) -> None:
        middle, low, high = numbers
        print(f"| {what} | {measured} | {middle:.2f} ({low:.2f} to {high:.2f}) | {bar} |")

    def speed(what: str, name: str, peer: str, bar: str) -> None:
        measured = f"{medians[name]:.0f} and {medians[peer]:.0f} images/s"
        row(what, measured, ratio(rates[name], rates[peer]), bar)

    print("| what | measured | ratio (quartiles) | bar |")
    print("| --- | ---: | ---: | ---: |")
    speed(f"float32 over {theirs32}", float32, theirs32, ">= 1.4")
    speed(f"bfloat16 over {theirs16}", bfloat16, theirs16, ">= 1.25")
    speed("float32 over Keras' textbook `fit`", float32, "Keras, textbook fit", ">= 1.5")
    arithmetic = [rate * MFLOP / 1e3 for rate in rates[float32]]
    machine = [rate * 2 * MATRIX**3 / 1e9 for rate in rates[product]]
    measured = f"{statistics.median(arithmetic):.0f} and {statistics.median(machine):.0f} GFLOP/s"
    row(
        "float32 arithmetic over the matrix product", measured, ratio(arithmetic, machine), ">= 0.6"
    )
    leanest = min(PYTORCH, key=peaks.__getitem__)
    measured = f"{peaks[float32]:.0f} and {peaks[leanest]:.0f} MiB"
    more = peaks[float32] / peaks[leanest]
    print(f"| peak memory over {leanest} | {measured} | {more:.2f} | <= 1 |")
    floors = (floor(ours(shards, 1, "--repeatable")), floor(pytorch(leanest, 1)))
    grown = (peaks[float32] - floors[0], peaks[leanest] - floors[1])
    measured = f"{grown[0]:.0f} over {floors[0]:.0f} and {grown[1]:.0f} over {floors[1]:.0f} MiB"
    print(f"| the same above that at batch 1 | {measured} | {grown[0] / grown[1]:.2f} |  |")
    measured = f"{first_step:.1f} and {importing:.1f} s"
    print(
        f"| first step after `import tensorflow` | {measured} | {first_step - importing:.1f} s "
        "| <= 3 s |"
    )
    speed("float32 repeatable over not", float32, unordered, "")
    speed("bfloat16 over float32", bfloat16, float32, "")
    print()
    print("| candidate | images/s (quartiles) | peak memory, MiB |")
    print("| --- | ---: | ---: |")
    for name in rates:
        if name != product:
            lower, median, upper = statistics.quantiles(rates[name], n=4)
            print(f"| {name} | {median:.0f} ({lower:.0f} to {upper:.0f}) | {peaks[name]:.0f} |")


def print_epochs(shards: Path) -> None:
    """Table of seconds per epoch of 3,180 images, both variants at several batch sizes.

    All take turns, as whole epochs one after the other would measure the machine's drift.
    """
    units = {"direct": 0, "inter_dense": INTER_DENSE}
    keys = list(itertools.product(units, BATCH_SIZES))
    rates = take_turns(
        {
            f"{variant} {size}": ours(shards, size, "--repeatable", inter_dense=units[variant])
            for variant, size in keys
        },
        EPOCH_ROUNDS,
    )

    def show(numbers: Sequence[float], form: str) -> str:
        middle, low, high = (form.format(number) for number in numbers)
        return f"{middle} ({low} to {high})"

    print(
        "| batch size | direct, s per epoch | inter_dense, s per epoch | inter_dense over direct "
        f"| direct over its batch {BATCH} | inter_dense over its batch {BATCH} |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in BATCH_SIZES:
        mine = {variant: [EPOCH / rate for rate in rates[f"{variant} {size}"]] for variant in units}
        cells = [show(ratio(times, [1.0] * len(times)), "{:.1f}") for times in mine.values()]
        cells.append(show(ratio(mine["inter_dense"], mine["direct"]), "{:.2f}"))
        for variant, times in mine.items():
            usual = [EPOCH / rate for rate in rates[f"{variant} {BATCH}"]]
            cells.append("1" if size == BATCH else show(ratio(times, usual), "{:.2f}"))
        print(f"| {size} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # Without a command both tables; the commands are what this file starts processes of itself for.
    commands = parser.add_subparsers(dest="command")
    candidate = commands.add_parser("ours")
    candidate.add_argument("--shards", type=Path, required=True)
    candidate.add_argument("--batch-size", type=int, required=True)
    candidate.add_argument("--inter-dense", type=int, required=True)
    candidate.add_argument("--precision", default="float32")
    candidate.add_argument("--repeatable", action="store_true")
    commands.add_parser("matrix-product")
    commands.add_parser("first-step").add_argument("stage", nargs="*")
    options = parser.parse_args()
    if options.command == "ours":
        serve_ours(options)
    elif options.command == "matrix-product":
        serve_matrix_product()
    elif options.command == "first-step":
        first_step(options.stage)
    else:
        with tempfile.TemporaryDirectory() as name:
            shards = prepared(Path(name))
            print_speed(shards, Path(name))
            print()
            print_epochs(shards)


if __name__ == "__main__":
    main()
