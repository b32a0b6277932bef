"""A plain folder of pictures, without lists: its pictures, their splits and their labels.

    *.jpg, */*.jpg ...      the pictures, of any size, in subfolders too (see `ENDINGS`)
    list_attr_celeba.txt    optional: labels, in the form of CelebA's file of this name

The name of a picture is its path in the folder, such as "holiday/IMG 0001.jpg". Names of subfolders
mean nothing. Files with other endings are left out, as are files and folders that systems have
hidden: those whose names begin with a dot, and `_OF_SYSTEMS`.
"""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError
from facevae.data.celeba import (
    PARTITION,
    SPLITS,
    Copy,
    find_copy,
    read_attributes,
)
from facevae.data.images import list_files

# Pillow's decoders of these formats are safe and need no further library.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Pictures, too: they are listed as bad, because leaving them out would go unnoticed.
_OTHER_ENDINGS = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".tif", ".tiff")

# Folders with copies, thumbnails or what was deleted, of macOS, Synology and Windows.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}

_SPLIT_OF_TENTH = ("train",) * 8 + ("validation", "test")
_LOOKED_AT = 1000  # files, to tell what a folder is


def check_source(source: Path, layout: str) -> None:
    """Check that there is something to read in `source`.

    Args:
        layout: `data.layout`.

    Raises:
        UserError: `source` is not a folder, or not one in this layout; the message says what to do.
    """
    if layout == "folder":
        check_folder(source)
    else:
        find_celeba(source)


def find_celeba(source: Path) -> Copy:
    """`find_copy`, whose sentence about a folder of pictures without lists names `data.layout`."""
    try:
        return find_copy(source)
    except UserError as error:
        if not _looks_plain(source):
            raise
        hint = "For a folder of your own pictures, set data.layout: folder"
        raise UserError(f"{error}\n{hint}") from None


def check_folder(source: Path) -> None:
    """Check that there are pictures in `source`.

    Raises:
        UserError: there are none, or they are a copy of CelebA; the message says what to do.
    """
    try:
        if not source.exists():
            raise UserError(
                f"data.source: there is no folder {source}; name the folder of the pictures"
            )
        if not source.is_dir():
            raise UserError(f"data.source: {source} is not a folder; name the folder that it is in")
    except OSError as error:
        raise UserError(f"data.source: {source}: cannot be read ({error.strerror})") from None
    try:
        copy = find_copy(source)
    except UserError:
        copy = None
    if copy is not None:
        raise UserError(
            f"data.source: {source} is a copy of CelebA, with its splits in {copy.partition}; set "
            f"data.layout: celeba, or name a folder without that file"
        )
    if not any(map(_is_picture, _files(source))):
        raise UserError(
            f"data.source: {source} has no pictures ({', '.join(ENDINGS)}); name the folder of the "
            f"pictures, and unpack them if they are in an archive"
        )


def _looks_plain(source: Path) -> bool:
    """Whether a folder has pictures and no list of their splits."""
    try:
        names = [*itertools.islice(_files(source), _LOOKED_AT)] if source.is_dir() else []
    except (UserError, OSError):
        return False
    listed = any(Path(name).name.casefold().startswith(Path(PARTITION).stem) for name in names)
    return not listed and any(map(_is_picture, names))


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
    return name.startswith(".") or name in _OF_SYSTEMS


def _ending(name: str) -> str:
    return Path(name).suffix.lower()


def _is_picture(name: str) -> bool:
    return _ending(name) in ENDINGS


def list_pictures(source: Path) -> tuple[np.ndarray, dict[str, str]]:
    """The pictures of a folder.

    Returns:
        A table as that of `facevae.data.images.list_images`; and what is there but cannot be used,
        by name, with the reason.

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
    return list_files(np.array(names, "S")), bad


def split_of(name: bytes, seed: int) -> str:
    """The split of a picture: of ten pictures, about eight are for train, one each for the others.

    It depends on the picture's name and the seed alone, so that a new picture moves no other.
    """
    digest = hashlib.sha256(b"%d %b" % (seed, name)).digest()
    return _SPLIT_OF_TENTH[int.from_bytes(digest[:8]) % 10]


def rows_of_splits(names: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The places in `names` of each split's pictures."""
    splits = np.array([split_of(name, seed) for name in names.tolist()], "U")
    return {split: np.flatnonzero(splits == split) for split in SPLITS}


def read_labels(path: Path, names: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """The labels of the pictures with these sorted names. A picture without a line has none.

    Returns:
        The attributes' names; for each picture a row as in `Attributes.packed`, all zero where
        nothing is known; and the names in the file that no picture has.

    Raises:
        UserError: the file cannot be used.
    """
    listed = read_attributes(path)
    _, places, lines = np.intersect1d(names, listed.images, assume_unique=True, return_indices=True)
    packed = np.zeros((len(names), listed.packed.shape[1]), np.uint8)
    packed[places] = listed.packed[lines]
    unmatched = np.delete(listed.images, lines).tolist()
    return listed.names, packed, [os.fsdecode(name) for name in unmatched]
