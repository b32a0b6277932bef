"""What prepare writes is what TensorFlow reads, pixel for pixel, whole or not at all."""

import functools
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import data_settings, write_shards
from PIL import Image

from facevae.data.celeba import read_attributes, read_partition, unpack_labels
from facevae.data.executors import local_executor
from facevae.data.preparation import prepare, square_image
from facevae.data.synthetic import ATTRIBUTE_NAMES, describe_face
from facevae.shards.batches import Shards, images, labelled_batches, load_images, training_batches
from facevae.shards.records import encode_example, frame_record


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
        files.add(f"{split}-attributes.npy")
    assert {path.name for path in shards.iterdir()} == files | {"manifest.json"}
    assert len(manifest["splits"]["train"]["shards"]) == 3


def test_pixels_survive_the_way_into_a_batch(shards: Path, source: Path) -> None:
    read = load_images(Shards(shards), "test")
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
    made = square_image(jpeg, data_settings(crop=crop, resize=resize, image_size=96))
    whole = Image.open(io.BytesIO(jpeg))
    expected = whole.crop(box).resize((96, 96), Image.Resampling[resize.upper()])
    np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def test_an_unpacked_folder_gives_the_same_bytes(
    shards: Path, source: Path, tmp_path: Path
) -> None:
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(source / "img_align_celeba.zip") as archive:
        archive.extractall(unpacked)
    for name in ("list_eval_partition.txt", "list_attr_celeba.txt"):
        (unpacked / name).write_bytes((source / name).read_bytes())
    write_shards(unpacked, tmp_path / "shards")
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def _true_labels(names: list[bytes]) -> np.ndarray:
    faces = [describe_face(3, int(name[:6]) - 1).attributes() for name in names]
    return np.where([list(face.values()) for face in faces], 1, -1)


def test_labels_are_those_of_the_images_in_the_shards(shards: Path, source: Path) -> None:
    read = Shards(shards)
    assert read.attributes == ATTRIBUTE_NAMES
    for split, names in read_partition(source / "list_eval_partition.txt").items():
        labels = read.labels(split)
        assert labels.dtype == np.int8
        np.testing.assert_array_equal(labels, _true_labels(names.tolist()))


def test_images_load_in_file_order_up_to_a_limit(shards: Path) -> None:
    """The train split has 48 images in three shards."""
    read = Shards(shards)
    batches = [batch.numpy() for batch in images(read, "train", 10)]
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 8]
    every = np.concatenate(batches)
    assert len(np.unique(every, axis=0)) == 48
    for limit, count in ((None, 48), (1, 1), (30, 30), (48, 48), (100, 48)):
        loaded = load_images(read, "train", limit)
        assert loaded.dtype == np.float32
        np.testing.assert_array_equal(loaded, every[:count])


def test_labelled_batches_keep_images_and_labels_together(shards: Path) -> None:
    read = Shards(shards)
    pixels = load_images(read, "train").reshape(48, -1)
    labels, orders = read.labels("train"), []
    batches = labelled_batches(read, read.attributes, batch_size=20, seed=1)
    for _ in range(2):
        found, told = (np.concatenate(part) for part in zip(*batches, strict=True))
        distances = np.abs(found.reshape(48, 1, -1) - pixels).sum(2)
        orders.append(distances.argmin(1).tolist())
        assert sorted(orders[-1]) == list(range(48))
        np.testing.assert_array_equal(told, labels[orders[-1]])
    assert orders[0] != orders[1]
    assert orders[0] != list(range(48))


def test_labels_leave_out_what_the_shards_leave_out(source: Path, tmp_path: Path) -> None:
    """A bad image, one without a place in a split, lines out of order, and a limit."""
    spoiled = tmp_path / "celeba"
    (spoiled / "img_align_celeba").mkdir(parents=True)
    for name, jpeg in _jpegs(source).items():
        content = jpeg[:500] if name in ("000002.jpg", "000055.jpg") else jpeg
        (spoiled / "img_align_celeba" / name).write_bytes(content)
    partition = (source / "list_eval_partition.txt").read_text().splitlines()
    (spoiled / "list_eval_partition.txt").write_text("\n".join(partition[:4] + partition[5:]))
    count, names, *rows = (source / "list_attr_celeba.txt").read_text().splitlines()
    lines = [count, names, *reversed(rows)]
    (spoiled / "list_attr_celeba.txt").write_bytes("\r\n".join(lines).encode())
    settings = data_settings(
        spoiled, limit={"train": 9}, images_per_shard=4, on_bad_image="skip", max_bad_share=0.2
    )
    prepare(settings, tmp_path / "shards")
    for split, numbers in (
        ("train", [1, 3, 4, 6, 7, 8, 9, 10]),
        ("validation", range(49, 55)),
        ("test", range(56, 61)),
    ):
        expected = [b"%06d.jpg" % number for number in numbers]
        found = []
        for path in sorted((tmp_path / "shards").glob(f"{split}-*.tfrecord")):
            for record in tf.data.TFRecordDataset(str(path)):
                features = tf.train.Example.FromString(record.numpy()).features.feature
                found.append(features["name"].bytes_list.value[0])
        assert found == expected
        labels = Shards(tmp_path / "shards").labels(split)
        np.testing.assert_array_equal(labels, _true_labels(expected))


