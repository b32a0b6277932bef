"""How good images are, measured without anybody's weights: pairs of images, and sets of them.

Images are arrays (count, height, width, 3) of float in [0, 1]. What is not defined for images of
some size is refused there: below `SSIM_SIDE`, `MS_SSIM_SIDE` and `WASSERSTEIN_SIDE`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from facevae.errors import UserError

_WINDOW = 11  # of SSIM, pixels

# The smallest images, pixels a side, of which there is such a figure.
SSIM_SIDE = _WINDOW
MS_SSIM_SIDE = 2 * _WINDOW  # two scales
WASSERSTEIN_SIDE = 16  # the smallest level of arXiv 1710.10196

# Exponents of MS-SSIM's scales, finest first (Wang, Simoncelli & Bovik 2003).
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# Sliced Wasserstein distance, as published with arXiv 1710.10196.
_PATCH = 7
_PATCHES_PER_IMAGE = 128
_DIRECTIONS = 512
_SCALE = 1e3

# Bytes that the projections of patches may take: as many directions at a time as fit.
_PROJECTIONS = 256 * 2**20
NEIGHBOURS = 3  # of precision and recall; a set has more images

_BLOCK = 64  # images in work at a time

_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def _paired(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(f"images {first.shape} and {second.shape} are not pairs")


def _at_least(images: np.ndarray, side: int, what: str) -> None:
    if min(images.shape[1:3]) < side:
        height, width = images.shape[1:3]
        raise UserError(
            f"{what} needs images of {side} x {side} pixels or more, not {height} x {width}"
        )


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair, 1 for equal images: tf.image's, Gaussian window of 11.

    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".

    Args:
        first, second: (count, height, width, 3).

    Returns:
        (count,) float64, mean over positions and channels.

    Raises:
        UserError: the images are smaller than the window of 11 pixels.
        ValueError: they are not pairs.
    """
    _paired(first, second)
    _at_least(first, SSIM_SIDE, "SSIM")
    found = [tf.image.ssim(first[block], second[block], 1.0) for block in _blocks(len(first))]
    return np.concatenate(found).astype(np.float64)


def ms_ssim_scales(side: int) -> int:
    """How many of MS-SSIM's five scales, each half the last, hold its window of 11 pixels."""
    return sum(side >> scale >= _WINDOW for scale in range(len(_SCALE_WEIGHTS)))


def ms_ssim(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Multi-scale structural similarity of each pair, 1 for equal images: tf.image's.

    Wang, Simoncelli & Bovik 2003, "Multiscale structural similarity for image quality assessment":
    five scales, the last of images 16 times smaller. Images of less than 176 pixels do not hold
    the window of 11 pixels there. The window is kept and the scales are left out, rather than the
    other way round: with a smaller one, SSIM's Gaussian of sigma 1.5 would be cut off, and every
    scale would measure something else. The exponents of those that remain are scaled to sum to 1.
    There are four at 96 pixels, so that figures compare at equal image sizes only.

    Args and Returns: as `ssim`.

    Raises:
        UserError: less than two scales fit, for images of less than 22 pixels.
        ValueError: they are not pairs.
    """
    _paired(first, second)
    _at_least(first, MS_SSIM_SIDE, "MS-SSIM")
    weights = np.array(_SCALE_WEIGHTS[: ms_ssim_scales(min(first.shape[1:3]))])
    weights /= weights.sum()
    found = [
        tf.image.ssim_multiscale(first[block], second[block], 1.0, power_factors=weights)
        for block in _blocks(len(first))
    ]
    return np.concatenate(found).astype(np.float64)


def diversity(images: np.ndarray, *, seed: int = 0) -> float:
    """Mean `ms_ssim` over random pairs of a set: the smaller, the more its images differ.

    Odena et al. 2016, arXiv 1610.09585. It says something only beside that of real images. There
    are as many pairs as images; each image is in two, and never beside itself.

    Args:
        images: (count, height, width, 3), at least two.
        seed: of the pairs.

    Raises:
        UserError: the images are too small for MS-SSIM.
        ValueError: there are no two of them.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} images make no pairs")
    order = np.random.default_rng(seed).permutation(len(images))
    others = np.roll(order, 1)
    # Block by block: the pairs of a whole set would be two more of it.
    found = [ms_ssim(images[order[block]], images[others[block]]) for block in _blocks(len(order))]
    return float(np.mean(np.concatenate(found)))


def sharpness(images: np.ndarray) -> float:
    """Variance over the pixels of the 3x3 Laplacian of the grey image, mean over images.

    Tolstikhin et al. 2017, arXiv 1711.01558, appendix: kernel [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    no padding. Grey is 0.299 red + 0.587 green + 0.114 blue. It takes noise for sharpness, too.

    Args:
        images: (count, height, width, 3), at least 3 pixels a side.
    """
    variances = []
    for block in _blocks(len(images)):
        grey = images[block].astype(np.float64) @ [0.299, 0.587, 0.114]
        laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
        laplacian -= 4.0 * grey[:, 1:-1, 1:-1]
        variances.append(laplacian.var(axis=(1, 2)))
    return float(np.mean(np.concatenate(variances)))


