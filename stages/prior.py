"""Write where samples come from: N(0, I), or a density fitted to the codes of training images."""

from _stage import arguments, run
from facevae.common.runtime import load_tensorflow

_BATCH_SIZE = 64  # little memory; larger ones are hardly faster
_SEED = 0  # of the one z drawn for each image


def main() -> None:
    options, parameters = arguments(
        __doc__,
        model={"help": ".keras file of the train stage"},
        shards={"help": "folder that the prepare stage wrote; its train split is used"},
        prior={"help": ".npz file to write: weights, means and Cholesky factors of a mixture"},
    )
    kind = parameters.generate.prior

    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.latent.codes import encode_dataset, sample_posterior
    from facevae.latent.priors import MAX_CODES, fit_prior, normal_prior, save_prior
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards, images

    enable_determinism(_SEED)
    vae = load_model(options.model)
    if kind == "normal":
        prior = normal_prior(vae.latent_size)
    else:
        with Shards(options.shards) as shards:
            batches = images(shards, "train", _BATCH_SIZE).take(-(-MAX_CODES // _BATCH_SIZE))
            mu, log_var = encode_dataset(vae, batches)
        prior = fit_prior(kind, sample_posterior(mu[:MAX_CODES], log_var[:MAX_CODES], _SEED))
    save_prior(prior, options.prior)


if __name__ == "__main__":
    run(main)
