"""Measure a trained VAE: size and quality on the test split, and what training it costs here."""

from pathlib import Path

from _stage import arguments, counting, load_tensorflow, run, write_json


def main() -> None:
    options, parameters = arguments(
        __doc__,
        model={"help": ".keras file of the train stage"},
        prior={"help": ".npz file of the prior stage"},
        shards={"help": "folder that the prepare stage wrote"},
        attributes={"help": "folder that the attributes stage wrote"},
        metrics={"help": "JSON to write: what is the same on every run"},
        cost={"help": "JSON to write: what depends on the machine"},
    )
    training = parameters.train
    batch_size = training.batch_size
    weights = parameters.evaluate.inception_weights
    inception_weights = None if weights is None else Path(weights)

    load_tensorflow()
    from facevae.attributes import load_network
    from facevae.cost import measure_training
    from facevae.datasets import Shards
    from facevae.determinism import make_repeatable
    from facevae.evaluation import evaluate
    from facevae.inception import check_inception_weights
    from facevae.model_files import load_model
    from facevae.priors import load_prior

    make_repeatable(0)
    if inception_weights is not None:  # before minutes are spent
        check_inception_weights(inception_weights)
    shards = Shards(options.shards)
    with shards, counting("Evaluating", " images") as progress:
        # The cost first: its peak memory is this process' so far. It spoils the weights.
        cost = measure_training(
            load_model(options.model),
            shards,
            batch_size,
            optimizer=training.optimizer,
            accumulation_steps=training.accumulation_steps,
            rematerialization=training.rematerialization,
        )
        part = batch_size // training.accumulation_steps  # what is known to fit
        metrics = evaluate(
            load_model(options.model),
            shards,
            batch_size=part,
            prior=load_prior(options.prior),
            attribute_network=load_network(options.attributes),
            inception_weights=inception_weights,
            progress=progress,
        )
    write_json(options.cost, cost)
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
