"""Whatever lies in a folder of images: reading it gives a result or a UserError, nothing else."""

import io
import struct
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import data_settings
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from facevae.common.errors import UserError, printable
from facevae.data.celeba import HOW_TO_GET_IT, find_copy, read_attributes, read_partition
from facevae.data.images import ImageReader, list_images
from facevae.data.lists import match
from facevae.data.preparation import square_image

# What lists are made of, and what they should not have.
_NAMES = st.sampled_from(["000001.jpg", "000002.JPG", "000003.png", "é.jpg", "a b.jpg", "image_id"])
_VALUES = st.sampled_from(
    ["0", "1", "2", "-1", "3", "1.0", "", "Smiling", "partition", "٣", "9" * 5000]
)
_ODD = st.text(st.characters(codec="utf-8"), max_size=8)
_FIELDS = st.lists(_NAMES | _VALUES | _ODD, max_size=5)
_SEPARATORS = st.sampled_from([" ", "  ", "\t", ",", ";", ", ", '"', '","'])
_ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "", "\0", "\x85"])
_ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])


@st.composite
def _lists(draw: st.DrawFn) -> bytes:
    """Texts that look more or less like a list of images."""
    separator, end = draw(_SEPARATORS), draw(_ENDS)
    width = draw(st.integers(0, 3))
    labels = st.lists(st.sampled_from(["1", "-1", "0"]), min_size=width, max_size=width)
    good = st.builds(lambda name, values: [name, *values], _NAMES, labels)
    lines = draw(st.lists(good | _FIELDS, max_size=6))
    head = draw(
        st.sampled_from(
            [[], [[str(len(lines))], ["A", "B", "C"][:width]], [["image_id", "A", "B"]]]
        )
    )
    text = end.join(separator.join(fields) for fields in [*head, *lines])
    return text.encode(draw(_ENCODINGS))


def _check_sentence(error: UserError, start: str = "") -> None:
    told = str(error)
    assert told.startswith(start)
    assert len(told) > len(start)
    assert all(map(str.isprintable, told.split("\n")))
    assert "\n" not in told or HOW_TO_GET_IT in told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(content=_lists() | st.binary(max_size=200))
@example(content=b"000001.jpg 0\n000001.jpg\t0")
@example(content=b'image_id,partition\n"' + b"x" * 200_000)
def test_any_partition_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "list_eval_partition.txt"
    path.write_bytes(content)
    try:
        splits = read_partition(path)
    except UserError as error:
        _check_sentence(error, f"{path}: ")
        return
    names = np.concatenate(list(splits.values()))
    assert len(set(names.tolist())) == len(names)
    assert b"" not in names.tolist()


@given(content=_lists() | st.binary(max_size=200))
@example(content=b"9" * 5000 + b"\nA\n000001.jpg 1")
@example(content=b"0\n")
@example(content=b"1\n\n000001.jpg")
def test_any_attribute_file_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "list_attr_celeba.txt"
    path.write_bytes(content)
    try:
        attributes = read_attributes(path)
    except UserError as error:
        _check_sentence(error, f"{path}: ")
        return
    assert attributes.names
    assert len(attributes.images) == len(attributes.packed) > 0
    np.testing.assert_array_equal(attributes.of(attributes.images), attributes.packed)


def _small_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"img_align_celeba/{number:06d}.jpg", bytes(99))
        with archive.open("img_align_celeba/000003.jpg", "w", force_zip64=True) as member:
            member.write(bytes(9))
    return file.getvalue()


_ARCHIVE = _small_archive()
_DIRECTORY = _ARCHIVE.index(b"PK\1\2")


def _is_read_or_refused(path: Path) -> None:
    try:
        rows = list_images(path)
        reader = ImageReader(path)
    except UserError as error:
        _check_sentence(error, f"{path}: ")
        return
    with reader:
        for row in rows.tolist():
            try:
                assert len(reader.read(row)) <= 2**26
            except UserError as error:
                _check_sentence(error)


@given(
    start=st.integers(0, len(_ARCHIVE)) | st.integers(_DIRECTORY, len(_ARCHIVE)),
    length=st.sampled_from([0, 1, 2, 4, 8, 1000]),
    put=st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\0" * 4, b"PK\1\2", b"PK\6\7"]),
)
def test_any_damage_in_an_archive_is_refused_or_read_around(
    folder: Path, start: int, length: int, put: bytes
) -> None:
    path = folder / "damaged.zip"
    path.write_bytes(_ARCHIVE[:start] + put + _ARCHIVE[start + length :])
    _is_read_or_refused(path)


