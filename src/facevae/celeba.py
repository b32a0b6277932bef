"""A folder in CelebA's own layout: which images there are, and which split each belongs to.

    <folder>/img_align_celeba.zip        as downloaded, read without unpacking it, or
    <folder>/img_align_celeba/*.jpg      the same, unpacked
    <folder>/list_eval_partition.txt     "000001.jpg 0" a line: 0 train, 1 validation, 2 test

The data set: Liu et al. 2015, arXiv 1411.7766; for non-commercial research only.
"""

import zipfile
import zlib
from pathlib import Path

from facevae.errors import UserError

ARCHIVE = "img_align_celeba.zip"
FOLDER = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"
SPLITS = ("train", "validation", "test")

HOW_TO_GET_IT = f"""\
To train on CelebA, download {ARCHIVE} and {PARTITION}
(https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html), put both into data/celeba and run
    dvc exp run -S data.source=data/celeba
To train on the built-in drawn faces, which need no download, run
    dvc exp run -S data.source=data/synthetic"""


def check_source(source: Path) -> None:
    """Raise a UserError that says what to do unless `source` holds images and a partition file."""
    if not source.exists():
        raise UserError(f"data.source: there is no folder {source}\n{HOW_TO_GET_IT}")
    if not source.is_dir():
        raise UserError(f"data.source: {source} is not a folder; name the folder that holds it")
    if not (source / ARCHIVE).is_file() and not (source / FOLDER).is_dir():
        raise UserError(
            f"data.source: {source} holds neither {ARCHIVE} nor a folder {FOLDER}\n{HOW_TO_GET_IT}"
        )
    if not (source / PARTITION).is_file():
        raise UserError(
            f"data.source: {source} lacks {PARTITION}, which says what belongs to which split\n"
            f"{HOW_TO_GET_IT}"
        )


def read_partition(path: Path) -> dict[str, list[str]]:
    """Image names per split, sorted, from a list_eval_partition.txt.

    Raises:
        UserError: a line is not "name split", a split is unknown, a name stands twice.
    """
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise UserError(
                f"{path}: line {number}: expected '000001.jpg 0' (0 train, 1 validation, 2 test), "
                f"found {line.strip()!r}"
            )
        name, split = fields
        if name in seen:
            raise UserError(f"{path}: line {number}: {name} stands there a second time")
        seen.add(name)
        names[SPLITS[int(split)]].append(name)
    return {split: sorted(members) for split, members in names.items()}


class ImageStore:
    """The JPEGs of a source folder, by name, from its archive or from the unpacked folder.

    The archive is preferred where both are there. Opening it is cheap enough for each worker
    process to have its own.

    Raises:
        UserError: the archive is not a zip.
    """

    def __init__(self, source: Path) -> None:
        self.path = source / ARCHIVE
        self._archive: zipfile.ZipFile | None = None
        if self.path.is_file():
            try:
                self._archive = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile:
                raise UserError(
                    f"{self.path}: is not a whole zip file; a quota page saved under this name or "
                    f"a download cut short: fetch it again"
                ) from None
            self.names = {
                name.removeprefix(f"{FOLDER}/")
                for name in self._archive.namelist()
                if name.startswith(f"{FOLDER}/") and not name.endswith("/")
            }
        else:
            self.path = source / FOLDER
            self.names = {entry.name for entry in self.path.iterdir() if entry.is_file()}

    def read(self, name: str) -> bytes:
        """The bytes of one image file.

        Raises:
            UserError: they cannot be read, or fail the archive's checksum.
        """
        try:
            if self._archive is None:
                return (self.path / name).read_bytes()
            return self._archive.read(f"{FOLDER}/{name}")
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"cannot be read: {error}") from None

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()
