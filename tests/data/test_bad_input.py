"""Bad input, each a real file: one clear sentence, nothing lost, nothing half-written."""

import io
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import data_settings, write_params, write_shards
from PIL import Image, ImageOps

from facevae.common.errors import UserError
from facevae.data.images import ImageReader, list_images
from facevae.data.preparation import square_image
from facevae.shards.batches import Shards, load_images

ARCHIVE, PARTITION = "img_align_celeba.zip", "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"


@pytest.fixture(scope="module")
def jpegs(source: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(source / ARCHIVE) as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    """A source of its own for the test to spoil."""
    folder = tmp_path / "celeba"
    folder.mkdir()
    for name in (ARCHIVE, PARTITION, ATTRIBUTES):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def _zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _file(image: Image.Image, file_format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _refusal(source: Path, tmp_path: Path, **options) -> str:
    """The sentence; and shards that were there before have not changed."""
    target = tmp_path / "shards"
    target.mkdir(exist_ok=True)
    (target / "manifest.json").write_text("the last good ones")
    with pytest.raises(UserError) as raised:
        write_shards(source, target, **options)
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert (target / "manifest.json").read_text() == "the last good ones"
    assert not list(tmp_path.glob(".*.tmp-*"))
    return str(raised.value)


def test_bad_input_missing_source(tmp_path: Path) -> None:
    sentence = _refusal(tmp_path / "nowhere", tmp_path)
    assert f"there is no folder {tmp_path / 'nowhere'}" in sentence
    assert "make celeba" in sentence


def test_bad_input_source_is_a_file(copy: Path, tmp_path: Path) -> None:
    assert "is not a folder" in _refusal(copy / ARCHIVE, tmp_path)


def test_bad_input_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    sentence = _refusal(folder, tmp_path)
    assert "has neither img_align_celeba.zip nor a folder img_align_celeba" in sentence


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b"60\r\n", b"", "does not begin with the number of images and, on line 2, the attributes"),
        (b"Bald Bangs", b"Bald Bald", "does not begin with the number of images and, on line 2,"),
        (
            b"60\r\n",
            b"61\r\n",
            "line 1 announces 61 images, but there are 60; fetch the file again",
        ),
        (b"000003.jpg ", b"000003.jpg 0 ", "line 5: expected '000001.jpg' and 20 times 1 or -1"),
        (b"000003.jpg ", b"000003.jpg 1 ", "line 5: expected '000001.jpg' and 20 times 1 or -1"),
        (b"000003.jpg", b"000004.jpg", "000004.jpg appears a second time"),
        (
            b"000003.jpg",
            b"999999.jpg",
            "has no line for 000003.jpg; fetch the file again, or remove",
        ),
        (b"000003.jpg", b"\xff\xfe", "is not a text file in UTF-8; fetch it again"),
    ],
)
def test_bad_input_attribute_file(
    source: Path, copy: Path, tmp_path: Path, old: bytes, new: bytes, sentence: str
) -> None:
    content = (source / ATTRIBUTES).read_bytes()
    assert old in content
    (copy / ATTRIBUTES).write_bytes(content.replace(old, new, 1))
    refusal = _refusal(copy, tmp_path)
    assert sentence in refusal
    assert refusal.startswith(str(copy / ATTRIBUTES))
    assert "\n" not in refusal


def test_bad_input_attribute_file_of_pandas_that_is_cut_off(copy: Path, tmp_path: Path) -> None:
    (copy / ATTRIBUTES).unlink()
    table = (copy / ATTRIBUTES).with_suffix(".csv")
    table.write_text(",image_id,Smiling\n0,000001.jpg,1\n1\n", encoding="utf-8")
    refusal = _refusal(copy, tmp_path)
    assert f"{table}: line 3: expected '000001.jpg' and 1 times 1 or -1" in refusal


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<html>\n<title>Quota</title>\n"])
def test_bad_input_attribute_file_is_something_else(
    copy: Path, tmp_path: Path, content: bytes
) -> None:
    (copy / ATTRIBUTES).write_bytes(content)
    assert "does not begin with the number of images" in _refusal(copy, tmp_path)


