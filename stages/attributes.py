"""Train a small network on the faces' attributes; its features measure samples against faces."""

from _stage import arguments, run
from facevae.common.files import atomic_write, write_json
from facevae.common.runtime import counting, load_tensorflow


def main() -> None:
    options, _ = arguments(
        __doc__,
        "shards",
        network="folder to write the network into; without labels there is none in it",
        metrics="JSON to write: how well it recognises the validation split's attributes",
    )
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.evaluation.attribute_classifier import save_classifier, summary, train_classifier
    from facevae.shards.batches import Shards

    enable_determinism(0)
    shards, network = Shards(options.shards), None
    with shards, counting("Learning attributes", " images") as progress:
        if shards.attributes:
            network = train_classifier(shards, progress=progress)
        metrics = summary(shards, network)
    with atomic_write(options.network) as folder:
        save_classifier(network, shards.attributes, folder)
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