def sharpness_ratio(images: np.ndarray, real: np.ndarray) -> float | None:
    """`sharpness` of images over that of real ones; None if those are flat."""
    of_real = sharpness(real)
    return sharpness(images) / of_real if of_real else None


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


def _halved(images: np.ndarray) -> np.ndarray:
    """Smoothed with the binomial filter of 5 and every other pixel taken, mirrored at the edges."""
    for axis in (1, 2):
        pad = [(0, 0)] * images.ndim
        pad[axis] = (2, 2)
        padded = np.pad(images, pad, mode="reflect")
        end = padded.shape[axis]
        images = sum(
            weight * padded[_along(axis, slice(start, end - 4 + start, 2))]
            for start, weight in enumerate(_BINOMIAL)
        )
    return images


def _doubled(images: np.ndarray) -> np.ndarray:
    """Zeros between the pixels, then 2 x the same filter each way: written out for both phases."""
    for axis in (1, 2):
        size = images.shape[axis]
        before = images.take([1, *range(size - 1)], axis)
        after = images.take([*range(1, size), size - 1], axis)
        shape = list(images.shape)
        shape[axis] *= 2
        larger = np.empty(shape, images.dtype)
        larger[_along(axis, slice(0, None, 2))] = (before + 6 * images + after) / 8
        larger[_along(axis, slice(1, None, 2))] = (images + after) / 2
        images = larger
    return images


def laplacian_level(images: np.ndarray, level: int, levels: int) -> np.ndarray:
    """One level of the Laplacian pyramid (Burt & Adelson 1983), as in arXiv 1710.10196's code.

    Args:
        images: (count, height, width, 3), both sides divisible by 2^(levels - 1).
        level: 0 for the finest.
        levels: of the pyramid; the last is the smallest image itself, not a difference.

    Returns:
        (count, height / 2^level, width / 2^level, 3) float32.
    """
    images = images.astype(np.float32)
    for _ in range(level):
        images = _halved(images)
    return images if level == levels - 1 else images - _doubled(_halved(images))


