"""What prepare writes is what TensorFlow reads, pixel for pixel, whole or not at all."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from facevae.celeba import read_partition
from facevae.datasets import Shards, images
from facevae.errors import UserError
from facevae.preparation import ImageSettings, prepare, square_image
from facevae.shards import encode_example, frame_record

ALL = {"train": None, "validation": None, "test": None}
SMALL = ImageSettings(148, "box", 16)


def _jpegs(source: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(source / "img_align_celeba.zip") as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


def test_example_is_what_tensorflow_writes() -> None:
    features = {"name": b"000001.jpg", "image": bytes(range(256)) * 300}
    example = tf.train.Example()
    for key, value in features.items():
        example.features.feature[key].bytes_list.value.append(value)
    assert tf.train.Example.FromString(encode_example(features)) == example
    assert encode_example(features) == example.SerializeToString(deterministic=True)


def test_record_is_what_tensorflow_writes(tmp_path: Path) -> None:
    records = [b"", b"a", bytes(1000)]
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in records:
            writer.write(record)
    assert b"".join(map(frame_record, records)) == (tmp_path / "theirs").read_bytes()


def test_records_hold_names_in_order_and_all_images(shards: Path, source: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    partition = read_partition(source / "list_eval_partition.txt")
    files = set()
    for split, names in partition.items():
        entry = manifest["splits"][split]
        files |= {shard["file"] for shard in entry["shards"]}
        found = []
        for shard in entry["shards"]:
            records = list(tf.data.TFRecordDataset(str(shards / shard["file"])))
            assert len(records) == shard["images"] <= 20
            for record in records:
                features = tf.train.Example.FromString(record.numpy()).features.feature
                found.append(features["name"].bytes_list.value[0].decode())
        assert found == names
        assert entry["images"] == len(names)
    assert {path.name for path in shards.iterdir()} == files | {"manifest.json"}
    assert len(manifest["splits"]["train"]["shards"]) == 3


def test_pixels_survive_the_way_into_a_batch(shards: Path, source: Path) -> None:
    read = np.concatenate([batch.numpy() for batch in images(Shards(shards), "test", 4)])
    jpegs = _jpegs(source)
    for index, name in enumerate(read_partition(source / "list_eval_partition.txt")["test"]):
        whole = Image.open(io.BytesIO(jpegs[name]))
        small = whole.crop((15, 35, 163, 183)).resize((16, 16), Image.Resampling.BOX)
        np.testing.assert_array_equal(np.round(read[index] * 255), np.asarray(small))


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        ("none", (0, 0, 178, 218)),
        (178, (0, 20, 178, 198)),
        (148, (15, 35, 163, 183)),
        (140, (19, 39, 159, 179)),
        (128, (25, 45, 153, 173)),
    ],
)
@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "lanczos", "box"])
def test_crop_is_the_centred_square(source: Path, crop, box, resize: str) -> None:
    jpeg = _jpegs(source)["000001.jpg"]
    made = np.frombuffer(square_image(jpeg, ImageSettings(crop, resize, 96)), np.uint8)
    whole = Image.open(io.BytesIO(jpeg))
    expected = whole.crop(box).resize((96, 96), Image.Resampling[resize.upper()])
    np.testing.assert_array_equal(made.reshape(96, 96, 3), np.asarray(expected))


def test_an_unpacked_folder_gives_the_same_bytes(
    shards: Path, source: Path, tmp_path: Path
) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(source / "img_align_celeba.zip") as archive:
        archive.extractall(unpacked)
    partition = (source / "list_eval_partition.txt").read_bytes()
    (unpacked / "list_eval_partition.txt").write_bytes(partition)
    prepare(unpacked, tmp_path / "shards", SMALL, limits=ALL, images_per_shard=20)
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_limit_takes_the_first_by_name(source: Path, tmp_path: Path) -> None:
    limits = {"train": 5, "validation": 100, "test": 1}
    manifest = prepare(source, tmp_path / "shards", SMALL, limits=limits, images_per_shard=20)
    counts = {split: entry["images"] for split, entry in manifest["splits"].items()}
    assert counts == {"train": 5, "validation": 6, "test": 1}
    beyond = {"train": 43, "validation": 0, "test": 5}
    assert manifest["skipped"] == {"beyond_limit": beyond, "not_in_partition": 0}


def _broken(source: Path, folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    partition = (source / "list_eval_partition.txt").read_bytes()
    (folder / "list_eval_partition.txt").write_bytes(partition)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for member, jpeg in _jpegs(source).items():
            archive.writestr(f"img_align_celeba/{member}", content if member == name else jpeg)
    return folder


def test_bad_input_names_the_image_and_leaves_the_old_shards(source: Path, tmp_path: Path) -> None:
    jpeg = _jpegs(source)["000007.jpg"]
    small = io.BytesIO()
    Image.new("RGB", (89, 109)).save(small, "JPEG")
    target = tmp_path / "shards"
    prepare(source, target, SMALL, limits=ALL, images_per_shard=20)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    for case, (content, sentence) in enumerate(
        [
            (b"", "cannot be read as an image"),
            (b"<html>quota</html>", "cannot be read as an image"),
            (jpeg[: len(jpeg) // 2], "cannot be read as an image"),
            (small.getvalue(), "is 89x109 pixels, smaller than data.crop 148"),
        ]
    ):
        broken = _broken(source, tmp_path / f"broken{case}", "000007.jpg", content)
        with pytest.raises(UserError, match=f"img_align_celeba.zip: 000007.jpg: {sentence}"):
            prepare(broken, target, SMALL, limits=ALL, images_per_shard=20)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_bad_input_a_flipped_byte_in_the_archive_is_told(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flipped"
    folder.mkdir()
    partition = (source / "list_eval_partition.txt").read_bytes()
    (folder / "list_eval_partition.txt").write_bytes(partition)
    whole = bytearray((source / "img_align_celeba.zip").read_bytes())
    with zipfile.ZipFile(source / "img_align_celeba.zip") as archive:
        member = archive.getinfo("img_align_celeba/000009.jpg")
    whole[member.header_offset + 1000] ^= 1
    (folder / "img_align_celeba.zip").write_bytes(whole)
    with pytest.raises(UserError, match=r"000009.jpg: cannot be read: Bad CRC-32"):
        prepare(folder, tmp_path / "shards", SMALL, limits=ALL, images_per_shard=20)
    assert not (tmp_path / "shards").exists()


def test_bad_input_sources_are_told_apart(source: Path, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(UserError) as raised:
            prepare(folder, tmp_path / "shards", SMALL, limits=ALL, images_per_shard=20)
        assert not (tmp_path / "shards").exists()
        return str(raised.value)

    folder = tmp_path / "celeba"
    missing = refusal(folder)
    assert f"there is no folder {folder}" in missing
    assert "dvc exp run -S data.source=data/celeba" in missing
    folder.mkdir()
    assert "holds neither img_align_celeba.zip nor a folder img_align_celeba" in refusal(folder)
    (folder / "img_align_celeba.zip").write_bytes(b"<html>Quota exceeded</html>")
    assert "lacks list_eval_partition.txt" in refusal(folder)
    partition = folder / "list_eval_partition.txt"
    partition.write_text("000001.jpg 0\n")
    assert "is not a whole zip file" in refusal(folder)
    (folder / "img_align_celeba.zip").write_bytes((source / "img_align_celeba.zip").read_bytes())
    for text, sentence in (
        ("000001.jpg 0\n000002.jpg 7\n", "line 2: expected '000001.jpg 0'"),
        ("000001.jpg 0\n000001.jpg 1\n", "line 2: 000001.jpg stands there a second time"),
        ("000001.jpg 0\n999999.jpg 1\n", "lacks 1 images that list_eval_partition.txt names"),
        ("000001.jpg 0\n000002.jpg 1\n", "no image belongs to the test split"),
    ):
        partition.write_text(text)
        assert sentence in refusal(folder)
