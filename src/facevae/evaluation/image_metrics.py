"""Metrics of pixels: PSNR, SSIM and MS-SSIM of pairs of images; diversity and sharpness of a set.

Images are (count, height, width, 3) of float in [0, 1]; pairs are arrays. SSIM raises an error for
images smaller than `SSIM_SIDE`, MS-SSIM and diversity for images smaller than `MS_SSIM_SIDE`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.common.errors import UserError
from facevae.evaluation.inputs import (
    SEED,
    Inputs,
    RealSets,
    ReconstructedBatch,
    SampleMetrics,
    SplitMetrics,
)
from facevae.shards.blocks import Images, blocks, images_at_once

_WINDOW = 11  # side of SSIM's window, pixels

# Smallest side of an image, pixels, for which the metric is defined.
SSIM_SIDE = _WINDOW
MS_SSIM_SIDE = 2 * _WINDOW  # two scales

# Exponents of MS-SSIM's scales, finest first (Wang, Simoncelli & Bovik 2003).
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

_AT_ONCE = 64  # images of up to 96 pixels that are worked on at a time


def check_pairs(first: Images, second: Images) -> None:
    """Raise a ValueError unless two sets of images have the same shape."""
    if first.shape != second.shape:
        raise ValueError(f"images {first.shape} and {second.shape} are not pairs")


def check_side(images: Images, side: int, what: str) -> None:
    """Raise a UserError if images are smaller than the `side` pixels that a metric needs.

    Args:
        what: name of the metric.
    """
    if min(images.shape[1:3]) < side:
        height, width = images.shape[1:3]
        raise UserError(
            f"{what} needs images of {side} x {side} pixels or more, not {height} x {width}"
        )


def image_blocks(images: Images) -> Iterator[slice]:
    """Slices of at most 64 images, fewer if they are large: intermediate results take memory."""
    return blocks(len(images), images_at_once(images.shape[1], _AT_ONCE))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of images, 1 for equal images.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity",
    as tf.image.ssim computes it, with a Gaussian window of 11 pixels.

    Args:
        first, second: (count, height, width, 3).

    Returns:
        (count,) float64, means over positions and channels.

    Raises:
        UserError: the images are smaller than the window of 11 pixels.
        ValueError: the sets differ in shape.
    """
    check_pairs(first, second)
    check_side(first, SSIM_SIDE, "SSIM")
    found = [tf.image.ssim(first[block], second[block], 1.0) for block in image_blocks(first)]
    return np.concatenate(found).astype(np.float64)


def ms_ssim_scales(side: int) -> int:
    """How many of MS-SSIM's five scales, each half the size, hold its window of 11 pixels."""
    return sum(side >> scale >= _WINDOW for scale in range(len(_SCALE_WEIGHTS)))


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of each pair of images, 1 for equal images.

    Wang, Simoncelli & Bovik 2003, "Multiscale structural similarity for image quality assessment",
    as tf.image.ssim_multiscale computes it: five scales, each half the size of the one before.

    Images smaller than 176 pixels do not hold the window of 11 pixels at all five scales. The
    scales that do not hold it are left out, and the exponents of the others are rescaled to sum to
    1. (A smaller window would cut off SSIM's Gaussian of sigma 1.5, and every scale would measure
    something else.) At 96 pixels there are four scales. Values are therefore comparable at equal
    image sizes only.

    Args and Returns: as `ssim`.

    Raises:
        UserError: fewer than two scales remain: the images are smaller than 22 pixels.
        ValueError: the sets differ in shape.
    """
    check_pairs(first, second)
    check_side(first, MS_SSIM_SIDE, "MS-SSIM")
    weights = np.array(_SCALE_WEIGHTS[: ms_ssim_scales(min(first.shape[1:3]))])
    weights /= weights.sum()
    found = [
        tf.image.ssim_multiscale(first[block], second[block], 1.0, power_factors=weights)
        for block in image_blocks(first)
    ]
    return np.concatenate(found).astype(np.float64)


def diversity(images: Images, *, seed: int = 0) -> float:
    """Mean `ms_ssim` over random pairs of a set: the smaller, the more its images differ.

    Odena et al. 2016, arXiv 1610.09585. It is meaningful only in comparison with real images.
    There are as many pairs as images. Each image is in two pairs, and never paired with itself.

    Args:
        images: (count, height, width, 3), at least two.
        seed: of the pairs.

    Raises:
        UserError: the images are too small for MS-SSIM.
        ValueError: there are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} images make no pairs")
    order = np.random.default_rng(seed).permutation(len(images))
    others = np.roll(order, 1)
    # Block by block: all pairs at once would be two copies of the set.
    found = [ms_ssim(images[order[block]], images[others[block]]) for block in image_blocks(images)]
    return float(np.mean(np.concatenate(found)))


