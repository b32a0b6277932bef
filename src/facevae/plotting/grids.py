"""Grids of images as PNG files."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from facevae.common.files import atomic_write

_GAP = 2  # white pixels between images
_FONT_SIZES = range(13, 3, -1)  # of titles, pixels; the largest whose titles fit is taken


def image_grid(images: Iterable[np.ndarray], columns: int) -> Image.Image:
    """One picture of many images, with white gaps of 2 pixels between them.

    Args:
        images: (height, width, 3) in [0, 1] each, placed left to right, then top to bottom. They
            are asked for one by one.
        columns: images in a row.

    Raises:
        ValueError: the count is not a multiple of `columns`.
    """
    pixels = [np.round(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8) for image in images]
    if len(pixels) % columns:
        raise ValueError(f"{len(pixels)} images do not fill rows of {columns}")
    height, width = (side + _GAP for side in pixels[0].shape[:2])
    size = (columns * width + _GAP, len(pixels) // columns * height + _GAP)
    canvas = Image.new("RGB", size, "white")
    for number, image in enumerate(pixels):
        row, column = divmod(number, columns)
        canvas.paste(Image.fromarray(image), (_GAP + column * width, _GAP + row * height))
    return canvas


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
    images: Iterable[np.ndarray], columns: int, path: Path, titles: Sequence[str] | None = None
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
