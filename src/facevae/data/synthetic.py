"""Drawn faces in CelebA's layout: a substitute for CelebA that needs no download.

A face depends on its seed and index only. They determine a random description, and the description
determines the attributes and the picture. Eyes, nose and mouth are where CelebA's alignment puts
them, upright, so the same crops suit both data sets.

The faces vary in what a few minutes of training can show: many wear glasses or a hat, and the
background is of one colour.
"""

import contextlib
import dataclasses
import functools
import io
import math
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from facevae.common.files import atomic_write, exclusive_writer, has_only
from facevae.common.limits import worker_processes
from facevae.data.celeba import ARCHIVE, ATTRIBUTES, FOLDER, PARTITION, SPLITS
from facevae.data.executors import local_executor, run_tasks

WIDTH, HEIGHT = 178, 218

_SCALE = 2  # drawn at this multiple of the size, then averaged, which smooths the edges
_JPEG_QUALITY = 92
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # constant, so that the archive's bytes are reproducible
_IMAGES_PER_TASK = 50
_TASKS_PER_PROCESS = 4  # whose results may wait; a task's faces take 0.4 MB

Colour = tuple[int, int, int]

_HAIR: dict[str, list[Colour]] = {
    "Black_Hair": [(24, 20, 22), (38, 32, 34)],
    "Brown_Hair": [(84, 54, 34), (112, 74, 46), (64, 42, 30)],
    "Blond_Hair": [(222, 188, 120), (200, 160, 92), (236, 210, 152)],
    "Gray_Hair": [(150, 150, 152), (188, 188, 190)],
}
_SKIN: list[Colour] = [
    (250, 224, 206),
    (240, 204, 178),
    (226, 182, 148),
    (204, 154, 118),
    (164, 114, 82),
    (116, 76, 54),
]
_IRIS: list[Colour] = [(72, 46, 30), (96, 66, 40), (70, 110, 150), (84, 126, 96), (110, 120, 126)]
_LIPS: list[Colour] = [(178, 34, 58), (200, 60, 90), (150, 30, 50)]

# Of glasses. Lenses are tinted half as dark as this, because a VAE learns surfaces before lines.
_FRAME: Colour = (34, 30, 34)
_LENS: Colour = (30, 34, 48)

# The attributes that the pictures show, a subset of CelebA's, with its names and in its order.
ATTRIBUTE_NAMES = (
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Pale_Skin",
    "Rosy_Cheeks",
    "Smiling",
    "Wearing_Hat",
    "Wearing_Lipstick",
)


@dataclasses.dataclass(frozen=True)
class Face:
    """Description of a face: lengths in pixels of the 178x218 picture, colours in RGB."""

    skin_tone: int
    skin: Colour
    hair_name: str
    hair: Colour
    bald: bool
    bangs: bool
    long_hair: bool
    hat: Colour | None
    glasses: bool
    mustache: bool
    goatee: bool
    lipstick: Colour | None
    rosy: bool
    smile: float  # curvature of the mouth: > 0 upwards
    mouth_open: float
    lip_height: float
    nose_width: float
    eye_height: float
    brow_height: float
    brow_tilt: float
    iris: Colour
    face_width: float
    face_height: float
    yaw: float  # the head moves sideways behind the features
    background: Colour
    clothes: Colour

    def attributes(self) -> dict[str, bool]:
        """Whether the face has each of `ATTRIBUTE_NAMES`."""
        hair_shows = not self.bald
        drawn = {
            "Bald": self.bald,
            "Bangs": self.bangs,
            "Big_Lips": self.lip_height > 4.6,
            "Big_Nose": self.nose_width > 13,
            "Bushy_Eyebrows": self.brow_height > 4.6,
            "Eyeglasses": self.glasses,
            "Goatee": self.goatee,
            "Mouth_Slightly_Open": self.mouth_open > 0,
            "Mustache": self.mustache,
            "Narrow_Eyes": self.eye_height < 4.6,
            "No_Beard": not (self.goatee or self.mustache),
            "Pale_Skin": self.skin_tone == 0,
            "Rosy_Cheeks": self.rosy,
            "Smiling": self.smile > 0,
            "Wearing_Hat": self.hat is not None,
            "Wearing_Lipstick": self.lipstick is not None,
        }
        for name in _HAIR:
            drawn[name] = hair_shows and self.hair_name == name
        return {name: drawn[name] for name in ATTRIBUTE_NAMES}


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


