"""Pictures that a trained VAE decodes, and tables of its latent codes."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facevae.common.files import write_text
from facevae.common.parameters import Generate
from facevae.common.requests import held_out_images, reconstructed_rows
from facevae.common.tables import rows_csv
from facevae.latent.codes import (
    AT_ONCE,
    attribute_directions,
    encode_split,
    radius_rows,
    sample_posterior,
    unit_rows,
    z_rows,
)
from facevae.latent.generation import (
    codes_with_directions,
    decoded,
    interpolation_codes,
    mean_codes,
    prior_codes,
)
from facevae.latent.priors import Prior
from facevae.model.vae import VAE
from facevae.plotting.grids import save_grid
from facevae.shards.batches import Shards, StoredImages
from facevae.shards.blocks import Images, one_by_one
from facevae.shards.requests import LABELLED_IMAGES
from facevae.shards.subsets import random_subset

# Directions of attributes are multiplied by this. Judged by eye: 1 leaves small features such as
# bangs or a goatee faint, 3 washes the face out.
_DIRECTION_FACTOR = 2


def _names(settings: Generate, shards: Shards) -> list[str]:
    # Without labels there are no directions, only originals and reconstructions.
    return settings.attributes if shards.attributes else []


def labelled_directions(vae: VAE, shards: Shards, names: list[str]) -> np.ndarray:
    """`attribute_directions` of the training images, or of a random subset of 20,000."""
    numbers = random_subset(shards.counts["train"], LABELLED_IMAGES)
    mu, _ = encode_split(vae, shards, "train", numbers)
    return attribute_directions(mu, shards.labels("train", names)[numbers])


def _in_turn(*sets: tuple[Images, int]) -> Iterator[np.ndarray]:
    """Some images of the first set, some of the second, and so on, until the first ends.

    Args:
        sets: each with how many of its images make a turn.
    """
    parts = [(one_by_one(each, AT_ONCE), count) for each, count in sets]
    first, turn = sets[0]
    for _ in range(len(first) // turn):
        for part, count in parts:
            yield from itertools.islice(part, count)


def save_pictures(vae: VAE, prior: Prior, shards: Shards, settings: Generate, folder: Path) -> None:
    """Write four grids of images into a folder.

    samples.png: decoded from latent codes that are drawn from the prior. The other grids show the
    first faces of the test split in file order. reconstructions.png: rows of originals, each with a
    row of reconstructions below it. interpolation.png: a row per pair of faces, with steps from one
    to the other. attributes.png: a row per face: the original, its reconstruction, and a column per
    attribute whose direction is added.

    Images are read and decoded some at a time.
    """
    rows, columns, pairs = settings.rows, settings.columns, reconstructed_rows(settings.rows)
    codes = mean_codes(vae, StoredImages(shards, "test", range(held_out_images(rows, columns))))
    names = _names(settings, shards)
    directions = np.zeros((1, vae.latent_size), np.float32)  # nothing added: the reconstruction
    if names:
        of_attributes = _DIRECTION_FACTOR * labelled_directions(vae, shards, names)
        directions = np.concatenate([directions, of_attributes])

    made = decoded(vae, prior_codes(rows * columns, vae.latent_size, settings.seed, prior))
    save_grid(one_by_one(made, AT_ONCE), columns, folder / "samples.png")

    originals = StoredImages(shards, "test", range(pairs * columns))
    both = _in_turn((originals, columns), (decoded(vae, codes[: pairs * columns]), columns))
    save_grid(both, columns, folder / "reconstructions.png")

    lines = decoded(vae, interpolation_codes(codes[:rows], codes[rows : 2 * rows], columns))
    save_grid(one_by_one(lines, AT_ONCE), columns, folder / "interpolation.png")

    faces = StoredImages(shards, "test", range(rows))
    changed = decoded(vae, codes_with_directions(codes[:rows], directions))
    added = ["+ " + name.replace("_", "\n") for name in names]
    save_grid(
        _in_turn((faces, 1), (changed, 1 + len(names))),
        2 + len(names),
        folder / "attributes.png",
        ["original", "reconstruction", *added],
    )


def save_tables(vae: VAE, shards: Shards, seed: int, folder: Path) -> None:
    """Write latents.csv, z_histograms.csv and radii.csv: statistics of the test split's codes.

    Args:
        seed: of the z that is drawn for each image.
    """
    mu, log_var = encode_split(vae, shards, "test", np.arange(shards.counts["test"]))
    z = sample_posterior(mu, log_var, seed)
    write_text(folder / "latents.csv", rows_csv(unit_rows(mu, log_var)))
    write_text(folder / "z_histograms.csv", rows_csv(z_rows(z)))
    write_text(folder / "radii.csv", rows_csv(radius_rows(z)))
