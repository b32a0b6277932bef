"""How fast images are prepared and read, and in how much memory, beside what the machine could do.

All ratios are of one run on one machine. The JPEGs are those of CelebA's folder FACEVAE_CELEBA, or
drawn faces where it is not set, repeated to the requested number.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.harness import (
    FACES,
    MIB,
    image_source,
    print_table,
    project_parameters,
    stage,
    write_parameters,
)
from benchmarks.training_steps import build_step, endless_batches
from facevae.common.limits import worker_processes
from facevae.common.runtime import load_tensorflow
from facevae.data.celeba import ARCHIVE, ATTRIBUTES, FOLDER, PARTITION, find_copy
from facevae.data.images import ImageReader, list_images
from facevae.data.preparation import ShardTask, square_image, write_shard
from facevae.shards.records import encode_example, frame_record, read_manifest

SETTINGS = project_parameters({}).data
FULL = 202_599
PART = 20_000
ROUNDS = 3
_WHOLE = "the whole of a shard"
BATCH = 128
LATENT = 256


def source_jpegs(folder: Path) -> list[bytes]:
    """Up to 4,170 real or drawn JPEGs."""
    source = image_source(folder, 2000)
    store = find_copy(source).images
    with ImageReader(store) as reader:
        return [reader.read(row) for row in list_images(store)[:4170].tolist()]


def write_source(folder: Path, jpegs: list[bytes], count: int) -> Path:
    """A folder in CelebA's layout of so many images, in the official proportions."""
    folder.mkdir()
    with (
        zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        open(folder / PARTITION, "w") as partition,
        open(folder / ATTRIBUTES, "w") as attributes,
    ):
        attributes.write(f"{count}\n{' '.join(f'Attribute_{k}' for k in range(40))}\n")
        for number in range(1, count + 1):
            name = f"{number:06d}.jpg"
            archive.writestr(f"{FOLDER}/{name}", jpegs[number % len(jpegs)])
            split = 0 if number <= 0.8034 * count else 1 if number <= 0.9015 * count else 2
            partition.write(f"{name} {split}\n")
            attributes.write(f"{name}{' -1  1' * 20}\n")
    return folder


def _bare(jpegs: list[bytes], count: int, barrier: Any, times: Any) -> None:
    barrier.wait()
    start = time.perf_counter()
    for jpeg in itertools.islice(itertools.cycle(jpegs), count):
        square_image(jpeg, SETTINGS)
    times.put(time.perf_counter() - start)


def bare_rate(jpegs: list[bytes], count: int) -> float:
    """Images/s of decode, crop and resize over JPEGs in memory, one process per core."""
    context = multiprocessing.get_context("spawn")
    cores = worker_processes()
    barrier, times = context.Barrier(cores), context.Queue()
    each = count // cores
    processes = [
        context.Process(target=_bare, args=(jpegs, each, barrier, times)) for _ in range(cores)
    ]
    for process in processes:
        process.start()
    slowest = max(times.get() for _ in processes)
    for process in processes:
        process.join()
    return each * cores / slowest


def run_prepare(source: Path, target: Path, record_format: str = "raw") -> tuple[float, float]:
    """Run the stage as a process of its own: images/s from start to end, and peak MiB.

    The memory is that of all its processes, with pages that they share counted once.
    """
    changes = {"data.source": str(source), "data.record_format": record_format}
    parameters = target.with_suffix(".yaml")
    write_parameters(project_parameters(changes), parameters)
    command = stage(
        "prepare", "--params", parameters, "--shards", target,
        "--metrics", target.with_suffix(".json"),
    )  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = [0.0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], _memory_mib(process.pid))
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise SystemExit("prepare failed")
    seconds = time.perf_counter() - start
    watcher.join()
    manifest = read_manifest(target)
    return sum(split["images"] for split in manifest["splits"].values()) / seconds, peak[0]


def _memory_mib(pid: int) -> float:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:  # one has just ended
        return 0
    return total / MIB


