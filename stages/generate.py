"""Draw samples, reconstructions, interpolations and attributes; tabulate latent codes."""

from _stage import arguments, run
from facevae.common.runtime import load_tensorflow


def main() -> None:
    options, parameters = arguments(
        __doc__,
        "model",
        "prior",
        "shards",
        reports="folder to write four PNG grids and three CSV tables into",
    )
    settings = parameters.generate
    load_tensorflow()
    from facevae.common.runtime import enable_determinism
    from facevae.latent.gallery import save_pictures, save_tables
    from facevae.latent.priors import load_prior
    from facevae.model.saving import load_model
    from facevae.shards.batches import Shards

    enable_determinism(settings.seed)
    with Shards(options.shards) as shards:
        vae = load_model(options.model, shards.image_size)
        prior = load_prior(options.prior, vae.latent_size)
        save_pictures(vae, prior, shards, settings, options.reports)
        save_tables(vae, shards, settings.seed, options.reports)


if __name__ == "__main__":
    run(main)