def pyramid_sides(side: int) -> list[int]:
    """Sides of the pyramid's levels: 96, 48, 24 for 96; none for images of less than 16 pixels."""
    sides = [side] if side >= WASSERSTEIN_SIDE else []
    while sides and sides[-1] % 2 == 0 and sides[-1] // 2 >= WASSERSTEIN_SIDE:
        sides.append(sides[-1] // 2)
    return sides


def _patches(images: np.ndarray, corners: np.ndarray, level: int, levels: int) -> np.ndarray:
    """Patches of a level at corners (count, patches, 2): (count * patches, 147) float32."""
    per_image = corners.shape[1]
    patches = np.empty((len(images) * per_image, 3 * _PATCH**2), np.float32)
    for block in _blocks(len(images)):
        pixels = laplacian_level(images[block], level, levels)
        count, height, width, channels = pixels.shape
        rows, columns = corners[block, :, 0], corners[block, :, 1]
        corner = ((np.arange(count)[:, None] * height + rows) * width + columns) * channels
        down, right, channel = np.ogrid[:_PATCH, :_PATCH, :channels]
        offsets = ((down * width + right) * channels + channel).ravel()
        taken = pixels.ravel()[corner.reshape(-1, 1) + offsets]
        patches[block.start * per_image : block.stop * per_image] = taken
    return patches


def _mean_and_deviation(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per channel over all patches, spread over the values of a patch: twice (147,) float64."""
    # The sums are in float64, and without a copy of all patches in it.
    squares = np.einsum("ij,ij->j", patches, patches, dtype=np.float64)
    of_values = patches.mean(axis=0, dtype=np.float64), squares / len(patches)
    mean, square = (values.reshape(-1, 3).mean(axis=0) for values in of_values)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    deviation[deviation == 0.0] = 1.0  # of one colour: nothing to scale
    return np.tile(mean, _PATCH**2), np.tile(deviation, _PATCH**2)


class SlicedWasserstein(NamedTuple):
    """Sliced Wasserstein distances x 1e3, by the side of the pyramid's level in pixels.

    Attributes:
        published: each set's patches normalised by their own mean and deviation. It does not see
            what a common factor undoes: blur, above all.
        real_normalization: both normalised by those of the real set's patches.
    """

    published: dict[int, float]
    real_normalization: dict[int, float]


def sliced_wasserstein(
    real: np.ndarray, generated: np.ndarray, *, seed: int = 0
) -> SlicedWasserstein:
    """Distance of two sets of images by the distribution of their patches, per level of detail.

    Karras et al. 2017, arXiv 1710.10196, section 5: 128 patches of 7 x 7 pixels an image, of the
    Laplacian pyramid down to 16 pixels, each channel normalised; the mean over 512 random
    directions of the Wasserstein-1 distance of the patches projected onto them. A level's patches
    lie at the same places in both sets, so that the distance of a set to itself is 0, up to the
    rounding of float32 (below 1e-3). Between two sets of real images it is not: the distance falls
    with the count, and compares at equal counts only.

    What it holds is the patches of a level, two thirds of the size of 96-pixel images in float32,
    and 256 MiB of projections.

    Args:
        real, generated: (count, side, side, 3), the same count.
        seed: of patches and directions.

    Raises:
        UserError: the images are smaller than 16 pixels.
        ValueError: the sets differ in shape.
    """
    _paired(real, generated)
    _at_least(real, WASSERSTEIN_SIDE, "the sliced Wasserstein distance")
    random = np.random.default_rng(seed)
    sides = pyramid_sides(real.shape[1])
    published, real_normalization = {}, {}
    for level, side in enumerate(sides):
        shape = (len(real), _PATCHES_PER_IMAGE, 2)
        corners = random.integers(side - _PATCH + 1, size=shape, dtype=np.int16)
        directions = random.standard_normal((3 * _PATCH**2, _DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        published[side], real_normalization[side] = _level_distances(
            _patches(real, corners, level, len(sides)),
            _patches(generated, corners, level, len(sides)),
            directions,
        )
    return SlicedWasserstein(published, real_normalization)


def _level_distances(
    real: np.ndarray, generated: np.ndarray, directions: np.ndarray
) -> tuple[float, float]:
    """Published and with the real normalisation, of patches (count, 147) each."""

    def projected(
        patches: np.ndarray, weights: Sequence[np.ndarray], origins: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Patches less an origin, times weights: (all directions, patches) float32, sorted."""
        joined = np.concatenate(weights, axis=1).T.astype(np.float32)
        shifts = [origin @ weight for origin, weight in zip(origins, weights, strict=True)]
        projections = joined @ patches.T
        projections -= np.concatenate(shifts).astype(np.float32)[:, None]
        projections.sort(axis=1)
        return projections

    mean, deviation = _mean_and_deviation(real)
    own_mean, own_deviation = _mean_and_deviation(generated)

    def summed(chosen: np.ndarray) -> np.ndarray:
        """Both distances, (2,), summed over some directions; what it held is free afterwards."""
        by_real, by_own = chosen / deviation[:, None], chosen / own_deviation[:, None]
        reference = projected(real, [by_real], [mean])
        both = projected(generated, [by_own, by_real], [own_mean, mean])
        both = both.reshape(2, *reference.shape)
        distances = [
            np.abs(others - one).mean(axis=1, dtype=np.float64)
            for one, others in zip(reference, both.swapaxes(0, 1), strict=True)
        ]
        return np.sum(distances, axis=0)

    # Three projections of a patch: the real one, and the generated one normalised both ways.
    at_once = max(1, _PROJECTIONS // (3 * 4 * len(real)))
    starts = range(0, _DIRECTIONS, at_once)
    totals = np.sum([summed(directions[:, start : start + at_once]) for start in starts], axis=0)
    published, real_normalization = (_SCALE * totals / _DIRECTIONS).tolist()
    return published, real_normalization


def frechet_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), S the sample covariances (Heusel et al. 2017,
    arXiv 1706.08500, equation 6; FID with the features of Inception).

    Args:
        real, generated: (count, dimensions), at least two of each.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    shift = real.mean(axis=0) - generated.mean(axis=0)
    # S = R'R, R with as many rows as there are points, or dimensions, whichever are fewer.
    first, second = (
        np.linalg.qr((x - x.mean(axis=0)) / np.sqrt(len(x) - 1)).R for x in (real, generated)
    )
    # The eigenvalues of S1 S2 are the squares of the singular values of R1 R2'.
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(shift @ shift + np.square(first).sum() + np.square(second).sum() - 2.0 * cross)


def _squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    squares = np.square(points).sum(1)[:, None] + np.square(others).sum(1)
    return np.maximum(squares - 2.0 * points @ others.T, 0.0)


def _coverage(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """Share of points within the ball of a point of `manifold` to its so-manieth neighbour."""
    radii = np.concatenate(
        [
            # The nearest is the point itself.
            np.partition(_squared_distances(manifold[block], manifold), neighbours)[:, neighbours]
            for block in _blocks(len(manifold))
        ]
    )
    inside = [
        (_squared_distances(points[block], manifold) <= radii).any(axis=1)
        for block in _blocks(len(points))
    ]
    return float(np.mean(np.concatenate(inside)))


def precision_and_recall(
    real: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """How much of what is generated could be real, and how much of what is real is generated.

    Kynkäänniemi et al. 2019, arXiv 1904.06991: a set's manifold is the union of balls around its
    points, each as large as the distance to its `neighbours`-th nearest neighbour. Precision is
    the share of generated points in the real manifold, recall that of real ones in the generated.

    Args:
        real, generated: features (count, dimensions).
        neighbours: the published 3; both sets have more points.

    Raises:
        ValueError: a set has too few points.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise ValueError(f"no point has {neighbours} neighbours in a set of so few")
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    # Distances do not change with the origin, and lose least to rounding near the mean.
    origin = real.mean(axis=0)
    real, generated = real - origin, generated - origin
    return _coverage(generated, real, neighbours), _coverage(real, generated, neighbours)