def test_without_an_attribute_file_the_shards_are_the_same_and_have_no_labels(
    source: Path, shards: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "celeba"
    bare.mkdir()
    for name in ("img_align_celeba.zip", "list_eval_partition.txt"):
        (bare / name).write_bytes((source / name).read_bytes())
    write_shards(bare, tmp_path / "shards")
    read = Shards(tmp_path / "shards")
    assert read.attributes == ()
    assert read.labels("test").shape == (6, 0)
    assert not list((tmp_path / "shards").glob("*.npy"))
    for path in shards.glob("*.tfrecord"):
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()


def test_attributes_of_many_images_take_little(tmp_path: Path) -> None:
    """More than are packed at a time; in the form of the official file, with its two blanks."""
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (4096 * 2 + 5, 11))
    path = tmp_path / "list_attr_celeba.txt"
    with open(path, "w", newline="") as file:
        file.write(f"{len(labels)}\r\n{' '.join(f'Name_{k}' for k in range(11))} \r\n")
        for number in random.permutation(len(labels)).tolist():
            row = "".join(f"{label:3d}" for label in labels[number].tolist())
            file.write(f"{number:06d}.jpg{row}\r\n")
    read = read_attributes(path)
    assert read.names == tuple(f"Name_{k}" for k in range(11))
    assert read.packed.nbytes == 3 * len(labels)
    asked = random.permutation(len(labels))[:1000]
    packed = read.of(np.array([b"%06d.jpg" % number for number in asked.tolist()]))
    np.testing.assert_array_equal(unpack_labels(packed, 11), labels[asked])


def _with_unknown_labels(source: Path, folder: Path) -> Path:
    """A copy in which the labels of 000002.jpg and 000060.jpg and one of 000005.jpg are 0."""
    folder.mkdir()
    for name in ("img_align_celeba.zip", "list_eval_partition.txt"):
        (folder / name).write_bytes((source / name).read_bytes())
    lines = (source / "list_attr_celeba.txt").read_text().splitlines()
    for number in (2, 60):
        lines[number + 1] = lines[number + 1].split()[0] + "  0" * len(ATTRIBUTE_NAMES)
    name, _, *others = lines[6].split()
    lines[6] = " ".join([name, "0", *others])
    (folder / "list_attr_celeba.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    return folder


def test_labels_of_zero_are_unknown(source: Path, shards: Path, tmp_path: Path) -> None:
    """In the file, beside the shards, and in batches, which leave out images without a label."""
    write_shards(_with_unknown_labels(source, tmp_path / "celeba"), tmp_path / "shards")
    read, known = Shards(tmp_path / "shards"), Shards(shards)
    expected = {split: known.labels(split) for split in ("train", "validation", "test")}
    expected["train"][1] = expected["test"][-1] = expected["train"][4, 0] = 0
    for split, labels in expected.items():
        np.testing.assert_array_equal(read.labels(split), labels)
    few = ("Smiling", "Bald")
    columns = [ATTRIBUTE_NAMES.index(name) for name in few]
    np.testing.assert_array_equal(read.labels("train", few), expected["train"][:, columns])
    pixels = load_images(read, "train").reshape(48, -1)
    found, told = (
        np.concatenate(part)
        for part in zip(*labelled_batches(read, few, batch_size=20, seed=1), strict=True)
    )
    order = np.abs(found.reshape(47, 1, -1) - pixels).sum(2).argmin(1).tolist()
    assert sorted(order) == [0, *range(2, 48)]
    np.testing.assert_array_equal(told, expected["train"][order][:, columns])


def test_labels_that_are_all_known_are_kept_as_they_were(shards: Path) -> None:
    for split in ("train", "validation", "test"):
        assert np.load(shards / f"{split}-attributes.npy").dtype == bool


def test_limit_takes_the_first_by_name(source: Path, tmp_path: Path) -> None:
    limit = {"train": 5, "validation": 100, "test": 1}
    manifest = write_shards(source, tmp_path / "shards", limit=limit)
    counts = {split: entry["images"] for split, entry in manifest["splits"].items()}
    assert counts == {"train": 5, "validation": 6, "test": 1}
    beyond = {"train": 43, "validation": 0, "test": 5}
    assert manifest["skipped"] == {"beyond_limit": beyond, "bad": {}}


def test_record_formats_hold_the_same_images(source: Path, tmp_path: Path) -> None:
    read, size = {}, {}
    for record_format in ("raw", "png", "jpeg"):
        folder = tmp_path / record_format
        settings = data_settings(
            source, resize="lanczos", image_size=64, record_format=record_format
        )
        prepare(settings, folder)
        read[record_format] = load_images(Shards(folder), "train")
        size[record_format] = sum(path.stat().st_size for path in folder.glob("train-*"))
        batch = next(
            iter(
                training_batches(
                    Shards(folder),
                    batch_size=8,
                    latent_size=2,
                    horizontal_flips=False,
                    seed=1,
                    epoch=0,
                )
            )
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
    executors = functools.partial(local_executor, workers)
    prepare(data_settings(source), tmp_path / "shards", executors=executors)
    for path in shards.iterdir():
        assert (tmp_path / "shards" / path.name).read_bytes() == path.read_bytes()
