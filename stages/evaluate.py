"""Evaluate a trained VAE: its size, its quality on the test split, the quality of its samples."""

from pathlib import Path

from _stage import arguments, run
from facevae.common.files import write_json
from facevae.common.runtime import counting, load_tensorflow


def main() -> None:
    options, parameters = arguments(
        __doc__,
        "model",
        "prior",
        "shards",
        "attributes",
        metrics="JSON file to write",
    )
    train, weights = parameters.train, parameters.evaluate.inception_weights
    inception_weights = None if weights is None else Path(weights)

    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.evaluation.attribute_classifier import load_classifier
    from facevae.evaluation.evaluate import evaluate
    from facevae.latent.priors import load_prior
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(0)
    with Shards(options.shards) as shards, counting("Evaluating", " images") as progress:
        vae = load_model(options.model, shards.image_size)
        metrics = evaluate(
            vae,
            shards,
            batch_size=train.batch_size // train.accumulation_steps,
            prior=load_prior(options.prior, vae.latent_size),
            attribute_classifier=load_classifier(options.attributes),
            inception_weights=inception_weights,
            faces=parameters.evaluate.faces,
            progress=progress,
        )
    write_json(options.metrics, metrics)


if __name__ == "__main__":
    run(main)
