"""The memory stage, alone and with its report's numbers."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from facevae.common.parameters import VARIANTS, Parameters
from facevae.memory.capacity import inter_dense_units, variant_ledger
from facevae.memory.changes import changed
from facevae.memory.ledger import encoder_parameters
from facevae.memory.report import break_even, memory_markdown
from facevae.model.vae import build_vae


@pytest.mark.parametrize("variant", VARIANTS)
def test_encoder_parameters_are_those_that_keras_counts(
    parameters: Parameters, variant: str
) -> None:
    setting = changed(
        parameters,
        {
            "encoder.filters": [5, 7],
            "encoder.kernel_sizes": [3, 5],
            "encoder.strides": [2, 3],
            "encoder.latent_size": 11,
            "encoder.inter_dense": 13,
            "data.image_size": 24,
        },
    )
    units = inter_dense_units(setting, variant)
    vae = build_vae(setting.encoder, setting.loss, image_size=24, inter_dense=units)
    count = encoder_parameters(setting.encoder, image_size=24, inter_dense=units)
    assert count == vae.encoder.count_params()


def test_break_even_is_the_last_that_saves_weights(parameters: Parameters) -> None:
    assert break_even(parameters) == 485  # 512 * 9216 / (9216 + 512 + 1) = 485.003
    for latent, image in ((1, 16), (8, 32), (512, 96)):
        setting = changed(parameters, {"encoder.latent_size": latent, "data.image_size": image})
        without = variant_ledger(setting, "direct").weights
        last = break_even(setting)
        for units, saves in ((last, True), (last + 1, False)):
            with_layer = changed(setting, {"encoder.inter_dense": units})
            if units:
                weights = variant_ledger(with_layer, "inter_dense").weights
                assert (weights < without) == saves


def _stage(project: Path, folder: Path) -> list[Path]:
    outputs = [folder / name for name in ("m.csv", "m.md", "batch.png", "units.png")]
    flags = ("--csv", "--markdown", "--by-batch", "--by-inter-dense")
    command = [sys.executable, str(project / "stages" / "memory.py")]
    for flag, output in zip(flags, outputs, strict=True):
        command += [flag, str(output)]
    done = subprocess.run(command, cwd=project, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return outputs


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
        setting = changed(parameters, {"train.batch_size": int(row["batch_size"])})
        peak = variant_ledger(setting, row["variant"]).peak
        assert float(row["peak_mib"]) == pytest.approx(peak / 2**20, abs=0.005)

    report_text = text.read_text(encoding="utf-8")
    assert report_text == memory_markdown(parameters)
    assert "up to 485 units" in report_text
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width == 1200
            assert set(image.info) == {"dpi"}
