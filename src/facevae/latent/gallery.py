"""Pictures that a trained VAE decodes, and tables of its latent codes."""

from pathlib import Path

import numpy as np

from facevae.common.files import write_text
from facevae.common.parameters import Generate
from facevae.common.requests import held_out_images, reconstructed_rows
from facevae.common.tables import rows_csv
from facevae.latent.codes import (
    attribute_directions,
    encode_dataset,
    radius_rows,
    sample_posterior,
    unit_rows,
    z_rows,
)
from facevae.latent.generation import interpolations, reconstructions, samples, with_directions
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.plotting.grids import save_grid
from facevae.shards.batches import Shards, images, load_images
from facevae.shards.requests import LABELLED_IMAGES

_BATCH_SIZE = 64  # takes little memory; larger batches are hardly faster
_LABELLED_BATCHES = LABELLED_IMAGES // _BATCH_SIZE
# Directions of attributes are multiplied by this. Judged by eye: 1 leaves small features such as
# bangs or a goatee faint, 3 washes the face out.
_DIRECTION_FACTOR = 2


def _names(settings: Generate, shards: Shards) -> list[str]:
    # Without labels there are no directions, only originals and reconstructions.
    return settings.attributes if shards.attributes else []


def _labels(settings: Generate, shards: Shards) -> np.ndarray:
    """Labels of the training images that give the directions, as in `Shards.labels`."""
    return shards.labels("train", _names(settings, shards))[:LABELLED_IMAGES]


def save_pictures(vae: VAE, prior: Prior, shards: Shards, settings: Generate, folder: Path) -> None:
    """Write four grids of images into a folder.

    samples.png: decoded from latent codes that are drawn from the prior. The other grids show faces
    of the test split. reconstructions.png: rows of originals, each with a row of reconstructions
    below it. interpolation.png: a row per pair of faces, with steps from one to the other.
    attributes.png: a row per face: the original, its reconstruction, and a column per attribute
    whose direction is added.
    """
    rows, columns, pairs = settings.rows, settings.columns, reconstructed_rows(settings.rows)
    held_out = load_images(shards, "test", held_out_images(rows, columns))
    names = _names(settings, shards)
    directions = np.zeros((1, vae.latent_size), np.float32)  # nothing added: the reconstruction
    if names:
        batches = images(shards, "train", _BATCH_SIZE).take(_LABELLED_BATCHES)
        mu, _ = encode_dataset(vae, batches)
        of_attributes = attribute_directions(mu, _labels(settings, shards))
        directions = np.concatenate([directions, _DIRECTION_FACTOR * of_attributes])

    made = samples(vae, rows * columns, settings.seed, prior)
    save_grid(made, columns, folder / "samples.png")

    originals = held_out[: pairs * columns].reshape(pairs, columns, *held_out.shape[1:])
    decoded = reconstructions(vae, held_out[: pairs * columns]).reshape(originals.shape)
    both = np.stack([originals, decoded], axis=1).reshape(-1, *held_out.shape[1:])
    save_grid(both, columns, folder / "reconstructions.png")

    lines = interpolations(vae, held_out[:rows], held_out[rows : 2 * rows], columns)
    save_grid(lines, columns, folder / "interpolation.png")

    faces = held_out[:rows]
    changed = np.concatenate([faces[:, None], with_directions(vae, faces, directions)], axis=1)
    added = ["+ " + name.replace("_", "\n") for name in names]
    save_grid(
        changed.reshape(-1, *faces.shape[1:]),
        2 + len(names),
        folder / "attributes.png",
        ["original", "reconstruction", *added],
    )


def save_tables(vae: VAE, shards: Shards, seed: int, folder: Path) -> None:
    """Write latents.csv, z_histograms.csv and radii.csv: statistics of the test split's codes.

    Args:
        seed: of the z that is drawn for each image.
    """
    mu, log_var = encode_dataset(vae, images(shards, "test", _BATCH_SIZE))
    z = sample_posterior(mu, log_var, seed)
    write_text(folder / "latents.csv", rows_csv(unit_rows(mu, log_var)))
    write_text(folder / "z_histograms.csv", rows_csv(z_rows(z)))
    write_text(folder / "radii.csv", rows_csv(radius_rows(z)))