# Where numbers in a zip's directory change their meaning or leave a system's integers.
_NUMBERS = st.sampled_from(
    [0, 1, 46, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63, 2**64 - 1]
) | st.integers(0, 2**64 - 1)


@given(
    counts=st.tuples(*[_NUMBERS] * 4),
    disks=st.tuples(*[st.sampled_from([0, 0, 1, 2**32 - 1])] * 4),
    short=st.tuples(*[st.sampled_from([0, 1, 200, 2**16 - 1])] * 2),
    long=st.tuples(*[st.sampled_from([0, 46, 200, 2**31, 2**32 - 1])] * 2),
    body=st.sampled_from([b"", _ARCHIVE[:_DIRECTORY], _ARCHIVE]),
    parts=st.tuples(st.booleans(), st.booleans()),
)
@example((0, 0, 2**62, 0), (0, 0, 0, 1), (0, 0), (0, 0), b"", (True, True))
@example((0, 0, 2**40, 0), (0, 0, 0, 1), (0, 0), (0, 0), b"", (True, True))
@example((0, 0, 0, 2**64 - 1), (0, 0, 0, 1), (0, 0), (0, 0), b"", (True, True))
@example((0, 0, 0, 0), (0, 0, 0, 1), (0, 0), (0, 0), b"", (False, True))
def test_any_numbers_at_the_end_of_an_archive_are_read_or_refused(
    folder: Path,
    counts: tuple[int, ...],
    disks: tuple[int, ...],
    short: tuple[int, ...],
    long: tuple[int, ...],
    body: bytes,
    parts: tuple[bool, bool],
) -> None:
    """The 64-bit end of the directory, its locator and the short end: APPNOTE.TXT, 4.3.14 to 16."""
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, disks[0], disks[1], *counts)
    locator = struct.pack("<4sLQL", b"PK\6\7", disks[2], len(body), disks[3])
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *short, *long, 0)
    path = folder / "numbers.zip"
    path.write_bytes(body + end64 * parts[0] + locator * parts[1] + end)
    _is_read_or_refused(path)


@given(
    size=_NUMBERS, packed=_NUMBERS, offset=_NUMBERS, method=st.sampled_from([0, 8, 9, 12, 99]),
    flags=st.sampled_from([0, 1, 8, 2**11]), name=st.binary(max_size=12), cut=st.integers(0, 30),
)  # fmt: skip
def test_any_member_of_an_archive_is_read_or_refused(
    folder: Path,
    size: int,
    packed: int,
    offset: int,
    method: int,
    flags: int,
    name: bytes,
    cut: int,
) -> None:
    """With its sizes and its position in a 64-bit extra field, whole or cut."""
    name = b"img_align_celeba/" + name + b".jpg"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, flags, method, 0, 0, 0, 9, 9, len(name), 0)
    content = local + name + bytes(9)
    extra = struct.pack("<2H3Q", 1, 24, size, packed, offset)[: 28 - min(cut, 28)]
    most = 2**32 - 1
    directory = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 45, 45, flags, method, 0, 0, 0, most, most, len(name),
        len(extra), 0, 0, 0, 0, most,
    ) + name + extra  # fmt: skip
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(content), 0)
    path = folder / "member.zip"
    path.write_bytes(content + directory + end)
    _is_read_or_refused(path)


def _image(file_format: str, **options) -> bytes:
    file = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((24, 20))
    Image.merge("RGB", [gradient] * 3).save(file, file_format, **options)
    return file.getvalue()


_EXIF = Image.Exif()
_EXIF[0x0112] = 6
_EXIF[0x010F] = "a camera"
_EXIF[0x011A] = 72.0
_IMAGES = [
    _image("JPEG", exif=_EXIF), _image("JPEG", progressive=True, dpi=(72, 72)),
    _image("PNG", exif=_EXIF), _image("PNG", icc_profile=b"profile"),
]  # fmt: skip


