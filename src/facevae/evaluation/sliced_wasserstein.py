"""The sliced Wasserstein distance between two sets of images.

Karras et al. 2017, arXiv 1710.10196, section 5. Images are sets (count, side, side, 3) of
float in [0, 1].
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from facevae.common.limits import worker_processes
from facevae.evaluation.image_metrics import check_pairs, check_side, image_blocks
from facevae.evaluation.inputs import SEED, RealSets, SampleMetrics
from facevae.shards.blocks import Images, blocks

WASSERSTEIN_SIDE = 16  # smallest side of a level, and so of an image, pixels

# As published with arXiv 1710.10196.
_PATCH = 7
_PATCHES_PER_IMAGE = 128
_DIRECTIONS = 512
_SCALE = 1e3

# Directions that a thread works on at a time: their projections stay in the processor's cache.
_AT_ONCE = 16

# Most bytes of projections of patches that all threads work on at a time, and of those that are
# held for further sets.
_PROJECTIONS = 256 * 2**20
_HELD = 256 * 2**20

_BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


# scipy.ndimage.convolve1d would be as fast, and change the distances in the eighth digit.
def _halved(images: np.ndarray) -> np.ndarray:
    """Every other pixel of images smoothed with the binomial filter of 5, edges mirrored."""
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
    """Images with zeros inserted between the pixels, smoothed with twice the same filter.

    Written out for both phases, the pixels and the zeros between them.
    """
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
    """One level of the Laplacian pyramid (Burt & Adelson 1983), as in the code of arXiv 1710.10196.

    Args:
        images: (count, height, width, 3), both sides divisible by 2^(levels - 1).
        level: its number; 0 is the finest.
        levels: levels of the pyramid; the last is the smallest image itself, not a difference.

    Returns:
        (count, height / 2^level, width / 2^level, 3) float32.
    """
    images = images.astype(np.float32)
    for _ in range(level):
        images = _halved(images)
    return images if level == levels - 1 else images - _doubled(_halved(images))


def pyramid_sides(side: int) -> list[int]:
    """Sides of the pyramid's levels: 96, 48, 24 for 96; none for images smaller than 16 pixels."""
    sides = [side] if side >= WASSERSTEIN_SIDE else []
    while sides and sides[-1] % 2 == 0 and sides[-1] // 2 >= WASSERSTEIN_SIDE:
        sides.append(sides[-1] // 2)
    return sides


def _patches(images: Images, corners: np.ndarray, level: int, levels: int) -> np.ndarray:
    """Patches of a level, (count * patches, 147) float32.

    Args:
        corners: top left corner, row and column, of each patch, (count, patches, 2).
    """
    per_image = corners.shape[1]
    patches = np.empty((len(images) * per_image, 3 * _PATCH**2), np.float32)
    for block in image_blocks(images):
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
    """Per channel over all patches, repeated for the values of a patch: two (147,) float64."""
    # Sums in float64, without a float64 copy of all patches.
    squares = np.einsum("ij,ij->j", patches, patches, dtype=np.float64)
    of_values = patches.mean(axis=0, dtype=np.float64), squares / len(patches)
    mean, square = (values.reshape(-1, 3).mean(axis=0) for values in of_values)
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    deviation[deviation == 0.0] = 1.0  # images of one colour: nothing to scale
    return np.tile(mean, _PATCH**2), np.tile(deviation, _PATCH**2)


class SlicedWasserstein(NamedTuple):
    """Sliced Wasserstein distances x 1e3, by the side of the pyramid's level in pixels.

    Attributes:
        published: the patches of each set are normalised by their own mean and standard deviation.
            It does not detect changes of contrast, and hardly detects blur.
        real_normalization: the patches of both sets are normalised by the mean and standard
            deviation of the real set's.
    """

    published: dict[int, float]
    real_normalization: dict[int, float]


class RealPatches:
    """A set of real images, and the sliced Wasserstein distances of other sets to it.

    Args:
        real: (count, side, side, 3).
        seed: of the positions of patches and of the directions.
        held: whether the sorted projections of the real patches are held for further sets, unless
            they take more than 256 MiB.

    Raises:
        UserError: the images are smaller than 16 pixels.
    """

    def __init__(self, real: Images, *, seed: int, held: bool) -> None:
        check_side(real, WASSERSTEIN_SIDE, "the sliced Wasserstein distance")
        self._real = real
        self._levels: list[_Level] = []
        random = np.random.default_rng(seed)
        sides = pyramid_sides(real.shape[1])
        for number, side in enumerate(sides):
            shape = (len(real), _PATCHES_PER_IMAGE, 2)
            corners = random.integers(side - _PATCH + 1, size=shape, dtype=np.int16)
            directions = random.standard_normal((3 * _PATCH**2, _DIRECTIONS))
            directions /= np.linalg.norm(directions, axis=0)
            self._levels.append(_Level(number, side, corners, directions))
        size = 4 * _DIRECTIONS * _PATCHES_PER_IMAGE * len(real) * len(sides)
        self._holds = held and size <= _HELD
        self._held: dict[int, _Reference] = {}

    def distances(self, generated: Images) -> SlicedWasserstein:
        """Those of a set of the same shape; see `sliced_wasserstein`.

        Raises:
            ValueError: the sets differ in shape.
        """
        check_pairs(self._real, generated)
        published, real_normalization = {}, {}
        for level in self._levels:
            found = self._level_distances(level, self._patches(generated, level))
            published[level.side], real_normalization[level.side] = found
        return SlicedWasserstein(published, real_normalization)

    def _patches(self, images: Images, level: "_Level") -> np.ndarray:
        return _patches(images, level.corners, level.number, len(self._levels))

    def _reference(self, level: "_Level") -> "_Reference":
        if level.number in self._held:
            return self._held[level.number]
        patches = self._patches(self._real, level)
        mean, deviation = _mean_and_deviation(patches)
        weights = level.directions / deviation[:, None]

        def projections(part: slice) -> np.ndarray:
            return _sorted_projections(patches, weights[:, part], mean)

        if not self._holds:
            return _Reference(mean, deviation, projections)
        whole = np.concatenate(_in_threads(projections, len(patches)))
        self._held[level.number] = _Reference(mean, deviation, whole.__getitem__)
        return self._held[level.number]

    def _level_distances(self, level: "_Level", patches: np.ndarray) -> tuple[float, float]:
        """The published distance and that with real normalisation, of patches (count, 147)."""
        reference = self._reference(level)
        own_mean, own_deviation = _mean_and_deviation(patches)
        forms = [
            (level.directions / deviation[:, None], mean)
            for deviation, mean in (
                (own_deviation, own_mean), (reference.deviation, reference.mean)
            )
        ]  # fmt: skip

        def summed(part: slice) -> list[float]:
            """Both distances, summed over some directions."""
            real = reference.projections(part)
            found = []
            for weights, mean in forms:
                projections = _sorted_projections(patches, weights[:, part], mean)
                projections -= real
                np.abs(projections, out=projections)
                found.append(projections.mean(axis=1, dtype=np.float64).sum())
            return found

        totals = np.sum(_in_threads(summed, len(patches)), axis=0)
        published, real_normalization = (_SCALE * totals / _DIRECTIONS).tolist()
        return published, real_normalization


class _Level(NamedTuple):
    number: int
    side: int  # pixels
    corners: np.ndarray  # of the patches, (count, patches, 2)
    directions: np.ndarray  # (147, directions)


class _Reference(NamedTuple):
    """The real patches of a level: their mean and deviation, and sorted projections of them."""

    mean: np.ndarray
    deviation: np.ndarray
    projections: Callable[[slice], np.ndarray]  # onto some directions, (directions, patches)


def _sorted_projections(patches: np.ndarray, weights: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(patches - origin) @ weights, (directions, patches) float32, each direction sorted."""
    projections = weights.T.astype(np.float32) @ patches.T
    projections -= (origin @ weights).astype(np.float32)[:, None]
    projections.sort(axis=1)
    return projections


def _in_threads(work: Callable[[slice], Any], patches: int) -> list[Any]:
    """What `work` returns for all directions, some at a time, on all cores.

    NumPy sorts and multiplies without Python's lock. One BLAS thread per call: the results then do
    not depend on the number of cores.
    """
    threads = worker_processes()
    # Projections of the real patches, and of the others normalised one way and its result.
    at_once = max(1, min(_AT_ONCE, _PROJECTIONS // (3 * 4 * patches * threads)))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks(_DIRECTIONS, at_once)))


def sliced_wasserstein(real: Images, generated: Images, *, seed: int = 0) -> SlicedWasserstein:
    """Distance between the distributions of patches of two sets of images, per level of detail.

    Karras et al. 2017, arXiv 1710.10196, section 5: 128 patches of 7 x 7 pixels per image, from
    each level of the Laplacian pyramid down to 16 pixels, each channel normalised; the mean over
    512 random directions of the Wasserstein-1 distance between the patches projected onto them.

    The patches of a level are at the same positions in both sets, so that the distance of a set to
    itself is 0, up to the rounding of float32 (below 1e-3). Between two sets of real images it is
    above 0 and falls with the number of images; distances are comparable at equal numbers only.

    Memory: the patches of one level, 74 KiB per image of both sets whatever its size, and 256 MiB
    of projections.

    Args:
        real, generated: (count, side, side, 3), the same count.
        seed: of the positions of patches and of the directions.

    Raises:
        UserError: the images are smaller than 16 pixels.
        ValueError: the sets differ in shape.
    """
    return RealPatches(real, seed=seed, held=False).distances(generated)


class SlicedWassersteinDistances(SampleMetrics):
    """swd and swd_real_normalization: `SlicedWasserstein`.

    Each is a dict of the distances by the side of the level, and of their "mean". For images that
    are too small there are no levels, and the mean is None.
    """

    def __init__(self, sets: RealSets) -> None:
        large_enough = sets.real.shape[1] >= WASSERSTEIN_SIDE
        self._real = RealPatches(sets.real, seed=SEED, held=True) if large_enough else None

    def of(self, images: Images) -> dict[str, Any]:
        forms = SlicedWasserstein({}, {}) if self._real is None else self._real.distances(images)
        return {
            name: {
                **{str(side): distance for side, distance in levels.items()},
                "mean": sum(levels.values()) / len(levels) if levels else None,
            }
            for name, levels in zip(("swd", "swd_real_normalization"), forms, strict=True)
        }
