"""The drawn stand-in has CelebA's layout, true attributes and the same bytes every time."""

import dataclasses
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facevae.common.errors import UserError
from facevae.data.synthetic import ATTRIBUTE_NAMES, describe_face, draw_face, synthesize


def test_layout_is_celebas(source: Path) -> None:
    with zipfile.ZipFile(source / "img_align_celeba.zip") as archive:
        names = archive.namelist()
        image = Image.open(io.BytesIO(archive.read(names[0])))
    assert names == [f"img_align_celeba/{number:06d}.jpg" for number in range(1, 61)]
    assert (image.format, image.size, image.mode) == ("JPEG", (178, 218), "RGB")
    partition = (source / "list_eval_partition.txt").read_text().split("\n")
    assert partition[0] == "000001.jpg 0"
    assert [line.split()[1] for line in partition[:60]] == ["0"] * 48 + ["1"] * 6 + ["2"] * 6
    attributes = (source / "list_attr_celeba.txt").read_bytes().split(b"\r\n")
    assert attributes[0] == b"60"
    assert attributes[1].decode().split() == list(ATTRIBUTE_NAMES)
    assert len(attributes[2].split()) == 1 + len(ATTRIBUTE_NAMES)


def test_same_bytes_every_time(source: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", images=60, seed=3)
    for name in ("img_align_celeba.zip", "list_eval_partition.txt", "list_attr_celeba.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (source / name).read_bytes()


def test_another_seed_draws_other_faces() -> None:
    first, second = (np.asarray(draw_face(describe_face(seed, 0))) for seed in (1, 2))
    assert np.abs(first.astype(int) - second).mean() > 10


def test_attribute_file_says_what_was_drawn(source: Path) -> None:
    rows = (source / "list_attr_celeba.txt").read_text().splitlines()[2:]
    for index, row in enumerate(rows):
        name, *values = row.split()
        assert name == f"{index + 1:06d}.jpg"
        told = {key: value == "1" for key, value in zip(ATTRIBUTE_NAMES, values, strict=True)}
        assert told == describe_face(3, index).attributes()


def test_every_attribute_varies() -> None:
    drawn = [describe_face(1, index).attributes() for index in range(300)]
    for name in ATTRIBUTE_NAMES:
        share = np.mean([attributes[name] for attributes in drawn])
        assert 0.01 < share < 0.99, name


def _pixels(face) -> np.ndarray:
    return np.asarray(draw_face(face)).astype(int)


def test_attributes_show_in_the_picture_where_they_belong() -> None:
    """Toggling one trait changes the pixels around that part of the face, and no others."""
    plain = dataclasses.replace(
        describe_face(1, 0),
        bald=False, bangs=False, long_hair=False, hat=None, glasses=False, mustache=False,
        goatee=False, lipstick=None, rosy=False, mouth_open=0.0, yaw=0.0,
    )  # fmt: skip
    eyes, mouth, chin = slice(95, 128), slice(140, 166), slice(158, 190)
    for change, rows in (
        ({"glasses": True}, eyes),
        ({"lipstick": (178, 34, 58)}, mouth),
        ({"mouth_open": 8.0}, mouth),
        ({"mustache": True}, mouth),
        ({"goatee": True}, chin),
        ({"bald": True}, slice(30, 160)),
        ({"bangs": True}, slice(30, 110)),
        ({"hat": (200, 30, 30)}, slice(20, 115)),
    ):
        changed = np.abs(_pixels(dataclasses.replace(plain, **change)) - _pixels(plain)).max(
            axis=-1
        )
        elsewhere = changed.copy()
        elsewhere[rows] = 0
        assert (changed[rows] > 25).sum() > 20, change
        assert elsewhere.max() <= 25, change


def test_hair_colour_is_the_one_named() -> None:
    for index in range(200):
        face = describe_face(1, index)
        if face.bald or face.hat is not None:
            continue
        red, green, blue = _pixels(face)[52, 89]
        brightness, warmth = (red + green + blue) / 3, red - blue
        named = {
            "Black_Hair": brightness < 55,
            "Brown_Hair": 30 < brightness < 110 and warmth > 15,
            "Blond_Hair": brightness > 105 and warmth > 50,
            "Gray_Hair": brightness > 95 and abs(warmth) < 12,
        }
        assert named[face.hair_name], (index, face.hair_name, red, green, blue)


def test_background_is_of_one_colour_which_differs_between_faces() -> None:
    faces = [describe_face(1, index) for index in range(50)]
    for face in faces:
        top = _pixels(face)[:10]
        assert np.abs(top - face.background).max() == 0
    assert np.std([face.background for face in faces], axis=0).min() > 30


def test_only_drawn_faces_are_replaced(source: Path, tmp_path: Path) -> None:
    """A copy of CelebA has the same files."""
    mine = tmp_path / "celeba"
    shutil.copytree(source, mine)
    labels = mine / "list_attr_celeba.txt"
    labels.write_text(labels.read_text(encoding="utf-8").replace("Smiling", "Male", 1))
    before = {path: path.read_bytes() for path in mine.iterdir()}
    with pytest.raises(UserError, match="celeba: has files that no earlier run has written"):
        synthesize(mine, images=20, seed=3)
    labels.unlink()
    with pytest.raises(UserError, match="celeba: has files that no earlier run has written"):
        synthesize(mine, images=20, seed=3)
    assert all(path.read_bytes() == content for path, content in before.items() if path != labels)
    drawn = tmp_path / "drawn"
    for seed in (3, 4):
        synthesize(drawn, images=20, seed=seed)
    synthesize(tmp_path / "again", images=20, seed=4)
    archives = (
        (each / "img_align_celeba.zip").read_bytes() for each in (drawn, tmp_path / "again")
    )
    assert len(set(archives)) == 1
