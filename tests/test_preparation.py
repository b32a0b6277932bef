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
from facevae.datasets import Shards, images, training_batches
from facevae.preparation import ImageSettings, prepare, square_image
from facevae.shards import encode_example, frame_record
from facevae.workers import local_executor

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
        assert found == [name.decode() for name in names]
        assert entry["images"] == len(names)
    assert {path.name for path in shards.iterdir()} == files | {"manifest.json"}
    assert len(manifest["splits"]["train"]["shards"]) == 3


def test_pixels_survive_the_way_into_a_batch(shards: Path, source: Path) -> None:
    read = np.concatenate([batch.numpy() for batch in images(Shards(shards), "test", 4)])
    jpegs = _jpegs(source)
    for index, name in enumerate(read_partition(source / "list_eval_partition.txt")["test"]):
        whole = Image.open(io.BytesIO(jpegs[name.decode()]))
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
    made = square_image(jpeg, ImageSettings(crop, resize, 96))
    whole = Image.open(io.BytesIO(jpeg))
    expected = whole.crop(box).resize((96, 96), Image.Resampling[resize.upper()])
    np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


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
    assert manifest["skipped"] == {"beyond_limit": beyond, "bad": {}}


def test_record_formats_hold_the_same_images(source: Path, tmp_path: Path) -> None:
    read, size = {}, {}
    for record_format in ("raw", "png", "jpeg"):
        folder = tmp_path / record_format
        settings = ImageSettings(148, "lanczos", 64, record_format)
        prepare(source, folder, settings, limits=ALL, images_per_shard=20)
        read[record_format] = np.concatenate(list(images(Shards(folder), "train", 10)))
        size[record_format] = sum(path.stat().st_size for path in folder.glob("train-*"))
        batch = next(
            iter(training_batches(Shards(folder), batch_size=8, latent_size=2, seed=1, epoch=0))
        )
        assert batch["images"].shape == (8, 64, 64, 3)
    np.testing.assert_array_equal(read["raw"], read["png"])
    error = np.square(read["raw"] - read["jpeg"]).mean()
    assert 30 < -10 * np.log10(error) < 60  # dB
    assert size["jpeg"] < size["png"] < size["raw"]


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_the_number_of_workers(
    source: Path, shards: Path, tmp_path: Path, workers: int
) -> None:
    prepare(
        source, tmp_path / "shards", SMALL, limits=ALL, images_per_shard=20,
        executors=lambda: local_executor(workers),
    )  # fmt: skip
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()
