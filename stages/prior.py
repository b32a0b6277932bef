"""Write the prior of samples: N(0, I), or a density fitted to the codes of training images."""

from _stage import arguments, run
from facevae.common.runtime import load_tensorflow


def main() -> None:
    options, parameters = arguments(
        __doc__,
        "model",
        "shards",
        prior=".npz file to write: weights, means and Cholesky factors of a Gaussian mixture",
    )
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.latent.priors import prior_of_dataset, save_prior
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(0)
    with Shards(options.shards) as shards:
        vae = load_model(options.model, shards.image_size)
        prior = prior_of_dataset(parameters.generate.prior, vae, shards)
    save_prior(prior, options.prior)


if __name__ == "__main__":
    run(main)
