"""A plain folder of pictures, without lists: its pictures, their splits and their labels.

    <folder>/**/*.jpg               the pictures, of any size, in subfolders too (see `ENDINGS`)
    <folder>/list_attr_celeba.txt   optional: labels, in the form of CelebA's file of this name

The name of a picture is its path in the folder, such as "holiday/IMG 0001.jpg". Names of subfolders
mean nothing. Files with other endings are left out, as are files and folders that a system has
hidden: those whose names begin with a dot, and __MACOSX.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facevae.common.errors import UserError
from facevae.data import celeba

# Pillow's decoders of these formats are safe and need no further library.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Pictures, too: they are listed as bad, because leaving them out would go unnoticed.
_OTHER_ENDINGS = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")

# What belongs to a folder in CelebA's layout alone.
_CELEBA = (celeba.ARCHIVE, celeba.FOLDER, celeba.PARTITION)
_SPLIT_OF_TENTH = ("train",) * 8 + ("validation", "test")
_MAX_FILE_BYTES = 64 * 2**20  # no photograph's file is larger
_HINT_FILES = 1000  # looked at in a folder that has another layout


def check_source(source: Path, layout: str) -> None:
    """Check that there is something to read in `source`.

    Args:
        layout: `data.layout`.

    Raises:
        UserError: `source` is not a folder, or not one in this layout; the message says what to do.
    """
    if layout == "celeba":
        try:
            celeba.check_source(source)
        except UserError as error:
            if not any(map(_is_picture, itertools.islice(_files(source), _HINT_FILES))):
                raise
            raise UserError(
                f"{error}\nTo train on the pictures in {source} as they are, set data.layout: "
                f"folder"
            ) from None
        return
    if not source.exists():
        raise UserError(
            f"data.source: there is no folder {source}; name the folder of the pictures"
        )
    if not source.is_dir():
        raise UserError(f"data.source: {source} is not a folder; name the folder that it is in")
    for name in _CELEBA:
        if (source / name).exists():
            raise UserError(
                f"data.source: {source} has {name}, so it is in CelebA's layout; set data.layout: "
                f"celeba, or name the folder of the pictures"
            )
    if not any(map(_is_picture, _files(source))):
        raise UserError(
            f"data.source: {source} has no pictures ({', '.join(ENDINGS)}); name the folder of the "
            f"pictures, and unpack them if they are in an archive"
        )


def _files(source: Path, links: list[str] | None = None) -> Iterator[str]:
    """Paths in `source` of all files that are not hidden.

    Args:
        links: takes the paths of links to folders. They are not followed, as DVC does not follow
            them when it looks for changes.

    Raises:
        UserError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    for path, folders, files in os.walk(source, onerror=refuse):
        place = Path(path).relative_to(source)
        folders[:] = [name for name in folders if not _is_hidden(name)]
        if links is not None:
            links += [str(place / name) for name in folders if Path(path, name).is_symlink()]
        yield from (str(place / name) for name in files if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def _is_picture(name: str) -> bool:
    return _ending(name) in ENDINGS


def list_pictures(source: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The pictures of a folder.

    Returns:
        A structured array (pictures,) with the field "name", sorted by it, whose rows
        `PictureReader.read` takes as tuples; and what is there but cannot be used, by name, with
        the reason.

    Raises:
        UserError: a subfolder cannot be read.
    """
    links: list[str] = []
    names, bad = [], {}
    for name in _files(source, links):
        if _is_picture(name):
            names.append(os.fsencode(name))
        elif (ending := _ending(name)) in _OTHER_ENDINGS:
            bad[name] = f"is a picture that is not read ({ending}); save it as JPEG or PNG"
    for name in links:
        bad[name] = "is a link to a folder, which is not followed; copy the folder"
    pictures = np.sort(np.array(names, "S"))
    return pictures.view([("name", pictures.dtype)]), bad


def split_of(name: bytes, seed: int) -> str:
    """The split of a picture: of ten pictures, about eight are for train, one each for the others.

    It depends on the picture's name and the seed alone, so that a new picture moves no other.
    """
    digest = hashlib.sha256(b"%d %b" % (seed, name)).digest()
    return _SPLIT_OF_TENTH[int.from_bytes(digest[:8]) % 10]


def read_labels(
    source: Path, names: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    """The labels of the pictures with these sorted names. A picture without a line has none.

    Returns:
        The attributes' names; rows of `facevae.data.celeba.Attributes.packed`, all zero where
        nothing is known; and the lines that name no picture, by name, with the reason. All are
        empty without the file of labels.

    Raises:
        UserError: the file of labels cannot be used.
    """
    path = source / celeba.ATTRIBUTES
    if not path.is_file():
        return (), np.zeros((len(names), 0), np.uint8), {}
    listed = celeba.read_attributes(path)
    _, places, lines = np.intersect1d(names, listed.images, assume_unique=True, return_indices=True)
    packed = np.zeros((len(names), listed.packed.shape[1]), np.uint8)
    packed[places] = listed.packed[lines]
    unmatched = np.delete(listed.images, lines)
    reason = f"is in {celeba.ATTRIBUTES}, but there is no such picture"
    return listed.names, packed, {os.fsdecode(name): reason for name in unmatched.tolist()}


class PictureReader:
    """Reads the pictures of a folder by their rows of `list_pictures`."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def read(self, row: tuple[Any, ...]) -> bytes:
        """The bytes of one picture's file.

        Raises:
            UserError: it is not a file, is too large or cannot be read.
        """
        path = self._source / os.fsdecode(row[0])
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
                raise UserError("is not a file")
            if status.st_size > _MAX_FILE_BYTES:
                raise UserError(f"is a file of more than {_MAX_FILE_BYTES >> 20} MiB")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})") from None

    def __enter__(self) -> "PictureReader":
        return self

    def __exit__(self, *exception: object) -> None:
        pass
