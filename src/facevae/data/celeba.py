"""A copy of CelebA: where its parts are, their splits and their attributes.

    img_align_celeba.zip       the archive as downloaded, read without unpacking it, or
    img_align_celeba/*.jpg     the unpacked images (.jpeg and .png are read too)
    list_eval_partition.txt    a line for each image, such as "000001.jpg 0":
                               0 train, 1 validation, 2 test
    list_attr_celeba.txt       optional: the number of images, the attributes' names,
                               and a line for each image: its name, and per attribute 1, -1 or
                               0, which means unknown

`find_copy` looks for them where the authors, Kaggle and torchvision put them; docs/data.md lists
these places. The lists may also be .csv files, with a header in place of the number of images.

The data set: Liu et al. 2015, arXiv 1411.7766; for non-commercial research only.
"""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np

from facevae.common.errors import UserError, printable
from facevae.data.images import Names, is_image
from facevae.data.lists import match, read_rows

ARCHIVE = "img_align_celeba.zip"
FOLDER = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"
SPLITS = ("train", "validation", "test")

# Folders that are looked into, in this order; upper and lower case do not matter. The last one has
# the authors' PNG files, unpacked.
_FOLDERS = ("celeba", "Img", "Eval", "Anno", FOLDER, f"{FOLDER}_png")
_DEPTH = 3  # such as celeba/img_align_celeba/img_align_celeba
_SEARCHED = 50  # folders in which a copy is looked for to name it, where there is none
_PACKED = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".001")

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
HOW_TO_GET_IT = f"""\
To download CelebA (1.4 GB) and train on it, run
    make celeba
    dvc exp run -S data.source=data/celeba
Instead of make celeba, you can put {ARCHIVE} and {PARTITION} into
data/celeba yourself ({PAGE}).
To train on the built-in drawn faces, which need no download, run
    dvc exp run -S data.source=data/synthetic"""


@dataclasses.dataclass(frozen=True)
class Copy:
    """Where the parts of a copy of CelebA are.

    Attributes:
        images: the archive, or the folder of unpacked images.
        partition: the list of the images' splits.
        attributes: the list of their attributes; None if the copy has none.
    """

    images: Path
    partition: Path
    attributes: Path | None


def find_copy(source: Path) -> Copy:
    """Find the parts of a copy of CelebA in `source` and in the folders in it that copies have.

    Of several archives or lists the first counts: an archive before a folder, a .txt file before
    a .csv file, what is in a folder before what is in a folder inside it.

    Raises:
        UserError: a part is missing, is not a file, or is there twice and neither comes first; the
            message says what to do.
    """
    try:
        if not source.exists():
            raise UserError(f"data.source: there is no folder {source}\n{HOW_TO_GET_IT}")
        if not source.is_dir():
            raise UserError(f"data.source: {source} is not a folder; name the folder that it is in")
        places = _places(source)
        images = _find_file(places, ARCHIVE) or _find_folder(places)
        if images is None:
            raise UserError(
                f"data.source: {source} has neither {ARCHIVE} nor a folder {FOLDER}"
                f"{_remedy(source, places, FOLDER)}"
            )
        partition = _find_list(places, PARTITION)
        if partition is None:
            raise UserError(
                f"data.source: {source} has no {PARTITION}, which assigns the images to splits"
                f"{_remedy(source, places, PARTITION)}"
            )
        attributes = _find_list(places, ATTRIBUTES)
        if attributes is None and (similar := _similar(places, ATTRIBUTES)):
            raise UserError(
                f"data.source: {similar[0]} is not read; {similar[1]}, or move it to another "
                f"folder to train without labels"
            )
    except OSError as error:
        raise UserError(
            f"data.source: {error.filename or source}: cannot be read ({error.strerror})"
        ) from None
    return Copy(images, partition, attributes)


@dataclasses.dataclass(frozen=True)
class _Place:
    """A folder that is looked into.

    Attributes:
        path: of the folder.
        names: names in it, sorted, without those of images and those that begin with a dot.
        images: whether there are images in it.
    """

    path: Path
    names: list[str]
    images: bool

    @classmethod
    def of(cls, path: Path) -> "_Place":
        names, images = [], False
        with os.scandir(path) as entries:
            for entry in entries:
                if is_image(entry.name):
                    images = True
                elif not entry.name.startswith("."):
                    names.append(entry.name)
        return cls(path, sorted(names), images)

    def find(self, name: str) -> Path | None:
        """What has this name, in upper or lower case."""
        found = [each for each in self.names if each.casefold() == name.casefold()]
        if len(found) > 1:
            raise UserError(f"{self.path}: has {' and '.join(found)}; keep one of them")
        return self.path / found[0] if found else None


