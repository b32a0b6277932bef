"""Grids of images as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image

from facevae.files import written_whole

_GAP = 2  # white pixels between images


def image_grid(images: np.ndarray, columns: int) -> Image.Image:
    """Images (count, height, width, 3) in [0, 1], left to right, then top to bottom.

    Raises:
        ValueError: the count is not a multiple of `columns`.
    """
    count, height, width, channels = images.shape
    if count % columns:
        raise ValueError(f"{count} images do not fill rows of {columns}")
    rows = count // columns
    pixels = np.round(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)
    canvas = np.full(
        (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), 255, np.uint8
    )
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas)


def save_grid(images: np.ndarray, columns: int, path: Path) -> None:
    """Write `image_grid` to a PNG file."""
    with written_whole(path) as temporary:
        image_grid(images, columns).save(temporary, "PNG")