@given(
    image=st.sampled_from(_IMAGES),
    start=st.integers(0, 90) | st.integers(0, 1000),
    length=st.sampled_from([0, 1, 2, 4, 8, 1000]),
    put=st.binary(max_size=12) | st.sampled_from([b"\xff" * 4, b"\0" * 4]),
)
def test_any_damage_in_an_image_is_a_sentence_or_an_image(
    image: bytes, start: int, length: int, put: bytes
) -> None:
    try:
        made = square_image(
            image[:start] + put + image[start + length :], data_settings(crop="none", image_size=8)
        )
    except UserError as error:
        _check_sentence(error)
        return
    assert (made.size, made.mode) == ((8, 8), "RGB")


def _exif(entries: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """An EXIF block with these tags: number, type, count and four bytes of value or position."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    block = head + struct.pack(f"{order}LH", 8, len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(f"{order}HHL", tag, kind, count) + value
    return b"Exif\0\0" + block + struct.pack(f"{order}L", 0)


@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x011A, 0x011B, 0x0128, 0x8769, 0x8825, 0xA005])
            | st.integers(0, 2**16 - 1),
            st.integers(0, 14),
            st.sampled_from([0, 1, 2, 4, 5, 2**31, 2**32 - 1]),
            st.binary(min_size=4, max_size=4),
        ),
        max_size=4,
    ),
    cut=st.integers(0, 20),
)
@example(entries=[(0x0112, 3, 1, b"\6\0\0\0"), (0x011A, 2, 4, b"72\0\0")], cut=0)
def test_any_exif_leaves_an_image_readable(
    entries: list[tuple[int, int, int, bytes]], cut: int
) -> None:
    block = _exif(entries)
    file = _image("JPEG", exif=block[: len(block) - cut])
    made = square_image(file, data_settings(crop="none", image_size=8))
    assert (made.size, made.mode) == ((8, 8), "RGB")


_PLACES = st.sampled_from(
    [".", "Img", "eval", "Anno", "celeba", "celeba/Img", "other", "img_align_celeba"]
)
_FILES = st.sampled_from(
    [
        "img_align_celeba.zip", "IMG_align_celeba.zip", "img_align_celeba",
        "img_align_celeba/1.jpg",
        "img_align_celeba_png/1.png", "img_align_celeba_png.7z", "img_align_celeba (1).zip",
        "list_eval_partition.txt", "list_eval_partition.csv", "List_Eval_Partition.txt",
        "list_eval_partition.txt.zip", "list_attr_celeba.txt", "list_attr_celeba.csv",
        "list_attr_celeba (1).txt", ".DS_Store", "._list_attr_celeba.txt", "1.jpg", "\x1b[2J",
    ]
)  # fmt: skip


@given(files=st.lists(st.tuples(_PLACES, _FILES), max_size=7, unique=True))
def test_any_folder_is_a_copy_or_refused(folder: Path, files: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source = Path(name)
        for place, file in files:
            path = source / place / file
            if any(each.is_file() for each in path.parents) or path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        try:
            found = find_copy(source)
        except UserError as error:
            _check_sentence(error)
            return
        assert found.images.exists()
        assert found.partition.is_file()
        assert found.attributes is None or found.attributes.is_file()


_STEMS = st.sampled_from(["a", "A", "b", "é", unicodedata.normalize("NFD", "é"), "x/a", "\\b", ""])
_IMAGE_NAMES = st.builds(
    lambda stem, ending: f"{stem}{ending}".encode() or b"-",
    _STEMS,
    st.sampled_from([".jpg", ".JPG", ".png", ""]),
)


@given(names=st.lists(_IMAGE_NAMES, max_size=8), listed=st.sets(_IMAGE_NAMES, max_size=8))
def test_any_names_match_exactly_or_unmistakably(names: list[bytes], listed: set[bytes]) -> None:
    rows = match(np.array(names, "S"), np.array(sorted(listed), "S")).tolist()
    found = [sorted(listed)[row] if row >= 0 else None for row in rows]
    for name, line in zip(names, found, strict=True):
        if name in listed:
            assert line == name
        elif line is not None:
            # No other image has taken this line, and no listed name is nearer.
            assert found.count(line) == 1
            assert line not in names


@given(text=st.text(max_size=50))
@example(text="\x1b]0;title\x07\n\r\x9b\u202e\udcff")
def test_any_text_is_printable_in_one_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()
    assert "\x1b" not in str(UserError(text))