def _shade_towards(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (
        round(a * (1 - share) + b * share) for a, b in zip(colour, other, strict=True)
    )
    return red, green, blue


def describe_face(seed: int, index: int) -> Face:
    """The description of face number `index` in the data set of `seed`."""
    random = np.random.default_rng((seed, index))

    def chance(probability: float) -> bool:
        return bool(random.random() < probability)

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    def jitter(colour: Colour, amount: float) -> Colour:
        return _shade(colour, between(1 - amount, 1 + amount))

    def pick(options):
        return options[int(random.integers(len(options)))]

    def any_colour() -> Colour:
        red, green, blue = (int(channel) for channel in random.integers(30, 226, 3))
        return red, green, blue

    bearded = chance(0.5)  # may have a beard, and then no lipstick
    skin_tone = int(random.integers(len(_SKIN)))
    hair_name = pick(list(_HAIR))
    bald = bearded and chance(0.15)
    hat = any_colour() if chance(0.2) else None
    smiling = chance(0.55)
    return Face(
        skin_tone=skin_tone,
        skin=jitter(_SKIN[skin_tone], 0.04),
        hair_name=hair_name,
        hair=jitter(pick(_HAIR[hair_name]), 0.12),
        bald=bald,
        bangs=not bald and hat is None and chance(0.35),
        long_hair=not bald and not bearded and chance(0.8),
        hat=hat,
        glasses=chance(0.3),
        mustache=bearded and chance(0.25),
        goatee=bearded and chance(0.25),
        lipstick=pick(_LIPS) if not bearded and chance(0.5) else None,
        rosy=chance(0.2),
        smile=between(3.0, 8.0) if smiling else between(-3.0, -0.5),
        mouth_open=between(4.0, 9.0) if chance(0.45) else 0.0,
        lip_height=between(2.8, 5.6),
        nose_width=between(8.0, 15.0),
        eye_height=between(3.8, 7.0),
        brow_height=between(2.4, 5.8),
        brow_tilt=between(-3.0, 3.0),
        iris=pick(_IRIS),
        face_width=between(92, 110),
        face_height=between(126, 146),
        yaw=between(-9, 9),
        background=_shade_towards(any_colour(), (140, 140, 140), 0.25),
        clothes=any_colour(),
    )


# Points of the unit circle.
_CIRCLE = [(math.cos(angle), math.sin(angle)) for angle in np.linspace(0, math.tau, 41).tolist()]


class _Pen:
    """Draws in the final picture's coordinates."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)

    @staticmethod
    def _scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * _SCALE, y * _SCALE) for x, y in points]

    def ellipse(self, x: float, y: float, width: float, height: float, fill: Colour) -> None:
        self.polygon([(x + a * width / 2, y + b * height / 2) for a, b in _CIRCLE], fill)

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self._draw.polygon(self._scaled(points), fill=fill)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        self._draw.line(self._scaled(points), fill, round(width * _SCALE), joint="curve")

    def ring(
        self, x: float, y: float, width: float, height: float, line: float, fill: Colour
    ) -> None:
        self.line([(x + a * width / 2, y + b * height / 2) for a, b in _CIRCLE], line, fill)


def _curve(x: float, y: float, width: float, bend: float) -> list[tuple[float, float]]:
    """Points of a parabola with its vertex at (x, y) and its ends `bend` pixels higher."""
    steps = np.linspace(-1.0, 1.0, 13)
    return [(x + step * width / 2, y - bend * step * step) for step in steps.tolist()]


def _draw_head(pen: _Pen, face: Face, x: float) -> None:
    top, width, height = 54.0, face.face_width, face.face_height
    middle = top + height / 2
    dark_hair = _shade(face.hair, 0.8)
    if face.long_hair:
        pen.ellipse(x, 122, width + 44, 178, dark_hair)
        pen.polygon(
            [
                (x - width / 2 - 22, 120),
                (x - width / 2 - 16, 204),
                (x + width / 2 + 16, 204),
                (x + width / 2 + 22, 120),
            ],
            dark_hair,
        )
    pen.ellipse(x, 246, 210, 108, face.clothes)
    pen.polygon(
        [(x - 24, 160), (x - 30, 206), (x + 30, 206), (x + 24, 160)], _shade(face.skin, 0.78)
    )
    pen.ellipse(x, 205, 58, 22, _shade(face.skin, 0.78))
    if not face.bald and not face.long_hair:
        pen.ellipse(x, 94, width + 14, 108, dark_hair)
    if not face.long_hair:
        for side in (-1, 1):
            pen.ellipse(x + side * width / 2, 122, 15, 28, _shade(face.skin, 0.85))
    pen.ellipse(x, middle, width, height, _shade(face.skin, 0.9))
    pen.ellipse(x + face.yaw / 3, middle - 1, width - 7, height - 7, face.skin)


def _draw_hair(pen: _Pen, face: Face, x: float) -> None:
    width = face.face_width
    if face.hat is not None:
        pen.ellipse(x, 68, width + 22, 76, face.hat)
        pen.ellipse(x, 84, width + 52, 22, _shade(face.hat, 0.7))
    elif face.bangs:
        outline = [
            (x + step * (width + 14) / 2, 88 - 42 * (1 - step * step) ** 0.5)
            for step in np.linspace(-1, 1, 17).tolist()
        ]
        fringe = [(x + (width + 4) / 2, 104), (x + 20, 96), (x, 99), (x - 20, 96)]
        pen.polygon([*outline, *fringe, (x - (width + 4) / 2, 104)], face.hair)
    elif not face.bald:
        outline = [
            (x + step * (width + 14) / 2, 96 - 52 * (1 - step * step) ** 0.5)
            for step in np.linspace(-1, 1, 17).tolist()
        ]
        hairline = [
            (x + step * (width - 6) / 2, 104 - 36 * (1 - step * step) ** 0.5)
            for step in np.linspace(1, -1, 17).tolist()
        ]
        pen.polygon([*outline, *hairline], face.hair)


def _draw_features(pen: _Pen, face: Face, x: float) -> None:
    outline = _shade(face.skin, 0.45)

    def through_lens(colour: Colour) -> Colour:
        return _shade_towards(colour, _LENS, 0.5) if face.glasses else colour

    for side in (-1, 1):
        # The half of the face that is turned away looks narrower.
        eye = x + side * (19.5 + side * face.yaw * -0.25)
        if face.rosy:
            pen.ellipse(eye + side * 5, 136, 22, 14, _shade_towards(face.skin, (235, 90, 90), 0.3))
        if face.glasses:
            pen.ellipse(x + side * 20, 112, 33, 27, through_lens(face.skin))
        pen.ellipse(eye, 111, 18.5, face.eye_height * 2 + 2, through_lens(outline))
        pen.ellipse(eye, 111.6, 17, face.eye_height * 2, through_lens((246, 244, 240)))
        iris = min(9.0, face.eye_height * 2)
        pen.ellipse(eye + face.yaw * 0.15, 111.4, 9, iris, through_lens(face.iris))
        pen.ellipse(eye + face.yaw * 0.15, 111.4, 4.4, min(4.4, iris), (12, 10, 10))
        pen.ellipse(eye + face.yaw * 0.15 + 1.6, 109.8, 1.8, 1.8, (255, 255, 255))
        brow_colour = _shade(face.hair, 0.7) if not face.bald else _shade(face.skin, 0.4)
        inner, outer = eye - side * 10, eye + side * 11
        brow = [(inner, 98 + face.brow_tilt), (eye, 95.5), (outer, 98 - face.brow_tilt * 0.4)]
        pen.line(brow, face.brow_height, brow_colour)
    shadow = _shade(face.skin, 0.82)
    nose = face.nose_width
    pen.polygon([(x - 2.5, 112), (x + 2.5, 112), (x + nose / 2, 136), (x - nose / 2, 136)], shadow)
    pen.ellipse(x, 135, nose + 4, 9, _shade(face.skin, 0.86))
    pen.polygon(
        [(x - 1.2, 112), (x + 1.6, 112), (x + 3, 133), (x - 2, 133)], _shade(face.skin, 1.05)
    )
    for side in (-1, 1):
        pen.ellipse(x + side * nose * 0.3, 137.6, 3.4, 2.2, _shade(face.skin, 0.5))
    beard = _shade(face.hair, 0.75)
    if face.goatee:
        pen.ellipse(x, 172, 32, 28, beard)
    if face.mustache:
        pen.polygon([*_curve(x, 142, 30, -5), *reversed(_curve(x, 150, 40, -3))], beard)
    lip = face.lipstick or _shade_towards(face.skin, (170, 70, 70), 0.45)
    mouth_width = 33.0 + max(0.0, face.smile)
    y = 154.0 + face.smile / 3
    height, gap = face.lip_height, face.mouth_open
    upper = _curve(x, y - gap / 2, mouth_width, face.smile)
    lower = _curve(x, y + gap / 2, mouth_width, face.smile + gap / 2)
    if gap:
        pen.polygon([*upper, *reversed(lower)], (66, 18, 22))
        teeth = _curve(x, y - gap / 2 + gap * 0.45, mouth_width * 0.84, face.smile)
        pen.polygon([*upper, *reversed(teeth)], (240, 238, 232))
    pen.line(upper, height * 0.8, _shade(lip, 0.9))
    pen.line(lower, height, lip)
    if face.glasses:
        for side in (-1, 1):
            pen.ring(x + side * 20, 112, 33, 27, 3.2, _FRAME)
            ear = x - face.yaw + side * face.face_width / 2
            pen.line([(x + side * 36, 110), (ear, 108)], 3, _FRAME)
        pen.line([(x - 4, 110), (x + 4, 110)], 3.2, _FRAME)


def draw_face(face: Face) -> Image.Image:
    """The picture of a face: RGB, 178 pixels wide and 218 high."""
    image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), face.background)
    pen = _Pen(image)
    x = WIDTH / 2
    _draw_head(pen, face, x - face.yaw)
    _draw_features(pen, face, x)
    _draw_hair(pen, face, x - face.yaw)
    return image.reduce(_SCALE).filter(ImageFilter.BoxBlur(0.6))


def face_jpegs(seed: int, indices: range) -> list[tuple[bytes, dict[str, bool]]]:
    """The JPEG file and the attributes of each face in `indices`."""
    drawn = []
    for index in indices:
        face = describe_face(seed, index)
        jpeg = io.BytesIO()
        draw_face(face).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
        drawn.append((jpeg.getvalue(), face.attributes()))
    return drawn


def _write_faces(seed: int, folder: Path, indices: range) -> Path:
    """Write the result of `face_jpegs` into a file of its own in `folder`.

    A worker's result that fits into a pipe arrives whole or not at all. Of a larger one, a worker
    that is killed leaves a part, for whose rest the pool of workers would wait for ever.
    """
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        pickle.dump(face_jpegs(seed, indices), file)
    return Path(file.name)


def _split(index: int, images: int) -> int:
    """The split of a face: 0 train (the first 80 %), 1 validation (10 %), 2 test (10 %)."""
    return 0 if index < images * 8 // 10 else 1 if index < images * 9 // 10 else 2


def split_counts(images: int) -> dict[str, int]:
    """How many of so many drawn faces are in each split."""
    found = [_split(index, images) for index in range(images)]
    return {split: found.count(number) for number, split in enumerate(SPLITS)}


def _is_drawn(folder: Path) -> bool:
    """Whether all that is in a folder are drawn faces: a copy of CelebA has other attributes."""
    with contextlib.suppress(OSError, ValueError):
        if has_only(ARCHIVE, PARTITION, ATTRIBUTES)(folder) and (folder / ATTRIBUTES).exists():
            with open(folder / ATTRIBUTES, encoding="utf-8") as lines:
                head = lines.readlines(10_000)[1:2]
                return [line.split() for line in head] == [list(ATTRIBUTE_NAMES)]
    return not any(folder.iterdir())


def synthesize(
    target: Path,
    images: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Draw a data set into the folder `target`, in CelebA's layout.

    The same arguments give the same bytes. `target` is replaced when all faces are drawn.

    Args:
        images: number of faces, at least 20, so that each split has two.
        progress: called with (faces done, faces in all).

    Raises:
        UserError: another run is writing `target`, or the worker processes keep dying.
        OSError: `target` cannot be written.
    """
    tasks = (
        range(start, min(start + _IMAGES_PER_TASK, images))
        for start in range(0, images, _IMAGES_PER_TASK)
    )
    with exclusive_writer(target), atomic_write(target, _is_drawn) as folder:
        folder.mkdir()
        with (
            tempfile.TemporaryDirectory(dir=folder) as drawn,
            contextlib.closing(
                run_tasks(
                    functools.partial(_write_faces, seed, Path(drawn)),
                    tasks,
                    local_executor,
                    window=_TASKS_PER_PROCESS * worker_processes(),
                )
            ) as running,
            zipfile.ZipFile(folder / ARCHIVE, "w") as archive,
            open(folder / PARTITION, "w", encoding="utf-8", newline="\n") as partition,
            open(folder / ATTRIBUTES, "w", encoding="utf-8", newline="\r\n") as rows,
        ):
            rows.write(f"{images}\n{' '.join(ATTRIBUTE_NAMES)}\n")
            for indices, file in running:
                faces = pickle.loads(file.read_bytes())
                file.unlink()
                for index, (jpeg, attributes) in zip(indices, faces, strict=True):
                    name = f"{index + 1:06d}.jpg"
                    archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}", _ZIP_DATE), jpeg)
                    partition.write(f"{name} {_split(index, images)}\n")
                    values = " ".join("1" if holds else "-1" for holds in attributes.values())
                    rows.write(f"{name} {values}\n")
                progress(indices.stop, images)
