"""Draw what a trained VAE generates and makes of held-out faces, and say where its z lie."""

from _stage import arguments, run
from facevae.common.errors import UserError
from facevae.common.files import write_text
from facevae.common.runtime import load_tensorflow

_BATCH_SIZE = 64  # little memory; larger ones are hardly faster
_LABELLED_BATCHES = 313  # about 20,000 training images tell a mean as well as all would
# Of the way from faces without an attribute to those with it: by eye, one leaves small things such
# as bangs or a goatee faint, and three wash a face out.
_STEPS = 2


def main() -> None:
    options, parameters = arguments(
        __doc__,
        model={"help": ".keras file of the train stage"},
        prior={"help": ".npz file of the prior stage"},
        shards={"help": "folder that the prepare stage wrote; its test split is used"},
        samples={"help": "PNG to write: a grid decoded from z-points drawn from the prior"},
        reconstructions={"help": "PNG to write: held-out faces above their reconstructions"},
        interpolation={"help": "PNG to write: steps between held-out faces, a pair per row"},
        attributes={"help": "PNG to write: held-out faces, with attributes' directions added"},
        latents={"help": "CSV to write: statistics of each latent unit over the test split"},
        z_histograms={"help": "CSV to write: histograms of its z beside N(0, 1)"},
        radii={"help": "CSV to write: a histogram of its |z| beside the chi distribution"},
    )
    settings = parameters.generate
    rows, columns = settings.rows, settings.columns

    load_tensorflow()
    import numpy as np

    from facevae.common.files import rows_csv
    from facevae.common.runtime import enable_determinism
    from facevae.latent.codes import (
        attribute_directions,
        encode_dataset,
        radius_rows,
        sample_posterior,
        unit_rows,
        z_rows,
    )
    from facevae.latent.generation import interpolations, reconstructions, samples, with_directions
    from facevae.latent.priors import load_prior
    from facevae.model.saving import load_model
    from facevae.plotting.grids import save_grid
    from facevae.shards.batches import Shards, images, load_images

    enable_determinism(settings.seed)
    vae = load_model(options.model)
    pairs = max(1, rows // 2)  # rows of originals, each with a row of reconstructions below it
    needed = max(pairs * columns, 2 * rows)
    shards = Shards(options.shards)
    if shards.counts["test"] < needed:
        raise UserError(
            f"generate.rows, generate.columns: {rows} x {columns} needs {needed} held-out images, "
            f"and the test split has {shards.counts['test']}; ask for fewer"
        )
    # Without labels there are no directions, and only originals and reconstructions to be seen.
    names = settings.attributes if shards.attributes else []
    unknown = [name for name in names if name not in shards.attributes]
    if unknown:
        raise UserError(
            f"generate.attributes: the data has no {' and no '.join(unknown)}; it has "
            f"{', '.join(shards.attributes)}"
        )
    columns_of = [shards.attributes.index(name) for name in names]
    labels = shards.labels("train")[: _LABELLED_BATCHES * _BATCH_SIZE, columns_of]
    for name, share in zip(names, labels.mean(axis=0), strict=True):
        if share in (0, 1):
            raise UserError(
                f"generate.attributes: {'all' if share else 'none'} of the {len(labels):,} "
                f"training images looked at have {name}, so it has no direction; leave it out"
            )
    with shards:
        held_out = load_images(shards, "test", needed)
        mu, log_var = encode_dataset(vae, images(shards, "test", _BATCH_SIZE))
        directions = np.zeros((1, vae.latent_size), np.float32)  # the reconstruction's
        if names:
            batches = images(shards, "train", _BATCH_SIZE).take(_LABELLED_BATCHES)
            of_attributes = attribute_directions(encode_dataset(vae, batches)[0], labels)
            directions = np.concatenate([directions, _STEPS * of_attributes])

    made = samples(vae, rows * columns, settings.seed, load_prior(options.prior))
    save_grid(made, columns, options.samples)

    originals = held_out[: pairs * columns].reshape(pairs, columns, *held_out.shape[1:])
    decoded = reconstructions(vae, held_out[: pairs * columns]).reshape(originals.shape)
    both = np.stack([originals, decoded], axis=1).reshape(-1, *held_out.shape[1:])
    save_grid(both, columns, options.reconstructions)

    lines = interpolations(vae, held_out[:rows], held_out[rows : 2 * rows], columns)
    save_grid(lines, columns, options.interpolation)

    faces = held_out[:rows]
    changed = np.concatenate([faces[:, None], with_directions(vae, faces, directions)], axis=1)
    added = ["+ " + name.replace("_", "\n") for name in names]
    save_grid(
        changed.reshape(-1, *faces.shape[1:]),
        2 + len(names),
        options.attributes,
        ["original", "reconstruction", *added],
    )

    z = sample_posterior(mu, log_var, settings.seed)
    for path, rows_of in (
        (options.latents, unit_rows(mu, log_var)),
        (options.z_histograms, z_rows(z)),
        (options.radii, radius_rows(z)),
    ):
        write_text(path, rows_csv(rows_of))


if __name__ == "__main__":
    run(main)
