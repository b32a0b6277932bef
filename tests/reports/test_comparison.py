"""The report's arithmetic, against numbers worked out by hand."""

import csv
import io
import re

import pytest
from example_metrics import example_metrics

from facevae.common.parameters import VARIANTS, Parameters
from facevae.memory.ledger import ledger
from facevae.memory.report import memory_rows
from facevae.reports.comparison import comparison_csv, comparison_markdown, comparison_rows

TRAIN_IMAGES = 3300


def _report(parameters: Parameters, direct: dict, dense: dict) -> str:
    """The report without the blanks that align its tables."""
    rows = comparison_rows(parameters, direct, dense, TRAIN_IMAGES)
    return re.sub(" +", " ", comparison_markdown(parameters, rows, direct, dense))


@pytest.fixture
def direct() -> dict:
    return example_metrics(5_109_440, 20.25, 1500.0, 176.0)


@pytest.fixture
def dense() -> dict:
    return example_metrics(2_881_472, 20.125, 1470.0, None)


def test_differences_are_with_minus_without(
    parameters: Parameters, direct: dict, dense: dict
) -> None:
    table = comparison_rows(parameters, direct, dense, TRAIN_IMAGES)
    rows = {row["key"]: row for row in table}
    assert rows["encoder.params"]["difference"] == -2_227_968
    assert rows["test.psnr"]["difference"] == -0.125
    assert rows["cost.peak_memory_mib"]["difference"] == -30
    assert rows["cost.images_per_second_double_batch"]["difference"] is None
    # 3300 images are 25 whole batches of 128, at 160 images per second.
    assert rows["cost.seconds_per_epoch"]["direct"] == 20
    read = csv.DictReader(io.StringIO(comparison_csv(list(rows.values()))))
    cells = {row["key"]: row for row in read}
    assert cells["encoder.params"]["direct"] == "5109440"
    assert cells["encoder.params"]["direct_spread"] == ""
    assert cells["samples_normal.frechet_distance"]["inter_dense_spread"] == "0.75"
    assert cells["cost.images_per_second_double_batch"]["inter_dense"] == ""


def test_claims_stand_beside_what_was_measured(
    parameters: Parameters, direct: dict, dense: dict
) -> None:
    report = _report(parameters, direct, dense)
    assert "removes 2,227,968 weights" in report
    assert "up to 485 units" in report  # 512 * 9216 / (9216 + 512 + 1) = 485.003
    assert "on a device: 1,500 MiB without the layer, 1,470 MiB with it: it saves 30 MiB" in report
    assert "20.0 s per epoch without the layer, 20.0 s with it (training steps alone)" in report
    assert "| seconds per epoch (training steps alone) | 20.0 | 20.0 | +0.0 |" in report
    assert "without the layer 1.10 times" in report
    assert "with it not measured, because the memory is too small" in report
    assert "| test PSNR of reconstructions, dB | 20.25 | 20.12 | -0.12 |" in report
    assert "| test SSIM of reconstructions | 0.7500 | 0.7500 | +0.0000 |" in report
    assert "| test MS-SSIM of reconstructions | not measured | not measured |" in report
    assert "| test ELBO under N(0, I), bits per dimension | 8.5000 | 8.5000 | +0.0000 |" in report
    assert "ELBO under the prior of samples, bits per dimension | 8.2500 | 8.2500 |" in report
    assert "| of it: the rate, the KL to the prior of samples, nats | 40.00 | 40.00 |" in report
    assert "| of it: the mismatch of all codes to N(0, I), nats | not measured |" in report
    assert "| test KL of the largest latent unit, nats | 1.5000 |" in report
    frechet = "| Frechet distance, attribute features: "
    assert f"{frechet}samples | 3.500 | 3.500 | +0.000 | 0.250, 0.250 |" in report
    assert f"{frechet}samples from N(0, I) | 9.500 | 9.500 | +0.000 | 0.750, 0.750 |" in report
    assert f"{frechet}other real images | 3.500 | 3.500 | +0.000 | |" in report
    assert "| recall, attribute features: other real images | 0.750 |" in report
    unmeasured = "not measured | not measured | not measured | |"
    assert f"| FID, Keras' Inception: samples | {unmeasured}" in report
    assert "| sliced Wasserstein distance: samples | 150.0 | 150.0 | +0.0 | 2.5, 2.5 |" in report
    assert f"Wasserstein distance, real normalisation: samples | {unmeasured}" in report
    assert "| sharpness relative to real images: samples | 0.250 | 0.248 | -0.002 |" in report
    assert "| MS-SSIM between images of a set: other real images | 0.250 |" in report
    assert "samples from N(0, I), as in the post, 9.50 without the layer, 9.50 with it" in report
    # How far one training can be off stands above the table.
    above, _ = report.split("| direct | inter_dense |", 1)
    assert "A difference in this table may be chance: each variant was trained once" in above
    assert "means over 5 draws of 450 images each, from the prior `" in above
    assert "| images per second at twice the batch | 176 | not measured | not measured |" in report

    report = _report(parameters, dense, direct)
    assert "adds 2,227,968 weights" in report
    assert "it costs 30 MiB" in report


def test_estimated_peaks_are_those_of_the_memory_report(
    parameters: Parameters, direct: dict, dense: dict
) -> None:
    parameters = parameters.with_changes({"train.batch_size": 32})
    report = _report(parameters, direct, dense)
    pattern = r"step at batch 32: ([\d.]+) MiB without .*?, ([\d.]+) MiB with .*? ([\d.]+) MiB\."
    found = re.search(pattern, report)
    assert found
    # A weight and both moments of Adam are alive at the peak; its gradient is not.
    assert float(found[3]) == pytest.approx(2_227_968 * 12 / 2**20, abs=0.1)
    peaks = {row["variant"]: row["peak_mib"] for row in memory_rows(parameters)[:2]}
    for text, variant in zip(found.groups(), VARIANTS, strict=False):
        assert float(text) == pytest.approx(peaks[variant], abs=0.051)
    assert f"estimated, MiB | {found[1]} | {found[2]} | -{found[3]} |" in report

    train = parameters.train.model_copy(update={"optimizer": "sgd", "batch_size": 128})
    leaner = parameters.model_copy(update={"train": train})
    without, with_layer = (ledger(leaner.variant(variant)).peak for variant in VARIANTS)
    saved = f"it saves {(without - with_layer) / 2**20:.1f} MiB"
    assert saved in _report(leaner, direct, dense)


def test_a_bar_in_a_parameter_ends_no_cell(
    parameters: Parameters, direct: dict, dense: dict
) -> None:
    data = parameters.data.model_copy(update={"source": "faces|here"})
    parameters = parameters.model_copy(update={"data": data})
    report = _report(parameters, direct, dense)
    assert r"| `data.source` | faces\|here |" in report
