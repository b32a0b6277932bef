"""CelebA in the shapes in which people have it: read like the authors' own, or one step away."""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import write_shards
from PIL import Image

from facevae.common.errors import UserError
from facevae.data.celeba import find_copy, read_attributes, read_partition
from facevae.data.lists import match

ARCHIVE, FOLDER = "img_align_celeba.zip", "img_align_celeba"
PARTITION, ATTRIBUTES = "list_eval_partition", "list_attr_celeba"


def _refusal(source: Path, tmp_path: Path, **options) -> str:
    with pytest.raises(UserError) as raised:
        write_shards(source, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    return str(raised.value)


class Parts:
    """The parts of the drawn copy, to be put together in another shape."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.partition = (source / f"{PARTITION}.txt").read_bytes()
        self.attributes = (source / f"{ATTRIBUTES}.txt").read_bytes()
        with zipfile.ZipFile(source / ARCHIVE) as archive:
            self.images = {Path(name).name: archive.read(name) for name in archive.namelist()}

    def write(self, path: str, content: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def unpack(self, folder: str) -> None:
        for name, content in self.images.items():
            self.write(f"{folder}/{name}", content)

    def pack(self, path: str, inner: str = FOLDER) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in self.images.items():
                archive.writestr(f"{inner}/{name}", content)
        self.write(path, file.getvalue())

    def lists(self, place: str = ".") -> None:
        self.write(f"{place}/{PARTITION}.txt", self.partition)
        self.write(f"{place}/{ATTRIBUTES}.txt", self.attributes)

    def csv_lists(self, separator: str = ",", start: str = "", end: str = "\n") -> None:
        """As Kaggle has them: with a header, and without the number of images."""
        partition = [
            ["image_id", "partition"],
            *map(str.split, self.partition.decode().split("\n")),
        ]
        _, names, *rows = map(str.split, self.attributes.decode().splitlines())
        for name, lines in (
            (PARTITION, partition),
            (ATTRIBUTES, [["image_id", *names], *rows]),
        ):
            text = start + end.join(separator.join(line) for line in lines)
            self.write(f"{name}.csv", text.encode())


@pytest.fixture
def parts(source: Path, tmp_path: Path) -> Parts:
    return Parts(source, tmp_path / "copy")


def _kaggle(parts: Parts) -> None:
    parts.unpack(f"{FOLDER}/{FOLDER}")
    parts.csv_lists()
    for name in ("list_bbox_celeba.csv", "list_landmarks_align_celeba.csv"):
        parts.write(name, b"image_id,x\n000001.jpg,95\n")


def _kaggle_after_excel(parts: Parts) -> None:
    """Saved in a country with a decimal comma."""
    parts.unpack(f"{FOLDER}/{FOLDER}")
    parts.csv_lists(separator=";", start="\ufeff", end="\r\n")


def _kaggle_partition_beside_the_authors_attributes(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.csv_lists()
    (parts.folder / f"{ATTRIBUTES}.csv").unlink()
    parts.write(f"{ATTRIBUTES}.txt", parts.attributes)


def _quoted(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.csv_lists()
    for name in (PARTITION, ATTRIBUTES):
        path = parts.folder / f"{name}.csv"
        with open(path, newline="") as file:
            rows = list(csv.reader(file))
        with open(path, "w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)


def _written_by_pandas(parts: Parts) -> None:
    """With the numbers of rows in front."""
    parts.pack(ARCHIVE)
    parts.csv_lists()
    for name in (PARTITION, ATTRIBUTES):
        path = parts.folder / f"{name}.csv"
        head, *lines = path.read_text().splitlines()
        numbered = [f"{number},{line}" for number, line in enumerate(lines)]
        path.write_text("\n".join([f",{head}", *numbered]))


def _commas_in_txt(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.csv_lists()
    for name in (PARTITION, ATTRIBUTES):
        (parts.folder / f"{name}.csv").rename(parts.folder / f"{name}.txt")


def _authors(parts: Parts) -> None:
    parts.pack(f"Img/{ARCHIVE}")
    parts.write("Img/img_align_celeba_png.7z/img_align_celeba_png.7z.001", b"7z")
    parts.write(f"Eval/{PARTITION}.txt", parts.partition)
    parts.write(f"Anno/{ATTRIBUTES}.txt", parts.attributes)
    parts.write("Anno/identity_CelebA.txt", b"000001.jpg 2880\n")
    parts.write("README.txt", b"CelebA")


def _authors_one_folder_up(parts: Parts) -> None:
    inner = parts.folder / "CelebA"
    parts.folder = inner
    _authors(parts)
    parts.folder = inner.parent


def _authors_unpacked(parts: Parts) -> None:
    parts.unpack(f"Img/{FOLDER}")
    parts.lists("Anno")


def _torchvision(parts: Parts) -> None:
    parts.pack(f"celeba/{ARCHIVE}")
    parts.unpack(f"celeba/{FOLDER}")
    parts.lists("celeba")
    parts.write("celeba/identity_CelebA.txt", b"000001.jpg 2880\n")
    parts.write("celeba/list_bbox_celeba.txt", b"1\nimage_id x_1\n000001.jpg 95\n")


def _other_case(parts: Parts) -> None:
    parts.images = {name.upper(): content for name, content in parts.images.items()}
    parts.unpack("IMG/Img_Align_CelebA")
    parts.write("eval/List_Eval_Partition.TXT", parts.partition)
    parts.write("ANNO/list_attr_celebA.txt", parts.attributes)


def _archive_in_other_case(parts: Parts) -> None:
    parts.images = {name.replace(".jpg", ".JPEG"): each for name, each in parts.images.items()}
    parts.pack("IMG_ALIGN_CELEBA.ZIP", inner="IMG_ALIGN_CELEBA")
    parts.lists()


def _byte_order_marks(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION}.txt", b"\xef\xbb\xbf" + parts.partition)
    parts.write(f"{ATTRIBUTES}.txt", b"\xef\xbb\xbf" + parts.attributes)


def _utf_16(parts: Parts) -> None:
    """What `>` in Windows' PowerShell writes."""
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION}.txt", parts.partition.decode().encode("utf-16"))
    parts.write(f"{ATTRIBUTES}.txt", parts.attributes.decode().encode("utf-16"))


