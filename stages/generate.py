"""Draw what a trained VAE generates, reconstructs and interpolates, and say where its z lie."""

from _stage import arguments, load_tensorflow, run
from facevae.errors import UserError
from facevae.files import written_whole

_BATCH_SIZE = 64  # little memory; larger ones are hardly faster


def main() -> None:
    options, parameters = arguments(
        __doc__,
        model={"help": ".keras file of the train stage"},
        shards={"help": "folder that the prepare stage wrote; its test split is used"},
        samples={"help": "PNG to write: a grid decoded from z-points drawn from N(0, I)"},
        reconstructions={"help": "PNG to write: held-out faces above their reconstructions"},
        interpolation={"help": "PNG to write: steps between held-out faces, a pair per row"},
        latents={"help": "CSV to write: statistics of each latent unit over the test split"},
        z_histograms={"help": "CSV to write: histograms of its z beside N(0, 1)"},
        radii={"help": "CSV to write: a histogram of its |z| beside the chi distribution"},
    )
    settings = parameters.generate
    rows, columns = settings.rows, settings.columns

    load_tensorflow()
    import numpy as np

    from facevae.datasets import Shards, images
    from facevae.determinism import make_repeatable
    from facevae.generation import interpolations, reconstructions, samples
    from facevae.latents import codes, radius_rows, rows_csv, sampled, unit_rows, z_rows
    from facevae.model_files import load_model
    from facevae.pictures import save_grid

    make_repeatable(settings.seed)
    vae = load_model(options.model)
    pairs = max(1, rows // 2)  # rows of originals, each with a row of reconstructions below it
    needed = max(pairs * columns, 2 * rows)
    shards = Shards(options.shards)
    if shards.counts["test"] < needed:
        raise UserError(
            f"generate.rows, generate.columns: {rows} x {columns} needs {needed} held-out images, "
            f"and the test split has {shards.counts['test']}; ask for fewer"
        )
    with shards:
        held_out = next(iter(images(shards, "test", needed))).numpy()
        mu, log_var = codes(vae, images(shards, "test", _BATCH_SIZE))

    save_grid(samples(vae, rows * columns, settings.seed), columns, options.samples)

    originals = held_out[: pairs * columns].reshape(pairs, columns, *held_out.shape[1:])
    decoded = reconstructions(vae, held_out[: pairs * columns]).reshape(originals.shape)
    both = np.stack([originals, decoded], axis=1).reshape(-1, *held_out.shape[1:])
    save_grid(both, columns, options.reconstructions)

    lines = interpolations(vae, held_out[:rows], held_out[rows : 2 * rows], columns)
    save_grid(lines, columns, options.interpolation)

    z = sampled(mu, log_var, settings.seed)
    for path, rows_of in (
        (options.latents, unit_rows(mu, log_var)),
        (options.z_histograms, z_rows(z)),
        (options.radii, radius_rows(z)),
    ):
        with written_whole(path) as temporary:
            temporary.write_text(rows_csv(rows_of), encoding="utf-8")


if __name__ == "__main__":
    run(main)
