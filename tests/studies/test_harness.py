"""What benchmarks and studies share: settings for stages, ratios, tables; what peers can import."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import project_parameters, ratio, table, write_parameters
from facevae.common.parameters import load_parameters


@pytest.mark.parametrize("units", [0, 64])
def test_stages_read_the_settings_that_were_written(tmp_path: Path, units: int) -> None:
    changes = {
        "encoder.inter_dense": units,
        "encoder.strides": [2, 2, 2, 1],
        "train.learning_rate": 1e-7,
        "loss.sigma": 0.1,
    }
    parameters, file = project_parameters(changes), tmp_path / "params.yaml"
    variant = write_parameters(parameters, file)
    assert load_parameters(file).variant(variant) == parameters


def test_peers_can_import_the_harness_without_any_package(project: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(project)!r}); import benchmarks.harness"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_ratio_is_taken_round_by_round() -> None:
    # A machine that is twice as slow in every other round.
    assert ratio([3.0, 6.0, 3.0, 6.0], [2.0, 4.0, 2.0, 4.0]) == (1.5, 1.5, 1.5)


def test_table_has_words_on_the_left_and_numbers_on_the_right() -> None:
    lines = table(["loss", "samples from", "PSNR, dB"], [("mse", "normal", "20.1")], text=2)
    assert list(lines) == [
        "| loss | samples from | PSNR, dB |",
        "| --- | --- | ---: |",
        "| mse | normal | 20.1 |",
    ]
