"""Shared by all tests: a quiet TensorFlow and a small data set in CelebA's layout."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path

import pytest

from facevae.parameters import Parameters, load_parameters
from facevae.preparation import ImageSettings, prepare
from facevae.synthetic import synthesize

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="session")
def parameters() -> Parameters:
    """The project's own."""
    return load_parameters(PROJECT / "params.yaml")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawn faces: 48 train, 6 validation, 6 test."""
    folder = tmp_path_factory.mktemp("celeba") / "source"
    synthesize(folder, images=60, seed=3)
    return folder


@pytest.fixture(scope="session")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as 16x16 images, 20 to a shard."""
    folder = tmp_path_factory.mktemp("prepared") / "shards"
    limits = {"train": None, "validation": None, "test": None}
    prepare(source, folder, ImageSettings(148, "box", 16), limits=limits, images_per_shard=20)
    return folder
