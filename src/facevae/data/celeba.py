"""A folder in CelebA's layout: its images, their splits and their attributes.

    <folder>/img_align_celeba.zip        the archive as downloaded, read without unpacking it, or
    <folder>/img_align_celeba/*.jpg      the unpacked images (.jpeg and .png are read too)
    <folder>/list_eval_partition.txt     a line for each image, such as "000001.jpg 0":
                                         0 train, 1 validation, 2 test
    <folder>/list_attr_celeba.txt        optional: the number of images, the attributes' names,
                                         and a line for each image: its name, and 1, -1 or, if
                                         it is not known, 0 per attribute

The data set: Liu et al. 2015, arXiv 1411.7766; for non-commercial research only.
"""

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from facevae.common.errors import UserError
from facevae.data.archive import list_members, read_member

ARCHIVE = "img_align_celeba.zip"
FOLDER = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"
SPLITS = ("train", "validation", "test")

HOW_TO_GET_IT = f"""\
To download CelebA (1.4 GB) and train on it, run
    make celeba
    dvc exp run -S data.source=data/celeba
Instead of make celeba, you can put {ARCHIVE} and {PARTITION} into
data/celeba yourself (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html).
To train on the built-in drawn faces, which need no download, run
    dvc exp run -S data.source=data/synthetic"""


def check_source(source: Path) -> None:
    """Check that `source` has images and a partition file.

    Raises:
        UserError: a part is missing; the message says what to do.
    """
    if not source.exists():
        raise UserError(f"data.source: there is no folder {source}\n{HOW_TO_GET_IT}")
    if not source.is_dir():
        raise UserError(f"data.source: {source} is not a folder; name the folder that it is in")
    if not (source / ARCHIVE).is_file() and not (source / FOLDER).is_dir():
        raise UserError(
            f"data.source: {source} has neither {ARCHIVE} nor a folder {FOLDER}\n{HOW_TO_GET_IT}"
        )
    if not (source / PARTITION).is_file():
        raise UserError(
            f"data.source: {source} has no {PARTITION}, which assigns the images to splits\n"
            f"{HOW_TO_GET_IT}"
        )


