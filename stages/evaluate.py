"""Measure a trained VAE: size and quality on the test split, and what training it costs here."""

from pathlib import Path

from _stage import arguments, run
from facevae.common.files import write_json
from facevae.common.runtime import counting, load_tensorflow


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
    from facevae.common.runtime import enable_determinism
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.evaluation.evaluate import evaluate
    from facevae.evaluation.inception import check_inception_weights
    from facevae.latent.priors import load_prior
    from facevae.measurement.cost import measure_training
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(0)
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
            attribute_classifier=load_classifier(options.attributes),
            inception_weights=inception_weights,
            progress=progress,
        )
    write_json(options.cost, cost)
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
