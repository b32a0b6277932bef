"""Grids of images as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facevae.common.files import atomic_write

_GAP = 2  # white pixels between images
_FONT_SIZES = range(13, 3, -1)  # of titles, pixels; the largest whose titles fit is taken


def image_grid(images: np.ndarray, columns: int) -> Image.Image:
    """One picture of many images, with white gaps of 2 pixels between them.

    Args:
        images: (count, height, width, 3) in [0, 1], placed left to right, then top to bottom.
        columns: images in a row.

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


def _with_titles(grid: Image.Image, titles: Sequence[str]) -> Image.Image:
    """The grid with a title over each column, in a font size at which the titles fit."""
    width = (grid.width - _GAP) // len(titles)
    pen = ImageDraw.Draw(grid)
    for size in _FONT_SIZES:
        font = ImageFont.load_default(size)
        boxes = [pen.multiline_textbbox((0, 0), title, font) for title in titles]
        if max(right - left for left, _, right, _ in boxes) <= width - _GAP:
            break
    height = round(max(bottom for *_, bottom in boxes)) + 2 * _GAP
    canvas = Image.new("RGB", (grid.width, height + grid.height), "white")
    canvas.paste(grid, (0, height))
    pen = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        middle = _GAP / 2 + (column + 0.5) * width
        pen.multiline_text((middle, height), title, "black", font, "md", align="center")
    return canvas


def save_grid(
    images: np.ndarray, columns: int, path: Path, titles: Sequence[str] | None = None
) -> None:
    """Write `image_grid` as a PNG file.

    Args:
        images, columns: as `image_grid` takes them.
        path: the PNG file.
        titles: one per column, written above it; None: no titles.

    Raises:
        ValueError: as `image_grid`.
    """
    grid = image_grid(images, columns)
    with atomic_write(path) as temporary:
        (_with_titles(grid, titles) if titles else grid).save(temporary, "PNG")
