"""Real CelebA images, where FACEVAE_CELEBA names a folder that has some."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import data_settings, make_vae, train_vae
from PIL import Image

from facevae.common.runtime import enable_determinism
from facevae.data.celeba import read_partition
from facevae.data.preparation import prepare
from facevae.shards.batches import Shards, load_images

_FOLDER = os.environ.get("FACEVAE_CELEBA", "")
pytestmark = pytest.mark.skipif(
    not (Path(_FOLDER) / "img_align_celeba.zip").is_file(),
    reason="FACEVAE_CELEBA does not name a folder with img_align_celeba.zip",
)


@pytest.fixture(scope="module")
def celeba() -> Path:
    return Path(_FOLDER)


@pytest.fixture(scope="module")
def prepared(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "shards"
    prepare(data_settings(celeba, image_size=32, images_per_shard=512), folder)
    return folder


def test_real_images_are_all_there(prepared: Path, celeba: Path) -> None:
    partition = read_partition(celeba / "list_eval_partition.txt")
    shards = Shards(prepared)
    assert shards.counts == {split: len(names) for split, names in partition.items()}
    last = partition["test"][-1].decode()
    with zipfile.ZipFile(celeba / "img_align_celeba.zip") as archive:
        whole = Image.open(io.BytesIO(archive.read(f"img_align_celeba/{last}")))
    expected = whole.crop((15, 35, 163, 183)).resize((32, 32), Image.Resampling.BOX)
    read = load_images(shards, "test")[-1]
    np.testing.assert_array_equal(np.round(read * 255), np.asarray(expected))


def test_real_images_have_their_labels(prepared: Path, celeba: Path) -> None:
    shards = Shards(prepared)
    _, header, *rows = (celeba / "list_attr_celeba.txt").read_text().splitlines()
    assert list(shards.attributes) == header.split()
    told = {name: values for name, *values in map(str.split, rows)}
    for split, names in read_partition(celeba / "list_eval_partition.txt").items():
        expected = [list(map(int, told[name.decode()])) for name in names.tolist()]
        np.testing.assert_array_equal(shards.labels(split), expected)


@pytest.mark.slow
def test_real_images_are_learned(prepared: Path) -> None:
    enable_determinism(1)
    shards = Shards(prepared)
    vae = make_vae(
        image_size=32, filters=[16, 32, 64], kernel_sizes=[3] * 3, strides=[2] * 3,
        latent_size=64, inter_dense=64, kl_weight=0.5,
    )  # fmt: skip
    train_vae(vae, prepared, batch_size=16, learning_rate=0.002)
    mean = load_images(shards, "train").mean(axis=0)
    test = load_images(shards, "test")
    collapsed = np.square(test - mean).sum((1, 2, 3)).mean()  # what the mean image would give
    outputs = vae(test)
    assert np.square(test - outputs["reconstructions"]).sum((1, 2, 3)).mean() < 0.5 * collapsed
    assert (np.var(outputs["mu"], axis=0) > 0.01).sum() > 30  # active units
