"""Batches of images from shards: shuffled and with noise for training, else in file order."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from facevae.common.errors import UserError
from facevae.common.parameters import CHANNELS
from facevae.common.requests import batch_mistake
from facevae.shards.records import (
    find_damage,
    read_labels,
    read_manifest,
    read_record,
    record_places,
)

# Images held for shuffling; at 96x96 they take 54 MiB. The shards' order is shuffled too.
SHUFFLE_BUFFER = 2048

# Batches that are ready, or in work, while a step takes another: four of bytes, which take as much
# as one of floats, and the next one of floats.
_PREPARED = 2

_LOAD_BATCH = 64  # images that `load_images` decodes at a time

# AutoGraph would translate Python's control flow into TensorFlow's. These functions need none, and
# trying takes a quarter of a second.
_without_autograph = tf.autograph.experimental.do_not_convert


class Shards:
    """A folder of shards with its manifest.

    In `with Shards(folder) as shards:`, reading a damaged shard ends with a UserError that names
    it.

    Attributes:
        folder: as given.
        image_size: side of the images, pixels.
        record_format: "raw", "png" or "jpeg".
        counts: number of images by split.
        attributes: names of the attributes; empty if the data set has no labels.

    Raises:
        UserError: as `facevae.shards.records.read_manifest`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.image_size: int = manifest["settings"]["image_size"]
        self.record_format: str = manifest["settings"]["record_format"]
        splits = manifest["splits"]
        self.counts: dict[str, int] = {split: splits[split]["images"] for split in splits}
        self.attributes: tuple[str, ...] = tuple(manifest["attributes"])
        self._labels = {split: splits[split]["attributes"] for split in splits}
        self._files = {
            split: [str(self.folder / shard["file"]) for shard in splits[split]["shards"]]
            for split in splits
        }

    def files(self, split: str) -> list[str]:
        """Paths of a split's shards, in order."""
        return self._files[split]

    def labels(self, split: str, attributes: Sequence[str] | None = None) -> np.ndarray:
        """Attribute labels of a split, in file order.

        Args:
            attributes: whose labels, of `self.attributes`; None: of all.

        Returns:
            (images, attributes) int8: 1 if the image has the attribute, -1 if not, 0 if it is not
            known.
        """
        entry = self._labels[split]
        if entry is None:
            return np.zeros((self.counts[split], 0), np.int8)
        labels = read_labels(self.folder / entry["file"], entry["crc32c"])
        if attributes is None:
            return labels
        return labels[:, [self.attributes.index(name) for name in attributes]]

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, tf.errors.DataLossError):
            for path in itertools.chain(*self._files.values()):
                damage = find_damage(Path(path))
                if damage:
                    raise UserError(damage) from None


def _decoders(shards: Shards) -> tuple[Callable[..., Any] | None, Callable[..., Any]]:
    """What turns serialised Examples into pixels, (batch, size, size, 3) uint8.

    Returns:
        A function of one Example (), None if there is nothing to do before they are batched; and a
        function of the batch.
    """
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    size = shards.image_size

    @_without_autograph
    def reshape(pixels: tf.Tensor) -> tf.Tensor:
        return tf.reshape(pixels, (-1, size, size, CHANNELS))

    @_without_autograph
    def decode_raw(batch: tf.Tensor) -> tf.Tensor:
        raw = tf.io.parse_example(batch, features)["image"]
        return reshape(tf.io.decode_raw(raw, tf.uint8, fixed_length=size * size * CHANNELS))

    @_without_autograph
    def decode_file(record: tf.Tensor) -> tf.Tensor:
        file = tf.io.parse_single_example(record, features)["image"]
        if shards.record_format == "png":
            return tf.io.decode_png(file, CHANNELS)
        return tf.io.decode_jpeg(file, CHANNELS, dct_method="INTEGER_ACCURATE")

    return (None, decode_raw) if shards.record_format == "raw" else (decode_file, reshape)


def _scale(pixels: tf.Tensor) -> tf.Tensor:
    """Pixels uint8 as images float32 in [0, 1]."""
    return tf.cast(pixels, tf.float32) / 255.0


