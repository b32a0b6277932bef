"""Sets of images that are too large to hold: read, decoded and measured in blocks."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import small_vae, write_shards

from facevae.common.errors import UserError
from facevae.evaluation import inputs as inputs_module
from facevae.evaluation import sliced_wasserstein as swd_module
from facevae.evaluation.attribute_classifier import AttributeClassifier
from facevae.evaluation.evaluate import evaluate
from facevae.evaluation.image_metrics import sharpness
from facevae.evaluation.inputs import Inputs, real_sets, sample_sets
from facevae.latent.generation import DecodedImages, decoded, mean_codes, prior_codes, samples
from facevae.shards.batches import Shards, StoredImages, load_images
from facevae.shards.blocks import blocks, images_at_once, one_by_one
from facevae.shards.subsets import random_subset


def test_a_random_subset_is_spread_over_the_split_and_always_the_same() -> None:
    numbers = random_subset(162_770, 20_000)
    np.testing.assert_array_equal(numbers, random_subset(162_770, 20_000))
    assert len(set(numbers.tolist())) == 20_000
    assert (np.diff(numbers) > 0).all()
    assert numbers[0] >= 0
    assert numbers[-1] < 162_770
    tenths = np.histogram(numbers, 10, (0, 162_770))[0]
    np.testing.assert_allclose(tenths, 2000, atol=5 * np.sqrt(2000))
    for most in (7, 8):  # the whole split
        np.testing.assert_array_equal(random_subset(7, most), np.arange(7))


def test_blocks_hold_as_many_pixels_whatever_the_size_of_the_images() -> None:
    assert [images_at_once(side, 64) for side in (8, 96, 97, 192, 512, 4096)] == [
        64, 64, 62, 16, 2, 1,
    ]  # fmt: skip
    assert list(blocks(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(blocks(0, 2)) == []


@pytest.mark.parametrize("record_format", ["raw", "png", "jpeg"])
def test_blocks_of_stored_images_are_those_of_the_split(
    source: Path, tmp_path: Path, record_format: str
) -> None:
    write_shards(source, tmp_path, record_format=record_format)
    shards = Shards(tmp_path)
    whole, stored = load_images(shards, "train"), StoredImages(shards, "train", range(48))
    assert stored.shape == whole.shape == (48, 16, 16, 3)
    order = np.random.default_rng(0).permutation(48)
    for chosen in (slice(None), slice(18, 23), slice(40, 99), order, order[:1]):
        np.testing.assert_array_equal(stored[chosen], whole[chosen])
    np.testing.assert_array_equal(list(one_by_one(stored, 7)), whole)
    # Twenty to a shard: the last of one, none of the next, and some of the last.
    for numbers in (range(21), np.array([0, 19, 40, 47]), np.array([45]), np.arange(0)):
        some = StoredImages(shards, "train", numbers)
        assert some.shape == (len(numbers), 16, 16, 3)
        if len(numbers):
            np.testing.assert_array_equal(some[:], whole[np.asarray(numbers)])
    with pytest.raises(IndexError, match="image 48 of the 48 of train"):
        StoredImages(shards, "train", [3, 48])


@pytest.mark.parametrize("place", [30, 2])
def test_bad_input_damaged_record_among_stored_images(
    shards: Path, tmp_path: Path, place: int
) -> None:
    """In an image, which is found when it is read; and in a length, found at once."""
    for path in shards.iterdir():
        content = bytearray(path.read_bytes())
        if path.name.startswith("test"):
            content[place] ^= 1
        (tmp_path / path.name).write_bytes(content)
    with pytest.raises(UserError, match=r"test-.*tfrecord: record 1 is damaged; write the shards"):
        StoredImages(Shards(tmp_path), "test", range(6))[:2]


def test_blocks_of_codes_are_decoded_when_they_are_asked_for() -> None:
    vae, counts = small_vae(), []
    codes = prior_codes(150, 4, seed=3)

    def decode(block: np.ndarray) -> np.ndarray:
        counts.append(len(block))
        return vae.decoder(block, training=False)

    made = DecodedImages(decode, codes, 16, at_once=64)
    assert made.shape == (150, 16, 16, 3)
    assert counts == []
    whole = np.asarray(vae.decoder(codes))
    np.testing.assert_allclose(made[:], whole, atol=1e-6)
    np.testing.assert_allclose(made[np.array([140, 3])], whole[[140, 3]], atol=1e-6)
    assert counts == [64, 64, 22, 2]
    np.testing.assert_array_equal(decoded(vae, codes)[:], samples(vae, 150, seed=3))
    expected = np.asarray(vae.encode(whole)[0])
    np.testing.assert_allclose(mean_codes(vae, whole), expected, atol=1e-6)


def test_evaluation_in_blocks_is_that_of_whole_sets(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, network = small_vae(reconstruction="gaussian"), AttributeClassifier(16, 20)
    inputs = Inputs(vae, Shards(shards), 4, None, network, None, False)

    def held() -> set[bool]:
        sets = real_sets(inputs)
        every = sets.real, sets.reference, *sample_sets(inputs, None, 6)
        return {isinstance(each, np.ndarray) for each in every}

    assert held() == {True}
    expected = evaluate(vae, Shards(shards), batch_size=4, attribute_classifier=network)
    for name in ("_HELD", "_HELD_SAMPLES"):
        monkeypatch.setattr(inputs_module, name, 0)
    monkeypatch.setattr(swd_module, "_HELD", 0)
    assert held() == {False}
    got = evaluate(vae, Shards(shards), batch_size=4, attribute_classifier=network)
    assert got == expected


def test_evaluation_compares_random_subsets_of_the_splits(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_module, "_MAX_SAMPLES", 4)
    sets = real_sets(Inputs(small_vae(), Shards(shards), 4, None, None, None, False))
    for found, split in ((sets.real, "test"), (sets.reference, "validation")):
        whole = load_images(Shards(shards), split)
        np.testing.assert_array_equal(found[:], whole[random_subset(6, 4)])
        assert not np.array_equal(found[:], whole[:4])


@pytest.mark.parametrize(
    ("side", "batch_size", "at_once"), [(96, 4096, 32), (96, 5, 5), (512, 4096, 1), (512, 1, 1)]
)
def test_evaluation_takes_no_more_at_once_for_a_training_on_many_devices(
    shards: Path, side: int, batch_size: int, at_once: int
) -> None:
    data = Shards(shards)
    data.image_size = side
    assert Inputs(small_vae(), data, batch_size, None, None, None, False).at_once == at_once


class _Noise:
    """60 images of 512 x 512: 189 MB if all were held."""

    shape = (60, 512, 512, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        count = len(np.arange(len(self))[chosen])
        return np.random.default_rng(0).random((count, *self.shape[1:]), np.float32)


def test_metric_of_large_images_holds_no_whole_set() -> None:
    tracemalloc.start()
    try:
        assert sharpness(_Noise()) > 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 * 2**20
