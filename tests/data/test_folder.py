"""A plain folder of pictures: its splits, squares and labels, and what cannot be used."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from helpers import data_settings, write_shards
from PIL import Image

from facevae.common.errors import UserError
from facevae.data.folder import list_pictures, split_of
from facevae.data.preparation import square_image

SPLITS = ("train", "validation", "test")
ATTRIBUTES = "list_attr_celeba.txt"
NAMES = [
    *(f"{number}.jpg" for number in range(40)),
    *(f"holiday/IMG {number:04d}.JPG" for number in range(15)),
    *(f"holiday/more/café ({number}).png" for number in range(5)),
]


def _picture(ending: str = ".jpg", size: tuple[int, int] = (20, 24), colour: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 40, 10)).save(file, Image.registered_extensions()[ending])
    return file.getvalue()


def _write(folder: Path, names: Iterable[str]) -> Path:
    for colour, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_picture(path.suffix.lower(), colour=colour))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return _write(tmp_path / "my pictures", NAMES)


def _prepare(source: Path, target: Path, **options) -> dict:
    return write_shards(source, target, layout="folder", **options)


def _refusal(source: Path, target: Path, **options) -> str:
    with pytest.raises(UserError) as raised:
        _prepare(source, target, **options)
    assert not target.exists()
    return str(raised.value)


def _names(shards: Path) -> dict[str, list[str]]:
    """Those in the shards of each split, in order, of the pictures in `NAMES` and new.jpg."""
    splits = json.loads((shards / "manifest.json").read_text())["splits"]
    found = {}
    for split, entry in splits.items():
        content = b"".join((shards / shard["file"]).read_bytes() for shard in entry["shards"])
        # A record's name is behind its length, and nothing else of the record follows.
        places = {
            name: content.find(bytes([len(os.fsencode(name))]) + os.fsencode(name))
            for name in (*NAMES, "new.jpg")
        }
        found[split] = sorted((n for n in places if places[n] >= 0), key=places.__getitem__)
        assert len(found[split]) == entry["images"]
    return found


def _expected(names: Iterable[str], seed: int) -> dict[str, list[str]]:
    def tenth(name: str) -> int:
        digest = hashlib.sha256(f"{seed} {name}".encode()).hexdigest()
        return int(digest[:16], 16) % 10

    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in sorted(names, key=os.fsencode):
        by_split[SPLITS[max(0, tenth(name) - 7)]].append(name)
    return by_split


def test_folder_is_split_by_name_and_seed(pictures: Path, tmp_path: Path) -> None:
    """In subfolders, too; a new picture moves no other, and another seed moves them."""
    for seed in (1, 2):
        _prepare(pictures, tmp_path / "shards", split_seed=seed)
        assert _names(tmp_path / "shards") == _expected(NAMES, seed)
    assert _expected(NAMES, 1) != _expected(NAMES, 2)
    before = _expected(NAMES, 1)
    _write(pictures, ["new.jpg"])
    _prepare(pictures, tmp_path / "shards")
    after = _names(tmp_path / "shards")
    assert {
        split: [name for name in after[split] if name != "new.jpg"] for split in SPLITS
    } == before


def test_folder_has_eight_one_and_one_of_ten_in_the_splits() -> None:
    splits = [split_of(b"%06d.jpg" % number, 1) for number in range(10_000)]
    shares = [splits.count(split) / 10_000 for split in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.015)  # five standard deviations of 0.1


def test_folder_of_pictures_is_not_replaced_by_its_shards(pictures: Path) -> None:
    with pytest.raises(UserError, match="my pictures: has files that no earlier run has written"):
        _prepare(pictures, pictures)
    assert {str(path.relative_to(pictures)) for path in pictures.rglob("*.*")} == set(NAMES)


def test_folder_limit_takes_the_first_by_name(pictures: Path, tmp_path: Path) -> None:
    manifest = _prepare(pictures, tmp_path / "shards", limit={"train": 3})
    expected = _expected(NAMES, 1)
    assert _names(tmp_path / "shards") == {**expected, "train": expected["train"][:3]}
    assert manifest["skipped"]["beyond_limit"]["train"] == len(expected["train"]) - 3


@pytest.mark.parametrize("size", [(40, 90), (91, 40), (40, 40)])
@pytest.mark.parametrize("crop", ["none", 148])
def test_folder_pictures_become_their_largest_centred_square(
    size: tuple[int, int], crop: str | int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    whole, left, top = Image.fromarray(pixels), (size[0] - 40) // 2, (size[1] - 40) // 2
    expected = whole.crop((left, top, left + 40, top + 40)).resize((16, 16), Image.Resampling.BOX)
    for file_format in ("PNG", "BMP", "WEBP"):
        file = io.BytesIO()
        whole.save(file, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
        made = square_image(file.getvalue(), data_settings(layout="folder", crop=crop))
        np.testing.assert_array_equal(np.asarray(made), np.asarray(expected), file_format)


def test_folder_takes_the_first_picture_of_an_animation() -> None:
    first, second = (Image.new("RGB", (20, 20), colour) for colour in ("red", "blue"))
    for file_format in ("GIF", "WEBP"):
        file = io.BytesIO()
        first.save(file, file_format, save_all=True, append_images=[second])
        made = square_image(file.getvalue(), data_settings(layout="folder"))
        assert np.abs(np.asarray(made).astype(int) - (255, 0, 0)).max() < 8


def test_folder_takes_the_photographs_of_large_cameras() -> None:
    """50 million pixels; CelebA has none, and refuses it."""
    whole = Image.new("RGB", (8192, 6144), (200, 100, 50))
    whole.paste((10, 20, 30), (0, 0, 1024, 6144))  # beside the square
    file = io.BytesIO()
    whole.save(file, "JPEG")
    made = square_image(file.getvalue(), data_settings(layout="folder", image_size=96))
    assert np.abs(np.asarray(made).astype(int) - (200, 100, 50)).max() < 5
    with pytest.raises(UserError, match="is 8192x6144 pixels, more than the 33 million that are"):
        square_image(file.getvalue(), data_settings(crop="none"))


def test_folder_takes_the_photographs_of_telephones_with_108_million_pixels() -> None:
    """Of which Pillow warns."""
    file = io.BytesIO()
    Image.new("L", (12_000, 9_000), 100).save(file, "JPEG")
    made = square_image(file.getvalue(), data_settings(layout="folder", image_size=96))
    assert np.abs(np.asarray(made).astype(int) - 100).max() < 3


def test_folder_labels_are_optional_and_unknown_without_a_line(
    pictures: Path, tmp_path: Path
) -> None:
    """Names with blanks and folders; unknown labels; pictures without a line; any case."""
    assert _prepare(pictures, tmp_path / "none")["attributes"] == []
    told = {name: [(1, -1, 0)[n % 3], -1] for n, name in enumerate(NAMES) if n % 2}
    lines = [f"{name}  {first} {second}" for name, (first, second) in told.items()]
    text = "\r\n".join([f"{len(told)}", "Smiling Old", *lines, ""])
    (pictures / ATTRIBUTES.title()).write_text(text, encoding="utf-8")
    manifest = _prepare(pictures, tmp_path / "shards")
    assert manifest["attributes"] == ["Smiling", "Old"]
    for split, names in _expected(NAMES, 1).items():
        labels = np.load(tmp_path / "shards" / f"{split}-attributes.npy")
        assert labels.tolist() == [told.get(name, [0, 0]) for name in names]


def test_bad_input_folder_labels_of_no_picture(pictures: Path, tmp_path: Path) -> None:
    rows = "\n".join(f"{name} 1" for name in ("0.jpg", "IMG 0001.JPG", "gone.jpg"))
    (pictures / ATTRIBUTES).write_text(f"3\nSmiling\n{rows}\n")
    told = _refusal(pictures, tmp_path / "shards")
    assert f"{pictures}: 2 of 62 images cannot be used:" in told
    for name in ("IMG 0001.JPG", "gone.jpg"):
        assert f"  {name}: is in {ATTRIBUTES}, but there is no image" in told


def test_bad_input_folder_with_two_files_of_labels(pictures: Path, tmp_path: Path) -> None:
    for name in (ATTRIBUTES, ATTRIBUTES.upper()):
        (pictures / name).write_text("1\nSmiling\n0.jpg 1\n")
    told = _refusal(pictures, tmp_path / "shards")
    assert f"has {ATTRIBUTES.upper()} and {ATTRIBUTES}; keep one of them" in told


def test_bad_input_folder_of_what_is_no_picture(pictures: Path, tmp_path: Path) -> None:
    """Listed: pictures that are not read, pipes, broken links, links to folders. Not: the rest."""
    (pictures / "phone.HEIC").write_bytes(b"....ftypheic")
    (pictures / "note.jpg").write_bytes(b"to do")
    (pictures / "small.png").write_bytes(_picture(".png", size=(15, 40)))
    (pictures / "scan.jpg").write_bytes(_picture(".tiff"))
    (pictures / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (pictures / "link").symlink_to(_write(tmp_path / "others", ["a.jpg"]))
    os.mkfifo(pictures / "pipe.jpg")
    for name in ("note.txt", "._1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg", "Thumbs.db"):
        path = pictures / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    told = _refusal(pictures, tmp_path / "shards", on_bad_image="skip", max_bad_share=0.1)
    bad = {
        "phone.HEIC": "is a picture that is not read (.heic); save it as JPEG or PNG",
        "note.jpg": "is not a JPEG, PNG, WEBP, BMP or GIF image",
        "small.png": "is 15x40 pixels, smaller than data.image_size 16",
        "scan.jpg": "is not a JPEG, PNG, WEBP, BMP or GIF image",
        "broken.jpg": "cannot be read (No such file or directory)",
        "link": "is a link to a folder, which is not followed; copy the folder",
        "pipe.jpg": "cannot be read (Not a regular file)",
    }
    assert f"{pictures}: 7 of 67 images cannot be used, more than" in told
    for name, reason in bad.items():
        assert f"  {name}: {reason}" in told
    # What is known before any picture is read is refused then.
    assert "2 of 67 images cannot be used:" in _refusal(pictures, tmp_path / "shards")
    manifest = _prepare(pictures, tmp_path / "shards", on_bad_image="skip", max_bad_share=0.2)
    assert manifest["skipped"]["bad"].keys() == bad.keys()
    assert _names(tmp_path / "shards") == _expected(NAMES, 1)


def test_folder_names_that_are_not_text(tmp_path: Path) -> None:
    source = _write(tmp_path / "pictures", NAMES)
    (source / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"")
    names, bad = list_pictures(source)
    assert sorted(names["name"].tolist()) == names["name"].tolist()
    assert b"\xff\xfe.jpg" in names["name"].tolist()
    assert not bad
    assert "1 of 61 images cannot be used" in _refusal(source, tmp_path / "shards")


def _file(folder: Path) -> None:
    folder.rmdir()
    folder.write_bytes(_picture())


def _empty(folder: Path) -> None:
    (folder / "notes.txt").write_bytes(b"")


def _celeba(folder: Path) -> None:
    _write(folder / "img_align_celeba", NAMES)
    (folder / "list_eval_partition.csv").write_text("0.jpg,0\n")


def _few(folder: Path) -> None:
    _write(folder, NAMES[:2])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (Path.rmdir, "there is no folder {}; name the folder of the pictures"),
        (_file, "{} is not a folder; name the folder that it is in"),
        (_empty, "{} has no pictures (.jpg, .jpeg,"),
        (
            _celeba,
            "{} is a copy of CelebA, with its splits in {}/list_eval_partition.csv; set data",
        ),
        (
            _few,
            "{}: the validation split has no images of its 2; add pictures, or try another data.sp",
        ),
    ],
)
def test_bad_input_folder_is_another_one(
    tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    make(source)
    assert sentence.format(source, source) in _refusal(source, tmp_path / "shards")


def test_bad_input_layout_is_told_before_anything_is_drawn(
    stage, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for source, layout, sentence in (
        (pictures, "celeba", "For a folder of your own pictures, set data.layout: folder"),
        (pictures / "holiday" / "none", "folder", "data.source: there is no folder"),
        (
            tmp_path / "synthetic",
            "folder",
            "name the folder of the pictures in data.source, or set",
        ),
    ):
        data = {"source": str(source), "layout": layout}
        assert stage("synthesize", "--target", str(tmp_path / "synthetic"), data=data) == 2
        assert sentence in capfd.readouterr().err
        assert not (tmp_path / "synthetic").exists()
