"""What benchmarks and studies share: settings for stages, ratios, tables; what peers can import."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import project_parameters, ratio, table, write_parameters
from facevae.common.parameters import load_parameters
from studies.harness import place
from studies.rows import Origin


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


def test_candidates_share_a_training_only_if_it_is_the_same(tmp_path: Path) -> None:
    settings, origin = {"loss.kl_weight": 0.5}, Origin("commit", "code", "images", "device")

    def with_origin(**changes: str) -> Path:
        return place(tmp_path, settings, 1, dataclasses.replace(origin, **changes))

    first = with_origin()
    assert place(tmp_path, {**settings, "generate.prior": "normal"}, 1, origin) == first
    assert with_origin(commit="another, of a document") == first
    others = [
        place(tmp_path, {"loss.kl_weight": 0.6}, 1, origin),
        place(tmp_path, settings, 2, origin),
        *(with_origin(**{name: "another"}) for name in ("digest", "images", "device")),
    ]
    assert len({first, *others}) == 6