def _web_page(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _directory_damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2", len(content) // 2)] ^= 1
    path.write_bytes(content)


def _start_missing(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"PK\1\2") + 500 :])


def _middle_missing(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + content[len(content) // 2 :])


def _of_another_version(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 6] = 90
    path.write_bytes(content)


def _zip_in_zip(path: Path) -> None:
    inner = path.read_bytes()
    _zip(path, {ARCHIVE: inner})


def _no_images(path: Path) -> None:
    _zip(path, {"readme.txt": b"nothing here"})


def _two_folders(path: Path) -> None:
    _zip(path, {"a/000001.jpg": b"x", "b/000002.jpg": b"x"})


def _climbing(path: Path) -> None:
    _zip(path, {"img_align_celeba/../../000001.jpg": b"x"})


def _absolute(path: Path) -> None:
    _zip(path, {"/tmp/000001.jpg": b"x"})


def _windows_climbing(path: Path) -> None:
    _zip(path, {"..\\000001.jpg": b"x"})


def _drive(path: Path) -> None:
    _zip(path, {"C:\\pictures\\000001.jpg": b"x"})


def _encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag, in the directory
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_web_page, "is a web page, not a zip"),
        (_cut, "is not a whole zip file: its download was cut short"),
        (_empty, "is not a whole zip file"),
        (_directory_damaged, "is not a whole zip file: .* or it is damaged; fetch it again"),
        (_start_missing, "is not a whole zip file"),
        (_middle_missing, r"by its directory, 'img_align_celeba/0000\d\d.jpg' begins outside the"),
        (_of_another_version, r"not supported \(zip file version 9.0\)"),
        (_zip_in_zip, r"contains another archive, img_align_celeba.zip, and no images; unpack it"),
        (_no_images, r"has no images \(.jpg, .jpeg, .png\)"),
        (_two_folders, r"has images in several folders \(a, b\)"),
        (_climbing, r"which points outside the archive"),
        (_absolute, r"'/tmp/000001.jpg', which points outside the archive"),
        (_windows_climbing, r"which points outside the archive"),
        (_drive, r"which points outside the archive"),
        (_encrypted, "is encrypted"),
    ],
)
def test_bad_input_archives(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    before = set(tmp_path.parent.iterdir())
    spoil(copy / ARCHIVE)
    told = _refusal(copy, tmp_path)
    assert re.search(f"{re.escape(str(copy / ARCHIVE))}: .*{sentence}", told)
    assert set(tmp_path.parent.iterdir()) == before


def test_bad_input_whatever_is_damaged_in_an_archive_is_a_sentence(tmp_path: Path) -> None:
    """Bytes are changed or lost at random, in the directory more than elsewhere."""
    archive = tmp_path / ARCHIVE
    _zip(archive, {f"img_align_celeba/{number:06d}.jpg": bytes(99) for number in range(4)})
    whole = archive.read_bytes()
    directory = whole.index(b"PK\1\2")
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        start = int(random.integers(random.choice([0, directory]), len(whole)))
        length = int(random.choice([1, 2, 4, 8, 1000]))
        kind = random.integers(3)
        damaged[start : start + length] = (
            b"" if kind == 0 else (b"\xff" if kind == 1 else random.bytes(1)) * length
        )
        archive.write_bytes(damaged)
        try:
            with ImageReader(archive) as reader:
                for row in list_images(archive).tolist():
                    reader.read(row)
        except UserError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize("depth", ["", "celeba/Img/img_align_celeba/"])
def test_images_at_another_depth_of_the_archive_are_found(
    copy: Path, shards: Path, tmp_path: Path, jpegs: dict[str, bytes], depth: str
) -> None:
    files = {f"{depth}{name}": content for name, content in jpegs.items()}
    _zip(copy / ARCHIVE, {**files, "__MACOSX/._000001.jpg": b"a Mac's", "readme.txt": b"hello"})
    write_shards(copy, tmp_path / "shards")
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_archives_of_other_writers_are_read(
    copy: Path, shards: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    """With bytes in front, a comment behind, and 64-bit sizes throughout."""
    with zipfile.ZipFile(copy / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"PK comment" * 1000
        for name, content in jpegs.items():
            with archive.open(f"img_align_celeba/{name}", "w", force_zip64=True) as member:
                member.write(content)
    whole = (copy / ARCHIVE).read_bytes()
    (copy / ARCHIVE).write_bytes(b"#!/bin/self-extracting\n" + whole)
    write_shards(copy, tmp_path / "shards")
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_more_members_than_a_short_directory_counts(tmp_path: Path) -> None:
    """70,000 images need the 64-bit end of the directory; all of them are found."""
    folder = tmp_path / "many"
    folder.mkdir()
    image = _file(Image.new("RGB", (16, 16), "red"))
    with zipfile.ZipFile(folder / ARCHIVE, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", image if number < 3 else b"")
    (folder / PARTITION).write_text(
        "".join(f"{number:06d}.jpg {min(number, 2)}\n" for number in range(70_000))
    )
    manifest = write_shards(folder, tmp_path / "shards", crop="none", limit={"test": 1})
    assert manifest["skipped"]["beyond_limit"] == {"train": 0, "validation": 0, "test": 69_997}


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image = Image.new("RGB", (218, 178), "black")
    image.paste("white", (0, 0, 218, 20))  # the top, which belongs on the right
    return _file(image, exif=exif, quality=100)


def test_odd_images_become_rgb() -> None:
    def made(file: bytes) -> np.ndarray:
        return np.asarray(square_image(file, data_settings(crop="none", image_size=96))).astype(int)

    size = (178, 218)
    for mode, file_format, colour, expected in (
        ("L", "JPEG", 100, (100, 100, 100)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", "PNG", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", "PNG", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", "PNG", (40, 0), (255, 255, 255)),
        ("1", "PNG", 1, (255, 255, 255)),
    ):
        pixels = made(_file(Image.new(mode, size, colour), file_format))
        assert np.abs(pixels - expected).max() <= 2, mode
    palette = Image.new("P", size, 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert np.abs(made(_file(palette, "PNG")) - (10, 200, 30)).max() == 0
    assert np.abs(made(_file(palette, "PNG", transparency=1)) - 255).max() == 0
    black = Image.new("1", size, 0)
    assert np.abs(made(_file(black, "PNG", transparency=0)) - 255).max() == 0
    upright = made(_rotated())
    assert upright[:, -8:].min() > 240
    assert upright[:, :80].max() < 15


def _turned(exif: bytes) -> np.ndarray:
    """A lying image with a white top, made with this EXIF block."""
    image = Image.new("RGB", (218, 178), "black")
    image.paste("white", (0, 0, 218, 20))
    made = square_image(_file(image, exif=exif, quality=100), data_settings(crop="none"))
    return np.asarray(made).astype(int)


def _exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """Tags with their type, number of values and four bytes: the values, or where they are."""
    block = b"MM\0*" + struct.pack(">LH", 8, len(tags))
    for tag, kind, count, value in tags:
        block += struct.pack(">HHL", tag, kind, count) + value
    return b"Exif\0\0" + block + bytes(4)


_ORIENTATION_6 = (0x0112, 3, 1, b"\0\6\0\0")


@pytest.mark.parametrize(
    "other",
    [
        (0x011A, 2, 4, b"72\0\0"),  # XResolution is a text
        (0x011A, 5, 1, b"\xff\xff\xff\xff"),  # and is nowhere
        (0x0131, 7, 2**31, bytes(4)),  # Software is longer than the file
        (0x8769, 4, 1, b"\0\0\0\x08"),  # the block of further tags is this block
        (0x927C, 14, 4, b"\xff" * 4),  # MakerNote has a type that there is not
        (0x9C9B, 1, 4, b"\xff" * 4),
    ],
)
def test_odd_exif_beside_the_orientation_does_not_matter(
    other: tuple[int, int, int, bytes],
) -> None:
    for tags in ((_ORIENTATION_6, other), (other, _ORIENTATION_6)):
        upright = _turned(_exif(*tags))
        assert upright[:, -1:].min() > 240
        assert upright[:, :13].max() < 15


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0", b"Exif\0\0MM", b"Exif\0\0no TIFF at all", _exif(_ORIENTATION_6)[:-8],
        _exif((0x0112, 2, 4, b"six\0")), _exif((0x0112, 3, 1, b"\0\x09\0\0")),
        _exif((0x0112, 3, 0, b"\0\6\0\0")), _exif((0x0112, 5, 1, b"\xff\xff\xff\xff")),
    ],
)  # fmt: skip
def test_odd_exif_without_a_readable_orientation_turns_nothing(exif: bytes) -> None:
    lying = _turned(exif)
    assert lying[:1].min() > 240
    assert lying[3:].max() < 15


@pytest.mark.parametrize(
    "tag", [_ORIENTATION_6, (0x0112, 4, 1, b"\0\0\0\6"), (0x0112, 1, 1, b"\6\0\0\0")]
)
def test_orientation_of_any_integer_type_is_read(tag: tuple[int, int, int, bytes]) -> None:
    assert _turned(_exif(tag))[:, -1:].min() > 240
    assert _turned(b"Exif\0\0" + _exif(tag))[:, -1:].min() > 240


def test_orientations_are_those_of_pillow() -> None:
    picture = Image.linear_gradient("L").resize((178, 218)).rotate(30)
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = _file(picture, exif=exif)
        made = square_image(file, data_settings(crop="none", image_size=96))
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
        assert made.tobytes() == expected.resize((96, 96), Image.Resampling.BOX).tobytes()


def test_orientation_behind_the_pixels_of_a_png_is_read() -> None:
    image = Image.new("RGB", (218, 178), "black")
    image.paste("white", (0, 0, 218, 20))
    file = _file(image, "PNG")
    end = file.index(b"IEND") - 4
    file = file[:end] + _chunk(b"eXIf", _exif(_ORIENTATION_6)[6:]) + file[end:]
    made = np.asarray(square_image(file, data_settings(crop="none")))
    assert made[:, -1:].min() == 255


def test_odd_exif_is_prepared_with_the_other_images(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    odd = _exif(_ORIENTATION_6, (0x011A, 2, 4, b"72\0\0"))
    jpegs = {**jpegs, "000002.jpg": _file(Image.new("RGB", (218, 178)), exif=odd)}
    _zip(copy / ARCHIVE, {f"img_align_celeba/{name}": file for name, file in jpegs.items()})
    assert write_shards(copy, tmp_path / "shards")["splits"]["train"]["images"] == 48


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def _header_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and has next to nothing behind that."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b""))
        + _chunk(b"IEND", b"")
    )


def _profile_without_content() -> bytes:
    """A PNG that makes Pillow raise an IndexError."""
    file = _file(Image.new("RGB", (178, 218)), "PNG")
    end = file.index(b"IEND") - 4
    return file[:end] + _chunk(b"iCCP", b"") + file[end:]


def _bad_images(jpeg: bytes) -> dict[str, tuple[bytes, str]]:
    deep = Image.fromarray(np.full((218, 178), 1000, np.uint16))
    return {
        "000001.jpg": (b"", "is empty"),
        "000002.jpg": (b"<html>quota</html>", "is not a JPEG or PNG image"),
        "000003.jpg": (jpeg[: len(jpeg) // 2], "is cut short or damaged"),
        "000004.jpg": (
            _file(Image.new("RGB", (89, 109))),
            "is 89x109 pixels; data.crop 148 needs",
        ),
        "000005.jpg": (_rotated()[:200], "is cut short or damaged"),
        "000006.jpg": (_header_of(30_000, 30_000), "has over 170 million pixels, more than the 33"),
        "000007.jpg": (_header_of(10_000, 10_000), "is 10000x10000 pixels, more than the 33 m"),
        "000008.jpg": (_header_of(6_000, 6_000), "is 6000x6000 pixels, more than the 33 million"),
        "000009.jpg": (_file(deep, "PNG"), "has pixels of mode I;16"),
        "000010.jpg": (_file(Image.new("RGB", (178, 218)), "GIF"), "is not a JPEG or PNG image"),
        "000011.jpg": (_profile_without_content(), "is cut short or damaged (index out of range)"),
    }


def test_bad_input_images_are_all_looked_at_and_listed(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    bad = _bad_images(jpegs["000001.jpg"])
    spoilt = {**jpegs, **{name: file for name, (file, _) in bad.items()}}
    _zip(copy / ARCHIVE, {f"img_align_celeba/{name}": file for name, file in spoilt.items()})
    told = _refusal(copy, tmp_path)
    assert f"{copy / ARCHIVE}: 11 of 60 images cannot be used:" in told
    for name, (_, reason) in bad.items():
        assert f"  {name}: {reason}" in told
    assert "data.on_bad_image: skip" in told


_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from helpers import data_settings
from facevae.common.errors import UserError
from facevae.data.images import list_images
from facevae.data.preparation import ShardTask, write_shard

store, target = map(Path, sys.argv[1:])
settings = data_settings(crop="none", on_bad_image="skip")
task = ShardTask(settings, str(store), str(target), list_images(store))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 50 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    write_shard(task)
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
def test_bad_input_is_no_image_for_which_memory_is_lacking(project: Path, tmp_path: Path) -> None:
    """Not even with skip: on another machine the shards would be others."""
    store = tmp_path / "images"
    store.mkdir()
    (store / "000001.png").write_bytes(_file(Image.new("RGB", (5800, 5700)), "PNG"))
    done = subprocess.run(
        [sys.executable, "-c", _WITH_LITTLE_MEMORY, store, tmp_path / "shard"],
        cwd=project / "tests", text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert f"{store}: there is not enough memory to decode 000001.png" in done.stdout, done.stderr
    assert not (tmp_path / "shard").exists()


def test_bad_input_of_which_there_is_much_is_cut_to_twenty(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    _zip(copy / ARCHIVE, {f"img_align_celeba/{name}": b"no image" for name in jpegs})
    lines = _refusal(copy, tmp_path).splitlines()
    assert lines[0].endswith("60 of 60 images cannot be used:")
    assert len([line for line in lines if "is not a JPEG or PNG image" in line]) == 20
    assert "  ... and 40 more" in lines


def test_bad_input_is_skipped_when_asked_for(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    spoilt = {**jpegs, "000003.jpg": b"", "000004.jpg": b"no image"}
    _zip(copy / ARCHIVE, {f"img_align_celeba/{name}": file for name, file in spoilt.items()})
    told = _refusal(copy, tmp_path, on_bad_image="skip", max_bad_share=0.03)
    assert "2 of 60 images cannot be used, more than data.max_bad_share 0.03" in told
    target = tmp_path / "kept"
    manifest = write_shards(copy, target, on_bad_image="skip", max_bad_share=0.04)
    assert manifest["skipped"]["bad"] == {
        "000003.jpg": "is empty", "000004.jpg": "is not a JPEG or PNG image",
    }  # fmt: skip
    assert manifest["splits"]["train"]["images"] == 46
    assert len(load_images(Shards(target), "train")) == 46


def test_bad_input_flipped_byte_in_the_archive(copy: Path, tmp_path: Path) -> None:
    whole = bytearray((copy / ARCHIVE).read_bytes())
    with zipfile.ZipFile(copy / ARCHIVE) as archive:
        member = archive.getinfo("img_align_celeba/000009.jpg")
    whole[member.header_offset + 1000] ^= 1
    (copy / ARCHIVE).write_bytes(whole)
    told = _refusal(copy, tmp_path)
    assert "000009.jpg: is damaged in the archive: its checksum is wrong" in told


def test_bad_input_member_that_unpacks_to_more_than_it_says(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    files = {f"img_align_celeba/{name}": file for name, file in jpegs.items()}
    bomb = "img_align_celeba/000005.jpg"
    _zip(copy / ARCHIVE, {**files, bomb: bytes(300_000_000)})
    assert "000005.jpg: is a file of more than 64 MiB" in _refusal(copy, tmp_path)
    whole = (copy / ARCHIVE).read_bytes()
    lie = whole.replace(struct.pack("<I", 300_000_000), struct.pack("<I", 5000))
    assert lie != whole
    (copy / ARCHIVE).write_bytes(lie)
    assert "000005.jpg: is damaged in the archive" in _refusal(copy, tmp_path)


def test_bad_input_duplicate_names_in_the_archive(
    copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    with zipfile.ZipFile(copy / ARCHIVE, "a") as archive, pytest.warns(UserWarning, match="Dupl"):
        archive.writestr("img_align_celeba/000002.jpg", jpegs["000003.jpg"])
    told = _refusal(copy, tmp_path)
    assert "1 of 60 images cannot be used" in told
    assert "000002.jpg: appears in the archive more than once" in told


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<!DOCTYPE html>\n<html>\n", "line 1: expected '000001.jpg 0'"),
        ("000001.jpg train\n", "line 1: expected '000001.jpg 0'"),
        ("000001.jpg 0\n000002.jpg 7\n", "line 2: expected '000001.jpg 0'"),
        ("000001.jpg 0\n000001.jpg 1\n", "line 2: 000001.jpg appears a second time"),
        ("000001.jpg 0\n000002.jpg 1\n", "58 of 60 images cannot be used"),
        ("", "60 of 60 images cannot be used"),
    ],
)
def test_bad_input_partitions(copy: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (copy / PARTITION).write_text(text)
    assert sentence in _refusal(copy, tmp_path)


def test_bad_input_partition_missing_or_not_text(copy: Path, tmp_path: Path) -> None:
    (copy / PARTITION).write_bytes(b"000001.jpg 0\n\xe9.jpg 1\n")
    assert "is not a text file in UTF-8" in _refusal(copy, tmp_path)
    (copy / PARTITION).unlink()
    assert "has no list_eval_partition.txt" in _refusal(copy, tmp_path)


def test_bad_input_partition_and_archive_do_not_match(copy: Path, tmp_path: Path) -> None:
    lines = (copy / PARTITION).read_text().splitlines()
    (copy / PARTITION).write_text("\n".join([*lines[1:], "999999.jpg 2"]) + "\n")
    told = _refusal(copy, tmp_path)
    assert "2 of 61 images cannot be used" in told
    assert "  000001.jpg: is not in list_eval_partition.txt" in told
    assert "  999999.jpg: is in list_eval_partition.txt, but there is no image" in told


def test_bad_input_split_without_images(copy: Path, tmp_path: Path) -> None:
    text = (copy / PARTITION).read_text().replace(" 2\n", " 0\n")
    (copy / PARTITION).write_text(text)
    assert "the test split has no images" in _refusal(copy, tmp_path)


def test_partition_with_crlf_is_read(copy: Path, shards: Path, tmp_path: Path) -> None:
    text = (copy / PARTITION).read_bytes()
    (copy / PARTITION).write_bytes(text.replace(b"\n", b"\r\n"))
    write_shards(copy, tmp_path / "shards")
    manifest = "manifest.json"
    assert (tmp_path / "shards" / manifest).read_bytes() == (shards / manifest).read_bytes()


def test_bad_input_unpacked_folder(copy: Path, tmp_path: Path, jpegs: dict[str, bytes]) -> None:
    (copy / ARCHIVE).unlink()
    folder = copy / "img_align_celeba"
    folder.mkdir()
    assert "has no images" in _refusal(copy, tmp_path)
    for name, file in jpegs.items():
        (folder / name).write_bytes(file)
    (folder / "000007.jpg").write_bytes(b"")
    (folder / "000008.jpg").unlink()
    (folder / "000008.jpg").mkdir()
    told = _refusal(copy, tmp_path)
    assert "2 of 60 images cannot be used" in told
    assert "000008.jpg: cannot be read (Is a directory)" in told


def _damaged(shards: Path, tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in shards.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder, folder / "train-00001-of-00003.tfrecord"


def test_bad_input_shard_cut_short_or_gone(shards: Path, tmp_path: Path) -> None:
    folder, shard = _damaged(shards, tmp_path)
    length = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[: length // 20 * 15])  # at the end of a record
    with pytest.raises(UserError, match=rf"{shard}: has {length // 20 * 15} bytes and should have"):
        Shards(folder)
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard}: has 0 bytes and should have {length}"):
        Shards(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json: is damaged .* prepare"):
        Shards(folder)


@pytest.mark.parametrize("position", [3, 9, 400, -2])
def test_bad_input_shard_with_a_flipped_byte(shards: Path, tmp_path: Path, position: int) -> None:
    folder, shard = _damaged(shards, tmp_path)
    content = bytearray(shard.read_bytes())
    content[position] ^= 16
    shard.write_bytes(content)
    record = 1 if position > 0 else 20
    sentence = rf"{shard}: record {record} is damaged; write the shards again: dvc repro"
    with pytest.raises(UserError, match=sentence), Shards(folder) as opened:
        load_images(opened, "train")


def test_bad_input_reaches_a_user_of_the_stage_as_a_sentence(
    project: Path, copy: Path, tmp_path: Path
) -> None:
    _cut(copy / ARCHIVE)
    done = subprocess.run(
        [
            sys.executable, "stages/prepare.py", "--shards", tmp_path / "shards",
            "--metrics", tmp_path / "data.json",
            "--params", write_params(tmp_path, data={"source": str(copy)}),
        ],
        cwd=project, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "data.json").exists()


def test_bad_input_metric_counts_what_was_skipped(
    project: Path, copy: Path, tmp_path: Path, jpegs: dict[str, bytes]
) -> None:
    _zip(
        copy / ARCHIVE,
        {f"img_align_celeba/{name}": file for name, file in {**jpegs, "000003.jpg": b""}.items()},
    )
    data = {"source": str(copy), "on_bad_image": "skip", "max_bad_share": 0.5, "image_size": 16}
    subprocess.run(
        [
            sys.executable, "stages/prepare.py", "--shards", tmp_path / "shards",
            "--metrics", tmp_path / "data.json", "--params", write_params(tmp_path, data=data),
        ],
        cwd=project, check=True, capture_output=True,
    )  # fmt: skip
    metric = yaml.safe_load((tmp_path / "data.json").read_text())
    assert metric == {
        "images": {"train": 47, "validation": 6, "test": 6}, "beyond_limit": 0, "bad": 1,
    }  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_bad_input_no_permission_to_write(project: Path, source: Path, tmp_path: Path) -> None:
    """As a user without rights, also where the tests run as root."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    program = (
        "import os, sys; sys.path[:0] = ['stages']; import _stage, prepare; "
        "os.geteuid() == 0 and os.seteuid(65534); _stage.run(prepare.main)"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", program, "--shards", closed / "shards",
            "--metrics", tmp_path / "data.json",
            "--params", write_params(tmp_path, data={"source": str(source)}),
        ],
        cwd=project, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
