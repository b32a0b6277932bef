"""The devices of a training: one device, all GPUs of a machine, or those of several machines.

Each global batch is split evenly over them, so that its size, the learning rate and the meaning of
an epoch do not depend on the number of devices.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.common.errors import UserError
from facevae.common.signals import INTERRUPTS
from facevae.training.cluster import VARIABLE, Cluster

# A machine that sends no heartbeat for this long is considered dead.
_HEARTBEAT_SECONDS = 30
# All machines have met when TensorFlow connects them. Whoever is not there after this is gone.
_CONNECT_SECONDS = 60


def visible_devices(cluster: Cluster | None) -> tf.distribute.Strategy:
    """A strategy for all visible GPUs, or for the CPU if there is none.

    On one device the strategy is TensorFlow's default, without overhead.

    Args:
        cluster: the devices are those of all these machines, which have met (see
            `facevae.training.meeting`); None: those of this machine. With a cluster, call it in the
            main thread.

    Raises:
        UserError: TensorFlow cannot connect the machines.
    """
    if cluster is not None:
        return _all_machines(cluster)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def device_count(cluster: Cluster | None) -> int:
    """Over how many devices each batch of a training will be divided, before they are connected."""
    machines = 1 if cluster is None else len(cluster.machines)
    return machines * max(1, len(tf.config.list_physical_devices("GPU")))


def own_devices() -> str:
    """What this machine adds to a cluster, which must be the same on all: "CPU" or "2 GPUs"."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    return f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "CPU"


def _all_machines(cluster: Cluster) -> tf.distribute.Strategy:
    _configure_coordination(cluster)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster.jobs),
        task_type=cluster.this.job,
        task_id=cluster.this.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    sentence = (
        f"{VARIABLE}: TensorFlow on {cluster.this} could not connect to the other machines; start "
        f"all of them again"
    )
    with _killed_when_it_hangs(sentence):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
        except tf.errors.OpError as error:
            raise UserError(f"{sentence} ({type(error).__name__})") from None


# Ends its parent if that does not end it in time.
_WATCHER = """
import os, signal, sys, time
parent, seconds, sentence = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGINT, signal.SIG_IGN)
end = time.monotonic() + seconds
while os.getppid() == parent:
    if time.monotonic() > end:
        print(sentence, file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)
    time.sleep(0.1)
"""


@contextlib.contextmanager
def _killed_when_it_hangs(sentence: str) -> Iterator[None]:
    """Say a sentence and kill this process if the block takes longer than `_CONNECT_SECONDS`.

    If another machine dies while TensorFlow connects them, TensorFlow waits for ever, deaf to
    signals, and lets no other thread of Python run.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, str(os.getpid()), str(_CONNECT_SECONDS),
         sentence],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    handlers = {number: signal.getsignal(number) for number in INTERRUPTS}
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would wait as well
    try:
        yield
    finally:
        for number, handler in handlers.items():  # TensorFlow takes SIGTERM for itself
            signal.signal(number, handler)
        watcher.kill()
        watcher.wait()


def _configure_coordination(cluster: Cluster) -> None:
    from tensorflow.python.eager import context

    # The strategy does the same with 10 s, and then takes machines that are busy or suspended for a
    # moment for dead. There is no public way to change that. A killed process is noticed as late.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.chief.job}/replica:0/task:{cluster.chief.index}",
        heartbeat_timeout_in_ms=_HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[
            context.coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
            for job, addresses in cluster.jobs.items()
        ],
    )


def split_batches(
    strategy: tf.distribute.Strategy, batches: tf.data.Dataset, batch_size: int
) -> Iterable[Any]:
    """Split each batch into equal parts, one per device, in order.

    Args:
        batches: global batches, the same in every process.
        batch_size: images in a global batch, a multiple of the number of devices.

    Returns:
        For each batch, the parts of this process' devices, as `strategy.run` takes them.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return batches

    def parts(worker: tf.distribute.InputContext) -> tf.data.Dataset:
        here = replicas // worker.num_input_pipelines
        first = worker.input_pipeline_id * here

        def split(batch):
            shape = (replicas, batch_size // replicas)
            return tf.data.Dataset.from_tensor_slices(
                {
                    name: tf.reshape(value, (*shape, *value.shape[1:]))[first : first + here]
                    for name, value in batch.items()
                }
            )

        return batches.flat_map(split)

    return strategy.distribute_datasets_from_function(parts)


def check_batch_size(
    strategy: tf.distribute.Strategy, batch_size: int, accumulation_steps: int
) -> None:
    """Check that a batch splits evenly over the devices, and there into accumulation steps.

    Raises:
        UserError: it does not.
    """
    replicas = strategy.num_replicas_in_sync
    parts = replicas * accumulation_steps
    if batch_size % parts:
        places = [f"over {replicas} devices"] if replicas > 1 else []
        if accumulation_steps > 1:
            places.append(f"into {accumulation_steps} parts (train.accumulation_steps)")
        raise UserError(
            f"train.batch_size: {batch_size} images do not split evenly {' and '.join(places)}; "
            f"take a multiple of {parts}"
        )


class Workers:
    """Communication between the processes of one training.

    Every process must make the same calls in the same order. With a single process, nothing is
    exchanged.

    Attributes:
        alone: whether there is a single process.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.alone = strategy.cluster_resolver is None

        @tf.function(reduce_retracing=True)
        def gather(value):
            def replica_gather(value):
                replica = tf.distribute.get_replica_context()
                return replica.all_gather(value[tf.newaxis], axis=0)

            everywhere = strategy.run(replica_gather, (value,))
            return strategy.experimental_local_results(everywhere)[0]

        self._gather = gather

    def chiefs(self, value: np.ndarray) -> np.ndarray:
        """The chief's value, in every process. All pass values of the same shape and type."""
        return value if self.alone else self._gather(tf.constant(value)).numpy()[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.alone else bool(self._gather(tf.constant(int(flag))).numpy().any())


@contextlib.contextmanager
def workers_alive(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turn TensorFlow's errors about lost workers into a UserError."""
    try:
        yield
    except (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.UnavailableError,
    ) as error:
        if strategy.cluster_resolver is None:
            raise
        raise UserError(
            f"another worker of {VARIABLE}'s cluster is gone ({type(error).__name__}); start all "
            f"workers again, and training resumes from the last checkpoint"
        ) from None
