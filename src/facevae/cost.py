"""What training costs on this machine: time and memory, measured on real training steps."""

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

from facevae.datasets import Shards, steps_per_epoch, training_batches
from facevae.networks import VAE
from facevae.optimizers import FusedAdam
from facevae.training import training_step

_WARM_UP_STEPS = 1
_TIMED_STEPS = 5


def device_name() -> str:
    """The first GPU's name, or the processor's and how many cores this process may use."""
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


def _seconds_per_step(vae: VAE, shards: Shards, batch_size: int) -> float:
    step = training_step(vae, FusedAdam(1e-6))
    kl_weight = tf.constant(vae.kl_weight, tf.float32)
    batches = _endless_batches(vae, shards, batch_size)
    seconds = []
    for _ in range(_WARM_UP_STEPS + _TIMED_STEPS):
        start = time.perf_counter()
        step(next(batches), kl_weight).numpy()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[_WARM_UP_STEPS:])


def measure_training(vae: VAE, shards: Shards, batch_size: int) -> dict[str, Any]:
    """Time a few training steps, input pipeline included, at the batch size and at twice it.

    Call it first in a fresh process: the peak memory is that of all that ran before, too. It
    changes the weights of `vae`.

    Returns:
        device; batch_size; images_per_second and seconds_per_epoch (median step times the steps
        of an epoch); peak_memory_mib at that batch size, as `peak_memory_mib`; and
        images_per_second_double_batch, None if the train split is smaller than that.
    """
    seconds = _seconds_per_step(vae, shards, batch_size)
    cost = {
        "device": device_name(),
        "batch_size": batch_size,
        "images_per_second": round(batch_size / seconds, 1),
        "seconds_per_epoch": round(seconds * steps_per_epoch(shards, batch_size), 3),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "images_per_second_double_batch": None,
    }
    if steps_per_epoch(shards, 2 * batch_size):
        seconds = _seconds_per_step(vae, shards, 2 * batch_size)
        cost["images_per_second_double_batch"] = round(2 * batch_size / seconds, 1)
    return cost
