"""What the studies' reports say of rows that are made up here, and their statistics."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import small_vae

from benchmarks.harness import FACES
from studies import (
    decoder,
    extra_layer,
    extra_layer_pilot,
    harness,
    kl_weight,
    losses,
    memory_options,
    published,
)
from studies.harness import REPORTS, Results, Study, Title, dvc_command, find_results
from studies.losses import COLUMNS, DEFAULT, FLOOR, PUBLISHED, PYTHAE
from studies.rows import Origin, Row, append_row, settings_text

ORIGIN = Origin("0123abc", "c0de", "face", "CPU")
Metrics = Mapping[str, float]


def _results(study: Study, found: Mapping[tuple[Title, int], Metrics], file: Path) -> Results:
    """Through a file."""
    settings = study.settings({}, real=True)
    for (title, seed), metrics in found.items():
        append_row(file, Row(study.name, settings_text(settings[title]), seed, ORIGIN, metrics))
    return find_results(study, settings, file)


BEST = {"bits_per_dimension": 6.0, "psnr": 21.0, "swd": 200.0, "frechet_distance": 3.0}
WORSE = {"bits_per_dimension": 7.0, "psnr": 20.0, "swd": 300.0, "frechet_distance": 9.0}
OTHERS = {"kl": 1234.5, "precision": 0.5, "recall": 0.5, "sharpness": 0.5}
BOLD = (DEFAULT, "gaussian")


@pytest.fixture
def rivals() -> dict[tuple[Title, int], dict[str, float]]:
    """The default ahead of all, with rows of two seeds."""
    found = {(title, 1): {**WORSE, **OTHERS} for title in losses.CANDIDATES}
    found[BOLD, 1] = {**BEST, **OTHERS, "psnr": 20.5}
    found[BOLD, 2] = {**BEST, **OTHERS, "psnr": 21.5, "recall": 0.9}
    found[FLOOR, 1] = {
        "swd": 30.0, "frechet_distance": 1.0, "precision": 0.6, "recall": 1.0, "sharpness": 1.1
    }  # fmt: skip
    return found


def test_metric_words_count_where_the_default_is_ahead(rivals, tmp_path: Path) -> None:
    lines = losses.in_words(_results(losses.STUDY, rivals, tmp_path / "all.csv"), BOLD[1])
    assert len(lines) == len(PUBLISHED)
    assert lines[-1] == (
        f"- Ahead of {PYTHAE[0]} in 4 of 4: bits per dimension 6.000 to 7.000, PSNR, dB 21.00 to "
        "20.00, SWD 200 to 300, Frechet distance 3.00 to 9.00."
    )
    # A rival is taken as published, with samples of N(0, I).
    rivals[PYTHAE, 1] |= {"psnr": 21.5, "swd": 199.0}
    rivals[(PUBLISHED[0], BOLD[1]), 1]["frechet_distance"] = 1.0
    lines = losses.in_words(_results(losses.STUDY, rivals, tmp_path / "two.csv"), BOLD[1])
    assert lines[0].startswith(f"- Ahead of {PUBLISHED[0]} in 4 of 4: ")
    assert lines[-1].startswith(f"- Ahead of {PYTHAE[0]} in 2 of 4: ")


def test_metric_report_has_means_and_the_best_in_bold(rivals, tmp_path: Path) -> None:
    text = "\n".join(losses.report(_results(losses.STUDY, rivals, tmp_path / "rows.csv")))
    assert (
        f"| **{DEFAULT}** | **gaussian** | **6.000** | 1,234 | **21.00** | **200** | **3.00** "
        "| **0.50** | **0.70** | **0.500** | 2 |"
    ) in text
    # The floor is no candidate: nothing of it is the best.
    assert f"| {FLOOR[0]} | the test split |  |  |  | 30 | 1.00 | 0.60 | 1.00 | 1.100 | 1 |" in text
    titles = " | ".join(column.title for column in COLUMNS)
    assert f"| loss | samples from | {titles} | seeds |" in text


def test_report_of_kl_weights_has_both_priors_in_a_cell(tmp_path: Path) -> None:
    metrics = {
        "weight": 0.0, "mu_deviation.mean": 1.0, "mu_deviation.largest": 1.5, "sigma": 0.5,
        "radius": 16.0,
        "kl": 2000.0, "psnr": 20.0, "normal.frechet_distance": 30.0, "normal.swd": 500.0,
        "gaussian.frechet_distance": 4.0, "gaussian.swd": 270.0,
    }  # fmt: skip
    found = {(title, 1): metrics for title in kl_weight.CANDIDATES}
    results = _results(kl_weight.STUDY, found, tmp_path / "rows.csv")
    text = "\n".join(kl_weight.report(results))
    line = "0.000 | 1.00, 1.50 | 0.500 | 16.0 | 2,000 | 20.00 | 30.0, 4.0 | 500, 270 | 1 |"
    assert f"| plain autoencoder | {line}" in text
    kl_weight.save_pictures(results, tmp_path, tmp_path)  # their models are not here
    assert [path.name for path in tmp_path.glob("*.png")] == []


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ({"reconstruction": "mse", "kl_weight": 0.06}, 0.06),
        ({"reconstruction": "mse", "kl_weight": 0.0}, 0.0),
        # ||x - x'||^2 / (2 * 0.01) + 3 KL, times 0.02.
        ({"reconstruction": "gaussian", "sigma": 0.1, "kl_weight": 3.0}, 0.06),
    ],
)
def test_kl_weights_are_those_beside_a_squared_error(
    settings: Mapping[str, Any], weight: float
) -> None:
    assert kl_weight.weight_beside_squared_error(small_vae(**settings)) == pytest.approx(weight)


def test_report_of_memory_options_compares_peaks_with_the_defaults(tmp_path: Path) -> None:
    def metrics(peak: float, loss: float) -> Metrics:
        speed = {f"speed.{name}": 0.8 for name in ("median", "lower_quartile", "upper_quartile")}
        both = {"peak.estimated_mib": peak, "peak.measured_mib": peak + 10.0}
        return {**both, **speed, "validation.loss": loss}

    parts: Title = ("batch in 4 parts",)
    found = {
        (memory_options.DEFAULT, 1): metrics(390.0, 200.0),
        (parts, 1): metrics(190.0, 201.0),
        (parts, 2): metrics(190.0, 202.5),
    }
    results = _results(memory_options.STUDY, found, tmp_path / "rows.csv")
    text = "\n".join(memory_options.report(results))
    assert f"| {parts[0]} | 190 | 200 | 0.50 | 0.80 (0.80 to 0.80) | 201.0, 202.5 |" in text


def test_command_of_a_candidate_sets_what_differs() -> None:
    settings = {"encoder.filters": [32, 64], "train.optimizer": "sgd", "synthesize.images": 40}
    assert dvc_command(settings) == (
        "dvc exp run -S data.source=/path/to/the/images -S 'encoder.filters=[32, 64]' "
        "-S train.optimizer=sgd"
    )


@pytest.mark.parametrize(
    "study",
    [
        each.STUDY
        for each in (decoder, extra_layer, extra_layer_pilot, kl_weight, losses, published)
    ],
    ids=lambda study: study.name,
)
def test_committed_report_is_that_of_its_rows(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone can write it again without the images."""
    shutil.copy(REPORTS / f"{study.name}.csv", tmp_path)
    monkeypatch.delenv(FACES, raising=False)
    folders = ["--reports", str(tmp_path), "--folder", str(tmp_path / "models")]
    monkeypatch.setattr(sys, "argv", ["study", "--report", *folders])
    harness.main(study, "")
    written, committed = (folder / study.report_file for folder in (tmp_path, REPORTS))
    assert written.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8")
