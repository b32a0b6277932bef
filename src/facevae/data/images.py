"""Image files in a zip archive or a folder: listed in one process, read in any process."""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from facevae.common.errors import UserError, printable
from facevae.common.files import open_regular
from facevae.data.archive import list_members, read_member

_ENDINGS = (".jpg", ".jpeg", ".png")


def is_image(name: str) -> bool:
    """Whether a file is an image by its name.

    Names that begin with a dot are a system's: macOS writes ._000001.jpg beside 000001.jpg.
    """
    return name.lower().endswith(_ENDINGS) and not name.startswith(".")


class Names:
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


def list_images(store: Path) -> np.ndarray:
    """The images of an archive or a folder, sorted by name, as a table of a few bytes per row.

    Returns:
        A structured array (images,): "name", the file name without folders, and the position of
        the image in the archive. `ImageReader.read` takes a row as a tuple. A name that appears
        twice in the archive has two rows.

    Raises:
        UserError: there are no images, or the folder cannot be read; or the archive is not a
            complete zip file, has images in several folders, is encrypted, or has members whose
            names point outside the archive.
    """
    try:
        if store.is_dir():
            return list_files(_in_folder(store))
        names, places = _in_archive(store)
    except UserError as error:
        raise UserError(f"{store}: {error}") from None
    except OSError as error:
        raise UserError(f"{store}: cannot be read ({error.strerror})") from None
    return _table(names, places)


def list_files(names: np.ndarray) -> np.ndarray:
    """A table as that of `list_images` of files in a folder, by their paths in it.

    Args:
        names: (images,) bytes.
    """
    return _table(names, bytearray(_PLACE.size * len(names)))


def _table(names: np.ndarray, places: bytearray) -> np.ndarray:
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


def _in_folder(path: Path) -> np.ndarray:
    names = Names()
    with os.scandir(path) as entries:
        for entry in entries:
            if is_image(entry.name):
                names.append(os.fsencode(entry.name))
    found = names.array()
    if not len(found):
        raise UserError(
            "has no images (.jpg, .jpeg, .png); check that they are not in a folder inside it"
        )
    return found


def _in_archive(path: Path) -> tuple[np.ndarray, bytearray]:
    names = Names()
    places = bytearray()
    home, inner_archive = None, None
    for member in list_members(path):
        folder, _, name = member.filename.replace("\\", "/").rpartition("/")
        if folder.startswith("/") or ":" in folder or ".." in folder.split("/"):
            raise UserError(
                f"has a member {member.filename!r}, which points outside the archive; this is "
                f"not CelebA's archive: fetch it again"
            )
        if "__MACOSX" in folder.split("/"):  # macOS adds metadata files with the same names
            continue
        if not is_image(name):
            inner_archive = member.filename if name.endswith(".zip") else inner_archive
            continue
        if member.flag_bits & _ENCRYPTED:
            raise UserError(
                f"is encrypted ({printable(member.filename)}); unpack it and zip it without a "
                f"password"
            )
        home = folder if home is None else home
        if folder != home:
            raise UserError(
                f"has images in several folders ({printable(home or '.')}, "
                f"{printable(folder or '.')}); keep one"
            )
        names.append(name.encode())
        offset, packed, size = member.header_offset, member.compress_size, member.file_size
        if max(packed, size) > _MAX_FILE_BYTES:
            place = offset, 0, _MAX_FILE_BYTES + 1, 0, 0
        else:
            place = offset, packed, size, member.CRC, member.compress_type
        places += _PLACE.pack(*place)
    if inner_archive and not places:
        raise UserError(
            f"contains another archive, {printable(inner_archive)}, and no images; unpack it once"
        )
    if not places:
        raise UserError("has no images (.jpg, .jpeg, .png)")
    return names.array(), places


# No photograph's file is larger; unpacking more would only fill the memory.
_MAX_FILE_BYTES = 64 * 2**20

_ENCRYPTED = 0x1  # bit of a member's flags, APPNOTE.TXT section 4.4.4


def _check_size(size: int) -> None:
    if size > _MAX_FILE_BYTES:
        raise UserError(f"is a file of more than {_MAX_FILE_BYTES >> 20} MiB")


class ImageReader:
    """Reads images by their rows of `list_images`, without listing them again.

    Args:
        store: the archive or the folder that was listed.

    Raises:
        UserError: the archive cannot be opened.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        try:
            self._archive = None if store.is_dir() else open_regular(store)
        except OSError as error:
            raise UserError(f"{store}: cannot be read ({error.strerror})") from None

    def read(self, row: tuple[Any, ...]) -> bytes:
        """The bytes of one image file.

        Raises:
            UserError: the file cannot be read, is too large, or is damaged in the archive.
        """
        name, offset, packed, size, crc, method = row
        try:
            if self._archive is not None:
                _check_size(size)
                return read_member(self._archive, offset, packed, size, crc, method)
            with open_regular(self._store / os.fsdecode(name)) as file:
                _check_size(os.fstat(file.fileno()).st_size)
                return file.read()
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})") from None

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> "ImageReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
