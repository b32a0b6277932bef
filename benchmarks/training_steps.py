"""The candidate that takes this project's training steps, as the train stage takes them.

It reads its batches from shards. `start` runs this module as a process.
"""

import argparse
import importlib
import itertools
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Candidate, serve
from facevae.common.parameters import Parameters
from facevae.common.runtime import enable_determinism, load_tensorflow


def start(
    parameters: Parameters,
    shards: Path,
    *,
    deterministic: bool = True,
    one_batch: bool = False,
    replaced: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Candidate:
    """A process that takes training steps.

    Args:
        parameters: those of one variant.
        deterministic: as the train stage is.
        one_batch: take all steps with the same one, which stays in memory.
        replaced: names in this project's modules, and what of Keras takes their place.
        variables: environment variables of the process.
    """
    flags = [] if deterministic else ["--not-deterministic"]
    flags += ["--one-batch"] if one_batch else []
    for name, own in (replaced or {}).items():
        flags += ["--replace", name, own]
    return Candidate(
        "benchmarks.training_steps", "--parameters", parameters.model_dump_json(),
        "--shards", shards, *flags, images=parameters.train.batch_size, variables=variables,
    )  # fmt: skip


def build_step(parameters: Parameters) -> tuple[Any, Callable]:
    """A VAE, and the function that takes one of its training steps."""
    from facevae.model.vae import VAE
    from facevae.training.optimizers import build_optimizer
    from facevae.training.step import training_step

    train, size = parameters.train, parameters.data.image_size
    vae = VAE(
        parameters.encoder,
        parameters.decoder,
        parameters.loss,
        image_size=size,
        precision=train.precision,
        seed=0,
    )
    return vae, training_step(vae, build_optimizer(train, train.learning_rate), train)


def endless_batches(shards: Path, batch_size: int, latent_size: int) -> Iterator[Any]:
    """Shuffled training batches, epoch after epoch."""
    from facevae.shards.batches import Shards, training_batches

    opened = Shards(shards)
    for epoch in itertools.count():
        yield from training_batches(
            opened,
            batch_size=batch_size,
            latent_size=latent_size,
            horizontal_flips=False,
            seed=1,
            epoch=epoch,
        )


def _serve_steps(parameters: Parameters, shards: Path, one_batch: bool) -> None:
    import tensorflow as tf

    vae, step = build_step(parameters)
    batches = endless_batches(shards, parameters.train.batch_size, vae.latent_size)
    if one_batch:
        batches = itertools.repeat(next(batches))
    weight = tf.constant(vae.kl_weight, tf.float32)

    def turn(steps: int) -> float:
        began = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            step(batch, weight).numpy()
        return time.perf_counter() - began

    serve(turn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", required=True, help="JSON")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--not-deterministic", action="store_true")
    parser.add_argument("--one-batch", action="store_true")
    parser.add_argument("--replace", nargs=2, action="append", default=[])
    options = parser.parse_args()
    load_tensorflow()
    import keras

    for name, own in options.replace:
        module, _, replaced = name.rpartition(".")
        setattr(importlib.import_module(module), replaced, operator.attrgetter(own)(keras))
    if not options.not_deterministic:
        enable_determinism(1)
    parameters = Parameters.model_validate_json(options.parameters)
    _serve_steps(parameters, options.shards, options.one_batch)


if __name__ == "__main__":
    main()
