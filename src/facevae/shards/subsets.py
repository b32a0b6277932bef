"""Which images stand for a split that is too large to use whole.

Never the first ones: the order of file names may mean something, such as the source of the images.
This module does not import TensorFlow.
"""

import numpy as np

_SEED = 0


def random_subset(count: int, most: int) -> np.ndarray:
    """The numbers of some of `count` images, drawn at random without replacement.

    Args:
        most: how many, if there are so many.

    Returns:
        (min(count, most),) int64, ascending: the same for the same arguments.
    """
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).choice(count, most, replace=False))
