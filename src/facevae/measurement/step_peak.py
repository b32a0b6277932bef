"""The memory that training steps take, each measured in a process of its own.

Measured is what TensorFlow takes for weights, optimizer slots, the batch and all tensors of the
step at its peak: on a GPU by the count of its allocator, else by what the process grows by. For the
latter each tensor is made to come from the system and to go back at once (`_ENVIRONMENT`), for
TensorFlow's own arena on the CPU keeps what it has once held, and rounds up.

A first training step of a network also takes memory that has nothing to do with the network's size:
Python's objects, the graph, compiled kernels. So two small networks of the same layers are trained
first: one so that all code is loaded, the other to see what such a network takes whatever its size,
which is left out of the result.

Two kernels run at a time, and which of them ends first, and so how long tensors wait, is now and
then another one, the more so on a busy machine: hence the median of several steps.
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

# oneDNN's allocator hands requests through to the C library, and that (glibc) takes everything from
# 64 KiB on from the system for itself and gives it back when it is freed.
_ENVIRONMENT = {
    # Where TensorFlow leaves oneDNN off, Eigen's kernels take up to 15 MiB more than is estimated.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_ARENA_MAX": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_STEPS = 3


def measure_peaks(settings: Sequence[Parameters], *, own_allocator: bool = False) -> Iterator[int]:
    """Bytes that the networks and a training step take at its peak, in the median of three steps.

    Each is measured in a fresh process, one after the other, beginning at once. The processes are
    forked from one that has imported TensorFlow and done nothing with it. On Linux only, unless
    there is a GPU.

    Args:
        settings: those of one variant each, as `facevae.memory.ledger.ledger` takes them.
        own_allocator: on a CPU, leave TensorFlow its own allocator, as the train stage does.
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
    """`measure_peaks` of a single training step, bytes."""
    (peak,) = measure_peaks([settings])
    return peak


class _Meter:
    """What is taken more than when this was made, bytes."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._gpu = bool(tf.config.list_physical_devices("GPU"))
        gc.collect()
        self._before = self._read("current", "VmRSS")

    def reset(self) -> None:
        """Forget what there was up to now."""
        import tensorflow as tf

        if self._gpu:
            tf.config.experimental.reset_memory_stats("GPU:0")
        else:
            # Makes the largest size of the process so far its present one, see proc(5).
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
        """The most since `reset`."""
        return self._read("peak", "VmHWM") - self._before


def _smallest(parameters: Parameters) -> Parameters:
    """The same layers, of 4 units each, and one image for every part of the batch."""
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
    """Build and train; bytes taken at the peak of a step."""
    import tensorflow as tf

    from facevae.model.vae import VAE
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    train, size = parameters.train, parameters.data.image_size
    meter = _Meter()
    vae = VAE(parameters.encoder, parameters.loss, image_size=size, precision=train.precision)
    step = training_step(vae, build_optimizer(train, train.learning_rate), train)
    # Made where they are used: what is converted from NumPy is held twice for a while.
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
    """For each line of the input, what to train as JSON, a forked process prints its bytes."""
    import facevae.training.loop  # noqa: F401  once for all of them

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