def _places(source: Path) -> list[_Place]:
    """`source`, then the folders in it that copies of CelebA have, outer ones first."""
    places = [_Place.of(source)]
    for place in places:
        if len(place.path.relative_to(source).parts) < _DEPTH:
            inner = [place.find(name) for name in _FOLDERS]
            places += [_Place.of(path) for path in inner if path is not None and path.is_dir()]
    return places


def _find_file(places: list[_Place], name: str) -> Path | None:
    path = next(filter(None, (place.find(name) for place in places)), None)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: is not a file; put the file {name} in its place")
    return path


def _find_list(places: list[_Place], name: str) -> Path | None:
    return _find_file(places, name) or _find_file(places, f"{Path(name).stem}.csv")


def find_labels(folder: Path) -> Path | None:
    """The list of attributes in a folder, as .txt or as .csv; None if there is none.

    Raises:
        UserError: two names differ in upper and lower case only, or it is not a file.
    """
    return _find_list([_Place.of(folder)], ATTRIBUTES)


def _find_folder(places: list[_Place]) -> Path | None:
    """The folder of unpacked images; one without images if there is no other."""
    for name in (FOLDER, f"{FOLDER}_png"):
        called = [place for place in places if place.path.name.casefold() == name]
        full = [str(place.path) for place in called if place.images]
        if len(full) > 1:
            raise UserError(f"data.source: there are images in {' and in '.join(full)}; keep one")
        if full:
            return Path(full[0])
    for place in places:
        if place.path.name.casefold() == FOLDER:
            return place.path
        if (path := place.find(FOLDER)) is not None and not path.is_dir():
            raise UserError(f"{path}: is not a folder; put the folder of the images in its place")
    return None


def _similar(places: list[_Place], name: str) -> tuple[Path, str] | None:
    """What looks like a part of a copy but is not named or packed like it, and what to do."""
    stem = Path(name).stem
    for place in places:
        for each in place.names:
            path, lower = place.path / each, each.casefold()
            if not lower.startswith(stem) or (path.is_dir() and name != FOLDER):
                continue
            if lower.endswith(".zip") and name == FOLDER:
                return path, f"rename it to {ARCHIVE}"
            if lower.endswith(_PACKED):
                return path, "unpack it there"
            if path.is_dir() or lower.endswith((".txt", ".csv")):
                ending = ".csv" if lower.endswith(".csv") else Path(name).suffix
                return path, f"rename it to {stem}{ending}"
    return None


def _remedy(source: Path, places: list[_Place], name: str) -> str:
    """How the sentence goes on which says that a part is missing: with what to do."""
    if similar := _similar(places, name):
        return f"; there is {similar[0]}: {similar[1]}"
    known = set(map(str.casefold, _FOLDERS))
    inside = itertools.takewhile(
        lambda folder: folder.name.casefold() in known, (source, *source.parents)
    )
    around = [folder.parent for folder in inside]
    around += [path for each in places[0].names[:_SEARCHED] if (path := source / each).is_dir()]
    for folder in around:
        try:
            inner = _places(folder)
            whole = (_find_file(inner, ARCHIVE) or _find_folder(inner)) and _find_list(
                inner, PARTITION
            )
        except (UserError, OSError):
            continue
        if whole:
            return f"; the folder {folder} has both: name it in data.source"
    if name == FOLDER and places[0].images and _find_list(places, PARTITION):
        return f"; there are images in the folder itself: move them into a folder {FOLDER} in it"
    for place in places:
        for each in place.names:
            if each.casefold().endswith(_PACKED) and each.casefold() != ARCHIVE:
                return f"; there is {place.path / each}: unpack it there"
    if name == PARTITION:
        return f"; put CelebA's there, which is in the folder Eval of {PAGE}"
    return f"\n{HOW_TO_GET_IT}"


