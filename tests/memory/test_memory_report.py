"""The memory stage: its outputs, and the numbers in its report."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facevae.common.parameters import VARIANTS, Parameters
from facevae.memory.capacity import break_even
from facevae.memory.ledger import encoder_parameters, ledger
from facevae.memory.report import memory_markdown, memory_rows
from facevae.model.vae import VAE


@pytest.mark.parametrize("variant", VARIANTS)
def test_encoder_parameters_are_those_that_keras_counts(
    parameters: Parameters, variant: str
) -> None:
    setting = parameters.with_changes(
        {
            "encoder.filters": [5, 7],
            "encoder.kernel_sizes": [3, 5],
            "encoder.strides": [2, 3],
            "encoder.latent_size": 11,
            "encoder.inter_dense": 13,
            "data.image_size": 24,
        },
    )
    setting = setting.variant(variant)
    vae = VAE(
        setting.encoder,
        setting.decoder,
        setting.loss,
        image_size=24,
        precision="float32",
        seed=0,
    )
    assert encoder_parameters(setting) == vae.encoder.count_params()


def test_limits_of_the_data_do_not_limit_the_table(parameters: Parameters) -> None:
    """It has batches that are larger than what data.limit leaves."""
    limited = parameters.with_changes({"data.limit.train": 100})
    assert memory_rows(limited) == memory_rows(parameters)


def test_break_even_is_the_last_that_saves_weights(parameters: Parameters) -> None:
    assert break_even(parameters) == 485  # 512 * 9216 / (9216 + 512 + 1) = 485.003
    for latent, image in ((1, 16), (8, 32), (512, 96)):
        setting = parameters.with_changes({"encoder.latent_size": latent, "data.image_size": image})
        without = ledger(setting.variant("direct")).weights
        last = break_even(setting)
        for units, saves in ((last, True), (last + 1, False)):
            with_layer = setting.with_changes({"encoder.inter_dense": units})
            if units:
                weights = ledger(with_layer.variant("inter_dense")).weights
                assert (weights < without) == saves


def _stage(project: Path, folder: Path) -> list[Path]:
    names = ("memory.csv", "memory.md", "memory_by_batch.svg", "memory_by_inter_dense.svg")
    command = [sys.executable, str(project / "stages" / "memory.py"), "--reports", str(folder)]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in folder.iterdir()} == set(names)
    return [folder / name for name in names]


@pytest.mark.slow
def test_memory_stage_writes_the_same_bytes_twice(
    project: Path, tmp_path: Path, parameters: Parameters
) -> None:
    first, second = (_stage(project, tmp_path / name) for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()

    table, text, *pictures = first
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["variant"], int(row["batch_size"])) for row in rows] == [
        (variant, size) for size in (32, 64, 128, 256, 512, 1024) for variant in VARIANTS
    ]
    for row in rows:
        setting = parameters.with_changes({"train.batch_size": int(row["batch_size"])})
        peak = ledger(setting.variant(row["variant"])).peak
        assert float(row["peak_mib"]) == pytest.approx(peak / 2**20, abs=0.005)

    report_text = text.read_text(encoding="utf-8")
    assert report_text == memory_markdown(parameters)
    assert "up to 485 units" in report_text
    for picture in pictures:
        drawing = picture.read_text(encoding="utf-8")
        # No version, no time; and other colours for a dark page, of what is drawn.
        assert "Matplotlib" not in drawing
        assert "<dc:date>" not in drawing
        dark = re.findall(r'\[style\*="((?:fill|stroke): #\w+)"\]', drawing)
        assert {"fill: #ffffff", "stroke: #000000", "fill: #0072b2"} <= set(dark)
        assert any(f'style="{colour}' in drawing for colour in dark)