def tf_data_rate(jpegs: list[bytes], folder: Path, count: int) -> float:
    """Images/s of the same records through tf.data from files, TensorFlow's import not counted."""
    import tensorflow as tf

    files = folder / "files"
    files.mkdir()
    for number in range(count):
        (files / f"{number:06d}.jpg").write_bytes(jpegs[number % len(jpegs)])
    paths = sorted(map(str, files.iterdir()))
    crop = int(SETTINGS.crop)

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        image = tf.image.crop_to_bounding_box(image, 35, 15, crop, crop)
        size = (SETTINGS.image_size, SETTINGS.image_size)
        image = tf.image.resize(image, size, method="bilinear", antialias=True)
        image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return tf.strings.split(path, os.sep)[-1], image

    start = time.perf_counter()
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    with tf.io.TFRecordWriter(str(folder / "tf_data.tfrecord")) as writer:
        for name, image in dataset.as_numpy_iterator():
            features = {"image": image.tobytes(), "name": name}
            example = tf.train.Example()
            for key, value in features.items():
                example.features.feature[key].bytes_list.value.append(value)
            writer.write(example.SerializeToString())
    return count / (time.perf_counter() - start)


def reading_rate(shards: Path, batches: int = 300) -> float:
    """Images/s of shuffled training batches, from the first one on."""
    endless = endless_batches(shards, BATCH, LATENT)
    next(endless)
    start = time.perf_counter()
    for _ in itertools.islice(endless, batches):
        pass
    return BATCH * batches / (time.perf_counter() - start)


def reading_cost(shards: Path, rounds: int = 7, steps: int = 8) -> float:
    """Time of training steps fed from shards over that of steps on one batch in memory."""
    import tensorflow as tf

    changes = {"train.batch_size": BATCH, "encoder.latent_size": LATENT}
    _, step = build_step(project_parameters(changes))
    batches = endless_batches(shards, BATCH, LATENT)
    held = next(batches)
    weight = tf.constant(1.0)

    def seconds(source: Iterator[Any]) -> float:
        start = time.perf_counter()
        for batch in itertools.islice(source, steps):
            step(batch, weight).numpy()
        return time.perf_counter() - start

    seconds(batches), seconds(itertools.repeat(held))  # compiles; fills the buffers
    ratios = []
    for _ in range(rounds):
        before = seconds(itertools.repeat(held))
        between = seconds(batches)
        ratios.append(between / statistics.mean((before, seconds(itertools.repeat(held)))))
    return statistics.median(ratios)


def fidelity(jpegs: list[bytes], record_format: str) -> float:
    """PSNR of stored against raw pixels, dB, over 200 images."""
    errors = []
    for jpeg in jpegs[:200]:
        image = square_image(jpeg, SETTINGS)
        file = io.BytesIO()
        image.save(file, record_format, quality=95)
        difference = np.asarray(Image.open(file), float) - np.asarray(image, float)
        errors.append(np.square(difference).mean())
    mean = float(np.mean(errors))
    return 10 * float(np.log10(255**2 / mean)) if mean else float("inf")