def read_partition(path: Path) -> dict[str, np.ndarray]:
    """Image names per split, sorted arrays of bytes, from a list_eval_partition.txt.

    Raises:
        UserError: a line is not "name split", a split is unknown, or a name appears twice.
    """
    names: dict[str, _Names] = {split: _Names() for split in SPLITS}
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                fields = line.split()
                if not fields:
                    continue
                if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
                    raise UserError(
                        f"{path}: line {number}: expected '000001.jpg 0' (0 train, 1 validation, "
                        f"2 test, no header), found {line.strip()[:80]!r}"
                    )
                names[SPLITS[int(fields[1])]].append(fields[0].encode())
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8; fetch it again") from None
    splits = {split: np.sort(members.array()) for split, members in names.items()}
    everything = np.sort(np.concatenate(list(splits.values())))
    twice = everything[1:][everything[1:] == everything[:-1]]
    if len(twice):
        name = twice[0].decode()
        with open(path, encoding="utf-8") as lines:
            places = [number for number, line in enumerate(lines, 1) if line.split()[:1] == [name]]
        raise UserError(f"{path}: line {places[1]}: {name} appears a second time")
    return splits


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The content of a list_attr_celeba.txt.

    Attributes:
        names: the attributes' names, in the file's order.
        images: the images' names, a sorted array of bytes.
        packed: the labels, (images, ceil(attributes / 4)) uint8, for `unpack_labels`.
    """

    names: tuple[str, ...]
    images: np.ndarray
    packed: np.ndarray

    def of(self, images: np.ndarray) -> np.ndarray:
        """The rows of `packed` of the images with these names.

        Raises:
            KeyError: an image is not in the file; its argument is the first such name.
        """
        places = np.searchsorted(self.images, images)
        found = self.images[np.minimum(places, len(self.images) - 1)] == images
        if not found.all():
            raise KeyError(images[~found][0])
        return self.packed[places]


def unpack_labels(packed: np.ndarray, attributes: int) -> np.ndarray:
    """The labels in rows of `Attributes.packed`: (images, attributes) int8, 1, -1 or 0 (unknown).

    A row's bits are, for every attribute, whether the image has it, then whether it lacks it.
    """
    bits = np.unpackbits(packed, axis=1, count=2 * attributes).astype(np.int8)
    return bits[:, :attributes] - bits[:, attributes:]


_HAS, _LACKS, _UNKNOWN = 1, 2, 0
_LABELS = {"1": _HAS, "-1": _LACKS, "0": _UNKNOWN}


def _words(line: str, width: int) -> list[str]:
    """A name, which may have blanks but does not end in a label, and what follows it."""
    name, *fields = line.rsplit(maxsplit=width) or [""]
    words = name.split()
    return line.split() if len(words) > 1 and words[-1] in _LABELS else [name.strip(), *fields]


def read_attributes(path: Path) -> Attributes:
    """Read a list_attr_celeba.txt into a few bytes per image.

    Raises:
        UserError: the header is missing, a line is not a name and 1, -1 or 0 per attribute, the
            number of lines is not the one in the header, or a name appears twice.
    """
    images, packed, values = _Names(), list[np.ndarray](), bytearray()

    def pack() -> None:
        rows = np.frombuffer(values, np.uint8).reshape(-1, width)
        packed.append(np.packbits(np.hstack([rows == _HAS, rows == _LACKS]), axis=1))

    try:
        with open(path, encoding="utf-8") as lines:
            first, names = next(lines, "").strip(), tuple(next(lines, "").split())
            width, count = len(names), 0
            if not first.isdecimal() or not names or len(set(names)) < width:
                raise UserError(
                    f"{path}: does not begin with the number of images and, on line 2, the "
                    f"attributes' names; fetch the file again"
                )
            for number, line in enumerate(lines, start=3):
                image, *fields = _words(line, width)
                if not image:
                    continue
                try:
                    row = bytes(map(_LABELS.__getitem__, fields))
                except KeyError:
                    row = b""
                if len(row) != width:
                    raise UserError(
                        f"{path}: line {number}: expected '000001.jpg' and {width} times 1 or -1 "
                        f"(0: unknown), found {line.strip()[:80]!r}"
                    )
                images.append(image.encode())
                values += row
                count += 1
                if count % 4096 == 0:
                    pack()
                    values = bytearray()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file in UTF-8; fetch it again") from None
    if count != int(first) or not count:
        raise UserError(
            f"{path}: line 1 announces {first} images, but there are {count}; fetch the file again"
        )
    if values:
        pack()
    listed = images.array()
    order = np.argsort(listed, kind="stable")
    listed = listed[order]
    twice = listed[1:][listed[1:] == listed[:-1]]
    if len(twice):
        raise UserError(f"{path}: {twice[0].decode()} appears a second time")
    return Attributes(names, listed, np.concatenate(packed)[order])


class _Names:
    """A growing list of byte strings that takes no more memory than a NumPy array."""

    def __init__(self) -> None:
        self._latest: list[bytes] = []
        self._arrays = [np.empty(0, "S1")]

    def append(self, name: bytes) -> None:
        self._latest.append(name)
        if len(self._latest) == 4096:
            self._arrays.append(np.array(self._latest))
            self._latest.clear()

    def array(self) -> np.ndarray:
        return np.concatenate([*self._arrays, np.array(self._latest, "S")])


def store_path(source: Path) -> Path:
    """The archive of a source, or its folder of unpacked images if there is no archive."""
    archive = source / ARCHIVE
    return archive if archive.is_file() else source / FOLDER


def list_images(source: Path) -> np.ndarray:
    """The images of a source, sorted by name, as a table of a few bytes per row.

    Returns:
        A structured array (images,): "name", the file name without folders, and the position of
        the image in the archive. `ImageReader.read` takes a row as a tuple. A name that appears
        twice in the archive has two rows.

    Raises:
        UserError: the folder has no images; or the archive is not a complete zip file, has no
            images, has images in several folders, is encrypted, or has members whose names point
            outside the archive.
    """
    path = store_path(source)
    if path.is_dir():
        names = np.array(
            [os.fsencode(file.name) for file in os.scandir(path) if _is_image(file.name)]
        )
        if not len(names):
            raise UserError(
                f"{path}: has no images (.jpg, .jpeg, .png); check that they are not in a folder "
                f"inside it"
            )
        places = bytearray(_PLACE.size * len(names))
    else:
        try:
            names, places = _archived(path)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    table = np.empty(len(names), [("name", names.dtype), *_PLACE_FIELDS])
    order = np.argsort(names, kind="stable")
    table["name"] = names[order]
    place = np.frombuffer(places, _PLACE_FIELDS)
    for field, _ in _PLACE_FIELDS:
        table[field] = place[field][order]
    return table


# Arguments of `read_member`; zeros for an unpacked image.
_PLACE = struct.Struct("<QIIIH")
_PLACE_FIELDS = [
    ("offset", "<u8"),
    ("packed", "<u4"),
    ("size", "<u4"),
    ("crc", "<u4"),
    ("method", "<u2"),
]


def _is_image(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg", ".png"))


def _archived(path: Path) -> tuple[np.ndarray, bytearray]:
    names = _Names()
    places = bytearray()
    home, inner_archive = None, None
    for member in list_members(path):
        folder, _, name = member.filename.replace("\\", "/").rpartition("/")
        if folder.startswith("/") or ":" in folder or ".." in folder.split("/"):
            raise UserError(
                f"has a member {member.filename!r}, which points outside the archive; this is "
                f"not CelebA's archive: fetch it again"
            )
        if folder.split("/")[0] == "__MACOSX":  # macOS adds metadata files with the same names
            continue
        if not _is_image(name):
            inner_archive = member.filename if name.endswith(".zip") else inner_archive
            continue
        if member.flag_bits & _ENCRYPTED:
            raise UserError(
                f"is encrypted ({member.filename}); unpack it and zip it without a password"
            )
        home = folder if home is None else home
        if folder != home:
            raise UserError(
                f"has images in several folders ({home or '.'}, {folder or '.'}); keep one"
            )
        names.append(name.encode())
        offset, packed, size = member.header_offset, member.compress_size, member.file_size
        if max(packed, size) > _MAX_FILE_BYTES:
            place = offset, 0, _MAX_FILE_BYTES + 1, 0, 0
        else:
            place = offset, packed, size, member.CRC, member.compress_type
        places += _PLACE.pack(*place)
    if inner_archive and not places:
        raise UserError(f"contains another archive, {inner_archive}, and no images; unpack it once")
    if not places:
        raise UserError("has no images (.jpg, .jpeg, .png)")
    return names.array(), places


# No photograph's file is larger; unpacking more would only fill the memory.
_MAX_FILE_BYTES = 64 * 2**20

_ENCRYPTED = 0x1  # bit of a member's flags, APPNOTE.TXT section 4.4.4


class ImageReader:
    """Reads the images of a source by their rows of `list_images`, without listing them again.

    Raises:
        UserError: the archive cannot be opened.
    """

    def __init__(self, source: Path) -> None:
        self.path = store_path(source)
        try:
            self._archive = open(self.path, "rb") if self.path.is_file() else None  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None

    def read(self, row: tuple[Any, ...]) -> bytes:
        """The bytes of one image file.

        Raises:
            UserError: the file cannot be read, is too large, or is damaged in the archive.
        """
        name, offset, packed, size, crc, method = row
        try:
            if self._archive is None:
                path = self.path / os.fsdecode(name)
                size = path.stat().st_size
            if size > _MAX_FILE_BYTES:
                raise UserError(f"is a file of more than {_MAX_FILE_BYTES >> 20} MiB")
            if self._archive is None:
                return path.read_bytes()
            return read_member(self._archive, offset, packed, size, crc, method)
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})") from None

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
