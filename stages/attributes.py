"""Train the attribute classifier, whose features compare samples with real faces."""

from _stage import arguments, run
from facevae.common.files import atomic_write, write_json
from facevae.common.runtime import counting, load_tensorflow


def main() -> None:
    options, _ = arguments(
        __doc__,
        "shards",
        network="folder to write the classifier into; it has no network without labels to learn",
        metrics="JSON file to write: its accuracy on the validation split",
    )
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.evaluation.attribute_classifier import (
        is_classifier,
        learned_attributes,
        save_classifier,
        summary,
        train_classifier,
    )
    from facevae.shards.batches import Shards

    enable_determinism(0)
    shards, network = Shards(options.shards), None
    with shards, counting("Learning attributes", " images") as progress:
        names = learned_attributes(shards)
        if names:
            network = train_classifier(shards, progress=progress)
        metrics = summary(shards, network)
    with atomic_write(options.network, is_classifier) as folder:
        save_classifier(network, names, folder)
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