def bars(folder: Path, jpegs: list[bytes], count: int, part: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table of what is measured and its bar; the prepared shards stay in the folder."""
    small = write_source(folder / "part", jpegs, part)
    large = write_source(folder / "full", jpegs, count)
    bare = [bare_rate(jpegs, part)]

    def over_bare(rate: float) -> float:
        """A rate just measured, over the bare loops before and after it: the machine drifts."""
        bare.append(bare_rate(jpegs, part))
        return rate / statistics.mean(bare[-2:])

    rates: dict[str, list[float]] = {"part": [], "full": []}
    over: dict[str, list[float]] = {"part": [], "full": []}
    memory = {"part": 0.0, "full": 0.0}
    for _ in range(ROUNDS):
        for name, source in (("part", small), ("full", large)):
            rate, peak = run_prepare(source, folder / f"{name}_raw")
            rates[name].append(rate)
            over[name].append(over_bare(rate))
            memory[name] = max(memory[name], peak)
    theirs = tf_data_rate(jpegs, folder, part // 2)
    part_rate, rate = (statistics.median(each) for each in rates.values())
    part_over, full_over = (statistics.median(each) for each in over.values())
    both = f"{rate:,.0f} and {statistics.median(bare):,.0f} images/s"
    extremes = f"{full_over:.2f} ({min(over['full']):.2f} to {max(over['full']):.2f})"
    yield "prepare over the bare loop", both, extremes, ">= 0.85"
    relative = f"{full_over / over_bare(theirs):.2f}"
    yield "prepare over tf.data", f"{theirs:,.0f} images/s", relative, ">= 3"
    yield f"peak memory at {count:,} images", f"{memory['full']:.0f} MiB", "", "<= 1024"
    share = f"{memory['full'] / memory['part']:.2f}"
    yield f"the same over that at {part:,}", f"{memory['part']:.0f} MiB", share, "<= 1"
    both = f"{1e3 / rate:.3f} and {1e3 / part_rate:.3f} ms"
    slower = f"{part_over / full_over:.2f}"
    yield f"time per image at {count:,} over {part:,}", both, slower, "<= 1.10"
    reading = f"{reading_rate(folder / 'full_raw'):,.0f} images/s"
    yield f"shuffled batches of {BATCH} from shards", reading, "", ">= 15,000"
    cost = f"{reading_cost(folder / 'full_raw'):.3f}"
    yield "a training step from shards over one in memory", "", cost, "<= 1.02"


def parts_of_an_image(folder: Path, jpegs: list[bytes]) -> Iterator[tuple[str, str]]:
    """Rows of the table of where `prepare` spends the time of an image, in one process."""
    source, count = folder / "part", 2000
    store = find_copy(source).images
    rows = list_images(store)[:count]
    settings = SETTINGS.model_copy(update={"source": str(source)})
    task = ShardTask(settings, str(store), str(folder / "a_shard"), rows)
    images = [square_image(jpeg, settings) for jpeg in jpegs[:count]]

    def read() -> None:
        with ImageReader(store) as reader:
            for row in rows.tolist():
                reader.read(row)

    def convert() -> None:
        for jpeg in itertools.islice(itertools.cycle(jpegs), count):
            square_image(jpeg, settings)

    def frame() -> None:
        for image in itertools.islice(itertools.cycle(images), count):
            frame_record(encode_example({"image": image.tobytes(), "name": b"000001.jpg"}))

    parts = {
        "reading from the archive, inflated and checked": read,
        "decode, crop and resize": convert,
        "record and its checksums": frame,
        _WHOLE: lambda: write_shard(task),
    }
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(2 * ROUNDS):
        for name, work in parts.items():
            start = time.perf_counter()
            work()
            times[name].append(1e6 * (time.perf_counter() - start) / count)
    medians = {name: statistics.median(each) for name, each in times.items()}
    whole = medians.pop(_WHOLE)
    rest = whole - sum(medians.values())
    medians |= {"writing, and what the parts cost each other": rest, _WHOLE: whole}
    for name, median in medians.items():
        yield name, f"{median:.0f}"


def formats(folder: Path, jpegs: list[bytes], part: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table of record formats, all prepared from the small archive of `bars`."""
    for record_format in ("raw", "png", "jpeg"):
        target = folder / f"part_{record_format}_again"
        rate, _ = run_prepare(folder / "part", target, record_format)
        splits = read_manifest(target)["splits"].values()
        stored = sum(shard["bytes"] for split in splits for shard in split["shards"])
        psnr = float("inf") if record_format == "raw" else fidelity(jpegs, record_format)
        reading = f"{reading_rate(target):,.0f}"
        yield record_format, f"{stored / part / 1000:.1f}", f"{rate:,.0f}", reading, f"{psnr:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=FULL, help="of the large archive")
    parser.add_argument("--part", type=int, default=PART, help="images of the small archive")
    options = parser.parse_args()
    load_tensorflow()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpegs = source_jpegs(folder)
        kind = "real" if os.environ.get(FACES) else "drawn"
        size = statistics.mean(map(len, jpegs)) / 1000
        print(
            f"{worker_processes()} cores; {len(jpegs):,} {kind} JPEGs of {size:.1f} kB, repeated\n"
        )
        print_table(
            ["what", "measured", "ratio", "bar"],
            bars(folder, jpegs, options.images, options.part),
        )
        print_table(
            ["part of an image, one process", "microseconds"], parts_of_an_image(folder, jpegs)
        )
        print_table(
            ["record format", "kB an image", "prepare, images/s", "reading, images/s", "PSNR, dB"],
            formats(folder, jpegs, options.part),
        )


if __name__ == "__main__":
    main()
