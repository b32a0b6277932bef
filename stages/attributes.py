"""Train a small network on the faces' attributes; its features measure samples against faces."""

from _stage import arguments, counting, load_tensorflow, run, write_json
from facevae.files import written_whole


def main() -> None:
    options, _ = arguments(
        __doc__,
        shards={"help": "folder that the prepare stage wrote"},
        network={"help": "folder to write the network into; without labels there is none in it"},
        metrics={"help": "JSON to write: how well it tells the validation split's attributes"},
    )

    load_tensorflow()
    from facevae.attributes import save_network, summary, train_network
    from facevae.datasets import Shards
    from facevae.determinism import make_repeatable

    make_repeatable(0)
    shards, network = Shards(options.shards), None
    with shards, counting("Learning attributes", " images") as progress:
        if shards.attributes:
            network = train_network(shards, progress=progress)
        metrics = summary(shards, network)
    with written_whole(options.network) as folder:
        save_network(network, shards.attributes, folder)
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