def read_partition(path: Path) -> dict[str, np.ndarray]:
    """Image names per split, sorted arrays of bytes, from a list_eval_partition.txt or .csv.

    Raises:
        UserError: the file cannot be read, a line is not a name and a split, or a name appears
            twice.
    """
    names: dict[str, Names] = {split: Names() for split in SPLITS}
    first = True
    for number, fields in read_rows(path):
        if len(fields) != 2 or not fields[0] or fields[1] not in ("0", "1", "2"):
            # Kaggle's file has a header: image_id,partition.
            if first and len(fields) == 2 and all(map(str.isidentifier, fields)):
                first = False
                continue
            raise UserError(
                f"{path}: line {number}: expected '000001.jpg 0' (0 train, 1 validation, "
                f"2 test), found {' '.join(fields)[:80]!r}"
            )
        first = False
        names[SPLITS[int(fields[1])]].append(fields[0].encode())
    splits = {split: np.sort(members.array()) for split, members in names.items()}
    everything = np.sort(np.concatenate(list(splits.values())))
    twice = everything[1:][everything[1:] == everything[:-1]]
    if len(twice):
        name = twice[0].decode()
        places = [number for number, fields in read_rows(path) if fields[0] == name]
        raise UserError(f"{path}: line {places[1]}: {printable(name)} appears a second time")
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
        rows = match(images, self.images)
        if (rows < 0).any():
            raise KeyError(images[rows < 0][0])
        return self.packed[rows]


def unpack_labels(packed: np.ndarray, attributes: int) -> np.ndarray:
    """The labels in rows of `Attributes.packed`: (images, attributes) int8, 1, -1 or 0 (unknown).

    A row's bits are, for every attribute, whether the image has it, then whether it lacks it.
    """
    bits = np.unpackbits(packed, axis=1, count=2 * attributes).astype(np.int8)
    return bits[:, :attributes] - bits[:, attributes:]


_HAS, _LACKS, _UNKNOWN = 1, 2, 0
_LABELS = {"1": _HAS, "-1": _LACKS, "0": _UNKNOWN}


def read_attributes(path: Path) -> Attributes:
    """Read a list_attr_celeba.txt or .csv into a few bytes per image.

    Raises:
        UserError: the file cannot be read, the header is missing, a line is not a name and 1, -1
            or 0 per attribute, the number of lines is not the one in the header, or a name appears
            twice.
    """
    images, packed, values = Names(), list[np.ndarray](), bytearray()

    def pack() -> None:
        rows = np.frombuffer(values, np.uint8).reshape(-1, width)
        packed.append(np.packbits(np.hstack([rows == _HAS, rows == _LACKS]), axis=1))

    lines = read_rows(path)
    _, head = next(lines, (0, []))
    announced = head[0] if len(head) == 1 and head[0].isdecimal() else None
    if announced is None:
        names = tuple(head[1:])  # the first column is called image_id
    else:
        names = tuple(" ".join(next(lines, (0, []))[1]).split())
    width, count = len(names), 0
    no_head = UserError(
        f"{path}: does not begin with the number of images and, on line 2, the attributes' names; "
        f"fetch the file again"
    )
    if not names or not all(names) or len(set(names)) < width:
        raise no_head
    for number, row_of_list in lines:
        image, *fields = row_of_list or [""]
        if announced is None and not count and len(fields) != width:
            raise no_head
        try:
            row = bytes(map(_LABELS.__getitem__, fields))
        except KeyError:
            row = b""
        if len(row) != width or not image:
            raise UserError(
                f"{path}: line {number}: expected '000001.jpg' and {width} times 1 or -1 "
                f"(0: unknown), found {' '.join([image, *fields])[:80]!r}"
            )
        images.append(image.encode())
        values += row
        count += 1
        if count % 4096 == 0:
            pack()
            values = bytearray()
    if not count:
        raise UserError(f"{path}: has no lines for images; fetch the file again")
    if announced is not None and announced.lstrip("0") != str(count):
        raise UserError(
            f"{path}: line 1 announces {announced[:20]} images, but there are {count}; "
            f"fetch the file again"
        )
    if values:
        pack()
    listed = images.array()
    order = np.argsort(listed, kind="stable")
    listed = listed[order]
    twice = listed[1:][listed[1:] == listed[:-1]]
    if len(twice):
        raise UserError(f"{path}: {printable(twice[0].decode())} appears a second time")
    return Attributes(names, listed, np.concatenate(packed)[order])
