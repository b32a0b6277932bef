"""Shared by all tests: a quiet TensorFlow, a small data set in CelebA's layout, and stages."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores: more threads would only wait for each other.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from helpers import PROJECT, run_stage, write_params, write_shards

from facevae.common.parameters import Parameters, load_parameters
from facevae.data.synthetic import synthesize

# The same examples on any machine, but for constants: Hypothesis takes some from those of the
# project's modules that the process has loaded so far.
hypothesis.settings.register_profile(
    "project", derandomize=True, database=None, deadline=None, max_examples=200
)
hypothesis.settings.load_profile("project")


# The files that take longest, the longest first: all processes have work to the end. test_use and
# test_sharing wait for the run that test_pipeline begins.
_FIRST = (
    "test_pipeline", "test_distributed", "test_resume", "test_ledger", "test_use", "test_sharing",
    "test_training", "test_faults", "test_page", "test_host", "test_attributes", "test_networks",
    "test_step", "test_cluster", "test_evaluation",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> tuple[bool, int]:
        stem = item.path.stem
        place = _FIRST.index(stem) if stem in _FIRST else len(_FIRST)
        return item.get_closest_marker("slow") is None, place

    items.sort(key=rank)


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
    write_shards(source, folder)
    return folder


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a stage in this process, in `tmp_path`: its exit status, 0 if it has none.

    Sections of params.yaml are given what is to differ from the project's: `train={"epochs": 1}`.
    """

    def run(name: str, *arguments: str, **changes: dict[str, Any]) -> int:
        write_params(tmp_path, **changes)
        monkeypatch.chdir(tmp_path)
        return run_stage(name, *arguments)

    return run


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
