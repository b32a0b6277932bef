"""What the metrics of faces see and cost: spoiled images beside the originals.

The images are those of FACEVAE_CELEBA's test split, or drawn faces. Each is compared with itself
after it was spoiled, as a reconstruction is compared with its original; and the faces of the first
half with those of the other half after they were spoiled, as samples are compared with real images.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import pdist

from benchmarks.harness import prepare_images, print_table, project_parameters
from facevae.common.runtime import load_tensorflow


def _noisy(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    return images + strength * noise


def _blurred(images: np.ndarray, pixels: float) -> np.ndarray:
    return gaussian_filter(images, (0, pixels, pixels, 0))


SPOILED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": np.copy,
    **{
        f"blurred, standard deviation {pixels} pixels": partial(_blurred, pixels=pixels)
        for pixels in (1.0, 1.5, 2.0, 3.0)
    },
    **{
        f"noise, standard deviation {strength}": partial(_noisy, strength=strength)
        for strength in (0.05, 0.1, 0.2)
    },
    "half as bright": lambda images: images / 2,
    "mirrored": lambda images: images[:, :, ::-1],
}


def rows(images: np.ndarray) -> Iterator[tuple[str, ...]]:
    """What is measured of images that are spoiled, and of each with another of them."""
    from facevae.evaluation.face_metrics import (
        Faces,
        describe,
        identity_metrics,
        pair_distances,
        set_metrics,
    )

    def row(name: str, metrics: Mapping[str, float | None]) -> tuple[str, ...]:
        names = "face_share", "face_distance", "same_person", "face_frechet_distance"
        numbers = (metrics.get(name) for name in names)
        return name, *("" if number is None else f"{number:.3f}" for number in numbers)

    describe(images[:1], 1)  # reads the networks
    start = time.process_time()
    describe(images, 0)
    finding = time.process_time() - start
    originals = describe(images, len(images))
    describing = time.process_time() - start - 2 * finding
    half = len(images) // 2
    real = Faces(originals.found, originals.descriptors[: originals.found[:half].sum()])
    for name, spoil in SPOILED.items():
        faces = describe(spoil(images), len(images))
        others = Faces(faces.found, faces.descriptors[faces.found[:half].sum() :])
        pairs = identity_metrics(pair_distances(originals, faces))
        yield row(name, {**set_metrics(real, others), **pairs})
    apart = pdist(originals.descriptors)
    yield row("another of them", {**identity_metrics(apart), "face_share": None})
    print(
        f"\nOriginals with a face: {len(originals.descriptors)} of {len(images)}. Seconds of a "
        f"processor for 100: {100 * finding / len(images):.2f} to find faces, "
        f"{100 * describing / len(originals.descriptors):.1f} to describe them."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="of the test split, at most")
    count = parser.parse_args().images
    load_tensorflow()
    from facevae.shards.batches import Shards, load_images

    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(prepare_images(Path(folder), project_parameters({})))
        images = load_images(shards, "test")
    drawn = np.random.default_rng(0).permutation(len(images))[:count]
    print_table(
        ["images", "face found", "distance", "same person", "Frechet distance"],
        rows(images[np.sort(drawn)]),
    )


if __name__ == "__main__":
    main()