def _batches(records: tf.data.Dataset, shards: Shards, batch_size: int, drop_remainder: bool):
    """Batches of pixels (batch, size, size, 3) uint8 from serialised Examples ().

    A record may be a tuple that starts with the Example; its other elements are batched as they
    are.
    """
    decode, decode_batch = _decoders(shards)

    def on_first(decode: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., Any]:
        return _without_autograph(
            lambda first, *others: (decode(first), *others) if others else decode(first)
        )

    if decode is None:
        batches = records.batch(batch_size, drop_remainder)
        return batches.map(on_first(decode_batch), num_parallel_calls=tf.data.AUTOTUNE)
    decoded = records.map(on_first(decode), num_parallel_calls=tf.data.AUTOTUNE)
    return decoded.batch(batch_size, drop_remainder).map(on_first(decode_batch))


def images(
    shards: Shards, split: str, batch_size: int, limit: int | None = None
) -> tf.data.Dataset:
    """The images of a split, in file order; the last batch may be smaller.

    Args:
        limit: the first so many; None: all.

    Yields:
        (batch, size, size, 3) float32 in [0, 1].
    """
    records = tf.data.TFRecordDataset(shards.files(split))
    if limit is not None:
        records = records.take(limit)
    pixels = _batches(records, shards, batch_size, drop_remainder=False)
    return pixels.map(_without_autograph(_scale)).prefetch(1)


def load_images(shards: Shards, split: str, limit: int | None = None) -> np.ndarray:
    """The first images of a split, in file order, as one array.

    Args:
        limit: load at most this many, at least one; None: load the whole split.

    Returns:
        (images, size, size, 3) float32 in [0, 1].
    """
    return np.concatenate([batch.numpy() for batch in images(shards, split, _LOAD_BATCH, limit)])


