"""Train one variant of the VAE and write the model and its history."""

import os
import sys

from _stage import PROJECT, arguments, code_of, run, state_folder, stop_on_signals
from facevae.common.runtime import load_tensorflow
from facevae.training.cluster import read_cluster


def main() -> None:
    options, parameters = arguments(
        __doc__,
        "shards",
        variant=True,
        model=".keras file to write",
        history="CSV file to write, a row per epoch as it ends",
    )
    cluster = read_cluster(os.environ)
    caller = os.getppid()

    load_tensorflow()
    from facevae.memory.host import check_training, of_one_device
    from facevae.shards.batches import Shards, held_while_training
    from facevae.training.devices import device_count
    from facevae.training.session import run_training

    shards = Shards(options.shards)
    of_one = of_one_device(parameters, shards.image_size, device_count(cluster))
    held = held_while_training(shards, parameters.train.batch_size)
    if warning := check_training(of_one, held):
        print(warning, file=sys.stderr)
    run_training(
        parameters,
        shards,
        cluster,
        model=options.model,
        history=options.history,
        states=state_folder() / "checkpoints",
        project=PROJECT,
        code=code_of("train"),
        stop_requested=stop_on_signals(),
        # An orphan's model is deleted by whoever runs the stage next: DVC has not noted it.
        is_orphan=lambda: os.getppid() != caller,
    )


if __name__ == "__main__":
    run(main)
