"""The devices of a training: one device, all GPUs of a machine, or those of several machines.

Each global batch is split evenly over them, so that its size, the learning rate and the meaning of
an epoch do not depend on the number of devices.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.common.errors import UserError

# A machine that sends no heartbeat for this long is considered dead.
_HEARTBEAT_SECONDS = 30


def visible_devices() -> tf.distribute.Strategy:
    """A strategy for all visible GPUs, or for the CPU if there is none.

    The devices are those of this machine, or of all machines that the environment variable
    TF_CONFIG names. On one device the strategy is TensorFlow's default, without overhead. With
    TF_CONFIG this function returns once all workers have started.

    Raises:
        UserError: TF_CONFIG does not have the form that TensorFlow expects.
    """
    try:
        config = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster = config.get("cluster", {})
        jobs = {job: cluster.get(job) for job in ("chief", "worker")}
        machines = {job: len(hosts) for job, hosts in jobs.items() if hosts}
    except (AttributeError, TypeError, ValueError) as error:
        raise _wrong_config(error) from None
    if sum(machines.values()) > 1:
        _wait_longer_for_heartbeats(machines)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _wrong_config(error) from None
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def _wrong_config(error: Exception) -> UserError:
    return UserError(
        f'TF_CONFIG: must be {{"cluster": {{"worker": ["host:port", ...]}}, '
        f'"task": {{"type": "worker", "index": 0}}}} ({error})'
    )


def _wait_longer_for_heartbeats(machines: dict[str, int]) -> None:
    from tensorflow.python.eager import context

    # The strategy does the same with 10 s, and then takes machines that are busy or suspended for a
    # moment for dead. There is no public way to change that. A killed process is noticed at once in
    # any case, because its connections break.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(machines))}/replica:0/task:0",
        heartbeat_timeout_in_ms=_HEARTBEAT_SECONDS * 1000,
        coordinated_jobs=[
            context.coordination_config_pb2.CoordinatedJob(name=job, num_tasks=count)
            for job, count in machines.items()
        ],
    )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files: the chief, or else worker 0."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return resolver.task_type == "chief"
    return resolver.task_id == 0


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
            f"another worker of TF_CONFIG's cluster is gone ({type(error).__name__}); start all "
            f"workers again, and training resumes from the last checkpoint"
        ) from None
