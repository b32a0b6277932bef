"""What a training step costs on this machine: time and memory, measured on real steps."""

import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from facevae.common.errors import UserError
from facevae.common.machine import describe_machine
from facevae.common.parameters import CHANNELS, Parameters
from facevae.common.runtime import enable_determinism
from facevae.memory.host import check_training, is_shortage
from facevae.model.vae import VAE
from facevae.training.optimizers import build_optimizer
from facevae.training.step import training_step

_WARM_UP_STEPS = 3  # the first compiles
_TIMED_STEPS = 12
_SEED = 1
_LEARNING_RATE = 1e-6  # it does not change what a step costs


def peak_memory_mib() -> float:
    """The largest memory use so far, MiB: of the GPU's allocator, or else of this process."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _step_seconds(parameters: Parameters) -> Sequence[float]:
    train, size = parameters.train, parameters.data.image_size
    enable_determinism(_SEED)
    vae = VAE(
        parameters.encoder,
        parameters.decoder,
        parameters.loss,
        image_size=size,
        precision=train.precision,
        seed=_SEED,
    )
    step = training_step(vae, build_optimizer(train, _LEARNING_RATE), train)
    batch = {
        "images": tf.random.uniform((train.batch_size, size, size, CHANNELS)),
        "epsilon": tf.random.normal((train.batch_size, vae.latent_size)),
    }
    kl_weight = tf.constant(vae.kl_weight, tf.float32)
    seconds = []
    for _ in range(_WARM_UP_STEPS + _TIMED_STEPS):
        start = time.perf_counter()
        step(batch, kl_weight).numpy()
        seconds.append(time.perf_counter() - start)
    return seconds[_WARM_UP_STEPS:]


def measure_training(parameters: Parameters) -> dict[str, Any]:
    """Time a few training steps on one device, at the batch size and at twice it.

    The steps are those that the train stage takes. The images are random numbers held in memory:
    reading real ones comes on top, and takes a few percent (`make bench-data`). Call it first in a
    fresh process: the peak memory is that of all that ran before, too.

    Args:
        parameters: those of one variant, see `Parameters.variant`.

    Returns:
        machine, as `describe_machine` has it; batch_size; images_per_second (at the median step)
        with its lower and upper quartile over the steps; peak_memory_mib, at that batch size; and
        images_per_second_double_batch, None if the device's memory is too small.
    """
    batch_size = parameters.train.batch_size
    fast, median, slow = statistics.quantiles(_step_seconds(parameters), n=4)
    cost = {
        "machine": describe_machine(),
        "batch_size": batch_size,
        "images_per_second": round(batch_size / median, 1),
        "images_per_second_lower_quartile": round(batch_size / slow, 1),
        "images_per_second_upper_quartile": round(batch_size / fast, 1),
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "images_per_second_double_batch": None,
    }
    # A device that holds the one may be too small for the other.
    try:
        double = parameters.with_changes({"train.batch_size": 2 * batch_size})
        check_training(double, data=0)
        rate = 2 * batch_size / statistics.median(_step_seconds(double))
        cost["images_per_second_double_batch"] = round(rate, 1)
    except Exception as error:
        if not isinstance(error, UserError) and not is_shortage(error):
            raise
    return cost
