"""The sweep's table: intervals, and what it says in words of differences that were put in."""

import pytest
import scipy.stats

from sweep import DIRECT, PARAMETERS, QUANTITIES, UNITS, Found, differences, interval, report

SEEDS = (1, 2, 3)


def test_metric_interval_is_students() -> None:
    values = [0.3, -0.1, 0.4, 0.25]
    mean, half = interval(values)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)


def _found(psnr_gap: float) -> dict[str, Found]:
    seeds = [0.7, -0.4, 0.1]  # moves all of a seed's models alike
    jitter = [0.01, -0.02, 0.01]
    found = {}
    for units in (DIRECT, *map(str, UNITS)):
        layer = units != DIRECT
        found[units] = {
            quantity.key: [
                20.0 + s + (j if layer else 0.0) for s, j in zip(seeds, jitter, strict=True)
            ]
            for quantity in QUANTITIES
        }
        found[units][PARAMETERS] = [100.0 if layer else 300.0] * len(SEEDS)
        if layer:
            found[units]["test.psnr"] = [value + psnr_gap for value in found[units]["test.psnr"]]
    return found


def test_metric_difference_pairs_seeds() -> None:
    mean, half = differences(_found(-0.5), "64", "test.psnr")
    assert mean == pytest.approx(-0.5)
    assert half < 0.05  # not the 0.5 and more by which seeds differ


def test_metric_report_tells_what_is_beyond_its_interval() -> None:
    text = report(_found(-0.5), SEEDS, ["train.epochs=2"])
    assert "- 64 units change PSNR, dB by -0.50 ± 0.04. Not told from 0: SSIM, bits" in text
    assert "| 64 | -200 | -0.50 ± 0.04 |" in text
    assert "-S encoder.inter_dense=64 -S train.seed=1 -S train.epochs=2" in text
    assert "- 64 units change nothing. Not told from 0: PSNR" in report(_found(0.0), SEEDS, [])
