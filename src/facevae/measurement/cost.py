"""What training costs on this machine: time and memory, measured on real training steps."""

import contextlib
import itertools
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from facevae.model.vae import VAE
from facevae.shards.batches import Shards, steps_per_epoch, training_batches
from facevae.training.optimizers import build_optimizer
from facevae.training.step import training_step

_WARM_UP_STEPS = 3  # the first compiles, the others find batches already waiting
_TIMED_STEPS = 12


def device_name() -> str:
    """The first GPU's name, or the processor's and how many cores there are."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"GPU {details.get('device_name', 'of unknown name')}"
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"CPU {model}, {os.cpu_count()} cores"


def peak_memory_mib() -> float:
    """The largest memory use so far, MiB: of the GPU's allocator, or else of this process."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _endless_batches(vae: VAE, shards: Shards, batch_size: int) -> Iterator[Any]:
    for epoch in itertools.count():
        yield from training_batches(
            shards, batch_size=batch_size, latent_size=vae.latent_size, seed=0, epoch=epoch
        )


def _step_times(
    vae: VAE, shards: Shards, batch_size: int, *, optimizer: str, **settings: Any
) -> list[float]:
    step = training_step(vae, build_optimizer(optimizer, 1e-6, vae.precision), **settings)
    kl_weight = tf.constant(vae.kl_weight, tf.float32)
    batches = _endless_batches(vae, shards, batch_size)
    seconds = []
    for _ in range(_WARM_UP_STEPS + _TIMED_STEPS):
        start = time.perf_counter()
        step(next(batches), kl_weight).numpy()
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP_STEPS:]


def measure_training(
    vae: VAE, shards: Shards, batch_size: int, *, optimizer: str = "adam", **settings: Any
) -> dict[str, Any]:
    """Time a few training steps, input pipeline included, at the batch size and at twice it.

    Call it first in a fresh process: the peak memory is that of all that ran before, too. It
    changes the weights of `vae`.

    Args:
        optimizer: name of one of `facevae.training.optimizers.build_optimizer`.
        settings: others of `facevae.training.step.training_step`.

    Returns:
        device; batch_size; images_per_second (at the median step) with its lower and upper
        quartile over the steps; seconds_per_epoch (the median step times the steps of an epoch);
        peak_memory_mib, at that batch size; and images_per_second_double_batch, None if the train
        split is smaller than that or the device's memory too small.
    """
    seconds = _step_times(vae, shards, batch_size, optimizer=optimizer, **settings)
    fast, median, slow = statistics.quantiles(seconds, n=4)
    cost = {
        "device": device_name(),
        "batch_size": batch_size,
        "images_per_second": round(batch_size / median, 1),
        "images_per_second_lower_quartile": round(batch_size / slow, 1),
        "images_per_second_upper_quartile": round(batch_size / fast, 1),
        "seconds_per_epoch": round(median * steps_per_epoch(shards, batch_size), 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "images_per_second_double_batch": None,
    }
    if shards.counts["train"] >= 2 * batch_size:
        # A GPU that holds the one may be too small for the other.
        with contextlib.suppress(tf.errors.ResourceExhaustedError):
            seconds = _step_times(vae, shards, 2 * batch_size, optimizer=optimizer, **settings)
            rate = 2 * batch_size / statistics.median(seconds)
            cost["images_per_second_double_batch"] = round(rate, 1)
    return cost
