"""Measures the peak memory of training steps, each in a process of its own.

The result counts weights, optimizer slots, the batch, and all tensors of the step at its peak. On a
GPU, TensorFlow's allocator reports it. On a CPU, it is the growth of the process. There, every
tensor is allocated from the system and returned at once (`_ENVIRONMENT`), because TensorFlow's own
arena keeps memory that it has used once, and rounds up.

The first training step of a network also takes memory that does not depend on the network's size:
Python's objects, the graph, compiled kernels. Two small networks with the same layers are therefore
trained first. The first one loads all code. The second one shows how much such a network takes
whatever its size, and this amount is subtracted from the result.

Two kernels run at a time. Which of them ends first varies, more so on a busy machine, and with it
how long tensors stay in memory. The result is therefore the median of several steps.
"""

import gc
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from facevae.common.parameters import CHANNELS, Parameters

# oneDNN's allocator passes requests to the C library (glibc), which allocates every block of 64 KiB
# or more from the system separately, and returns it when it is freed.
_ENVIRONMENT = {
    # Without oneDNN, which TensorFlow switches off on some CPUs, Eigen's kernels take up to 15 MiB
    # more than the estimate.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_NUM_INTEROP_THREADS": "2",
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_STEPS = 3


def measure_peaks(settings: Sequence[Parameters], *, own_allocator: bool = False) -> Iterator[int]:
    """Measure the memory of the networks and a training step at its peak, one after the other.

    Measuring starts at once, not when the first result is read. Each measurement runs in a process
    that is forked from one that has imported TensorFlow and run nothing. Without a GPU, this works
    on Linux only.

    Args:
        settings: each of one variant, as `facevae.memory.ledger.ledger` takes it.
        own_allocator: on a CPU, keep TensorFlow's own allocator, as in the train stage.

    Yields:
        Bytes, the median of three steps, for each of the settings.

    Raises:
        RuntimeError: a measuring process failed; the message has its output.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "facevae.measurement.step_peak"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),  # this library, in this order
            **({} if own_allocator else _ENVIRONMENT),
        },
    )
    assert process.stdin
    for each in settings:
        print(each.model_dump_json(), file=process.stdin)
    process.stdin.close()

    def peaks() -> Iterator[int]:
        assert process.stdout
        assert process.stderr
        with process:
            for _ in settings:
                answer = process.stdout.readline()
                if not answer:
                    raise RuntimeError(f"a measuring process failed:\n{process.stderr.read()}")
                yield int(answer)

    return peaks()


def measure_peak(settings: Parameters) -> int:
    """`measure_peaks` for a single setting, bytes."""
    (peak,) = measure_peaks([settings])
    return peak


class _Meter:
    """Memory in use beyond that at its creation, bytes."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        gc.collect()
        self._before = self._read("current", "VmRSS")

    def reset(self) -> None:
        """Start a new peak."""
        import tensorflow as tf

        if self._gpu:
            tf.config.experimental.reset_memory_stats("GPU:0")
        else:
            # Resets the peak size of the process to its present size, see proc(5).
            Path("/proc/self/clear_refs").write_text("5")

    def _read(self, of_allocator: str, of_process: str) -> int:
        import tensorflow as tf

        if self._gpu:
            return tf.config.experimental.get_memory_info("GPU:0")[of_allocator]
        status = Path("/proc/self/status").read_text()
        found = re.search(rf"{of_process}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def peak(self) -> int:
        """The most memory in use since `reset`."""
        return self._read("peak", "VmHWM") - self._before


def _smallest(parameters: Parameters) -> Parameters:
    """The same layers with 4 units each, and one image per accumulation step."""
    encoder = parameters.encoder
    return parameters.with_changes(
        {
            "encoder.filters": [4] * len(encoder.filters),
            "encoder.latent_size": 4,
            "encoder.inter_dense": 4 if encoder.inter_dense else 0,
            "train.batch_size": parameters.train.accumulation_steps,
        }
    )


def _train(parameters: Parameters) -> int:
    """Build a VAE and train some steps; the memory of a step at its peak, bytes."""
    import tensorflow as tf

    from facevae.model.vae import VAE
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    train, size = parameters.train, parameters.data.image_size
    meter = _Meter()
    vae = VAE(
        parameters.encoder,
        parameters.decoder,
        parameters.loss,
        image_size=size,
        precision=train.precision,
        seed=0,
    )
    step = training_step(vae, build_optimizer(train, train.learning_rate), train)
    # Created by TensorFlow: a batch converted from NumPy is in memory twice for a while.
    batch = {
        "images": tf.fill((train.batch_size, size, size, CHANNELS), 0.5),
        "epsilon": tf.zeros((train.batch_size, vae.latent_size)),
    }
    peaks = []
    for _ in range(_STEPS):
        meter.reset()
        step(batch, tf.constant(vae.kl_weight)).numpy()
        peaks.append(meter.peak())
    return statistics.median_low(peaks)


def _measure(parameters: Parameters) -> int:
    from facevae.common.runtime import enable_determinism

    enable_determinism(1)
    small = _smallest(parameters)
    for _ in range(2):
        constant = _train(small)
    return _train(parameters) - constant


def main() -> None:
    """For each line of standard input, parameters as JSON, print the measured bytes."""
    from facevae.common.runtime import load_tensorflow

    load_tensorflow(find_devices=False)
    import facevae.training.loop  # noqa: F401  imported once, for all forked processes

    for line in sys.stdin:
        process = os.fork()
        if not process:
            print(_measure(Parameters.model_validate_json(line)), flush=True)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        if status:
            sys.exit(1)


if __name__ == "__main__":
    main()