class StoredImages:
    """Some images of a split, each read from its shard when it is asked for.

    A set of them is `facevae.shards.blocks.Images`, with the values of `load_images`, and takes no
    memory. Of the other images of the split only the lengths of their records are read.

    Args:
        numbers: of the images in file order, from 0; ascending.

    Attributes:
        shape: (images, size, size, 3).

    Raises:
        IndexError: the split has fewer images.
    """

    def __init__(self, shards: Shards, split: str, numbers: Sequence[int] | np.ndarray) -> None:
        if len(numbers) and numbers[-1] >= shards.counts[split]:
            raise IndexError(f"image {numbers[-1]} of the {shards.counts[split]} of {split}")
        self._places: list[tuple[Path, int, int]] = []
        wanted, before = np.asarray(numbers), 0  # images in the shards before
        for file in map(Path, shards.files(split)):
            remaining = wanted[len(self._places) :] - before
            if not remaining.size:
                break
            places = record_places(file, int(remaining[-1]) + 1)
            here = remaining[remaining < len(places)]
            self._places += [(file, *places[number]) for number in here]
            before += len(places)
        self._decode, self._decode_batch = _decoders(shards)
        self.shape = (len(self._places), shards.image_size, shards.image_size, CHANNELS)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Images (count, size, size, 3) float32 in [0, 1].

        Raises:
            UserError: a record that is asked for is damaged.
        """
        places = [self._places[number] for number in np.arange(len(self))[chosen]]
        records: list[Any] = [read_record(*place) for place in places]
        if self._decode is not None:
            records = [self._decode(record) for record in records]
        return _scale(self._decode_batch(tf.stack(records))).numpy()


def labelled_batches(
    shards: Shards, attributes: Sequence[str], *, batch_size: int, seed: int
) -> tf.data.Dataset:
    """The images of the train split with labels, shuffled differently in each pass.

    Images of which no label is known are left out.

    Args:
        attributes: whose labels, of `shards.attributes`.

    Yields:
        (batch, size, size, 3) float32 in [0, 1] and (batch, attributes) float32, labels as in
        `Shards.labels`.
    """
    labels = shards.labels("train", attributes)
    count = int(labels.any(axis=1).sum())
    labelled = tf.data.Dataset.zip(
        tf.data.TFRecordDataset(shards.files("train")),
        tf.data.Dataset.from_tensor_slices(labels).map(lambda row: tf.cast(row, tf.float32)),
    ).filter(_without_autograph(lambda _, row: tf.reduce_any(row != 0)))
    shuffled = labelled.shuffle(min(SHUFFLE_BUFFER, count), seed)
    return (
        _batches(shuffled, shards, batch_size, drop_remainder=False)
        .map(_without_autograph(lambda pixels, row: (_scale(pixels), row)))
        .apply(tf.data.experimental.assert_cardinality(-(-count // batch_size)))
        .prefetch(2)
    )


def noise(seed: int, position: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
    """Standard normal noise, float32: a function of (seed, position), not of earlier draws.

    Args:
        position: () int64.
    """
    return tf.random.stateless_normal(shape, seed=tf.stack([tf.cast(seed, tf.int64), position]))


def steps_per_epoch(shards: Shards, batch_size: int) -> int:
    """Number of whole batches in the train split.

    An epoch leaves out images that do not fill a batch; which ones depends on its shuffle.

    Raises:
        UserError: the split is smaller than one batch.
    """
    count = shards.counts["train"]
    if mistake := batch_mistake(batch_size, count):
        raise UserError(mistake)
    return count // batch_size


def held_while_training(shards: Shards, batch_size: int) -> int:
    """Bytes that `training_batches` holds: records to shuffle, and batches that are prepared."""
    stored = sum(Path(file).stat().st_size for file in shards.files("train"))
    count = shards.counts["train"]
    batch = 4 * batch_size * shards.image_size**2 * CHANNELS
    return stored * min(SHUFFLE_BUFFER, count) // count + _PREPARED * batch


def training_batches(
    shards: Shards,
    *,
    batch_size: int,
    latent_size: int,
    horizontal_flips: bool,
    seed: int,
    epoch: int,
    skip: int = 0,
) -> tf.data.Dataset:
    """One epoch of shuffled training batches, each with the noise that z is sampled with.

    With `horizontal_flips` each image is mirrored with probability 1/2. The order, the mirroring
    and the noise are functions of (seed, epoch) alone. Every image keeps its noise when a batch is
    split over several devices, so that they compute the same as one device. The first `skip`
    batches are dropped without being decoded.

    Yields:
        A dict of "images" (batch_size, size, size, 3) float32 in [0, 1] and "epsilon"
        (batch_size, latent_size) float32.
    """
    generator = np.random.default_rng((seed, epoch))
    files = generator.permutation(shards.files("train")).tolist()
    shuffle_seed = int(generator.integers(2**31))
    records = tf.data.Dataset.from_tensor_slices(files).interleave(
        tf.data.TFRecordDataset, cycle_length=min(4, len(files)), block_length=16
    )
    buffer = min(SHUFFLE_BUFFER, shards.counts["train"])
    shuffled = records.shuffle(buffer, shuffle_seed, reshuffle_each_iteration=False)
    batches = _batches(shuffled, shards, batch_size, drop_remainder=True)
    steps = steps_per_epoch(shards, batch_size)
    positions = tf.data.Dataset.range(epoch * steps, (epoch + 1) * steps)

    @_without_autograph
    def with_noise(pixels: tf.Tensor, position: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = _scale(pixels)
        if horizontal_flips:
            # Not the seed of the noise, which is below 2^31.
            flip_seed = tf.stack([tf.constant(2**31 + seed, tf.int64), position])
            mirrored = tf.random.stateless_uniform((batch_size, 1, 1, 1), flip_seed) < 0.5
            batch = tf.where(mirrored, tf.reverse(batch, [2]), batch)
        return {"images": batch, "epsilon": noise(seed, position, (batch_size, latent_size))}

    return (
        tf.data.Dataset.zip(batches, positions)
        .skip(skip)
        .prefetch(2)
        # Not ahead of time: as floats, a batch takes four times the memory.
        .map(with_noise)
        .apply(tf.data.experimental.assert_cardinality(steps - skip))
    )