def sharpness(images: Images) -> float:
    """Variance over the pixels of the 3x3 Laplacian of the grey image, mean over images.

    Tolstikhin et al. 2017, arXiv 1711.01558, appendix: kernel [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    no padding. Grey is 0.299 red + 0.587 green + 0.114 blue. Noise increases it, too.

    Args:
        images: (count, height, width, 3), at least 3 pixels a side.
    """
    variances = []
    for block in image_blocks(images):
        grey = images[block].astype(np.float64) @ [0.299, 0.587, 0.114]
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        laplacian -= 4.0 * grey[:, 1:-1, 1:-1]
        variances.append(laplacian.var(axis=(1, 2)))
    return float(np.mean(np.concatenate(variances)))


def sharpness_ratio(images: Images, real: Images) -> float | None:
    """`sharpness` of images divided by that of real images; None if that is 0."""
    of_real = sharpness(real)
    return sharpness(images) / of_real if of_real else None


def psnr(originals: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image, dB, for pixel values in [0, 1].

    PSNR = -10 log10(MSE), the MSE over height, width and channels, in float64: tf.image.psnr
    computes in float32, which is off by 1e-6 dB in the mean over images and 1e-5 dB for one.

    Args:
        originals, reconstructed: (count, height, width, channels).

    Returns:
        (count,) float64.
    """
    difference = reconstructed.astype(np.float64) - originals
    return -10.0 * np.log10(np.mean(np.square(difference), axis=(1, 2, 3)))


# Metrics of pairs of images, each with the smallest side, pixels, for which it is defined.
_OF_PAIRS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]] = {
    "psnr": (psnr, 1),
    "ssim": (ssim, SSIM_SIDE),
    "ms_ssim": (ms_ssim, MS_SSIM_SIDE),
}


class ReconstructionQuality(SplitMetrics):
    """psnr (dB), ssim and ms_ssim of reconstructions from mu: means over images.

    A metric is None if the images are too small for it.
    """

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._found: dict[str, list[np.ndarray]] = {name: [] for name in _OF_PAIRS}

    def update(self, batch: ReconstructedBatch) -> None:
        for name, (measure, side) in _OF_PAIRS.items():
            if self.inputs.shards.image_size >= side:
                self._found[name].append(measure(batch.images, batch.reconstructions))

    def result(self) -> dict[str, Any]:
        return {
            name: np.mean(np.concatenate(values)) if values else None
            for name, values in self._found.items()
        }


class Sharpness(SampleMetrics):
    """sharpness: `sharpness_ratio` to the real images."""

    def __init__(self, sets: RealSets) -> None:
        self._real = sharpness(sets.real)

    def of(self, images: Images) -> dict[str, Any]:
        return {"sharpness": sharpness(images) / self._real if self._real else None}


class Diversity(SampleMetrics):
    """diversity: of the set itself, whatever the real images are.

    None for images that are too small for `ms_ssim`, and for sets of one image.
    """

    def __init__(self, sets: RealSets) -> None:
        self._defined = sets.real.shape[1] >= MS_SSIM_SIDE and len(sets.real) > 1

    def of(self, images: Images) -> dict[str, Any]:
        return {"diversity": diversity(images, seed=SEED) if self._defined else None}