def _files_of_macos_and_windows(parts: Parts) -> None:
    parts.unpack(FOLDER)
    parts.lists()
    for name in parts.images:
        parts.write(f"{FOLDER}/._{name}", b"\0\5\x16\7resource fork")
    parts.write(f"._{PARTITION}.txt", b"\0\5\x16\7")
    for place in (".", FOLDER):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", ".directory"):
            parts.write(f"{place}/{name}", b"\0\0\0\1Bud1")
        for name in ("__MACOSX", "@eaDir", ".Trashes", "System Volume Information"):
            parts.write(f"{place}/{name}/000001.jpg", b"not a face")


def _archive_made_by_macos(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.lists()
    with zipfile.ZipFile(parts.folder / ARCHIVE, "a") as archive:
        archive.writestr(f"__MACOSX/{FOLDER}/._000001.jpg", b"a Mac's")
        archive.writestr(f"{FOLDER}/._000002.jpg", b"a Mac's")
        archive.writestr(f"{FOLDER}/.DS_Store", b"a Mac's")
        archive.writestr("Thumbs.db", b"Windows'")


def _paths_in_lists(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION}.txt", parts.partition.replace(b"0000", b"img_align_celeba/0000"))
    parts.write(
        f"{ATTRIBUTES}.txt", parts.attributes.replace(b"\n0000", b"\nimg_align_celeba\\0000")
    )


def _lists_without_endings(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION}.txt", parts.partition.replace(b".jpg", b""))
    parts.write(f"{ATTRIBUTES}.txt", parts.attributes.replace(b".jpg", b""))


def _links(parts: Parts) -> None:
    """To files that lie elsewhere."""
    disk = parts.folder.parent / "disk"
    shape, parts.folder = parts.folder, disk
    parts.pack("celeba.zip")
    parts.lists()
    shape.mkdir()
    (shape / ARCHIVE).symlink_to(disk / "celeba.zip")
    for name in (PARTITION, ATTRIBUTES):
        (shape / f"{name}.txt").symlink_to(disk / f"{name}.txt")
    parts.folder = shape


SHAPES = [
    _kaggle, _kaggle_after_excel, _kaggle_partition_beside_the_authors_attributes, _quoted,
    _written_by_pandas,
    _commas_in_txt, _authors, _authors_one_folder_up, _authors_unpacked, _torchvision,
    _byte_order_marks, _utf_16, _files_of_macos_and_windows, _archive_made_by_macos,
    _paths_in_lists, _lists_without_endings, _links,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_copies_in_every_shape_give_the_same_bytes(
    parts: Parts, shards: Path, tmp_path: Path, shape: Callable[[Parts], None]
) -> None:
    shape(parts)
    write_shards(parts.folder, tmp_path / "shards")
    assert sorted(each.name for each in (tmp_path / "shards").iterdir()) == sorted(
        each.name for each in shards.iterdir()
    )
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def _png_copies(parts: Parts, place: str) -> None:
    for name, content in parts.images.items():
        pixels = io.BytesIO()
        Image.open(io.BytesIO(content)).save(pixels, "PNG", compress_level=1)
        parts.write(f"{place}/{Path(name).stem}.png", pixels.getvalue())
    parts.lists()


@pytest.mark.parametrize("place", [FOLDER, "Img/img_align_celeba_png"])
def test_copies_in_png_have_the_pixels_and_labels_of_the_lists(
    parts: Parts, shards: Path, tmp_path: Path, place: str
) -> None:
    """The names in the shards are those of the files, and everything else is the same."""
    _png_copies(parts, place)
    write_shards(parts.folder, tmp_path / "shards")
    for path in shards.iterdir():
        content = (tmp_path / "shards" / path.name).read_bytes()
        if path.suffix == ".tfrecord":
            assert content.count(b".png") == path.read_bytes().count(b".jpg") > 0
        elif path.suffix == ".json":
            assert _without_checksums(content) == _without_checksums(path.read_bytes())
        else:
            assert content == path.read_bytes()


def _without_checksums(manifest: bytes) -> dict[str, Any]:
    """Those of shards and of the manifest itself, because names are in the shards."""
    content = json.loads(manifest)
    del content["crc32c"]
    for split in content["splits"].values():
        for shard in split["shards"]:
            del shard["ends"]
    return content


@pytest.mark.parametrize("shape", [_other_case, _archive_in_other_case])
def test_copies_in_upper_case_are_read(
    parts: Parts, shards: Path, tmp_path: Path, shape: Callable[[Parts], None]
) -> None:
    shape(parts)
    manifest = write_shards(parts.folder, tmp_path / "shards")
    assert manifest["skipped"]["bad"] == {}
    for split in ("train", "validation", "test"):
        labels = f"{split}-attributes.npy"
        assert (tmp_path / "shards" / labels).read_bytes() == (shards / labels).read_bytes()


def test_copies_that_mac_wrote_accents_of_match_their_lists(parts: Parts, tmp_path: Path) -> None:
    accents = {f"{number:02d}é.jpg": each for number, each in enumerate(parts.images.values())}
    for name, content in accents.items():
        parts.write(f"{FOLDER}/{unicodedata.normalize('NFD', name)}", content)
    lines = [f"{name} {min(number, 2)}" for number, name in enumerate(accents)]
    parts.write(f"{PARTITION}.txt", "\n".join(lines).encode())
    manifest = write_shards(parts.folder, tmp_path / "shards")
    assert manifest["splits"]["test"]["images"] == 58


def test_copies_match_exact_names_before_similar_ones() -> None:
    names = np.array([b"a.jpg", b"a.png", b"b.PNG", b"c.jpg", b"c.png", b"d.jpg", b"x/e.jpg"])
    listed = np.array([b"a.png", b"b.jpg", b"c.jpeg", b"d.JPG", b"d.jpeg", b"e"])
    # a.jpg's only row is that of a.png; c.jpeg may be either image, and d.jpg either row.
    assert match(names, listed).tolist() == [-1, 0, 1, -1, -1, -1, 5]


def _subset(parts: Parts, numbers: range) -> None:
    """Some of the images, with the whole lists."""
    parts.images = {name: each for name, each in parts.images.items() if int(name[:6]) in numbers}
    parts.unpack(FOLDER)
    parts.lists()


def test_copies_that_are_a_part_need_one_step(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _subset(parts, range(41, 61))  # 8 for train, 6 and 6
    told = _refusal(parts.folder, tmp_path)
    assert "40 of 60 images cannot be used" in told
    assert "000001.jpg: is in list_eval_partition.txt, but there is no image" in told
    assert "data.on_bad_image: skip" in told
    manifest = write_shards(
        parts.folder, tmp_path / "shards", on_bad_image="skip", max_bad_share=0.0
    )
    counts = [entry["images"] for entry in manifest["splits"].values()]
    assert counts == [8, 6, 6]
    assert manifest["skipped"] == {
        "beyond_limit": {"train": 0, "validation": 0, "test": 0}, "bad": {},
    }  # fmt: skip
    told = capsys.readouterr().err
    assert f"{PARTITION}.txt: 40 images that it lists are not there, and are left out" in told


def test_copies_that_are_a_part_have_the_first_images_by_name_that_are_there(
    parts: Parts, tmp_path: Path
) -> None:
    _subset(parts, range(31, 61))
    limit = {"train": 5, "validation": 2, "test": 6}
    manifest = write_shards(parts.folder, tmp_path / "shards", limit=limit)
    assert [entry["images"] for entry in manifest["splits"].values()] == [5, 2, 6]
    assert manifest["skipped"]["beyond_limit"] == {"train": 13, "validation": 4, "test": 0}
    shard = (tmp_path / "shards" / "train-00000-of-00001.tfrecord").read_bytes()
    places = [shard.find(b"%06d.jpg" % number) for number in range(31, 36)]
    assert min(places) > 0
    assert places == sorted(places)
    assert b"000036.jpg" not in shard


def test_copies_whose_limit_is_more_than_is_there_need_one_step(
    parts: Parts, tmp_path: Path
) -> None:
    _subset(parts, range(31, 61))
    assert "30 of 60 images cannot be used" in _refusal(parts.folder, tmp_path, limit={"train": 19})
    skipping = write_shards(
        parts.folder, tmp_path / "shards", limit={"train": 19}, on_bad_image="skip"
    )
    assert skipping["splits"]["train"]["images"] == 18


def test_copies_without_an_image_of_a_split_are_refused_before_any_is_read(
    parts: Parts, tmp_path: Path
) -> None:
    _subset(parts, range(1, 40))
    parts.write(f"{FOLDER}/000001.jpg", b"not an image")
    told = _refusal(parts.folder, tmp_path, on_bad_image="skip")
    assert "the validation split has no images that are there; give it some in this file" in told


def test_copies_that_do_not_match_are_refused_before_any_image_is_read(
    parts: Parts, tmp_path: Path
) -> None:
    parts.images["000001.jpg"] = b"not an image"
    parts.images["000061.jpg"] = b""
    parts.unpack(FOLDER)
    parts.lists()
    told = _refusal(parts.folder, tmp_path)
    assert "1 of 61 images cannot be used" in told
    assert "000061.jpg: is not in list_eval_partition.txt, so it is in no split" in told


def _archive_of_everything(parts: Parts) -> None:
    parts.pack("archive.zip")


def _lists_still_packed(parts: Parts) -> None:
    parts.unpack(f"{FOLDER}/{FOLDER}")
    parts.write(f"{PARTITION}.csv.zip", b"PK")


def _second_download(parts: Parts) -> None:
    parts.pack("img_align_celeba (1).zip")
    parts.lists()


def _partition_of_a_second_download(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION} (1).txt", parts.partition)


def _attributes_of_a_second_download(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.write(f"{PARTITION}.txt", parts.partition)
    parts.write(f"{ATTRIBUTES} (1).txt", parts.attributes)


def _png_still_packed(parts: Parts) -> None:
    parts.write("Img/img_align_celeba_png.7z/img_align_celeba_png.7z.001", b"7z")
    parts.lists()


def _images_in_the_folder_itself(parts: Parts) -> None:
    parts.unpack(".")
    parts.lists()


def _in_a_folder_inside(parts: Parts) -> None:
    inner = parts.folder / "unpacked here"
    shape, parts.folder = parts.folder, inner
    _kaggle(parts)
    parts.folder = shape


def _two_of_a_name(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.lists()
    parts.write("LIST_EVAL_PARTITION.txt", parts.partition)


def _images_in_two_folders(parts: Parts) -> None:
    parts.unpack(FOLDER)
    parts.unpack(f"{FOLDER}/{FOLDER}")
    parts.lists()


def _no_partition(parts: Parts) -> None:
    parts.pack(ARCHIVE)


def _attributes_are_a_folder(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.lists()
    (parts.folder / f"{ATTRIBUTES}.txt").unlink()
    (parts.folder / f"{ATTRIBUTES}.txt").mkdir()


def _archive_is_a_pipe(parts: Parts) -> None:
    parts.lists()
    os.mkfifo(parts.folder / ARCHIVE)


def _partition_is_a_device(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    (parts.folder / f"{PARTITION}.txt").symlink_to("/dev/zero")


def _attributes_are_a_broken_link(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.lists()
    (parts.folder / f"{ATTRIBUTES}.txt").unlink()
    (parts.folder / f"{ATTRIBUTES}.txt").symlink_to("nowhere")


def _images_are_a_broken_link(parts: Parts) -> None:
    parts.lists()
    (parts.folder / FOLDER).symlink_to("nowhere")


def _partition_with_a_line_that_never_ends(parts: Parts) -> None:
    parts.pack(ARCHIVE)
    parts.lists()
    with open(parts.folder / f"{PARTITION}.txt", "r+b") as file:
        file.truncate(2**33)  # of zeros, which take no space


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (_archive_of_everything, "archive.zip: unpack it there"),
        (_lists_still_packed, "list_eval_partition.csv.zip: unpack it there"),
        (_second_download, "img_align_celeba (1).zip: rename it to img_align_celeba.zip"),
        (
            _partition_of_a_second_download,
            "list_eval_partition (1).txt: rename it to list_eval_partition.txt",
        ),
        (
            _attributes_of_a_second_download,
            "list_attr_celeba (1).txt is not read; rename it to list_attr_celeba.txt, or move it",
        ),
        (_png_still_packed, "img_align_celeba_png.7z: unpack it there"),
        (_images_in_the_folder_itself, "move them into a folder img_align_celeba in it"),
        (_in_a_folder_inside, "unpacked here has both: name it in data.source"),
        (
            _two_of_a_name,
            "has LIST_EVAL_PARTITION.txt and list_eval_partition.txt; keep one of them",
        ),
        (_images_in_two_folders, "img_align_celeba/img_align_celeba; keep one"),
        (_no_partition, "put CelebA's there, which is in the folder Eval of https://mmlab"),
        (_attributes_are_a_folder, "list_attr_celeba.txt: is not a file; put the file"),
        (_archive_is_a_pipe, "img_align_celeba.zip: is not a file; put the file"),
        (_partition_is_a_device, "list_eval_partition.txt: is not a file; put the file"),
        (_attributes_are_a_broken_link, "list_attr_celeba.txt: is not a file; put the file"),
        (_images_are_a_broken_link, "img_align_celeba: is not a folder; put the folder"),
        (_partition_with_a_line_that_never_ends, "line 61: is not text; fetch the file again"),
    ],
)
def test_copies_that_cannot_be_read_are_one_step_away(
    parts: Parts, tmp_path: Path, shape: Callable[[Parts], None], sentence: str
) -> None:
    parts.folder.mkdir()
    shape(parts)
    told = _refusal(parts.folder, tmp_path)
    assert sentence in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("place", [FOLDER, f"{FOLDER}/{FOLDER}", "Img"])
def test_copies_named_by_a_folder_of_theirs_are_one_step_away(
    parts: Parts, tmp_path: Path, place: str
) -> None:
    parts.unpack("Img/img_align_celeba" if place == "Img" else place)
    parts.csv_lists()
    told = _refusal(parts.folder / place, tmp_path)
    assert f"the folder {parts.folder} has both: name it in data.source" in told
    assert "make celeba" not in told


def test_copies_that_the_system_does_not_open_are_a_sentence(tmp_path: Path) -> None:
    """With a name that is too long: where the tests run as root, all permissions are theirs."""
    told = _refusal(tmp_path / ("a" * 300), tmp_path)
    assert "cannot be read (File name too long)" in told or "there is no folder" in told


def test_copies_whose_images_are_pipes_and_devices_name_them(parts: Parts, tmp_path: Path) -> None:
    """And none of them is waited for."""
    parts.unpack(FOLDER)
    parts.lists()
    folder = parts.folder / FOLDER
    for number in range(1, 6):
        (folder / f"{number:06d}.jpg").unlink()
    os.mkfifo(folder / "000001.jpg")
    (folder / "000002.jpg").symlink_to("/dev/zero")
    (folder / "000003.jpg").symlink_to("nowhere")
    (folder / "000004.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket may have no more than 107 bytes
        listener.bind("000005.jpg")
        os.chdir(here)
    manifest = write_shards(
        parts.folder, tmp_path / "shards", on_bad_image="skip", max_bad_share=0.1
    )
    assert manifest["skipped"]["bad"] == {
        "000001.jpg": "cannot be read (Not a regular file)",
        "000002.jpg": "cannot be read (Not a regular file)",
        "000003.jpg": "cannot be read (No such file or directory)",
        "000004.jpg": "cannot be read (Is a directory)",
        "000005.jpg": "cannot be read (Not a regular file)",
    }


def test_copies_with_names_that_control_a_terminal_are_listed_as_escapes(
    parts: Parts, tmp_path: Path
) -> None:
    parts.unpack(FOLDER)
    parts.lists()
    evil = "\x1b[2Jgone\n.jpg"
    parts.write(f"{FOLDER}/{evil}", b"")
    folder = parts.folder
    told = _refusal(folder, tmp_path)
    assert "  \\x1b[2Jgone\\n.jpg: is not in list_eval_partition.txt" in told
    assert "\x1b" not in told
    (folder / FOLDER / evil).unlink()
    with open(folder / f"{PARTITION}.txt", "a") as file:
        file.write("\x1b[2J.jpg 2\n")
    assert "\x1b" not in _refusal(folder, tmp_path)
    (folder / f"{PARTITION}.txt").write_text("\x1b[2J 9\n")
    assert "\x1b" not in _refusal(folder, tmp_path)
    shutil.rmtree(folder / FOLDER)
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        archive.writestr("a\x1b[2J/1.jpg", b"")
        archive.writestr("b\n/1.jpg", b"")
    told = _refusal(folder, tmp_path)
    assert "has images in several folders (a\\x1b[2J, b\\n)" in told


@pytest.mark.parametrize("end", ["txt", "csv"])
def test_copies_may_have_blanks_and_commas_in_names(tmp_path: Path, end: str) -> None:
    names = ["IMG 0001.jpg", "a,  b c.webp", "x.y 1.PNG", "1 -1.jpg"]
    partition, attributes = tmp_path / f"p.{end}", tmp_path / f"a.{end}"
    if end == "txt":
        partition.write_text("".join(f" {name}\t0 \n" for name in names))
        attributes.write_text("4\nA.a B.b\n" + "".join(f"{name}  1 -1\n" for name in names))
    else:
        partition.write_text("image_id,partition\n" + "".join(f'"{name}",0\n' for name in names))
        attributes.write_text("image_id,A,B\n" + "".join(f'"{name}",1,-1\n' for name in names))
    expected = sorted(name.encode() for name in names)
    assert read_partition(partition)["train"].tolist() == expected
    assert read_attributes(attributes).images.tolist() == expected


def test_copies_keep_their_lists_order_of_attributes(parts: Parts) -> None:
    parts.csv_lists()
    parts.lists()
    text, table = (read_attributes(parts.folder / f"{ATTRIBUTES}.{end}") for end in ("txt", "csv"))
    assert text.names == table.names
    np.testing.assert_array_equal(text.images, table.images)
    np.testing.assert_array_equal(text.packed, table.packed)
    for split, names in read_partition(parts.folder / f"{PARTITION}.txt").items():
        np.testing.assert_array_equal(
            names, read_partition(parts.folder / f"{PARTITION}.csv")[split]
        )


def test_copies_are_found_without_reading_them(parts: Parts) -> None:
    _authors(parts)
    found = find_copy(parts.folder)
    assert found.images == parts.folder / "Img" / ARCHIVE
    assert found.partition == parts.folder / "Eval" / f"{PARTITION}.txt"
    assert found.attributes == parts.folder / "Anno" / f"{ATTRIBUTES}.txt"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"image_id,partition\n000001.jpg,3\n", "line 2: expected '000001.jpg 0'"),
        (b"image_id,partition\n\n000001.jpg,0\n000001.jpg,1\n", "line 4: 000001.jpg appears a sec"),
        (b'image_id,partition\n"000001.jpg,0\n', "is not a list with fields between commas"),
        (b"image_id,partition\n000001.jpg,0\nimage_id,partition\n", "line 3: expected"),
        (b"image_id,partition,x\n000001.jpg,0,0\n", "line 1: expected"),
        (b"image_id,partition\n,0\n", "line 2: expected"),
        (b"000001.jpg 0\0\n", "line 1: is not text"),
        (b"\xff\xfe0\x000", "is not a text file in UTF-8"),
        ("000001.jpg 0\né.jpg 1".encode("latin-1"), "is not a text file in UTF-8"),
    ],
)
def test_copies_with_a_wrong_partition_csv_name_the_line(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / f"{PARTITION}.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_partition(path)
    assert str(raised.value).startswith(f"{path}: {sentence}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"image_id,A,B\n000001.jpg,1\n", "does not begin with the number of images"),
        (b"image_id,A,B\n000001.jpg,1,1\n000002.jpg,1\n", "line 3: expected '000001.jpg' and 2"),
        (b"image_id,A,A\n000001.jpg,1,1\n", "does not begin with the number of images"),
        (b"image_id,A,\n000001.jpg,1,1\n", "does not begin with the number of images"),
        (b"image_id,A\n", "has no lines for images; fetch the file again"),
        (b"image_id,A\n000001.jpg,2\n", "line 2: expected '000001.jpg' and 1 times 1 or -1"),
        (b"9" * 5000 + b"\nA\n000001.jpg 1\n", "line 1 announces 99999999999999999999 images"),
        (b"1\n\n000001.jpg\n", "has no lines for images"),
    ],
)
def test_copies_with_a_wrong_attribute_file_name_the_line(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / f"{ATTRIBUTES}.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_attributes(path)
    assert str(raised.value).startswith(f"{path}: {sentence}")


def test_dvc_does_not_look_at_what_is_not_read(project: Path) -> None:
    """By .dvcignore, which counts in the project's folder: see docs/data.md."""
    junk = [
        ".DS_Store", "._000001.jpg", "Thumbs.db", "desktop.ini", "__MACOSX/img/._000001.jpg",
        "@eaDir/000001.jpg", "$RECYCLE.BIN/000001.jpg", "System Volume Information/1", ".directory",
        "000001.jpg:Zone.Identifier", "Icon\r",
    ]  # fmt: skip
    read = [ARCHIVE, f"{PARTITION}.csv", f"{ATTRIBUTES}.txt", f"{FOLDER}/000001.jpg"]
    paths = [f"data/mine/{name}" for name in [*junk, *read]]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "check-ignore", *paths],
        cwd=project, capture_output=True, check=False,
    )  # fmt: skip
    assert done.stdout.decode().split("\n")[:-1] == paths[: len(junk)], done.stderr
