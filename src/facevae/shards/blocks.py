"""Sets of images that may be too large to hold at once: worked on block by block."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

_SIDE = 96  # pixels, of the images that numbers of images are given for


class Images(Protocol):
    """A set of images by their numbers: an array, or an object that reads or makes those asked for.

    Attributes:
        shape: (count, height, width, 3).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: slice | np.ndarray, /) -> np.ndarray:
        """The images of a slice, or of an array of numbers: float in [0, 1]."""
        ...


def images_at_once(side: int, most: int) -> int:
    """How many images are worked on at a time, so that their memory does not depend on their size.

    Args:
        side: of the images, pixels.
        most: how many images of up to 96 pixels.

    Returns:
        As many as hold the pixels of `most` images of 96 x 96, at least 1.
    """
    return max(1, min(most, most * _SIDE**2 // side**2))


def blocks(count: int, at_once: int) -> Iterator[slice]:
    """Slices of at most `at_once`, which together are 0 to `count`."""
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


def one_by_one(images: Images, most: int) -> Iterator[np.ndarray]:
    """The images of a set, (height, width, 3) each; as `images_at_once` says are asked for."""
    for block in blocks(len(images), images_at_once(images.shape[1], most)):
        yield from images[block]
